"""The look that all pictures share."""

import sys
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sklearn_kd.style._style import checked_axes, looks_of, pyplot, series_look, shown_name, style_axes

matplotlib.use("Agg")
ROLES = ["teacher", "student", "student alone", "peer", "taught peer"]


@pytest.mark.parametrize("looks", [
    list(looks_of(ROLES).values()), [series_look(k) for k in range(7)],
    list(looks_of([*ROLES, *"abcdefgh"]).values()), [series_look(k) for k in range(14)],
], ids=["roles", "series", "peers of users", "long series"])  # fmt: skip
def test_grey_pictures_can_be_read(looks):
    """Without colour, a marker and the line style tell any two things apart."""
    for one, other in combinations(looks, 2):
        assert (one.marker, one.filled) != (other.marker, other.filled)
        assert (one.marker, one.filled, one.linestyle) != (other.marker, other.filled, other.linestyle)
    lines = [str(look.linestyle) for look in looks[:5]]
    assert len(set(lines)) == 5


def test_a_peer_of_the_user_keeps_the_looks_of_the_others():
    looks = looks_of(["student", "boosting", "teacher"])
    assert looks["student"] == looks_of([])["student"]
    assert looks["boosting"] not in looks_of([]).values()


def test_a_look_is_what_matplotlib_draws():
    look = looks_of([])["student alone"]._replace(filled=False)
    (line,) = plt.subplots()[1].plot([0, 1], **look.line())
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (look.color, "D", "-.")
    assert line.get_markerfacecolor() == "none"


def luminance(color):
    return to_rgb(color) @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_and_grids_are_seen_on_dark_paper():
    light = looks_of(ROLES)
    with plt.style.context("dark_background"):
        dark = looks_of(ROLES)
        assert dark["student"] == light["student"] and series_look(0).color == dark["student alone"].color
        assert luminance(dark["student alone"].color) > luminance(light["student alone"].color)
        ax = plt.subplots()[1]
        style_axes(ax, grid="x")
    assert ax.get_xgridlines()[0].get_color() == "white" and not ax.spines["top"].get_visible()
    assert not ax.yaxis.get_gridlines()[0].get_visible()


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^ReportDisplay needs matplotlib, .*pip install matplotlib"):
        pyplot("ReportDisplay")


def test_names_of_users_are_plain_text_in_a_legend():
    ax = plt.subplots()[1]
    names = ["_hidden", "$x^{$", "two\nlines", 30 * "a"]
    for name in names:
        ax.plot([0], label=shown_name(name))
    drawn = [text.get_text() for text in ax.legend().get_texts()]
    assert drawn == [" _hidden", r"\$x^{\$", "two lines", 23 * "a" + "…"]
    assert shown_name(30 * "a" + "conv2", keep="end") == "…" + 18 * "a" + "conv2"
    ax.figure.canvas.draw()  # refuses what it takes for an unfinished formula


def test_axes_of_the_user_are_checked():
    figure, axes = plt.subplots(2, 2)
    assert list(checked_axes(axes)) == list(checked_axes(ax for ax in axes.flat)) == list(axes.flat)
    assert list(checked_axes(axes[0, 0])) == [axes[0, 0]]
    for wrong, kind in [(figure, "Figure"), ("ax", "str"), ([None], "NoneType"), ({"a": axes[0, 0]}, "dict")]:
        with pytest.raises(TypeError, match=f"ax has a {kind}, which is not a matplotlib Axes"):
            checked_axes(wrong, "ax")
    with pytest.raises(ValueError, match="axes has the same Axes twice"):
        checked_axes([axes[0, 0]] * 2)
