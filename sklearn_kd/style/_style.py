"""Colours, markers and lines that all pictures share.

The colours are those of Okabe and Ito, "Color universal design" (2008), which colour-blind people tell apart.
A colour is never alone: a marker and a line style go with it, so that pictures can be read in grey. Grids
and shades use the ink of the current matplotlib style, so that they show on dark paper too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#6B7280"
# In place of colours that are too dark on dark paper.
_ON_DARK = {BLUE: "#2F8FD0", GREY: "#A3ACB8"}


class Look(NamedTuple):
    """The look of one thing in all pictures.

    Attributes
    ----------
    color, marker, linestyle : as matplotlib takes them
    filled : bool, default=True
        False: its marker is a ring.
    """

    color: str
    marker: str
    linestyle: Any
    filled: bool = True

    def line(self) -> dict[str, Any]:
        """Return arguments of ``plot`` for a line with markers."""
        return self.dot() | {"linestyle": self.linestyle}

    def dot(self) -> dict[str, Any]:
        """Return arguments of ``plot`` or ``errorbar`` for markers alone."""
        face = self.color if self.filled else "none"
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "linestyle": "none"}


_DASH_DOT_DOT = (0, (6, 2, 1, 2, 1, 2))
# The models of a report.
_ROLES = {
    "teacher": Look(GREY, "s", "--"),
    "student": Look(VERMILION, "o", "-"),
    "student alone": Look(BLUE, "D", "-."),
    "peer": Look(SKY, "^", ":"),
    "taught peer": Look(GREEN, "v", _DASH_DOT_DOT),
}
_OTHER_ROLES = (Look(PURPLE, "P", "--"), Look(ORANGE, "X", "-."), Look(GREEN, "*", ":"), Look(SKY, "h", "-"))
# Things that only their place in a list tells apart.
_SERIES = (
    Look(BLUE, "o", "-"), Look(VERMILION, "s", "--"), Look(GREEN, "^", "-."), Look(PURPLE, "D", ":"),
    Look(ORANGE, "v", _DASH_DOT_DOT), Look(SKY, "P", (0, (2, 1.5))), Look(GREY, "X", (0, (8, 3))),
)  # fmt: skip
# Markers from the eighth thing on, whose colours and lines repeat.
_MORE_MARKERS = ("*", "<", ">", "p", "h", "d", "8")
# Largest number of characters of a name in a picture.
_LONGEST_NAME = 24


def looks_of(roles: Iterable[str]) -> dict[str, Look]:
    """Return the look of each model of a report, including peers that users have named."""
    others = [role for role in roles if role not in _ROLES]
    n = len(_OTHER_ROLES)
    looks = _ROLES | {role: _OTHER_ROLES[k % n]._replace(filled=k < n) for k, role in enumerate(others)}
    return {role: _on_paper(look) for role, look in looks.items()}


def series_look(k: int) -> Look:
    """Return the look of the k-th of several things of one kind, from 0."""
    n = len(_SERIES)
    look = _on_paper(_SERIES[k % n])
    return look if k < n else look._replace(marker=_MORE_MARKERS[k % n])


def shown_name(name: str, keep: Literal["start", "end"] = "start") -> str:
    """Return a user's name as a picture shows it: one short line.

    matplotlib would read dollar signs as a formula, and leave names with a leading underscore out of legends.

    Parameters
    ----------
    name : str
    keep : "start" or "end", default="start"
        The part of a long name that is shown.
    """
    short = " ".join(str(name).split())
    if len(short) > _LONGEST_NAME:
        rest = _LONGEST_NAME - 1
        short = f"{short[:rest]}…" if keep == "start" else f"…{short[-rest:]}"
    return (" " * short.startswith("_") + short).replace("$", r"\$")


def checked_axes(axes: Any, name: str = "axes") -> np.ndarray:
    """Return the axes that the user gave, one or several, as a flat array.

    Parameters
    ----------
    axes : matplotlib Axes, or iterable of them
    name : str, default="axes"
        Name of the argument, for the message.

    Raises
    ------
    TypeError
        If one of them is something else.
    ValueError
        If one of them is given twice.
    """
    from matplotlib.axes import Axes

    several = isinstance(axes, Iterable) and not isinstance(axes, (str, Mapping))
    given = np.ravel(np.array(list(axes) if several else [axes], dtype=object))
    for ax in given:
        if not isinstance(ax, Axes):
            kind = type(ax).__name__
            raise TypeError(
                f"{name} has a {kind}, which is not a matplotlib Axes. Give those of plt.subplots."
            )
    if len(set(given)) < len(given):
        raise ValueError(f"{name} has the same Axes twice. Give other Axes for each panel.")
    return given


def pyplot(caller: str) -> Any:
    """Import and return ``matplotlib.pyplot``.

    Parameters
    ----------
    caller : str
        Name of the class or method that draws, for the message.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            f"{caller} needs matplotlib, which is not installed: pip install matplotlib."
        ) from None
    return plt


def ink() -> str:
    """Return the colour of text in the current matplotlib style."""
    import matplotlib

    return matplotlib.rcParams["text.color"]


def _on_paper(look: Look) -> Look:
    """Return a look in a colour that is visible on the background of the current matplotlib style."""
    from matplotlib.colors import to_rgb

    is_dark = sum(to_rgb(ink())) > 1.5  # light ink needs dark paper
    return look._replace(color=_ON_DARK.get(look.color, look.color)) if is_dark else look


def style_axes(ax: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Hide two edges of the axes, and draw a faint grid below everything else.

    Parameters
    ----------
    ax : matplotlib Axes
    grid : "both", "x" or "y", default="both"
        The axis whose ticks have grid lines.
    """
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, color=ink(), alpha=0.12, linewidth=0.8)
    ax.set_axisbelow(True)


def shifted(ax: Axes, points: float) -> Transform:
    """Return the transform of data that draws it so many points to the right of its place."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def cycle_series(ax: Axes) -> None:
    """Give the lines of new axes the looks of the series, one after the other, without markers."""
    from cycler import cycler

    looks = [_on_paper(look) for look in _SERIES]
    colors, lines = ([getattr(look, part) for look in looks] for part in ("color", "linestyle"))
    ax.set_prop_cycle(cycler(color=colors) + cycler(linestyle=lines))
