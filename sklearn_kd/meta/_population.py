"""The base class of strategies that train several students side by side, and their population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import Strategy, Values, check_has_metaparameters


class Population(Protocol):
    """Students that train side by side on the same batches, each with its own metaparameters.

    :meth:`PopulationStrategy.search` gets one. At first it has one member, the untrained student. All
    members have the same initial weights, batches and random draws, so that they differ only by their
    metaparameters. Small students are trained in one batched run, others one after another.

    Attributes
    ----------
    space : mapping of str to Metaparameter
        Bounds, shapes and coordinates by name.
    start : dict of str to float or ndarray
        Initial values of the metaparameters, as set by the estimator and its loss.
    rng : numpy.random.Generator
        Use no other source of randomness, so that a killed fit can resume from its checkpoint.
    n_epochs : int
        Total number of epochs that a member trains.
    n_epochs_left : int
        Number of epochs that are left.
    verbose : int
        Verbosity of the estimator.

    Examples
    --------
    Four students with different lambda1 train for an epoch; the best continues alone:

    >>> from sklearn_kd import DistilledClassifier, MLPStudent, meta
    >>> class BestOfFour(meta.PopulationStrategy):
    ...     def search(self, population):
    ...         values = [{"lambda1": share} for share in (0.1, 0.4, 0.7, 1.0)]
    ...         population.select([0] * 4)
    ...         population.train(values)
    ...         best = population.val_losses().mean(axis=1).argmin()
    ...         population.select([best])
    ...         population.train([values[best]], population.n_epochs_left)
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta=BestOfFour(), search_epochs=None, max_epochs=3)
    >>> clf.fit(*load_iris(return_X_y=True)).metaparameters_["lambda1"] in (0.1, 0.4, 0.7, 1.0)
    True
    """

    space: MetaparameterSpace
    start: dict[str, Any]
    rng: np.random.Generator
    n_epochs: int
    verbose: int

    @property
    def n_epochs_left(self) -> int:
        """Number of epochs that each member still has to train."""

    def __len__(self) -> int:
        """Return the number of members."""

    def select(self, sources: Sequence[int]) -> None:
        """Replace the members: member j becomes a copy of the current member ``sources[j]``.

        Weights, buffers, the optimizer's state, random draws, history and path are copied; callbacks keep
        their state. ``select([0] * 4)`` makes four copies of the first member, ``select([1, 1])`` replaces
        the first by the second, and ``select([2])`` keeps only the third.

        Parameters
        ----------
        sources : sequence of int
            Index of the current member to copy, for each new member.
        """

    def train(self, values: Sequence[Values], n_epochs: int = 1, *, centre: Values | None = None) -> None:
        """Train each member for some epochs, member k at ``values[k]``.

        A member that diverges is trained no further.

        Parameters
        ----------
        values : sequence of mapping of str to float or ndarray
            Values by metaparameter name for each member; a missing one has its initial value. Values outside
            the bounds are used as they are.
        n_epochs : int, default=1
            Number of epochs.
        centre : mapping of str to float or ndarray, or None, default=None
            Values to record in the members' paths instead of their own.
        """

    def val_losses(self) -> np.ndarray:
        """Return each member's loss of each row of D_val, shape (n_members, n_val).

        With ``val_temperature="auto"`` each member's logits are divided by its own best T_val. Losses are
        multiplied by the weights of the rows. A member that has diverged has infinite losses.
        """

    def record(self, values: Values, val_loss: float | None = None) -> None:
        """Set the values that the path records after the last iteration, and their L_val.

        Parameters
        ----------
        values : mapping of str to float or ndarray
            Values by metaparameter name.
        val_loss : float or None, default=None
            L_val of the last iteration. None: leave it as it is.
        """


class PopulationStrategy(Strategy):
    """Base class of strategies that train several students side by side and keep one.

    Override :meth:`search`. No hypergradient is taken, so any optimizer, loss and student can be used. The
    cost is that of plain training times the number of members.

    Parameters
    ----------
    val_temperature : float or "auto", default="auto"
        T_val of the validation loss, as in :class:`Strategy`.

    Examples
    --------
    Two students train at T = 1 and T = 4; after half of the epochs the better one continues alone:

    >>> from sklearn_kd import DistilledClassifier, MLPStudent, meta
    >>> class Duel(meta.PopulationStrategy):
    ...     def search(self, population):
    ...         population.select([0, 0])
    ...         values = [{"temperature": 1.0}, {"temperature": 4.0}]
    ...         population.train(values, population.n_epochs // 2)
    ...         population.select([population.val_losses().mean(axis=1).argmin()])
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> clf = DistilledClassifier(RandomForestClassifier(10), MLPStudent, meta=Duel(), max_epochs=4)
    >>> clf.fit(*load_iris(return_X_y=True)).temperature_ in (1.0, 4.0)
    True
    """

    learns_from_validation = True
    trains_population = True

    def __init__(self, *, val_temperature: Any = "auto"):
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_has_metaparameters(self, space)

    def n_trainings(self) -> float:
        """Return the cost in plain trainings of as many epochs, for estimates of the remaining time."""
        return 1.0

    def search(self, population: Population) -> None:
        """Train the population.

        When this method returns, the first member is the student. It trains the epochs that are left at the
        last values of its path.

        Parameters
        ----------
        population : Population
            The students to train; at first one.
        """
        raise NotImplementedError(f"{type(self).__name__} must override search(population).")


class UnitCube:
    """Maps metaparameters to numbers from 0 to 1 between their bounds or the logarithms of these.

    Parameters
    ----------
    space : MetaparameterSpace

    Raises
    ------
    ValueError
        If a metaparameter has no finite bounds.
    """

    def __init__(self, space: MetaparameterSpace):
        for name, entry in space.items():
            entry.range_to_draw_from(name)
        kinds = [entry.coordinate for entry in space.values() for _ in range(entry.size)]
        self.space, self._is_log = space, np.array([kind == "log" for kind in kinds], dtype=bool)
        self._bounds = space.bounds()
        self._low, self._high = map(self._coordinates, self._bounds)

    def _coordinates(self, values: np.ndarray) -> np.ndarray:
        return np.log(values, where=self._is_log, out=values.copy())

    def place(self, values: Values) -> np.ndarray:
        """Return the place of named values, shape (m,), each in [0, 1]."""
        span = np.where(self._high > self._low, self._high - self._low, 1.0)
        return np.clip((self._coordinates(self.space.join(values)) - self._low) / span, 0.0, 1.0)

    def values(self, place: np.ndarray) -> dict[str, Any]:
        """Return the values at a place by name, within the bounds."""
        found = self._low + place * (self._high - self._low)
        np.exp(found, where=self._is_log, out=found)
        low, high = self._bounds  # exact, unlike exp(log(high))
        named = self.space.split(np.where(place <= 0, low, np.where(place >= 1, high, found)))
        return {name: part if self.space[name].shape else float(part) for name, part in named.items()}


class Difference(NamedTuple):
    """The difference of two students' L_val on the same rows of D_val.

    Attributes
    ----------
    mean : float
        Mean difference.
    error : float
        Standard error of the mean.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, losses: np.ndarray, other: np.ndarray) -> Difference:
        """Compare the losses of the rows, shape (n,) each; a diverged student is infinitely worse."""
        if not (np.isfinite(losses).all() and np.isfinite(other).all()):
            worse = float(np.mean(losses)), float(np.mean(other))
            return cls(0.0 if worse[0] == worse[1] else worse[0] - worse[1], 0.0)
        rows = losses - other
        error = rows.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.inf
        return cls(float(rows.mean()), float(error))

    def differs(self, z: float) -> bool:
        """Return True if the mean is not 0 and differs from it by at least ``z`` standard errors.

        With a single row the standard error is infinite, so the losses differ only for ``z = 0``.
        """
        return self.mean != 0 and (z == 0 or abs(self.mean) >= z * self.error)

    def is_below_zero(self, z: float) -> bool:
        """Return True if the mean is below 0 by at least ``z`` standard errors."""
        return self.mean < 0 and self.differs(z)
