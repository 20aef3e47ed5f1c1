"""Draw the picture of the first page from the quickstart's record.

Accuracy on new rows against the time to answer one row, with the size of each model beside its name. Run this
script after ``examples/01_quickstart.py --record``; a test fails until then::

    python docs/draw_landing.py

It writes ``landing-light.svg`` and ``landing-dark.svg`` into ``docs/_static``. Shapes tell the models apart
as well as colours do, so the picture can be read in grey.
"""

from __future__ import annotations

import json
from math import log10
from pathlib import Path

HERE = Path(__file__).parent
RECORD = HERE.parent / "examples" / "01_quickstart.json"

WIDTH, HEIGHT = 540, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 16, 52
MICROSECONDS = 50.0, 100_000.0
ACCURACY = 0.86, 0.99

# Name in the record → name in the picture, kind, and where the text stands: its anchor and its shift.
MODELS = {
    "teacher, 700 labels": ("teacher", "teacher", "middle", 0, -18),
    "student, 100 labels and the teacher": ("student", "student", "start", -10, -18),
    "the same student, 100 labels": ("student without the teacher", "alone", "start", 16, -2),
    "MLPClassifier, 100 labels": ("MLPClassifier", "peer", "start", 16, 9),
    "MLPClassifier, teacher's labels too": ("MLPClassifier, teacher's labels", "peer", "start", 16, 20),
}
LIGHT = {
    "paper": "#ffffff", "ink": "#1f2933", "grid": "#d9dee3",
    "teacher": "#6b7280", "student": "#d55e00", "alone": "#0072b2", "peer": "#56b4e9",
}  # fmt: skip
DARK = LIGHT | {
    "paper": "#14181e", "ink": "#e5e9ee", "grid": "#39424e", "teacher": "#a3acb8", "alone": "#4aa3df",
}  # fmt: skip


def across(microseconds: float) -> float:
    """Return the horizontal place of a time, on a logarithmic scale."""
    first, last = map(log10, MICROSECONDS)
    return LEFT + (log10(microseconds) - first) / (last - first) * (WIDTH - LEFT - RIGHT)


def up(accuracy: float) -> float:
    """Return the vertical place of an accuracy."""
    low, high = ACCURACY
    return HEIGHT - BOTTOM - (accuracy - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def mark(kind: str, x: float, y: float, color: str) -> str:
    """Return the shape of a kind of model."""
    if kind == "teacher":
        return f'<rect x="{x - 9:.1f}" y="{y - 9:.1f}" width="18" height="18" fill="{color}"/>'
    if kind == "student":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{color}"/>'
    if kind == "alone":
        return f'<path d="M{x:.1f} {y - 11:.1f}l11 11l-11 11l-11 -11z" fill="{color}"/>'
    return f'<path d="M{x:.1f} {y - 9:.1f}l9 16h-18z" fill="{color}"/>'


def size(kilobytes: float) -> str:
    """Return a size in kB or MB."""
    return f"{kilobytes / 1000:.0f} MB" if kilobytes >= 1000 else f"{kilobytes:.0f} kB"


def text(x: float, y: float, said: str, anchor: str = "middle", extra: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{said}</text>'


def picture(cost: dict[str, list[float]], colors: dict[str, str]) -> str:
    """Return the picture of {model: [accuracy, µs, kB]} as SVG."""
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="15" fill="{colors["ink"]}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{colors["paper"]}"/>',
    ]
    for accuracy in (0.86, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98):
        y = up(accuracy)
        drawn.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{colors["grid"]}"/>')
        drawn.append(text(LEFT - 8, y + 5, f"{accuracy:.2f}", "end"))
    for microseconds in (100, 1_000, 10_000, 100_000):
        said = f"{microseconds} µs" if microseconds < 1000 else f"{microseconds // 1000} ms"
        at_end = microseconds == MICROSECONDS[1]
        drawn.append(text(across(microseconds), HEIGHT - BOTTOM + 22, said, "end" if at_end else "middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(text(middle, HEIGHT - 10, "time to answer one row (logarithmic)"))
    y = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(text(16, y, "accuracy on new rows", extra=f' transform="rotate(-90 16 {y:.1f})"'))
    for name, (said, kind, anchor, right, down) in MODELS.items():
        accuracy, microseconds, kilobytes = cost[name]
        x, y = across(microseconds), up(accuracy)
        drawn.append(mark(kind, x, y, colors[kind]))
        bold = ' font-weight="bold"' if kind == "student" else ""
        drawn.append(text(x + right, y + down, f"{said}, {size(kilobytes)}", anchor, bold))
    return "\n".join([*drawn, "</svg>"]) + "\n"


def pictures() -> dict[str, str]:
    """Return the pictures by the names of their files."""
    cost = json.loads(RECORD.read_text(encoding="utf-8"))["accuracy, µs, kB"]
    return {"landing-light.svg": picture(cost, LIGHT), "landing-dark.svg": picture(cost, DARK)}


if __name__ == "__main__":
    for name, drawn in pictures().items():
        (HERE / "_static" / name).write_text(drawn, encoding="utf-8")
