"""Sentences shared by messages about layers."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn_kd.layers._tokens import MOST_OTHERS
from sklearn_kd.layers._trace import FeatureMap, Trace

# Most names to list in a message.
_MOST = 20


def table_hint(name: str) -> str:
    """Return a hint on how to list the layers, for messages about the parameter ``name``."""
    whose = name.removesuffix("_layers") if name.endswith("_layers") else "network"
    return f"layer_table({whose}, X[:2]) lists them."


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, or "none"."""
    return f"{list(names[:_MOST])}{' ...' if len(names) > _MOST else ''}" if names else "none"


def unsure_message(layer: str, found: FeatureMap | None, trace: Trace, argument: str) -> str:
    """Explain in a message why the order of a map's axes is unknown, and how to state it."""
    shape = None if found is None else found.shape
    if shape is not None and len(shape) == 3:
        return (
            f"layer {layer!r} of {type(trace.named).__name__} gives shape {shape}, which may or may not be "
            "tokens (n, N, C) that are a grid of patches. If it is, say so in the name: "
            f"{argument}=['{layer}:tokens', ...] for patches of a square image after at most {MOST_OTHERS} "
            f"other tokens, or ':tokens=7x14' with their height and width; {table_hint(argument)}"
        )
    return (
        f"layer {layer!r} of {type(trace.named).__name__} gives shape {shape}, which does not show "
        f"whether the channels come first or last. Say so in the name, {argument}=['{layer}:nchw', ...] for "
        f"(n, channels, height, width) or ':nhwc' for (n, height, width, channels), or name other layers; "
        f"{table_hint(argument)}"
    )
