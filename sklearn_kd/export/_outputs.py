"""Name and compare the outputs of a graph, for each kind of target."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.export._onnx_converter import onnx_labels


class NotConvertedError(ValueError):
    """Error for a model that cannot be converted, or whose graph predicts differently."""


class PredictsOtherwiseError(NotConvertedError):
    """Error for a graph that runs but predicts differently from the model."""


class Comparison(NamedTuple):
    """Settings of the comparison of a graph with its model.

    Attributes
    ----------
    path : Path
        Path of the file, for messages.
    tolerance : float
    lacks_words : ndarray of shape (n,), bool
        Which rows have a missing word, "" in the graph.
    """

    path: Path
    tolerance: float
    lacks_words: np.ndarray


class Outputs(Protocol):
    """The outputs of a file for rows of X."""

    names: tuple[str, ...]  # of the outputs of the graph
    method: str  # of the model, whose answers the last output must be
    options: dict[str, Any]  # of the conversion

    def metadata(self) -> dict[str, Any]:
        """Return what a reader of the file needs besides the graph."""

    def compare(self, found: list[np.ndarray], expected: np.ndarray, by: Comparison) -> None:
        """Raise PredictsOtherwiseError if the outputs are not those of the model."""


def outputs_of(estimator: BaseDistiller) -> Outputs:
    """Return the outputs of an estimator's kind of target.

    Raises
    ------
    TypeError
        If ONNX has no type for the labels.
    """
    if estimator._task.numeric:
        return NumberOutputs(estimator)
    return LabelOutputs(estimator) if has_several_labels(estimator._task) else ClassOutputs(estimator)


class ClassOutputs:
    """``label`` and ``probabilities`` of one label per row."""

    names: tuple[str, ...] = ("label", "probabilities")
    method = "predict_proba"
    options: dict[str, Any] = {"zipmap": False}

    def __init__(self, estimator: BaseDistiller):
        self._labels = onnx_labels(estimator.classes_)

    def metadata(self) -> dict[str, Any]:
        return {"classes": self._labels.tolist()}

    def compare(self, found: list[np.ndarray], expected: np.ndarray, by: Comparison) -> None:
        label, probabilities = found
        _compare_numbers(probabilities, expected, np.ones(1), self, by)
        first, second = np.sort(expected, axis=1)[:, [-1, -2]].T
        clear = first - second > 2 * by.tolerance  # nearly equal ones may be in either order
        wrong = np.flatnonzero(clear & (label != self._labels[expected.argmax(axis=1)]))
        if len(wrong):
            raise PredictsOtherwiseError(
                f"{by.path} was not written: row {wrong[0]} has the label {label[wrong[0]]!r} in the graph."
            )


class LabelOutputs:
    """``label``, a matrix of 0 and 1, and ``probabilities`` of several labels."""

    names: tuple[str, ...] = ("label", "probabilities")
    method = "predict_proba"
    options: dict[str, Any] = {"zipmap": False}

    def __init__(self, estimator: BaseDistiller):
        self._labels = onnx_labels(estimator.classes_)

    def metadata(self) -> dict[str, Any]:
        return {"classes": self._labels.tolist()}

    def compare(self, found: list[np.ndarray], expected: np.ndarray, by: Comparison) -> None:
        label, probabilities = found
        _compare_numbers(probabilities, expected, np.ones(1), self, by)
        # Labels with nearly even odds are not compared.
        wrong = (np.abs(expected - 0.5) > by.tolerance) & (label != (expected > 0.5))
        if wrong.any():
            row = int(np.argwhere(wrong)[0][0])
            raise PredictsOtherwiseError(
                f"{by.path} was not written: row {row} has the labels {label[row].tolist()[:10]} in the "
                "graph."
            )


class NumberOutputs:
    """``predictions`` of a regressor, a column for each target, in the units of y."""

    names: tuple[str, ...] = ("predictions",)
    method = "predict"
    options: dict[str, Any] = {}

    def __init__(self, estimator: BaseDistiller):
        self._task = estimator._task

    def metadata(self) -> dict[str, Any]:
        return {"target_mean": self._task.mean.tolist(), "target_scale": self._task.scale.tolist()}

    def compare(self, found: list[np.ndarray], expected: np.ndarray, by: Comparison) -> None:
        expected = expected.reshape(len(expected), -1)
        # float32 has fewer digits for numbers far from the mean.
        apart = np.maximum(self._task.scale, np.abs(expected - self._task.mean))
        _compare_numbers(found[0], expected, apart, self, by)


def _compare_numbers(
    found: np.ndarray, expected: np.ndarray, unit: np.ndarray, outputs: Outputs, by: Comparison
) -> None:
    """Raise an error if an output is not that of the model; differences are measured in ``unit``."""
    name, method = outputs.names[-1], outputs.method
    if found.shape != expected.shape:
        raise PredictsOtherwiseError(
            f"{by.path} was not written: the graph returns {name} of shape {found.shape}, but "
            f"{method} returns {expected.shape}. A forward pass must take any number of rows."
        )
    difference = (np.abs(found - expected) / unit).max(axis=1)
    worst = int(difference.argmax())
    if difference[worst] <= by.tolerance:
        return
    remedy = (
        "Give X in float64 if it is in float32; else leave out the steps of the Pipeline one by one to "
        "find the one that skl2onnx converts differently."
    )
    if by.lacks_words[worst]:
        remedy = (
            "The row lacks a word, which is the empty string in the graph, but a category of its own for "
            "a step such as OneHotEncoder. Replace missing words, in fit and for the graph, or convert the "
            "table by TablePreprocessing."
        )
    raise PredictsOtherwiseError(
        f"{by.path} was not written: for row {worst} of X the graph returns {_shown(found[worst])} "
        f"and {method} {_shown(expected[worst])}, which differ by {difference[worst]:.2g}, more "
        f"than tolerance={by.tolerance:g}. {remedy}"
    )


def _shown(numbers: np.ndarray) -> str:
    """Return the first numbers of a row as text, with few digits."""
    more = ", ..." if len(numbers) > 5 else ""
    return f"[{', '.join(f'{value:.6g}' for value in numbers[:5])}{more}]"
