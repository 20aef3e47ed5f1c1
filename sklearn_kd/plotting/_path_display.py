"""The metaparameters' path as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Self

    from sklearn_kd.estimators._classifier import DistilledClassifier

_LABELS = {"lambda1": "lambda1\n(weight of the labels)", "temperature": "temperature T"}


class MetaparameterPathDisplay:
    """lambda1 and the temperature over the training iterations.

    Predicted stretches are shaded. Several runs are overlaid as thin lines, with their mean
    as a thick one. Make a display with :meth:`from_estimator` or :meth:`from_path`.

    Parameters
    ----------
    paths : list of structured arrays
        ``metaparameter_path_`` of one or more fitted :class:`DistilledClassifier`; of equal
        length where there are several.
    name : str or None, default=None
        Label of the line, or of the mean.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
        lambda1 above, temperature below.
    figure_ : matplotlib Figure
    lines_ : list of two matplotlib Line2D
        The line, or the mean, in each of them.

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
        axes : sequence of two matplotlib Axes or None, default=None
            None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay
        """
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
        axes : sequence of two matplotlib Axes or None, default=None
            None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay

        Raises
        ------
        ValueError
            If several paths differ in length.
        """
        paths = [path] if isinstance(path, np.ndarray) else list(path)
        if len({len(path) for path in paths}) != 1:
            raise ValueError(
                f"path must be one path or several of equal length; got {len(paths)} of lengths "
                f"{[len(path) for path in paths]}."
            )
        return cls(paths, name=name).plot(axes, **line_kw)

    def plot(self, axes: Sequence[Axes] | None = None, **line_kw: Any) -> Self:
        """Draw.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes or None, default=None
            None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(2, 1, sharex=True, figsize=(7, 4.5), layout="constrained")
        self.axes_, self.lines_ = np.asarray(axes), []
        self.figure_ = self.axes_[0].figure
        iteration, predicted = self.paths[0]["iteration"], self.paths[0]["predicted"]
        for ax, (field, label) in zip(self.axes_, _LABELS.items(), strict=True):
            runs = np.stack([path[field] for path in self.paths])
            (line,) = ax.plot(iteration, runs.mean(axis=0), **{"label": self.name} | line_kw)
            if len(runs) > 1:
                line.set_linewidth(1.6 * line.get_linewidth())
                ax.plot(iteration, runs.T, color=line.get_color(), alpha=0.4, linewidth=0.8)
            for first, last in _stretches(predicted):
                ends = iteration[first] - 0.5, iteration[last] + 0.5
                ax.axvspan(*ends, color="0.93", linewidth=0, zorder=0)
            ax.set_ylabel(label)
            self.lines_.append(line)
        self.axes_[0].set_ylim(-0.03, 1.03)
        shaded = " (shaded: predicted)" if predicted.any() else ""
        self.axes_[-1].set_xlabel(f"training iteration{shaded}")
        if self.name is not None:
            self.axes_[0].legend()
        return self


def _stretches(flags):
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=int), [0]])))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]
