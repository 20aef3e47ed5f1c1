"""Choose metaparameters from a few settings, each an answer to the question "whom to trust"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Strategy, Values, check_has_metaparameters
from sklearn_kd.meta._trials import best_trial, check_n_jobs, run_trials

# Trust the teacher, both, or the labels. They were chosen on ten tasks of
# examples/evidence/search_then_retrain.py; its other tasks were not used.
CANDIDATES: tuple[dict[str, float], ...] = (
    {"lambda1": 0.05, "temperature": 2.0},
    {"lambda1": 0.6, "temperature": 1.0},
    {"lambda1": 0.95, "temperature": 2.0},
)


class Shortlist(Strategy):
    """Choose the best of a few settings by L_val, and keep it.

    Each candidate trains a new student on D_train, and is judged by L_val on all of D_val. Losses below 0.1
    / n_val count as equal, and among equal candidates the first is taken: if all n_val rows are predicted
    correctly, they cannot show whom to trust, and the default trusts the teacher. The students share
    initialisation and batches; small ones are trained in one batched run. A small D_val and a part of the
    training suffice to distinguish a few very different candidates. With ``search_epochs=1/3``, the
    estimator's default, three candidates cost one training, and the retraining on all rows costs another.

    Parameters
    ----------
    candidates : sequence of dict of str to float, or None, default=None
        Values by metaparameter name; a missing one keeps its initial value. None, for losses with lambda1
        (and possibly T): (0.05, 2), which trusts the teacher; (0.6, 1), which trusts both; (0.95, 2), which
        trusts the labels. Each value is moved into the bounds of the loss, and other metaparameters keep
        their initial value.
    n_jobs : int or None, default=None
        Processes for students that are not trained in one run, as in joblib.
    val_temperature : float or "auto", default="auto"
        T_val of the validation loss, as in :class:`Strategy`. "auto": each candidate has its own.

    Attributes
    ----------
    trials_ : structured array of shape (n_candidates,)
        The metaparameters, ``val_loss`` and ``seconds`` (an equal share of the total), in the order given.

    See Also
    --------
    Hyperopt : Chooses the settings to try itself.

    Examples
    --------
    A teacher that predicts the same for every row is not trusted:

    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_digits(return_X_y=True)
    >>> same = np.tile(np.arange(10.0), (500, 1))
    >>> clf = DistilledClassifier(
    ...     None, MLPStudent, meta="shortlist", max_epochs=12, random_state=0)
    >>> clf.fit(X[:500], y[:500], teacher_logits=same).lambda1_
    0.95
    >>> clf.trials_["lambda1"]
    array([0.05, 0.6 , 0.95])
    """

    learns_from_validation = True

    def __init__(
        self,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        *,
        n_jobs: int | None = None,
        val_temperature: float | Literal["auto"] = "auto",
    ):
        self.candidates = candidates
        self.n_jobs = n_jobs
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_has_metaparameters(self, space)
        check_n_jobs(self.n_jobs)
        for candidate in self._listed(space):
            unknown = [name for name in candidate if name not in space]
            if unknown:
                raise ValueError(
                    f"candidates has {dict(candidate)!r}, but the loss has no metaparameter {unknown[0]!r}; "
                    f"it has {list(space)}."
                )
            part = MetaparameterSpace({name: space[name] for name in candidate})
            with error_context("candidates"):
                part.check_within_bounds(part.completed({}, candidate))

    def _listed(self, space: MetaparameterSpace) -> Sequence[Mapping[str, Any]]:
        """Return the candidates as given, or those for lambda1 and T."""
        if self.candidates is None:
            missing = sorted({"lambda1"} - set(space))
            if missing:
                raise ValueError(
                    f"{self!r}, the default, has candidates only for lambda1 and T, but the loss has no "
                    f"{missing}; its metaparameters are {list(space)}. Set meta='fixed', which keeps "
                    "them, or meta='linear', which learns any, or give candidates, a list of dicts of values "
                    "by name."
                )
            return [
                {n: float(np.clip(value, *space[n].bounds)) for n, value in candidate.items() if n in space}
                for candidate in CANDIDATES
            ]
        given = self.candidates
        if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence) or not given:
            raise ValueError(
                f"candidates={given!r} must be a list of dicts of values by name, at least one, such as "
                "[{'lambda1': 0.5, 'temperature': 4}]."
            )
        for candidate in given:
            if not isinstance(candidate, Mapping):
                raise ValueError(
                    f"candidates has {candidate!r}, which must be a dict of values by name, such as "
                    "{'lambda1': 0.5, 'temperature': 4}."
                )
        return given

    def sets(self, name: str) -> bool:
        """Return True if every candidate states a value for a metaparameter."""
        candidates = CANDIDATES if self.candidates is None else self.candidates
        return all(name in candidate for candidate in candidates)

    def start(self, context: StartContext) -> Values:
        settings = [
            context.space.completed(context.start, candidate) for candidate in self._listed(context.space)
        ]
        self.trials_ = run_trials(context, settings, self.n_jobs)
        return best_trial(self.trials_, context.space)
