"""The feature terms of a fit: their layers, their metaparameters, and those a retraining drops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sklearn_kd.distpro._importance import IMPORTANCE, importance_steps
from sklearn_kd.distpro._term import Pathways
from sklearn_kd.errors._context import error_context
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.estimators._named_terms import FEATURE_TERMS
from sklearn_kd.estimators._preflight import initial_student, refuse_hidden_layers
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.inputs._data import as_input
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._raw_rows import RawRows
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.inputs._validation import ValidatedInputs
from sklearn_kd.losses._bound_terms import BoundTerm, PairedTerm
from sklearn_kd.losses._feature_term import AUTO_LAYERS, KINDS, TERM_WEIGHTS, FeatureTerm
from sklearn_kd.losses._labels_alone import LabelLoss
from sklearn_kd.losses._loss_list import ListedLosses
from sklearn_kd.losses._objective import Objective
from sklearn_kd.losses._term_weights import NamedWeights
from sklearn_kd.meta import Fixed, Shortlist
from sklearn_kd.meta._path import MetaOptimizer
from sklearn_kd.meta._space import HISTORY_COLUMNS, Metaparameter
from sklearn_kd.meta._strategy import Strategy
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.teachers._paired_layers import features_of_both, find_layers_of_both

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller

# Learning rate of the logarithms of the weights, if no term sets one.
IMPORTANCE_LR = 0.05
# A retraining drops a term if none of its weights exceeds this share of its start value.
VANISHED = 0.02


class FittedTerm(NamedTuple):
    """A feature term as a fit used it.

    Attributes
    ----------
    teacher_layers, student_layers : tuple of str
        Names of the layers that the term compares.
    is_trained : bool
        Whether the returned student was trained on the term. False: its weight vanished in the search, and
        the retraining dropped it.
    """

    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    is_trained: bool


@dataclass(frozen=True, eq=False)
class FeatureTerms:
    """The feature terms of one fit, bound to layers.

    Attributes
    ----------
    terms : dict of str to FeatureTerm
        By name.
    bound : dict of str to BoundTerm
    teacher : FeatureTeacher
    """

    terms: Mapping[str, FeatureTerm]
    bound: Mapping[str, BoundTerm]
    teacher: FeatureTeacher

    @property
    def metaparameters(self) -> dict[str, Metaparameter]:
        """Metaparameters of the terms by name, in the order of :attr:`bound`."""
        found: dict[str, Metaparameter] = {}
        for bound in self.bound.values():
            found |= _entries(bound, self.terms[bound.name])
        return found

    def signature(self, samples: Tensor) -> Tensor:
        """Return means of the teacher's features, from which a checkpoint recognises the teacher."""
        layers = dict.fromkeys(
            layer for bound in self.bound.values() for layer in bound.teacher_layers(range(bound.n_losses))
        )
        return self.teacher.signature(samples, list(layers))

    def steps(self) -> dict[str, MetaOptimizer]:
        """Return the optimizers of the weights: Adam, since hypergradients may have any scale."""
        rates = [term.importance_lr for term in self.terms.values() if isinstance(term, Pathways)]
        return {TERM_WEIGHTS: importance_steps((rates or [IMPORTANCE_LR])[0])}

    def pruned(
        self, schedule: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray] | None = None
    ) -> FeatureTerms:
        """Return the terms without those whose weights have vanished.

        Parameters
        ----------
        schedule : mapping of str to ndarray of shape (n_steps, ...)
            The metaparameters of a retraining at all its steps.
        given : mapping of str to ndarray, or None
            Values of a given process: a weight is compared with its largest value there, because the process
            may have started elsewhere than these terms. None: the process was found with these terms.
        """
        kept = {
            name: _pruned(self.terms[name], bound, schedule, given or {})
            for name, bound in self.bound.items()
        }
        left = {name: bound for name, bound in kept.items() if bound is not None}
        return FeatureTerms(self.terms, left, self.teacher)

    def fitted(self, objective: Objective) -> dict[str, FittedTerm]:
        """Return each term's entry in the fitted estimator; ``objective`` is that of the last net."""
        trained = [bound.name for bound in getattr(objective, "terms", [])]
        found = {}
        for name, bound in self.bound.items():
            every = range(bound.n_losses)
            layers = tuple(bound.teacher_layers(every)), tuple(bound.student_layers(every))
            found[name] = FittedTerm(*layers, name in trained)
        return found


def _entries(bound: BoundTerm, term: FeatureTerm) -> dict[str, Metaparameter]:
    name, factors = bound.name, {}
    if isinstance(term, Pathways):
        pathways: Any = bound
        factors = {f"{name}_{IMPORTANCE}": term.importance(bound.n_losses, pathways.components)}
    with error_context(f"loss: term {name!r}"):
        return factors | {f"{name}_{weight}": entry for weight, entry in term.metaparameters().items()}


def _pruned(
    term: FeatureTerm,
    bound: BoundTerm,
    schedule: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray],
) -> BoundTerm | None:
    names = {weight: f"{bound.name}_{weight}" for weight in term.weight_names}
    shares = [
        schedule[name].max() / np.max(given.get(name, getattr(term, weight))) if name in schedule else 1.0
        for weight, name in names.items()
    ]
    if max(shares) <= VANISHED:
        return None
    if isinstance(term, Pathways):
        found: Any = bound
        return term.pruned(found, schedule[f"{bound.name}_{IMPORTANCE}"])
    return bound


# --------------------------------------------------------------------------------------
# The layers


def check_terms(terms: Mapping[str, FeatureTerm]) -> None:
    """Raise ValueError or TypeError if parameters of terms cannot be used; errors name the term."""
    for name, term in terms.items():
        with error_context(f"loss: term {name!r}"):
            _check_attributes(term)
            term.check()
            term.metaparameters()
    pathways = {name: t.importance_lr for name, t in terms.items() if isinstance(t, Pathways)}
    if len(set(pathways.values())) > 1:
        raise ValueError(
            f"loss: the terms {list(pathways)} have different importance_lr, {list(pathways.values())}; "
            "their factors have one optimizer. Give them the same."
        )


def _check_attributes(term: FeatureTerm) -> None:
    """Raise ValueError if a term's class attributes about its features have unknown values."""
    who = type(term).__name__
    if term.auto not in AUTO_LAYERS:
        raise ValueError(
            f"{who}.auto={term.auto!r} is not known.{did_you_mean(str(term.auto), AUTO_LAYERS)} It is one of "
            f"{list(AUTO_LAYERS)}."
        )
    if isinstance(term.kinds, str) or not term.kinds or not set(term.kinds) <= set(KINDS):
        raise ValueError(f"{who}.kinds={term.kinds!r} must be a tuple with one or both of {list(KINDS)}.")


def without_candidates(strategy: Strategy, losses: ListedLosses) -> Strategy:
    """Replace the default strategy by Fixed if the outputs have the labels' loss alone, without lambda1."""
    is_default = type(strategy) is Shortlist and strategy.candidates is None
    if is_default and isinstance(losses.of_outputs, LabelLoss):
        return Fixed(val_temperature=strategy.val_temperature)
    return strategy


def check_suits_terms(strategy: Strategy, execution: Execution) -> None:
    """Refuse an execution or a strategy with which features cannot be compared.

    Raises
    ------
    ValueError
        Names the parameter.
    """
    refuse_hidden_layers(execution, " with feature terms in loss")
    if strategy.hypergradient_rows is not None:
        raise ValueError(
            f"meta__hypergradient_rows={strategy.hypergradient_rows!r} with feature terms in loss, which "
            "need whole batches. Set meta__hypergradient_rows=None."
        )


def bound_features(
    estimator: BaseDistiller, strategy: Strategy, terms: Mapping[str, FeatureTerm], inputs: ValidatedInputs
) -> FeatureTerms | None:
    """Find the layers that the terms compare, by running teacher and student on two rows of X.

    Returns
    -------
    FeatureTerms or None
        None: there are no terms, or the strategy needs no teacher.

    Raises
    ------
    ValueError
        If there is no teacher, a term cannot compare its layers with the student's, or a term's loss cannot
        be used.
    TypeError
        If the teacher is not a network.
    """
    if not terms or not strategy.needs_teacher:
        return None
    samples, task = _samples(estimator, terms, inputs), inputs.task
    if estimator.teacher is None:
        raise ValueError(
            f"teacher=None has no layers, but {list(terms)} in loss compare the teacher's layers with the "
            "student's. Give a trained network as teacher, or leave these terms out."
        )
    teacher = FeatureTeacher(estimator._asked_teacher(), estimator._device())
    student = initial_student(
        estimator.student,
        estimator._student_params(),
        samples,
        task.n_outputs,
        seed=0,
        numeric=task.numeric,
        map_shape=task.map_shape,
    )
    of_maps = bool(task.map_shape)
    bound = {}
    for name, term in terms.items():
        with error_context(f"loss: term {name!r}"):
            bound[name] = _bound(name, term, teacher, student, samples, of_maps)
    return FeatureTerms(terms, bound, teacher)


def check_names(features: FeatureTerms, of_outputs: Iterable[str]) -> None:
    """Refuse names of terms that would clash in the history or among the metaparameters.

    Parameters
    ----------
    features : FeatureTerms
    of_outputs : iterable of str
        The metaparameters of the loss of the outputs.

    Raises
    ------
    ValueError
        Names the term.
    """
    taken = {*HISTORY_COLUMNS, *of_outputs}
    for name, bound in features.bound.items():
        entries = _entries(bound, features.terms[name])
        fixed = [f"{name}_{weight}" for weight in features.terms[name].weight_names]
        own = dict.fromkeys([*bound.recorded, *entries, *fixed])
        twice = [one for one in own if one in taken]
        if twice:
            raise ValueError(
                f"loss: {name!r} cannot be the name of a term: its {twice[0]!r} is already the name of a "
                "column of history_ or of a metaparameter. Give the term another name: loss=[..., ('NAME', "
                "term)]."
            )
        taken |= set(own)


def as_trained(teacher: Any) -> Any:
    """Return the teacher in a form that is not fitted again, since its features are used as they are."""
    fits_again = isinstance(teacher, BaseEstimator) and hasattr(type(teacher), "student_")
    return FrozenEstimator(teacher) if fits_again else teacher


def gives_outputs_with_features(
    estimator: BaseDistiller, features: FeatureTerms | None, teacher: Any, inputs: ValidatedInputs
) -> bool:
    """Make the feature teacher return its outputs too, if it is asked while the student trains.

    Returns
    -------
    bool
        Whether it does, so that outputs need not be asked for separately. False if they are asked for before
        the training, and if y has several labels.
    """
    task = inputs.task
    if features is None or teacher is None or estimator.augment is None or has_several_labels(task):
        return False
    samples = _samples(estimator, features.terms, inputs)
    if isinstance(task, Regression):
        features.teacher.align_numbers(samples, task)
    else:
        features.teacher.align_logits(samples, task.output_labels, inputs.teacher_columns, task.map_shape)
    return True


def _samples(estimator: BaseDistiller, terms: Mapping[str, FeatureTerm], inputs: ValidatedInputs) -> Tensor:
    """Return two rows of X on the device; refuse an X whose rows are not one tensor for both networks."""
    rows: Any = inputs.rows
    if isinstance(rows, RawRows) or estimator.student_preprocessing is not None:
        raise ValueError(
            f"student_preprocessing with {list(terms)} in loss, which compare layers of both networks on "
            "the same rows. Give X as numbers and student_preprocessing=None, or leave these terms out."
        )
    if isinstance(rows, Parts):
        raise ValueError(
            f"X has several parts, but {list(terms)} in loss compare layers on one array. Give X as one "
            "array, or leave these terms out."
        )
    if inputs.is_loaded:
        return as_input(rows.samples.to(estimator._device()))
    first = rows[np.arange(min(2, len(rows)))]
    dense = first.matrix.toarray() if isinstance(first, SparseRows) else np.asarray(first)
    return torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32)).to(estimator._device())


def _bound(
    name: str, term: FeatureTerm, teacher: FeatureTeacher, student: nn.Module, samples: Tensor, of_maps: bool
) -> BoundTerm:
    if (
        samples.ndim == 2
        and term.teacher_layers == term.student_layers == "auto"
        and "rows" not in term.kinds
    ):
        takers = [taker for taker, kind in FEATURE_TERMS.items() if "rows" in kind.kinds]
        raise ValueError(
            f"{type(term).__name__} compares maps, but networks for tables have none. Give a term that takes "
            f"rows: {takers}; or name layers that return maps."
        )
    if isinstance(term, Pathways):
        return term.bound(name, teacher, student, samples, of_maps=of_maps)
    of_teacher, of_student = find_layers_of_both(
        teacher,
        student,
        samples,
        teacher_layers=term.teacher_layers,
        student_layers=term.student_layers,
        kinds=term.kinds,
        auto=term.auto,
        of_maps=of_maps,
    )
    if len(of_teacher) != len(of_student):
        raise ValueError(
            f"there are {len(of_teacher)} teacher_layers, {list(of_teacher)}, and {len(of_student)} "
            f"student_layers, {list(of_student)}; they are compared in pairs. Name the same number of both."
        )
    term.check_shapes(list(of_student.values()), list(of_teacher.values()))
    learned = term.metaparameters()
    weights = [
        f"{name}_{weight}" if weight in learned else float(getattr(term, weight))
        for weight in term.weight_names
    ]
    bound = PairedTerm(name, term, of_student, of_teacher, NamedWeights(weights))
    with preserved_random_state(samples.device, seed=0):
        bound.check(*features_of_both(teacher, student, samples, of_teacher, of_student))
    return bound
