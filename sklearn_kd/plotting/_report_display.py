"""Draw a report, one panel for each question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sklearn_kd.plotting._panels import checked_panels, panel_axes
from sklearn_kd.report._picture import add_legend, draw_answers, draw_costs, draw_fidelity
from sklearn_kd.report._result import DistillationReport
from sklearn_kd.style._style import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from typing_extensions import Self

_COST_OF = {"time": "us_single", "batch": "us_batch", "size": "n_bytes"}
_ANSWERS = ("calibration", "errors")


class ReportDisplay:
    """Draw what a distilled student gained and what it costs, one panel for each question.

    A model has the same colour, marker and line style in all panels. Make a display with
    :meth:`from_report`. The panels are:

    - "time": the report's first measure (accuracy, R²) with its standard error, against the microseconds of a
      call with one row;
    - "batch": the same measure against the microseconds per row in calls of many rows;
    - "size": the same measure against the bytes of the model;
    - "calibration": the accuracy of the rows in each bin of confidence, and the expected calibration error.
      With several labels, the share of rows that have a label, in each bin of its probability;
    - "errors", for regressors in place of "calibration": the share of rows with an error of at most a given
      size;
    - "fidelity": the agreement with the teacher on the rows of each class, ± its standard error. With more
      than 20 classes it is a sorted curve. With several labels, the agreement on each label. For regressors,
      the prediction minus the teacher's, by the teacher's prediction: means of ten groups of rows, between
      thin lines for the 10th and 90th percentiles. With several targets, the distance to the teacher in each.

    Parameters
    ----------
    report : DistillationReport

    Attributes
    ----------
    panels_ : list of str
        Names of the panels that were drawn.
    axes_ : ndarray of matplotlib Axes, shape (n_panels,)
        In the order of ``panels_``.
    figure_ : matplotlib Figure
    lines_ : dict of {str: dict of {str: Line2D}}
        The marker of each model, or the line through its markers, by panel and role of the model, such as
        ``lines_["time"]["student"]``.

    See Also
    --------
    distillation_report : Makes the report.
    DistillationReport.plot : Draws two of the panels.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, ReportDisplay, distillation_report
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     GaussianNB(), MLPStudent, max_epochs=3, keep_teacher=True, random_state=0)
    >>> report = distillation_report(clf.fit(X[::2], y[::2]), X[1::2], y[1::2])
    >>> display = ReportDisplay.from_report(report)  # doctest: +SKIP
    >>> display.panels_  # doctest: +SKIP
    ['time', 'size', 'calibration', 'fidelity']
    """

    def __init__(self, report: DistillationReport):
        self.report = report

    @classmethod
    def from_report(
        cls,
        report: DistillationReport,
        *,
        panels: Iterable[str] | None = None,
        axes: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw a report.

        Parameters
        ----------
        report : DistillationReport
        panels : iterable of str or None, default=None
            Names of panels: "time", "batch", "size", "calibration" or "errors", "fidelity". None: all panels
            but "batch" for which the report has numbers.
        axes : matplotlib Axes, sequence of them or None, default=None
            One for each panel. None makes a new figure.

        Returns
        -------
        ReportDisplay

        Raises
        ------
        TypeError
            If ``report`` is not a DistillationReport.
        ValueError
            If a panel is unknown, the report lacks its numbers, or the numbers of axes and panels differ.
        ImportError
            If matplotlib is not installed.
        """
        if not isinstance(report, DistillationReport):
            raise TypeError(
                f"report={str(report)[:100]} must be a DistillationReport: give what "
                "distillation_report(...) returns."
            )
        return cls(report).plot(panels, axes)

    def plot(self, panels: Iterable[str] | None = None, axes: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        panels : iterable of str or None, default=None
            As in :meth:`from_report`.
        axes : matplotlib Axes, sequence of them or None, default=None
            One for each panel. None makes a new figure.

        Returns
        -------
        ReportDisplay
        """
        pyplot(type(self).__name__)
        missing = self._missing()
        drawn = checked_panels(panels, missing)
        # "batch" is drawn on request only: it looks much like "time".
        self.panels_ = [name for name in drawn if panels is not None or name != "batch"]
        self.axes_ = panel_axes(axes, self.panels_, width=4.5, height=3.7)
        self.figure_ = self.axes_[0].figure
        self.lines_: dict[str, dict[str, Line2D]] = {}
        for name, ax in zip(self.panels_, self.axes_, strict=True):
            self.lines_[name] = self._draw(name, ax)
        # The legend of the predictions' panel shows a number for each model.
        place = next((k for k, name in enumerate(self.panels_) if name in _ANSWERS), 0)
        handles, labels = self.axes_[place].get_legend_handles_labels()
        if axes is None:
            add_legend(self.figure_, handles, labels)
        else:
            self.axes_[place].legend(handles, labels, fontsize="small")
        return self

    def _draw(self, name: str, ax: Axes) -> dict[str, Line2D]:
        report = self.report
        if name in _COST_OF:
            return draw_costs(ax, report._models, report._words.measures[0], _COST_OF[name])
        if name == "fidelity":
            return draw_fidelity(ax, report._fidelity)
        return draw_answers(ax, report._panels, report._words)

    def _missing(self) -> dict[str, str | None]:
        """Return for each panel the reason why it cannot be drawn, or None."""
        models = self.report._models.values()
        untimed = None
        if all(numbers["us_single"] is None for numbers in models):
            untimed = "the report has no times: make it with timing=True"
        answers = "calibration" if self.report._words.probabilities else "errors"
        other = next(name for name in _ANSWERS if name != answers)
        of = "numbers" if answers == "errors" else "labels"
        return {
            "time": untimed,
            "batch": untimed,
            "size": None if any(numbers["n_bytes"] for numbers in models) else "the report has no sizes",
            answers: None,
            other: f"the report is about {of}: ask for {answers!r}",
            "fidelity": None
            if self.report._fidelity
            else "the report has no teacher: fit with keep_teacher=True, or give it teacher=",
        }
