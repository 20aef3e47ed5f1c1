"""A fixed affine layer in front of a student, by which the columns of a table have comparable scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.students._resized import ResizedStudent

# Standardised values stay within ± this. Values so far out are outliers, or of a column that is nearly
# constant; one of them would otherwise outweigh the rest of its batch.
LIMIT = 5.0
# Values more than so many times the distance of the quartiles outside of them are outliers.
_OUTLYING = 2.0
# Distance of the quartiles of a normal distribution of standard deviation 1.
_NORMAL_IQR = 1.349
# Quartiles are those of evenly spaced rows, at most so many rows and, beyond _FEWEST, so many numbers.
_MOST_ROWS, _FEWEST_ROWS, _MOST_NUMBERS = 10_000, 100, 2**22
# The float32 nearest to a value may be half of this share of it away.
_ROUNDING = float(np.finfo(np.float32).eps)
# The reciprocal of a smaller spread overflows float32.
_SMALLEST_SPREAD = 1e-37
# Functions that make indices of floating-point numbers, and TorchScript's names of modules that take them.
_TO_INTEGERS = {
    "long", "int", "short", "char", "byte", "to", "type", "type_as", "copy_", "tensor", "as_tensor",
    "asarray", "bucketize", "searchsorted",
}  # fmt: skip
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_LOOKUPS = {"Embedding", "EmbeddingBag"}


class Standardization(nn.Module):
    """The map x → (x − center) · factor of each column, limited to ± ``limit``; nothing in it is trained.

    Parameters
    ----------
    n_features : int
        Number of columns.
    limit : float, default=5.0

    Attributes
    ----------
    center : Tensor of shape (n_features,), float32
        A buffer; 0 until it is filled.
    factor : Tensor of shape (n_features,), float32
        A buffer; 1 until it is filled. 0 leaves a column out.
    bounds : float or Tensor of shape (n_features,)
        ``limit``; a buffer, infinite for columns that are left as they are, where there are any.
    """

    constant_buffers = True  # no pass and no step changes them: nobody needs to copy them
    __jit_unused_properties__ = ("is_filled",)  # TorchScript would compile it

    if TYPE_CHECKING:  # TorchScript would read annotations
        center: Tensor
        factor: Tensor

    def __init__(self, n_features: int, limit: float = LIMIT):
        super().__init__()
        self.limit = limit
        self.bounds = limit
        self.has_fit = False  # the numbers of a layer that was fitted may be those of one that was just made
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float32))
        self.register_buffer("factor", torch.ones(n_features, dtype=torch.float32))

    @property
    def is_filled(self) -> bool:
        """True if the layer has been fitted to rows, or holds numbers that the user chose."""
        return self.has_fit or bool((self.center != 0).any() or (self.factor != 1).any())

    def fill(self, other: Standardization) -> None:
        """Take over the columns' centers and factors of another layer, but not its limit."""
        self.center.copy_(other.center)
        self.factor.copy_(other.factor)
        self.has_fit = other.has_fit

    def leave_as_they_are(self, columns: Sequence[int]) -> None:
        """Pass some columns on unchanged, as codes that the student looks up."""
        if not columns:
            return
        index = torch.as_tensor(columns, device=self.center.device)
        self.center[index], self.factor[index] = 0.0, 1.0
        bounds = torch.full_like(self.center, self.limit)
        bounds[index] = torch.inf
        del self.bounds  # a number, or those of other columns
        self.register_buffer("bounds", bounds, persistent=False)

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"n_features={len(self.center)}, limit={self.limit:g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised rows."""
        return _standardized(x, self.center, self.factor, self.bounds)


def _standardized(x: Tensor, center: Tensor, factor: Tensor, bounds: float) -> Tensor:
    # The difference first: x · factor − center · factor would lose the digits of a column around 1e8.
    return (x - center).mul_(factor).clamp(-bounds, bounds)  # vmap has no clamp_


class StandardizedStudent(nn.Module):
    """A student behind a fixed affine layer, so that it takes the columns of a table as they come.

    ``student_`` of an estimator that was fitted on a table with ``standardize=True``. Given as ``student``,
    it keeps the layer that it has. If the layer is as it was made, with center 0 and factor 1,
    ``standardize=True`` fits it.

    Parameters
    ----------
    student : nn.Module
        Takes standardised rows.
    n_features : int
        Number of columns.
    limit : float, default=5.0
        Standardised values stay within ± ``limit``.

    Attributes
    ----------
    scaling : nn.Module
        The layer: ``((x - center) * factor).clamp(-limit, limit)``, with the buffers ``center`` and
        ``factor``, both float32 of shape (n_features,).
    student : nn.Module
        The user's own module.

    Examples
    --------
    Write the student to a file, and load it into modules that are made anew:

    >>> import tempfile
    >>> import torch
    >>> from safetensors.torch import load_model
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, StandardizedStudent
    >>> X, y = load_wine(return_X_y=True)
    >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=40, device="cpu").fit(X, y)
    >>> student = StandardizedStudent(MLPStudent(in_features=13, n_classes=3), n_features=13).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.export_student(f"{folder}/wine.safetensors")
    ...     _ = load_model(student, f"{folder}/wine.safetensors")
    >>> logits = student(torch.tensor(X, dtype=torch.float32))
    >>> bool((logits.argmax(1).numpy() == clf.predict(X)).all())
    True
    """

    __jit_unused_properties__ = ("named_network",)  # TorchScript would compile it

    def __init__(self, student: nn.Module, n_features: int, limit: float = LIMIT):
        super().__init__()
        self.scaling = Standardization(n_features, limit)
        self.scaling.leave_as_they_are(code_columns(student))
        self.student = student

    @property
    def named_network(self) -> nn.Module:
        """The module by whose paths layers are named."""
        return self.student

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        scaling = self.scaling  # not called: the call of a module takes as long as an operation
        return self.student(_standardized(x, scaling.center, scaling.factor, scaling.bounds))


def behind_scaling(student: nn.Module, scaling: Standardization | None) -> nn.Module:
    """Return the student with the layer in front; as it is if there is none, or it has one of its own."""
    if scaling is None or isinstance(student, StandardizedStudent):
        return student
    whole = StandardizedStudent(student, len(scaling.center), scaling.limit)
    whole.scaling = scaling
    return whole.train(student.training)


def own_student(student: nn.Module) -> nn.Module:
    """Return the user's own module of a student that may have a layer of the library around it."""
    return student.student if isinstance(student, (StandardizedStudent, ResizedStudent)) else student


# --------------------------------------------------------------------------------------
# Fitting the layer


def stride_of(n_rows: int, n_features: int) -> int:
    """Return which rows, one in so many, medians and quartiles are of."""
    most = min(_MOST_ROWS, max(_FEWEST_ROWS, _MOST_NUMBERS // n_features))
    return -(-n_rows // most)


def fit_scaling(chunks: Iterable[Tensor], stride: int, n_features: int) -> Standardization:
    """Return the layer for rows that are read once, in chunks.

    A column is centred at its mean and scaled by its standard deviation. One with outliers, values further
    outside the quartiles than twice their distance, is centred at its median and scaled by that distance. A
    column of mostly one value, such as 0, is centred there and scaled by the median distance of the other
    values: rare values stay of the order of 1, and 0 and 1 stay as they are. A constant column, or one that
    varies by rounding, is left out: factor 0. Rows with values that are not finite do not count. Median and
    quartiles are those of some rows.

    Parameters
    ----------
    chunks : iterable of Tensor of shape (m, n_features)
    stride : int
        Of :func:`stride_of`.
    n_features : int
    """
    moments = _Moments(n_features)
    start, some = 0, []
    for chunk in chunks:
        rows = chunk.detach().cpu().numpy()
        some.append(_finite_rows(rows[-start % stride :: stride]).astype(np.float32))
        start += len(rows)
        moments.add(_finite_rows(rows))
    scaling = Standardization(n_features)
    if moments.n:
        center, factor = _center_and_factor(moments, np.concatenate(some))
        scaling.center.copy_(torch.from_numpy(center))
        scaling.factor.copy_(torch.from_numpy(factor))
    scaling.has_fit = True
    return scaling


class _Moments:
    """Number, mean, sum of squared deviations, minimum and maximum of columns, updated by chunks."""

    def __init__(self, n_features: int):
        self.n = 0
        self.mean, self.squares = np.zeros(n_features), np.zeros(n_features)
        self.low, self.high = np.full(n_features, np.inf), np.full(n_features, -np.inf)

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))
        n, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        deviations = rows - mean  # float64
        squares = np.einsum("ij,ij->j", deviations, deviations)
        shift, total = mean - self.mean, self.n + n
        self.squares += squares + shift**2 * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total


def _finite_rows(rows: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(rows.sum(dtype=np.float64)):
            return rows
    return rows[np.isfinite(rows).all(axis=1)]


def _center_and_factor(moments: _Moments, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return center and factor of each column from the moments of all rows and from some rows."""
    center, spread = moments.mean.copy(), np.sqrt(moments.squares / moments.n)
    if len(some):
        lower, upper = _quartiles(some)
        distance = upper - lower
        low, high = lower - _OUTLYING * distance, upper + _OUTLYING * distance
        outlying = np.flatnonzero((distance > 0) & ((moments.low < low) | (moments.high > high)))
        center[outlying] = np.median(some[:, outlying].astype(np.float64), axis=0)
        spread[outlying] = distance[outlying] / _NORMAL_IQR
        mostly_one = np.flatnonzero(distance == 0)
        center[mostly_one] = lower[mostly_one]
        reach = np.maximum(moments.high - center, center - moments.low)[mostly_one]
        spread[mostly_one] = _distance_of_others(some[:, mostly_one], center[mostly_one], reach)
    factor = factor_of(spread, moments.low, moments.high)
    return np.where(factor > 0, center, moments.low), factor


def factor_of(spread: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return 1 / spread; 0 for columns that are constant, or vary by rounding from ``low`` to ``high``."""
    size = np.maximum(np.abs(low), np.abs(high))
    varies = (high - low > 2 * _ROUNDING * size) & (spread > _SMALLEST_SPREAD)
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)


def _distance_of_others(rows: np.ndarray, center: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return the median distance from ``center`` of the values of each column that are not there.

    ``reach``, the largest distance, where all values of these rows are there.
    """
    found = reach.copy()
    for j, column in enumerate(rows.T):
        distances = np.abs(column[column != center[j]].astype(np.float64) - center[j])
        if len(distances):
            found[j] = np.median(distances)
    return found


def _quartiles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of each column that a quarter of the rows are below and above, float64."""
    place = (len(rows) - 1) // 4
    places = place, len(rows) - 1 - place
    ordered = np.partition(rows, places, axis=0)  # np.quantile takes four times as long
    return ordered[places[0]].astype(np.float64), ordered[places[1]].astype(np.float64)


# --------------------------------------------------------------------------------------
# Students that take codes


def code_columns(student: nn.Module) -> tuple[int, ...]:
    """Return the columns of a table that a student says it looks codes up in, by ``code_columns``."""
    return tuple(getattr(student, "code_columns", ()))


def takes_codes(student: nn.Module, samples: Tensor) -> bool:
    """Return whether a student makes whole numbers of what it is given, as to look them up in an embedding.

    Standardising would change which entry is found. The student is tried on the samples; one that cannot
    take them is reported by the checks that follow.
    """
    # Calls inside TorchScript are not seen.
    if any(getattr(part, "original_name", None) in _LOOKUPS for part in student.modules()):
        return True
    watch = _IntegerWatch()
    with suppress(Exception), isolated_eval_mode(student, samples.device), watch:
        student(samples.clone())  # which it may change
    return watch.found


class _IntegerWatch(TorchFunctionMode):
    """Notes whether a forward pass turns floating-point numbers into indices."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _TO_INTEGERS and isinstance(out, Tensor):
            given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
            from_float = any(value.is_floating_point() for value in given)
            self.found |= from_float and out.dtype in _INTEGERS
        return out
