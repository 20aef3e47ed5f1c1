"""The form of a fitted net in a file of skops, which has none for tensors: a file of ``save``, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class NetForm:
    """Stands for the net in the state of an estimator.

    Pickle and ``copy`` ask for ``__reduce_ex__``, and get the net itself. skops asks for ``__reduce__``, and
    writes the arguments of the constructor that it names: bytes without code in them.

    Parameters
    ----------
    data : bytes
        The content of a file of ``save``; b"" beside a net.
    net : net or None, default=None
    write : callable or None, default=None
        Returns the bytes for the net.
    """

    def __init__(self, data: bytes, net: Any = None, write: Callable[[], bytes] | None = None):
        self.data, self.net, self._write = data, net, write

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _same, (self.net,)

    def __reduce__(self) -> Any:
        return NetForm, (self.data if self._write is None else self._write(),)


def _same(net: Any) -> Any:
    return net
