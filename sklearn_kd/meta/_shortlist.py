"""Metaparameters chosen from a few settings, each of which stands for an answer to "whom to trust"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Strategy, Values, check_has_metaparameters
from sklearn_kd.meta._trials import best_trial, check_n_jobs, run_trials

# The teacher, both, the labels. They were chosen on ten tasks by examples/evidence/search_then_retrain.py,
# whose other tasks had no part in it.
CANDIDATES: tuple[dict[str, float], ...] = (
    {"lambda1": 0.05, "temperature": 2.0},
    {"lambda1": 0.6, "temperature": 1.0},
    {"lambda1": 0.95, "temperature": 2.0},
)


class Shortlist(Strategy):
    """The best of a few settings by L_val, then fixed throughout.

    Each candidate trains a fresh student on D_train, and is judged by L_val on all of D_val. Losses below
    0.1 / n_val count as equal, and of equal candidates the first is taken: where n_val rows are all right,
    they cannot say whom to trust, and the default trusts the teacher. The students
    share initialisation and batches; small ones are trained in one batched run. Few candidates that differ
    much are told apart by a small D_val, and by a part of the training: with ``search_epochs=1/3``, the
    default of the estimator, three candidates cost one training, and the retraining on all rows another.

    Parameters
    ----------
    candidates : sequence of dict of str to float, or None, default=None
        Values by the metaparameters' names; one that is left out has its start. None, for losses with
        lambda1, with T or without: (0.05, 2), which trusts the teacher; (0.6, 1), which trusts both;
        (0.95, 2), which trusts the labels; each value is moved into the bounds of the loss. Other
        metaparameters of the loss keep their start then.
    n_jobs : int or None, default=None
        Processes for students that are not trained in one run, as joblib reads the number.
    val_temperature : float or "auto", default="auto"
        T_val of the validation loss, as in :class:`Strategy`; with "auto" each candidate's own.

    Attributes
    ----------
    trials_ : structured array of shape (n_candidates,)
        The metaparameters, ``val_loss`` and ``seconds`` (an equal share of those of all), in the order given.

    See Also
    --------
    Hyperopt : Tries settings that it chooses itself.

    Examples
    --------
    A teacher that says the same of every row is not trusted:

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
                    f"{self!r}, the default, has candidates for lambda1 and T alone, but the loss has no "
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
        """Return whether all candidates have a value of their own for a metaparameter."""
        candidates = CANDIDATES if self.candidates is None else self.candidates
        return all(name in candidate for candidate in candidates)

    def start(self, context: StartContext) -> Values:
        settings = [
            context.space.completed(context.start, candidate) for candidate in self._listed(context.space)
        ]
        self.trials_ = run_trials(context, settings, self.n_jobs)
        return best_trial(self.trials_, context.space)
