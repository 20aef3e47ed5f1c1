"""A teacher network asked for feature maps, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd.layers._find import check_not_compiled, find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._global_lock import turn
from sklearn_kd.runtime._random_state import preserved_random_state, preserved_torch_state
from sklearn_kd.teachers._logit_checks import AnswersWatch, logits_in, name_of, refuse_wrong_numbers, thawed
from sklearn_kd.teachers._networks import (
    AnswerForm,
    EvaluatedNetwork,
    possible_widths,
    require_fitted_net,
    unwrapped,
)
from sklearn_kd.teachers._teacher import how_to_give, shown


def network_of(teacher: Any, name: str = "teacher") -> nn.Module:
    """Return the module inside a teacher that is a network; ``name`` is what messages call it.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it has not been fitted.
    """
    inner = thawed(teacher)
    if isinstance(inner, nn.Module):
        return inner
    if isinstance(inner, NeuralNet):
        require_fitted_net(inner)
        return inner.module_
    if hasattr(type(inner), "student_"):
        if not hasattr(inner, "net_"):
            raise ValueError(
                f"{name} {type(inner).__name__} has not been fitted. Fit it first; its student is the {name}."
            )
        return inner.student_
    raise TypeError(
        f"{name}={shown(teacher)} is no network: pathways compare feature maps, which only networks have. "
        "Give a trained torch.nn.Module, a fitted skorch net, or a fitted estimator of this library, whose "
        f"student is then the teacher.{how_to_give(teacher)}"
    )


def _without_wrappers(network: nn.Module) -> nn.Module:
    """Return the network inside DataParallel and torch.compile, which split batches or leave out hooks."""
    inner = getattr(unwrapped(network), "_orig_mod", None)
    return _without_wrappers(inner) if isinstance(inner, nn.Module) else unwrapped(network)


@contextmanager
def _uncompiled(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Run modules that were compiled in place as they were written: each new hook would compile anew."""
    compiled = [part._compiled_call_impl for part in parts]
    try:
        for part in parts:
            part._compiled_call_impl = None
        yield
    finally:
        for part, implementation in zip(parts, compiled, strict=True):
            part._compiled_call_impl = implementation


class MapTeacher:
    """A trained network in evaluation mode, without gradient, on the student's device.

    The user's module is in no optimizer and left as it is.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
    device : torch.device
    name : str, default="teacher"
        What messages call it.
    """

    def __init__(self, teacher: Any, device: torch.device, name: str = "teacher"):
        self.fitted, self.network, self.device = teacher, network_of(teacher, name), device
        self.who = name_of(teacher, name)
        check_has_numbers(self.network, name)
        bare = _without_wrappers(self.network)
        self._evaluated = EvaluatedNetwork(bare, device, self.who)
        self._compiled = [part for part in bare.modules() if part._compiled_call_impl is not None]
        self.watch = AnswersWatch(self.who)
        self._form: AnswerForm | None = None
        self._widths: list[int] = []

    def run(self, x: Tensor) -> Any:
        """Run a forward pass on ``device``; the random state is put back."""
        with _uncompiled(self._compiled), preserved_torch_state(self.device):
            return self._evaluated(x)

    def layers(self, layers: str | Sequence[str], samples: Tensor) -> dict[str, tuple[int, ...]]:
        """Resolve the layers that are meant, as :func:`resolve_layers`."""
        self.check(samples, "teacher_layers")
        return layer_shapes(find_layers(self.network, layers, samples, name="teacher_layers", run=self.run))

    def check(self, samples: Tensor, name: str) -> None:
        """Raise ValueError unless it takes the samples and has layers, as the parameter ``name`` needs."""
        check_not_compiled(self.network, name, runs_uncompiled=True)
        output = self.run(samples)
        if _is_table(output):
            refuse_wrong_numbers(output.float(), self.who)

    def align_logits(self, samples: Tensor, classes: np.ndarray, stated: list | None = None) -> None:
        """Note which of its logits belong to ``classes``.

        Parameters
        ----------
        samples : Tensor
            Rows to ask it about.
        classes : ndarray
            Those of y.
        stated : list or None, default=None
            The classes of its columns, where the user states them.

        Raises
        ------
        ValueError
            If it has no logits, or nobody says which class is which column.
        """
        self._widths = possible_widths(self.fitted, stated, classes)
        output = self.run(samples)
        try:
            values = logits_in(output, len(samples), self._widths, self.who)
        except ValueError as error:
            raise ValueError(
                f"logit_weight needs a teacher that returns logits. {error} Or set logit_weight=0 to use its "
                "feature maps alone."
            ) from error
        self._form = AnswerForm.of(values, self.fitted, stated, classes, says="logits")

    def some_answers(self, samples: Tensor, layers: Sequence[str]) -> Tensor:
        """Return the means of its feature maps of some samples, float64, by which it is recognised."""
        with preserved_random_state(self.device, seed=0):  # the same draws each time
            maps, _ = self(samples, layers)
        return torch.cat([maps[layer].double().flatten(2).mean(dim=2).flatten() for layer in layers])

    def __call__(self, x: Tensor, layers: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return its feature maps of a batch by layer, and its logits where they have been aligned."""
        with turn(), feature_hooks(self.network, layers) as maps:  # hooks hear of every forward pass
            output = self.run(x)
        maps.update((name, found.to(x.dtype)) for name, found in maps.items() if isinstance(found, Tensor))
        if self._form is None:
            if _is_table(output):  # wrong values in a map mostly show in the logits
                self.watch.note(output)
            return maps, None
        values = logits_in(output, len(x), self._widths, self.who)
        self.watch.note(values)
        return maps, self._form(values)


def _is_table(output: Any) -> bool:
    """Return whether a network returned rows of numbers, as logits are."""
    return isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point()
