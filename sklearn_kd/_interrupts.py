"""Whether a fit was interrupted, or ended by one of its callbacks: skorch has one exception for both."""

from __future__ import annotations

import dis


def from_outside(interrupt: KeyboardInterrupt) -> bool:
    """Whether Ctrl-C raised it, and not a ``raise`` in a callback or in this library."""
    trace = interrupt.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    instruction = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    return dis.opname[instruction] != "RAISE_VARARGS"
