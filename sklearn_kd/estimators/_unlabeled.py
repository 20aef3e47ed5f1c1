"""Handle the unlabeled rows of a fit: check them, collect them from their sources, and use them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.inputs._munge import Munge, joined
from sklearn_kd.inputs._splitting import at
from sklearn_kd.inputs._structures import is_structure
from sklearn_kd.inputs._unlabeled import UnlabeledRows, with_unlabeled
from sklearn_kd.inputs._validation import ValidatedInputs, validate_predict_inputs
from sklearn_kd.meta import Strategy

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier

_MADE_UP, _MADE_UP_NAME = 1, "the rows that synthesize made"

# About how many rows of each kind to compare.
_ROWS_OF_SCALE = 1000


def check_given_together(
    teacher_logits: Any, X_unlabeled: Any, teacher_logits_unlabeled: Any, answers: str = "teacher_logits"
) -> None:
    """Refuse arguments of ``fit`` that leave some rows without the teacher's answers.

    ``answers`` is the name of the first argument; the name of the last is the same with ``_unlabeled``.

    Raises
    ------
    ValueError
        If answers are given for rows that are missing, or for only some of the rows.
    """
    if teacher_logits_unlabeled is not None and X_unlabeled is None:
        raise ValueError(
            f"{answers}_unlabeled are given without X_unlabeled, the rows they belong to. Give both, "
            "or neither."
        )
    if teacher_logits_unlabeled is not None and teacher_logits is None:
        raise ValueError(
            f"{answers}_unlabeled are given without {answers}. Give the {answers.partition('_')[2]} of the "
            f"rows of X too, or leave {answers}_unlabeled out to have the teacher asked about all rows."
        )
    if X_unlabeled is not None and teacher_logits is not None and teacher_logits_unlabeled is None:
        raise ValueError(
            f"{answers} are given without {answers}_unlabeled, so that the rows of X_unlabeled have "
            f"none. Give both, or leave {answers} out to have the teacher asked about all rows."
        )


def check_one_size(own: Any, unlabeled: Any, answers: str = "teacher_logits") -> None:
    """Raise ValueError if given maps of the rows of X and of X_unlabeled differ in size."""
    if own is None or np.shape(own)[1:] == np.shape(unlabeled)[1:]:
        return
    raise ValueError(
        f"{answers} has maps of shape {np.shape(own)[2:]}, but {answers}_unlabeled of shape "
        f"{np.shape(unlabeled)[2:]}. Give both at the same height and width."
    )


def usable_unlabeled(
    estimator: DistilledClassifier, strategy: Strategy, inputs: ValidatedInputs
) -> tuple[ValidatedInputs, list[str]]:
    """Return the inputs without the rows that the strategy does not use, and what has no effect.

    Raises
    ------
    ValueError
        If ``soft_validation=True`` asks for logits of D_val's rows that ``teacher_logits`` do not have.
    """
    who = f"meta={estimator.meta!r}" if estimator.process is None else "a given process"
    beside = f"with {who}"
    if not strategy.needs_teacher:
        reasons = [] if inputs.unlabeled is None else [f"X_unlabeled {beside}, which asks no teacher"]
        if estimator.soft_validation:
            reasons.append(f"soft_validation=True {beside}, which asks no teacher")
        if estimator.synthesize is not None:
            reasons.append(f"synthesize={estimator.synthesize!r} {beside}, which asks no teacher")
        return dataclasses.replace(inputs, unlabeled=None), reasons
    if not has_unlabeled(estimator, strategy, inputs):
        reasons = []
        if estimator.soft_validation:
            reasons.append(f"soft_validation=True {beside}, which has no D_val (give X_val and y_val)")
        if estimator.unlabeled_share != "auto":
            share = estimator.unlabeled_share
            reasons.append(f"unlabeled_share={share!r} without rows that have no labels (give X_unlabeled)")
        return inputs, reasons
    _warn_if_split(estimator, inputs)
    if estimator.synthesize is not None:
        _check_can_synthesize(inputs, estimator._answers)
    answers, said = estimator._answers, estimator._answers.partition("_")[2]
    if estimator.soft_validation and inputs.valid is not None and inputs.teacher_logits is not None:
        raise ValueError(
            f"soft_validation=True needs the teacher's {said} for the rows of X_val, but {answers} are for "
            f"the rows of X. Give X_val as a part of X_unlabeled, with its {said} in "
            f"{answers}_unlabeled, and set soft_validation=False."
        )
    return inputs, []


def has_unlabeled(estimator: DistilledClassifier, strategy: Strategy, inputs: ValidatedInputs) -> bool:
    """Return whether there will be unlabeled rows in D_train."""
    if not strategy.needs_teacher:
        return False
    has_validation = strategy.learns_from_validation or inputs.valid is not None
    of_validation = estimator.soft_validation and has_validation
    return inputs.unlabeled is not None or of_validation or estimator.synthesize is not None


def _warn_if_split(estimator: DistilledClassifier, inputs: ValidatedInputs) -> None:
    """Warn if a cross-validation may have split X_unlabeled as it splits y.

    scikit-learn splits a parameter that has as many rows as X. Only its routing shows that.
    """
    if inputs.unlabeled is None or len(inputs.unlabeled) != len(inputs.rows):
        return
    if estimator.get_metadata_routing().fit.requests.get("X_unlabeled"):
        warnings.warn(
            f"X_unlabeled is requested by set_fit_request, and has as many rows as X, {len(inputs.rows)}. If "
            "this fit is one of a cross-validation or a search, scikit-learn has given it a part of "
            "X_unlabeled, as of y. Leave one row of X_unlabeled out, and each fold gets all of it.",
            UserWarning,
            stacklevel=2,
        )


def warn_of_another_scale(inputs: ValidatedInputs) -> None:
    """Warn if other rows look as if a step of a Pipeline had transformed X but not them.

    They do if their mean lies outside the range of X in more than a quarter of the columns.
    """
    own = _some_of_a_table(inputs.rows)
    given = {"X_unlabeled": inputs.unlabeled, "X_val": inputs.valid}
    for name, beside in given.items():
        further = None if beside is None else _some_of_a_table(beside.rows)
        if own is None or further is None:
            continue
        low, high, mean = own.min(axis=0), own.max(axis=0), further.mean(axis=0)
        varies = low < high
        n_beyond = int(((mean < low) | (mean > high))[varies].sum())
        if 4 * n_beyond > varies.sum():
            warnings.warn(
                f"{name} is on another scale than X: in {n_beyond} of {varies.sum()} columns its mean lies "
                f"beyond all rows of X. A Pipeline transforms {name} only if it is given by metadata routing "
                f"with transform_input=['{name}'], not as stepname__{name}.",
                UserWarning,
                stacklevel=2,
            )


def _some_of_a_table(rows: Any) -> np.ndarray | None:
    """Return some rows of a dense table as float64; None for other inputs or too few rows."""
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or len(rows) < 20:
        return None
    return np.asarray(rows[:: max(1, len(rows) // _ROWS_OF_SCALE)], dtype=np.float64)


def munge_of(estimator: DistilledClassifier) -> Munge | None:
    """Return ``synthesize``, checked, as a Munge; None for None."""
    given = estimator.synthesize
    munge = given if given is None or isinstance(given, Munge) else Munge(given)
    if munge is not None:
        with error_context("synthesize"):
            munge.check()
    return munge


def _check_can_synthesize(inputs: ValidatedInputs, answers: str) -> None:
    """Raise ValueError if X is not a table to make rows from, or there is no teacher to ask about them."""
    has_parts = is_structure(inputs.X_given)
    shape = () if inputs.is_loaded or has_parts else tuple(inputs.X_given.shape)
    if len(shape) != 2 or sparse.issparse(inputs.X_given):
        what = f"of samples of shape {shape[1:]}"
        if len(shape) == 2:
            what = "sparse"
        elif inputs.is_loaded:
            what = "a Dataset"
        elif has_parts:
            what = f"a {type(inputs.X_given).__name__} of parts"
        raise ValueError(
            f"synthesize makes up rows of tables, but X is {what}. Set synthesize=None; augment changes the "
            "rows of other inputs batch by batch."
        )
    if inputs.teacher_logits is not None:
        raise ValueError(
            f"synthesize makes up rows that {answers} have no answers to. Give a teacher to ask, "
            "or set synthesize=None."
        )


def add_unlabeled(
    estimator: DistilledClassifier,
    strategy: Strategy,
    inputs: ValidatedInputs,
    data: SplitData,
    places: np.ndarray,
    seed: int,
) -> tuple[SplitData, list[UnlabeledRows]]:
    """Return D_train with its unlabeled rows, and these rows by source; unchanged if there are none.

    Parameters
    ----------
    estimator : DistilledClassifier
    strategy : Strategy
    inputs : ValidatedInputs
    data : SplitData
    places : ndarray
        Indices in X of D_train's rows.
    seed : int
        Seed of synthesised rows.
    """
    if not has_unlabeled(estimator, strategy, inputs):
        return data, []
    further = [] if inputs.unlabeled is None else [inputs.unlabeled]
    if estimator.soft_validation and data.valid is not None:
        further.append(_validation_rows(inputs, places))
    munge = munge_of(estimator)
    if munge is not None:
        further.append(_made_up_rows(estimator, munge, inputs, places, seed))
    train: DistillationData = with_unlabeled(data.train, further, estimator.unlabeled_share)
    return data._replace(train=train), further


def _made_up_rows(
    estimator: DistilledClassifier, munge: Munge, inputs: ValidatedInputs, places: np.ndarray, seed: int
) -> UnlabeledRows:
    """Return rows synthesised from those of D_train, without D_val's."""
    own = inputs.given_rows(places)
    if inputs.unlabeled is not None:
        own = joined(own, inputs.unlabeled.given)
    with error_context("synthesize"):
        # Another stream than the teacher's draws, which use the same seed.
        made = munge.rows(own, np.random.default_rng([seed, _MADE_UP]))
    rows = validate_predict_inputs(estimator, made, inputs.sample_shape, _MADE_UP_NAME)
    return UnlabeledRows(_MADE_UP_NAME, made, rows)


def _validation_rows(inputs: ValidatedInputs, places: np.ndarray) -> UnlabeledRows:
    """Return D_val's rows, without their labels."""
    if inputs.valid is not None:
        return UnlabeledRows("X_val", inputs.X_val_given, inputs.valid.rows)
    counting = np.arange(len(inputs.rows)) if inputs.weight is None else np.flatnonzero(inputs.weight)
    held_out = np.setdiff1d(counting, places)
    return UnlabeledRows(
        "X", inputs.given_rows(held_out), inputs.rows[held_out], at(inputs.teacher_logits, held_out), held_out
    )
