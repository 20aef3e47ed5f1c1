"""A fitted net in a file of skops, which cannot hold tensors: stored as the bytes of a ``save`` file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class NetForm:
    """Placeholder for the net in the state of an estimator.

    Pickle and ``copy`` call ``__reduce_ex__`` and get the net itself. skops calls ``__reduce__`` and writes
    the arguments of the constructor that it names: bytes that contain no code.

    Parameters
    ----------
    data : bytes
        The content of a file written by ``save``, or b"" if ``net`` is given.
    net : net or None, default=None
    write : callable or None, default=None
        Function that returns the bytes for the net.
    """

    def __init__(self, data: bytes, net: Any = None, write: Callable[[], bytes] | None = None):
        self.data, self.net, self._write = data, net, write

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _same, (self.net,)

    def __reduce__(self) -> Any:
        return NetForm, (self.data if self._write is None else self._write(),)


def _same(net: Any) -> Any:
    return net
