"""Strategies that follow the hypergradient, or a line fitted to its path."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import torch

from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import HypergradientStrategy


class Gradient(HypergradientStrategy):
    """Take one hypergradient step on D_val in every iteration (paper Eq. 3).

    Parameters
    ----------
    lr, clip, optimizer, optimizer_params, coordinates, hypergradient, hypergradient_rows, val_temperature
        As in :class:`HypergradientStrategy`.

    Examples
    --------
    lambda1 and T move in every iteration, here with SGD from the first on:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10, random_state=0), MLPStudent, meta="gradient", optimizer="SGD", lr=0.1,
    ...     search_epochs=None, max_epochs=3, random_state=0)
    >>> path = clf.fit(*load_iris(return_X_y=True)).metaparameter_path_
    >>> len(set(path["lambda1"])) == len(path)
    True
    """


class Linear(HypergradientStrategy):
    """Take e1 hypergradient iterations, fit a line to them, and follow it for e2 iterations.

    Paper Eq. 4 and Algorithm 1: after e1 gradient iterations a line is fitted to the path of each
    metaparameter by least squares. For e2 iterations it predicts them at the cost of plain training. Then
    the cycle starts again. The line is in the learned coordinates, by default (lambda1, log T). If the
    student's optimizer is Adam or AdamW, whose first ten steps take no hypergradient, the first cycle starts
    after them. If a hypergradient was not finite, the line counts a point at which nothing moved.

    Parameters
    ----------
    e1 : int, default=10
        Gradient iterations per cycle; at least 2 if ``e2 > 0``.
    e2 : int, default=10
        Predicted iterations per cycle. 0 is exactly :class:`Gradient`.
    form : {"anchored", "values", "increments"}, default="anchored"
        What the line is fitted to. "anchored": the values; the fitted slope is drawn from the last one.
        "values": the values themselves (the paper's code). "increments": the increments (its text, Eq. 4),
        which are summed up from the last value.
    lr, clip, optimizer, optimizer_params, coordinates, hypergradient, hypergradient_rows, val_temperature
        As in :class:`HypergradientStrategy`.

    Examples
    --------
    Three gradient iterations, then two predicted ones:

    >>> from sklearn_kd.meta import Linear
    >>> [Linear(e1=3, e2=2).takes_hypergradient(i) for i in range(6)]
    [True, True, True, False, False, True]
    """

    def __init__(
        self,
        e1: int = 10,
        e2: int = 10,
        form: Literal["anchored", "values", "increments"] = "anchored",
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
        self.e1 = e1
        self.e2 = e2
        self.form = form

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_cycle(self.e1, self.e2)
        if self.e2 > 0 and self.e1 < 2:
            raise ValueError(
                f"e1={self.e1} with e2={self.e2}: a line needs at least two points. Take "
                "e1 >= 2, or e2=0 for hypergradients throughout."
            )
        if self.form not in _FORMS:
            raise ValueError(f"form={self.form!r} is not one of {sorted(_FORMS)}.")

    def takes_hypergradient(self, iteration: int) -> bool:
        return iteration % (self.e1 + self.e2) < self.e1

    def predict(self, metaparameters: MetaparameterPath) -> torch.Tensor:
        now = metaparameters.iteration
        window = metaparameters.trajectory(now - self.e1, now)
        ahead = torch.arange(1, self.e2 + 1, dtype=window.dtype, device=window.device)
        return _FORMS[self.form](window, ahead[:, None])


def check_cycle(e1: Any, e2: Any) -> None:
    """Raise ValueError unless e1 and e2 are valid numbers of iterations."""
    for name, value, least in (("e1", e1, 1), ("e2", e2, 0)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def _line(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a least-squares line to points at t = 1 … n; return its value at t = n and its slope."""
    n = len(points)
    t = torch.arange(1, n + 1, dtype=points.dtype, device=points.device)[:, None]
    centred = t - t.mean()
    slope = (centred * points).sum(dim=0) / (centred**2).sum()
    return points.mean(dim=0) + slope * centred[-1], slope


# Each form returns θ ``ahead`` iterations, shape (e2, 1), after the last row of ``window``. The first row of
# ``window`` precedes the e1 gradient iterations.


def _values(window: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    end, slope = _line(window[1:])
    return end + slope * ahead


def _anchored(window: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    _, slope = _line(window[1:])
    return window[-1] + slope * ahead


def _increments(window: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    end, slope = _line(window.diff(dim=0))
    return window[-1] + ahead * end + slope * ahead * (ahead + 1) / 2


_FORMS = {"anchored": _anchored, "values": _values, "increments": _increments}
