"""The fidelity of a model to the teacher: by class, label or target, or along the teacher's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sklearn_kd.style._style import Look, ink, looks_of, shown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# More groups than this are drawn as a curve without names.
MOST_NAMED = 20
# More names than this are set small, so that they do not overlap.
_FEW_NAMED = 12
# Number of groups of rows along the teacher's predictions, and the quantiles of the thin lines.
N_GROUPS = 10
_ENDS = (0.1, 0.9)
# Height over which the models' markers of a group are spread; a group has height 1.
_HEIGHT = 0.5


class GroupFidelity(NamedTuple):
    """The fidelity of a model to the teacher in each group of answers.

    Attributes
    ----------
    names : tuple of str
        Names of the groups: classes, labels or targets.
    values, errors : ndarray of shape (n_groups,)
        Agreement with the teacher or distance to it, and standard errors over the rows. NaN if unknown, or
        for a group without rows.
    label : str
        Description of the values.
    grouped_by : str
        Description of a group.
    """

    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    label: str
    grouped_by: str

    @classmethod
    def of_shares(cls, names: Any, same: np.ndarray, n_rows: Any, grouped_by: str) -> GroupFidelity:
        """Return the shares of rows with the teacher's answer.

        Parameters
        ----------
        names : sequence of labels
        same : ndarray of shape (n_groups,)
            Rows of the group with the teacher's answer.
        n_rows : ndarray of shape (n_groups,), or int
            Rows of the group.
        grouped_by : str
        """
        with np.errstate(invalid="ignore"):
            share = same / n_rows
            errors = np.sqrt(share * (1 - share) / n_rows)
        return cls(tuple(map(str, names)), share, errors, "agreement with the teacher", grouped_by)

    @staticmethod
    def draw_all(ax: Axes, by_role: Mapping[str, GroupFidelity]) -> dict[str, Line2D]:
        """Draw a row of markers for each group, or a curve for each model if there are many groups."""
        first = next(iter(by_role.values()))
        n_groups, looks = len(first.names), looks_of(by_role)
        is_named = n_groups <= MOST_NAMED
        draw = _draw_named if is_named else _draw_sorted
        places = np.linspace(-_HEIGHT / 2, _HEIGHT / 2, len(by_role)) if len(by_role) > 1 else [0.0]
        lines = {
            role: draw(ax, found, looks[role], role, place)
            for (role, found), place in zip(by_role.items(), places, strict=True)
        }
        if is_named:
            ax.set_yticks(range(n_groups), [shown_name(name) for name in first.names])
            ax.tick_params(axis="y", labelsize="small" if n_groups > _FEW_NAMED else "medium")
            ax.set_ylim(n_groups - 0.5, -0.5)
            ax.set_ylabel(first.grouped_by)
            ax.set_xlabel(first.label)
        else:
            ax.set_xlabel(f"{first.grouped_by}: share of the {n_groups:,}, each model's in order")
            ax.set_ylabel(first.label)
        return lines


def _draw_named(ax: Axes, found: GroupFidelity, look: Look, role: str, place: float) -> Line2D:
    where = np.arange(len(found.names)) + place
    errors = np.nan_to_num(found.errors)
    drawn = ax.errorbar(
        found.values, where, xerr=errors, **look.dot(), markersize=5, elinewidth=1, label=shown_name(role)
    )
    return drawn.lines[0]


def _draw_sorted(ax: Axes, found: GroupFidelity, look: Look, role: str, place: float) -> Line2D:
    values = np.sort(found.values[np.isfinite(found.values)])
    share = np.arange(1, len(values) + 1) / max(len(values), 1)
    every = max(1, len(values) // 10)
    (line,) = ax.plot(share, values, **look.line(), markersize=4, markevery=every, label=shown_name(role))
    return line


class PredictionFidelity(NamedTuple):
    """Differences between a model's and the teacher's predictions, in groups of similar predictions.

    Attributes
    ----------
    teacher : ndarray of shape (n_groups,)
        Mean prediction of the teacher in each group.
    difference : ndarray of shape (n_groups,)
        Mean difference, model minus teacher.
    low, high : ndarray of shape (n_groups,)
        The 10th and the 90th percentile of these differences.
    """

    teacher: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, answers: np.ndarray, of_teacher: np.ndarray) -> PredictionFidelity:
        """Group rows by the teacher's predictions. Both arguments have shape (n,)."""
        order, apart = np.argsort(of_teacher, kind="stable"), answers - of_teacher
        groups = np.array_split(order, min(N_GROUPS, len(order)))
        means = (np.array([values[rows].mean() for rows in groups]) for values in (of_teacher, apart))
        ends = np.array([np.quantile(apart[rows], _ENDS) for rows in groups]).T
        return cls(*means, *ends)

    @staticmethod
    def draw_all(ax: Axes, by_role: Mapping[str, PredictionFidelity]) -> dict[str, Line2D]:
        """Draw each model's mean differences, and thin lines that enclose four fifths of the rows."""
        ax.axhline(0, color=ink(), alpha=0.5, linewidth=1)
        lines, looks = {}, looks_of(by_role)
        for role, found in by_role.items():
            (lines[role],) = ax.plot(
                found.teacher, found.difference, **looks[role].line(), markersize=5, label=shown_name(role)
            )
            thin: dict[str, Any] = {"color": looks[role].color, "linestyle": looks[role].linestyle}
            for end in (found.low, found.high):
                ax.plot(found.teacher, end, **thin, linewidth=0.8, alpha=0.7)
        ax.set_xlabel("the teacher's prediction")
        ax.set_ylabel("prediction minus the teacher's")
        return lines


Fidelity = GroupFidelity | PredictionFidelity
