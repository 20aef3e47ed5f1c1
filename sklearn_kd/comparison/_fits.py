"""Run the fits of one fold and seed, one per method; train some of them in one batched run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_regressor

from sklearn_kd._sklearn_compat import has_callbacks, safe_indexing, without_callbacks
from sklearn_kd.comparison._methods import DistProMethods, Method, checked_settings
from sklearn_kd.estimators import _distpro_plan
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.estimators._classifier_plan import plan_distillation
from sklearn_kd.estimators._plan import (
    FitPlan,
    Stage,
    TrainingResult,
    publish,
    ready_net,
    stage_message,
)
from sklearn_kd.estimators._preflight import validate
from sklearn_kd.estimators._regression_warnings import warn_of_units
from sklearn_kd.estimators._regressor_inputs import make_regression_teacher, validate_regression
from sklearn_kd.estimators._search import SEARCH, warn_if_nothing_moved
from sklearn_kd.students._architectures import MLPStudent
from sklearn_kd.training._stackable import group_stackable
from sklearn_kd.training._stacked import share_inputs, train_stacked


@dataclass(eq=False)
class MethodFit:
    """The fit of a method in one fold with one seed: its arguments and its cost.

    Attributes
    ----------
    name : str
    clf : DistilledClassifier, DistilledRegressor, DistProClassifier or DistProRegressor
    given : dict
        The arguments of ``fit``.
    """

    name: str
    clf: Any
    given: dict[str, Any]
    plan: FitPlan | None = None
    net: Any = None
    n_trained: int = 0
    message: str | None = None
    seconds: float = 0.0
    models_in_batch: int = 1

    @property
    def outcome(self) -> tuple[float, int, float, float, bool, bool]:
        """Return the last columns of ``results_``."""
        net = self.clf.net_
        return self.seconds, self.models_in_batch, *_learned(self.clf), net.diverged_, net.collapsed_

    @property
    def is_stackable(self) -> bool:
        """Whether this fit may be trained together with others, and is therefore prepared first."""
        clf = self.clf
        if type(clf).fit is not DistilledClassifier.fit:  # regressors score R² in each epoch, by a callback
            return False
        watched = clf.callbacks or clf.search_callbacks or clf.verbose or has_callbacks(clf)
        return not (watched or clf.checkpoint_dir is not None or clf.parallel is not None)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the block to this method's seconds."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def fit(self) -> None:
        """Fit the classifier, as users do."""
        with self.timed():
            self.clf.fit(**self.given)

    @property
    def stage(self) -> Stage:
        """Stage whose net is ready for training."""
        assert self.plan is not None
        return self.plan.stages[self.n_trained]

    def prepare(self) -> None:
        """Do everything in ``fit`` that precedes the first training."""
        with self.timed():
            self.plan = plan_of(self.clf, **self.given)
            self.net = ready_net(self.plan, self.stage)

    def train(self) -> None:
        """Train the prepared net."""
        self.stage.train_net(self.plan, self.stage, self.net)

    def go_on(self) -> bool:
        """Continue after a training: make the net of the next one, or finish the fit.

        Returns
        -------
        bool
            Whether there is another training.
        """
        assert self.plan is not None
        with self.timed():
            stage = self.stage
            self.plan = stage.conclude(self.plan, self.net)
            if stage.name == SEARCH:
                warn_if_nothing_moved(self.net)
            self.message = stage_message(self.plan, stage, self.net) or self.message
            self.n_trained += 1
            if self.n_trained < len(self.plan.stages):
                self.net = ready_net(self.plan, self.stage)
                return True
            publish(self.clf, TrainingResult(self.plan, self.net, self.message))
        self.plan = self.net = None  # they hold the rows
        return False


def plan_of(clf: Any, X: Any, y: Any, **given: Any) -> FitPlan:
    """Plan the fit of an estimator on the given data."""
    validated: Any = validate_regression if is_regressor(clf) else validate
    if issubclass(type(clf), DistProMethods.estimator_types):
        settings = _distpro_plan.checked_parameters(clf)
        return _distpro_plan.plan_distpro(clf, settings, validated(clf, X, y, **given))
    about_answers: dict[str, Any] = {}
    if is_regressor(clf):
        about_answers = {"make": make_regression_teacher, "warn_of_answers": warn_of_units}
    return plan_distillation(clf, checked_settings(clf), validated(clf, X, y, **given), **about_answers)


def _learned(clf: Any) -> tuple[float, float]:
    """Return lambda1 and T at the end of a fit, averaged over outputs; NaN if there are none."""
    last = clf.history_[-1] if len(clf.history_) else {}
    values = getattr(clf, "metaparameters_", last)  # a DistProClassifier has pathway weights, too
    return float(np.mean(values.get("lambda1", np.nan))), float(np.mean(values.get("temperature", np.nan)))


def distilled_fits(
    methods: Sequence[Method], random_state: int, X: Any, y: np.ndarray, rows: tuple[np.ndarray, np.ndarray]
) -> list[MethodFit]:
    """Make the fits: on D_train, with D_val as X_val, if the method holds D_val out, else on all rows.

    A method that searches is given all rows, and splits them in the same way. ``rows`` are the indices of
    D_train and D_val in X.
    """
    (X_train, y_train), (X_val, y_val) = ((safe_indexing(X, part), y[part]) for part in rows)
    on_all = {"X": X, "y": y}
    on_train = {"X": X_train, "y": y_train, "X_val": X_val, "y_val": y_val}
    return [
        MethodFit(m.name, _seeded(m, random_state), dict(on_train if m.holds_out else on_all))
        for m in methods
    ]


def give_answers(
    fits: Sequence[MethodFit], methods: Sequence[Method], answers: np.ndarray, train: np.ndarray
) -> None:
    """Give the fits that need a teacher its answers to all rows; ``train`` are the indices of D_train."""
    for fit, method in zip(fits, methods, strict=True):
        if method.needs_teacher:
            fit.given[fit.clf._answers] = answers[train] if method.holds_out else answers


def distpro_fits(methods: Sequence[Method], random_state: int, X: Any, y: np.ndarray) -> list[MethodFit]:
    """Make the fits, each on all rows: every search holds out the same D_val, every retraining none."""
    return [MethodFit(m.name, _seeded(m, random_state), {"X": X, "y": y}) for m in methods]


def _seeded(method: Method, random_state: int) -> Any:
    return clone(method.estimator).set_params(random_state=random_state)


def check_fits(fits: Sequence[MethodFit]) -> None:
    """Refuse what the fits would refuse, before the first of them is trained.

    If a teacher is needed, answers must be given, of which only the shape matters.
    """
    for fit in fits:
        clf = without_callbacks(clone(fit.clf).set_params(checkpoint_dir=None))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fit itself warns
            plan_of(clf, **fit.given)


def fit_all(fits: Sequence[MethodFit]) -> None:
    """Fit all methods of a fold and seed; train together those for which it is possible and pays."""
    candidates = [fit for fit in fits if fit.is_stackable]
    for fit in fits:
        if fit not in candidates:
            fit.fit()
    for fit in candidates:
        fit.prepare()
        plans = [other.plan for other in candidates if other.plan is not None]
        share_inputs([stage.data for plan in plans for stage in plan.stages])
    while candidates:
        _train_all([fit for fit in candidates if fit.stage.trains])
        candidates = [fit for fit in candidates if fit.go_on()]


def _train_all(fits: Sequence[MethodFit]) -> None:
    """Train the prepared nets; train together those for which it is possible and pays."""
    nets, data = [fit.net for fit in fits], [fit.stage.data for fit in fits]
    for members in group_stackable(nets, data):
        group = [fits[k] for k in members]
        began = time.perf_counter()
        if len(group) == 1:
            group[0].train()
        else:
            train_stacked([nets[k] for k in members], [data[k] for k in members])
        seconds = (time.perf_counter() - began) / len(group)
        for fit in group:
            fit.seconds, fit.models_in_batch = fit.seconds + seconds, len(group)


def warm_up(device: Any) -> None:
    """Train toy students, so that torch's one-off work in a process is not timed with the first method."""
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    rows = {"teacher_logits": X[:, :2], "X_val": X, "y_val": y}
    toy = DistilledClassifier(
        None, MLPStudent, meta="linear", search_epochs=None, max_epochs=1, device=device, random_state=0
    )
    toy.fit(X, y, **rows)
    toy.set_params(meta="fixed")
    plans = [plan_of(toy, X, y, **rows) for _ in range(2)]
    train_stacked([ready_net(plan, plan.stages[0]) for plan in plans], [plan.data for plan in plans])
