"""Every kind of teacher turned into logits aligned with the rows and the classes.

| teacher                             | trained here          | sees                       |
|-------------------------------------|-----------------------|----------------------------|
| scikit-learn classifier             | a clone, on D_train   | X as the user gave it      |
| ``FrozenEstimator(fitted)``         | no                    | X as the user gave it      |
| ``nn.Module`` that returns logits   | no                    | float32 tensor             |
| fitted skorch net                   | no                    | float32 array              |
| None, with ``teacher_logits``       | no                    |                            |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted, has_fit_parameter
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd._ambient_state import default_dtype_of_caller
from sklearn_kd._devices import check_has_numbers
from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state, seeded_without_turn
from sklearn_kd._turns import turn

# What stands for a probability of exactly 0, whose logarithm is infinite: half the smallest
# probability that the teacher gives (the usual replacement of rounded zeros in compositional
# data), kept within these bounds. A forest of 100 trees that gives 0 means "less than one
# vote", 0.005; a far smaller number would make noise the largest thing it says at high T.
FLOOR_BOUNDS = (1e-7, 1e-2)


def make_teacher(teacher: Any) -> Teacher:
    """The wrapper for this kind of teacher.

    Raises
    ------
    TypeError
        If it is none of the kinds in the table above.
    ValueError
        If it is one of them but cannot be used.
    """
    kind = _kind_of(teacher)
    if kind is not None:
        return kind(teacher)
    hint = " Give an instance, not the class." if isinstance(teacher, type) else ""
    raise TypeError(
        f"teacher={teacher!r} is none of: a scikit-learn classifier, "
        "FrozenEstimator(fitted classifier), a trained torch.nn.Module that returns logits, a "
        f"fitted skorch net, or None with teacher_logits given to fit.{hint}"
    )


def _kind_of(teacher: Any) -> type[Teacher] | None:
    kinds = (ModuleTeacher, SkorchTeacher, FrozenTeacher, EstimatorTeacher)
    return next((kind for kind in kinds if kind.accepts(teacher)), None)


def without_training(teacher: Any) -> Any:
    """What remains of a teacher without what it has learned.

    That is an unfitted clone of a classifier to be fitted here, and None where the teacher
    comes trained.
    """
    return clone(teacher) if _kind_of(teacher) is EstimatorTeacher else None


class Teacher:
    """A teacher that comes trained; ``fitted`` is what the estimator keeps of it."""

    def __init__(self, teacher):
        self.fitted = teacher
        self.check()

    @staticmethod
    def accepts(teacher) -> bool:
        """Whether this is the wrapper for ``teacher``."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError if the teacher cannot be used."""

    def fit(self, X, y, *, sample_weight, rng) -> None:
        """Train on D_train, given in the user's container and labels."""

    def logits(self, X, X_tensor: Tensor, classes: np.ndarray, batch_size: int) -> Tensor:
        """Logits of shape (n, K), columns in the order of ``classes``, on X_tensor's device."""
        raise NotImplementedError

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """A context to train and to ask it in: what it draws is of ``seed``, and leaves no trace.

        No turn is held, since a scikit-learn teacher may wait for threads that need one.
        """
        with seeded_without_turn(seed), default_dtype_of_caller():
            yield


class NetworkTeacher(Teacher):
    """A trained network, which can be asked about one batch at a time."""

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        """What maps a float32 batch on ``device`` to logits, columns in the order of ``classes``."""
        raise NotImplementedError

    @contextmanager
    def drawing_from(self, seed, device):
        """A context to ask it in, a turn of this thread: it draws from ``seed``, and leaves no trace."""
        with preserved_random_state(device, seed):
            yield

    def logits(self, X, X_tensor, classes, batch_size):
        ask = self.on(X_tensor.device, classes)
        return torch.cat([ask(x) for x in X_tensor.split(batch_size)])


class ModuleTeacher(NetworkTeacher):
    """A trained module; column j of its logits is the j-th class unless it has ``classes_``."""

    @staticmethod
    def accepts(teacher):
        return isinstance(teacher, nn.Module)

    def check(self):
        check_has_numbers(self.fitted, "teacher")

    def on(self, device, classes):
        # Tensors are moved, once, not the user's module.
        state = {
            name: tensor.to(device)
            for name, tensor in (*self.fitted.named_parameters(), *self.fitted.named_buffers())
        }

        def ask(x: Tensor) -> Tensor:
            with evaluating(self.fitted.modules()), torch.no_grad():
                logits = torch.func.functional_call(self.fitted, state, (x,))
            if logits.ndim != 2:
                raise ValueError(
                    f"teacher must return logits of shape (n, n_classes), not {tuple(logits.shape)}."
                )
            return logits[:, columns_of_codes(self.fitted, logits.shape[1], classes)].float()

        return ask


class SkorchTeacher(NetworkTeacher):
    """A fitted skorch net, alone or frozen; its logits where its criterion has logits."""

    @staticmethod
    def accepts(teacher):
        return isinstance(getattr(teacher, "estimator", teacher), NeuralNet) and (
            isinstance(teacher, (NeuralNet, FrozenEstimator))
        )

    def check(self):
        self._net = getattr(self.fitted, "estimator", self.fitted)
        require_fitted_net(self._net)

    def on(self, device, classes):
        def ask(x: Tensor) -> Tensor:
            X = x.cpu().numpy()
            with turn(), torch.random.fork_rng():  # skorch's DataLoader draws a seed even to predict
                if isinstance(self._net.criterion_, nn.CrossEntropyLoss):
                    logits = self._net.forward(X)
                else:
                    logits = log_probabilities(self._net.predict_proba(X))
            columns = columns_of_codes(self._net, logits.shape[1], classes)
            return torch.as_tensor(logits)[:, columns].float().to(device)

        return ask

    def logits(self, X, X_tensor, classes, batch_size):
        # Its own batches, and one floor for the zeros of all rows.
        return self.on(X_tensor.device, classes)(X_tensor)


class FrozenTeacher(Teacher):
    """A classifier fitted before; its log-probabilities."""

    @staticmethod
    def accepts(teacher):
        return isinstance(teacher, FrozenEstimator)

    def check(self):
        try:
            check_is_fitted(self.fitted.estimator)
        except NotFittedError:
            raise ValueError(
                f"teacher={self.fitted!r} is frozen but not fitted. Fit it before freezing, or "
                "give it unfrozen to have it fitted on D_train."
            ) from None
        _require_probabilities(self.fitted.estimator)

    def logits(self, X, X_tensor, classes, batch_size):
        logits = log_probabilities(self.fitted.predict_proba(X))[:, columns_of(self.fitted.classes_, classes)]
        return torch.as_tensor(logits).to(X_tensor.device)


class EstimatorTeacher(Teacher):
    """A classifier to be cloned and fitted on D_train; its log-probabilities."""

    @staticmethod
    def accepts(teacher):
        return not isinstance(teacher, type) and hasattr(teacher, "fit") and is_classifier(teacher)

    def check(self):
        _require_probabilities(self.fitted)
        try:
            check_is_fitted(self.fitted)
        except (NotFittedError, TypeError):
            return
        warnings.warn(
            "teacher is already fitted, but a clone of it will be fitted anew on D_train. Wrap "
            "it in sklearn.frozen.FrozenEstimator to use it as it is.",
            UserWarning,
            stacklevel=2,
        )

    def fit(self, X, y, *, sample_weight, rng):
        teacher = set_open_seeds(clone(self.fitted), rng)
        weighted = sample_weight is not None and has_fit_parameter(teacher, "sample_weight")
        teacher.fit(X, y, **({"sample_weight": sample_weight} if weighted else {}))
        self.fitted = teacher

    def logits(self, X, X_tensor, classes, batch_size):
        # A class without weight may be missing from what the teacher was fitted on.
        probabilities = np.zeros((len(X_tensor), len(classes)))
        probabilities[:, columns_of(classes, self.fitted.classes_)] = self.fitted.predict_proba(X)
        return torch.as_tensor(log_probabilities(probabilities)).to(X_tensor.device)


def set_open_seeds(estimator, rng):
    """Draw the seeds that an estimator or its parts leave open (``random_state=None``)."""
    open_seeds = {
        name: int(rng.randint(np.iinfo(np.int32).max))
        for name, value in sorted(estimator.get_params(deep=True).items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    return estimator.set_params(**open_seeds)


def require_fitted_net(net: NeuralNet) -> None:
    """Raise ValueError unless a skorch net has been fitted."""
    if not net.initialized_ or not net.history:
        raise ValueError(
            "teacher is a skorch net that has not been fitted. Fit it first; it is used as it is."
        )


def _require_probabilities(estimator) -> None:
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"teacher {type(estimator).__name__} has no predict_proba. Wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms, zeros replaced as ``FLOOR_BOUNDS`` says, float32."""
    smallest = probabilities[probabilities > 0].min()
    return np.log(np.maximum(probabilities, np.clip(smallest / 2, *FLOOR_BOUNDS))).astype(np.float32)


def columns_of(known, wanted) -> np.ndarray:
    """Where each wanted class stands among the known ones.

    Raises
    ------
    ValueError
        If one of them is not there.
    """
    place = {label: column for column, label in enumerate(np.asarray(known).tolist())}
    missing = [label for label in np.asarray(wanted).tolist() if label not in place]
    if missing:
        raise ValueError(
            f"The teacher does not know the class(es) {missing[:5]} of y; it knows "
            f"{list(place)[:10]} ({len(place)} in all). Train it on the same classes, or give "
            "teacher_logits with one column per class of y, in sorted order."
        )
    return np.array([place[label] for label in np.asarray(wanted).tolist()])


def columns_of_codes(network, n_outputs: int, wanted: np.ndarray) -> np.ndarray:
    """``columns_of`` for a network, which may know its classes as 0 … K−1 only."""
    known = np.asarray(getattr(network, "classes_", np.arange(n_outputs)))
    if n_outputs == len(wanted) and np.array_equal(known, np.arange(n_outputs)):
        return np.arange(n_outputs)
    return columns_of(known, wanted)
