"""Read, set, seed and restore the global random generators.

Modules draw their initial weights and dropout masks from torch's global generators, and a user's
``augment`` or ``forward`` may draw from NumPy's and Python's. ``fit`` seeds all of them, and a
hypergradient replays a forward pass with the same masks. Both restore the generators afterwards. The lock
of torch's state keeps other threads from changing the generators at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.runtime._global_lock import torch_state_lock


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the torch generators from which a module on ``device`` draws.

    While a CUDA graph is captured, the state of the CUDA generator is left out: a graph cannot replay it.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore a state returned by :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def host_random_state() -> dict[str, Any]:
    """Return the states of NumPy's and Python's global generators, which user code may use."""
    return {"numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002


def set_host_random_state(state: dict[str, Any]) -> None:
    """Restore a state returned by :func:`host_random_state`."""
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the host and of ``device``, but of no other device."""
    np.random.seed(seed)  # noqa: NPY002 — the global one, which a user's code draws from
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def preserved_torch_state(device: torch.device) -> Iterator[None]:
    """Restore only torch's generators on leaving, ten times as fast as all; hold the lock inside."""
    with torch_state_lock():
        state = random_state(device)
        try:
            yield
        finally:
            set_random_state(state, device)


@contextmanager
def preserved_random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore all generators on leaving; hold the lock, and seed them if ``seed`` is given, inside."""
    with preserved_torch_state(device):
        of_host = host_random_state()
        try:
            if seed is not None:
                seed_generators(seed, device)
            yield
        finally:
            set_host_random_state(of_host)


class _SharedSeed:
    """Seed all generators inside, without holding the lock, for code that waits for other threads.

    The first thread to enter saves the states, and the last one to leave restores them. If another thread
    holds the lock, nothing is seeded.
    """

    def __init__(self) -> None:
        self._n_inside = 0
        self._before: list[tuple[torch.device, dict[str, Tensor]]] = []
        self._of_host: dict[str, Any] = {}

    @contextmanager
    def __call__(self, seed: int) -> Iterator[None]:
        lock = torch_state_lock()
        if not lock.acquire(blocking=False):
            yield
            return
        try:
            if not self._n_inside:
                self._before = [(device, random_state(device)) for device in _devices_in_use()]
                self._of_host = host_random_state()
            self._n_inside += 1
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 — a user's function draws from it
            random.seed(seed)
        finally:
            lock.release()
        try:
            yield
        finally:
            with torch_state_lock():
                self._n_inside -= 1
                if not self._n_inside:
                    for device, state in self._before:
                        set_random_state(state, device)
                    set_host_random_state(self._of_host)


def _devices_in_use() -> list[torch.device]:
    """List the devices on which user code may draw, whatever device the library uses."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return [torch.device("cuda", k) for k in range(torch.cuda.device_count())]
    return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]


seeded_without_lock = _SharedSeed()
