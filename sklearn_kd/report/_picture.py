"""The report as a picture: accuracy against cost, and reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_kd.report._scores import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"teacher": "C1", "student": "C0", "student alone": "0.45"}
_MARKERS = {"teacher": "D", "student": "o", "student alone": "s"}
# Students that cost the same would hide each other: these are shifted by so many points.
_SHIFT = {"student alone": 7.0}
# Bins of fewer rows, or of a smaller share of them, are faint and no line goes through them.
_FEW_ROWS, _SMALL_SHARE = 10, 0.01
_COSTS = {"us_single": "µs for a single row", "n_bytes": "bytes"}


def draw(models: dict[str, dict[str, Any]], bins: dict[str, Bins]) -> Figure:
    """Return a figure of two panels.

    Parameters
    ----------
    models : dict of dict
        Numbers by role.
    bins : dict of Bins
        By role.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    _draw_costs(left, models)
    _draw_reliability(right, bins)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_costs(ax: Axes, models: dict[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter
    from matplotlib.transforms import ScaledTranslation

    cost = next((c for c in _COSTS if models["student"][c] is not None), "n_bytes")
    for role, numbers in models.items():
        if numbers[cost] is None:  # only its accuracy is known
            ax.axhline(numbers["accuracy"], color=_COLORS[role], linestyle="--", linewidth=1.2)
            continue
        place, error = (numbers[cost], numbers["accuracy"]), numbers["accuracy_standard_error"]
        inches = _SHIFT.get(role, 0) / 72
        shifted = ax.transData + ScaledTranslation(inches, 0, ax.figure.dpi_scale_trans)
        ax.errorbar(*place, yerr=error, color=_COLORS[role], fmt=_MARKERS[role], capsize=3, transform=shifted)
        ax.update_datalim([(place[0], place[1] - error), (place[0], place[1] + error)])
    ax.set_xscale("log")
    ax.autoscale_view()
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.5, high * 1.5)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(_COSTS[cost])
    ax.locator_params(axis="y", nbins=6)
    ax.set_ylabel("accuracy, ± standard error")


def _draw_reliability(ax: Axes, bins: dict[str, Bins]) -> None:
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for role, found in bins.items():
        shares = found.n_rows / found.n_rows.sum()
        clear = (found.n_rows >= _FEW_ROWS) & (shares >= _SMALL_SHARE)
        label = f"{role} (ECE {found.calibration_error:.3f})"
        color, marker = _COLORS[role], _MARKERS[role]
        ax.plot(
            found.confidence[clear],
            found.accuracy[clear],
            color=color,
            marker=marker,
            markersize=4,
            label=label,
        )
        for part, alpha in ((clear, 0.5), (~clear & (found.n_rows > 0), 0.35)):
            area = np.maximum(160 * shares[part], 8)
            ax.scatter(
                found.confidence[part], found.accuracy[part], s=area, color=color, alpha=alpha, linewidth=0
            )
    ax.set_xlim(0, 1.02)
    ax.set_ylim(-0.02, 1.04)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy of the rows")
