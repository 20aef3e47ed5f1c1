"""A distillation process as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.style._style import checked_axes, ink, pyplot, series_look, shown_name, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from typing_extensions import Self

    from sklearn_kd.estimators._distpro import DistProClassifier
    from sklearn_kd.estimators._distpro_regressor import DistProRegressor

# By transform, in the order of their first appearance.
_LINE_STYLES = ("-", "--", ":", "-.")
_LOGIT_TERM = ("lambda1", "temperature T")
# Outputs that a legend names; more would hide the lines.
_MOST_NAMED = 10


class ProcessDisplay:
    """Draw the weight of each pathway over a search, in one panel for each teacher stage.

    Other learned metaparameters, such as lambda1 and T, have one panel each after these.

    Colours and markers stand for the student's stages, line styles for the transforms (Deng et al., Fig. 6).
    The legend in the panel of the last teacher stage names the lines of all panels. Make a display with
    :meth:`from_estimator` or :meth:`from_process`.

    Parameters
    ----------
    process : DistillationProcess

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One for each teacher stage, in order, then one for each other learned metaparameter.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each pathway, in their order.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_kd import DistillationProcess, Pathway, ProcessDisplay
    >>> pathways = [Pathway(f"layer{i}", "layer1", "conv1", i, 0, 16, 16) for i in range(2)]
    >>> process = DistillationProcess(np.linspace([1, 1], [0, 3], 50), pathways)
    >>> display = ProcessDisplay.from_process(process)  # doctest: +SKIP
    """

    def __init__(self, process: DistillationProcess):
        self.process = process

    @classmethod
    def from_estimator(
        cls,
        estimator: DistProClassifier | DistProRegressor,
        *,
        axes: Sequence[Axes] | None = None,
        **line_kw: Any,
    ) -> Self:
        """Draw the process of a fitted estimator.

        Parameters
        ----------
        estimator : DistProClassifier or DistProRegressor
            Fitted, with a process.
        axes : sequence of matplotlib Axes or None, default=None
            One for each panel; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay

        Raises
        ------
        ValueError
            If the estimator followed no process.
        """
        check_is_fitted(estimator, "process_")
        if estimator.process_ is None:
            raise ValueError("The estimator has followed no process: weights='equal' needs none.")
        return cls.from_process(estimator.process_, axes=axes, **line_kw)

    @classmethod
    def from_process(
        cls, process: DistillationProcess, *, axes: Sequence[Axes] | None = None, **line_kw: Any
    ) -> Self:
        """Draw a process.

        Parameters
        ----------
        process : DistillationProcess
        axes : sequence of matplotlib Axes or None, default=None
            One for each panel; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay
        """
        if not isinstance(process, DistillationProcess):
            raise TypeError(
                f"process={str(process)[:100]} must be a DistillationProcess. MetaparameterPathDisplay draws "
                "a MetaparameterProcess, and DistillationProcess.load reads a file."
            )
        return cls(process).plot(axes, **line_kw)

    def plot(self, axes: Sequence[Axes] | None = None, **line_kw: Any) -> Self:
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes or None, default=None
            One for each panel; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay

        Raises
        ------
        ValueError
            If there are not as many axes as panels.
        """
        pathways, further = self.process.pathways, _of_outputs(self.process)
        stages = sorted({pathway.teacher_stage for pathway in pathways})
        self.axes_, self.lines_ = _panels(axes, len(stages), list(further)), []
        self.figure_ = self.axes_[0].figure
        transforms = list(dict.fromkeys(pathway.transform for pathway in pathways))
        for pathway, weight in zip(pathways, self.process.weights.T, strict=True):
            ax = self.axes_[stages.index(pathway.teacher_stage)]
            look = series_look(pathway.student_stage)
            style = {
                "color": look.color,
                "marker": look.marker,
                "markevery": _every(len(weight)),
                "markersize": 4,
                "linestyle": _LINE_STYLES[transforms.index(pathway.transform) % len(_LINE_STYLES)],
                "label": f"{shown_name(pathway.student_layer, keep='end')}, {pathway.transform}",
            }
            self.lines_ += ax.plot(np.arange(len(weight)), weight, **(style | line_kw))
            ax.set_title(f"teacher: {shown_name(pathway.teacher_layer, keep='end')}")
        self.axes_[0].set_ylabel("weight of the pathway")
        # Some pathways lead to one teacher stage only: one legend names the lines of all panels.
        named: dict[str, Line2D] = {}
        for line in self.lines_:
            named.setdefault(str(line.get_label()), line)
        last = self.axes_[len(stages) - 1]
        last.legend([*named.values()], [*named], fontsize="small", title="student")
        for ax, (title, values) in zip(self.axes_[len(stages) :], further.items(), strict=True):
            _draw_columns(ax, values, line_kw)
            ax.set_title(title)
        for ax in self.axes_:
            ax.set_xlabel("step of the search")
            style_axes(ax)
        return self


def _every(n_steps: int) -> int:
    """Return after how many steps a line has a marker: some eight are seen."""
    return max(1, n_steps // 8)


def _draw_columns(ax: Axes, values: np.ndarray, line_kw: dict[str, Any]) -> None:
    """Draw one line in the colour of text, or one for each of several outputs, which a legend names."""
    columns = values.reshape(len(values), -1).T
    several = len(columns) > 1
    for k, column in enumerate(columns):
        look = series_look(k)
        style: dict[str, Any] = {"color": ink()}
        if several:
            style = {"color": look.color, "linestyle": look.linestyle, "label": f"output {k}"}
        ax.plot(np.arange(len(column)), column, **(style | line_kw))
    if 1 < len(columns) <= _MOST_NAMED:
        ax.legend(fontsize="small")


def _of_outputs(process: DistillationProcess) -> dict[str, np.ndarray]:
    """Return what was learned of the loss on the outputs, by title: one row per step, a line per column."""
    if process.output_term is not None:
        return dict(process.output_term.values)
    term = process.logit_term
    return {} if term is None else dict(zip(_LOGIT_TERM, term.T, strict=True))


def _panels(axes: Any, n_stages: int, further: Sequence[str]) -> np.ndarray:
    """Return the axes, new ones if None: those of the stages have one scale."""
    plt = pyplot("ProcessDisplay")
    n = n_stages + len(further)
    if axes is None:
        _, axes = plt.subplots(1, n, squeeze=False, figsize=(3.2 * n + 1.5, 3), layout="constrained")
        for ax in axes[0, 1:n_stages]:
            ax.sharey(axes[0, 0])
            ax.tick_params(labelleft=False)
    axes = checked_axes(axes)
    if len(axes) != n:
        more = "" if not further else f", and {len(further)} more are for {' and '.join(further)}"
        raise ValueError(f"axes has {len(axes)} panels; the pathways have {n_stages} teacher stages{more}.")
    return axes
