"""Ask trained networks for feature maps, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd.inputs._image_sizes import scaled_size
from sklearn_kd.layers._find import check_not_compiled, find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._random_state import preserved_random_state, preserved_torch_state
from sklearn_kd.tasks._pixels import pixel_rows, resized
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._conversion import LogitConversion
from sklearn_kd.teachers._feature_numbers import NumberOutputs
from sklearn_kd.teachers._logit_checks import AnswersWatch, logits_in, name_of, refuse_wrong_numbers, thawed
from sklearn_kd.teachers._networks import (
    LEAVE_SOFTMAX_OUT,
    EvaluatedNetwork,
    own_classes,
    possible_widths,
    require_fitted_net,
)
from sklearn_kd.teachers._registry import advice_for, short_repr
from sklearn_kd.teachers._regressors import refuse_infinite
from sklearn_kd.teachers._transformed import Transform, TransformedTeacher, transformed
from sklearn_kd.teachers._wrappers import without_wrappers
from sklearn_kd.teachers._zeros import floor_of_each_row


def network_of(teacher: Any, name: str = "teacher") -> nn.Module:
    """Return the module of a network, a skorch net or an estimator of this library.

    Parameters
    ----------
    teacher : object
    name : str, default="teacher"
        Name of the parameter in messages.

    Raises
    ------
    TypeError
        If the object is not a network.
    ValueError
        If the object has not been fitted.
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
                f"{name} {type(inner).__name__} has not been fitted, or is a clone of a fitted one. Fit it "
                f"first; its student is the {name}. FrozenEstimator({name}) stays fitted in clones."
            )
        return inner.student_
    raise TypeError(
        f"{name}={short_repr(teacher)} is not a network: features are compared, which only networks "
        "have. Give a trained torch.nn.Module, a fitted skorch net, or a fitted estimator of this library, "
        f"whose student is then the teacher.{advice_for(teacher)}"
    )


@contextmanager
def _uncompiled(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Switch ``torch.compile`` off for modules, since each new hook would recompile them."""
    compiled = [part._compiled_call_impl for part in parts]
    try:
        for part in parts:
            part._compiled_call_impl = None
        yield
    finally:
        for part, implementation in zip(parts, compiled, strict=True):
            part._compiled_call_impl = implementation


class FeatureTeacher:
    """A trained network that returns feature maps of batches, in evaluation mode and without gradients.

    It runs on the student's device. The user's module is not changed, and no optimizer holds it.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
    device : torch.device
    name : str, default="teacher"
        Name of the parameter in messages.
    """

    def __init__(self, teacher: Any, device: torch.device, name: str = "teacher"):
        self.fitted, self.network, self.device = teacher, network_of(teacher, name), device
        self._transform: Transform | None = None
        if isinstance(self.network, TransformedTeacher):
            self._transform = _evaluated(self.network.transform, device)
            self.network = self.network.network
        self.who = name_of(teacher, name)
        check_has_numbers(self.network, name)
        bare = without_wrappers(self.network)
        self._evaluated = EvaluatedNetwork(bare, device, self.who)
        self._compiled = [part for part in bare.modules() if part._compiled_call_impl is not None]
        self.watch = AnswersWatch(self.who)
        self._read: Callable[[Any, int], Tensor] | None = None  # finds the outputs
        self._convert: Callable[[Tensor], Tensor] | None = None  # converts them to what the loss compares
        # Height and width of the images and of the maps in y; the latter is () if y has no maps.
        self._sizes: tuple[Sequence[int], Sequence[int]] = (), ()

    @property
    def gives_outputs(self) -> bool:
        """True once the outputs are aligned with y; they are then returned with the features."""
        return self._convert is not None

    def forward(self, x: Tensor) -> Any:
        """Run a forward pass on ``device`` and restore the random state."""
        with preserved_torch_state(self.device):
            return self._run(self._input_of(x))

    def _input_of(self, x: Tensor) -> Tensor:
        """Return the teacher's input for the student's batch: a copy, since either may write into its own."""
        own = x.clone()
        if self._transform is None:
            return own
        with preserved_torch_state(self.device), torch.no_grad():
            return transformed(self._transform, own)

    def _run(self, x: Tensor) -> Any:
        with _uncompiled(self._compiled), preserved_torch_state(self.device):
            return self._evaluated(x)

    def layer_shapes(
        self,
        layers: str | Sequence[str],
        samples: Tensor,
        *,
        of_maps: bool = False,
        kinds: Sequence[str] = ("maps",),
        auto: str = "stages",
        n_stages: int | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """Return the shape of one sample's features, by layer; parameters as in :func:`find_layers`."""
        self.check(samples, "teacher_layers")
        found = find_layers(
            self.network,
            layers,
            self._input_of(samples),
            name="teacher_layers",
            run=self._run,
            of_maps=of_maps,
            kinds=kinds,
            auto=auto,
            n_stages=n_stages,
        )
        return layer_shapes(found)

    def check(self, samples: Tensor, name: str) -> None:
        """Check that the network takes the samples and runs hooks; ``name`` is the parameter in messages."""
        check_not_compiled(self.network, name, runs_uncompiled=True)
        output = self.forward(samples)
        if _is_table(output):
            refuse_wrong_numbers(output.float(), self.who)

    def align_logits(
        self,
        samples: Tensor,
        classes: np.ndarray,
        stated: list | None = None,
        map_shape: tuple[int, ...] = (),
    ) -> None:
        """From now on return logits too, with columns in the order of ``classes``.

        Parameters
        ----------
        samples : Tensor
            Rows to try the network on.
        classes : ndarray
            Classes of y.
        stated : list or None, default=None
            Classes of the columns, if the user states them.
        map_shape : tuple of int, default=()
            Size (H, W) of the maps in y, to which maps of logits are resized; their pixels become rows. ()
            if y has no maps.

        Raises
        ------
        ValueError
            If the network returns no logits, or it is not known which column is which class.
        """
        widths = possible_widths(self.fitted, stated, classes)

        def read(output: Any, n_rows: int) -> Tensor:
            return logits_in(output, n_rows, widths, self.who, maps=bool(map_shape))

        output = self.forward(samples)
        try:
            values = read(output, len(samples))
        except ValueError as error:
            raise ValueError(
                f"logit_weight needs a teacher that returns logits. {error} Or set logit_weight=0 to use its "
                "feature maps alone."
            ) from error
        own = own_classes(thawed(self.fitted), values.shape[1], stated)
        conversion = LogitConversion.of(
            values,
            own=own,
            stated=stated,
            classes=classes,
            who=self.who,
            remedy=LEAVE_SOFTMAX_OUT,
            floor=floor_of_each_row,
        )
        self._read, self._convert = read, conversion.__call__
        self._sizes = samples.shape[2:], map_shape

    def align_numbers(self, samples: Tensor, task: Regression) -> None:
        """From now on return predictions too, standardised as y is.

        Parameters
        ----------
        samples : Tensor
            Rows to try the network on.
        task : Regression

        Raises
        ------
        ValueError
            If the network does not return one number for each target.
        WrongAnswerError
            If a number is not finite.
        """
        outputs = NumberOutputs(self.fitted, task, self.who, self.device)
        try:
            values = outputs.read(self.forward(samples), len(samples))
        except ValueError as error:
            raise ValueError(
                f"output_weight needs a teacher that predicts y. {error} Or set output_weight=0 to use its "
                "feature maps alone."
            ) from error
        refuse_infinite(values.flatten(1), self.who)
        self._read, self._convert = outputs.read, outputs.convert
        self._sizes = samples.shape[2:], task.map_shape

    def signature(self, samples: Tensor, layers: Sequence[str]) -> Tensor:
        """Return the mean features of some samples, float64, to detect a changed teacher."""
        with preserved_random_state(self.device, seed=0):  # a network may draw random numbers
            maps, _ = self(samples, layers)
        return torch.cat([_means(maps[layer].double()).flatten() for layer in layers])

    def __call__(self, x: Tensor, layers: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return the feature maps of a batch by layer, and the outputs or, until they are aligned, None."""
        with torch_state_lock(), feature_hooks(self.network, layers) as maps:  # hooks see every forward pass
            output = self.forward(x)
        maps.update((name, found.to(x.dtype)) for name, found in maps.items() if isinstance(found, Tensor))
        if self._read is None or self._convert is None:
            if _is_table(output):  # NaN in a map usually shows in the logits
                self.watch.note(output)
            return maps, None
        values = self._read(output, len(x))
        self.watch.note(values)
        return maps, self._as_rows(self._convert(values), x)

    def _as_rows(self, outputs: Tensor, x: Tensor) -> Tensor:
        """If y has maps, resize the outputs to y's size for x, and turn their pixels into rows."""
        image_size, map_size = self._sizes
        if not map_size:
            return outputs
        return pixel_rows(resized(outputs, tuple(scaled_size(x.shape[2:], image_size, map_size))))


def _evaluated(transform: Transform, device: torch.device) -> Transform:
    """Return a transform to run as the teacher does, if it is a module, which may be in training mode."""
    if not isinstance(transform, nn.Module):
        return transform
    return EvaluatedNetwork(transform, device, "teacher_transform")


def _means(features: Tensor) -> Tensor:
    """Return the mean of each channel of maps; return rows unchanged."""
    return features if features.ndim == 2 else features.flatten(2).mean(dim=2)


def _is_table(output: Any) -> bool:
    """Return True if the output is a table or maps of numbers, as logits are."""
    return isinstance(output, Tensor) and output.ndim in (2, 4) and output.is_floating_point()
