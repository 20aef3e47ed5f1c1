"""The report: numbers, a verdict, text, HTML and a picture."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sklearn_kd.comparison._tables import html_table, text_table
from sklearn_kd.report._fidelity import Fidelity
from sklearn_kd.report._panels import Panel
from sklearn_kd.report._picture import draw
from sklearn_kd.report._sizes import Size
from sklearn_kd.report._timing import BATCH, Latency
from sklearn_kd.report._verdict import share, verdict_of
from sklearn_kd.report._words import Words
from sklearn_kd.tasks._measures import MEASURES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_UNKNOWN = "—"
# Share of the processor below which the times are not reliable.
_BUSY = 0.8


class DistillationReport:
    """The costs and gains of a distilled student, compared with its teacher and the same student alone.

    Made by :func:`distillation_report`. It prints as a table with a verdict, and a notebook shows it as
    HTML. It holds only numbers, no models and no rows, so its pickle is small.

    Attributes
    ----------
    verdict : str
        The conclusions from the numbers, in sentences. :doc:`/guide/report` has the thresholds.
    n_samples : int
        Number of test rows.

    See Also
    --------
    distillation_report : Make a report, with an example.
    ReportDisplay : Draw a report, panel by panel.
    MethodComparison : Fits of several methods over folds and seeds.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, distillation_report
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(RandomForestClassifier(10), MLPStudent, max_epochs=3, random_state=0)
    >>> report = distillation_report(clf.fit(X[::2], y[::2]), X[1::2], y[1::2])
    >>> report.n_samples, list(report.to_dict()["models"])
    (75, ['student'])
    """

    verdict: str
    n_samples: int
    _fidelity: Mapping[str, Fidelity] = MappingProxyType({})  # reports pickled by older versions lack it

    def __init__(
        self,
        models: dict[str, dict[str, Any]],
        differences: dict[str, dict[str, float]],
        panels: dict[str, Panel],
        n_samples: int,
        words: Words,
        notes: list[str],
        fidelity: dict[str, Fidelity] | None = None,
    ):
        self._models, self._differences, self._panels, self._notes = models, differences, panels, notes
        self.n_samples, self._words, self._fidelity = n_samples, words, fidelity or {}
        self.verdict = verdict_of(models, differences, n_samples, words)

    # ----------------------------------------------------------------------------------
    # Numbers

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can hold.

        Returns
        -------
        dict
            - ``n_samples``; ``n_classes``, ``n_labels`` or ``n_targets``.
            - ``models``: the numbers of the table by role ("teacher", "student", "student alone", "peer",
              "taught peer"): ``model``, ``accuracy``, ``accuracy_standard_error``, ``log_loss``, ``ece``,
              ``agreement``, ``us_single``, ``us_single_p99``, ``us_batch`` (microseconds per row),
              ``n_bytes``, ``bytes_of``, ``train_seconds``. Unknown numbers are None.
            - ``differences``: the student minus each other model on the same rows: ``accuracy``,
              ``standard_error``, ``p_value`` (McNemar's exact test), ``log_loss``,
              ``log_loss_standard_error``.
            - ``verdict``.

            For several labels, ``subset_accuracy`` and ``macro_f1`` replace ``accuracy``. For numbers the
            measures are ``r2``, ``rmse``, ``mae`` and ``rmse_to_teacher``; ``differences`` have ``r2`` and
            ``mae``, and ``p_value`` is that of a paired t-test of the squared errors.

        Examples
        --------
        See :func:`distillation_report`.
        """
        return {
            "n_samples": self.n_samples,
            f"n_{self._words.counted}": self._words.n_counted,
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
                "to_frame needs pandas, which is not installed: pip install pandas. Or use to_dict(), which "
                "has the same numbers."
            ) from None
        return pd.DataFrame.from_dict(self._models, orient="index")

    def plot(self) -> Figure:
        """Draw accuracy against the cost of a row, and the reliability of the probabilities.

        The left panel shows the accuracy, with its standard error, against the microseconds of a single row
        or, without timing, against the bytes. In the right panel, a dot is the accuracy of the rows whose
        confidence is in one bin. Its area grows with the number of rows, and lines skip bins with fewer than
        10 rows or 1 % of them. On the diagonal, confidence equals accuracy. For several labels, the left
        panel shows the subset accuracy, and the bins hold the probabilities of all labels.

        For numbers, the left panel shows R², and the right panel the share of the rows whose error is at most
        a given size: the higher the curve, the better the model.

        Returns
        -------
        matplotlib Figure
            A figure with the two panels.
        """
        return draw(self._models, self._panels, self._words)

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
        n, counted = self._words.n_counted, self._words.counted
        return f"{self.n_samples:,} test rows, {n} {counted if n > 1 else counted.rstrip('s')}"

    def _table(self) -> list[tuple[str, ...]]:
        """Return the header and the rows of the table as strings."""
        cells = _columns(self._words)
        columns: dict[str, list[str]] = {"model": [], **{head: [] for head in cells}}
        for role, numbers in self._models.items():
            columns["model"].append(f"{role} ({numbers['model']})")
            for head, cell in cells.items():
                columns[head].append(cell(numbers))
        shown = {head: cells for head, cells in columns.items() if set(cells) != {_UNKNOWN}}
        return [tuple(shown), *zip(*shown.values(), strict=True)]


def numbers_of(
    kind: str,
    measures: Mapping[str, float | None],
    size: Size,
    latency: Latency | None,
    seconds: float | None,
) -> dict[str, Any]:
    """Return the numbers of a model as plain values, None if unknown. ``measures`` come first."""
    return {
        "model": kind,
        **measures,
        "us_single": None if latency is None else latency.single,
        "us_single_p99": None if latency is None else latency.single_p99,
        "us_batch": None if latency is None else latency.batch,
        "n_bytes": size.n_bytes,
        "bytes_of": size.counted,
        "train_seconds": seconds,
    }


def notes_on(latency: Mapping[str, Latency], sizes: Mapping[str, Size], where: str) -> list[str]:
    """Return notes on the columns of costs."""
    notes = []
    if latency:
        calls = ", ".join(f"{role} {found.n_single} and {found.n_batch}" for role, found in latency.items())
        notes.append(
            f"µs per row on {where}: median and 99th percentile of calls with one row, median of calls with "
            f"{BATCH:,} rows. Calls: {calls}."
        )
        waited = min(found.processor_share for found in latency.values())
        if where.startswith("the CPU") and waited < _BUSY:
            notes.append(
                "The machine was busy with other programs: a model's calls had a processor for only "
                f"{waited:.0%} of their time. Do not trust the times; repeat the report on an idle machine."
            )
    counted = ", ".join(f"{role}: {size.counted}" for role, size in sizes.items() if size.counted)
    return [*notes, f"Size of {counted}."]


# --------------------------------------------------------------------------------------
# Cells

Cell = Callable[[dict[str, Any]], str]


def _cell(key: str, shown: Callable[[Any], str]) -> Cell:
    return lambda numbers: _UNKNOWN if numbers.get(key) is None else shown(numbers[key])


def _significant(value: float) -> str:
    return f"{value:.4g}"


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _size(n_bytes: float) -> str:
    unit = next((unit for unit in _UNITS if n_bytes >= unit), 1)
    return f"{n_bytes / unit:,.3g} {_UNITS.get(unit, 'B')}"


def _with_error(key: str) -> Cell:
    return lambda numbers: f"{share(numbers[key])} ± {share(numbers[f'{key}_standard_error'])}"


def _measure(name: str) -> Cell:
    return _cell(name, _significant if MEASURES[name].in_units else share)


_UNITS = {1_000_000_000: "GB", 1_000_000: "MB", 1000: "kB"}


def _columns(words: Words) -> dict[str, Cell]:
    """Return the functions that make the cells of each column, by the column's heading."""
    first, *others = words.measures
    agreement, title = words.agreement
    return {
        MEASURES[first].title: _with_error(first),
        **{MEASURES[name].title: _measure(name) for name in others},
        "ECE": _cell("ece", share),
        title: _cell(agreement, share if agreement == "agreement" else _significant),
        "µs, 1 row": _cell("us_single", _microseconds),
        "p99": _cell("us_single_p99", _microseconds),
        f"µs, {BATCH:,} rows": _cell("us_batch", _microseconds),
        "size": _cell("n_bytes", _size),
        "train s": _cell("train_seconds", lambda seconds: f"{seconds:.3g}"),
    }
