"""Write tables of strings as text for a terminal, and as HTML for a notebook."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Collection, Sequence

Row = tuple[str, ...]

_CELL = "text-align:{}; padding:.25em .7em; white-space:nowrap"
_EDGE = "border-bottom:1px solid currentColor"


def text_table(caption: str, header: Row, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Return a table as text: the first column to the left, numbers to the right, notes wrapped below.

    Parameters
    ----------
    caption : str
        Text above the table; its lines are wrapped.
    header : tuple of str
    rows : sequence of tuples of str
    notes : sequence of str
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in (header, *rows)
    ]
    width = max(map(len, lines))
    rule = "-" * width
    above, below = (
        [line for note in part for line in textwrap.wrap(note, max(width, 40))]
        for part in (caption.splitlines(), notes)
    )
    return "\n".join([*above, rule, lines[0], rule, *lines[1:], rule, *below])


def html_table(
    caption: str, header: Row, rows: Sequence[Row], notes: Sequence[str], emphasised: Collection[int] = ()
) -> str:
    """Return the same as HTML, with everything escaped; rows of the numbers in ``emphasised`` are italic."""

    def line(tag: str, cells: Row, row_style: str) -> str:
        aligned = zip(cells, ("left", *("right",) * (len(cells) - 1)), strict=True)
        content = "".join(f'<{tag} style="{_CELL.format(a)}">{html.escape(c)}</{tag}>' for c, a in aligned)
        return f'<tr style="{row_style}">{content}</tr>'

    body = "".join(
        line("td", row, "font-style:italic" if k in emphasised else "") for k, row in enumerate(rows)
    )
    above = "<br>".join(map(html.escape, caption.splitlines()))
    return (
        '<table style="border-collapse:collapse; font-variant-numeric:tabular-nums">'
        f'<caption style="text-align:left; padding:.3em .7em">{above}</caption>'
        f"<thead>{line('th', header, _EDGE)}</thead><tbody>{body}</tbody></table>"
        '<p style="font-size:.85em; opacity:.75; max-width:52em; padding:0 .8em">'
        f"{'<br>'.join(map(html.escape, notes))}</p>"
    )
