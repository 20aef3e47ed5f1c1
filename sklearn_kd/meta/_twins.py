"""Move the metaparameters to those of the better of two students."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sklearn_kd.meta._population import Difference, Population, PopulationStrategy, UnitCube
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import check_positive_ints, check_real


class Twins(PopulationStrategy):
    """Train two students on the same batches at perturbed metaparameters, and continue the better one.

    Before each move all metaparameters are perturbed together, each up or down with a random sign [1]_: one
    student trains at the centre plus these steps, its twin at the centre minus them. After
    ``epochs_per_move`` epochs their L_val on all of D_val are compared. Weights and optimizer state of the
    better student replace those of the other, and the centre moves to its metaparameters. Thus
    metaparameters are judged by an epoch or more of training, whereas a hypergradient looks one iteration
    ahead. No hypergradient is computed: the cost is that of ``2 * pairs`` plain trainings.

    Parameters
    ----------
    delta : float, default=0.2
        Size of the steps, as a share of each metaparameter's range between its bounds. For the loss "kd"
        these are the ranges of lambda1, from 0 to 1, and of log T.
    epochs_per_move : int, default=1
        Epochs before each comparison. The effect of a change within an epoch often has the wrong sign.
    pairs : int, default=1
        Number of pairs of twins, each with its own signs. The best of all students continues.
    z : float, default=1.0
        The centre moves only if the twins' L_val differ by at least ``z`` standard errors, computed over the
        rows of D_val. 0: it always moves.
    val_temperature : float or "auto", default="auto"
        T_val of the validation loss, as in :class:`Strategy`. "auto": each student has its own.

    Attributes
    ----------
    moves_ : structured array of shape (n_moves * pairs,)
        The comparisons: ``epoch`` (number of trained epochs), the two values of each metaparameter, such as
        ``lambda1_up`` and ``lambda1_down``, ``mean_difference`` (L_val at the former minus L_val at the
        latter), its ``standard_error``, and ``taken`` (whether the centre moved to the better of the two).

    See Also
    --------
    SuccessiveHalving : Trains students at fixed metaparameters, and drops the worse ones.

    References
    ----------
    .. [1] Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient
       approximation", 1992.

    Examples
    --------
    If the teacher predicts the same for every row, the weight of the labels grows:

    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_digits(return_X_y=True)
    >>> same = np.tile(np.arange(10.0), (500, 1))
    >>> clf = DistilledClassifier(
    ...     None, MLPStudent, meta="twins", search_epochs=10, max_epochs=10, random_state=0)
    >>> clf = clf.fit(X[:500], y[:500], teacher_logits=same)
    >>> clf.lambda1_ > 0.8
    True
    >>> len(clf.moves_), bool(clf.moves_["taken"].all())
    (10, True)
    """

    moves_: np.ndarray

    def __init__(
        self,
        delta: float = 0.2,
        epochs_per_move: int = 1,
        pairs: int = 1,
        z: float = 1.0,
        *,
        val_temperature: float | Literal["auto"] = "auto",
    ):
        self.delta = delta
        self.epochs_per_move = epochs_per_move
        self.pairs = pairs
        self.z = z
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_real("delta", self.delta, above=0.0)
        check_positive_ints(epochs_per_move=self.epochs_per_move, pairs=self.pairs)
        check_real("z", self.z, least=0.0)
        UnitCube(space)

    def n_trainings(self) -> float:
        return 2.0 * self.pairs

    def search(self, population: Population) -> None:
        cube, space = UnitCube(population.space), population.space
        centre, centre_values = cube.place(population.start), space.shaped(population.start)
        self.moves_ = np.empty(0, dtype=moves_dtype(space))
        population.select([0] * (2 * self.pairs))
        while population.n_epochs_left:
            ups, downs = self._perturbed(centre, population.rng)
            values = [cube.values(place) for place in (*ups, *downs)]
            n_epochs = min(self.epochs_per_move, population.n_epochs_left)
            population.train(values, n_epochs, centre=centre_values)
            losses = population.val_losses()
            best = int(losses.mean(axis=1).argmin())
            moves = self._moves(space, values, losses, best % self.pairs)
            moves["epoch"] = population.n_epochs - population.n_epochs_left
            self.moves_ = np.concatenate([self.moves_, moves])
            if moves["taken"].any():
                centre, centre_values = (*ups, *downs)[best], values[best]
            population.select([best] * len(population))
            population.record(centre_values, float(losses[best].mean()))

    def _perturbed(self, centre: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the first and the second twins of all pairs, shape (pairs, m) each."""
        steps = self.delta * rng.choice([-1.0, 1.0], size=(self.pairs, len(centre)))
        return np.clip(centre + steps, 0.0, 1.0), np.clip(centre - steps, 0.0, 1.0)

    def _moves(
        self, space: MetaparameterSpace, values: list[dict], losses: np.ndarray, best_pair: int
    ) -> np.ndarray:
        """Compare the twins of each pair; return a table of :func:`moves_dtype` without the epoch."""
        moves = np.zeros(self.pairs, dtype=moves_dtype(space))
        for pair, (up, down) in enumerate(zip(values[: self.pairs], values[self.pairs :], strict=True)):
            for name in space:
                moves[f"{name}_up"][pair], moves[f"{name}_down"][pair] = up[name], down[name]
            found = Difference.of(losses[pair], losses[self.pairs + pair])
            moves["mean_difference"][pair], moves["standard_error"][pair] = found
            moves["taken"][pair] = pair == best_pair and found.differs(self.z)
        return moves


def moves_dtype(space: MetaparameterSpace) -> np.dtype:
    """Return the dtype of :attr:`Twins.moves_`."""
    sides = [(f"{name}_{side}", entry.shape) for name, entry in space.items() for side in ("up", "down")]
    values = [(name, np.float64, shape) if shape else (name, np.float64) for name, shape in sides]
    judged = [("mean_difference", np.float64), ("standard_error", np.float64), ("taken", np.bool_)]
    return np.dtype([("epoch", np.int64), *values, *judged])
