"""Metaparameters chosen by trials that a sampler of Optuna suggests, in a study that may be shared."""

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

# Attributes of a study and of a trial: what the losses depend on beside the setting, and the seconds taken.
_SIGNATURE, _SECONDS = "sklearn_kd:signature", "sklearn_kd:seconds"
# Seconds to wait for a process that makes the tables of a storage.
_WAITS = 0.2, 1.0, 5.0


class Optuna(Strategy):
    """The best of ``n_trials`` settings that a sampler of Optuna suggests, then fixed throughout.

    Each trial trains a fresh student on D_train, as those of :class:`Hyperopt` and :class:`Random` are, from
    the same ranges, and is judged by L_val on all of D_val. With a ``storage`` several processes, on one
    machine or on many, share one study: each learns from the trials of all. Needs the package optuna:
    ``pip install sklearn-kd[optuna]``.

    Parameters
    ----------
    n_trials : int, default=20
        Finished trials of the study. Those of all processes that share it count, and those of earlier fits,
        so that a fit that was killed is continued. Processes that end a trial at the same time may make one
        more each.
    sampler : optuna.samplers.BaseSampler or None, default=None
        Copied for each fit, and seeded anew where the study has trials already, so that they are not drawn
        again. None: ``TPESampler``, whose first 10 trials are drawn at random, under a seed
        drawn by ``random_state``; with a ``storage`` without a seed, so that processes try other settings.
    storage : str, optuna.storages.BaseStorage or None, default=None
        Where the study is kept, such as ``"sqlite:///trials.db"``. None: in memory.
    study_name : str or None, default=None
        Name of the study in the storage, which is made if it is not there.
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T, the temperature of the loss "kd". It is the method's own and knows no
        ``temperature_bounds``.
    n_at_once : int, default=1
        Trials asked for at once, each suggested without the losses of the others: small students are trained
        in one batched run, others in ``n_jobs`` processes.
    n_jobs : int or None, default=None
        Processes for trials that are not trained in one run, as joblib reads the number.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Raises
    ------
    ImportError
        If optuna is not installed.
    ValueError
        If a parameter cannot be used, the storage cannot be opened, or the study in it is that of another
        fit: of other data, parameters or ``random_state``, with losses that cannot be compared.

    Attributes
    ----------
    trials_ : structured array
        The metaparameters, ``val_loss`` (NaN: not finite), ``seconds`` of the finished trials of the study,
        by their number.

    See Also
    --------
    Hyperopt : Asks hyperopt, which comes with this library.

    Notes
    -----
    Without storage a fit repeats to the bit under its ``random_state``, and with a storage under a
    ``sampler`` that has a seed, as long as no other process shares the study.

    Whether a study belongs to the fit is told by the estimator's parameters, its seeds, the labels, the first
    rows of X and the teacher's answers about some. Where another process has trained the best trial, the
    retraining begins afresh.

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

    The same call in several processes shares their trials, if they have a place to share::

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
                f"storage={self.storage!r} is no address of a database. Give one with its kind, such as "
                "'sqlite:///trials.db' for a file."
            )
        if not isinstance(self.study_name, (str, type(None))):
            raise TypeError(f"study_name={self.study_name!r} must be a str or None.")
        if (self.storage is None) != (self.study_name is None):
            given, missing = (
                ("storage", "study_name") if self.study_name is None else ("study_name", "storage")
            )
            raise ValueError(
                f"{given}={getattr(self, given)!r} without {missing}. Give both, to keep the study under a "
                "name where other processes find it, or neither, to keep it in memory."
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
                "address of a database whose folder is there and whose driver is installed, such as "
                "'sqlite:///trials.db'."
            ) from error
        directions = storage.get_study_directions(study_id)
        if [direction.name for direction in directions] not in (["MINIMIZE"], ["NOT_SET"]):
            raise ValueError(
                f"study_name={self.study_name!r} in storage={self.storage!r} is a study of "
                f"{[direction.name.lower() for direction in directions]}, and a validation loss is to be "
                "minimised. Give another study_name, under which a study is made."
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
                    self.trials_ = table()  # at once: a user may end the next round
                    progress.update(len(self.trials_) - n_done)
                    n_done = len(self.trials_)
        return best_trial(self.trials_, space)

    def _study(self, context: StartContext) -> Study | None:
        """Return the study, which may have trials; None in all processes but the first that train a student.

        Raises
        ------
        ValueError
            If it is that of another fit.
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
                    "another fit: of other data or parameters, or of another random_state, so that their "
                    "losses cannot be compared with those of this one. Give another study_name; to share the "
                    "study, an equal fit with an int as random_state."
                )
        return study

    def _try(self, n: int, study: Study | None, drawn: _Drawn, context: StartContext) -> None:
        """Ask for n trials, train their students, and tell the study how they went."""
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
    """Settings as Optuna draws them: a number for each component, in its values, not its coordinates."""

    def __init__(self, space: MetaparameterSpace, found: dict[str, Range]):
        from optuna.distributions import FloatDistribution

        self._space = space
        self.distributions: dict[str, Any] = {}
        for name, within in found.items():
            ends, is_log = (within.value(within.low), within.value(within.high)), within.log_base is not None
            for label in self._labels(name):
                self.distributions[label] = FloatDistribution(*ends, log=is_log)

    def _labels(self, name: str) -> list[str]:
        """Return the names of the components of a metaparameter."""
        entry = self._space[name]
        return [f"{name}[{k}]" for k in range(entry.size)] if entry.shape else [name]

    def setting(self, drawn: Mapping[str, float]) -> dict[str, Any]:
        """Return the values by metaparameter of those by component."""
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
            # One of a process that was killed as it asked may lack parameters.
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
    """Import optuna, which is no requirement of this library."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "The strategy Optuna needs the package optuna. Install it, pip install 'sklearn-kd[optuna]', or "
            "set meta='hyperopt', whose package comes with sklearn-kd."
        ) from error
    return optuna


def _opened(storage: str | BaseStorage | None) -> BaseStorage:
    """Open a storage; try again where another process makes its tables in the same moment."""
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
    """Keep Optuna from reporting each study and trial; warnings are given."""
    logging = _imported().logging
    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)
