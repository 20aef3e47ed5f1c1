"""Find the callbacks for which a call does something."""

from __future__ import annotations

from collections.abc import Iterable

from skorch.callbacks import Callback, EpochScoring, PrintLog


def listeners(callbacks: Iterable[Callback], method_name: str, *, verbose: bool) -> list[Callback]:
    """Return the callbacks that override a method, in order.

    skorch's table of epochs is left out if nothing is printed, because it would be built anyway.
    """
    return [callback for callback in callbacks if _listens(callback, method_name, verbose)]


def _listens(callback: Callback, method_name: str, verbose: bool) -> bool:
    if type(callback) is PrintLog and callback.sink is print and not verbose:
        return False
    own = getattr(type(callback), method_name, None)
    inherited = own is not None and own is getattr(Callback, method_name, None)
    return not inherited or method_name in vars(callback)


def reads_losses(callback: Callback) -> bool:
    """Return whether a callback may look at the losses of an epoch before it ends."""
    return not isinstance(callback, EpochScoring) and getattr(callback, "reads_losses", True)
