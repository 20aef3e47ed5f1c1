"""Draw the path of the metaparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._path import path_dtype
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.meta._space import RESERVED_COLUMNS
from sklearn_kd.style._style import checked_axes, cycle_series, ink, pyplot, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from typing_extensions import Self

    from sklearn_kd.estimators._classifier import DistilledClassifier

# Smallest range of T that is drawn to both sides.
_LEAST_OF_T = 0.25
# Smallest range of a term's weight that is drawn to both sides, as a share of the weight.
_LEAST_OF_WEIGHT = 0.5
# Labels of metaparameters whose names say too little.
_LABELS = {"lambda1": "lambda1\n(weight of the labels)", "temperature": "temperature T"}


class MetaparameterPathDisplay:
    """Draw the metaparameters of a loss over the training iterations, one panel for each.

    A number is drawn as a line, and an array of K numbers, such as a lambda1 for each class, as K thin lines
    with their mean as a thick line. Predicted stretches are shaded. A dashed line separates a search from
    the training on all rows after it. Several runs are overlaid as thin lines, with their mean as a thick
    line. Displays that share axes have different colours and line styles. Make a display with
    :meth:`from_estimator`, :meth:`from_path` or :meth:`from_process`.

    Parameters
    ----------
    paths : list of structured arrays
        ``metaparameter_path_`` of one or more fitted :class:`DistilledClassifier`, all of the same length.
    name : str or None, default=None
        Label of the line, or of the mean.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_metaparameters,)
        One for each metaparameter, in the order of the path's columns: lambda1 above the temperature.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        The line, or the mean line, in each panel.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent
    >>> clf = DistilledClassifier(LogisticRegression(max_iter=500), MLPStudent, max_epochs=5)
    >>> clf = clf.fit(*load_iris(return_X_y=True))
    >>> display = MetaparameterPathDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(self, paths: list[np.ndarray], *, name: str | None = None):
        self.paths = paths
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: DistilledClassifier,
        *,
        name: str | None = None,
        axes: Sequence[Axes] | None = None,
        **line_kw: Any,
    ) -> Self:
        """Draw the path of a fitted estimator.

        Parameters
        ----------
        estimator : DistilledClassifier
            Fitted.
        name : str or None, default=None
            Label of the line.
        axes : sequence of matplotlib Axes or None, default=None
            One for each metaparameter. None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay

        Raises
        ------
        TypeError
            If the estimator has only a process of pathways, as :class:`DistProClassifier` does.
        """
        if isinstance(getattr(estimator, "process_", None), DistillationProcess):
            raise TypeError(
                f"a {type(estimator).__name__} has a DistillationProcess, which ProcessDisplay draws: "
                "ProcessDisplay.from_estimator(...)."
            )
        check_is_fitted(estimator, "metaparameter_path_")
        return cls.from_path(estimator.metaparameter_path_, name=name, axes=axes, **line_kw)

    @classmethod
    def from_path(
        cls,
        path: np.ndarray | list[np.ndarray],
        *,
        name: str | None = None,
        axes: Sequence[Axes] | None = None,
        **line_kw: Any,
    ) -> Self:
        """Draw a path, or several and their mean.

        Parameters
        ----------
        path : structured array of shape (n_iter,), or list of them
        name : str or None, default=None
            Label of the line, or of the mean.
        axes : sequence of matplotlib Axes or None, default=None
            One for each metaparameter. None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay

        Raises
        ------
        ValueError
            If several paths differ in length or in their metaparameters, if they have none, if they have no
            iterations, or if there are more or fewer axes than metaparameters.
        TypeError
            If a path is no structured array, or lacks a column.
        """
        paths = list(path) if isinstance(path, (list, tuple)) else [path]
        if not all(map(_is_path, paths)):
            raise TypeError(
                "path must be metaparameter_path_ of a fitted estimator, or a list of several; got "
                f"{[type(own).__name__ for own in paths]}. from_process draws a MetaparameterProcess."
            )
        if len({len(path) for path in paths}) != 1:
            raise ValueError(
                f"path must be one path or several of equal length; got {len(paths)} of lengths "
                f"{[len(path) for path in paths]}."
            )
        if not len(paths[0]):
            raise ValueError(
                "path has no iterations: nothing can be drawn. Files of save(history=False) do not hold it; "
                "save with history=True."
            )
        return cls(paths, name=name).plot(axes, **line_kw)

    @classmethod
    def from_process(
        cls,
        process: MetaparameterProcess | Sequence[MetaparameterProcess],
        *,
        name: str | None = None,
        axes: Sequence[Axes] | None = None,
        **line_kw: Any,
    ) -> Self:
        """Draw the process of a search, or several and their mean.

        Parameters
        ----------
        process : MetaparameterProcess, or sequence of them
        name : str or None, default=None
            Label of the line, or of the mean.
        axes : sequence of matplotlib Axes or None, default=None
            One for each metaparameter. None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay

        Raises
        ------
        ValueError
            As :meth:`from_path`.
        TypeError
            If ``process`` is of another kind.
        """
        processes = [process] if isinstance(process, MetaparameterProcess) else process
        if (
            isinstance(processes, str)
            or not isinstance(processes, Sequence)
            or not all(isinstance(own, MetaparameterProcess) for own in processes)
        ):
            raise TypeError(
                f"process={str(process)[:100]} must be a MetaparameterProcess or a list of them. "
                "ProcessDisplay draws a DistillationProcess, and MetaparameterProcess.load reads a file."
            )
        with error_context("process"):
            return cls.from_path([_path_of(own) for own in processes], name=name, axes=axes, **line_kw)

    def plot(self, axes: Sequence[Axes] | None = None, **line_kw: Any) -> Self:
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes or None, default=None
            One for each metaparameter. None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay
        """
        plt = pyplot(type(self).__name__)
        names = _metaparameter_names(self.paths)
        if axes is not None:
            panels = checked_axes(axes)
        else:
            size = 7, max(3.0, 2.25 * len(names))
            _, panels = plt.subplots(
                len(names), 1, sharex=True, squeeze=False, figsize=size, layout="constrained"
            )
            for ax in np.ravel(panels):
                cycle_series(ax)
                style_axes(ax)
        self.axes_: np.ndarray = np.ravel(panels)
        self.lines_: list[Line2D] = []
        if len(self.axes_) != len(names):
            raise ValueError(f"axes has {len(self.axes_)} axes; the path has the metaparameters {names}.")
        self.figure_ = self.axes_[0].figure
        predicted = self.paths[0]["predicted"]
        for ax, name in zip(self.axes_, names, strict=True):
            self.lines_.append(self._draw(ax, name, line_kw))
        notes = ["shaded: predicted"] if predicted.any() else []
        notes += ["left of the dashed line: search"] if _first_after_search(self.paths[0]) else []
        self.axes_[-1].set_xlabel("training iteration" + (f" ({'; '.join(notes)})" if notes else ""))
        if self.name is not None:
            self.axes_[0].legend()
        return self

    def _draw(self, ax: Axes, name: str, line_kw: dict[str, Any]) -> Line2D:
        """Draw one metaparameter of all runs; return its line, or the mean of its lines."""
        iteration = self.paths[0]["iteration"]
        # One column for each component of each run.
        lines = np.concatenate([path[name].reshape(len(path), -1) for path in self.paths], axis=1)
        (line,) = ax.plot(iteration, lines.mean(axis=1), **{"label": self.name} | line_kw)
        if lines.shape[1] > 1:
            line.set_linewidth(1.6 * line.get_linewidth())
            thin: dict[str, Any] = {"color": line.get_color(), "linestyle": "-", "alpha": 0.4}
            ax.plot(iteration, lines, **thin, linewidth=0.8)
        for first, last in _stretches(self.paths[0]["predicted"]):
            ends = iteration[first] - 0.5, iteration[last] + 0.5
            ax.axvspan(*ends, color=ink(), alpha=0.08, linewidth=0, zorder=0)
        begun = _first_after_search(self.paths[0])
        if begun is not None:
            ax.axvline(iteration[begun] - 0.5, color=ink(), alpha=0.7, linestyle=(0, (5, 4)), linewidth=1)
        ax.set_ylabel(_LABELS.get(name, name))
        if name == "lambda1" and (lines >= 0).all() and (lines <= 1).all():
            ax.set_ylim(-0.03, 1.03)
        if name == "temperature" or name.endswith("_weight"):  # else small moves would seem large
            middle = (float(lines.min()) + float(lines.max())) / 2
            least = _LEAST_OF_T if name == "temperature" else _LEAST_OF_WEIGHT * abs(middle)
            ax.update_datalim([(iteration[0], middle - least), (iteration[0], middle + least)])
            ax.autoscale_view()
        return line


def _is_path(path: Any) -> bool:
    """Return whether an array is a table with the columns of a path."""
    is_table = isinstance(path, np.ndarray) and path.ndim == 1
    return is_table and {"iteration", "predicted"} <= set(path.dtype.names or ())


def _path_of(process: MetaparameterProcess) -> np.ndarray:
    """Return the values of a process as the path of its search."""
    path = np.zeros(len(process), dtype=path_dtype(process.space))
    path["iteration"], path["val_loss"], path["search"] = np.arange(len(process)), np.nan, True
    for name, rows in process.values.items():
        path[name] = rows
    return path


def _first_after_search(path: np.ndarray) -> int | None:
    """Return the row at which the training on all rows begins after a search, or None."""
    searching = path["search"] if "search" in (path.dtype.names or ()) else np.zeros(len(path), bool)
    behind = np.flatnonzero(searching[:-1] & ~searching[1:])
    return int(behind[0]) + 1 if len(behind) else None


def _metaparameter_names(paths: list[np.ndarray]) -> list[str]:
    """Return the names of the columns of metaparameters, which must be the same in all paths."""
    named = [[name for name in path.dtype.names or () if name not in RESERVED_COLUMNS] for path in paths]
    shapes = {
        tuple((name, path.dtype[name].shape) for name in own) for path, own in zip(paths, named, strict=True)
    }
    if len(shapes) > 1:
        raise ValueError(f"path has runs of different metaparameters: {named}. Draw each kind by itself.")
    if not named[0]:
        raise ValueError("path has no metaparameters: its loss names none, so there is nothing to draw.")
    return named[0]


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and the last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=int), [0]])))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]
