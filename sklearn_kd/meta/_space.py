"""Named metaparameters: their initial values, shapes, bounds, and the coordinates of their steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Coordinate = Literal["identity", "log", "logit"]
COORDINATES: tuple[Coordinate, ...] = ("identity", "log", "logit")

# Columns beside the metaparameters in a path or a table of trials.
RESERVED_COLUMNS = ("iteration", "val_loss", "predicted", "search", "seconds")
# Columns of a fit's history beside its metaparameters and its feature terms.
HISTORY_COLUMNS = (
    "epoch",
    "batches",
    "dur",
    "train_loss",
    "train_loss_best",
    "valid_loss",
    "valid_loss_best",
    "valid_acc",
    "valid_acc_best",
    "valid_r2",
    "valid_r2_best",
    "train_batch_count",
    "valid_batch_count",
    "skipped_steps",
    "skipped_hypergradients",
)
# Names that a metaparameter cannot have, by what uses them.
_RESERVED_NAMES = {
    "columns of the path": RESERVED_COLUMNS,
    "columns of history_": HISTORY_COLUMNS,
    "arguments of loss": ("self", "logits", "teacher_logits", "labels"),
}
# Smallest distance of a value in logit coordinates from its bounds, as a share of their distance. At the
# bound itself the coordinate is infinite, and no hypergradient would lead back.
_LOGIT_MARGIN = 1e-6


@dataclass(frozen=True)
class Metaparameter:
    """A number or array on which a training loss depends, and which can be learned.

    Parameters
    ----------
    start : float, array-like, "random" or None, default=None
        Initial value; an array-like sets the shape. "random": draw it within ``bounds``, in the logarithm if
        that is the coordinate. None: the estimator's ``lambda1`` or ``temperature``, for a metaparameter of
        that name.
    shape : tuple of int, default=()
        Shape of an array whose numbers all have the same initial value. () means a single number.
    bounds : tuple of (float, float), default=(-inf, inf)
        Interval onto which values are projected after each step.
    coordinate : {"identity", "log", "logit"}, default="identity"
        Coordinate in which steps are taken and lines are fitted: the value, its logarithm, or log((value −
        low)/(high − value)) for finite ``bounds`` (low, high). A logit whose initial value is a bound hardly
        leaves it, because the coordinate is infinite there.
    predicted_bounds : tuple of (float, float) or None, default=None
        Additional bounds for predicted values, widened to include the current value. None: no additional
        bounds.
    group : str, default="loss"
        Group of metaparameters that share an optimizer.
    components : tuple of str or None, default=None
        Name of each number of an array, such as a class. A process searched for other components is refused.
        None: no names.

    Raises
    ------
    ValueError
        If the bounds are not an interval, the initial value lies outside them, the coordinate does not suit
        them, the shape is invalid, or the number of ``components`` differs from the size.
    TypeError
        If the initial value is not a number.

    Examples
    --------
    >>> from sklearn_kd.losses import Metaparameter
    >>> Metaparameter(0.5, bounds=(0, 1)).shape
    ()
    >>> Metaparameter(0.5, shape=(10,), bounds=(0, 1), coordinate="logit").shape  # one number per class
    (10,)
    """

    start: Any = None
    shape: tuple[int, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)
    coordinate: Coordinate = "identity"
    predicted_bounds: tuple[float, float] | None = None
    group: str = "loss"
    components: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.coordinate not in COORDINATES:
            raise ValueError(f"coordinate={self.coordinate!r} is not one of {list(COORDINATES)}.")
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        for name in ("bounds", "predicted_bounds"):
            if name == "bounds" or self.predicted_bounds is not None:
                object.__setattr__(self, name, _checked_interval(name, getattr(self, name)))
        low, high = self.bounds
        if self.coordinate == "log" and not low > 0:
            raise ValueError(f"bounds={self.bounds!r} must be above 0 with coordinate='log'.")
        if self.coordinate == "logit" and not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"bounds={self.bounds!r} must be finite and differ with coordinate='logit'.")
        if self.start is not None and not _is_draw(self.start):
            self._take_start(_as_array("start", self.start))
        if self.components is not None and len(self.components) != self.size:
            raise ValueError(
                f"components={self.components!r} must have a word for each of the {self.size} numbers of "
                f"shape={self.shape!r}."
            )

    def _take_start(self, start: np.ndarray) -> None:
        """Take the shape from an array; raise ValueError if the start does not suit shape and bounds."""
        low, high = self.bounds
        if start.ndim and not self.shape:
            object.__setattr__(self, "shape", _checked_shape(start.shape))
        elif start.ndim and start.shape != self.shape:
            raise ValueError(f"start has shape {start.shape}, but shape={self.shape!r}.")
        if not (np.isfinite(start).all() and (start >= low).all() and (start <= high).all()):
            raise ValueError(f"start={self.start!r} must lie within bounds=({low:g}, {high:g}).")

    @property
    def size(self) -> int:
        """Number of components."""
        return math.prod(self.shape)

    def range_to_draw_from(self, name: str) -> tuple[float, float]:
        """Return the bounds between which a value is drawn.

        Parameters
        ----------
        name : str
            Name of the metaparameter in messages.

        Raises
        ------
        ValueError
            If the bounds are not finite.
        """
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"Metaparameter {name!r} has bounds=({low:g}, {high:g}), from which nothing can be drawn. "
                "Give it finite bounds, or choose another start or another meta."
            )
        return low, high


def _checked_interval(name: str, bounds: Any) -> tuple[float, float]:
    ends = tuple(bounds) if isinstance(bounds, tuple | list | np.ndarray) else ()
    if not (len(ends) == 2 and all(isinstance(b, Real) for b in ends) and ends[0] <= ends[1]):
        raise ValueError(f"{name}={bounds!r} must be two numbers, low <= high.")
    return ends


def _checked_shape(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    valid = all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes)
    if not valid or not all(int(n) > 0 for n in sizes):
        raise ValueError(f"shape={shape!r} must be a tuple of integers of at least 1; () is a number.")
    return tuple(map(int, sizes))


def _is_draw(start: Any) -> bool:
    """Return True if a start is "random"; refuse other words."""
    if isinstance(start, str) and start != "random":
        raise ValueError(f"start={start!r} must be a number, an array of numbers, 'random' or None.")
    return isinstance(start, str)


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}={str(value)[:200]} must be a number or an array of numbers.") from error


def _check_name(name: Any) -> None:
    """Raise ValueError for a name that is not an identifier or is reserved."""
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"{name!r} cannot be the name of a metaparameter. Give an identifier.")
    for what, names in _RESERVED_NAMES.items():
        if name in names:
            raise ValueError(
                f"{name!r} cannot be the name of a metaparameter. Give another name than {list(names)}, "
                f"which are {what}."
            )


class MetaparameterSpace(Mapping[str, Metaparameter]):
    """The metaparameters of a training by name, and as one vector of m components.

    Parameters
    ----------
    entries : mapping of str to Metaparameter
        Metaparameters by name. They are reordered by group.

    Raises
    ------
    ValueError
        If a name cannot be the name of a keyword argument and of a column.
    TypeError
        If the entries are not a mapping of names to metaparameters.

    Attributes
    ----------
    size : int
        Number m of components.
    groups : dict of str to slice
        The components of each group.

    Examples
    --------
    >>> from sklearn_kd.losses import Metaparameter
    >>> from sklearn_kd.meta import MetaparameterSpace
    >>> space = MetaparameterSpace({
    ...     "lambda1": Metaparameter(0.5, bounds=(0, 1)),
    ...     "class_weight": Metaparameter(1.0, shape=(3,), bounds=(0, 10))})
    >>> space.size, list(space), space["class_weight"].bounds
    (4, ['lambda1', 'class_weight'], (0, 10))
    """

    def __init__(self, entries: Mapping[str, Metaparameter]):
        if not isinstance(entries, Mapping):
            raise TypeError(
                f"metaparameters(n_classes) returned {type(entries).__name__}; it must return a dict of "
                "names to sklearn_kd.losses.Metaparameter."
            )
        for name, entry in entries.items():
            _check_name(name)
            if not isinstance(entry, Metaparameter):
                raise TypeError(f"{name}={entry!r} must be a sklearn_kd.losses.Metaparameter.")
        order = list(dict.fromkeys(entry.group for entry in entries.values()))
        self._entries = {n: e for group in order for n, e in entries.items() if e.group == group}
        self.slices: dict[str, slice] = {}
        self.groups: dict[str, slice] = {}
        first = 0
        for name, entry in self._entries.items():
            self.slices[name] = slice(first, first + entry.size)
            begun = self.groups.get(entry.group, slice(first, first)).start
            self.groups[entry.group] = slice(begun, first + entry.size)
            first += entry.size
        self.size = first

    def __getitem__(self, name: str) -> Metaparameter:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MetaparameterSpace({self._entries!r})"

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the metaparameters that are single numbers."""
        return tuple(name for name, entry in self.items() if entry.shape == ())

    @property
    def starts(self) -> dict[str, Any]:
        """Initial values of the metaparameters that have one."""
        return {name: entry.start for name, entry in self.items() if entry.start is not None}

    def check_within_bounds(
        self, values: Mapping[str, Any], parameters: Mapping[str, str] | None = None
    ) -> None:
        """Raise ValueError unless each value has its metaparameter's shape and lies within its bounds.

        Parameters
        ----------
        values : mapping of str to float or array-like
            Values by name.
        parameters : mapping of str to str or None, default=None
            For each name, the parameter that sets the bounds, for the message.
        """
        for name, entry in self.items():
            value, (low, high) = self._checked_array(name, values[name]), entry.bounds
            if not ((value >= low) & (value <= high)).all():
                bounds = (parameters or {}).get(name, "them")
                raise ValueError(
                    f"{name}={values[name]!r} lies outside its bounds ({low:g}, {high:g}). Start inside the "
                    f"bounds, or widen {bounds}."
                )

    def completed(self, start: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given values, and the initial values of missing ones, in the form of :meth:`shaped`.

        The given values may lie outside the bounds: only moves are projected.

        Parameters
        ----------
        start, given : mapping of str to float or array-like
            Initial and given values by name.

        Raises
        ------
        TypeError
            If ``given`` is not a mapping, or a value is not a number.
        ValueError
            If a name is unknown, or a value has another shape, is not finite, or is not above 0 although its
            coordinate is the logarithm.
        """
        if not isinstance(given, Mapping):
            raise TypeError(
                f"got {type(given).__name__}; values of metaparameters must be a dict by name, which may be "
                "empty."
            )
        unknown = [name for name in given if name not in self]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a metaparameter of this fit; there are {list(self)}.")
        for name, value in given.items():
            array = self._checked_array(name, value)
            if not np.isfinite(array).all():
                raise ValueError(f"{name}={value!r} must be finite.")
            if self[name].coordinate == "log" and not (array > 0).all():
                raise ValueError(f"{name}={value!r} must be above 0: its coordinate is the logarithm.")
        return self.shaped({**start, **given})

    def _checked_array(self, name: str, value: Any) -> np.ndarray:
        """Return a value as an array, which must be one number or have the metaparameter's shape."""
        array, shape = _as_array(name, value), self[name].shape
        if array.shape not in ((), shape):
            raise ValueError(f"{name} has shape {array.shape}; it must have shape {shape}.")
        return array

    def in_raw_coordinates(self) -> MetaparameterSpace:
        """Return the space in which every coordinate is the value itself."""
        return MetaparameterSpace({name: replace(e, coordinate="identity") for name, e in self.items()})

    def join(self, values: Mapping[str, Any]) -> np.ndarray:
        """Join named values to one vector, float64, shape (m,); raise KeyError if a name is missing."""
        parts = [
            np.broadcast_to(_as_array(name, values[name]), entry.shape).ravel()
            for name, entry in self.items()
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def shaped(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return named values as floats or as arrays of their shape, without other names."""
        arrays = self.split(self.join(values))
        return {name: array if self[name].shape else float(array) for name, array in arrays.items()}

    def split(self, values: Any) -> dict[str, Any]:
        """Split values of shape ``(..., m)`` into named parts of shape ``(..., *shape)``."""
        lead = tuple(values.shape[:-1])
        return {
            name: values[..., self.slices[name]].reshape(lead + entry.shape) for name, entry in self.items()
        }

    def split_numbers(self, values: list[float]) -> dict[str, float]:
        """Return the single numbers by name, from a list of all m components."""
        return {name: values[self.slices[name].start] for name in self.numbers}

    def columns(self) -> list[tuple]:
        """Return fields of a structured array, float64, one for each metaparameter."""
        return [(name, np.float64, entry.shape) if entry.shape else (name, np.float64)
                for name, entry in self.items()]  # fmt: skip

    def bounds(self, names: str = "bounds") -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds of all components, float64, shape (m,) each."""
        pairs = [getattr(entry, names) or (-math.inf, math.inf) for entry in self.values()]
        sizes = [entry.size for entry in self.values()]
        low, high = (np.repeat([float(pair[side]) for pair in pairs], sizes) for side in (0, 1))
        return low, high


class CoordinateMap:
    """Converts between values and coordinates θ of a space, componentwise, on a device.

    Parameters
    ----------
    space : MetaparameterSpace
    dtype, device
        Dtype and device of the tensors.
    """

    def __init__(self, space: MetaparameterSpace, *, dtype: torch.dtype, device: torch.device | str):
        kinds = [entry.coordinate for entry in space.values() for _ in range(entry.size)]
        self._is_log = torch.tensor([kind == "log" for kind in kinds], dtype=torch.bool, device=device)
        self._is_logit = torch.tensor([kind == "logit" for kind in kinds], dtype=torch.bool, device=device)
        self._has_logit = "logit" in kinds
        self.bounds = tuple(torch.as_tensor(b, dtype=dtype).to(device) for b in space.bounds())
        self._predicted = tuple(
            torch.as_tensor(b, dtype=dtype).to(device) for b in space.bounds("predicted_bounds")
        )
        # θ of a logit's bound would be infinite; these bounds lie inside by the margin.
        self.theta_bounds = tuple(map(self.to_theta, self.bounds))

    def to_theta(self, values: Tensor) -> Tensor:
        """Return θ of values of shape (..., m)."""
        theta = torch.where(self._is_log, values.log(), values)
        if self._has_logit:
            theta = torch.where(self._is_logit, torch.logit(self._share(values), eps=_LOGIT_MARGIN), theta)
        return theta

    def to_values(self, theta: Tensor) -> Tensor:
        """Return the values of θ of shape (..., m), projected onto the bounds."""
        return self.unprojected_values(theta).clamp(*self.bounds)

    def unprojected_values(self, theta: Tensor) -> Tensor:
        """Return the values of θ of shape (..., m), which may lie outside the bounds."""
        values = torch.where(self._is_log, theta.exp(), theta)
        if self._has_logit:
            low, high = self.bounds
            values = torch.where(self._is_logit, low + (high - low) * torch.sigmoid(theta), values)
        return values

    def predicted_values(self, theta: Tensor, now: Tensor) -> Tensor:
        """Return :meth:`to_values`, also within the predicted bounds, widened to include ``now``."""
        low, high = self._predicted
        return self.to_values(theta).clamp(torch.minimum(low, now), torch.maximum(high, now))

    def slope(self, values: Tensor) -> Tensor:
        """Return ∂value/∂θ at values of shape (m,): dL/dθ = slope · dL/dvalue."""
        slope = values**self._is_log
        if self._has_logit:
            low, high = self.bounds
            share = self._share(values).clamp(_LOGIT_MARGIN, 1 - _LOGIT_MARGIN)
            slope = torch.where(self._is_logit, (high - low) * share * (1 - share), slope)
        return slope

    def _share(self, values: Tensor) -> Tensor:
        low, high = self.bounds
        return torch.where(self._is_logit, (values - low) / (high - low), 0.5)
