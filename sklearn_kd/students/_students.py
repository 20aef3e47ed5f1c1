"""Ready-made small students, and how any student module is built for a data set."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_kd.layers._outputs import are_probabilities, shape_or_type
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.runtime._random_state import preserved_random_state


class MLPStudent(nn.Module):
    """Multilayer perceptron with ReLU.

    Parameters
    ----------
    in_features : int
        Inputs per sample; filled in by :class:`DistilledClassifier`.
    n_classes : int
        Width of the output; filled in by :class:`DistilledClassifier`.
    hidden : int or sequence of int, default=32
        Width of the hidden layer, or of each of several.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import MLPStudent
    >>> MLPStudent(in_features=64, n_classes=10)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, in_features: int, n_classes: int, hidden: int | Sequence[int] = 32):
        super().__init__()
        widths = [in_features, *(hidden if isinstance(hidden, Iterable) else [hidden])]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, n_classes)."""
        return self.layers(x)


class CNNStudent(nn.Module):
    """Three convolutions and two fully connected layers: the paper's student for images.

    Each convolution (3×3) is followed by ReLU and a 2×2 max-pooling.

    Parameters
    ----------
    input_shape : tuple of (int, int, int)
        (channels, height, width), at least 8×8; filled in by :class:`DistilledClassifier`.
    n_classes : int
        Width of the output; filled in by :class:`DistilledClassifier`.
    channels : sequence of three int, default=(8, 16, 16)
    hidden : int, default=32
        Width of the first fully connected layer.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import CNNStudent
    >>> CNNStudent(input_shape=(1, 28, 28), n_classes=10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        channels: Sequence[int] = (8, 16, 16),
        hidden: int = 32,
    ):
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            raise ValueError(
                f"CNNStudent takes images of shape (channels, height, width), at least 8×8; "
                f"got samples of shape {tuple(input_shape)}. Give grey images their channel, "
                "X[:, None], and move channels that come last, np.moveaxis(X, -1, 1)."
            )
        fan_in, height, width = input_shape
        layers: list[nn.Module] = []
        for fan_out in channels:
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            fan_in, height, width = fan_out, height // 2, width // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classify = nn.Sequential(
            nn.Linear(fan_in * height * width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, n_classes)."""
        return self.classify(self.features(x))


# Names under which classes and factories take the sizes that the data settle, the usual ones first. Of
# several names for one size only the first is filled in: the others may mean something else.
_N_CLASSES = ("n_classes", "num_classes", "num_labels", "d_out", "output_dim", "out_dim", "out_features")
_IN_FEATURES = ("in_features", "d_in", "input_dim", "in_dim")
_IN_CHANNELS = ("in_channels", "in_chans")
_INPUT_SHAPE = ("input_shape",)


def build_student(
    student: nn.Module | Callable[..., nn.Module], params: dict, sample_shape: tuple, n_classes: int
) -> nn.Module:
    """Build a fresh student for samples of ``sample_shape`` and ``n_classes`` classes.

    An instance is copied. A class, or any callable that returns a module, is called with ``params``
    and, where its signature has them and ``params`` does not, with numbers per sample
    (``in_features``), the first dimension (``in_channels``), all of them (``input_shape``) and
    ``n_classes``, under these or other usual names.

    Raises
    ------
    TypeError
        If ``student`` is no module and makes none, ``params`` do not fit it, or some of its
        arguments are left open.
    """
    if isinstance(student, nn.Module):
        _refuse_wrapped(student)
        if params:
            raise TypeError(
                f"student is an instance of {type(student).__name__}, whose size is settled; "
                f"{_prefixed(params)} apply to a class. Give student={type(student).__name__}."
            )
        check_has_numbers(student, "student")
        return copy.deepcopy(student)
    is_class = inspect.isclass(student) and issubclass(student, nn.Module)
    if not makes_students(student):
        raise TypeError(
            f"student={student!r} must be a torch.nn.Module, class or instance, or a function that "
            "returns one."
        )
    name = student_name(student)
    signature = student_signature(student)
    filled = _sizes(student, signature, params, sample_shape, n_classes) | params
    try:
        signature.bind(**filled)
    except TypeError as error:
        raise TypeError(
            f"student {name}{signature} cannot be built from "
            f"{_prefixed(params) or 'no student__ parameters'}: {error}. Sizes named "
            f"{', '.join((*_IN_FEATURES, *_IN_CHANNELS, *_INPUT_SHAPE, *_N_CLASSES))} are filled in; give "
            "the rest as student__NAME=..."
        ) from None
    try:
        made = student(**filled)
    except TypeError as error:  # such as an unknown argument that **kwargs pass on
        raise TypeError(
            f"student {name} cannot be built from {', '.join(f'{k}={v!r}' for k, v in filled.items())}: "
            f"{error}. Its arguments are given as student__NAME=..."
        ) from error
    if not isinstance(made, nn.Module):
        hint = "Let it return an instance of it" if isinstance(made, type) else "Let it return one"
        raise TypeError(f"student {name} must return a torch.nn.Module; it returned {made!r:.200}. {hint}.")
    # A function may return the same module each time; it must not be trained itself.
    return made if is_class else copy.deepcopy(made)


def makes_students(student: Any) -> bool:
    """Return whether ``student`` is a class of modules, or a function that may return one."""
    return issubclass(student, nn.Module) if inspect.isclass(student) else callable(student)


def student_name(student: Any) -> str:
    """Return what messages and diagrams call a class, a function or a ``functools.partial``."""
    inner = student.func if isinstance(student, partial) else student
    return getattr(inner, "__name__", type(inner).__name__)


def student_signature(student: Callable) -> inspect.Signature:
    """Return the signature of a class or a function that makes students.

    Raises
    ------
    TypeError
        If Python knows none.
    """
    try:
        return inspect.signature(student)
    except ValueError as error:
        raise TypeError(
            f"student {student_name(student)} has no signature that Python can read ({error}). Give a "
            "function that calls it: def student(in_features, n_classes): ..."
        ) from None


def _sizes(student, signature, params, sample_shape, n_classes) -> dict[str, Any]:
    """Return the sizes that the data settle, by the names that the signature has for them."""
    sizes = {
        _IN_FEATURES: math.prod(sample_shape),
        _IN_CHANNELS: sample_shape[0],
        _INPUT_SHAPE: tuple(sample_shape),
    }
    present = {names: [name for name in names if name in signature.parameters] for names in sizes}
    usual = [names[0] for names in sizes if names[0] in present[names]]
    # A rarer name for an input beside a usual one, such as d_in beside input_shape, is another size.
    filled = {
        name: sizes[names] for names in sizes for name in present[names][:1] if name in usual or not usual
    }
    if not usual and len(filled) > 1:  # d_in beside in_chans
        filled = dict([filled.popitem()])
    filled |= dict.fromkeys([n for n in _N_CLASSES if n in signature.parameters][:1], n_classes)
    bound = student.keywords if isinstance(student, partial) else {}
    return {name: value for name, value in filled.items() if name not in params and name not in bound}


def _refuse_wrapped(student):
    """Refuse modules of a process group, whose gradients are averaged before the optimizer's step."""
    # By name: to import FSDP takes seconds.
    kinds = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
    found = [kind.__name__ for kind in type(student).__mro__ if kind.__name__ in kinds]
    if found:
        raise TypeError(
            f"student is wrapped in {found[0]}, but each process trains a student of its own here. Give the "
            "module as it is without that: student.module, or one that has not been wrapped."
        )


def _prefixed(params: dict) -> str:
    return ", ".join(f"student__{name}" for name in params)


def in_float32(student: nn.Module, samples: Tensor) -> nn.Module:
    """Return the student, with weights of float32 if it cannot take float32 samples as it is.

    One whose weights are of another type may cast what it is given, and is left alone then.
    """
    state = [*student.parameters(), *student.buffers()]
    if all(w.dtype is torch.float32 for w in state if w.is_floating_point()):
        return student
    if not any(is_lazy(w) for w in state):  # they would be made by the trial
        # A module may raise anything; check_student_output reports it.
        with suppress(Exception), isolated_eval_mode(student, samples.device):
            student(samples)
            return student
    return student.float()


# --------------------------------------------------------------------------------------
# What a student returns


def check_student(student: nn.Module, samples: Tensor, n_classes: int, made_by: Any = None) -> None:
    """Raise ValueError unless ``student`` can be trained on ``samples``, one logit per class, and predict.

    It is asked in evaluation mode, and a copy in training mode, so that neither weights nor statistics of
    batch normalisation change. ``made_by`` is the class or function that made it, if there was one.
    """
    logits = check_student_output(student, samples, n_classes, made_by)
    if not any(True for _ in student.parameters()):
        raise ValueError(
            f"student {type(student).__name__} has no weights (parameters) to train. Give one that has "
            "layers."
        )
    with preserved_random_state(samples.device, seed=0), torch.enable_grad():
        student = copy.deepcopy(student)
        _check_no_probabilities(student.eval(), samples, logits)
        if len(samples) == 1:
            return  # batch normalisation takes no batch of one row
        mode = " in training mode"
        logits = _answer(student.train(), samples, mode)
        _check_logits(student, logits, (len(samples), n_classes), mode, made_by)
        _check_gradient(student, logits)
        _check_no_probabilities(student, samples, logits)


def check_student_output(student: nn.Module, samples: Tensor, n_classes: int, made_by: Any = None) -> Tensor:
    """Compute the logits of ``samples`` in evaluation mode.

    Raises
    ------
    ValueError
        If ``student`` does not map them to one logit per class.
    """
    with isolated_eval_mode(student, samples.device):
        logits = _answer(student, samples, "")
    _check_logits(student, logits, (len(samples), n_classes), "", made_by)
    return logits


def _answer(student: nn.Module, samples: Tensor, mode: str) -> Any:
    try:
        return student(samples)
    except Exception as error:  # a module may raise anything
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"student {type(student).__name__} cannot take samples of shape "
            f"{tuple(samples.shape[1:])}{mode}: {_said_by(error)}"
        ) from error


def _said_by(error: Exception) -> str:
    plain = isinstance(error, (RuntimeError, ValueError, TypeError, IndexError))
    return str(error) if plain and str(error) else f"{type(error).__name__}: {error}"


def _check_logits(student, logits, shape: tuple[int, int], mode: str, made_by) -> None:
    """Refuse anything but logits of this shape; the message has the remedy."""
    if isinstance(logits, Tensor) and logits.shape == shape:
        if logits.is_floating_point():
            return
        got = f"numbers of {logits.dtype}"
        mend = "Let it return its last layer's output, not the classes made of it"
    else:
        got, mend = _form_and_mend(logits, shape, mode, made_by)
    n_rows, n_classes = shape
    raise ValueError(
        f"student {type(student).__name__} must give one logit per class, shape {shape} for {n_rows} "
        f"samples of {n_classes} classes; {mode.strip()}{' ' if mode else ''}it gave {got}. {mend}."
    )


def _form_and_mend(given, shape: tuple[int, int], mode: str, made_by) -> tuple[str, str]:
    """Describe what a student returned in place of logits, and what to do about it."""
    n_rows, n_classes = shape
    if isinstance(given, Tensor):
        got = str(tuple(given.shape))
        if len(given.shape) > 2 and given.numel() == n_rows * n_classes and len(given) == n_rows:
            return got, "Flatten it, as by a last layer nn.Flatten()"
        if len(given.shape) > 2:
            return got, (
                "Pool its other dimensions, as by nn.AdaptiveAvgPool2d(1) and nn.Flatten() before the last "
                f"layer, which is {n_classes} wide"
            )
        if mode:
            return got, f"Let it return then what it returns in evaluation mode, shape {shape}"
        mend = f"Make its last layer {n_classes} wide (two for two classes)"
        if made_by is not None and _hides_names(made_by):
            mend += (
                f"; the signature of {student_name(made_by)} has **kwargs, in which nothing can be filled "
                f"in: give the number by its name there, such as student__num_classes={n_classes}"
            )
        return got, mend
    got = _described(given)
    if mode:
        return got, (
            "Auxiliary outputs are not trained on: switch them off, as by student__aux_logits=False, or "
            "wrap the student in a module that returns the logits alone"
        )
    return got, f"Wrap it in a module that returns the logits alone: {_way_to_logits(given, shape)}"


def _hides_names(factory) -> bool:
    kinds = {parameter.kind for parameter in student_signature(factory).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def _described(given) -> str:
    """Describe a tuple, a dict or another object, with what is in it."""
    parts = given.items() if isinstance(given, Mapping) else enumerate(_as_list(given))
    found = [f"{key!r}: {shape_or_type(value)}" for key, value in parts][:4]
    return f"a {type(given).__name__}" + (f" of {{{', '.join(found)}}}" if found else "")


def _as_list(given) -> list:
    return list(given) if isinstance(given, (tuple, list)) else []


def _way_to_logits(given, shape) -> str:
    """Return the expression that takes the logits out of what a student returned."""
    if isinstance(getattr(given, "logits", None), Tensor):
        return "return self.student(x).logits"
    parts = given.items() if isinstance(given, Mapping) else enumerate(_as_list(given))
    keys = [key for key, value in parts if isinstance(value, Tensor) and value.shape == shape]
    return f"return self.student(x)[{keys[0]!r}]" if keys else "return a tensor"


def _check_gradient(student, logits: Tensor) -> None:
    if logits.requires_grad:
        return
    name = type(student).__name__
    if not any(w.requires_grad for w in student.parameters()):
        raise ValueError(
            f"student {name} has only frozen weights (requires_grad=False): none can be trained. Call "
            "requires_grad_(True) on those that are to learn."
        )
    raise ValueError(
        f"student {name} returns logits without a gradient in training mode: none of its weights could "
        "learn. Leave detach(), torch.no_grad() and NumPy out of its forward pass."
    )


def _check_no_probabilities(student: nn.Module, samples: Tensor, logits: Tensor) -> None:
    """Refuse a student that ends in a softmax in the mode that it is in."""
    if not are_probabilities(logits.detach().float()):
        return
    with torch.no_grad():
        # Two rows might look so by accident: ask about others between zero and them.
        shares = torch.linspace(0, 1, 16, device=samples.device).reshape(-1, *[1] * (samples.ndim - 1))
        more = samples.repeat(16, *[1] * (samples.ndim - 1))[:16] * shares
        try:
            confirmed = are_probabilities(student(more).float())
        except Exception:  # a student may refuse rows unlike the data
            confirmed = True
    if confirmed:
        mode = "training" if student.training else "evaluation"
        raise ValueError(
            f"student {type(student).__name__} returns probabilities in {mode} mode: its rows are not "
            "negative and sum to 1, as behind a softmax. Leave the softmax out: the losses and "
            "predict_proba apply it to logits."
        )
