"""Use ONNX files as teachers, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_kd.inputs._arrays import column_names, from_torch
from sklearn_kd.teachers._adapter import EitherWayAdapter
from sklearn_kd.teachers._class_alignment import ordered_classes
from sklearn_kd.teachers._registry import register_teacher, tell_by_abilities

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
# Sparse rows to make dense at a time.
_DENSE_ROWS = 1024
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")


class OnnxTeacher(BaseEstimator):
    """A classifier in an ONNX file, as a teacher that comes trained.

    A path that ends in ``.onnx`` and an ``onnxruntime.InferenceSession`` work too: ``teacher="model.onnx"``
    means ``OnnxTeacher("model.onnx")``.

    Its answers are the output with one number per class: logits, or probabilities, whose logarithms are
    taken. Files written by sklearn-onnx are understood: they return a label beside probabilities, as a
    tensor or as a list of dicts (ZipMap).

    Parameters
    ----------
    model : str, path-like, bytes or onnxruntime.InferenceSession
        The path of the file, its content, or a session. A session cannot be pickled: to fit in other
        processes, give the path.
    classes : array-like of shape (n_columns,) or None, default=None
        The class of each column. None: the classes that the file states, in the keys of a ZipMap, in a JSON
        list ``classes`` in its metadata, or in the labels that it returns beside the numbers; otherwise the
        estimator's ``teacher_classes``.
    providers : list of str or None, default=None
        Execution providers of ONNX Runtime. None: the CPU provider.

    Notes
    -----
    A file with one input of floats is asked batch by batch, so that it works with ``augment`` and a
    ``Dataset``. With ``student_preprocessing`` it is asked about X as given, and about the student's rows
    only if ``augment`` changes them. A file with several inputs, one per column, as sklearn-onnx writes for
    data frames, gets the columns of these names.

    ONNX Runtime must be installed: ``pip install onnxruntime``.

    Examples
    --------
    ::

        clf = DistilledClassifier("forest.onnx", MLPStudent).fit(X, y)
        clf = DistilledClassifier(OnnxTeacher("net.onnx", classes=["no", "yes"]), MLPStudent).fit(X, y)
    """

    def __init__(self, model: Any, classes: ArrayLike | None = None, providers: Sequence[str] | None = None):
        self.model = model
        self.classes = classes
        self.providers = providers


@register_teacher(OnnxTeacher)
class OnnxAdapter(EitherWayAdapter):
    """Adapter of an OnnxTeacher."""

    _source = "its output"
    _no_probabilities = None
    _asks_given = False

    @property
    def _stated(self) -> OnnxTeacher:
        return self.teacher

    def check(self) -> None:
        if isinstance(self._stated.providers, str):
            raise TypeError(
                f"OnnxTeacher: providers={self._stated.providers!r} must be a list of names: "
                f"[{self._stated.providers!r}]."
            )
        self._session = _session_of(self._stated)
        self._inputs = self._session.get_inputs()
        outputs = self._session.get_outputs()
        self._output = _output_of_scores(outputs, self.name)
        self._labels = _output_of_labels(outputs)
        for wanted in self._inputs:
            if wanted.type not in _NUMBERS and wanted.type != "tensor(string)":
                raise ValueError(
                    f"{self.name} has an input {wanted.name!r} of the type {wanted.type}. Give a file "
                    "with inputs of numbers or strings, or a function that runs it."
                )
        self._found: list[Any] | None = None
        written = self._session.get_modelmeta().custom_metadata_map.get("classes")
        self._written = None if written is None else json.loads(written)
        self._refuse_another_order(self._written)

    def takes_batches(self) -> bool:
        return not self._asks_given and len(self._inputs) == 1 and self._inputs[0].type in _FLOATS

    def ask_about_given_rows(self) -> None:
        # The file was made for the columns of X, not for those that the student's preprocessing makes.
        self._asks_given = True

    def column_classes(self) -> Any:
        """Return the classes stated by the user or the file, or seen in the file's labels so far."""
        if self._stated.classes is not None:
            return self._stated.classes
        return self._found if self._written is None else self._written

    @property
    def known_columns(self) -> Any:
        """Label of each column, which a few rows may not show."""
        return self.column_classes()

    def predict_logits(self, X: Any) -> Any:
        if sparse.issparse(X):  # a part at a time, never dense as a whole
            X, starts = X.tocsr(), range(0, X.shape[0], _DENSE_ROWS)
            return np.vstack([self.predict_logits(X[i : i + _DENSE_ROWS].toarray()) for i in starts])
        names = [self._output.name, *([] if self._labels is None else [self._labels.name])]
        found, *labels = self._session.run(names, self._feed(X))
        known = None
        if isinstance(found, list):  # a ZipMap
            known = list(found[0])
            found = np.array([[row[label] for label in known] for row in found], np.float32)
        elif labels:
            known = _labels_of_columns(np.asarray(labels[0]), found)
        self._refuse_another_order(known)
        # If the user states the labels, codes 0 to K−1 in the file are not labels.
        if self._found is None and not (self.teacher_classes and known == list(range(len(known or ())))):
            self._found = known
        return found

    def _refuse_another_order(self, known: list[Any] | None) -> None:
        """Raise ValueError if the user states the file's classes in another order."""
        stated = ordered_classes(self._stated.classes, "OnnxTeacher: classes")
        if known and stated and known != stated and set(known) == set(stated):
            raise ValueError(
                f"OnnxTeacher: classes={stated[:10]} are in another order than the classes of the file's "
                f"columns, {known[:10]}. Leave classes=None."
            )

    def __copy__(self) -> OnnxAdapter:
        copied = object.__new__(type(self))  # copying by pickle state would load the file again
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        kept = ("fitted", "teacher_classes", "_asks_given")  # a session cannot be pickled
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.check()

    def _feed(self, X: Any) -> dict[str, np.ndarray]:
        """Return X as the inputs of the file."""
        if isinstance(X, Tensor):
            X = X.numpy(force=True)
        if len(self._inputs) == 1 and not isinstance(X, Mapping):
            (wanted,) = self._inputs
            values = _as_type(from_torch(X, "X"), wanted, self.name)
            _check_shape(values, wanted, self.name)
            return {wanted.name: values}
        names = list(X) if isinstance(X, Mapping) else column_names(X)
        missing = [wanted.name for wanted in self._inputs if wanted.name not in (names or ())]
        if missing:
            raise ValueError(
                f"{self.name} has {len(self._inputs)} inputs, and X "
                f"{'names no columns' if names is None else f'has no {missing[:5]}'}. Give fit a data frame "
                f"with the columns {[wanted.name for wanted in self._inputs][:10]}."
            )
        return {
            wanted.name: _in_column(_as_type(X[wanted.name], wanted, self.name), wanted)
            for wanted in self._inputs
        }


class _GivenAlone(OnnxAdapter):
    """Adapter of a plain file or session."""

    @property
    def _stated(self) -> OnnxTeacher:
        return OnnxTeacher(self.teacher)


@register_teacher(str)
@register_teacher(PurePath)
class OnnxPathAdapter(_GivenAlone):
    """Adapter of the path of an ONNX file."""

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        return str(teacher).lower().endswith(".onnx")

    @property
    def name(self) -> str:
        return f"teacher {Path(self.teacher).name}"


@tell_by_abilities
class OnnxSessionAdapter(_GivenAlone):
    """Adapter of an InferenceSession."""

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        return _is_session(teacher)


# --------------------------------------------------------------------------------------
# The session


def _is_session(value: Any) -> bool:
    kind = type(value)
    return kind.__module__.startswith("onnxruntime") and hasattr(kind, "get_inputs") and hasattr(kind, "run")


def _session_of(teacher: OnnxTeacher) -> Any:
    """Return a session that runs the model.

    Raises
    ------
    ImportError
        If ONNX Runtime is not installed.
    FileNotFoundError
        If there is no such file.
    TypeError
        If the model is neither a path, bytes nor a session.
    ValueError
        If it is not an ONNX model.
    """
    model = teacher.model
    if _is_session(model):
        return model
    if not isinstance(model, (str, PathLike, bytes)):
        raise TypeError(
            f"OnnxTeacher: model of type {type(model).__name__} must be the path of an ONNX file, its bytes "
            "(SerializeToString() of an onnx.ModelProto), or an onnxruntime.InferenceSession."
        )
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise FileNotFoundError(f"teacher: there is no file {str(model)!r}.")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "A teacher in an ONNX file needs ONNX Runtime, which is not installed: pip install onnxruntime."
        ) from error
    given = model if isinstance(model, bytes) else str(model)
    providers = ["CPUExecutionProvider"] if teacher.providers is None else list(teacher.providers)
    try:
        return onnxruntime.InferenceSession(given, providers=providers)
    except Exception as error:  # ONNX Runtime has its own classes
        name = "bytes" if isinstance(model, bytes) else str(model)
        raise ValueError(f"teacher: ONNX Runtime cannot load {name}: {error}") from error


# --------------------------------------------------------------------------------------
# Outputs


def _output_of_scores(outputs: Sequence[Any], who: str) -> Any:
    """Return the output with one number per class.

    Raises
    ------
    ValueError
        If there is none, or several that their names do not distinguish.
    """
    scores = [out for out in outputs if out.type.startswith("seq(map(") or _is_table_of_floats(out)]
    scores = scores or [out for out in outputs if _is_map_of_floats(out)]
    for word in ("logit", "prob") if len(scores) > 1 else ():
        named = [out for out in scores if word in out.name.lower()]
        scores = named if len(named) == 1 else scores
        if len(scores) == 1:
            break
    if len(scores) == 1:
        return scores[0]
    listed = [f"{out.name}: {out.type} {out.shape}" for out in outputs]
    raise ValueError(
        f"{who} has the outputs {listed}; {'none' if not scores else 'more than one'} may be the logits or "
        "the probabilities of classes, shape (n, n_classes). Name the right one logits or probabilities, or "
        "give a function that runs it."
    )


def _is_table_of_floats(output: Any) -> bool:
    return output.type in _FLOATS and (not output.shape or len(output.shape) == 2)


def _is_map_of_floats(output: Any) -> bool:
    """Return True if an output has one or more maps for each image."""
    return output.type in _FLOATS and len(output.shape) in (3, 4)


def _output_of_labels(outputs: Sequence[Any]) -> Any | None:
    """Return the output with a label for each row, or None."""
    kinds = ("tensor(int64)", "tensor(string)")
    labels = [out for out in outputs if out.type in kinds and "label" in out.name.lower()]
    return labels[0] if len(labels) == 1 else None


def _labels_of_columns(labels: np.ndarray, scores: np.ndarray) -> list[Any] | None:
    """Return the label given when each column is the largest; None unless every column has exactly one."""
    labels, largest = labels.reshape(-1), scores == scores.max(axis=1, keepdims=True)
    clear = largest.sum(axis=1) == 1  # no ties
    found = [set(labels[clear & largest[:, column]].tolist()) for column in range(scores.shape[1])]
    known = [next(iter(names)) for names in found if len(names) == 1]
    return known if len(set(known)) == scores.shape[1] else None


# --------------------------------------------------------------------------------------
# Inputs


def _as_type(values: Any, wanted: Any, who: str) -> np.ndarray:
    """Convert values to the type of an input."""
    kind = _NUMBERS.get(wanted.type)
    array = np.asarray(values)
    try:
        return array.astype(str).astype(object) if kind is None else np.ascontiguousarray(array, dtype=kind)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who}: its input {wanted.name!r} takes {wanted.type}, but X cannot be converted to it: {error}"
        ) from error


def _in_column(values: np.ndarray, wanted: Any) -> np.ndarray:
    """Return a column with as many dimensions as its input."""
    n_dimensions = len(wanted.shape or (1, 1))
    return values[:, None] if n_dimensions == 2 and values.ndim == 1 else values


def _check_shape(values: np.ndarray, wanted: Any, who: str) -> None:
    sizes = wanted.shape or values.shape
    fits = len(sizes) == values.ndim and all(
        not isinstance(size, int) or size == given
        for size, given in zip(sizes[1:], values.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"{who} takes samples of shape {tuple(sizes[1:])}, and X has samples of shape "
            f"{values.shape[1:]}. Give fit an X of the shape that the teacher was trained on."
        )
    if isinstance(sizes[0], int) and sizes[0] not in (len(values), -1):
        raise ValueError(
            f"{who} takes {sizes[0]} row(s) at a time. Export it with a batch dimension of any size."
        )
