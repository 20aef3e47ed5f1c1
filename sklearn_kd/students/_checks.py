"""Check before training that a student takes the samples and returns logits that can be trained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.inputs._parts import Parts, RowShape, row_shape_of, varied_rows
from sklearn_kd.layers._names import named_network
from sklearn_kd.layers._outputs import are_probabilities, shape_or_type
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.runtime._operations import threads_of_trial
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._recurrent import copied_module
from sklearn_kd.runtime._stray_tensors import is_of_two_devices, remedy_for_two_devices
from sklearn_kd.students._factory import student_name, student_signature

# In a part with more columns, the smallest and the largest integer are those of all columns together.
_MOST_COLUMNS = 16
_OF_CLASSES = " (two for two classes)"


def check_student(
    student: nn.Module,
    samples: Any,
    n_classes: int,
    made_by: Any = None,
    *,
    numeric: bool = False,
    map_shape: tuple[int, ...] = (),
) -> None:
    """Check that a student can be trained on samples and predicts one logit per class.

    Run the student in evaluation mode, and a copy of it in training mode. Neither weights nor the
    statistics of batch normalisation change.

    Parameters
    ----------
    student : nn.Module
    samples : Tensor of shape (n, ...) or Parts
        One or two rows of X.
    n_classes : int
    made_by : class, callable or None, default=None
        The class or function that made the student.
    numeric : bool, default=False
        Whether the outputs are numbers to predict instead of logits. They may then look like probabilities.
    map_shape : tuple of int, default=()
        (H, W) of the maps that the student must return, one per class. (): one number per class.

    Raises
    ------
    ValueError
        If the student cannot take the samples, returns anything but logits, or has nothing to train.
    """
    logits = check_student_output(student, samples, n_classes, made_by, numeric=numeric, map_shape=map_shape)
    if not any(True for _ in student.parameters()):
        raise ValueError(
            f"student {_name(student)} has no weights (parameters) to train. Give a student with layers."
        )
    with threads_of_trial(student), preserved_random_state(samples.device, seed=0), torch.enable_grad():
        student = copied_module(student)
        if not numeric:
            _check_no_probabilities(student.eval(), samples, logits)
        if len(samples) == 1:
            return  # batch normalisation cannot train on one row
        mode = " in training mode"
        logits = _run(student.train(), samples, mode)
        _check_logits(student, logits, (len(samples), n_classes, *map_shape), mode, made_by, numeric)
        _check_gradient(student, logits)
        if not numeric:
            _check_no_probabilities(student, samples, logits)


def check_student_output(
    student: nn.Module,
    samples: Any,
    n_classes: int,
    made_by: Any = None,
    *,
    numeric: bool = False,
    map_shape: tuple[int, ...] = (),
) -> Tensor:
    """Compute the logits of ``samples`` in evaluation mode.

    Raises
    ------
    ValueError
        If ``student`` does not return one logit per class.
    """
    with isolated_eval_mode(student, samples.device):
        logits = _run(student, samples, "")
    _check_logits(student, logits, (len(samples), n_classes, *map_shape), "", made_by, numeric)
    return logits


def _run(student: nn.Module, samples: Any, mode: str) -> Any:
    try:
        return student(samples)
    except Exception as error:  # a module may raise any error
        if is_out_of_memory(error):
            raise
        parts = row_shape_of(tuple(samples.shape[1:]))
        of_samples = f"samples of shape {tuple(samples.shape[1:])}" if parts is None else _called_with(parts)
        of_devices = remedy_for_two_devices(named_network(student), samples.device, error)
        remedy = _remedy(error) if of_devices is None else f". {of_devices}"
        raise ValueError(
            f"student {_name(student)} cannot take {of_samples}{mode}: {_error_text(error)}{remedy}"
        ) from error


def check_codes(student: nn.Module, rows: Parts, name: str) -> None:
    """Check that a student takes the rows with the smallest and the largest integers of each part.

    Codes that have no entry in an embedding are thus refused before training. The check runs on a CPU,
    because such a code makes a GPU unusable for the process.

    Parameters
    ----------
    student : nn.Module
        A student that has already taken some rows.
    rows : Parts
        Arrays or tensors.
    name : str
        Name of the rows in messages.

    Raises
    ------
    ValueError
        If the student cannot take the rows.
    """
    tensors = rows.map(torch.as_tensor)
    places = [_extremes(v.flatten(1) if v.ndim > 1 else v[:, None]) for v in tensors.values if _is_whole(v)]
    if not places:
        return
    extreme = tensors[torch.cat(places).unique()]
    if any(w.device.type != "cpu" for w in student.parameters()):
        student = copied_module(student).cpu()
    with preserved_random_state(extreme.device, seed=0), isolated_eval_mode(student, extreme.device):
        try:
            student(extreme)
        except Exception as error:  # a module may raise any error
            if is_of_two_devices(error):  # some tensors stay on a GPU: its codes cannot be checked
                return
            raise cannot_take_row(student, name, error) from error


def _is_whole(values: Tensor) -> bool:
    return not values.is_floating_point() and values.dtype is not torch.bool


def _extremes(values: Tensor) -> Tensor:
    """Return the indices of the rows with the smallest and largest number, per column if columns are few."""
    if values.shape[1] > _MOST_COLUMNS:
        return torch.stack([values.amin(1).argmin(), values.amax(1).argmax()])
    return torch.cat([values.argmin(0), values.argmax(0)])


def cannot_take_row(student: nn.Module, name: str, error: Exception) -> ValueError:
    """Return an error saying that a student failed on a row of X after it had taken others."""
    return ValueError(
        f"student {_name(student)} cannot take a row of {name}: {_error_text(error)}{_remedy(error)}"
    )


def _remedy(error: Exception) -> str:
    """Return advice about the codes that a student looks up."""
    text = str(error)
    if "scalar types: Long, Int" in text:
        return (
            ". It was given float32. Give X as int64 or int32, which is not converted for a student that "
            "looks up codes. With student_preprocessing, call x.long() in its forward method."
        )
    if isinstance(error, IndexError) or "valid range" in text or "index_size" in text:
        return (
            ". The codes that it looks up must be at least 0 and below the size of its embedding. Make the "
            "embedding larger, or renumber the codes."
        )
    return ""


def _called_with(parts: RowShape) -> str:
    if parts.keys is None:
        return f"samples of {parts!r}"
    how = "forward(**X)" if isinstance(parts.keys, tuple) else "forward(*X)"
    return f"the parts {parts!r}, with which it is called as {how}"


def _error_text(error: Exception) -> str:
    plain = isinstance(error, (RuntimeError, ValueError, TypeError, IndexError))
    return str(error) if plain and str(error) else f"{type(error).__name__}: {error}"


def _check_logits(
    student: nn.Module, logits: Any, shape: tuple[int, ...], mode: str, made_by: Any, numeric: bool
) -> None:
    """Raise ValueError unless the output is a floating-point tensor with this shape."""
    if isinstance(logits, Tensor) and logits.shape == shape:
        if logits.is_floating_point():
            return
        got = f"numbers of {logits.dtype}"
        remedy = "Return the last layer's output instead of the predicted classes"
    else:
        got, remedy = _describe_wrong_output(logits, shape, mode, made_by)
    n_rows, n_classes = shape[:2]
    wanted, unit = ("one logit per class", "classes")
    if len(shape) > 2:
        raise ValueError(
            f"student {_name(student)} must give maps of shape {shape}, or of another height and "
            f"width, for {n_rows} samples, because y has a map for each; {mode.strip()}"
            f"{' ' if mode else ''}it gave {got}. {remedy}."
        )
    if numeric or n_classes == 1:
        remedy = remedy.replace(_OF_CLASSES, "")
        wanted, unit = ("one output", "target") if n_classes == 1 else (f"{n_classes} outputs", "outputs")
    raise ValueError(
        f"student {_name(student)} must give {wanted}, shape {shape} for {n_rows} "
        f"samples of {n_classes} {unit}; {mode.strip()}{' ' if mode else ''}it gave {got}. {remedy}."
    )


def _describe_wrong_output(given: Any, shape: tuple[int, ...], mode: str, made_by: Any) -> tuple[str, str]:
    """Describe an output that is not logits, and suggest a remedy."""
    n_rows, n_classes = shape[:2]
    if isinstance(given, Tensor):
        got = str(tuple(given.shape))
        if len(shape) > 2:
            return got, _remedy_for_maps(given, n_classes)
        if n_classes == 1 and given.shape == (n_rows,):
            return got, "Keep the last dimension of its output: leave squeeze out"
        if len(given.shape) > 2 and given.numel() == n_rows * n_classes and len(given) == n_rows:
            return got, "Flatten it, for example with nn.Flatten() as the last layer"
        if len(given.shape) > 2:
            return got, (
                "Pool its other dimensions, for example with nn.AdaptiveAvgPool2d(1) and nn.Flatten() before "
                f"the last layer, and make that {n_classes} wide"
            )
        if mode:
            return got, f"Return the same in both modes: shape {shape}, as in evaluation mode"
        remedy = f"Make its last layer {n_classes} wide{_OF_CLASSES}"
        if made_by is not None and _takes_any_name(made_by):
            remedy += (
                f"; the signature of {student_name(made_by)} has **kwargs, so the number cannot be filled "
                f"in: give it by its own name, such as student__num_classes={n_classes}"
            )
        return got, remedy
    got = _describe_container(given)
    if mode:
        return got, (
            "Auxiliary outputs are not used in training. Switch them off, for example with "
            "student__aux_logits=False, or wrap the student in a module that returns only the logits"
        )
    return got, f"Wrap it in a module that returns only the logits: {_code_for_logits(given, shape)}"


def _remedy_for_maps(given: Tensor, n_classes: int) -> str:
    """Return advice on how to make a student return maps."""
    if given.ndim == 4:
        return f"Make its last layer nn.Conv2d(..., {n_classes}, kernel_size=1)"
    return (
        "Give a network that keeps height and width, without pooling or flattening at the end, and whose "
        f"last layer is nn.Conv2d(..., {n_classes}, kernel_size=1)"
    )


def _takes_any_name(factory: Any) -> bool:
    """Return True if the signature has ``**kwargs``, so that its argument names are not known."""
    kinds = {parameter.kind for parameter in student_signature(factory).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def _describe_container(given: Any) -> str:
    """Describe a tuple, a dict or another object by its type and its first four items."""
    parts = given.items() if isinstance(given, Mapping) else enumerate(_as_list(given))
    found = [f"{key!r}: {shape_or_type(value)}" for key, value in parts][:4]
    return f"a {type(given).__name__}" + (f" of {{{', '.join(found)}}}" if found else "")


def _as_list(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (tuple, list)) else []


def _code_for_logits(given: Any, shape: tuple[int, ...]) -> str:
    """Return a statement that takes the logits out of a student's output."""
    if isinstance(getattr(given, "logits", None), Tensor):
        return "return self.student(x).logits"
    parts = given.items() if isinstance(given, Mapping) else enumerate(_as_list(given))
    keys = [key for key, value in parts if isinstance(value, Tensor) and _is_alike(value, shape)]
    return f"return self.student(x)[{keys[0]!r}]" if keys else "return a tensor"


def _is_alike(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor has this shape. The height and width of maps are not compared."""
    return value.ndim == len(shape) and value.shape[:2] == shape[:2]


def _name(student: nn.Module) -> str:
    """Return the name of the user's class, not of the library's module around it."""
    return type(named_network(student)).__name__


def _check_gradient(student: nn.Module, logits: Tensor) -> None:
    if logits.requires_grad:
        return
    name = _name(student)
    if not any(w.requires_grad for w in student.parameters()):
        raise ValueError(
            f"student {name} has only frozen weights (requires_grad=False). Call requires_grad_(True) on "
            "those to be trained."
        )
    raise ValueError(
        f"student {name} returns outputs without a gradient in training mode, so its weights cannot be "
        "trained. Remove detach(), torch.no_grad() and NumPy from its forward pass."
    )


def _check_no_probabilities(student: nn.Module, samples: Any, logits: Tensor) -> None:
    """Raise ValueError if the student ends in a softmax in its current mode."""
    if not are_probabilities(logits.detach().float()):
        return
    with torch.no_grad():
        # Two rows might look like probabilities by chance: try more rows, between zero and these.
        more = varied_rows(samples, torch.linspace(0, 1, 16, device=samples.device))
        try:
            confirmed = are_probabilities(student(more).float())
        except Exception:  # a student may fail for rows unlike the data
            confirmed = True
    if confirmed:
        mode = "training" if student.training else "evaluation"
        raise ValueError(
            f"student {_name(student)} returns probabilities in {mode} mode: its rows are nonnegative "
            "and sum to 1, as after a softmax. Remove the softmax: the losses and predict_proba apply it "
            "to logits."
        )
