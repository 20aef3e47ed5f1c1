"""The words for one kind of target in a report's text and pictures."""

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
        Names of the measures. The verdict is based on the first.
    agreement : tuple of str
        Name and title of the column that compares a model with the teacher.
    y : str
        Name of the targets that a student alone learns.
    better, worse, as_good : str
        Phrases for a student whose first measure is larger or smaller than another model's, or not below its
        teacher's.
    panel : tuple of str
        Labels of the axes of the right panel.
    probabilities : str or None
        Measure of the probabilities, which the verdict names in addition. None: there are no probabilities.
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
