"""Teachers that are trained networks: modules and skorch nets, asked batch by batch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import Tensor, nn

from sklearn_kd.layers._outputs import are_probabilities
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.teachers._class_alignment import classes_of_columns, columns_for
from sklearn_kd.teachers._logit_checks import (
    AnswersWatch,
    checked_probabilities,
    log_probabilities,
    logarithms,
    logits_in,
    name_of,
    refuse_wrong_numbers,
    thawed,
)
from sklearn_kd.teachers._teacher import Teacher

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers for several devices."""
    return unwrapped(module.module) if isinstance(module, _PARALLEL) else module


def require_fitted_net(net: NeuralNet) -> None:
    """Raise ValueError unless a skorch net has been fitted."""
    if not net.initialized_ or not net.history:
        raise ValueError(
            "teacher is a skorch net that has not been fitted. Fit it first; it is used as it is. If its "
            "weights were loaded by load_params, load its f_history too, or give its module_."
        )


def possible_widths(teacher: Any, stated: list | None, classes: np.ndarray) -> list[int]:
    """Return the numbers of columns that a network's logits may have, as far as is known."""
    own = getattr(thawed(teacher), "classes_", None)
    return sorted({len(known) for known in (stated, own, classes) if known is not None})


def own_classes(teacher: Any, n_columns: int, stated: list | None) -> Any:
    """Return ``classes_`` of a network if they are those of its columns, else None."""
    network = unwrapped(teacher) if isinstance(teacher, nn.Module) else teacher
    labels = getattr(network, "labels_of_columns", None)  # an estimator of ours has trained it on codes
    if labels is not None:
        return labels
    own = getattr(teacher, "classes_", getattr(network, "classes_", None))
    if own is None or not isinstance(network, NeuralNet):
        return own
    # skorch is trained on numbers of columns, though y may have other labels.
    if stated is not None and np.array_equal(own, np.arange(n_columns)):
        return None
    # Unless it was told its classes they are those that it saw in y: maybe not all that it has columns for.
    return own if getattr(network, "classes", None) is not None or len(own) == n_columns else None


class EvaluatedNetwork:
    """A trained module on a device, in evaluation mode, without gradient.

    Its tensors are moved, once, not the user's module, which is left as it is. Batches are cast to
    the type of its weights.

    Parameters
    ----------
    module : nn.Module
    device : torch.device
    who : str
        What messages call it.
    """

    def __init__(self, module: nn.Module, device: torch.device, who: str):
        self.module, self.who = unwrapped(module), who
        tensors = dict((*self.module.named_parameters(), *self.module.named_buffers()))
        self._weight = next((t for t in tensors.values() if t.is_floating_point()), None)
        self._state: dict[str, Tensor] | None = None
        if isinstance(self.module, torch.jit.ScriptModule):
            # Its constants move only with a copy of the whole module.
            if device.type != "cpu" or any(t.device != device for t in tensors.values()):
                self.module = _script_on(self.module, device)
        elif any(t.device != device for t in tensors.values()):
            self._state = {name: t.detach().to(device) for name, t in tensors.items()}

    def __call__(self, x: Tensor) -> Any:
        """Return what the module returns for a batch.

        Raises
        ------
        ValueError
            If it cannot take such samples.
        """
        given = x if self._weight is None else x.to(self._weight.dtype)
        with eval_mode(self.module.modules()), torch.no_grad():
            try:
                if self._state is None:
                    return self.module(given)
                return torch.func.functional_call(self.module, self._state, (given,))
            except _FAILURES as error:
                if is_out_of_memory(error):
                    raise
                raise cannot_take(self.who, x, error) from error


def cannot_take(who: str, x: Tensor, error: Exception) -> ValueError:
    """Make the error for a batch that a teacher fails for."""
    return ValueError(
        f"{who} cannot take samples of shape {tuple(x.shape[1:])}: {error}. Give fit an X of the shape that "
        "the teacher was trained on, or wrap its network in a module that makes that shape of X."
    )


def _script_on(module, device):
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    moved = torch.jit.load(file, map_location=device)
    return moved.eval() if hasattr(moved, "training") else moved


class AnswerForm(NamedTuple):
    """The way from what a network returns to the logits of the classes."""

    columns: Tensor | None
    probabilities: bool

    @classmethod
    def of(
        cls, values: Tensor, teacher: Any, stated: list | None, classes: np.ndarray, *, says: str
    ) -> AnswerForm:
        """Judge the first answers, which also must be numbers.

        ``says``: "logits" where probabilities come unexpected, "either" where they may come.
        """
        who = name_of(teacher)
        refuse_wrong_numbers(values, who)
        n_columns = values.shape[1]
        own = own_classes(thawed(teacher), n_columns, stated)
        known = classes_of_columns(n_columns, own, stated, who)
        columns = columns_for(classes, n_columns, known, who)
        probabilities = are_probabilities(values)
        if probabilities and says == "logits":
            warn_of_probabilities(who, "Let the network return logits: leave its softmax out")
        in_place = np.array_equal(columns, np.arange(n_columns))
        return cls(None if in_place else torch.as_tensor(columns, device=values.device), probabilities)

    def __call__(self, values: Tensor) -> Tensor:
        """Return logits, columns in the order of the classes."""
        logits = logarithms(values) if self.probabilities else values
        return logits if self.columns is None else logits.index_select(1, self.columns)


def warn_of_probabilities(who: str, mend: str) -> None:
    """Warn that logits were expected; their logarithms are used."""
    warnings.warn(
        f"{who} gives probabilities where logits are expected: every row is ≥ 0 and sums to 1. Their "
        f"logarithms are used, which lack what the softmax rounded to 0. {mend}, or take the logarithm "
        "(log_softmax).",
        UserWarning,
        stacklevel=2,
    )


class NetworkLogits:
    """The logits of a network, batch by batch; the first batch settles their form.

    Parameters
    ----------
    ask : callable(Tensor) -> Tensor
        What the network returns, shape (n, number of columns).
    form : callable(Tensor) -> AnswerForm
        Judges the first of it.
    who : str
        What messages call the network.
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], form: Callable[[Tensor], AnswerForm], who: str):
        self._ask, self._judge, self.watch = ask, form, AnswersWatch(who)
        self._form: AnswerForm | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of a batch, columns in the order of the classes."""
        values = self._ask(x)
        if self._form is None:
            self._form = self._judge(values)
        self.watch.note(values)
        return self._form(values)


class NetworkTeacher(Teacher):
    """A trained network, which can be asked about one batch at a time."""

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        """Return what maps a float32 batch on ``device`` to logits, columns in the order of ``classes``."""
        raise NotImplementedError

    @contextmanager
    def drawing_from(self, seed, device):
        """Enter a context to ask it in, with ``seed`` and the lock held; generators are restored."""
        with preserved_random_state(device, seed):
            yield

    def logits(self, X, X_tensor, classes, batch_size):
        ask = self.on(X_tensor.device, classes)
        return torch.cat([ask(x) for x in X_tensor.split(batch_size)])


class ModuleTeacher(NetworkTeacher):
    """A trained module."""

    @staticmethod
    def accepts(teacher):
        return isinstance(teacher, nn.Module)

    def check(self):
        check_has_numbers(self.fitted, "teacher")

    def on(self, device, classes):
        who, widths = name_of(self.fitted), possible_widths(self.fitted, self.stated, classes)
        network = EvaluatedNetwork(self.fitted, device, who)

        def ask(x):
            return logits_in(network(x), len(x), widths, who)

        def form(values):
            return AnswerForm.of(values, self.fitted, self.stated, classes, says="logits")

        return NetworkLogits(ask, form, who)


class SkorchTeacher(NetworkTeacher):
    """A fitted skorch net, alone or frozen.

    What its module returns are logits, unless its values are probabilities. ``predict_proba`` is
    asked where the user has said how probabilities are made, and where the module has one output
    for two classes.
    """

    @staticmethod
    def accepts(teacher):
        return isinstance(thawed(teacher), NeuralNet)

    def check(self):
        self._net = thawed(self.fitted)
        require_fitted_net(self._net)

    def on(self, device, classes):
        widths = possible_widths(self.fitted, self.stated, classes)

        def ask(x):
            # skorch's DataLoader draws a seed even to predict.
            with torch_state_lock(), torch.random.fork_rng():
                return torch.as_tensor(self._answers(x, widths)).to(device)

        def form(values):
            # Only this loss has a softmax of its own; for others the module may end in one.
            logits_expected = isinstance(getattr(self._net, "criterion_", None), nn.CrossEntropyLoss)
            says = "logits" if logits_expected else "either"
            return AnswerForm.of(values, self.fitted, self.stated, classes, says=says)

        return NetworkLogits(ask, form, name_of(self.fitted))

    def _answers(self, x, widths):
        who, X = name_of(self.fitted), x.cpu().numpy()
        try:
            output, probabilities = self._output_or_probabilities(X)
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise cannot_take(who, x, error) from error
        if probabilities is None:
            return logits_in(output, len(X), widths, who)
        return log_probabilities(checked_probabilities(probabilities, who))

    def _output_or_probabilities(self, X):
        net = self._net
        if not self._declares_probabilities:
            output = net.forward(X)
            output = output[0] if isinstance(output, tuple) else output  # as skorch itself
            if not isinstance(output, Tensor) or (output.ndim == 2 and output.shape[1] > 1):
                return output, None
        return None, net.predict_proba(X)

    @property
    def _declares_probabilities(self):
        """True if the user has said how probabilities come from what the module returns."""
        plain = (NeuralNet.predict_proba, NeuralNetClassifier.predict_proba)
        return self._net.predict_nonlinearity != "auto" or type(self._net).predict_proba not in plain

    def logits(self, X, X_tensor, classes, batch_size):
        # Its own batches, and one floor for the zeros of all rows.
        return self.on(X_tensor.device, classes)(X_tensor)
