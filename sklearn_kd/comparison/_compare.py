"""Methods compared as the paper compares them: the same folds, seeds and teachers for all."""

from __future__ import annotations

import copy
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_random_state
from sklearn.utils.parallel import Parallel, delayed

from sklearn_kd._sklearn_compat import has_callbacks, safe_indexing
from sklearn_kd.comparison._result import MethodComparison, check_baseline
from sklearn_kd.errors._context import naming
from sklearn_kd.errors._did_you_mean import nearest
from sklearn_kd.estimators._base import PREDICTION_BATCH, Seeds
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import as_tensor, split_rows
from sklearn_kd.inputs._labels import checked_labels, sorted_classes
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.runtime._global_lock import turn
from sklearn_kd.runtime._processes import count_processes, default_n_jobs, one_by_one, one_thread_per_process
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.students._architectures import MLPStudent
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._class_alignment import checked_teacher_classes
from sklearn_kd.teachers._classifiers import set_open_seeds
from sklearn_kd.teachers._given_logits import checked_logits
from sklearn_kd.teachers._logit_checks import name_of, naming_rows, refuse_wrong_numbers
from sklearn_kd.teachers._registry import make_teacher
from sklearn_kd.training._stacked import divided, moves, share_inputs, train_together

# What all arms have in common, so that no arm can have its own.
_SHARED = ("teacher", "teacher_classes", "random_state", "validation_fraction")


@ordinary_torch()
def compare_methods(
    estimator,
    X,
    y,
    *,
    methods=("none", "naive", "random", "gradient", "linear", "hyperopt"),
    baseline="naive",
    cv=5,
    n_seeds=1,
    teacher_logits=None,
    random_state=None,
    n_jobs=None,
    verbose=0,
):
    """Compare ways to choose the metaparameters: methods × folds × seeds, all paired.

    Every method meets the same folds and, in each fold, the same seeds: initial weights,
    order of batches, D_val and teacher are shared, so that differences are the method's.

    Parameters
    ----------
    estimator : DistilledClassifier or Pipeline that ends in one
        Cloned, not fitted. The transformers are fitted once per fold and seed, on the
        training fold.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y : array-like of shape (n_samples,)
        Labels.
    methods : sequence of str or dict of {str: dict}, \
            default=("none", "naive", "random", "gradient", "linear", "hyperopt")
        Values of ``meta``; or names of your own, each with the parameters that the
        :class:`DistilledClassifier` (not the Pipeline) is given, such as
        ``{"fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0}}``.
    baseline : str, default="naive"
        The method that the others are compared with.
    cv : int, splitter or iterable of (train, test), default=5
        An int means that many stratified folds, shuffled. For repetitions give
        ``RepeatedStratifiedKFold``.
    n_seeds : int, default=1
        Runs of every method in every fold, each with a seed and a teacher of its own.
    teacher_logits : array-like of shape (n_samples, n_classes), default=None
        The teacher's logits for the rows of X, in place of ``estimator``'s teacher. They
        should come from models that did not see these rows.
    random_state : int, RandomState or None, default=None
        Folds (where ``cv`` is an int) and the seeds of all runs.
    n_jobs : int or None, default=None
        Processes, over folds and seeds; each has one thread where joblib's "loky" starts
        them. None: one per core, or what ``joblib.parallel_config`` says where that has been
        used (with dask or ray, their workers), or one where the students train on a GPU.
        1 is faster where all runs together take but seconds, since processes have to start.
    verbose : int, default=0
        1 shows a progress bar over folds × seeds.

    Returns
    -------
    MethodComparison
        The runs as a table, their summary, and a plot.

    Raises
    ------
    TypeError
        If ``estimator`` or ``methods`` is of another kind.
    ValueError
        If a method or the baseline is not known, a parameter cannot be used, or there is no
        teacher though a method needs one; all before any training.

    See Also
    --------
    MethodComparison : What is returned.

    Notes
    -----
    The teacher is fitted once per fold and seed, on the part of the training fold that is
    left when D_val (``validation_fraction``) has been split off; it sees neither D_val nor
    the test fold. Methods that learn from D_val train on that same part: their runs equal
    ``fit`` under the ``random_state`` in the table. The others train on the whole training
    fold, D_val included, as in the paper, with the same teacher's logits for all of it;
    ``fit`` alone would have given them a teacher of slightly more rows. A prefitted teacher
    is used as it is: it must not have been fitted on these rows.

    Runs do not depend on ``n_jobs`` but for the last digits of float32 sums, which depend on
    the number of torch's threads: all cores with ``n_jobs=1``, one in each process of more.
    Set ``OMP_NUM_THREADS=1`` to have them equal.

    Methods do not depend on each other: leaving one out changes no number of another, but for
    those same last digits, and the seconds. Methods with fixed metaparameters that train on
    the same rows are trained in one batched run where that pays: on a CPU, at least three
    small students; ``together`` in the results says how many, and the logger "sklearn_kd", at
    level INFO, why not. The time of such a run is shared equally by the methods in it, so
    that ``fit_seconds`` adds up to the time spent, and is less than ``fit`` alone would take;
    compare the cost of methods where ``together`` is 1 for all.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, max_epochs=5, batch_size=32)
    >>> comparison = compare_methods(
    ...     clf, *load_iris(return_X_y=True), methods=("naive", "linear"), cv=3, random_state=0,
    ...     n_jobs=1)
    >>> comparison.results_.shape  # methods × folds × seeds
    (6,)
    >>> comparison.summary("accuracy")["method"].tolist()
    ['naive', 'linear']
    """
    transformers, classifier = _taken_apart(estimator)
    if is_dataset(X):
        raise TypeError(
            f"X is a {type(X).__name__}; compare_methods cuts folds out of arrays. Give X and y as "
            "arrays or tensors, or fit the methods on torch.utils.data.Subset of the Dataset yourself."
        )
    named_rows = X if hasattr(X, "index") else y
    X = from_torch(X, "X")
    X = X if hasattr(X, "shape") else np.asarray(X)
    y = checked_labels(from_torch(y, "y"), len(X))
    sorted_classes(y)
    # The teacher reaches the arms as logits; a big one is not carried along by each of them.
    classifier, given_teacher = clone(classifier), classifier.teacher
    stated = checked_teacher_classes(classifier.teacher_classes, np.unique(y))
    classifier.set_params(teacher=None, teacher_classes=None)
    arms = _checked_arms(classifier, methods, baseline)
    if not isinstance(n_seeds, Integral) or isinstance(n_seeds, bool) or n_seeds < 1:
        raise ValueError(f"n_seeds={n_seeds!r} must be an integer of at least 1.")
    logits = checked_logits(teacher_logits, len(y), np.unique(y), stated=stated, names=named_rows)
    teacher = None
    if logits is None and any(arm.needs_teacher for arm in arms):
        teacher = _checked_teacher(given_teacher, stated, arms)

    rng = check_random_state(random_state)
    with turn():  # another thread that holds the turn may have seeded NumPy's global generator
        cells = _cells(X, y, cv, int(n_seeds), rng)
    plan = _Plan(X, y, logits, transformers, teacher, classifier, arms)
    if n_jobs is None:
        n_jobs = default_n_jobs(classifier._device().type)
    n_jobs = count_processes(n_jobs, len(cells))
    with one_thread_per_process():
        runs = Parallel(n_jobs=n_jobs, return_as=one_by_one())(delayed(_run)(plan, cell) for cell in cells)
        if verbose:
            from tqdm import tqdm

            runs = tqdm(runs, total=len(cells), desc=f"{len(arms)} methods, folds × seeds", unit="run")
        rows = _as_they_come(runs, len(cells))
    return MethodComparison(np.array(rows, dtype=_results_dtype(arms)), baseline)


def _as_they_come(runs, n_runs) -> list[tuple]:
    """The rows of all runs, or of those before an interrupt."""
    found: list[list[tuple]] = []
    try:
        found.extend(runs)
    except KeyboardInterrupt:
        if not found:
            raise
        warnings.warn(f"Interrupted: {len(found)} of {n_runs} runs are compared.", stacklevel=4)
    return [row for rows in found for row in rows]


# --------------------------------------------------------------------------------------
# What is run


class _Arm(NamedTuple):
    """A method, ready to be cloned and fitted."""

    name: str
    classifier: DistilledClassifier
    needs_teacher: bool
    learns_from_validation: bool


class _Plan(NamedTuple):
    """Data and methods that all cells share."""

    X: object
    y: np.ndarray
    logits: np.ndarray | None
    transformers: Pipeline | None
    teacher: TeacherAdapter | None
    classifier: DistilledClassifier
    arms: list[_Arm]


class _Cell(NamedTuple):
    """One fold and one seed, which all methods share."""

    fold: int
    seed: int
    random_state: int
    train: np.ndarray
    test: np.ndarray


def _cells(X, y, cv, n_seeds, rng) -> list[_Cell]:
    if isinstance(cv, Integral):
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=rng.randint(np.iinfo(np.int32).max))
    # Listed once: a splitter without a seed would split anew for every method.
    folds = list(check_cv(cv, y, classifier=True).split(X, y))
    seeds = rng.randint(np.iinfo(np.int32).max, size=(len(folds), n_seeds))
    return [
        _Cell(fold, seed, int(seeds[fold, seed]), *(np.arange(len(y))[rows] for rows in folds[fold]))
        for fold in range(len(folds))
        for seed in range(n_seeds)
    ]


def _run(plan, cell) -> list[tuple]:
    """The rows of ``results_`` of one fold and seed, one per arm."""
    X_train, X_test = _transformed(plan, cell)
    y_train, y_test = plan.y[cell.train], plan.y[cell.test]
    seeds = Seeds.draw(cell.random_state)
    classes, codes = np.unique(y_train, return_inverse=True)
    # As ``fit`` splits under this random_state.
    rows = split_rows(codes, plan.classifier.validation_fraction, check_random_state(seeds.split))
    _check_students(plan, X_train, classes, seeds)
    logits = None
    if plan.logits is not None:
        logits = plan.logits[cell.train][:, np.isin(np.unique(plan.y), classes)]
    elif plan.teacher is not None:
        logits = _teacher_logits(plan, cell, X_train, y_train, rows, seeds)
    _warm_up(plan.classifier.device)
    place = (cell.fold, cell.seed, cell.random_state, len(cell.train), len(cell.test))
    fits = _fits(plan.arms, cell, X_train, y_train, rows, logits)
    _fit_all(fits)
    if any(fit.clf.net_.interrupted_ for fit in fits):
        raise KeyboardInterrupt  # to compare with what is not fully trained would be unfair
    return [(fit.name, *place, *_scores(fit.clf, X_test, y_test), *fit.outcome) for fit in fits]


def _check_students(plan, X, classes, seeds):
    """Refuse students that cannot be trained on X, before the teacher is trained."""
    with naming("X"):
        samples = check_array(safe_indexing(X, [0, 1]), dtype=np.float32, allow_nd=True, input_name="X")
    for arm in plan.arms:
        clf = clone(arm.classifier)
        clf.classes_ = classes
        clf._initial_student(as_tensor(samples, clf._device()), seeds)


def _transformed(plan, cell):
    """Return X of the training and of the test fold, as the classifier sees them."""
    X_train, X_test = safe_indexing(plan.X, cell.train), safe_indexing(plan.X, cell.test)
    if plan.transformers is None:
        return X_train, X_test
    transformers = set_open_seeds(clone(plan.transformers), check_random_state(cell.random_state))
    return transformers.fit_transform(X_train, plan.y[cell.train]), transformers.transform(X_test)


def _teacher_logits(plan, cell, X, y, rows, seeds):
    """Logits for all rows, shape (n, K), of a teacher fitted on D_train alone."""
    teacher, classes, device = copy.copy(plan.teacher), np.unique(y), plan.classifier._device()
    train, _ = rows
    rng = check_random_state(seeds.teacher)
    with teacher.drawing_from(seeds.teacher, device):
        teacher.fit(safe_indexing(X, train), y[train], sample_weight=None, rng=rng)
    logits = np.empty((len(y), len(classes)), dtype=np.float32)
    # D_train apart, so that these logits are what ``fit`` would have computed.
    for part in rows:
        X_part = safe_indexing(X, part)
        tensor = as_tensor(check_array(X_part, dtype=np.float32, allow_nd=True), device)
        with naming_rows(cell.train[part]), teacher.drawing_from(seeds.teacher, device):
            found = teacher.logits(X_part, tensor, classes, PREDICTION_BATCH)
            refuse_wrong_numbers(found, name_of(teacher.fitted))
        logits[part] = found.cpu().numpy()
    return logits


def _warm_up(device):
    """Train toys, so that what torch does once per process is not timed as the first arm's."""
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    rows = {"teacher_logits": X[:, :2], "X_val": X, "y_val": y}
    toy = DistilledClassifier(None, MLPStudent, meta="linear", max_epochs=1, device=device, random_state=0)
    toy.fit(X, y, **rows)
    toy.set_params(meta="fixed")
    runs = [toy._prepared(X, y, None, *rows.values()) for _ in range(2)]
    train_together([toy._ready_net(run) for run in runs], [run.data for run in runs])


@dataclass(eq=False)
class _Fit:
    """An arm in one cell: what it is fitted on, and what that cost."""

    name: str
    clf: DistilledClassifier
    X: Any
    y: np.ndarray
    logits: np.ndarray | None
    X_val: Any = None
    y_val: np.ndarray | None = None
    run: Any = None
    net: Any = None
    seconds: float = 0.0
    together: int = 1

    @property
    def outcome(self):
        """The last columns of ``results_``."""
        clf, net = self.clf, self.clf.net_
        found = clf.lambda1_, clf.temperature_, net.diverged_, net.collapsed_
        return self.seconds, self.together, *found

    @property
    def may_be_together(self):
        """True if this fit may be trained together with others, and so is prepared apart."""
        clf = self.clf
        watched = clf.callbacks or clf.verbose or has_callbacks(clf) or clf.checkpoint_dir is not None
        ours = type(clf).fit is DistilledClassifier.fit
        return ours and not watched and not moves(clf._checked_strategy())

    @contextmanager
    def timed(self):
        """Add the time of the block to this arm's seconds."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def fit(self):
        """Fit the classifier, as users do."""
        with self.timed():
            self.clf.fit(self.X, self.y, teacher_logits=self.logits, X_val=self.X_val, y_val=self.y_val)

    def prepare(self):
        """Do all of ``fit`` that comes before the training."""
        with self.timed():
            self.run = self.clf._prepared(self.X, self.y, None, self.logits, self.X_val, self.y_val)
            self.net = self.clf._ready_net(self.run)

    def finish(self):
        """Do all of ``fit`` that comes after the training."""
        with self.timed():
            self.clf._publish(self.net, self.run)
        self.run = self.net = None  # they hold the rows


def _fits(arms, cell, X, y, rows, logits) -> list[_Fit]:
    """Make the fits: on D_train with D_val where the arm learns from it, else on all rows."""
    parts = [(safe_indexing(X, part), y[part]) for part in rows]
    fits = []
    for arm in arms:
        clf = clone(arm.classifier).set_params(random_state=cell.random_state)
        known = logits if arm.needs_teacher else None
        if arm.learns_from_validation:
            known = None if known is None else known[rows[0]]
            fits.append(_Fit(arm.name, clf, *parts[0], known, *parts[1]))
        else:
            fits.append(_Fit(arm.name, clf, X, y, known))
    return fits


def _fit_all(fits: list[_Fit]) -> None:
    """Fit all arms of a cell, those together that can be and gain by it."""
    candidates = [fit for fit in fits if fit.may_be_together]
    for fit in fits:
        if fit not in candidates:
            fit.fit()
    for fit in candidates:
        fit.prepare()
        share_inputs([other.run.data for other in candidates if other.run is not None])
    nets, data = [fit.net for fit in candidates], [fit.run.data for fit in candidates]
    for members in divided(nets, data):
        group = [candidates[k] for k in members]
        began = time.perf_counter()
        if len(group) == 1:
            group[0].run.train(group[0].net)
        else:
            train_together([fit.net for fit in group], [fit.run.data for fit in group])
        seconds = (time.perf_counter() - began) / len(group)
        for fit in group:
            fit.seconds, fit.together = fit.seconds + seconds, len(group)
            fit.finish()


def _scores(clf, X, y):
    """Accuracy and log loss; NaN probabilities make the log loss NaN, not an error."""
    proba = clf.predict_proba(X)
    known = np.isin(y, clf.classes_)
    of_label = np.zeros(len(y), dtype=proba.dtype)
    of_label[known] = proba[known, np.searchsorted(clf.classes_, y[known])]
    log_loss = -np.log(np.maximum(of_label, np.finfo(proba.dtype).eps)).mean(dtype=np.float64)
    return np.mean(clf.classes_[proba.argmax(axis=1)] == y), log_loss


# --------------------------------------------------------------------------------------
# Checks, all before any training


def _taken_apart(estimator):
    """Split the estimator into its transformers, a Pipeline or None, and the DistilledClassifier."""
    transformers, classifier = None, estimator
    if isinstance(estimator, Pipeline):
        classifier = estimator.steps[-1][1]
        transformers = estimator[:-1] if len(estimator.steps) > 1 else None
    if not isinstance(classifier, DistilledClassifier):
        hint = " Give an instance, not the class." if isinstance(estimator, type) else ""
        raise TypeError(
            "estimator must be a DistilledClassifier or a Pipeline that ends in one; got "
            f"{estimator!r}.{hint}"
        )
    return transformers, classifier


def _checked_arms(classifier, methods, baseline) -> list[_Arm]:
    given = _as_dict(methods)
    check_baseline(baseline, given)
    arms = []
    for name, params in given.items():
        for param in params:
            if param.partition("__")[0] in _SHARED:
                raise ValueError(
                    f"methods[{name!r}] sets {param!r}, which all methods share. Set it on the estimator."
                )
        clf = clone(classifier).set_params(**params)
        strategy = clf._checked_strategy()
        if clf.augment is not None and strategy.needs_teacher:
            raise ValueError(
                f"method {name!r} has an augment, but here the teacher is asked once, for all methods, "
                "and never about augmented rows. Set augment=None, or fit the methods yourself."
            )
        arms.append(_Arm(name, clf, strategy.needs_teacher, strategy.learns_from_validation))
    return arms


def _as_dict(methods) -> dict[str, dict]:
    if isinstance(methods, dict):
        for name, params in methods.items():
            if not isinstance(name, str) or not isinstance(params, dict):
                raise TypeError(
                    f"methods={{{name!r}: {params!r}}}: a name is mapped to a dict of parameters, "
                    'such as {"fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0}}.'
                )
        return methods
    if isinstance(methods, str) or not all(isinstance(name, str) for name in methods):
        raise TypeError(
            f"methods={methods!r} must be a sequence of names, such as ('naive', 'linear'), or a "
            "dict of names and their parameters."
        )
    for name in methods:
        if name not in STRATEGIES:
            raise ValueError(
                f"methods has {name!r}, which is not known.{nearest(name, STRATEGIES)} Known are "
                f"{list(STRATEGIES)}; a dict gives parameters to names of your own."
            )
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods={methods!r} names a method twice. Vary parameters by a dict.")
    return {name: {"meta": name} for name in methods}


def _checked_teacher(teacher, stated, arms):
    if teacher is None:
        needing = [arm.name for arm in arms if arm.needs_teacher]
        raise ValueError(
            f"teacher=None leaves nothing to distil by {needing}. Give the estimator a teacher, or "
            "give teacher_logits."
        )
    return make_teacher(teacher, stated)


def _results_dtype(arms):
    longest = max(len(arm.name) for arm in arms)
    counts = ("fold", "seed", "random_state", "n_train", "n_test")
    return [
        ("method", f"U{longest}"),
        *((name, np.int64) for name in counts),
        *((name, np.float64) for name in ("accuracy", "log_loss", "fit_seconds")),
        ("together", np.int64),
        *((name, np.float64) for name in ("lambda1", "temperature")),
        *((name, np.bool_) for name in ("diverged", "collapsed")),
    ]
