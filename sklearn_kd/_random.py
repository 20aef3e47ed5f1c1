"""Global generators: read, set, and put back as they were.

Modules draw their initial weights and dropout masks from torch's global generators, and a user's
``augment`` or ``forward`` may draw from NumPy's and Python's. ``fit`` seeds all of them, and a
hypergradient replays a forward pass with the same masks; both leave the generators as they found
them. Meanwhile no other thread does either.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
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
def preserved_torch_state(device: torch.device) -> Iterator[None]:
    """Put torch's generators back on leaving: in a tenth of the time that all take. A turn of this thread."""
    with turn():
        state = random_state(device)
        try:
            yield
        finally:
            set_random_state(state, device)


@contextmanager
def preserved_random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Put all generators back on leaving; with ``seed``, start from it inside. A turn of this thread."""
    with preserved_torch_state(device):
        # The global one, which the user's code draws from; ours has generators of its own.
        of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
        try:
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                random.seed(seed)
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


class _SharedSeed:
    """torch's generators seeded where no turn can be held, since other threads are waited for.

    The first who comes in remembers how they were, and the last one puts them back.
    """

    def __init__(self):
        self._n_inside = 0
        self._before: dict[str, Tensor] = {}

    @contextmanager
    def __call__(self, device: torch.device, seed: int) -> Iterator[None]:
        with turn():
            if not self._n_inside:
                self._before = random_state(device)
            self._n_inside += 1
            torch.manual_seed(seed)
        try:
            yield
        finally:
            with turn():
                self._n_inside -= 1
                if not self._n_inside:
                    set_random_state(self._before, device)


seeded_without_turn = _SharedSeed()
