"""The metaparameters' path as a picture."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted


class MetaparameterPathDisplay:
    """lambda1 and the temperature over the training iterations.

    Predicted stretches are shaded. Make one with :meth:`from_estimator` or
    :meth:`from_path`.

    Parameters
    ----------
    path : structured array of shape (n_iter,)
        ``metaparameter_path_`` of a fitted :class:`DistilledClassifier`.
    name : str or None, default=None
        Label of the lines.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
        lambda1 above, temperature below.
    figure_ : matplotlib Figure
    lines_ : list of two matplotlib Line2D

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent
    >>> clf = DistilledClassifier(LogisticRegression(), MLPStudent, max_epochs=5)
    >>> clf = clf.fit(*load_iris(return_X_y=True))
    >>> display = MetaparameterPathDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(self, path, *, name=None):
        self.path = path
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, *, name=None, axes=None, **line_kw):
        """Draw the path of a fitted estimator.

        Parameters
        ----------
        estimator : DistilledClassifier
            Fitted.
        name : str or None, default=None
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
    def from_path(cls, path, *, name=None, axes=None, **line_kw):
        """Draw a path.

        Parameters
        ----------
        path : structured array of shape (n_iter,)
        name : str or None, default=None
        axes : sequence of two matplotlib Axes or None, default=None
            None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        MetaparameterPathDisplay
        """
        return cls(path, name=name).plot(axes, **line_kw)

    def plot(self, axes=None, **line_kw):
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
        labels = {"lambda1": "lambda1\n(weight of the labels)", "temperature": "temperature T"}
        for ax, (field, label) in zip(self.axes_, labels.items(), strict=True):
            (line,) = ax.plot(self.path["iteration"], self.path[field], **{"label": self.name} | line_kw)
            self.lines_.append(line)
            for first, last in _stretches(self.path["predicted"]):
                ax.axvspan(
                    self.path["iteration"][first] - 0.5,
                    self.path["iteration"][last] + 0.5,
                    color=line.get_color(),
                    alpha=0.12,
                    linewidth=0,
                )
            ax.set_ylabel(label)
        self.axes_[0].set_ylim(-0.03, 1.03)
        self.axes_[-1].set_xlabel("training iteration (shaded: predicted)")
        if self.name is not None:
            self.axes_[0].legend()
        return self


def _stretches(flags):
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=int), [0]])))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]
