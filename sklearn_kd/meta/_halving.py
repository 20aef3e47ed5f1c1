"""Choose metaparameters among students, dropping the worse ones as they train."""

from __future__ import annotations

import math
import time
from numbers import Real
from typing import Literal

import numpy as np

from sklearn_kd.meta._population import Difference, Population, PopulationStrategy, UnitCube
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import check_positive_ints, check_real
from sklearn_kd.meta._trials import trials_dtype


class SuccessiveHalving(PopulationStrategy):
    """Train students at different fixed metaparameters side by side; drop the worse half at each rung.

    The first student has the initial metaparameters. Those of the others are drawn from a Latin hypercube
    between the bounds, uniformly in log T. All train on the same batches. After the share ``rungs[0]`` of
    the epochs the better half continues, and so on [1]_. After the last rung one student is left, which is
    trained to the end.

    L_val on a small D_val is noisy. Therefore the first student is dropped only if it is worse than the best
    by ``z`` standard errors of the difference of L_val, computed over the rows.

    Parameters
    ----------
    n_members : int, default=4
        Number of students in the first epoch, including the one with the initial metaparameters.
    rungs : tuple of float, default=(0.4, 0.6)
        Increasing shares of the epochs after which students are dropped. Early rungs mislead: with noisy
        labels, memorising comes late, and trials of less than a sixth of the epochs prefer a large lambda1.
    z : float, default=1.0
        Standard errors by which the first student must be worse than the best to be dropped. 0: the smaller
        L_val decides.
    val_temperature : float or "auto", default="auto"
        T_val of the validation loss, as in :class:`Strategy`. "auto": each student has its own.

    Attributes
    ----------
    trials_ : structured array of shape (n_members,)
        The metaparameters of each student, its last ``val_loss`` and its ``seconds`` of training (an equal
        share of the total). The first row belongs to the initial metaparameters.

    See Also
    --------
    Twins : Moves the metaparameters while the students train.

    References
    ----------
    .. [1] Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
       2016.

    Examples
    --------
    Eight students, four after 30 % of the epochs, two after 50 %, one after 70 %:

    >>> from sklearn_kd.meta import SuccessiveHalving
    >>> halving = SuccessiveHalving(n_members=8, rungs=(0.3, 0.5, 0.7))
    >>> halving.n_trainings()
    3.9
    """

    trials_: np.ndarray

    def __init__(
        self,
        n_members: int = 4,
        rungs: tuple[float, ...] = (0.4, 0.6),
        z: float = 1.0,
        *,
        val_temperature: float | Literal["auto"] = "auto",
    ):
        self.n_members = n_members
        self.rungs = rungs
        self.z = z
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_positive_ints(n_members=self.n_members)
        rungs = self.rungs if isinstance(self.rungs, (tuple, list)) else ()
        shares = [share for share in rungs if isinstance(share, Real) and 0 < share <= 1]
        if not shares or len(shares) != len(rungs) or sorted(set(shares)) != list(shares):
            raise ValueError(
                f"rungs={self.rungs!r} must be shares of the epochs, above 0 and at most 1, in increasing "
                "order, such as (0.4, 0.6)."
            )
        check_real("z", self.z, least=0.0)
        UnitCube(space)

    def n_trainings(self) -> float:
        kept, done, cost = self.n_members, 0.0, 0.0
        for k, share in enumerate(self.rungs):
            cost += kept * (share - done)
            kept, done = self._n_kept(kept, k), share
        return round(cost + kept * (1 - done), 10)

    def _n_kept(self, n_members: int, rung: int) -> int:
        return 1 if rung == len(self.rungs) - 1 else math.ceil(n_members / 2)

    def search(self, population: Population) -> None:
        cube = UnitCube(population.space)
        places = self._places(cube.place(population.start), population.rng)
        settings = [population.space.shaped(population.start), *map(cube.values, places)]
        self.trials_ = np.zeros(len(settings), dtype=trials_dtype(population.space))
        for name in population.space:
            self.trials_[name] = [setting[name] for setting in settings]
        self.trials_["val_loss"] = np.nan
        members = np.arange(len(settings))  # students still in training, the best first
        population.select([0] * len(settings))
        done = 0
        for k, share in enumerate(self.rungs):
            until = max(round(share * population.n_epochs), done + 1)
            n_epochs, done = min(until - done, population.n_epochs_left), until
            if not n_epochs:
                break
            began = time.perf_counter()
            population.train([settings[member] for member in members], n_epochs)
            losses = population.val_losses()
            self.trials_["val_loss"][members] = losses.mean(axis=1)
            self.trials_["seconds"][members] += (time.perf_counter() - began) / len(members)
            kept = self._kept(losses, members.tolist().index(0) if 0 in members else None, k)
            population.select(kept)
            members = members[kept]
        population.record(settings[members[0]], float(self.trials_["val_loss"][members[0]]))

    def _places(self, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the places of all members but the first, with each component once in each of n equal parts."""
        n = self.n_members - 1
        parts = [rng.permutation(n) for _ in start]
        return (np.stack(parts, axis=1) + rng.random((n, len(start)))) / max(n, 1)

    def _kept(self, losses: np.ndarray, start: int | None, rung: int) -> list[int]:
        """Return the members that continue, the best first, given the losses of their rows.

        ``start`` is the member with the initial metaparameters, if it still trains.
        """
        ranked = losses.mean(axis=1).argsort(kind="stable").tolist()
        kept = ranked[: self._n_kept(len(ranked), rung)]
        if start is None or start in kept:
            return kept
        is_worse = Difference.of(losses[ranked[0]], losses[start]).is_below_zero(self.z)
        return kept if is_worse else [*kept[:-1], start]
