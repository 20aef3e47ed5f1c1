"""Draw the panels of a comparison's picture: differences from the baseline, and score against cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_kd.style._style import Look, ink, series_look, shifted, shown_name, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Methods whose costs differ by less than this share, as in one batched run, would hide each other: they are
# drawn side by side, this many points apart.
_SAME_COST, _SHIFT = 0.01, 6.0
# Costs are drawn on a logarithmic scale if the largest is more than this many times the smallest.
_MANY_TIMES = 10

# Of a method's name and of the label below the axes together; longer labels have two lines.
_CHARACTERS = 72


def looks_of_methods(methods: Sequence[str]) -> dict[str, Look]:
    """Return the look of each method, by its position."""
    return {method: series_look(k) for k, method in enumerate(methods)}


def draw_differences(
    ax: Axes,
    summary: np.ndarray,
    scores: Mapping[str, np.ndarray],
    baseline: str,
    title: str,
    shown: Callable[[float], str],
) -> dict[str, Line2D]:
    """Draw the differences from the baseline with their intervals; return the marker of each method.

    Intervals that exclude zero are thick, and their markers are filled.

    Parameters
    ----------
    ax : matplotlib Axes
    summary : structured array of shape (n_methods,)
        A result of ``MethodComparison.summary``.
    scores : mapping of str to ndarray of shape (n_folds,)
        Means over the seeds of each fold, by method.
    baseline : str
    title : str
        Title of the measure.
    shown : callable
        Returns a mean as text.
    """
    looks = looks_of_methods(list(scores))
    others = summary[summary["method"] != baseline]
    lines = {}
    style_axes(ax, grid="x")
    ax.axvline(0, color=ink(), alpha=0.7, linewidth=1, zorder=1)
    for place, row in enumerate(others):
        method, color = str(row["method"]), looks[row["method"]].color
        folds = scores[method] - scores[baseline]
        spread = place + np.linspace(-0.22, 0.22, len(folds)) if len(folds) > 1 else [place]
        ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=_width(row), zorder=3)
        dots: dict[str, Any] = {"s": 20, "color": color, "alpha": 0.5, "linewidth": 0, "zorder": 2}
        ax.scatter(folds, spread, **dots)
        dot = looks[method].dot() | _face(row, color, ax)
        (lines[method],) = ax.plot(row["difference"], place, **dot, markersize=9, zorder=5)
    names = [f"{shown_name(row['method'])}  ({shown(row['mean'])})" for row in others]
    ax.set_yticks(range(len(others)), names)
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.spines["left"].set_visible(False)
    mean = shown(summary["mean"][summary["method"] == baseline][0])
    parts = f"difference in {title} to {shown_name(baseline)} ({mean}),", "with 95 % interval"
    room = _CHARACTERS - max(map(len, names))
    ax.set_xlabel((" " if len(" ".join(parts)) <= room else "\n").join(parts))
    return lines


def draw_scores(
    ax: Axes, summary: np.ndarray, costs: Mapping[str, float], baseline: str, title: str, cost: str
) -> dict[str, Line2D]:
    """Draw the mean score of each method against its cost; return the marker of each method.

    The bars are the intervals of the paired differences, shifted to the baseline's mean: a bar that crosses
    the line of the baseline is an interval that includes zero.

    Parameters
    ----------
    ax : matplotlib Axes
    summary : structured array of shape (n_methods,)
    costs : mapping of str to float
    baseline : str
    title, cost : str
        Labels of the axes.
    """
    looks, lines = looks_of_methods(summary["method"].tolist()), {}
    level = summary["mean"][summary["method"] == baseline][0]
    ax.axhline(level, color=ink(), alpha=0.7, linewidth=1, zorder=1)
    for row in summary:
        method = str(row["method"])
        look, ends = looks[method], [level + row["low"], level + row["high"]]
        own = costs[method]
        same = [other for other in costs if other == method or abs(costs[other] - own) < _SAME_COST * own]
        place = shifted(ax, _SHIFT * (same.index(method) - (len(same) - 1) / 2))
        bar: dict[str, Any] = {"color": look.color, "linewidth": _width(row), "transform": place}
        ax.plot([costs[method]] * 2, ends, **bar, zorder=3)
        face = {} if method == baseline else _face(row, look.color, ax)
        dot = (
            look.dot()
            | face
            | {"markersize": 9, "label": shown_name(method), "zorder": 5, "transform": place}
        )
        (lines[method],) = ax.plot(costs[method], row["mean"], **dot)
        known = [value for value in (*ends, row["mean"]) if np.isfinite(value)]
        ax.update_datalim([(costs[method], value) for value in known])
    if max(costs.values()) > _MANY_TIMES * min(costs.values()) > 0:
        ax.set_xscale("log")
    ax.margins(x=0.1)
    ax.autoscale_view()
    ax.set_xlabel(cost)
    ax.set_ylabel(f"{title} (line: {shown_name(baseline)})")
    style_axes(ax)
    ax.legend(fontsize="small")
    return lines


def _is_clear(row: np.void) -> bool:
    return bool(row["low"] > 0 or row["high"] < 0)


def _width(row: np.void) -> float:
    return 2.6 if _is_clear(row) else 1.3


def _face(row: np.void, color: str, ax: Axes) -> dict[str, Any]:
    """Return the face of a marker: filled if the difference is clear."""
    return {"markerfacecolor": color if _is_clear(row) else ax.get_facecolor(), "markeredgewidth": 1.6}
