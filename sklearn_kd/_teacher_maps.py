"""A teacher network asked for feature maps, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd._devices import check_has_numbers
from sklearn_kd._layers import captured, resolve_layers
from sklearn_kd._memory import is_out_of_memory
from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state, preserved_torch_state
from sklearn_kd._teachers import columns_of, columns_of_codes, require_fitted_net
from sklearn_kd._turns import turn


def network_of(teacher: Any) -> nn.Module:
    """The module inside a teacher that is a network.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it has not been fitted.
    """
    inner = getattr(teacher, "estimator", teacher) if isinstance(teacher, FrozenEstimator) else teacher
    if isinstance(inner, nn.Module):
        return inner
    if isinstance(inner, NeuralNet):
        require_fitted_net(inner)
        return inner.module_
    if hasattr(type(inner), "student_"):
        if not hasattr(inner, "net_"):
            raise ValueError(
                f"teacher {type(inner).__name__} has not been fitted. Fit it first; its student is the "
                "teacher."
            )
        return inner.student_
    hint = " Give an instance, not the class." if isinstance(teacher, type) else ""
    raise TypeError(
        f"teacher={teacher!r} is no network: pathways compare feature maps, which only networks have. Give "
        "a trained torch.nn.Module, a fitted skorch net, or a fitted estimator of this library, whose "
        f"student is then the teacher.{hint}"
    )


class MapTeacher:
    """A trained network in evaluation mode, without gradient, on the student's device.

    Its tensors are moved, not the user's module, which is in no optimizer and left as it is.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
    device : torch.device
    """

    def __init__(self, teacher: Any, device: torch.device):
        self.fitted, self.network, self.device = teacher, network_of(teacher), device
        check_has_numbers(self.network, "teacher")
        tensors = dict((*self.network.named_parameters(), *self.network.named_buffers()))
        elsewhere = any(tensor.device != device for tensor in tensors.values())
        self._state = {name: t.detach().to(device) for name, t in tensors.items()} if elsewhere else None
        self._columns: np.ndarray | None = None

    def run(self, x: Tensor) -> Any:
        """A forward pass on ``device``; no trace in the random state."""
        with evaluating(self.network.modules()), torch.no_grad(), preserved_torch_state(self.device):
            if self._state is None:
                return self.network(x)
            return torch.func.functional_call(self.network, self._state, (x,))

    def layers(self, layers: str | Sequence[str], samples: Tensor) -> dict[str, tuple[int, ...]]:
        """The layers that are meant, as in :func:`resolve_layers`."""
        self._try(samples)
        return resolve_layers(self.network, layers, samples, name="teacher_layers", run=self.run)

    def _try(self, samples):
        try:
            return self.run(samples)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"teacher {type(self.network).__name__} cannot take samples of shape "
                f"{tuple(samples.shape[1:])}: {error}"
            ) from error

    def align_logits(self, samples: Tensor, classes: np.ndarray) -> None:
        """Note which of its logits belong to ``classes``.

        Raises
        ------
        ValueError
            If it has no logits, or does not know a class.
        """
        inner = getattr(self.fitted, "estimator", self.fitted)
        criterion = getattr(inner, "criterion_", None) if isinstance(inner, NeuralNet) else None
        logits = self._try(samples)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if (criterion is not None and not isinstance(criterion, nn.CrossEntropyLoss)) or (
            not isinstance(logits, Tensor) or logits.ndim != 2
        ):
            what = "" if criterion is None else f" for the criterion {type(criterion).__name__}"
            raise ValueError(
                f"logit_weight needs a teacher that returns logits of shape (n, n_classes); it returned "
                f"{shape}{what}. Set logit_weight=0 to use its feature maps alone."
            )
        if hasattr(type(inner), "student_"):  # its columns have labels, not codes
            self._columns = columns_of(inner.classes_, classes)
        else:
            self._columns = columns_of_codes(inner, logits.shape[1], classes)

    def some_answers(self, samples: Tensor, layers: Sequence[str]) -> Tensor:
        """The means of its feature maps of some samples, float64, to know it by."""
        with preserved_random_state(self.device, seed=0):  # one that draws is known by the same draws
            maps, _ = self(samples, layers)
        return torch.cat([maps[layer].double().flatten(2).mean(dim=2).flatten() for layer in layers])

    def __call__(self, x: Tensor, layers: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Its feature maps of a batch by layer, and its logits where they have been aligned."""
        with turn(), captured(self.network, layers) as maps:  # hooks hear of every forward pass
            logits = self.run(x)
        return maps, None if self._columns is None else logits[:, self._columns].float()
