"""Draw a comparison of methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sklearn_kd.comparison._result import MethodComparison
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.plotting._panels import checked_panels, panel_axes
from sklearn_kd.style._style import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from typing_extensions import Self


class ComparisonDisplay:
    """Draw compared methods: their paired differences, and their scores against their cost.

    A method has the same colour and marker in both panels. Make a display with :meth:`from_comparison`.

    - "differences": the mean difference of each method from the baseline, its 95 % interval by the corrected
      resampled t-test, and the difference in each fold as a small dot;
    - "cost": the mean score of each method against the mean seconds of a fit. The bars are the intervals of
      the same paired differences, drawn around the baseline's mean, which is the horizontal line. Compare
      each method with that line only: two methods whose bars overlap may still differ.

    An interval that excludes zero is thick, and its marker is filled. The p-values behind it are not
    corrected for the number of methods.

    Parameters
    ----------
    comparison : MethodComparison
    metric : str or None, default=None
        One of the comparison's ``metrics_``. None: the first of them.

    Attributes
    ----------
    panels_ : list of str
        Names of the panels that were drawn.
    axes_ : ndarray of matplotlib Axes, shape (n_panels,)
        In the order of ``panels_``.
    figure_ : matplotlib Figure
    lines_ : dict of {str: dict of {str: Line2D}}
        The marker of each method by panel, such as ``lines_["cost"]["linear"]``.

    See Also
    --------
    compare_methods : Makes the comparison.
    MethodComparison.plot : Draws the differences alone.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_kd import ComparisonDisplay, MethodComparison
    >>> runs = np.array(
    ...     [(m, fold, 0, 90, 10, 0.8 + 0.01 * fold + 0.02 * fold * (m == "b"), 1.0 + (m == "b"))
    ...      for m in "ab" for fold in range(10)],
    ...     dtype=[("method", "U1"), ("fold", int), ("seed", int), ("n_train", int),
    ...            ("n_test", int), ("accuracy", float), ("fit_seconds", float)])
    >>> comparison = MethodComparison(runs, baseline="a")
    >>> display = ComparisonDisplay.from_comparison(comparison)  # doctest: +SKIP
    >>> display.lines_["cost"]["b"].get_xdata()  # doctest: +SKIP
    [2.0]
    """

    def __init__(self, comparison: MethodComparison, *, metric: str | None = None):
        self.comparison = comparison
        self.metric = metric

    @classmethod
    def from_comparison(
        cls,
        comparison: MethodComparison,
        *,
        metric: str | None = None,
        panels: Iterable[str] | None = None,
        axes: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw a comparison.

        Parameters
        ----------
        comparison : MethodComparison
        metric : str or None, default=None
            One of the comparison's ``metrics_``. None: the first of them.
        panels : iterable of str or None, default=None
            Names of panels: "differences", "cost". None: both, or the first if there are no ``fit_seconds``.
        axes : matplotlib Axes, sequence of them or None, default=None
            One for each panel. None makes a new figure.

        Returns
        -------
        ComparisonDisplay

        Raises
        ------
        TypeError
            If ``comparison`` is not a MethodComparison.
        ValueError
            If the metric or a panel is unknown, there is only the baseline, or the numbers of axes and panels
            differ.
        ImportError
            If matplotlib is not installed.
        """
        if not isinstance(comparison, MethodComparison):
            raise TypeError(
                f"comparison={str(comparison)[:100]} must be a MethodComparison: give what "
                "compare_methods(...) returns."
            )
        return cls(comparison, metric=metric).plot(panels, axes)

    def plot(self, panels: Iterable[str] | None = None, axes: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        panels : iterable of str or None, default=None
            Names of panels: "differences", "cost". None: both, or the first if there are no ``fit_seconds``.
        axes : matplotlib Axes, sequence of them or None, default=None
            One for each panel. None makes a new figure.

        Returns
        -------
        ComparisonDisplay
        """
        pyplot(type(self).__name__)
        comparison = self.comparison
        comparison._refuse_one_method()
        metric = self._checked_metric()
        timed = "fit_seconds" in (comparison.results_.dtype.names or ())
        untimed = None if timed else "the comparison's results_ have no fit_seconds"
        self.panels_ = checked_panels(panels, {"differences": None, "cost": untimed})
        height = max(3.6, 1.4 + 0.5 * len(comparison.methods_))
        self.axes_ = panel_axes(axes, self.panels_, width=5.5, height=height)
        self.figure_ = self.axes_[0].figure
        draws = {"differences": comparison._draw_differences, "cost": comparison._draw_scores}
        self.lines_: dict[str, dict[str, Line2D]] = {
            name: draws[name](ax, metric) for name, ax in zip(self.panels_, self.axes_, strict=True)
        }
        return self

    def _checked_metric(self) -> str:
        known = self.comparison.metrics_
        if self.metric is not None and self.metric not in known:
            hint = did_you_mean(self.metric, known)
            raise ValueError(f"metric={self.metric!r} is not one of {known}.{hint}")
        return known[0] if self.metric is None else self.metric
