"""The panels of a report's picture: a measure against a cost, the answers, the fidelity to the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sklearn_kd.report._fidelity import Fidelity
from sklearn_kd.report._panels import Panel
from sklearn_kd.report._words import Words
from sklearn_kd.style._style import looks_of, pyplot, shifted, shown_name, style_axes
from sklearn_kd.tasks._measures import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Shift, in points, of models whose markers would otherwise hide the student's, which costs the same.
_SHIFT = {"student alone": 7.0, "taught peer": 7.0}
# Ticks within a power of ten, by the ratio of the largest to the smallest cost below which they are drawn;
# the labels of more ticks would touch.
_TICKS = {10: (1, 2, 5), 100: (1, 3)}
# About so many inches of the legend are an entry's line, and a character of its text.
_LINE, _CHARACTER = 0.6, 0.075
COSTS = {
    "us_single": "µs for a single row",
    "us_batch": "µs per row, in calls of many rows",
    "n_bytes": "bytes",
}


def draw(models: dict[str, dict[str, Any]], panels: dict[str, Panel], words: Words) -> Figure:
    """Return a figure with two panels.

    Parameters
    ----------
    models : dict of dict
        Numbers by role.
    panels : dict of Panel
        By role.
    words : Words
    """
    plt = pyplot("plot")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    cost = "us_single" if models["student"]["us_single"] is not None else "n_bytes"
    draw_costs(left, models, words.measures[0], cost)
    draw_answers(right, panels, words)
    add_legend(figure, *right.get_legend_handles_labels())
    return figure


def add_legend(figure: Figure, handles: Iterable[Any], labels: list[str]) -> None:
    """Draw a legend above all panels."""
    entry = _LINE + _CHARACTER * max(map(len, labels))
    n_columns = max(1, min(3, len(labels), int(figure.get_figwidth() / entry)))
    figure.legend(handles, labels, loc="outside upper center", ncols=n_columns, frameon=False)


def draw_answers(ax: Axes, panels: Mapping[str, Panel], words: Words) -> dict[str, Line2D]:
    """Draw the reliability of probabilities or the sizes of errors; return the line of each model."""
    first, looks = next(iter(panels.values())), looks_of(panels)
    first.draw_frame(ax, panels)
    lines = {role: panel.draw(ax, role, looks[role]) for role, panel in panels.items()}
    ax.set_xlabel(words.panel[0])
    ax.set_ylabel(words.panel[1])
    style_axes(ax)
    return lines


def draw_fidelity(ax: Axes, fidelity: Mapping[str, Fidelity]) -> dict[str, Line2D]:
    """Draw the models' fidelity to the teacher; return the line of each."""
    first: Any = next(iter(fidelity.values()))
    style_axes(ax)
    return first.draw_all(ax, fidelity)


def draw_costs(ax: Axes, models: Mapping[str, dict[str, Any]], measure: str, cost: str) -> dict[str, Line2D]:
    """Draw a measure of each model against one of ``COSTS``; return the marker of each model.

    A model with unknown cost is a horizontal line.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    lines, looks = {}, looks_of(models)
    for role, numbers in models.items():
        look = looks[role]
        if numbers[cost] is None:  # only its answers are known
            style = {
                "color": look.color,
                "linestyle": look.linestyle,
                "linewidth": 1.2,
                "label": shown_name(role),
            }
            lines[role] = ax.axhline(numbers[measure], **style)
            continue
        place, error = (numbers[cost], numbers[measure]), numbers[f"{measure}_standard_error"]
        dot = look.dot() | {"markersize": 7, "label": shown_name(role)}
        lines[role] = ax.errorbar(
            *place, yerr=error, capsize=3, transform=shifted(ax, _SHIFT.get(role, 0)), **dot
        ).lines[0]
        ax.update_datalim([(place[0], place[1] - error), (place[0], place[1] + error)])
    ax.set_xscale("log")
    ax.autoscale_view()
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.5, high * 1.5)
    subs = next((ticks for many, ticks in _TICKS.items() if high / low < many), (1,))
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(EngFormatter("B") if cost == "n_bytes" else "{x:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(COSTS[cost])
    ax.locator_params(axis="y", nbins=6)
    ax.set_ylabel(f"{MEASURES[measure].title}, ± standard error")
    style_axes(ax)
    return lines
