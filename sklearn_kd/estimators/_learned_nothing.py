"""Warn of fits that learned nothing or were still learning: of X before training, of the student after."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import DistillationData, LoadedData
from sklearn_kd.inputs._torch_datasets import make_loader
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.students._standardize import Standardization
from sklearn_kd.tasks._pixels import images_at_a_time, pixel_rows, some_known_rows
from sklearn_kd.training._work import threads_of_prediction

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# Rows of D_train that the student predicts; fewer for a Dataset, whose rows have to be loaded.
_N_ROWS, _N_FETCHED = 4096, 512
# With fewer rows, warn only of a student that predicts one class for all: anything else may be chance.
FEWEST_ROWS = 50
# A class predicted for at least this share of the rows counts as predicted for all.
_NEARLY_ALL = 0.99
# Fits with fewer iterations, and short fits with fewer epochs, are trial runs and get no warning.
_FEWEST_ITERATIONS, _FEW_ITERATIONS, _FEW_EPOCHS = 20, 200, 5
# If a class has a larger share of the rows than this, a good student may predict only that class.
_IMBALANCED = 2 / 3
# Standard errors by which the covariance of probabilities and labels must exceed 0.
_CLEARLY = 3.0
# Ratio of scales beyond which features of small scale are not learned.
_MOST_APART = 1000.0
# Fits with fewer epochs get no warning about the fall of their loss: the first epochs tell too little.
_FEWEST_EPOCHS = 15
# A loss that falls by less than this share of itself has not fallen.
_NO_FALL = 1e-3
# The share of its fall that a loss falling in a straight line makes in the last of five parts is 22 %.
_STEEP = 0.18
# A range below this share of the largest value is rounding: the column is constant.
_ROUNDING = 1e-10
# Larger inputs than this make the steps too large at learning rates that suit scaled inputs.
_LARGE = 100.0

_CLIPPING = "clip the gradients (max_grad_norm=1)"
_BY_ADAM = "(optimizer=torch.optim.Adam, lr=1e-3)"
_ADAMS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam)
_SCALE = "Set standardize=True, or put a StandardScaler before the classifier in a pipeline"
_SCALE_IMAGES = "Scale it, for example to [0, 1]"
_SCALE_CONTINUED = (
    "warm_start=True continues with a student that has no layer for that. Set warm_start=False and "
    "standardize=True, or scale X as in the last fit"
)
_SCALE_BESIDE_CODES = (
    "standardize=True leaves X alone, because the student turns it into whole numbers, for example to look "
    "them up. "
    "Scale the other columns inside the student or before it"
)


# --------------------------------------------------------------------------------------
# Before training


class Scales(NamedTuple):
    """Ranges of the features, the largest and the smallest of those that are not constant."""

    largest: float
    smallest: float
    columns: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Largest range divided by the smallest."""
        return self.largest / self.smallest


def bounds_of(train: DistillationData) -> tuple[Tensor, Tensor] | None:
    """Return the smallest and the largest value of each column of a table; None for other inputs."""
    if isinstance(train, LoadedData) or not _is_table(train):
        return None
    low = high = train.samples[0].cpu().numpy()
    for part in train.iter_inputs():
        X = part.cpu().numpy()  # NumPy finds extremes in a fifth of torch's time
        low, high = np.minimum(low, X.min(axis=0)), np.maximum(high, X.max(axis=0))
    return torch.as_tensor(low), torch.as_tensor(high)


def _is_table(train: DistillationData) -> bool:
    return isinstance(train.samples, Tensor) and train.samples.ndim == 2


def scales_of(train: DistillationData) -> Scales | None:
    """Measure the scales of a table's features; None for other inputs, or if all are constant."""
    bounds = bounds_of(train)
    if bounds is None or train.shape[1] < 2:
        return None
    low, high = bounds
    ranges = high.double() - low.double()
    varied = ranges > _ROUNDING * float(torch.maximum(high.abs(), low.abs()).max())
    if not bool(varied.any()):
        return None
    largest = int(ranges.argmax())
    smallest = int(ranges.masked_fill(~varied, math.inf).argmin())
    return Scales(float(ranges[largest]), float(ranges[smallest]), (largest, smallest))


def warn_of_scales(
    train: DistillationData,
    student: nn.Module,
    names: Sequence[str] | None = None,
    *,
    asked_for: bool = False,
    continued: bool = False,
) -> None:
    """Warn if some columns of X have ranges more than 1,000 times those of others.

    No warning if the student scales them itself, by ``standardize=True`` or by a batch normalisation.

    Parameters
    ----------
    train : DistillationData
        D_train. Inputs other than tables are ignored.
    student : nn.Module
    names : sequence of str or None, default=None
        Names of the columns.
    asked_for : bool, default=False
        Whether ``standardize=True`` was given.
    continued : bool, default=False
        Whether ``warm_start=True`` continues with the student of the last fit.
    """
    if _scales_by_itself(student):
        return
    scales = scales_of(train)
    if scales is None or scales.ratio <= _MOST_APART:
        return
    wide, narrow = (f"column {j}" if names is None else repr(str(names[j])) for j in scales.columns)
    remedy = _SCALE_CONTINUED if continued else _SCALE_BESIDE_CODES if asked_for else _SCALE
    warnings.warn(
        f"X has features whose scales differ by a factor of {scales.ratio:.2g}: {wide} has a range of "
        f"{scales.largest:.2g}, {narrow} one of {scales.smallest:.2g}. A network hardly learns from the "
        f"small ones, and may learn nothing at all. {remedy}.",
        UserWarning,
        stacklevel=2,
    )


def _scales_by_itself(student: nn.Module) -> bool:
    """Return whether the first part with weights or buffers standardises or normalises batches."""
    for part in student.modules():
        if next(part.children(), None) is None and [*part.parameters(), *part.buffers()]:
            return part.is_filled if isinstance(part, Standardization) else isinstance(part, _NormBase)
    return False


# --------------------------------------------------------------------------------------
# After training


class Remedies(NamedTuple):
    """Advice about the size of the steps, as parts of sentences.

    Attributes
    ----------
    larger : str
        If too little was learned.
    smaller : str
        If the steps broke the student.
    others : str
        If either may be the case.
    """

    larger: str
    smaller: str
    others: str


def remedies_for(optimizer: torch.optim.Optimizer | None = None) -> Remedies:
    """Return remedies for a fit by this optimizer; suggest Adam only if it was not used."""
    if isinstance(optimizer, _ADAMS):
        return Remedies("more epochs (max_epochs) or a larger lr", f"lower lr or {_CLIPPING}", "another lr")
    return Remedies(
        f"more epochs (max_epochs), a larger lr, or Adam {_BY_ADAM}",
        f"lower lr, {_CLIPPING} or train by Adam {_BY_ADAM}",
        f"another lr, or train by Adam {_BY_ADAM}",
    )


class Predictions(NamedTuple):
    """A student's predictions for some rows of D_train, with their labels and the teacher's predictions.

    Attributes
    ----------
    probabilities : Tensor of shape (n, K), float64
    labels : Tensor of shape (n,)
    weight : Tensor of shape (n,), float64
        With sum 1.
    teacher : Tensor of shape (n,) or None
        The classes that the teacher predicts, if its answers are known.
    """

    probabilities: Tensor
    labels: Tensor
    weight: Tensor
    teacher: Tensor | None

    @property
    def predicted(self) -> Tensor:
        """Classes that the student predicts, shape (n,)."""
        return self.probabilities.argmax(dim=1)

    def shares(self, classes: Tensor) -> Tensor:
        """Return the weight of each class among ``classes``, shape (K,)."""
        return torch.bincount(classes, weights=self.weight, minlength=self.probabilities.shape[1])

    def share_right(self, classes: Tensor) -> float:
        """Return the weight of the rows whose predicted class is that in ``classes``."""
        return float(self.weight[self.predicted == classes].sum())

    @property
    def name_one_class(self) -> bool:
        """Whether the student predicts one class for nearly all rows."""
        return float(self.shares(self.predicted).max()) >= _NEARLY_ALL

    def is_at_chance(self, classes: Tensor) -> bool:
        """Return whether the student is not clearly better than always predicting the most frequent class."""
        most = float(self.shares(classes).max())
        error = math.sqrt(max(0.0, most * (1 - most)) * float((self.weight**2).sum()))
        return self.share_right(classes) <= most + error + 1e-9

    def knows_of(self, classes: Tensor) -> bool:
        """Return whether the probabilities correlate with ``classes``, whichever class has the largest."""
        p = self.probabilities - self.weight @ self.probabilities
        covariance = p.gather(1, classes[:, None])[:, 0] - p @ self.shares(classes)
        mean = float(self.weight @ covariance)
        variance = float(self.weight @ (covariance - mean) ** 2) * float((self.weight**2).sum())
        return mean > max(_CLEARLY * math.sqrt(variance), 1e-6)


def predictions_of(net: TrainingNet, train: DistillationData) -> Predictions:
    """Predict rows of D_train with the student of a trained net, in one pass over at most a few thousand.

    For images, the rows are the pixels that have a label.
    """
    logits_by_batch, targets = [], []
    with isolated_eval_mode(net.module_, train.device):
        for batch in some_batches(net, train):
            with threads_of_prediction(net, batch[0]):
                outputs = pixel_rows(net.module_(batch[0]).float())
            some = some_known_rows(outputs, batch.targets) if train.map_shape else (outputs, batch.targets)
            logits_by_batch.append(some[0])
            targets.append(some[1])
        probabilities = torch.softmax(torch.cat(logits_by_batch), dim=1).cpu().double()
    labels, logits, weight, _ = (
        torch.cat(parts).cpu() if parts[0] is not None else None for parts in zip(*targets, strict=True)
    )
    assert labels is not None
    weight = torch.ones(len(labels)).double() if weight is None else weight.double()
    teacher = None if logits is None else logits.argmax(dim=1)
    return Predictions(probabilities, labels, weight / weight.sum(), teacher)


def some_batches(net: TrainingNet, train: DistillationData) -> Iterator[Batch]:
    """Yield batches of randomly drawn rows, since rows of a file are often sorted by class."""
    generator = torch.Generator().manual_seed(0)
    n_rows = _N_FETCHED if isinstance(train, LoadedData) else _N_ROWS
    if train.map_shape:
        n_rows = images_at_a_time(train.shape[1:], n_rows)
    rows = torch.randperm(len(train), generator=generator)[:n_rows]
    parts = rows.sort().values.split(int(net.batch_size))
    if not isinstance(train, LoadedData):
        yield from (train.batch(part.to(train.device)) for part in parts)
        return
    settings = {"collate_fn": net.get_params_for("iterator_train").get("collate_fn")}
    for x, _, places in make_loader(train.rows, [part.tolist() for part in parts], **settings):
        yield train.batch(x, places)


def convergence_message(
    net: TrainingNet, train: DistillationData, classes: np.ndarray, monitor: str, who: str = "The student"
) -> str | None:
    """Set ``net.collapsed_``; return a message about a fit that learned nothing or was still learning.

    Return None if all is well, for a trial run (fewer than 20 iterations, or fewer than five epochs and 200
    iterations), and for a fit that a user ended or that diverged, which another warning reports.

    Parameters
    ----------
    net : TrainingNet
        Trained.
    train : DistillationData
        The data it was trained on.
    classes : ndarray of shape (K,)
        The labels, for the message.
    monitor : str
        The column of the history with a loss that is comparable across epochs, if there is one.
    who : str, default="The student"
        What the message calls the student.
    """
    epochs = [row for row in net.history if "train_batch_count" in row]
    if not epochs:
        return None
    predictions, remedies = predictions_of(net, train), remedies_for(net.optimizer_)
    net.collapsed_ = learned_nothing(predictions)
    if is_not_judged(net, epochs):
        return None
    if net.collapsed_:
        begun = still_falls([row["train_loss"] for row in epochs if "train_loss" in row])
        cause = _cause(predictions, train, net.module_, begun, remedies)
        return f"{who} learned nothing: {_evidence(predictions, classes)} {cause}"
    losses = [row[monitor] for row in epochs if monitor in row]
    stuck = stuck_message(losses, predictions, remedies, who)
    if stuck is not None:
        return stuck
    return None if was_ended(net, losses, train) else unfinished_message(losses, remedies, who)


def is_not_judged(net: TrainingNet, epochs: Sequence[dict[str, Any]]) -> bool:
    """Return whether a fit gets no warning: a trial run, or a fit that was ended or diverged."""
    return _is_rehearsal(epochs) or net.diverged_ or net.interrupted_


def was_ended(net: TrainingNet, losses: Sequence[float], train: DistillationData) -> bool:
    """Return whether a callback or a schedule ended the training, or there are too few rows to judge."""
    return len(losses) < net.max_epochs or _is_annealed(net.optimizer_) or len(train) < FEWEST_ROWS


def has_not_fallen(losses: Sequence[float]) -> bool:
    """Return whether a loss fell over the epochs by less than a thousandth of its value."""
    if len(losses) < _FEW_EPOCHS:
        return False
    least = _NO_FALL * abs(losses[0])  # a negative log-likelihood may be below 0
    return means_of_fifths(losses)[-1] >= losses[0] - least


def stuck_message(
    losses: Sequence[float], predictions: Predictions, remedies: Remedies, who: str = "The student"
) -> str | None:
    """Return the message about losses that did not fall, else None.

    No message about a student that predicts well: with ``warm_start`` it may have been good at the start.
    """
    most = float(predictions.shares(predictions.labels).max())
    right = predictions.share_right(predictions.labels)
    if len(predictions.labels) < FEWEST_ROWS or right > (1 + most) / 2 or not has_not_fallen(losses):
        return None
    first, last = losses[0], means_of_fifths(losses)[-1]
    return (
        f"{who} hardly learned: in {len(losses)} epochs its loss went from {first:.4g} to {last:.4g}, and it "
        f"is right about {percent(right)} of D_train. Set {remedies.others}, and see whether the teacher's "
        "answers and the labels vary with X."
    )


def unfinished_message(losses: Sequence[float], remedies: Remedies, who: str = "The student") -> str | None:
    """Return the message about losses of 15 epochs or more that :func:`still_falls` finds, else None."""
    if len(losses) < _FEWEST_EPOCHS or not still_falls(losses):
        return None
    parts = means_of_fifths(losses)
    share = (parts[-2] - parts[-1]) / (losses[0] - parts[-1])
    return (
        f"{who} was still learning fast when its {len(losses)} epochs were over: the last fifth of them "
        f"brought {percent(share)} of the fall of its loss, from {losses[0]:.3g} to {parts[-1]:.3g}. Give "
        f"it {remedies.larger}."
    )


def still_falls(losses: Sequence[float]) -> bool:
    """Return whether a loss falls at the end about as steeply as in a straight line.

    The epochs are divided into five parts. The loss must have fallen from the first epoch on, from each part
    to the next, and from the fourth part to the fifth by 18 % or more of its whole fall.
    """
    if len(losses) < _FEW_EPOCHS:
        return False
    parts = means_of_fifths(losses)
    falls = -np.diff(parts)
    fell = losses[0] >= parts[0] and (falls > 0).all()
    return bool(fell and falls[-1] >= _STEEP * (losses[0] - parts[-1]))


def means_of_fifths(losses: Sequence[float]) -> list[float]:
    return [float(part.mean()) for part in np.array_split(np.asarray(losses, dtype=float), 5)]


def _is_rehearsal(epochs: Sequence[dict[str, Any]]) -> bool:
    n_iterations = sum(row["train_batch_count"] for row in epochs)
    return n_iterations < (_FEWEST_ITERATIONS if len(epochs) >= _FEW_EPOCHS else _FEW_ITERATIONS)


def _is_annealed(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a schedule has lowered the learning rate to less than half of the given one."""
    given = optimizer.defaults.get("lr", 0.0)
    return any(float(group.get("lr", given)) < 0.5 * float(given) for group in optimizer.param_groups)


def warn_of_convergence(message: str | None) -> None:
    """Warn with the message, if there is one."""
    if message is not None:
        warnings.warn(message, ConvergenceWarning, stacklevel=2)


def learned_nothing(predictions: Predictions) -> bool:
    """Return whether a student predicts one class, or is at chance, although there was more to learn.

    Chance is the share of the most frequent class. If that is above two thirds, a student that predicts
    only this class may know all that can be known: it has learned if its probabilities correlate with
    the labels. A student that follows a teacher who contradicts the labels has learned too.
    """
    labels, teacher = predictions.labels, predictions.teacher
    most = float(predictions.shares(labels).max())
    if most > 1 - 1e-9 or not predictions.is_at_chance(labels):
        return False
    if most >= _IMBALANCED and predictions.knows_of(labels):
        return False
    if len(labels) < FEWEST_ROWS and not predictions.name_one_class:
        return False
    return teacher is None or predictions.is_at_chance(teacher)


def _evidence(predictions: Predictions, classes: np.ndarray) -> str:
    """Describe the predictions that prove that nothing was learned."""
    shares, predicted = predictions.shares(predictions.labels), predictions.shares(predictions.predicted)
    top, n = int(predicted.argmax()), len(predictions.labels)
    most = int(shares.argmax())
    if predictions.name_one_class:
        return (
            f"it predicts class {_name(classes, top)} for "
            f"{percent(predicted[top])} of D_train, {percent(shares[top])} of which are of that class."
        )
    right = predictions.share_right(predictions.labels)
    return (
        f"it is right about {percent(right)} of D_train ({n} rows asked), and "
        f"class {_name(classes, most)} alone has {percent(shares[most])}."
    )


def _largest(train: DistillationData) -> float:
    """Return the largest absolute value of X; 0 if its rows are loaded batch by batch."""
    if isinstance(train, LoadedData):
        return 0.0
    return max(float(x.abs().max()) for x in train.iter_inputs())


def _cause(
    predictions: Predictions, train: DistillationData, student: nn.Module, begun: bool, remedies: Remedies
) -> str:
    """Name the likely cause and a remedy; ``begun`` says whether the loss fell all the time."""
    scaled, taught = _scales_by_itself(student), predictions.teacher
    scales = None if scaled else scales_of(train)
    if scales is not None and scales.ratio > _MOST_APART:
        return f"The scales of its features differ by a factor of {scales.ratio:.2g}. {_SCALE}."
    largest = (
        0.0
        if scaled or isinstance(train, LoadedData) or not isinstance(train.samples, Tensor)
        else max(float(x.abs().max()) for x in train.iter_inputs())
    )
    if largest > _LARGE:
        scale = _SCALE if _is_table(train) else _SCALE_IMAGES
        return f"X has values up to {largest:.2g}. {scale}, or {remedies.smaller}."
    if taught is not None and float(predictions.shares(taught).max()) >= _NEARLY_ALL:
        return "Its teacher predicts one class too. Give one that separates the classes, or set meta='none'."
    if begun:
        return f"It had only begun to learn: give it {remedies.larger}."
    return f"Its steps were too large, or X does not separate the classes: {remedies.smaller}."


def _name(classes: np.ndarray, code: int) -> str:
    return repr(classes[code].item() if hasattr(classes[code], "item") else classes[code])


def percent(share: float | Tensor) -> str:
    return f"{100 * float(share):.3g} %"
