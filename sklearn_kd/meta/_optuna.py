"""Choose metaparameters by trials that an Optuna sampler suggests, in a study that may be shared."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Strategy, Values, check_has_metaparameters
from sklearn_kd.meta._trials import (
    Range,
    best_trial,
    check_trial_parameters,
    ranges,
    run_trials,
    trials_dtype,
)

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

# Attributes of a study and a trial: a digest of everything else the losses depend on, and the seconds taken.
_SIGNATURE, _SECONDS = "sklearn_kd:signature", "sklearn_kd:seconds"
# Seconds to wait for another process that creates the tables of a storage.
_WAITS = 0.2, 1.0, 5.0


class Optuna(Strategy):
    """Choose the best of ``n_trials`` settings that an Optuna sampler suggests, and keep it.

    Each trial trains a new student on D_train at a setting from the same ranges as in :class:`Hyperopt` and
    :class:`Random`, and is judged by L_val on all of D_val. With a ``storage``, several processes on one or
    many machines share one study, and each learns from the trials of all. This needs the package optuna:
    ``pip install sklearn-kd[optuna]``.

    Parameters
    ----------
    n_trials : int, default=20
        Number of finished trials in the study. Trials of all processes that share the study and of earlier
        fits count, so that a killed fit continues. Processes that end a trial at the same time may each make
        one more.
    sampler : optuna.samplers.BaseSampler or None, default=None
        Copied for each fit, and reseeded if the study already has trials, so that these are not drawn again.
        None: ``TPESampler``, whose first 10 trials are drawn at random, with a seed drawn from
        ``random_state``, or, with a ``storage``, without a seed, so that processes try different settings.
    storage : str, optuna.storages.BaseStorage or None, default=None
        Where the study is stored, such as ``"sqlite:///trials.db"``. None: in memory.
    study_name : str or None, default=None
        Name of the study in the storage. It is created if it does not exist.
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T, the temperature of the loss "kd". It belongs to this method and ignores
        ``temperature_bounds``.
    n_at_once : int, default=1
        Number of trials requested at once, each suggested without the losses of the others. Small students
        are trained in one batched run, others in ``n_jobs`` processes.
    n_jobs : int or None, default=None
        Processes for trials that are not trained in one run, as in joblib.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Raises
    ------
    ImportError
        If optuna is not installed.
    ValueError
        If a parameter is invalid, the storage cannot be opened, or its study belongs to another fit, with
        other data, parameters or ``random_state``, whose losses cannot be compared.

    Attributes
    ----------
    trials_ : structured array
        The metaparameters, ``val_loss`` (NaN: not finite) and ``seconds`` of the study's finished trials, in
        the order of their numbers.

    See Also
    --------
    Hyperopt : Uses hyperopt, which is installed with this library.

    Notes
    -----
    Without a storage, a fit is reproducible to the bit under its ``random_state``. With a storage it is
    under a seeded ``sampler``, as long as no other process shares the study.

    A study belongs to a fit if these agree: the estimator's parameters, its seeds, the labels, the first
    rows of X and the teacher's answers about some rows. If another process has trained the best trial, the
    retraining starts from scratch.

    References
    ----------
    T. Akiba, S. Sano, T. Yanase, T. Ohta, M. Koyama. Optuna: A Next-generation Hyperparameter Optimization
    Framework. KDD 2019.

    Examples
    --------
    A study of 12 trials, four of them at once:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, meta
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10, random_state=0), MLPStudent, max_epochs=6, random_state=0,
    ...     meta=meta.Optuna(n_trials=12, n_at_once=4))
    >>> clf.fit(X, y).trials_.shape
    (12,)
    >>> best = clf.trials_[clf.trials_["val_loss"].argmin()]
    >>> bool(clf.lambda1_ == best["lambda1"])
    True

    The same call in several processes shares their trials if it names a storage::

        meta.Optuna(n_trials=100, storage="sqlite:///trials.db", study_name="digits")
    """

    learns_from_validation = True

    def __init__(
        self,
        n_trials: int = 20,
        sampler: BaseSampler | None = None,
        storage: str | BaseStorage | None = None,
        study_name: str | None = None,
        log10_temperature: tuple[float, float] = (-1.0, 1.0),
        n_at_once: int = 1,
        n_jobs: int | None = None,
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.n_trials = n_trials
        self.sampler = sampler
        self.storage = storage
        self.study_name = study_name
        self.log10_temperature = log10_temperature
        self.n_at_once = n_at_once
        self.n_jobs = n_jobs
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_has_metaparameters(self, space)
        check_trial_parameters(
            n_trials=self.n_trials,
            n_at_once=self.n_at_once,
            log10_temperature=self.log10_temperature,
            n_jobs=self.n_jobs,
        )
        ranges(space, self.log10_temperature)
        self._check_study()

    def _check_study(self) -> None:
        optuna = _imported()
        if not isinstance(self.sampler, (optuna.samplers.BaseSampler, type(None))):
            raise TypeError(
                f"sampler={self.sampler!r} must be a sampler of optuna, an instance and not its class, such "
                "as optuna.samplers.TPESampler(seed=0), or None."
            )
        if isinstance(self.sampler, (optuna.samplers.GridSampler, optuna.samplers.BruteForceSampler)):
            raise TypeError(
                f"sampler={type(self.sampler).__name__} ends a study by itself. "
                "Give the settings of a grid as meta=Shortlist(candidates)."
            )
        if not isinstance(self.storage, (str, optuna.storages.BaseStorage, type(None))):
            raise TypeError(
                f"storage={self.storage!r} must be the address of a database, such as "
                "'sqlite:///trials.db', a storage of optuna, or None."
            )
        if isinstance(self.storage, str) and "://" not in self.storage:
            raise ValueError(
                f"storage={self.storage!r} is not the address of a database. Give one with its kind, such as "
                "'sqlite:///trials.db' for a file."
            )
        if not isinstance(self.study_name, (str, type(None))):
            raise TypeError(f"study_name={self.study_name!r} must be a str or None.")
        if (self.storage is None) != (self.study_name is None):
            given, missing = (
                ("storage", "study_name") if self.study_name is None else ("study_name", "storage")
            )
            raise ValueError(
                f"{given}={getattr(self, given)!r} without {missing}. Give both, to store the study under a "
                "name for other processes, or neither, to keep it in memory."
            )
        if self.storage is not None:
            self._check_storage(optuna)

    def _check_storage(self, optuna: Any) -> None:
        """Raise ValueError if the storage cannot be opened, or the study in it does not minimise one loss."""
        try:
            storage = _opened(self.storage)
            study_id = storage.get_study_id_from_name(str(self.study_name))
        except KeyError:  # no such study yet
            return
        except Exception as error:  # each driver has its own
            raise ValueError(
                f"storage={self.storage!r} cannot be opened: {type(error).__name__}: {error}. Give the "
                "address of a database whose folder exists and whose driver is installed, such as "
                "'sqlite:///trials.db'."
            ) from error
        directions = storage.get_study_directions(study_id)
        if [direction.name for direction in directions] not in (["MINIMIZE"], ["NOT_SET"]):
            raise ValueError(
                f"study_name={self.study_name!r} in storage={self.storage!r} is a study of "
                f"{[direction.name.lower() for direction in directions]}, but a validation loss has to be "
                "minimised. Give another study_name for a new study."
            )

    def start(self, context: StartContext) -> Values:
        space, ranks = context.space, context.ranks
        drawn = _Drawn(space, ranges(space, self.log10_temperature))
        with _quiet():
            study = self._study(context)

            def table() -> np.ndarray:
                found: np.ndarray = ranks.broadcast(None if study is None else drawn.table(study))
                return found

            self.trials_ = table()
            n_done = len(self.trials_)
            progress = tqdm(total=self.n_trials, initial=n_done, unit="trial", disable=context.verbose <= 0)
            with progress:
                while n_done < self.n_trials:
                    self._try(min(self.n_at_once, self.n_trials - n_done), study, drawn, context)
                    self.trials_ = table()  # now, as a user may interrupt the next round
                    progress.update(len(self.trials_) - n_done)
                    n_done = len(self.trials_)
        return best_trial(self.trials_, space)

    def _study(self, context: StartContext) -> Study | None:
        """Return the study, which may have trials; None in all but the first process of a parallel training.

        Raises
        ------
        ValueError
            If the study belongs to another fit.
        """
        optuna = _imported()
        sampler, signature = copy.deepcopy(self.sampler), ""
        if sampler is None:
            seed = int(context.rng.integers(2**31 - 1)) if self.storage is None else None
            sampler = optuna.samplers.TPESampler(seed=seed)
        if self.storage is not None:
            signature = context.signature()
        if not context.ranks.is_first:
            return None
        study: Study = optuna.create_study(
            storage=_opened(self.storage), study_name=self.study_name, sampler=sampler, load_if_exists=True
        )
        if self.storage is not None:
            if study.get_trials(deepcopy=False):
                sampler.reseed_rng()  # a seed would draw the first trials again
            elif _SIGNATURE not in study.user_attrs:
                study.set_user_attr(_SIGNATURE, signature)
            if study.user_attrs.get(_SIGNATURE) != signature:
                raise ValueError(
                    f"study_name={self.study_name!r} is in storage={self.storage!r} already, with trials of "
                    "another fit, with other data or parameters or another random_state, whose losses cannot "
                    "be compared with those of this one. Give another study_name. To share the study, make "
                    "the same fit with an int as random_state."
                )
        return study

    def _try(self, n: int, study: Study | None, drawn: _Drawn, context: StartContext) -> None:
        """Ask for n trials, train their students, and tell the study the results."""
        failed = _imported().trial.TrialState.FAIL
        trials = [] if study is None else [study.ask(drawn.distributions) for _ in range(n)]
        settings = context.ranks.broadcast([drawn.setting(trial.params) for trial in trials])
        tried = run_trials(context, settings, self.n_jobs)
        if study is None:
            return
        for trial, row in zip(trials, tried, strict=True):
            trial.set_user_attr(_SECONDS, float(row["seconds"]))
            loss = float(row["val_loss"])
            told = {"values": loss} if math.isfinite(loss) else {"state": failed}
            study.tell(trial, **told)


class _Drawn:
    """Converts settings to and from Optuna's numbers: one per component, as values, not coordinates."""

    def __init__(self, space: MetaparameterSpace, found: dict[str, Range]):
        from optuna.distributions import FloatDistribution

        self._space = space
        self.distributions: dict[str, Any] = {}
        for name, within in found.items():
            ends, is_log = (within.value(within.low), within.value(within.high)), within.log_base is not None
            for label in self._labels(name):
                self.distributions[label] = FloatDistribution(*ends, log=is_log)

    def _labels(self, name: str) -> list[str]:
        """Return the names of a metaparameter's components."""
        entry = self._space[name]
        return [f"{name}[{k}]" for k in range(entry.size)] if entry.shape else [name]

    def setting(self, drawn: Mapping[str, float]) -> dict[str, Any]:
        """Convert values by component to values by metaparameter."""
        setting: dict[str, Any] = {}
        for name, entry in self._space.items():
            values = [drawn[label] for label in self._labels(name)]
            setting[name] = np.reshape(values, entry.shape) if entry.shape else values[0]
        return setting

    def table(self, study: Study) -> np.ndarray:
        """Return the finished trials of a study as a table of :func:`trials_dtype`."""
        finished = [
            trial
            for trial in study.get_trials(deepcopy=False)
            # A trial of a process that was killed while asking may lack parameters.
            if trial.state.is_finished() and trial.params.keys() >= self.distributions.keys()
        ]
        table = np.empty(len(finished), dtype=trials_dtype(self._space))
        for row, trial in zip(table, finished, strict=True):
            for name, value in self.setting(trial.params).items():
                row[name] = value
            row["val_loss"] = np.nan if trial.value is None else trial.value
            row["seconds"] = trial.user_attrs.get(_SECONDS, np.nan)
        return table


def _imported() -> Any:
    """Import optuna, an optional dependency."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "The strategy Optuna needs the package optuna. Install it, pip install 'sklearn-kd[optuna]', or "
            "set meta='hyperopt', whose package comes with sklearn-kd."
        ) from error
    return optuna


def _opened(storage: str | BaseStorage | None) -> BaseStorage:
    """Open a storage; try again if another process is just creating its tables."""
    for wait in _WAITS:
        try:
            return _imported().storages.get_storage(storage)
        except Exception as error:
            if "already exists" not in str(error):
                raise
            time.sleep(wait)
    return _imported().storages.get_storage(storage)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging each study and trial, except for warnings."""
    logging = _imported().logging
    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)
