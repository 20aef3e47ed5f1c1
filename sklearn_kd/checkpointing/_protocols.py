"""Interfaces between a training loop, its state and its checkpoints."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Stateful(Protocol):
    """An object that returns its state as a dict and restores one, as torch's modules do."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore a state from :meth:`state_dict`."""


class EpochCheckpointer(Protocol):
    """The interface of checkpoints for a training loop."""

    def of(self, training: TrainingState, /) -> EpochCheckpointer:
        """Return the checkpoints of the same stage with another state."""

    def restore(self) -> int:
        """Load the latest checkpoint, if there is one; return the number of epochs trained before it."""

    def track(self, name: str, iterator: Stateful) -> None:
        """Keep the state of an iterator in the checkpoints; restore it when it is first tracked."""

    def save(self) -> None:
        """Write a checkpoint. Call it between two epochs."""


class TrainingState(Protocol):
    """The state of a training between two epochs, in plain values and tensors."""

    def begin(self) -> None:
        """Record the state in which training begins."""

    @property
    def n_epochs(self) -> int:
        """Number of epochs trained."""

    @property
    def initial_values(self) -> Tensor:
        """The metaparameters' values before the first iteration, on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state from :meth:`state_dict`; change nothing if that fails."""

    def on_unserializable(self, name: str, type_name: str) -> None:
        """Handle a part of the state that cannot be serialised."""
