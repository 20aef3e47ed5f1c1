"""torch's global generators: read, set, and put back as they were.

Modules draw their initial weights and dropout masks from torch's global generators.
``fit`` seeds those, and a hypergradient replays a forward pass with the same masks; both
leave the generators as they found them. Meanwhile no other thread does either.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor

from sklearn_kd._turns import turn


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that a module on ``device`` draws from.

    A CUDA graph is captured without that of the device, which it could not replay.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo every draw made since ``state`` was read by :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def preserved_random_state(device: torch.device, seed: int | None = None):
    """Put the generators back on leaving; with ``seed``, start from it inside. A turn of this thread."""
    with turn():
        state = random_state(device)
        try:
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            set_random_state(state, device)
