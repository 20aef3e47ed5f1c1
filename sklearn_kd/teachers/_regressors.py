"""Teachers of a regressor: trained on D_train or given trained, they predict numbers in the units of y."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state, get_tags
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._regression import MOST_DEVIATIONS, Regression
from sklearn_kd.teachers._adapter import BatchTeacherAdapter, EitherWayAdapter, TeacherAdapter
from sklearn_kd.teachers._classifiers import data_explained, is_fitted, set_open_seeds, warn_if_fitted
from sklearn_kd.teachers._ensembles import TeacherEnsemble, checked_weights, of_one_size
from sklearn_kd.teachers._fit_parameters import FitParameters
from sklearn_kd.teachers._logit_checks import AnswersWatch, WrongAnswerError, name_of, thawed
from sklearn_kd.teachers._networks import EvaluatedNetwork, as_arrays, require_fitted_net
from sklearn_kd.teachers._registry import (
    adapter_class,
    advice_for,
    short_repr,
    tell_by_abilities,
)
from sklearn_kd.teachers._standardised_maps import in_size_of, standardised_maps
from sklearn_kd.teachers._weighted_fit import WeightedFit


@tell_by_abilities
class RegressorTeacher(TeacherAdapter):
    """Adapter of a regressor; a clone of it is fitted on D_train. It can teach only regressors."""

    gives_classes = False

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        if isinstance(teacher, (type, FrozenEstimator)):
            return False
        if not all(hasattr(teacher, name) for name in ("fit", "get_params", "set_params")):
            return False
        if hasattr(teacher, "__sklearn_tags__") and get_tags(teacher).estimator_type is not None:
            return is_regressor(teacher)  # some, such as StackingRegressor, have predict only once fitted
        return hasattr(teacher, "predict") and not hasattr(teacher, "predict_proba")

    def check(self) -> None:
        self._fit_parameters = FitParameters({})
        warn_if_fitted(self.teacher)

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        teacher = set_open_seeds(clone(self.teacher), rng)
        weighted = WeightedFit(teacher, sample_weight)
        if sample_weight is not None and np.ptp(sample_weight) > 0 and not weighted.reaches_any:
            warnings.warn(
                f"sample_weight does not reach {name_of(teacher)}, which is fitted on your training "
                "rows (D_train) without weights; rows of weight 0 are still left out. Give a regressor "
                "whose fit takes sample_weight (in a Pipeline the last step), or fit the teacher with its "
                "weights and give FrozenEstimator(fitted).",
                UserWarning,
                stacklevel=2,
            )
        columns = y.shape[1] if y.ndim == 2 else 1
        with data_explained(teacher, X), _columns_explained(teacher, columns):
            weighted.fit(teacher, X, y.ravel() if y.shape[1:] == (1,) else y, self._fit_parameters.given)
        self.teacher = teacher

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._fit_parameters = FitParameters(parameters)
        self._fit_parameters.check(self.teacher)


@contextmanager
def _columns_explained(regressor: Any, n_columns: int) -> Iterator[None]:
    """Add a remedy to a regressor's error about a y with several columns."""
    try:
        yield
    except ValueError as error:
        if n_columns == 1 or "1d array" not in str(error):
            raise
        name = type(regressor).__name__
        raise ValueError(
            f"{str(error).rstrip('.')}. y has {n_columns} columns, and {name} takes one: give "
            f"sklearn.multioutput.MultiOutputRegressor({name}(...))."
        ) from error


# --------------------------------------------------------------------------------------
# As a regressor asks them


class NumbersTeacher(EitherWayAdapter):
    """A teacher that predicts numbers in the units of y, which are standardised as y is.

    Parameters
    ----------
    inner : TeacherAdapter
        Trains the teacher, if it has to be trained, and seeds its random numbers.
    ask : callable(teacher, X) -> array-like or Tensor
        Returns the predictions for X or, if ``by_batch``, for a batch of tensors.
    task : Regression
    by_batch : bool
        Whether the teacher is asked about batches of tensors.
    """

    def __init__(
        self,
        inner: TeacherAdapter,
        ask: Callable[[TeacherAdapter, Any], Any],
        task: Regression,
        *,
        by_batch: bool,
    ):
        self._inner, self._predictions_of, self._task, self._by_batch = inner, ask, task, by_batch
        self.teacher_classes = None

    @property
    def fitted(self) -> Any:
        """The teacher, or the trained one after ``fit``."""
        return self._inner.fitted

    @property
    def name(self) -> str:
        return self._inner.name

    def trains(self, teacher: Any) -> bool:  # type: ignore[override]
        return type(self._inner).trains(teacher)

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        self._inner.fit(X, y, sample_weight=sample_weight, rng=rng)

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._inner.take_fit_parameters(parameters)

    def ask_about_given_rows(self) -> None:
        self._inner.ask_about_given_rows()

    def ask_for_maps(self) -> None:
        self.gives_maps = True  # the task decides this, not the kind of teacher

    def takes_batches(self) -> bool:
        return self._by_batch and self._inner.takes_batches()

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        with self._inner.drawing_from(seed, device):
            yield

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield standardised predictions of shape (., m)."""
        if self.takes_batches():
            yield from map(self.on(data.device, classes), data.iter_batches(batch_size))
            return
        found = self._predictions_of(self._inner, X)
        yield standardised(found, len(data), self._task, self.name).to(data.device)

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        return _BatchNumbers(self._inner, self._predictions_of, self._task, device)

    def for_task(self, task: Regression) -> NumbersTeacher:
        """Return a copy that is trained separately and standardises as another task does."""
        copied = copy.copy(self)
        copied._task = task
        return copied

    def __copy__(self) -> NumbersTeacher:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        inner = object.__new__(type(self._inner))  # the original stays untrained
        inner.__dict__.update(self._inner.__dict__)
        copied._inner = inner
        return copied


class _BatchNumbers:
    """Standardised predictions of a teacher, batch by batch."""

    def __init__(
        self, inner: TeacherAdapter, ask: Callable[..., Any], task: Regression, device: torch.device
    ):
        self._inner, self._ask, self._task, self._device = inner, ask, task, device
        self.watch = AnswersWatch(inner.name)

    def __call__(self, x: Any) -> Tensor:
        with torch.no_grad():
            found = self._ask(self._inner, x.clone())  # a teacher may write into its batch
        numbers = standardised(found, len(x), self._task, self._inner.name).to(self._device)
        self.watch.note(numbers)
        return numbers


def standardised(output: Any, n_rows: int, task: Regression, who: str) -> Tensor:
    """Standardise predictions given in the units of y; return float32, shape (n_rows, m).

    If y has maps, the shape is (n_rows, 1, h, w), of any height and width.

    Raises
    ------
    ValueError
        If they have another shape, or are not real numbers.
    WrongAnswerError
        If a row has NaN, infinity or numbers whose squares overflow float32.
    """
    values = _real_numbers(output, n_rows, task, who)
    if task.map_shape:
        return standardised_maps(values, n_rows, task, who)
    values, shape = values.double(), tuple(values.shape)
    if shape == (n_rows,):
        values = values[:, None]
    if tuple(values.shape) != (n_rows, task.n_targets):
        raise ValueError(
            f"{who} must predict {task.n_targets} number(s) for each row, shape ({n_rows}, "
            f"{task.n_targets}); it returned shape {shape}."
        )
    refuse_infinite(values, who)
    numbers = torch.as_tensor(task.standardised(values.numpy()))
    far = (numbers.abs() > MOST_DEVIATIONS).any(dim=1)
    if bool(far.any()):
        row = int(far.nonzero()[0])
        raise WrongAnswerError(
            f"{who}:",
            row,
            f" of X has {values[row].abs().max():.3g} among its predictions, more than {MOST_DEVIATIONS:g} "
            "standard deviations from the mean of y: no student can learn that. Predict in the units of y.",
        )
    return numbers.float()


def _real_numbers(output: Any, n_rows: int, task: Regression, who: str) -> Tensor:
    """Return predictions as float32 or float64, on the CPU."""
    if isinstance(output, Tensor) and not output.is_complex():
        values = output.detach().cpu()
        return values if values.dtype in (torch.float32, torch.float64) else values.double()
    try:
        given = np.asarray(from_torch(output, "predict"))
        if given.dtype.kind == "c":
            raise TypeError("complex numbers")
        return torch.as_tensor(given.astype(np.float32 if given.dtype == np.float32 else np.float64))
    except (TypeError, ValueError) as error:
        wanted = f"({n_rows}, height, width)" if task.map_shape else f"({n_rows}, {task.n_targets})"
        raise ValueError(
            f"{who} must predict numbers, shape {wanted}; it returned a {type(output).__name__} that is not "
            "a table of real numbers. If it returns a dict, a tuple or an object, give a function of X, or a "
            "module, that returns only the numbers in it."
        ) from error


def refuse_infinite(values: Tensor, who: str, of: str = "X") -> None:
    """Raise if a row of predictions has NaN or infinity.

    Raises
    ------
    WrongAnswerError
        The message names ``who`` and the first such row.
    """
    wrong = ~torch.isfinite(values).all(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        found = "NaN" if bool(values[row].isnan().any()) else "infinity"
        raise WrongAnswerError(
            f"{who}:",
            row,
            f" of {of} has {found} among its predictions. Check that this row is all numbers, scaled as for "
            "the teacher, or leave such rows out.",
        )


class _Given(TeacherAdapter):
    """Adapter of a trained regressor or other object with ``predict``."""


class _Network(BatchTeacherAdapter):
    """Adapter of a trained module or skorch net, asked batch by batch."""


class _Mean(TeacherAdapter):
    """Adapter of several teachers of a regressor; the prediction is their weighted mean."""

    def __init__(self, teacher: Any, members: list[NumbersTeacher]):
        self._given_weights = getattr(teacher, "weights", None)
        self._weights = checked_weights(self._given_weights, len(members))
        self._members = members
        super().__init__(teacher)

    @classmethod
    def trains(cls, teacher: Any) -> bool:
        adapter = adapter_class(teacher)
        return adapter is not None and adapter.trains(teacher)

    def takes_batches(self) -> bool:
        return all(member.takes_batches() for member in self._members)

    def ask_about_given_rows(self) -> None:
        for member in self._members:
            member.ask_about_given_rows()

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        self._device = device
        self._seeds = check_random_state(seed).randint(np.iinfo(np.int32).max, size=len(self._members))
        if self.takes_batches():
            with preserved_random_state(device, seed):
                yield
        else:
            yield

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        self._members = [member.__copy__() for member in self._members]  # others may share them
        for member, seed in zip(self._members, self._seeds.tolist(), strict=True):
            if member.trains(member.fitted):
                with member.drawing_from(seed, self._device):
                    member.fit(X, y, sample_weight=sample_weight, rng=check_random_state(seed))
        self.teacher = TeacherEnsemble([member.fitted for member in self._members], self._given_weights)

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        by_place: dict[str, dict[str, Any]] = {str(place): {} for place in range(len(self._members))}
        for name, value in parameters.items():
            place, _, rest = name.partition("__")
            if place not in by_place or not rest:
                raise TypeError(
                    f"teacher__fit__{name}: {self.name} has several teachers. Give "
                    f"teacher__fit__PLACE__NAME, with PLACE one of {list(by_place)}."
                )
            by_place[place][rest] = value
        for member, own in zip(self._members, by_place.values(), strict=True):
            member.take_fit_parameters(own)


class MeanTeacher(NumbersTeacher):
    """Several teachers of a regressor, asked as one."""

    _inner: _Mean

    def __init__(self, inner: _Mean, task: Regression):
        super().__init__(inner, lambda adapter, X: None, task, by_batch=True)

    def for_task(self, task: Regression) -> NumbersTeacher:
        copied = super().for_task(task)
        assert isinstance(copied, MeanTeacher)
        copied._inner._members = [member.for_task(task) for member in copied._inner._members]
        return copied

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield the mean of the members' standardised predictions, shape (n, m)."""
        total: Any = 0.0
        inner = self._inner
        of_each = zip(inner._members, inner._weights, inner._seeds.tolist(), strict=True)
        for member, weight, seed in of_each:
            with member.drawing_from(seed, data.device):
                found = torch.cat([*member.iter_logits(X, data, classes, batch_size)])
                total = total + weight * in_size_of(found, self._task)
        yield total

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        members = [member.on(device, classes) for member in self._inner._members]
        weights = self._inner._weights

        def ask(x: Tensor) -> Tensor:
            found = [member(x) for member in members]
            if self.gives_maps:  # the images may be cropped
                found = of_one_size(found)
            return sum(w * numbers for w, numbers in zip(weights, found, strict=True))  # type: ignore

        return ask


# --------------------------------------------------------------------------------------
# How a teacher is asked


def make_numbers_teacher(
    teacher: Any, task: Regression, fit_parameters: Mapping[str, Any], name: str = "teacher"
) -> NumbersTeacher:
    """Wrap a regressor's teacher in its adapter, which checks it.

    Parameters
    ----------
    teacher : object
    task : Regression
    fit_parameters : mapping
        Further parameters of the teacher's own ``fit``.
    name : str, default="teacher"
        Name of the argument in messages.

    Raises
    ------
    TypeError
        If it is a classifier or of no known kind, or its ``fit`` takes no such parameters.
    ValueError
        If it cannot be used as it is.
    """
    wrapped = _wrapped(teacher, task, name)
    wrapped.take_fit_parameters(fit_parameters)
    return wrapped


def _wrapped(teacher: Any, task: Regression, name: str) -> NumbersTeacher:
    content = thawed(teacher)
    if isinstance(content, (list, tuple, TeacherEnsemble)) and len(_listed(content)):
        members = [_wrapped(one, task, f"{name}[{place}]") for place, one in enumerate(_listed(content))]
        return MeanTeacher(_Mean(teacher, members), task)
    if _is_of_classes(content):
        raise TypeError(
            f"{name} {type(content).__name__} is a classifier, which predicts no numbers in the units of y. "
            "Give a regressor, or use DistilledClassifier."
        )
    if isinstance(content, nn.Module):
        check_has_numbers(content, name)
        network: dict[torch.device, EvaluatedNetwork] = {}
        return NumbersTeacher(_Network(teacher), lambda a, x: _asked(network, a, x), task, by_batch=True)
    if isinstance(content, NeuralNet):
        require_fitted_net(content)
        return NumbersTeacher(_Network(teacher), _skorch_numbers, task, by_batch=True)
    adapter = adapter_class(teacher)
    if adapter is RegressorTeacher:
        return NumbersTeacher(adapter(teacher), _predicted, task, by_batch=False)
    is_trained = isinstance(teacher, FrozenEstimator) or not hasattr(content, "fit")
    if is_trained and not isinstance(content, type) and callable(getattr(content, "predict", None)):
        if not is_fitted(content, otherwise=True):
            raise ValueError(
                f"{name}={teacher!r} is frozen but not fitted. Fit it before freezing, or give it unfrozen "
                "to have it fitted on your training rows (D_train)."
            )
        return NumbersTeacher(_Given(teacher), _predicted, task, by_batch=False)
    if adapter is not None and adapter.gives_numbers:
        inner = adapter(teacher, None)
        return NumbersTeacher(inner, _answered, task, by_batch=inner.takes_batches())
    raise TypeError(
        f"{name}={short_repr(teacher)} is none of: a scikit-learn regressor, or another regressor with fit, "
        "predict and get_params, FrozenEstimator(fitted regressor), a trained object with predict "
        "and without fit, a function of X that returns numbers, an ONNX file or session, a trained "
        "torch.nn.Module, a fitted skorch net, a list of these, an object of a class that was given to "
        "register_teacher in this process, or None with teacher_predictions given to fit."
        f"{advice_for(teacher, name, 'a regressor')}"
    )


def _listed(teacher: Any) -> Any:
    return teacher.teachers if isinstance(teacher, TeacherEnsemble) else teacher


def _is_of_classes(teacher: Any) -> bool:
    if isinstance(teacher, type):
        return False
    if hasattr(teacher, "__sklearn_tags__"):
        kind = get_tags(teacher).estimator_type
        if kind is not None and not isinstance(teacher, nn.Module):
            return is_classifier(teacher)
    return hasattr(teacher, "predict_proba") and not isinstance(teacher, (nn.Module, NeuralNet))


def _predicted(adapter: TeacherAdapter, X: Any) -> Any:
    return adapter.fitted.predict(X)


def _answered(adapter: TeacherAdapter, X: Any) -> Any:
    return adapter.predict_logits(X)


def _asked(networks: dict[torch.device, EvaluatedNetwork], adapter: TeacherAdapter, x: Any) -> Any:
    """Return a module's output for a batch; the module is moved to the batch's device once."""
    if x.device not in networks:
        networks[x.device] = EvaluatedNetwork(adapter.teacher, x.device, adapter.name)
    return networks[x.device](x)


def _skorch_numbers(adapter: TeacherAdapter, x: Any) -> Any:
    with torch_state_lock(), torch.random.fork_rng():  # skorch's DataLoader draws a seed even to predict
        output = adapter.teacher.forward(as_arrays(x))
    return output[0] if isinstance(output, tuple) else output
