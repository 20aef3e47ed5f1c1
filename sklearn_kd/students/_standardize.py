"""A fixed affine layer in front of a student, which brings the columns of a table to comparable scales."""

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

# Bound of standardised values. Values beyond it are outliers, or belong to a nearly constant column; one of
# them would otherwise outweigh the rest of its batch.
LIMIT = 5.0
# Outliers lie outside the quartiles by more than this multiple of the interquartile range.
_OUTLYING = 2.0
# Interquartile range of a normal distribution with standard deviation 1.
_NORMAL_IQR = 1.349
# Quartiles are computed from evenly spaced rows: at most this many rows and, beyond _FEWEST, numbers.
_MOST_ROWS, _FEWEST_ROWS, _MOST_NUMBERS = 10_000, 100, 2**22
# Relative spacing of float32: rounding a value to float32 changes it by up to half this share.
_ROUNDING = float(np.finfo(np.float32).eps)
# The reciprocal of a smaller spread overflows float32.
_SMALLEST_SPREAD = 1e-37
# Functions that turn floating-point numbers into indices, and TorchScript's names of modules that take them.
_TO_INTEGERS = {
    "long", "int", "short", "char", "byte", "to", "type", "type_as", "copy_", "tensor", "as_tensor",
    "asarray", "bucketize", "searchsorted",
}  # fmt: skip
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_LOOKUPS = {"Embedding", "EmbeddingBag"}


class Standardization(nn.Module):
    """Map each column x to (x − center) · factor, clipped to ± ``limit``. Nothing in the layer is trained.

    Parameters
    ----------
    n_features : int
        Number of columns.
    limit : float, default=5.0

    Attributes
    ----------
    center : Tensor of shape (n_features,), float32
        A buffer; 0 until the layer is fitted.
    factor : Tensor of shape (n_features,), float32
        A buffer; 1 until the layer is fitted. 0 leaves a column out.
    bounds : float or Tensor of shape (n_features,)
        ``limit``. If some columns are passed on unchanged, a buffer that is infinite for these.
    """

    constant_buffers = True  # neither forward passes nor steps change them, so they need no copies
    __jit_unused_properties__ = ("is_filled",)  # TorchScript would compile it

    if TYPE_CHECKING:  # TorchScript would read annotations
        center: Tensor
        factor: Tensor

    def __init__(self, n_features: int, limit: float = LIMIT):
        super().__init__()
        self.limit = limit
        self.bounds = limit
        self.has_fit = False  # a fitted layer may have the same numbers as a new one
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float32))
        self.register_buffer("factor", torch.ones(n_features, dtype=torch.float32))

    @property
    def is_filled(self) -> bool:
        """True if the layer has been fitted, or the user has set its numbers."""
        return self.has_fit or bool((self.center != 0).any() or (self.factor != 1).any())

    def fill(self, other: Standardization) -> None:
        """Copy the centers and factors of another layer, but not its limit."""
        self.center.copy_(other.center)
        self.factor.copy_(other.factor)
        self.has_fit = other.has_fit

    def leave_as_they_are(self, columns: Sequence[int]) -> None:
        """Pass some columns on unchanged, such as codes that the student looks up."""
        if not columns:
            return
        index = torch.as_tensor(columns, device=self.center.device)
        self.center[index], self.factor[index] = 0.0, 1.0
        bounds = torch.full_like(self.center, self.limit)
        bounds[index] = torch.inf
        del self.bounds  # a number, or a buffer for other columns
        self.register_buffer("bounds", bounds, persistent=False)

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"n_features={len(self.center)}, limit={self.limit:g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised rows."""
        return _standardized(x, self.center, self.factor, self.bounds)


def _standardized(x: Tensor, center: Tensor, factor: Tensor, bounds: float) -> Tensor:
    # Subtract first: x · factor − center · factor would lose the digits of a column around 1e8.
    return (x - center).mul_(factor).clamp(-bounds, bounds)  # vmap has no clamp_


class StandardizedStudent(nn.Module):
    """A student behind a fixed affine layer, so that it takes the columns of a table unscaled.

    ``student_`` of an estimator fitted on a table with ``standardize=True`` is of this class. If you give
    such a student as ``student``, it keeps its layer. ``standardize=True`` fits only a new layer, with center
    0 and factor 1.

    Parameters
    ----------
    student : nn.Module
        Network that takes standardised rows.
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
    Write the student to a file, and load it into new modules:

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
        """The module whose paths name the layers."""
        return self.student

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        scaling = self.scaling  # not called, because calling a module takes as long as an operation
        return self.student(_standardized(x, scaling.center, scaling.factor, scaling.bounds))


def behind_scaling(student: nn.Module, scaling: Standardization | None) -> nn.Module:
    """Return the student behind the layer, or unchanged if there is no layer or it has its own."""
    if scaling is None or isinstance(student, StandardizedStudent):
        return student
    whole = StandardizedStudent(student, len(scaling.center), scaling.limit)
    whole.scaling = scaling
    return whole.train(student.training)


def own_student(student: nn.Module) -> nn.Module:
    """Return the user's own module, without the library's module around it."""
    return student.student if isinstance(student, (StandardizedStudent, ResizedStudent)) else student


# --------------------------------------------------------------------------------------
# Fitting the layer


def stride_of(n_rows: int, n_features: int) -> int:
    """Return k such that medians and quartiles are computed from every k-th row."""
    most = min(_MOST_ROWS, max(_FEWEST_ROWS, _MOST_NUMBERS // n_features))
    return -(-n_rows // most)


def fit_scaling(chunks: Iterable[Tensor], stride: int, n_features: int) -> Standardization:
    """Fit the layer to rows that are read once, in chunks.

    A column is centred at its mean and scaled by its standard deviation. A column with outliers, further
    outside the quartiles than twice the interquartile range, is centred at its median and scaled by that
    range. A column of mostly one value, such as 0, is centred there and scaled by the median distance of the
    other values: rare values stay of the order of 1, and 0 and 1 stay unchanged. A constant column, or one
    that varies only by rounding, is left out: factor 0. Rows with values that are not finite are ignored.
    Median and quartiles are computed from some of the rows.

    Parameters
    ----------
    chunks : iterable of Tensor of shape (m, n_features)
    stride : int
        Result of :func:`stride_of`.
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
    """Number, mean, sum of squared deviations, minimum and maximum of columns, updated chunk by chunk."""

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
    """Return 1 / spread, or 0 for columns that are constant or whose range is only rounding."""
    size = np.maximum(np.abs(low), np.abs(high))
    varies = (high - low > 2 * _ROUNDING * size) & (spread > _SMALLEST_SPREAD)
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)


def _distance_of_others(rows: np.ndarray, center: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return, for each column, the median distance from ``center`` of the values that differ from it.

    If all values of these rows equal ``center``, return ``reach``, the largest distance.
    """
    found = reach.copy()
    for j, column in enumerate(rows.T):
        distances = np.abs(column[column != center[j]].astype(np.float64) - center[j])
        if len(distances):
            found[j] = np.median(distances)
    return found


def _quartiles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper quartile of each column, float64."""
    place = (len(rows) - 1) // 4
    places = place, len(rows) - 1 - place
    ordered = np.partition(rows, places, axis=0)  # np.quantile takes four times as long
    return ordered[places[0]].astype(np.float64), ordered[places[1]].astype(np.float64)


# --------------------------------------------------------------------------------------
# Students that take codes


def code_columns(student: nn.Module) -> tuple[int, ...]:
    """Return the columns of codes that a student declares in its attribute ``code_columns``."""
    return tuple(getattr(student, "code_columns", ()))


def takes_codes(student: nn.Module, samples: Tensor) -> bool:
    """Return whether a student converts its input to whole numbers, for example to look up embeddings.

    Standardising would change which entry is found. The student is tried on the samples. If it cannot take
    them, the checks that follow report it.
    """
    # Calls inside TorchScript cannot be observed.
    if any(getattr(part, "original_name", None) in _LOOKUPS for part in student.modules()):
        return True
    watch = _IntegerWatch()
    with suppress(Exception), isolated_eval_mode(student, samples.device), watch:
        student(samples.clone())  # it may change them
    return watch.found


class _IntegerWatch(TorchFunctionMode):
    """Record whether a forward pass turns floating-point numbers into indices."""

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
