"""Metaparameters chosen by trials: the tree-structured Parzen estimator of hyperopt."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from sklearn_kd.meta._strategy import Setting, Strategy

TRIALS_DTYPE = np.dtype([(name, np.float64) for name in ("lambda1", "temperature", "val_loss", "seconds")])


class Hyperopt(Strategy):
    """The best of ``n_trials`` fixed settings by L_val, then fixed throughout.

    Each trial trains a fresh student on D_train at lambda1 ~ U(0, 1), log10 T ~ U(−1, 1)
    and is judged by L_val on all of D_val. Trial and final student share initialisation
    and batches. A progress bar appears when the estimator is verbose.

    Parameters
    ----------
    n_trials : int, default=5
    n_startup_trials : int, default=2
        Trials drawn at random before the model of the losses guides them. hyperopt's own
        default is 20, which makes the paper's 5 trials a random search: set it to
        ``n_trials`` for that.
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T. It is the method's own and knows no ``temperature_bounds``.

    Attributes
    ----------
    trials_ : structured array of shape (n_trials,)
        Fields ``lambda1``, ``temperature``, ``val_loss``, ``seconds``, in the order tried.
    """

    learns_from_validation = True

    def __init__(
        self,
        n_trials: int = 5,
        n_startup_trials: int = 2,
        log10_temperature: tuple[float, float] = (-1.0, 1.0),
    ):
        self.n_trials = n_trials
        self.n_startup_trials = n_startup_trials
        self.log10_temperature = log10_temperature

    def check(self) -> None:
        for name in ("n_trials", "n_startup_trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1.")

    def start(self, setting: Setting) -> tuple[float, float]:
        from hyperopt import STATUS_FAIL, STATUS_OK, fmin, hp, tpe

        tried = []

        def objective(draw):
            lambda1, temperature = float(draw["lambda1"]), float(10 ** draw["log10_temperature"])
            began = time.perf_counter()
            loss = setting.evaluate(lambda1, temperature)
            tried.append((lambda1, temperature, loss, time.perf_counter() - began))
            return {"loss": loss, "status": STATUS_OK if np.isfinite(loss) else STATUS_FAIL}

        fmin(
            objective,
            space={
                "lambda1": hp.uniform("lambda1", 0.0, 1.0),
                "log10_temperature": hp.uniform("log10_temperature", *self.log10_temperature),
            },
            algo=partial(tpe.suggest, n_startup_jobs=self.n_startup_trials),
            max_evals=self.n_trials,
            rstate=setting.rng,
            verbose=False,
            show_progressbar=setting.verbose > 0,
        )
        self.trials_ = np.array(tried, dtype=TRIALS_DTYPE)
        best = self.trials_[np.nanargmin(self.trials_["val_loss"])]
        return float(best["lambda1"]), float(best["temperature"])
