"""A distillation process as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_kd._distillation_process import DistillationProcess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Self

    from sklearn_kd._distpro import DistProClassifier

# By transform, in the order of their first appearance.
_LINE_STYLES = ("-", "--", ":", "-.")


class ProcessDisplay:
    """The weight of each pathway over a search: one panel for each teacher stage.

    Colours are the student's stages, line styles the transforms (Deng et al., Fig. 6). Make a
    display with :meth:`from_estimator` or :meth:`from_process`.

    Parameters
    ----------
    process : DistillationProcess

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One for each teacher stage, in their order.
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
        cls, estimator: DistProClassifier, *, axes: Sequence[Axes] | None = None, **line_kw: Any
    ) -> Self:
        """Draw the process of a fitted estimator.

        Parameters
        ----------
        estimator : DistProClassifier
            Fitted, with a process.
        axes : sequence of matplotlib Axes or None, default=None
            One for each teacher stage; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay

        Raises
        ------
        ValueError
            If there was no process to follow.
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
            One for each teacher stage; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay
        """
        return cls(process).plot(axes, **line_kw)

    def plot(self, axes: Sequence[Axes] | None = None, **line_kw: Any) -> Self:
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes or None, default=None
            One for each teacher stage; None makes a new figure.
        **line_kw
            For matplotlib's ``plot``.

        Returns
        -------
        ProcessDisplay

        Raises
        ------
        ValueError
            If there are not as many axes as teacher stages.
        """
        import matplotlib.pyplot as plt

        pathways = self.process.pathways
        stages = sorted({pathway.teacher_stage for pathway in pathways})
        if axes is None:
            size = 3.2 * len(stages) + 1.5, 3
            _, panels = plt.subplots(
                1, len(stages), sharey=True, squeeze=False, figsize=size, layout="constrained"
            )
        else:
            panels = np.asarray(axes)
        self.axes_, self.lines_ = panels.ravel(), []
        if len(self.axes_) != len(stages):
            raise ValueError(
                f"axes has {len(self.axes_)} panels; the pathways have {len(stages)} teacher stages."
            )
        self.figure_ = self.axes_[0].figure
        transforms = list(dict.fromkeys(pathway.transform for pathway in pathways))
        for pathway, weight in zip(pathways, self.process.weights.T, strict=True):
            ax = self.axes_[stages.index(pathway.teacher_stage)]
            style = {
                "color": f"C{pathway.student_stage}",
                "linestyle": _LINE_STYLES[transforms.index(pathway.transform) % len(_LINE_STYLES)],
                "label": f"{pathway.student_layer}, {pathway.transform}",
            }
            self.lines_ += ax.plot(np.arange(len(weight)), weight, **style | line_kw)
            ax.set_title(f"teacher: {pathway.teacher_layer}")
            ax.set_xlabel("step of the search")
        self.axes_[0].set_ylabel("weight of the pathway")
        self.axes_[-1].legend(fontsize="small", title="student")
        return self
