"""The report itself: numbers, a verdict, text, HTML and a picture."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_kd.comparison._tables import html_table, text_table
from sklearn_kd.report._picture import draw
from sklearn_kd.report._scores import N_BINS, Bins, PairedDifference, Scores
from sklearn_kd.report._sizes import Size
from sklearn_kd.report._timing import BATCH, Latency
from sklearn_kd.report._verdict import share, verdict_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_UNKNOWN = "—"
# Share of the processor below which times are not those of the models.
_BUSY = 0.8


class DistillationReport:
    """The costs and gains of a distilled student, beside its teacher and the same student without one.

    Made by :func:`distillation_report`. Printed, it is a table with a verdict; a notebook shows it as
    HTML. It holds numbers only, no model and no rows, so that it is small when it is pickled.

    Attributes
    ----------
    verdict : str
        What the numbers say, in sentences. :doc:`/guide/report` has the thresholds.
    n_samples : int
        Test rows.

    See Also
    --------
    distillation_report : Makes it, with an example.
    MethodComparison : Fits of several methods over folds and seeds.
    """

    verdict: str
    n_samples: int

    def __init__(
        self,
        models: dict[str, dict[str, Any]],
        differences: dict[str, dict[str, float]],
        bins: dict[str, Bins],
        classes: np.ndarray,
        notes: list[str],
    ):
        self._models, self._differences, self._bins, self._notes = models, differences, bins, notes
        self.n_samples, self._n_classes = int(next(iter(bins.values())).n_rows.sum()), len(classes)
        self.verdict = verdict_of(models, differences, self.n_samples)

    # ----------------------------------------------------------------------------------
    # Numbers

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can hold.

        Returns
        -------
        dict
            ``n_samples``; ``n_classes``; ``models``, by role ("teacher", "student", "student alone") the
            numbers of the table: ``model``, ``accuracy``, ``accuracy_standard_error``, ``log_loss``,
            ``ece``, ``agreement``, ``us_single``, ``us_single_p99``, ``us_batch`` (microseconds per row),
            ``n_bytes``, ``bytes_of``, ``train_seconds``, None where a number is not known;
            ``differences``, the student's to the others on the same rows: ``accuracy``,
            ``standard_error``, ``p_value`` (McNemar's exact test), ``log_loss``,
            ``log_loss_standard_error``; ``verdict``.

        Examples
        --------
        See :func:`distillation_report`.
        """
        return {
            "n_samples": self.n_samples,
            "n_classes": self._n_classes,
            "models": {role: dict(numbers) for role, numbers in self._models.items()},
            "differences": {role: dict(numbers) for role, numbers in self._differences.items()},
            "verdict": self.verdict,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the numbers of the table as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row for each model, with the columns of :meth:`to_dict`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError(
                "to_frame needs pandas, which is not installed: pip install pandas. Without it, to_dict() "
                "has the same numbers."
            ) from None
        return pd.DataFrame.from_dict(self._models, orient="index")

    def plot(self) -> Figure:
        """Draw accuracy against the cost of a row, and the reliability of the probabilities.

        The left panel has the accuracy, with its standard error, over the microseconds of a single row
        or, without timing, over the bytes. A dot in the right panel is the accuracy of the rows whose
        confidence is in one bin; its area grows with their number, and lines leave out bins of fewer than 10
        rows or 1 % of them. On the diagonal confidence is accuracy.

        Returns
        -------
        matplotlib Figure
        """
        return draw(self._models, self._bins)

    # ----------------------------------------------------------------------------------
    # Text and HTML

    def __repr__(self) -> str:
        header, *rows = self._table()
        return text_table(f"{self.verdict}\n{self._counts()}", header, rows, self._notes)

    def _repr_html_(self) -> str:
        header, *rows = self._table()
        emphasised = [k for k, role in enumerate(self._models) if role == "student"]
        verdict = (
            f'<p style="max-width:52em; padding:0 .7em"><strong>{html.escape(self.verdict)}</strong></p>'
        )
        return verdict + html_table(self._counts(), header, rows, self._notes, emphasised)

    def _counts(self) -> str:
        return f"{self.n_samples:,} test rows, {self._n_classes} classes"

    def _table(self) -> list[tuple[str, ...]]:
        """Header and rows of strings."""
        columns: dict[str, list[str]] = {"model": [], **{head: [] for head in _COLUMNS}}
        for role, numbers in self._models.items():
            columns["model"].append(f"{role} ({numbers['model']})")
            for head, cell in _COLUMNS.items():
                columns[head].append(cell(numbers))
        shown = {head: cells for head, cells in columns.items() if set(cells) != {_UNKNOWN}}
        return [tuple(shown), *zip(*shown.values(), strict=True)]


def numbers_of(
    kind: str,
    scores: Scores,
    teacher: Scores | None,
    size: Size,
    latency: Latency | None,
    seconds: float | None,
) -> dict[str, Any]:
    """Return the numbers of a model, plain and None where they are not known.

    ``teacher``, the scores of the teacher, is None where there is none and for the teacher itself.
    """
    agreement = None if teacher is None else float((scores.predicted == teacher.predicted).mean())
    return {
        "model": kind,
        "accuracy": scores.accuracy,
        "accuracy_standard_error": scores.accuracy_error,
        "log_loss": scores.log_loss,
        "ece": scores.bins.calibration_error,
        "agreement": agreement,
        "us_single": None if latency is None else latency.single,
        "us_single_p99": None if latency is None else latency.single_p99,
        "us_batch": None if latency is None else latency.batch,
        "n_bytes": size.n_bytes,
        "bytes_of": size.counted,
        "train_seconds": seconds,
    }


def difference_between(one: Scores, other: Scores) -> dict[str, float]:
    """Return the paired difference of two models as plain numbers."""
    found = PairedDifference.between(one, other)
    return {
        "accuracy": found.accuracy,
        "standard_error": found.accuracy_error,
        "p_value": found.p_value,
        "log_loss": found.log_loss,
        "log_loss_standard_error": found.log_loss_error,
    }


def notes_on(latency: Mapping[str, Latency], sizes: Mapping[str, Size], where: str) -> list[str]:
    """Return what the reader must know about the columns."""
    notes = [
        "Accuracy ± its standard error over the test rows: of this one fit, not over seeds "
        "(compare_methods has these).",
        f"ECE: expected calibration error of the top label, {N_BINS} bins of equal width. Agreement: share "
        "of rows with the teacher's label.",
    ]
    if latency:
        calls = ", ".join(f"{role} {found.n_single} and {found.n_batch}" for role, found in latency.items())
        notes.append(
            f"µs per row on {where}: median and 99th percentile of calls with one row, median of calls with "
            f"{BATCH:,} rows. Calls: {calls}."
        )
        waited = min(found.processor_share for found in latency.values())
        if where.startswith("the CPU") and waited < _BUSY:
            notes.append(
                "The machine was busy with other programs: the calls of a model had a processor for only "
                f"{waited:.0%} of their time. Do not trust the times; repeat the report on an idle machine."
            )
    counted = ", ".join(f"{role}: {size.counted}" for role, size in sizes.items() if size.counted)
    return [*notes, f"Size of {counted}."]


# --------------------------------------------------------------------------------------
# Cells


def _in_thousandths(key: str) -> Any:
    return lambda numbers: _UNKNOWN if numbers[key] is None else share(numbers[key])


def _microseconds(key: str) -> Any:
    def cell(numbers: dict[str, Any]) -> str:
        value = numbers[key]
        return _UNKNOWN if value is None else f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"

    return cell


def _accuracy(numbers: dict[str, Any]) -> str:
    return f"{share(numbers['accuracy'])} ± {share(numbers['accuracy_standard_error'])}"


def _size(numbers: dict[str, Any]) -> str:
    n_bytes = numbers["n_bytes"]
    if n_bytes is None:
        return _UNKNOWN
    unit = next((unit for unit in _UNITS if n_bytes >= unit), 1)
    return f"{n_bytes / unit:,.3g} {_UNITS.get(unit, 'B')}"


def _seconds(numbers: dict[str, Any]) -> str:
    seconds = numbers["train_seconds"]
    return _UNKNOWN if seconds is None else f"{seconds:.3g}"


_UNITS = {1_000_000_000: "GB", 1_000_000: "MB", 1000: "kB"}

_COLUMNS = {
    "accuracy": _accuracy,
    "log loss": _in_thousandths("log_loss"),
    "ECE": _in_thousandths("ece"),
    "agreement": _in_thousandths("agreement"),
    "µs, 1 row": _microseconds("us_single"),
    "p99": _microseconds("us_single_p99"),
    f"µs, {BATCH:,} rows": _microseconds("us_batch"),
    "size": _size,
    "train s": _seconds,
}
