"""Draw metaparameters at random: the baseline, and random search."""

from __future__ import annotations

from typing import Literal

from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Strategy, Values, check_has_metaparameters
from sklearn_kd.meta._trials import best_trial, check_trial_parameters, draw_setting, ranges, run_trials


class Random(Strategy):
    """Keep one random draw, lambda1 ~ U(0, 1), log10 T ~ U(−1, 1), or the best of several.

    The paper's text draws log10 T in this way; its comparison drew T ~ U(0.1, 10). Other metaparameters are
    drawn uniformly within their bounds, or uniformly in the logarithm if that is their coordinate.

    Parameters
    ----------
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T, the temperature of the loss "kd". It belongs to this baseline and ignores
        ``temperature_bounds``.
    n_trials : int, default=1
        1: use the draw as it is, and train the student on all of D. More: random search, in which each draw
        trains a new student on D_train, and the best by L_val on D_val is used. The first draw is the same
        in both cases. The trials are independent, so small students are trained in one batched run.
    n_jobs : int or None, default=None
        Processes for trials that are not trained in one run, as in joblib.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Attributes
    ----------
    trials_ : structured array of shape (n_trials,)
        Only if ``n_trials > 1``: the metaparameters, ``val_loss`` and ``seconds`` (an equal share of the
        total), in the order drawn.

    Examples
    --------
    Random search with six draws:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.meta import Random
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10, random_state=0), MLPStudent, meta=Random(n_trials=6), max_epochs=5,
    ...     random_state=0)
    >>> trials = clf.fit(*load_iris(return_X_y=True)).trials_
    >>> bool(clf.lambda1_ == trials["lambda1"][trials["val_loss"].argmin()])
    True
    """

    def __init__(
        self,
        log10_temperature: tuple[float, float] = (-1.0, 1.0),
        n_trials: int = 1,
        n_jobs: int | None = None,
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.log10_temperature = log10_temperature
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.val_temperature = val_temperature

    @property
    def learns_from_validation(self) -> bool:  # type: ignore[override]
        """True if there is more than one trial to choose from."""
        return self.n_trials > 1

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_trial_parameters(
            n_trials=self.n_trials, log10_temperature=self.log10_temperature, n_jobs=self.n_jobs
        )
        if self.n_trials > 1:
            check_has_metaparameters(self, space)
        ranges(space, self.log10_temperature)

    def start(self, context: StartContext) -> Values:
        space, found = context.space, ranges(context.space, self.log10_temperature)
        draws = [draw_setting(space, found, context.rng) for _ in range(self.n_trials)]
        if len(draws) == 1:
            return draws[0]
        self.trials_ = run_trials(context, draws, self.n_jobs)
        return best_trial(self.trials_, space)
