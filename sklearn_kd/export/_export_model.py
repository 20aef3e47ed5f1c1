"""Write a fitted model, including the preprocessing before its student, as one file for ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_kd._version import library_version
from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.export._onnx_converter import register_class
from sklearn_kd.export._onnx_inputs import (
    Input,
    feeds,
    inputs_of,
    lacking_words,
    rows_of,
    take_given_types,
    ways_to_compute,
)
from sklearn_kd.export._outputs import (
    Comparison,
    NotConvertedError,
    Outputs,
    PredictsOtherwiseError,
    outputs_of,
)
from sklearn_kd.files._atomic import write_file
from sklearn_kd.inputs._parts import row_shape_of
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.persistence._codecs import encode_sample_shape
from sklearn_kd.persistence._requirements import checked_path, import_package
from sklearn_kd.persistence._student_graph import StudentGraphError
from sklearn_kd.runtime._torch_modes import ordinary_torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Versions of the operators that onnxruntime 1.17 and later runs.
_OPSETS = {"": 20, "ai.onnx.ml": 3}
# Largest number of given rows to predict as a check, and number of rows to make up if none are given.
_MOST_ROWS, _MADE_UP = 1000, 100
_PURPOSE = "Writing a whole model as ONNX"
_OF_THE_LOCALE = (
    ". It converts texts to lower case with the system's locale en_US.UTF-8. Install that, here and where "
    "the file runs; or set lowercase=False in the vectorizer, and convert the texts to lower case before it."
)


@ordinary_torch()
def export_student(
    model: Any, path: str | PathLike[str], X: ArrayLike | None = None, *, tolerance: float = 1e-5
) -> None:
    """Write a whole pipeline to one file that predicts without this library, scikit-learn or torch.

    The file holds everything between the rows and the answer: the steps of a Pipeline, converted by
    skl2onnx, the standardisation, the student, and the softmax or, for a regressor, the conversion to the
    units of y. Before it replaces an older file, ONNX Runtime predicts some rows with it: its probabilities
    must equal those of ``predict_proba``, its numbers those of ``predict``.

    Parameters
    ----------
    model : DistilledClassifier, DistilledRegressor, DistProClassifier, DistProRegressor, Pipeline or search
        A fitted model. A Pipeline must end in one of the first four. For a search, such as
        ``GridSearchCV``, the ``best_estimator_`` is written.
    path : str or path-like
        Must end in ``.onnx``, or in ``.safetensors`` to write only the weights of the student, as
        :meth:`DistilledClassifier.export_student` does. An existing file is replaced atomically.
    X : DataFrame, array-like of shape (n_samples, ...), mapping or tuple of arrays, default=None
        Rows like those that the file will predict. They determine the types of the inputs, and the first
        1,000 are used for the check. None: the input is a matrix of float32, and the check uses 100
        synthetic rows. Needed for a model that was fitted on a frame whose columns have different types.
    tolerance : float, default=1e-5
        Largest allowed difference between a probability of the file and that of ``predict_proba``. For a
        regressor, the difference of predictions in standard deviations of y or, if a prediction is farther
        than one from the mean of y, relative to that distance.

    Raises
    ------
    NotFittedError
        If the model has not been fitted.
    TypeError
        If the model is of another kind, X is a Dataset or has a type that ONNX lacks, or labels are
        neither strings nor whole numbers.
    ValueError
        If the path has another suffix, X is needed, a step or the student cannot be converted to ONNX, the
        file predicts differently from the model, or the model predicts maps. Then no file is written, and an
        older one is kept.
    ImportError
        If a package is missing; ``pip install sklearn-kd[export]`` installs all of them.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If onnxruntime is not installed, so that the file was not checked.

    See Also
    --------
    register_onnx_converter : Enables ``skl2onnx.to_onnx``, with its options.
    DistilledClassifier.export_student : Writes the student alone; its graph returns logits.
    DistilledClassifier.save : Writes the whole estimator, for this library to load.

    Notes
    -----
    **Inputs.** For a frame, one input for each column, of shape (n_samples, 1), in the order of the
    columns; for an array, one input ``X``; for a mapping, one input for each part, by its name; for a tuple,
    ``X0``, ``X1``, .... Integers are int64, floats are float32 or float64 as in X, strings are
    strings. skl2onnx replaces characters that ONNX does not allow in names, as in ``"petal width (cm)"``;
    the metadata has the original names as ``columns``. The number of rows is free.

    **Outputs.** ``label`` of shape (n_samples,), int64 or string; ``probabilities``, float32 of shape
    (n_samples, n_classes), in the order of the labels in the metadata, ``classes``. Booleans become 0 and 1.
    With several labels, both have shape (n_samples, n_labels), and ``label`` is int64. A regressor has one
    output, ``predictions``, float64 of shape (n_samples, n_outputs), in the units of y; a single target is a
    column too. With ``loss="gaussian_nll"``, they are the means.

    **Metadata**, with JSON values: ``classes``, or ``target_mean`` and ``target_scale``; ``columns``, null
    for an array; ``input_shape``, the shape of a sample of the student; ``versions``.

    **Unlike** ``predict``, a graph refuses no values: NaN gives NaN, or what the steps make of it. In a
    column of words that a :class:`TablePreprocessing` converts, ``""``, ``"nan"``, ``"NaN"``, ``"None"``,
    ``"NaT"`` and ``"<NA>"`` are missing, except one that is a category; onnxruntime converts NaN, None,
    ``pandas.NaT`` and ``pandas.NA`` to such strings. For other steps a missing string is the empty string.

    For float64 inputs, arithmetic is in float64 where ONNX Runtime's operators support it, else in float32;
    the student's is in float32.

    Examples
    --------
    >>> import json, tempfile
    >>> import onnxruntime, sklearn_kd
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=40, device="cpu")
    >>> pipe = make_pipeline(StandardScaler(), clf).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sklearn_kd.export_student(pipe, f"{folder}/iris.onnx", X)
    ...     session = onnxruntime.InferenceSession(f"{folder}/iris.onnx")
    >>> label, probabilities = session.run(["label", "probabilities"], {"X": X})
    >>> bool((label == pipe.predict(X)).all())
    True
    >>> float(abs(probabilities - pipe.predict_proba(X)).max()) < 1e-5
    True
    """
    path = checked_path(path, [".onnx", ".safetensors"])
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance!r} must be above 0.")
    steps, clf = _parts(model)
    if path.suffix.lower() == ".safetensors":
        _write_weights(steps, clf, path)
        return
    if X is not None and is_dataset(X):
        raise TypeError("X is a Dataset; give rows as an array, such as those of its first items stacked.")
    outputs = outputs_of(clf)
    converted: Any = Pipeline(steps) if len(steps) > 1 else clf  # without steps that do nothing
    rows = _made_up_rows(steps, clf) if X is None else rows_of(X, _MOST_ROWS)
    inputs = inputs_of(rows)
    columns = [given.name for given in inputs] if X is not None and hasattr(X, "columns") else None
    metadata = _metadata(clf, outputs, columns)
    expected = _expected(converted, rows, outputs.method, made_up=X is None)
    goal = _Goal(path, clf, outputs, metadata, expected, tolerance)
    write_file(path, [_checked_file(converted, inputs, goal)])


class _Goal(NamedTuple):
    """The content of the file, and the predictions that it must reproduce."""

    path: Path
    clf: BaseDistiller
    outputs: Outputs
    metadata: dict[str, str]
    expected: np.ndarray
    tolerance: float


def _checked_file(model: Any, inputs: list[Input], goal: _Goal) -> bytes:
    """Return the checked content of the file, from the first types to compute in that reproduce the model."""
    errors: list[NotConvertedError] = []
    for way in ways_to_compute(inputs):
        try:
            return _file(model, way, goal)
        except NotConvertedError as error:
            errors.append(error)
    # The error of a graph that runs says more about the model than that of one that needs another type.
    raise next((error for error in errors if isinstance(error, PredictsOtherwiseError)), errors[0])


def _file(model: Any, inputs: list[Input], goal: _Goal) -> bytes:
    graph = _converted(model, goal, inputs)
    take_given_types(graph, inputs)
    import_package("onnx", _PURPOSE).helper.set_model_props(graph, goal.metadata)
    data: bytes = graph.SerializeToString()
    _check(data, inputs, goal)
    return data


# --------------------------------------------------------------------------------------
# The model


def _parts(model: Any) -> tuple[list[tuple[str, Any]], BaseDistiller]:
    """Return the steps of a fitted model, including the student's estimator, and that estimator.

    Raises
    ------
    TypeError
        If the model does not end in an estimator of this library.
    ValueError
        If that estimator predicts maps.
    NotFittedError
        If the model is not fitted.
    """
    if hasattr(model, "estimator") and hasattr(type(model), "fit") and hasattr(model, "param_distributions"):
        check_is_fitted(model, "best_estimator_")
    model = getattr(model, "best_estimator_", model)
    steps = [step for step in _steps("model", model) if step[1] is not None and step[1] != "passthrough"]
    clf = steps[-1][1] if steps else None
    if not isinstance(clf, BaseDistiller):
        raise TypeError(
            f"model={type(model).__name__} must be a DistilledClassifier, DistilledRegressor, "
            "DistProClassifier or DistProRegressor, a Pipeline that ends in one, or a search with such a "
            f"best_estimator_; it ends in {type(clf).__name__}."
        )
    check_is_fitted(clf, "net_")
    if clf._task.map_shape:
        raise ValueError(
            f"model={type(model).__name__} ends in a {type(clf).__name__} that predicts maps, but the "
            "file would have one answer for each row. Write its student alone by its own method "
            "export_student(path)."
        )
    return steps, clf


def _steps(name: str, model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the steps of a Pipeline by name, with those of nested Pipelines; unwrap frozen steps."""
    if isinstance(model, FrozenEstimator):
        model = model.estimator
    if not isinstance(model, Pipeline):
        yield name, model
        return
    for inner, step in model.steps:
        yield from _steps(inner if name == "model" else f"{name}-{inner}", step)


def _write_weights(steps: list[tuple[str, Any]], clf: BaseDistiller, path: Path) -> None:
    """Write the student's weights; refuse if anything comes before the student."""
    before = [name for name, _ in steps[:-1]]
    if getattr(clf, "student_preprocessing_", None) is not None:
        before.append("student_preprocessing_")
    if before:
        raise ValueError(
            f"path={str(path)!r}: a file of weights cannot hold {', '.join(before)}. End it in "
            "'.onnx', or write the student alone by the method export_student of the last step."
        )
    clf.export_student(path)


def _made_up_rows(steps: list[tuple[str, Any]], clf: BaseDistiller) -> np.ndarray:
    """Make up rows for the check if none are given.

    Raises
    ------
    ValueError
        If the form of the model's rows is unknown.
    """
    first = steps[0][1]
    shape: tuple[Any, ...]
    shape = clf._sample_shape if first is clf else (getattr(first, "n_features_in_", None),)
    own = getattr(clf, "student_preprocessing_", None) is not None
    of_frame = hasattr(first, "feature_names_in_")
    in_parts = row_shape_of(clf._sample_shape) is not None
    if own or of_frame or in_parts or shape[0] is None or (first is not clf and len(clf._sample_shape) > 1):
        raise ValueError(
            "X is needed: some rows like those that the file will predict, since the types of the columns "
            "that the model was fitted on are not known. Give export_student(model, path, X[:100])."
        )
    rows = np.random.default_rng(0).normal(size=(_MADE_UP, *shape))
    scaling = getattr(clf.student_, "scaling", None)
    if first is clf and scaling is not None:  # near the rows that the student was trained on
        factor = scaling.factor.cpu().numpy().astype(np.float64)
        rows = scaling.center.cpu().numpy() + rows / np.where(factor == 0, 1, factor)
    return rows.astype(np.float32)


# --------------------------------------------------------------------------------------
# The graph


def _converted(model: Any, goal: _Goal, inputs: list[Input]) -> Any:
    """Return the model as a graph.

    Raises
    ------
    NotConvertedError, StudentGraphError
        If a step or the student cannot be converted to ONNX.
    """
    skl2onnx = import_package("skl2onnx", _PURPOSE)
    register_class(type(goal.clf))
    try:
        return skl2onnx.to_onnx(
            model,
            initial_types=[given.declared() for given in inputs],
            options={id(goal.clf): goal.outputs.options},
            target_opset=_OPSETS,
            name="sklearn_kd",
        )
    except (StudentGraphError, ImportError):
        raise
    except Exception as error:  # skl2onnx raises errors of any class if it cannot convert
        raise NotConvertedError(_not_converted(model, error)) from error


def _not_converted(model: Any, error: Exception) -> str:
    """Name the step that cannot be converted to ONNX, and what can be done."""
    said = " ".join(str(error).split())
    for name, step in _leaves(model):
        if str(type(step)) in said or said.startswith(type(step).__name__):
            return (
                f"Step {name!r}, {type(step).__name__}, cannot be written as ONNX: skl2onnx cannot convert "
                f"it ({said[:200]}). Use another of scikit-learn's transformers, register a converter with "
                "skl2onnx.update_registered_converter, or export the model without this step and transform "
                "the rows beforehand."
            )
    return f"skl2onnx cannot convert {type(model).__name__}: {type(error).__name__}: {said[:300]}"


def _leaves(model: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the steps of a model that have no steps themselves, with the names that parameters use."""
    inner = []
    if isinstance(model, Pipeline):
        inner = model.steps
    elif isinstance(model, FeatureUnion):
        inner = model.transformer_list
    elif hasattr(model, "transformers_"):
        inner = [(part[0], part[1]) for part in model.transformers_]
    for part, step in inner:
        yield from _leaves(step, f"{name}__{part}" if name else part)
    if not inner:
        yield name, model
        preprocessing = getattr(model, "student_preprocessing_", None)
        if preprocessing is not None:
            yield from _leaves(preprocessing, "student_preprocessing_")


def _metadata(clf: BaseDistiller, outputs: Outputs, columns: list[str] | None) -> dict[str, str]:
    """Return what a reader of the file needs besides the graph; every value is JSON."""
    versions = {
        "sklearn_kd": library_version(),
        "sklearn": sklearn.__version__,
        "torch": torch.__version__,
        "skl2onnx": import_package("skl2onnx", _PURPOSE).__version__,
    }
    values = {
        **outputs.metadata(),
        "columns": columns,
        "input_shape": encode_sample_shape(clf._sample_shape),
        "versions": versions,
    }
    return {name: json.dumps(value) for name, value in values.items()}


# --------------------------------------------------------------------------------------
# The check


def _check(data: bytes, inputs: list[Input], goal: _Goal) -> None:
    """Refuse a graph that predicts differently from the model, for all rows at once and for one.

    Raises
    ------
    NotConvertedError
        If it predicts differently, or does not run.
    """
    try:
        onnxruntime = import_package("onnxruntime", "Checking the file")
    except ImportError as error:
        message = f"{goal.path} was written without a check. {error}"
        warnings.warn(message, UserWarning, stacklevel=6)  # the caller of export_student
        return
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the exception says the same as the log
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        found = [
            session.run(list(goal.outputs.names), feeds(inputs, names, n)) for n in (len(goal.expected), 1)
        ]
    except Exception as error:  # onnxruntime has a class for each status
        said = " ".join(str(error).split())[:300]
        remedy = _OF_THE_LOCALE if "locale" in said else ""
        raise NotConvertedError(
            f"{goal.path} was not written: ONNX Runtime cannot run the graph. {said}{remedy}"
        ) from error
    by = Comparison(goal.path, goal.tolerance, lacking_words(inputs, len(goal.expected)))
    for answers in found:
        goal.outputs.compare(answers, goal.expected[: len(answers[0])], by)


def _expected(model: Any, rows: Any, method: str, made_up: bool) -> np.ndarray:
    try:
        return np.asarray(getattr(model, method)(rows))
    except Exception as error:
        if not made_up:
            raise
        raise ValueError(
            f"X is needed: the model does not take the rows made up for the check, normal float32 numbers "
            f"({error}). Give export_student(model, path, X[:100])."
        ) from error
