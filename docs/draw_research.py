"""Draw the pictures of the pages of measurements from the records beside the scripts.

How often a hypergradient has the right sign (``horizon``), accuracy against trainings (``which_method``),
and accuracy against time and size (``side_by_side``). Run this script after one of the records has changed; a
test fails until then::

    python docs/draw_research.py

It writes two files for each picture into ``docs/_static``, for light and for dark pages. Shapes and dashes
tell things apart as well as colours do, so the pictures can be read in grey.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from math import log10
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "examples" / "evidence"))
sys.path.append(str(Path(__file__).parents[1] / "examples" / "benchmarks"))
import horizon_figure
import search_then_retrain
import side_by_side
from draw_landing import DARK, LIGHT, text

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"

Colors = dict[str, str]
MORE = {"learned": "#009e73", "other": "#cc79a7"}


class Chart(NamedTuple):
    """A rectangle with two scales; ``up`` is linear.

    Attributes
    ----------
    left, top, width, height : float
        Of the rectangle, in the picture's pixels.
    x, y : pair of float
        Ends of the scales.
    is_log : bool
        Whether the horizontal scale is logarithmic.
    """

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = True

    def across(self, value: float) -> float:
        """Return the horizontal place of a value."""
        first, last, value = map(log10, (*self.x, value)) if self.is_log else (*self.x, value)
        return self.left + (value - first) / (last - first) * self.width

    def up(self, value: float) -> float:
        """Return the vertical place of a value."""
        low, high = self.y
        return self.top + self.height - (value - low) / (high - low) * self.height

    def frame(
        self,
        colors: Colors,
        x_ticks: dict[float, str],
        y_ticks: dict[float, str],
        x_label: str,
        y_label: str = "",
        title: str = "",
    ) -> list[str]:
        """Return grid lines, ticks and labels."""
        drawn = []
        bottom, right = self.top + self.height, self.left + self.width
        for value, said in y_ticks.items():
            y = self.up(value)
            drawn.append(f'<path d="M{self.left:.1f} {y:.1f}H{right:.1f}" stroke="{colors["grid"]}"/>')
            drawn.append(text(self.left - 7, y + 4.5, said, "end"))
        drawn += [text(self.across(value), bottom + 19, said) for value, said in x_ticks.items()]
        drawn.append(text(self.left + self.width / 2, bottom + 40, x_label))
        if title:
            drawn.append(text(self.left, self.top - 9, title, "start", ' font-weight="bold"'))
        if y_label:
            x, y = self.left - 50, self.top + self.height / 2
            drawn.append(text(x, y, y_label, extra=f' transform="rotate(-90 {x:.1f} {y:.1f})"'))
        return drawn

    def bar(self, x: float, low: float, high: float, color: str) -> str:
        """Return the bar of an error at a horizontal place."""
        first, last = self.up(low), self.up(high)
        return f'<path d="M{x:.1f} {first:.1f}V{last:.1f}" stroke="{color}" stroke-width="1.5"/>'

    def line(self, points: Sequence[tuple[float, float]], color: str, dashes: str = "") -> str:
        """Return a line through points."""
        places = " ".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>'


def mark(shape: str, x: float, y: float, color: str, scale: float = 1.0) -> str:
    """Return a mark: "square", "circle", "ring", "triangle" or "diamond"."""
    r = 6 * scale
    if shape == "square":
        size = f'width="{2 * r:.1f}" height="{2 * r:.1f}"'
        return f'<rect x="{x - r:.1f}" y="{y - r:.1f}" {size} fill="{color}"/>'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{color}"/>'
    if shape == "ring":
        stroke = f'stroke="{color}" stroke-width="{2.5 * scale:.1f}"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 * scale:.1f}" fill="none" {stroke}/>'
    if shape == "triangle":
        return f'<path d="M{x:.1f} {y - r:.1f}l{r:.1f} {1.8 * r:.1f}h{-2 * r:.1f}z" fill="{color}"/>'
    return (
        f'<path d="M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z" fill="{color}"/>'
    )


def picture(width: int, height: int, drawn: list[str], colors: Colors) -> str:
    """Return an SVG."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{colors["ink"]}">',
        f'<rect width="{width}" height="{height}" fill="{colors["paper"]}"/>',
    )
    return "\n".join([*head, *drawn, "</svg>"]) + "\n"


# --------------------------------------------------------------------------------------
# How far ahead to look

# What is drawn: the key of the record, its name, mark, colour and dashes.
SIGNS = (
    ("loss", "measured after k iterations", "circle", "student", ""),
    ("greedy", "promised by greedy", "ring", "alone", "6 4"),
)


def sign_shares(record: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return by group and by quantity how often the sign is that of the end, by horizon."""
    return {
        name: {key: horizon_figure.right_signs(record, task, training, key)[0] for key, *_ in SIGNS}
        for task, training, name in horizon_figure.GROUPS
    }


def horizon(colors: Colors) -> str:
    """Return the picture of how often the sign is right."""
    record = read("evidence/horizon.json")
    names = ["1", "5", "20", "1 ep.", "3 ep.", "end"]
    assert len(names) == len(record["settings"]["horizons"])
    drawn = []
    for place, (_, said, shape, color, dashes) in enumerate(SIGNS):
        x = 46 + 250 * place
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        drawn.append(f'<path d="M{x} 18h34" stroke="{colors[color]}" stroke-width="2"{dashed}/>')
        drawn += [mark(shape, x + 17, 18, colors[color], 0.8), text(x + 42, 22.5, said, "start")]
    drawn.append(f'<path d="M500 18h34" stroke="{colors["ink"]}" stroke-width="1.5" stroke-dasharray="2 3"/>')
    drawn.append(text(542, 22.5, "chance", "start"))
    for k, (name, shares) in enumerate(sign_shares(record).items()):
        chart = Chart(46 + 228 * k, 66, 210, 190, (-0.3, 5.3), (0.0, 1.0), is_log=False)
        y_ticks = {share: f"{share:.0%}" if k == 0 else "" for share in (0, 0.25, 0.5, 0.75, 1)}
        drawn += chart.frame(colors, dict(enumerate(names)), y_ticks, "iterations ahead", title=name)
        chance = [(-0.3, 0.5), (5.3, 0.5)]
        drawn.append(chart.line(chance, colors["ink"], "2 3").replace('width="2"', 'width="1.5"'))
        for key, _, shape, color, dashes in SIGNS:
            drawn.append(chart.line(list(enumerate(shares[key])), colors[color], dashes))
            places = ((chart.across(x), chart.up(share)) for x, share in enumerate(shares[key]))
            drawn += [mark(shape, *place, colors[color], 0.8) for place in places]
    return picture(720, 306, drawn, colors)


# --------------------------------------------------------------------------------------
# Which method

# Method of the record → mark, colour, side of its name, and its shift, where another costs the same.
METHODS = {
    "none": ("diamond", "alone", "left", -5),
    "naive": ("ring", "student", "left", 5),
    "none, twice the epochs": ("diamond", "alone", "right", 0),
    "linear": ("triangle", "learned", "below", 0),
    "half, process, auto": ("triangle", "learned", "left", 0),
    "twins": ("triangle", "other", "left", 0),
    "shortlist": ("circle", "student", "right", 0),
    "grid": ("square", "teacher", "right", 0),
    "grid or none, auto": ("square", "teacher", "left", 0),
}
NAMES = {"shortlist": "shortlist, the default"}


def costs_and_gains() -> dict[str, tuple[float, float, float]]:
    """Return trainings, accuracy minus the grid's and its standard error over the tasks, by method."""
    comparison = search_then_retrain.Comparison(read("evidence/search_then_retrain.json")["runs"])
    return {
        method: (comparison.mean(method, "trainings"), *comparison.over(method, comparison.tasks))
        for method in METHODS
    }


def which_method(colors: Colors) -> str:
    """Return the picture of accuracy against the number of trainings."""
    chart = Chart(74, 16, 630, 290, (0.55, 45.0), (-0.055, 0.025))
    x_ticks = {float(n): str(n) for n in (1, 2, 5, 10, 20)}
    y_ticks = {value: f"{value:+.2f}".replace("-", "−") for value in (-0.04, -0.02, 0.02)} | {0.0: "0"}
    drawn = chart.frame(
        colors, x_ticks, y_ticks, "trainings (logarithmic)", "accuracy − grid, mean of 19 tasks"
    )
    for method, (n, gain, error) in costs_and_gains().items():
        shape, color, side, shift = METHODS[method]
        x, y = chart.across(n) + shift, chart.up(gain)
        if error > 0:
            drawn.append(chart.bar(x, gain - error, gain + error, colors[color]))
        drawn.append(mark(shape, x, y, colors[color]))
        bold = ' font-weight="bold"' if method == "shortlist" else ""
        places = {
            "left": (x - 10 - max(shift, 0), y + 4.5, "end"),
            "right": (x + 10, y + 4.5, "start"),
            "below": (x, chart.up(gain - error) + 15, "middle"),
        }
        right, down, anchor = places[side]
        drawn.append(text(right, down, NAMES.get(method, method), anchor, bold))
    return picture(720, 356, drawn, colors)


# --------------------------------------------------------------------------------------
# Side by side

# Name in the picture → arm whose accuracy it is, network whose time and size it is, mark, colour.
MODELS = {
    "teacher, a forest": (("the teacher", False), "the teacher", "square", "teacher"),
    "student": (("shortlist", True), "linear + unlabeled", "circle", "student"),
    "student, labels alone": (("none", False), "linear + unlabeled", "diamond", "alone"),
    "MLPClassifier, teacher's labels": (
        ("MLPClassifier 256, hard labels", True), "MLPClassifier 256", "triangle", "peer",
    ),
}  # fmt: skip
WAYS = {"Python": 1.0, "ONNX": 0.65}


def accuracy_and_costs() -> dict[str, dict[str, Any]]:
    """Return for each model the accuracy, and by way to run it µs for a row and kB, over the timed tables.

    The accuracy is a mean over the tables, the costs are medians. Teachers are those of more rows.
    """
    runs = read("benchmarks/side_by_side.json")["runs"]
    timed = [run for run in runs if run["setting"].get("part") == "speed"]
    scored = [run for run in runs if run["setting"].get("part") is None]
    tables = [run["setting"]["task"] for run in timed]
    found = side_by_side.found_by(scored, "more rows")
    models = {}
    for name, (arm, network, _, _) in MODELS.items():
        means = [np.mean([run["accuracy"] for run in found[arm][task]]) for task in tables]
        models[name] = {"accuracy": float(np.mean(means))}
        for way in WAYS:
            key = f"{network}, {way}"
            us, size = ([run["us"]["1"][key] for run in timed], [run["bytes"][key] / 1000 for run in timed])
            models[name][way] = float(np.median(us)), float(np.median(size))
    return models


def time_and_size(colors: Colors) -> str:
    """Return the picture of accuracy against time and against size."""
    models = accuracy_and_costs()
    drawn = []
    x = 66.0
    for name, (*_, shape, color) in MODELS.items():
        drawn += [mark(shape, x, 18, colors[color]), text(x + 12, 22.5, name, "start")]
        x += 34 + 6.9 * len(name)
    drawn.append(text(66, 46, "large marks: in Python; small marks: the same model in ONNX", "start"))
    panels = (
        (Chart(66, 66, 300, 210, (5.0, 40_000.0), (0.75, 0.9)), "µs to answer one row (logarithmic)",
         {10.0: "10", 100.0: "100", 1_000.0: "1,000", 10_000.0: "10,000"}),
        (Chart(404, 66, 300, 210, (20.0, 20_000.0), (0.75, 0.9)), "size in kB (logarithmic)",
         {100.0: "100", 1_000.0: "1,000", 10_000.0: "10,000"}),
    )  # fmt: skip
    for place, (chart, label, x_ticks) in enumerate(panels):
        said: Callable[[float], str] = "{:.2f}".format if place == 0 else lambda _: ""
        y_ticks = {value: said(value) for value in (0.75, 0.8, 0.85, 0.9)}
        y_label = "accuracy, mean of seven tables" if place == 0 else ""
        drawn += chart.frame(colors, x_ticks, y_ticks, label, y_label)
        for name, (*_, shape, color) in MODELS.items():
            model = models[name]
            ends = [(model[way][place], model["accuracy"]) for way in WAYS]
            drawn.append(chart.line(ends, colors[color], "1 3").replace('width="2"', 'width="1.5"'))
            drawn += [
                mark(shape, chart.across(cost), chart.up(accuracy), colors[color], scale)
                for (cost, accuracy), scale in zip(ends, WAYS.values(), strict=True)
            ]
    return picture(720, 326, drawn, colors)


# --------------------------------------------------------------------------------------


def read(name: str) -> dict[str, Any]:
    """Return a record."""
    return json.loads((EXAMPLES / name).read_text(encoding="utf-8"))


def pictures() -> dict[str, str]:
    """Return the pictures by the names of their files."""
    drawers = {"horizon": horizon, "which-method": which_method, "side-by-side": time_and_size}
    papers = {"light": LIGHT | MORE, "dark": DARK | MORE}
    return {
        f"{name}-{paper}.svg": draw(colors)
        for name, draw in drawers.items()
        for paper, colors in papers.items()
    }


if __name__ == "__main__":
    for name, drawn in pictures().items():
        (HERE / "_static" / name).write_text(drawn, encoding="utf-8")
