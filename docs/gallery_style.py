"""Style of the gallery's figures, so that they can be read at the size of a thumbnail.

The scripts set no style of their own: a notebook of a reader shows their figures in the reader's style. They
do set the colours of teacher, student and student alone, which ``tests/examples/test_gallery.py`` compares.
"""

from __future__ import annotations

from typing import Any

STYLE = {
    "figure.figsize": (6.3, 4.4),  # the shape of a thumbnail
    "font.size": 13,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2,
    "lines.markersize": 8,
}


def use(gallery_conf: dict[str, Any], script: str) -> None:
    """Set the style; sphinx-gallery calls this before each script, after it has reset matplotlib."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
