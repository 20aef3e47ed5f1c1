"""Metaparameter processes: record the values of a search for another training to follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.files._described_arrays import read_described, versions_for_the_record, write_described
from sklearn_kd.files._values import JSON_VALUES, simplified
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import CoordinateMap, Metaparameter, MetaparameterSpace
from sklearn_kd.meta._strategy import Strategy

if TYPE_CHECKING:
    from typing_extensions import Self

# Values of ``DistilledClassifier(weights=...)``.
FOLLOWED = ("mean", "tail", "final", "process")

# Format of the file. A reader of DistillationProcess refuses it, and vice versa.
_FORMAT = "metaparameters-1"


class MetaparameterProcess:
    """The values of metaparameters during a search, for another training to follow.

    Save it, plot it, or let another training follow it: with another number of iterations, with another
    student, or on other data. The training loss must have metaparameters with the same names, shapes,
    coordinates and components, and bounds that include the values.

    Parameters
    ----------
    values : mapping of str to array-like of shape (n_steps, ...)
        Values of each metaparameter, one row per iteration of the search.
    metaparameters : mapping of str to Metaparameter
        Shape, bounds and coordinate of each, as the loss defines them.
    settings : dict or None, default=None
        Settings of the search, for the record: plain numbers and strings.
    versions : dict or None, default=None
        Versions of the libraries. None: the running ones.

    Attributes
    ----------
    values : dict of str to ndarray of shape (n_steps, ...), float64
        The values.
    space : mapping of str to Metaparameter
        The metaparameters, without initial values.
    settings, versions
        As given.

    Raises
    ------
    ValueError
        If the values are not finite, have no rows or other shapes than the metaparameters, or are not above
        0 although the coordinate is the logarithm.
    TypeError
        If the values are not numbers.

    See Also
    --------
    DistilledClassifier : Searches a process with ``search_epochs``, or follows one with ``process``.
    MetaparameterPathDisplay : Draws a process, with ``from_process``.
    DistillationProcess : The process of DistProClassifier, whose values are the weights of pathways.

    Examples
    --------
    >>> from sklearn_kd import MetaparameterProcess
    >>> from sklearn_kd.losses import LogitDistillation
    >>> entries = LogitDistillation().metaparameters(n_classes=10)
    >>> process = MetaparameterProcess({"lambda1": [0.2, 0.4, 0.9], "temperature": [1, 2, 4]}, entries)
    >>> process
    MetaparameterProcess(3 steps, lambda1, temperature)
    >>> process.schedule(2, "mean")["temperature"].round(3)  # the geometric mean: its coordinate is log T
    array([2., 2.])
    >>> process.schedule(2, "process")["lambda1"].round(3)
    array([0.2, 0.9])
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        metaparameters: Mapping[str, Metaparameter],
        *,
        settings: dict[str, Any] | None = None,
        versions: dict[str, str] | None = None,
    ):
        # Initial values and groups belong to the search; a process has its values instead.
        self.space = MetaparameterSpace(
            {
                name: Metaparameter(
                    shape=entry.shape,
                    bounds=entry.bounds,
                    coordinate=entry.coordinate,
                    components=entry.components,
                )
                for name, entry in MetaparameterSpace(metaparameters).items()
            }
        )
        self.values = _checked_values(values, self.space)
        self.settings = {name: simplified(value) for name, value in (settings or {}).items()}
        self.versions = versions_for_the_record() if versions is None else dict(versions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} steps, {', '.join(self.space)})"

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    # ----------------------------------------------------------------------------------
    # Following

    def schedule(
        self, n_steps: int, weights: Literal["mean", "tail", "final", "process"] = "mean"
    ) -> dict[str, np.ndarray]:
        """Return the values for each iteration of a training of ``n_steps`` iterations.

        Means and interpolations are taken in the metaparameters' coordinates, such as log T.

        Parameters
        ----------
        n_steps : int
            Number of iterations, at least 1.
        weights : {"mean", "tail", "final", "process"}, default="mean"
            "mean": the mean of all rows in every iteration. "tail": the mean of the second half of the rows.
            "final": the last row. "process": the rows themselves, interpolated so that the first iteration
            has the first row and the last iteration the last row.

        Returns
        -------
        dict of str to ndarray of shape (n_steps, ...)
            Values by metaparameter name.

        Raises
        ------
        ValueError
            If ``n_steps`` or ``weights`` is invalid.
        """
        if not isinstance(n_steps, Integral) or isinstance(n_steps, bool) or n_steps < 1:
            raise ValueError(
                f"n_steps={n_steps!r} must be an integer of at least 1, the iterations of a training."
            )
        if weights not in FOLLOWED:
            raise ValueError(f"weights={weights!r} is not one of {list(FOLLOWED)}.")
        rows = self._joined()
        if weights == "process":
            found = self._in_coordinates(rows, lambda theta: resampled(theta, np.arange(n_steps), n_steps))
        else:
            counted = {"mean": rows, "tail": rows[len(rows) // 2 :], "final": rows[-1:]}[weights]
            mean = self._in_coordinates(counted, lambda theta: theta.mean(axis=0, keepdims=True))
            found = np.repeat(mean, n_steps, axis=0)
        return self.space.split(found)

    def _joined(self) -> np.ndarray:
        """Return all values as rows of m components, shape (n_steps, m)."""
        return np.concatenate([self.values[name].reshape(len(self), -1) for name in self.space], axis=1)

    def _in_coordinates(self, rows: np.ndarray, combine: Any) -> np.ndarray:
        """Apply ``combine``, whose results lie between the rows, in the coordinates θ of the rows."""
        coordinates = CoordinateMap(self.space, dtype=torch.float64, device="cpu")
        theta = coordinates.to_theta(torch.from_numpy(rows)).numpy()
        found = coordinates.unprojected_values(torch.from_numpy(combine(theta))).numpy()
        # This corrects only rounding; a constant stays equal to the bit.
        return np.clip(found, rows.min(axis=0), rows.max(axis=0))

    def check_fits(self, space: Mapping[str, Metaparameter]) -> None:
        """Raise ValueError unless a training with these metaparameters can follow the process.

        Parameters
        ----------
        space : mapping of str to Metaparameter
            Metaparameters of the training's loss.

        Raises
        ------
        ValueError
            If names, shapes, coordinates or components differ, or if the bounds differ from those of the
            search and a value lies outside.
        """
        own, wanted = _kinds(self.space), _kinds(space)
        if own != wanted:
            raise ValueError(
                f"process has other metaparameters, by name, with shape and coordinate, {own}; the loss of "
                f"this estimator has {wanted}. Give the loss of the search, or search a new process with "
                "process=None."
            )
        for name, entry in space.items():
            _check_components(name, self.space[name].components, entry.components)
            (low, high), rows = entry.bounds, self.values[name]
            if self.space[name].bounds != entry.bounds and not ((rows >= low) & (rows <= high)).all():
                raise ValueError(
                    f"process has {name} from {rows.min():.4g} to {rows.max():.4g}, outside the bounds "
                    f"({low:g}, {high:g}) that the loss of this estimator has. Give the loss the bounds of "
                    f"the search, {self.space[name].bounds}, or search a new process with process=None."
                )

    # ----------------------------------------------------------------------------------
    # Files

    def save(self, path: str | PathLike[str]) -> None:
        """Write the process to a file that holds no code.

        Parameters
        ----------
        path : str or path-like
            Path of the file, usually with the suffix ``.npz``. An existing file is replaced completely or
            not at all.

        Raises
        ------
        OSError
            If the file cannot be written, for example because the disk is full. An existing file is then
            kept.
        """
        about, arrays = process_content(self)
        write_described(path, _FORMAT, about, arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file written by :meth:`save`, without running any code in it.

        Parameters
        ----------
        path : str or path-like
            Path of the file.

        Returns
        -------
        MetaparameterProcess

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If the file holds no such process, or would need more memory than its length allows.
        """
        return read_described(
            path,
            [_FORMAT],
            lambda about, arrays: process_of_content(about, arrays, cls),
            what="process of metaparameters",
            writer="MetaparameterProcess.save",
        )


def process_content(process: MetaparameterProcess) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description, in the forms of ``JSON_VALUES``, and the arrays of a process's file.

    Raises
    ------
    Unserializable
        If a setting cannot be written as JSON.
    """
    about = {
        "metaparameters": [
            # JSON has no infinity.
            [
                name,
                list(entry.shape),
                [float(b) if math.isfinite(b) else None for b in entry.bounds],
                entry.coordinate,
            ]
            for name, entry in process.space.items()
        ],
        "components": {
            name: list(entry.components)
            for name, entry in process.space.items()
            if entry.components is not None
        },
        "settings": {name: JSON_VALUES.encode(value) for name, value in process.settings.items()},
        "versions": process.versions,
    }
    return about, {f"values.{name}": rows for name, rows in process.values.items()}


def process_of_content(
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    cls: type[Any] = MetaparameterProcess,
) -> Any:
    """Make a process, of class ``cls``, from the result of :func:`process_content`.

    Raises
    ------
    Exception
        Of any type, if the content is wrong.
    """
    entries, components = {}, about.get("components", {})  # older files have none
    for name, shape, (low, high), coordinate in about["metaparameters"]:
        bounds = -math.inf if low is None else low, math.inf if high is None else high
        words = tuple(map(str, components[name])) if name in components else None
        entries[name] = Metaparameter(
            shape=tuple(shape), bounds=bounds, coordinate=coordinate, components=words
        )
    values = {name: arrays[f"values.{name}"] for name in entries}
    settings = {name: JSON_VALUES.decode(form) for name, form in about["settings"].items()}
    return cls(values, entries, settings=settings, versions=about["versions"])


def _kinds(space: Mapping[str, Metaparameter]) -> dict[str, tuple[Any, ...]]:
    return {name: (entry.shape, entry.coordinate) for name, entry in space.items()}


def _check_components(name: str, own: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> None:
    """Raise ValueError if both name the components of an array, but differently."""
    if own is None or wanted is None or own == wanted:
        return
    only_own = [word for word in own if word not in wanted]
    only_wanted = [word for word in wanted if word not in own]
    differs = f"Only the process has {only_own}; only the loss of this estimator has {only_wanted}."
    if not only_own and not only_wanted:
        differs = f"Their order differs: {list(own)} and {list(wanted)}."
    raise ValueError(
        f"process has {name} of other components than the loss of this estimator. {differs} Give the loss of "
        "the search, or search a new process with process=None."
    )


def _checked_values(values: Mapping[str, Any], space: MetaparameterSpace) -> dict[str, np.ndarray]:
    """Check each metaparameter's values and return them as float64 of shape (n_steps, *shape)."""
    if not isinstance(values, Mapping):
        raise TypeError(f"values={str(values)[:200]} must be a dict of rows by metaparameter.")
    if set(values) != set(space) or not len(space):
        raise ValueError(
            f"values has rows for {sorted(values)}, but the metaparameters are {sorted(space)}. Give rows "
            "for each metaparameter, and at least one metaparameter."
        )
    found: dict[str, np.ndarray] = {}
    for name, entry in space.items():
        rows = values[name].detach().cpu().numpy() if isinstance(values[name], Tensor) else values[name]
        try:
            found[name] = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"values of {name} must be an array of numbers.") from error
        first = next(iter(found.values()))
        n_steps = len(first) if first.ndim else 0
        if found[name].shape != (n_steps, *entry.shape) or not n_steps:
            wanted = ", ".join(map(str, ("n_steps", *entry.shape)))
            raise ValueError(
                f"values of {name} have shape {found[name].shape}; they must have shape ({wanted}), with at "
                "least one step and the same number of steps for each metaparameter."
            )
        if not np.isfinite(found[name]).all():
            raise ValueError(f"values of {name} must be finite.")
        if entry.coordinate == "log" and not (found[name] > 0).all():
            raise ValueError(f"values of {name} must be above 0: its coordinate is the logarithm.")
    return found


def resampled(rows: np.ndarray, t: np.ndarray, n_steps: int) -> np.ndarray:
    """Interpolate rows linearly at steps t of a training of ``n_steps`` steps.

    The first step gets the first row, and the last step the last row. A single step gets the first.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, m)
    t : ndarray of int
    n_steps : int

    Returns
    -------
    ndarray of shape (len(t), m)
    """
    place = np.asarray(t) * ((len(rows) - 1) / max(1, n_steps - 1))
    return np.stack([np.interp(place, np.arange(len(rows)), column) for column in rows.T], axis=1)


class Following(Strategy):
    """Follow values set beforehand for each iteration, such as a process, in one training.

    Parameters
    ----------
    rows : ndarray of shape (n_steps, m)
        Values of each iteration. The path starts at the first row.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.
    """

    def __init__(self, rows: np.ndarray, val_temperature: float | Literal["auto"] = 1.0):
        self.rows = rows
        self.val_temperature = val_temperature

    def predict(self, metaparameters: MetaparameterPath) -> Tensor | None:
        """Return all remaining rows at once, and keep only the last; after it nothing moves."""
        left, self.rows = self.rows[metaparameters.iteration + 1 :], self.rows[-1:]
        if not len(left):
            return None
        space = metaparameters.space
        return CoordinateMap(space, dtype=torch.float64, device="cpu").to_theta(torch.from_numpy(left))
