"""Ready-made small students, and how any student module is built for a data set."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_kd._devices import check_has_numbers
from sklearn_kd._memory import is_out_of_memory
from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state


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
        widths = [in_features, *([hidden] if isinstance(hidden, int) else hidden)]
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
                f"got samples of shape {tuple(input_shape)}."
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


def build_student(
    student: nn.Module | type[nn.Module], params: dict, sample_shape: tuple, n_classes: int
) -> nn.Module:
    """A fresh student for samples of ``sample_shape`` and ``n_classes`` classes.

    An instance is copied. A class is called with ``params`` and, where its signature has
    them and ``params`` does not, ``in_features`` (numbers per sample), ``in_channels`` (the
    first dimension), ``input_shape`` (all of them) and ``n_classes``.

    Raises
    ------
    TypeError
        If ``student`` is no module, ``params`` do not fit it, or some of its arguments are
        left open.
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
    if not (isinstance(student, type) and issubclass(student, nn.Module)):
        raise TypeError(f"student={student!r} must be a torch.nn.Module, class or instance.")
    sizes = {
        "in_features": math.prod(sample_shape),
        "in_channels": sample_shape[0],
        "input_shape": tuple(sample_shape),
        "n_classes": n_classes,
    }
    signature = inspect.signature(student)
    filled = {k: v for k, v in sizes.items() if k in signature.parameters} | params
    try:
        signature.bind(**filled)
    except TypeError as error:
        raise TypeError(
            f"student {student.__name__}{signature} cannot be built from "
            f"{_prefixed(params) or 'no student__ parameters'}: {error}. Sizes named "
            f"{', '.join(sizes)} are filled in; give the rest as student__NAME=..."
        ) from None
    return student(**filled)


def _refuse_wrapped(student):
    """Refuse what belongs to a process group, whose gradients are averaged behind the optimizer's back."""
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
    """The student, with weights of float32 if it cannot take float32 samples as it is.

    One whose weights are of another type may cast what it is given, and is left alone then.
    """
    state = [*student.parameters(), *student.buffers()]
    if all(w.dtype is torch.float32 for w in state if w.is_floating_point()):
        return student
    if not any(is_lazy(w) for w in state):  # they would be made by the trial
        # A module may raise anything, which check_student_output tells.
        with suppress(Exception), evaluating(student.modules()), torch.no_grad():
            with preserved_random_state(samples.device):
                student(samples)
            return student
    return student.float()


def check_student_output(student: nn.Module, samples: Tensor, n_classes: int) -> None:
    """Raise ValueError unless ``student`` maps ``samples`` to one logit per class."""
    try:
        with evaluating(student.modules()), torch.no_grad(), preserved_random_state(samples.device):
            logits = student(samples)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"student {type(student).__name__} cannot take samples of shape "
            f"{tuple(samples.shape[1:])}: {error}"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (len(samples), n_classes):
        raise ValueError(
            f"student {type(student).__name__} must give one logit per class, shape "
            f"({len(samples)}, {n_classes}) for {len(samples)} samples of {n_classes} classes; "
            f"it gave {shape}. Make its last layer {n_classes} wide (two for two classes)."
        )
