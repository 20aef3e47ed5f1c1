"""The report as a picture: its first measure against the cost, and the panel of its form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sklearn_kd.report._panels import Panel
from sklearn_kd.report._words import Words
from sklearn_kd.tasks._measures import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"teacher": "C1", "student": "C0", "student alone": "0.45", "peer": "C2", "taught peer": "C4"}
_MARKERS = {"teacher": "D", "student": "o", "student alone": "s", "peer": "^", "taught peer": "v"}
_OTHER_COLORS, _OTHER_MARKERS = ("C5", "C6", "C8", "C9"), ("P", "X", "*", "h")
# Students that cost the same would hide each other: these are shifted by so many points.
_SHIFT = {"student alone": 7.0, "taught peer": 7.0}
# Ticks within a power of ten, where the largest cost is less than so many times the smallest: the labels of
# more would touch.
_TICKS = {10: (1, 2, 5), 100: (1, 3)}
# Longer entries of the legend fill the figure's width with two columns.
_LONG_LABEL = 32
_COSTS = {"us_single": "µs for a single row", "n_bytes": "bytes"}


def draw(models: dict[str, dict[str, Any]], panels: dict[str, Panel], words: Words) -> Figure:
    """Return a figure of two panels.

    Parameters
    ----------
    models : dict of dict
        Numbers by role.
    panels : dict of Panel
        By role.
    words : Words
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    styles = _styles(models)
    _draw_costs(left, models, styles, words.measures[0])
    first = next(iter(panels.values()))
    first.draw_frame(right, panels)
    for role, panel in panels.items():
        panel.draw(right, role, *styles[role])
    right.set_xlabel(words.panel[0])
    right.set_ylabel(words.panel[1])
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
    handles, labels = right.get_legend_handles_labels()
    n_columns = min(2 if max(map(len, labels)) > _LONG_LABEL else 3, len(labels))
    figure.legend(handles, labels, loc="outside upper center", ncols=n_columns, frameon=False)
    return figure


def _styles(roles: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the color and the marker of each role; users name peers of their own."""
    others = [role for role in roles if role not in _COLORS]
    known = {role: (_COLORS[role], _MARKERS[role]) for role in _COLORS}
    n = len(_OTHER_COLORS)
    return known | {role: (_OTHER_COLORS[k % n], _OTHER_MARKERS[k % n]) for k, role in enumerate(others)}


def _draw_costs(
    ax: Axes, models: dict[str, dict[str, Any]], styles: dict[str, tuple[str, str]], measure: str
) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
    from matplotlib.transforms import ScaledTranslation

    cost = next((c for c in _COSTS if models["student"][c] is not None), "n_bytes")
    for role, numbers in models.items():
        color, marker = styles[role]
        if numbers[cost] is None:  # only its answers are known
            ax.axhline(numbers[measure], color=color, linestyle="--", linewidth=1.2)
            continue
        place, error = (numbers[cost], numbers[measure]), numbers[f"{measure}_standard_error"]
        inches = _SHIFT.get(role, 0) / 72
        shifted = ax.transData + ScaledTranslation(inches, 0, ax.figure.dpi_scale_trans)
        ax.errorbar(*place, yerr=error, color=color, fmt=marker, capsize=3, transform=shifted)
        ax.update_datalim([(place[0], place[1] - error), (place[0], place[1] + error)])
    ax.set_xscale("log")
    ax.autoscale_view()
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.5, high * 1.5)
    subs = next((ticks for many, ticks in _TICKS.items() if high / low < many), (1,))
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(EngFormatter("B") if cost == "n_bytes" else "{x:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(_COSTS[cost])
    ax.locator_params(axis="y", nbins=6)
    ax.set_ylabel(f"{MEASURES[measure].title}, ± standard error")
