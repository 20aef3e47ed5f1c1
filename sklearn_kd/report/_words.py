"""The words of a report for one kind of target, which it keeps to be printed and drawn."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """Names of the parts of one kind of target in verdicts, tables and pictures.

    Attributes
    ----------
    counted : str
        Name of the kinds of targets in y: "classes".
    n_counted : int
    measures : tuple of str
        Names of the measures; the verdict goes by the first.
    agreement : tuple of str
        Name and title of the column that compares with the teacher.
    y : str
        What a student alone learns from.
    better, worse, as_good : str
        What a student is that has a larger or a smaller first measure than another model, or as large a one
        as its teacher.
    panel : tuple of str
        Labels of the axes of the right panel.
    probabilities : str or None
        The measure of the probabilities, which the verdict names beside the first. None: there are none.
    """

    counted: str
    n_counted: int
    measures: tuple[str, ...]
    agreement: tuple[str, str]
    y: str
    better: str
    worse: str
    as_good: str
    panel: tuple[str, str]
    probabilities: str | None = None
