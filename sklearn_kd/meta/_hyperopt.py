"""Choose metaparameters by trials with hyperopt's tree-structured Parzen estimator."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Strategy, Values, check_has_metaparameters
from sklearn_kd.meta._trials import Range, best_trial, check_trial_parameters, ranges, run_trials


class Hyperopt(Strategy):
    """Choose the best of ``n_trials`` fixed settings by L_val, and keep it.

    Each trial trains a new student on D_train at lambda1 ~ U(0, 1), log10 T ~ U(−1, 1), and at other
    metaparameters within their bounds, and is judged by L_val on all of D_val. Trials and final student
    share initialisation and batches. If the estimator is verbose, a progress bar is shown.

    Parameters
    ----------
    n_trials : int, default=5
        Number of trials.
    n_startup_trials : int, default=2
        Trials drawn at random before the model of the losses guides them. hyperopt's own default is 20,
        which makes the paper's 5 trials a random search: set it to ``n_trials`` for that. The startup trials
        are independent, so small students are trained in one batched run.
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T, the temperature of the loss "kd". It belongs to this method and ignores
        ``temperature_bounds``.
    n_guided_at_once : int, default=1
        Number of guided trials requested at once, and trained like the startup trials. Each is chosen
        without the losses of the others, which count as infinite until they are known: several at once
        finish sooner but learn less. 1 is hyperopt's sequential algorithm.
    n_jobs : int or None, default=None
        Processes for trials that are not trained in one run, as in joblib.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Attributes
    ----------
    trials_ : structured array of shape (n_trials,)
        The metaparameters, ``val_loss`` and ``seconds`` (an equal share among the trials made at once), in
        the order tried.

    Examples
    --------
    Twelve trials, in three rounds of four:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.meta import Hyperopt
    >>> meta = Hyperopt(n_trials=12, n_startup_trials=4, n_guided_at_once=4)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10, random_state=0), MLPStudent, meta=meta, max_epochs=5, random_state=0)
    >>> trials = clf.fit(*load_iris(return_X_y=True)).trials_
    >>> len(trials), bool(clf.lambda1_ == trials["lambda1"][trials["val_loss"].argmin()])
    (12, True)
    """

    learns_from_validation = True

    def __init__(
        self,
        n_trials: int = 5,
        n_startup_trials: int = 2,
        log10_temperature: tuple[float, float] = (-1.0, 1.0),
        n_guided_at_once: int = 1,
        n_jobs: int | None = None,
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.n_trials = n_trials
        self.n_startup_trials = n_startup_trials
        self.log10_temperature = log10_temperature
        self.n_guided_at_once = n_guided_at_once
        self.n_jobs = n_jobs
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_has_metaparameters(self, space)
        check_trial_parameters(
            n_trials=self.n_trials,
            n_startup_trials=self.n_startup_trials,
            n_guided_at_once=self.n_guided_at_once,
            log10_temperature=self.log10_temperature,
            n_jobs=self.n_jobs,
        )
        ranges(space, self.log10_temperature)

    def start(self, context: StartContext) -> Values:
        space = context.space
        found = ranges(space, self.log10_temperature)
        parzen = _Parzen(space, found, self.n_startup_trials, context.rng)
        rounds: list[np.ndarray] = []
        n_done = 0
        with tqdm(total=self.n_trials, unit="trial", disable=context.verbose <= 0) as progress:
            while n_done < self.n_trials:
                at_once = self.n_guided_at_once if rounds else self.n_startup_trials
                settings = parzen.ask(min(at_once, self.n_trials - n_done))
                rounds.append(run_trials(context, settings, self.n_jobs))
                self.trials_ = np.concatenate(rounds)  # now, as a user may interrupt the next round
                parzen.tell(rounds[-1]["val_loss"])
                n_done += len(settings)
                progress.update(len(settings))
        return best_trial(self.trials_, space)


class _Parzen:
    """An ask-and-tell interface to hyperopt's tree-structured Parzen estimator.

    ``hyperopt.fmin`` asks, evaluates and tells in one loop; this class asks for several trials at once.
    """

    def __init__(
        self,
        space: MetaparameterSpace,
        found: dict[str, Range],
        n_startup_trials: int,
        rng: np.random.Generator,
    ):
        from hyperopt import Trials, hp
        from hyperopt.base import Domain

        self._space, self._ranges = space, found
        drawn = {
            label: hp.uniform(label, found[name].low, found[name].high)
            for name in space
            for label in self._labels(name)
        }
        self._domain, self._trials = Domain(None, drawn), Trials()
        self._n_startup_trials, self._rng = n_startup_trials, rng
        self._asked: list[Any] = []

    def _labels(self, name: str) -> list[str]:
        """Return hyperopt's labels for a metaparameter's components."""
        label, entry = self._ranges[name].label, self._space[name]
        return [f"{label}[{k}]" for k in range(entry.size)] if entry.shape else [label]

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next n settings."""
        self._asked = [self._suggested() for _ in range(n)]
        return [self._setting(doc["misc"]["vals"]) for doc in self._asked]

    def _setting(self, drawn: dict[str, list[float]]) -> dict[str, Any]:
        setting: dict[str, Any] = {}
        for name, entry in self._space.items():
            values = [float(self._ranges[name].value(drawn[label][0])) for label in self._labels(name)]
            setting[name] = np.reshape(values, entry.shape) if entry.shape else values[0]
        return setting

    def tell(self, losses: np.ndarray) -> None:
        """Record the losses of the trials returned by the last :meth:`ask`."""
        from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK

        for doc, loss in zip(self._asked, losses, strict=True):
            status = STATUS_OK if np.isfinite(loss) else STATUS_FAIL
            doc["state"], doc["result"] = JOB_STATE_DONE, {"loss": float(loss), "status": status}
        self._trials.refresh()

    def _suggested(self) -> Any:
        """Suggest one more trial; trials without a loss yet count as the worst."""
        from hyperopt import tpe

        ids, seed = self._trials.new_trial_ids(1), self._rng.integers(2**31 - 1)
        docs = tpe.suggest(
            ids, self._domain, self._trials, seed, n_startup_jobs=self._n_startup_trials, verbose=False
        )
        self._trials.insert_trial_docs(docs)
        self._trials.refresh()
        return next(doc for doc in self._trials.trials if doc["tid"] == ids[0])
