"""The panels of a display: their names, and their axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.style._style import checked_axes, pyplot

# Columns of a new figure, by the number of panels; others have three.
_COLUMNS = {1: 1, 2: 2, 4: 2}


def checked_panels(panels: Iterable[str] | str | None, missing: Mapping[str, str | None]) -> list[str]:
    """Return the names of the panels to draw.

    Parameters
    ----------
    panels : iterable of str, str or None
        None: all that can be drawn.
    missing : mapping of str to (str or None)
        Why each known panel cannot be drawn; None if it can.

    Raises
    ------
    ValueError
        If there is no panel, or one is unknown, cannot be drawn or is given twice.
    TypeError
        If ``panels`` is not iterable.
    """
    if panels is None:
        return [name for name, why in missing.items() if why is None]
    if not isinstance(panels, Iterable):
        raise TypeError(f"panels={panels!r} must be a list of names of {list(missing)}, or None.")
    names = [panels] if isinstance(panels, str) else list(panels)
    if not names:
        raise ValueError(f"panels={names!r} is empty. Give at least one of {list(missing)}.")
    for name in names:
        if name not in list(missing):
            hint = did_you_mean(name, missing)
            raise ValueError(f"panels has {name!r}, which is not one of {list(missing)}.{hint}")
        if missing[name] is not None:
            raise ValueError(f"panels has {name!r}, but {missing[name]}.")
        if names.count(name) > 1:
            raise ValueError(f"panels has {name!r} {names.count(name)} times. Give each panel once.")
    return names


def panel_axes(axes: Any, names: list[str], width: float, height: float) -> np.ndarray:
    """Return one axes for each panel, of a new figure if ``axes`` is None.

    Parameters
    ----------
    axes : matplotlib Axes, sequence of them or None
    names : list of str
        Names of the panels.
    width, height : float
        Inches of a new panel.

    Raises
    ------
    ValueError
        If the numbers of axes and panels differ, or one of the axes is given twice.
    TypeError
        If ``axes`` has something other than Axes.
    """
    n = len(names)
    if axes is None:
        n_columns = _COLUMNS.get(n, 3)
        n_rows = -(-n // n_columns)
        size = width * n_columns, height * n_rows
        plt = pyplot("plot")
        _, grid = plt.subplots(n_rows, n_columns, squeeze=False, figsize=size, layout="constrained")
        new = grid.ravel()
        for unused in new[n:]:
            unused.remove()
        return new[:n]
    given = checked_axes(axes)
    if len(given) != n:
        raise ValueError(f"axes has {len(given)} axes for the {n} panels {names}. Give one for each panel.")
    return given
