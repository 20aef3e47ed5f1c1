"""Parse names of layers.

A layer is named by the path of a module in ``named_modules()``. ``"layer2"`` means the output of that module
and ``"layer2:input"`` its input. ``"relu#2"`` means the output of its second call in a forward pass. At the
end, ``":nhwc"`` says that the channels come last, and ``":nchw"`` that they come first. ``":rows"`` selects
the tensor of two dimensions, (n, D). ``":tokens"`` selects the tensor of three dimensions, (n, N, C), whose
last tokens are a square grid of patches; ``":tokens=7x14"`` states the height and width of the grid. If a
module's own path is ``"relu#2"``, that name means the module, and ``"relu#02"`` the call.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

from torch import nn

_SYNTAX = re.compile(
    r"(?P<path>.+?)(#(?P<number>0*[1-9]\d*))?(?P<input>:input)?"
    r"(:(?P<order>nchw|nhwc|rows|tokens)((?<=tokens)=(?P<height>[1-9]\d*)x(?P<width>[1-9]\d*))?)?"
)


def named_network(network: nn.Module) -> nn.Module:
    """Return the module whose paths name the layers: the network, or its ``named_network``.

    The library's wrappers have an attribute ``named_network``, the network inside.
    """
    return getattr(network, "named_network", network)


class LayerName(NamedTuple):
    """A parsed layer name.

    Attributes
    ----------
    path : str
        Path of the module.
    number : int or None
        Number of the call, from 1. None: the name has no number and means the last call.
    of_input : bool
        True for the input of the module, False for its output.
    order : "nchw", "nhwc", "rows", "tokens" or None
        Order of the axes stated by the name. "rows": (n, D). "tokens": (n, N, C).
    grid : tuple of (int, int) or None
        Height and width of the grid of tokens, if the name states them.
    """

    path: str
    number: int | None = None
    of_input: bool = False
    order: str | None = None
    grid: tuple[int, int] | None = None

    @classmethod
    def parse(cls, name: str, paths: Container[str]) -> LayerName:
        """Parse a name, given the paths of all modules of the network."""
        found = None if name in paths else _SYNTAX.fullmatch(name)
        if found is None:
            return cls(name)
        path, number = found["path"], found["number"]
        if number is not None and f"{path}#{number}" in paths:  # a module's own name ends like this
            path, number = f"{path}#{number}", None
        grid = None if found["height"] is None else (int(found["height"]), int(found["width"]))
        call = None if number is None else int(number)
        return cls(path, call, found["input"] is not None, found["order"], grid)
