"""Save and load the state of a population between two epochs, for a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.files._values import STATE_VALUES

if TYPE_CHECKING:
    from sklearn_kd.training._population import StudentPopulation


class PopulationState:
    """Take the states of all members, and the losses that the strategy has been given.

    A resumed fit runs the strategy again from the start. The strategy is given the same losses, and nothing
    is trained, until it reaches the point at which the state was taken.

    Parameters
    ----------
    population : StudentPopulation
    """

    def __init__(self, population: StudentPopulation) -> None:
        self._population = population

    def begin(self) -> None:
        """Do nothing, since members are made later."""

    @property
    def n_epochs(self) -> int:
        """Number of epochs trained."""
        return self._population.n_epochs - self._population.n_epochs_left

    @property
    def initial_values(self) -> Tensor:
        """Start values of the metaparameters."""
        return torch.from_numpy(self._population.space.join(self._population.start))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, in plain values and tensors."""
        population = self._population
        return {
            "n_epochs": self.n_epochs,
            "losses": [STATE_VALUES.encode(losses) for losses in population.told],
            "members": [{"training": state, "diverged": bad} for state, bad in population.members_state()],
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue the population from a state from :meth:`state_dict`, once its strategy reaches it."""
        losses = [STATE_VALUES.decode(told) for told in state["losses"]]
        members = [(member["training"], bool(member["diverged"])) for member in state["members"]]
        if not all(isinstance(told, np.ndarray) and told.ndim == 2 for told in losses) or not members:
            raise ValueError("losses of a population that are not a table of members and rows")
        self._population.resume(int(state["n_epochs"]), losses, members)

    def on_unserializable(self, name: str, type_name: str) -> None:
        """Do nothing, since members warn of their own parts."""
