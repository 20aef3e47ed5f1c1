"""Compare methods on the same folds, seeds and teachers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel

from sklearn_kd._sklearn_compat import safe_indexing
from sklearn_kd.comparison._fits import (
    MethodFit,
    check_fits,
    distilled_fits,
    distpro_fits,
    fit_all,
    give_answers,
    warm_up,
)
from sklearn_kd.comparison._methods import (
    DistilledMethods,
    DistProMethods,
    Kind,
    Method,
    checked_methods,
    refuse_maps,
    taken_apart,
)
from sklearn_kd.comparison._result import MethodComparison
from sklearn_kd.comparison._teacher import Answers, answers_of_fold, shared_teacher
from sklearn_kd.estimators._feature_terms import as_trained
from sklearn_kd.estimators._named_terms import has_terms
from sklearn_kd.estimators._plan import Seeds
from sklearn_kd.estimators._several_labels import has_several_labels, refuse_classes
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._structures import is_structure
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.runtime._broadcast import calls
from sklearn_kd.runtime._devices import checked_device
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._processes import (
    count_processes,
    default_n_jobs,
    one_thread_per_process,
    streaming_return_as,
)
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.tasks._measures import MEASURES
from sklearn_kd.tasks._task import RowTask, TaskMaker
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._class_alignment import checked_teacher_classes
from sklearn_kd.teachers._classifiers import set_open_seeds


@ordinary_torch()
def compare_methods(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    methods: Sequence[str] | dict[str, dict[str, Any]] | None = None,
    baseline: str | None = None,
    cv: Any = 5,
    n_seeds: int = 1,
    teacher_logits: Any = None,
    teacher_predictions: Any = None,
    random_state: int | np.random.RandomState | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MethodComparison:
    """Compare ways to choose the metaparameters: methods × folds × seeds, all paired.

    All methods use the same folds and, in each fold, the same seeds. They share the initial weights, the
    order of batches, D_val and the teacher, so that differences are due to the method.

    Parameters
    ----------
    estimator : DistilledClassifier, DistilledRegressor, DistProClassifier, DistProRegressor or Pipeline
        Cloned, not fitted. A Pipeline must end in one of the others; its transformers are fitted once per
        fold and seed, on the training fold.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels, a matrix of 0 and 1 for several labels per row, or numeric targets.
    methods : sequence of str, dict of {str: dict} or None, default=None
        Values of ``meta`` for a :class:`DistilledClassifier` or :class:`DistilledRegressor`, values of
        ``weights`` or ``meta`` for a :class:`DistProClassifier` or :class:`DistProRegressor`; or a dict of
        names of your own, each with parameters for the estimator (not the Pipeline), such as
        ``{"fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0}}``. None: "none", "naive", "shortlist",
        "random", "gradient", "linear" and "hyperopt"; for a DistProClassifier, "equal" and "process".
    baseline : str or None, default=None
        The method that the others are compared with. None: "naive"; for a DistProClassifier, "equal".
    cv : int, splitter or iterable of (train, test), default=5
        An int means that many shuffled folds, stratified if y has one label per row. For repetitions,
        give ``RepeatedStratifiedKFold`` or ``RepeatedKFold``.
    n_seeds : int, default=1
        Number of runs of each method in each fold, each run with its own seed and teacher.
    teacher_logits : array-like of shape (n_samples, n_classes), default=None
        The teacher's logits for the rows of X, in place of ``estimator``'s teacher. They
        should come from models that did not see these rows. A DistProClassifier takes none.
    teacher_predictions : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        The same for a DistilledRegressor: predictions in the units of y.
    random_state : int, RandomState or None, default=None
        Seeds the folds (if ``cv`` is an int) and all runs.
    n_jobs : int or None, default=None
        Number of processes, over folds and seeds; each has one thread if joblib's "loky" starts them. None:
        one per core, or the setting of ``joblib.parallel_config`` if that is used (with dask or ray, their
        workers), or one if the students train on a GPU. If all runs together take only seconds, 1 is faster,
        since processes have to start.
    verbose : int, default=0
        1 shows a progress bar over folds × seeds.

    Returns
    -------
    MethodComparison
        The runs as a table, with a summary and a plot.

    Raises
    ------
    TypeError
        If ``estimator`` or ``methods`` has a wrong type.
    ValueError
        If a method or the baseline is unknown, a parameter cannot be used, or there is no teacher although
        a method needs one. Raised before any training.

    See Also
    --------
    MethodComparison : The result.
    ComparisonDisplay : Draws it.

    Notes
    -----
    The teacher is fitted once per fold and seed, on the part of the training fold that remains after D_val
    (``validation_fraction``) is split off; it sees neither D_val nor the test fold. Methods that learn from
    D_val train on the same part: their runs equal ``fit`` with the ``random_state`` in the table. The others
    train on the whole training fold, including D_val, as in the paper, with the same teacher's logits for
    all of it; a separate ``fit`` would give them a teacher fitted on slightly more rows. Methods that search
    (``search_epochs``) hold the same D_val out of the training fold, and retrain on the whole; a separate
    ``fit`` would fit their teacher anew for that. A prefitted teacher is used as it is: it must not have been
    fitted on these rows.

    The teacher of a DistProClassifier is a trained network; it must not have been trained on these rows. All
    runs equal ``fit`` on the training fold with the ``random_state`` in the table: each search holds the same
    D_val out of the training fold (``validation_fraction``), and each retraining uses all of its rows.
    ``lambda1`` and ``temperature`` are NaN in the results unless ``logit_weight="learned"``;
    ``fit_seconds`` covers search and retraining.

    Runs do not depend on ``n_jobs``, except for the last digits of float32 sums, which depend on
    the number of torch's threads: all cores with ``n_jobs=1``, one in each process otherwise.
    Set ``OMP_NUM_THREADS=1`` to make them equal.

    A DistilledRegressor standardises y by the training fold. Its methods hold D_val out of the fold
    themselves, as ``fit`` does, and are trained one by one. ``lambda1`` is the mean if each output
    has its own.

    Methods do not depend on each other: leaving one out does not change the results of another, except for
    those last digits and the seconds. Methods that train on the same rows are trained in one batched run if
    that pays (on a CPU, with at least three small students); those with fixed metaparameters are batched
    separately from those that learn them. ``models_in_batch`` in the results says how many, and the logger
    "sklearn_kd", at level INFO, why not. The methods of a batched run share its time equally, so that
    ``fit_seconds`` adds up to the time spent and is less than a separate ``fit`` would take. To compare the
    cost of methods, use runs in which ``models_in_batch`` is 1 for all.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, max_epochs=15, batch_size=32)
    >>> comparison = compare_methods(
    ...     clf, *load_iris(return_X_y=True), methods=("naive", "linear"), cv=3, random_state=0,
    ...     n_jobs=1)
    >>> comparison.results_.shape  # methods × folds × seeds
    (6,)
    >>> comparison.summary("accuracy")["method"].tolist()
    ['naive', 'linear']
    """
    transformers, classifier, kind = taken_apart(estimator)
    X, y, named_rows = _checked_data(X, y, classifier._task_type)
    methods = kind.default if methods is None else methods
    baseline = kind.baseline if baseline is None else baseline
    task: Any = classifier._task_type.from_targets(y)[0]
    refuse_maps(task, "compare_methods")
    classifier, given_teacher = clone(classifier), classifier._asked_teacher()
    stated = getattr(classifier, "teacher_classes", None)
    if has_several_labels(task):
        refuse_classes(classifier.class_weight, stated)
    answers = Answers(task, checked_teacher_classes(stated, task.output_labels))
    if kind is DistilledMethods:
        # Methods get the teacher's answers and do not carry a copy of a large teacher, unless its layers are
        # compared too.
        of_their_own = methods.values() if isinstance(methods, dict) else ()
        losses = [classifier.loss, *(own.get("loss") for own in of_their_own if isinstance(own, dict))]
        compares_features = any(has_terms(loss) for loss in losses)
        of_methods = {} if compares_features else {"teacher": None, "teacher_transform": None}
        classifier.set_params(**of_methods, **({} if stated is None else {"teacher_classes": None}))
        given_teacher = as_trained(given_teacher) if compares_features else given_teacher
    checked = checked_methods(classifier, kind, methods, baseline)
    if not isinstance(n_seeds, Integral) or isinstance(n_seeds, bool) or n_seeds < 1:
        raise ValueError(f"n_seeds={n_seeds!r} must be an integer of at least 1.")
    given = _given_answers(classifier, kind, teacher_logits, teacher_predictions)
    found = answers.checked(given, len(y), named_rows, classifier._answers)
    teacher = None
    if found is None and kind is DistilledMethods:
        fit_parameters = classifier._routed("teacher__fit")
        teacher = shared_teacher(given_teacher, answers, checked, fit_parameters, classifier._answers)
        if teacher is not None and classifier.student_preprocessing is not None:
            teacher.ask_about_given_rows()

    rng = check_random_state(random_state)
    with torch_state_lock():  # another thread that holds the lock may have seeded NumPy's global generator
        cells = _fold_seeds(X, y, task, cv, int(n_seeds), rng)
    shared = _Shared(X, y, answers, found, transformers, teacher, classifier, checked, kind)
    rows = _run_all(shared, cells, n_jobs, verbose)
    return MethodComparison(np.array(rows, dtype=_results_dtype(checked, task)), baseline)


def _given_answers(estimator: Any, kind: Kind, teacher_logits: Any, teacher_predictions: Any) -> Any:
    """Return the given answers of the teacher; refuse the argument of another kind of estimator."""
    given = {"teacher_logits": teacher_logits, "teacher_predictions": teacher_predictions}
    own = given.pop(estimator._answers)
    other = next(name for name in given)
    if given[other] is not None:
        raise ValueError(
            f"{other} is given, and estimator is a {type(estimator).__name__}: give its teacher's answers as "
            f"{estimator._answers}."
        )
    if own is not None and kind is DistProMethods:
        raise ValueError(
            f"{estimator._answers} have no feature maps, which a {type(estimator).__name__} learns from. "
            "Leave them out: its teacher is a network, which is asked."
        )
    return own


def _checked_data(X: Any, y: Any, targets: TaskMaker) -> tuple[Any, np.ndarray, Any]:
    """Return X, the targets, and X or y, whichever may name the rows by its index."""
    if is_dataset(X):
        raise TypeError(
            f"X is a {type(X).__name__}; compare_methods cuts folds out of arrays. Give X and y as "
            "arrays or tensors, or fit the methods on torch.utils.data.Subset of the Dataset yourself."
        )
    if is_structure(X):
        raise TypeError(
            f"X is a {type(X).__name__} of several parts; compare_methods cuts folds out of one array. Give "
            "one, or compare the methods by cross_val_score with skorch.helper.SliceDict(**X)."
        )
    named_rows = X if hasattr(X, "index") else y
    X = from_torch(X, "X")
    X = X if hasattr(X, "shape") else np.asarray(X)
    X = X.tocsr() if sparse.issparse(X) else X  # folds are rows
    if not X.shape:
        raise ValueError(f"X={X!s:.100} has no rows. Give an array of shape (n_samples, n_features) or more.")
    return X, targets.check_targets(from_torch(y, "y"), X.shape[0]), named_rows


def _run_all(shared: _Shared, cells: list[_FoldSeed], n_jobs: int | None, verbose: int) -> list[tuple]:
    """Run all folds and seeds in processes; return the rows of ``results_``."""
    if n_jobs is None:
        n_jobs = default_n_jobs(_device(shared).type)
    n_jobs = count_processes(n_jobs, len(cells))
    with one_thread_per_process():
        parallel = Parallel(n_jobs=n_jobs, return_as=streaming_return_as())
        runs = parallel(calls(_run_kth, (shared, cells), range(len(cells)), n_jobs))
        if verbose:
            from tqdm import tqdm

            described = f"{len(shared.methods)} methods, folds × seeds"
            runs = tqdm(runs, total=len(cells), desc=described, unit="run")
        return _as_they_come(runs, len(cells))


def _as_they_come(runs: Iterable[list[tuple]], n_runs: int) -> list[tuple]:
    """Return the rows of all runs, or of those that ended before an interrupt."""
    found: list[list[tuple]] = []
    try:
        found.extend(runs)
    except KeyboardInterrupt:
        if not found:
            raise
        warnings.warn(f"Interrupted: {len(found)} of {n_runs} runs are compared.", stacklevel=5)
    return [row for rows in found for row in rows]


# --------------------------------------------------------------------------------------
# One fold and seed


class _Shared(NamedTuple):
    """Data and methods that all folds and seeds share."""

    X: Any
    y: np.ndarray
    answers: Answers
    given: np.ndarray | None  # the teacher's answers about all rows
    transformers: Pipeline | None
    teacher: TeacherAdapter | None
    classifier: Any
    methods: list[Method]
    kind: Kind


class _FoldSeed(NamedTuple):
    """One fold and one seed, which all methods share."""

    fold: int
    seed: int
    random_state: int
    train: np.ndarray
    test: np.ndarray

    @property
    def is_first(self) -> bool:
        """Whether methods that share a teacher are checked here: a check takes as long as a small fit."""
        return self.fold == self.seed == 0


def _fold_seeds(
    X: Any, y: np.ndarray, task: RowTask, cv: Any, n_seeds: int, rng: np.random.RandomState
) -> list[_FoldSeed]:
    by_class = y.ndim == 1 and not task.numeric
    if isinstance(cv, Integral):
        split = StratifiedKFold if by_class else KFold
        cv = split(int(cv), shuffle=True, random_state=rng.randint(np.iinfo(np.int32).max))
    # Listed once, since a splitter without a seed would split anew for every method.
    folds = [
        tuple(np.arange(len(y))[rows] for rows in fold)
        for fold in check_cv(cv, y, classifier=by_class).split(X, y)
    ]
    if task.numeric and any(len(test) < 2 for _, test in folds):
        raise ValueError(
            f"cv={cv!r} has a test fold of one row, of which {MEASURES[task.measures[0]].title} is not "
            "defined. Give folds of two rows or more, such as cv=5."
        )
    seeds = rng.randint(np.iinfo(np.int32).max, size=(len(folds), n_seeds))
    return [
        _FoldSeed(fold, seed, int(seeds[fold, seed]), *folds[fold])
        for fold in range(len(folds))
        for seed in range(n_seeds)
    ]


def _run_kth(given: tuple[_Shared, list[_FoldSeed]], k: int) -> list[tuple]:
    """Run the k-th fold and seed; the rows of all folds are sent once, with the data."""
    shared, cells = given
    return _run(shared, cells[k])


def _run(shared: _Shared, cell: _FoldSeed) -> list[tuple]:
    """Return the rows of ``results_`` of one fold and seed, one per method."""
    X_train, X_test = _transformed(shared, cell)
    y_train, y_test = shared.y[cell.train], shared.y[cell.test]
    if shared.kind is DistProMethods:
        fits = distpro_fits(shared.methods, cell.random_state, X_train, y_train)
        check_fits(fits)
    else:
        fits = _distilled_fits(shared, cell, X_train, y_train)
    warm_up(shared.classifier.device)
    fit_all(fits)
    if any(fit.clf.net_.interrupted_ for fit in fits):
        raise KeyboardInterrupt  # a comparison with an unfinished training would be unfair
    place = (cell.fold, cell.seed, cell.random_state, len(cell.train), len(cell.test))
    task = shared.answers.task
    return [(fit.name, *place, *_scores(fit.clf, X_test, y_test, task), *fit.outcome) for fit in fits]


def _distilled_fits(shared: _Shared, cell: _FoldSeed, X: Any, y: np.ndarray) -> list[MethodFit]:
    """Make the fits of a DistilledClassifier or -Regressor, which share a teacher's answers."""
    seeds = Seeds.draw(cell.random_state)
    answers, estimator = shared.answers, shared.classifier
    task, codes = estimator._task_type.from_targets(y)
    # The split of ``fit`` with this random_state.
    rng, fraction = check_random_state(seeds.split), estimator.validation_fraction
    rows = task.split(codes, fraction, rng, "a method that needs none")
    fits = distilled_fits(shared.methods, cell.random_state, X, y, rows)
    if shared.given is not None:
        give_answers(fits, shared.methods, answers.of_fold(shared.given, cell.train, task), rows[0])
    elif shared.teacher is not None:  # for the check, before the teacher is asked
        give_answers(fits, shared.methods, answers.example(task, len(y)), rows[0])
    if cell.is_first:
        check_fits(fits)
    if shared.teacher is not None:
        found = answers_of_fold(
            shared.teacher, estimator, task, X, y, rows, places=cell.train, seed=seeds.teacher
        )
        give_answers(fits, shared.methods, found, rows[0])
    return fits


def _transformed(shared: _Shared, cell: _FoldSeed) -> tuple[Any, Any]:
    """Return X of the training fold and of the test fold, as the estimator sees them."""
    X_train, X_test = safe_indexing(shared.X, cell.train), safe_indexing(shared.X, cell.test)
    if shared.transformers is None:
        return X_train, X_test
    transformers = set_open_seeds(clone(shared.transformers), check_random_state(cell.random_state))
    return transformers.fit_transform(X_train, shared.y[cell.train]), transformers.transform(X_test)


def _device(shared: _Shared) -> torch.device:
    return checked_device(shared.classifier.device)


def _scores(clf: Any, X: Any, y: np.ndarray, task: RowTask) -> list[float]:
    """Return the measures on the test fold; NaN probabilities make the log loss NaN, not an error.

    For regression, they are those of the estimator, also for a method with its own loss, so that all methods
    have the same.
    """
    answers = np.asarray(getattr(clf, clf._task.answers_by)(X))
    values = (task if task.numeric else clf._task).row_scores(y, answers).values
    return [values[name] for name in task.measures]


def _results_dtype(methods: Sequence[Method], task: RowTask) -> list[tuple[str, Any]]:
    longest = max(len(method.name) for method in methods)
    counts = ("fold", "seed", "random_state", "n_train", "n_test")
    return [
        ("method", f"U{longest}"),
        *((name, np.int64) for name in counts),
        *((name, np.float64) for name in (*task.measures, "fit_seconds")),
        ("models_in_batch", np.int64),
        *((name, np.float64) for name in ("lambda1", "temperature")),
        *((name, np.bool_) for name in ("diverged", "collapsed")),
    ]
