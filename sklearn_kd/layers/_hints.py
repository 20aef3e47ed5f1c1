"""Sentences that several messages about layers share."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn_kd.layers._tokens import MOST_OTHERS
from sklearn_kd.layers._trace import FeatureMap, Trace

# More names than this are not listed in a message.
_MOST = 20


def table_hint(name: str) -> str:
    """Return a hint for messages about the parameter ``name``: how to list the layers."""
    whose = name.removesuffix("_layers") if name.endswith("_layers") else "network"
    return f"layer_table({whose}, X[:2]) lists them."


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, or "none"."""
    return f"{list(names[:_MOST])}{' ...' if len(names) > _MOST else ''}" if names else "none"


def unsure_message(layer: str, found: FeatureMap | None, trace: Trace, argument: str) -> str:
    """Return why the order of a map's axes is not known, and how to state it."""
    shape = None if found is None else found.shape
    if shape is not None and len(shape) == 3:
        return (
            f"layer {layer!r} of {type(trace.named).__name__} gives shape {shape}, of which it cannot be "
            "told whether it is tokens (n, N, C) that are a grid of patches. If it is, say it in the name, "
            f"{argument}=['{layer}:tokens', ...], of patches of a square image behind at most {MOST_OTHERS} "
            f"other tokens, or with their height and width ':tokens=7x14'; {table_hint(argument)}"
        )
    return (
        f"layer {layer!r} of {type(trace.named).__name__} gives shape {shape}, of which it cannot be told "
        f"whether the channels come first or last. Say it in the name, {argument}=['{layer}:nchw', ...] for "
        f"(n, channels, height, width) or ':nhwc' for (n, height, width, channels), or name other layers; "
        f"{table_hint(argument)}"
    )
