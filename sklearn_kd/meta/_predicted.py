"""A strategy that predicts the path of the metaparameters with any scikit-learn regressor."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import get_tags
from torch import Tensor

from sklearn_kd.meta._gradient import check_cycle
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import HypergradientStrategy, check_positive_ints

# Fewest gradient iterations of a cycle that can be halved, one half to fit and one to judge.
_FEWEST_TO_JUDGE = 4
# Smaller distances are rounding, such as that of a line from a straight path.
_ROUNDING = 1e-9


class PredictedPath(HypergradientStrategy):
    """Take e1 hypergradient iterations, fit a regressor to them, and follow its predictions for e2.

    This is :class:`Linear` with any scikit-learn regressor in place of the line. After e1 gradient
    iterations a clone of the regressor is fitted to the path of all metaparameters, and predicts e2
    iterations at the cost of plain training. Then the cycle starts again. The only feature is the iteration,
    from 0 at the first of the e1 iterations to 1 at the last. The target is the distance of each
    metaparameter from its last value, in the learned coordinates: a regressor that predicts 0 holds the last
    values. A regressor for a single target is fitted to each metaparameter separately.

    Parameters
    ----------
    regressor : estimator or None, default=None
        Estimator with ``fit`` and ``predict``. ``random_state=None`` in it is set to 0. None: hold the last
        values, the baseline of all predictions.
    e1 : int, default=10
        Gradient iterations per cycle.
    e2 : int, default=10
        Predicted iterations per cycle. 0 is exactly :class:`Gradient`.
    max_e2 : int or None, default=None
        None: all cycles predict e2 iterations. An int: their number is doubled, up to ``max_e2``, after each
        cycle whose prediction was within its error, and otherwise halved, down to ``e2``; see Notes. It
        needs e1 >= 4.
    lr, clip, optimizer, optimizer_params, coordinates, hypergradient, hypergradient_rows, val_temperature
        As in :class:`HypergradientStrategy`.

    Notes
    -----
    The error of a prediction is its root mean square distance, over iterations and metaparameters, from the
    path of the hypergradients, in the learned coordinates and within the bounds. A regressor's own error is
    measured within the e1 iterations: it is fitted to their first half and predicts the second. Once the
    hypergradients of the next cycle have been taken, the regressor that predicted the last cycle predicts as
    many of their iterations. If this error is at most its own error, the prediction of the cycle was within
    its error. All this is computed from the path alone.

    Examples
    --------
    Parabolas whose curvature is limited by ridge regression:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.meta import PredictedPath
    >>> parabola = make_pipeline(PolynomialFeatures(2), Ridge(0.1))
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(20, random_state=0), MLPStudent, max_epochs=20, optimizer="SGD", lr=0.1,
    ...     meta=PredictedPath(parabola, e1=4, e2=2, max_e2=16), random_state=0)
    >>> path = clf.fit(*load_iris(return_X_y=True)).metaparameter_path_
    >>> path["predicted"][:8].tolist()
    [False, False, False, False, True, True, False, False]
    """

    def __init__(
        self,
        regressor: Any = None,
        e1: int = 10,
        e2: int = 10,
        max_e2: int | None = None,
        *,
        lr: float = 1.0,
        clip: float | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        optimizer_params: dict[str, Any] | None = None,
        coordinates: Literal["own", "raw"] = "own",
        hypergradient: Literal[
            "finite_difference", "central_difference", "jvp", "exact"
        ] = "finite_difference",
        hypergradient_rows: int | None = None,
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        super().__init__(
            lr=lr,
            clip=clip,
            optimizer=optimizer,
            optimizer_params=optimizer_params,
            coordinates=coordinates,
            hypergradient=hypergradient,
            hypergradient_rows=hypergradient_rows,
            val_temperature=val_temperature,
        )
        self.regressor = regressor
        self.e1 = e1
        self.e2 = e2
        self.max_e2 = max_e2

    def check(self, space: MetaparameterSpace) -> None:
        """Check the parameters, and try the regressor on a straight path and on a constant one.

        Raises
        ------
        TypeError
            If ``regressor`` cannot be cloned, fitted or asked to predict.
        ValueError
            If it fails on e1 iterations, or another parameter is invalid.
        """
        super().check(space)
        check_cycle(self.e1, self.e2)
        if self.max_e2 is not None:
            self._check_max_e2()
        if self.regressor is None:
            return
        _check_regressor(self.regressor)
        line = torch.linspace(0, 1, self.e1, dtype=torch.float64)[:, None].expand(-1, space.size)
        lengths = [self.e1] if self.max_e2 is None else [self.e1, self.e1 // 2]
        # Metaparameters at a bound do not move.
        for path, n in product((line, torch.zeros_like(line)), lengths if self.e2 else ()):
            try:
                predicted = self._beyond(path[:n], 0, self.e2)
            except Exception as error:  # a regressor may raise anything
                half = "" if n == self.e1 else f"half of e1={self.e1} iterations, by which max_e2 judges it: "
                raise ValueError(
                    f"regressor={self.regressor!r} cannot be fitted to a path of {half}{n} iterations of "
                    f"{space.size} metaparameters ({error}). Give one that can, or a larger e1."
                ) from error
            if not bool(torch.isfinite(predicted).all()):
                raise ValueError(f"regressor={self.regressor!r} predicts values that are not finite.")

    def _check_max_e2(self) -> None:
        check_positive_ints(max_e2=self.max_e2)
        assert self.max_e2 is not None
        if not 1 <= self.e2 <= self.max_e2:
            raise ValueError(f"max_e2={self.max_e2} must be at least e2={self.e2}, and e2 at least 1.")
        if self.e1 < _FEWEST_TO_JUDGE:
            raise ValueError(
                f"e1={self.e1} with max_e2={self.max_e2}: one half of the e1 iterations is for fitting, the "
                f"other for judging. Take e1 >= {_FEWEST_TO_JUDGE}, or max_e2=None for cycles of one length."
            )

    def takes_hypergradient(self, iteration: int) -> bool:
        """Return whether the iteration takes a hypergradient, in cycles of e1 + e2 iterations."""
        return iteration % (self.e1 + self.e2) < self.e1

    def takes_next_hypergradient(self, metaparameters: MetaparameterPath) -> bool:
        """Return whether the next iteration takes a hypergradient, given the lengths of past cycles."""
        if self.max_e2 is None:
            return self.takes_hypergradient(metaparameters.iteration)
        return _run_length(metaparameters, metaparameters.iteration, predicted=False, most=self.e1) < self.e1

    def predict(self, metaparameters: MetaparameterPath) -> Tensor:
        now = metaparameters.iteration
        window = metaparameters.trajectory(now - self.e1 + 1, now)
        n = self.e2 if self.max_e2 is None else self._next_e2(metaparameters, window)
        return self._beyond(window, 0, n)

    def _next_e2(self, path: MetaparameterPath, window: Tensor) -> int:
        """Return how many iterations this cycle predicts; ``window`` are its gradient iterations, (e1, m)."""
        assert self.max_e2 is not None
        end = path.iteration - self.e1
        last_e2 = _run_length(path, end, predicted=True, most=self.max_e2)
        if last_e2 == 0:
            return self.e2  # the first cycle
        before = path.trajectory(end - last_e2 - self.e1 + 1, end - last_e2)
        n_fitted, n_judged = self.e1 // 2, self.e1 - self.e1 // 2
        own = path.within_bounds(self._beyond(before[:n_fitted], 0, n_judged))
        found = path.within_bounds(self._beyond(before, last_e2, n_judged))
        if _distance(found, window[:n_judged]) <= _distance(own, before[n_fitted:]) + _ROUNDING:
            return min(2 * last_e2, self.max_e2)
        return max(last_e2 // 2, self.e2)

    def _beyond(self, window: Tensor, n_skipped: int, n: int) -> Tensor:
        """Predict θ for n iterations, shape (n, m), from ``n_skipped`` iterations after ``window`` on."""
        if self.regressor is None:
            return window[-1:].expand(n, -1)
        times = np.arange(len(window) + n_skipped + n) / max(self.e1 - 1, 1)
        way = (window - window[-1]).double().cpu().numpy()
        model = _model(self.regressor, way.shape[1])
        model.fit(times[: len(way), None], way if way.shape[1] > 1 else way.ravel())
        ahead = np.reshape(model.predict(times[-n:, None]), (n, way.shape[1]))
        return window[-1] + torch.as_tensor(ahead).to(window)


def _check_regressor(regressor: Any) -> None:
    """Raise TypeError unless the regressor is an estimator with ``fit`` and ``predict``."""
    if isinstance(regressor, type):
        raise TypeError(f"regressor={regressor.__name__} is a class. Give an object: {regressor.__name__}().")
    missing = [name for name in ("fit", "predict", "get_params") if not hasattr(regressor, name)]
    if missing:
        raise TypeError(
            f"regressor={regressor!r:.200} has no {missing[0]}. Give a scikit-learn regressor, such as "
            "LinearRegression(), or None to hold the last values."
        )


def _model(regressor: Any, n_targets: int) -> Any:
    """Return a clone that can be fitted to ``n_targets`` targets, with its open seeds set to 0."""
    model = clone(regressor)
    is_open = {
        name: 0
        for name, value in model.get_params().items()
        if value is None and name.rpartition("__")[2] == "random_state"
    }
    model.set_params(**is_open)
    if n_targets == 1 or (hasattr(model, "__sklearn_tags__") and get_tags(model).target_tags.multi_output):
        return model
    from sklearn.multioutput import MultiOutputRegressor  # slow to import

    return MultiOutputRegressor(model)


def _run_length(path: MetaparameterPath, end: int, *, predicted: bool, most: int) -> int:
    """Return how many consecutive iterations before ``end`` were predicted or not, at most ``most``."""
    n = 0
    while n < most and n < end and path.was_predicted(end - n - 1) == predicted:
        n += 1
    return n


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())
