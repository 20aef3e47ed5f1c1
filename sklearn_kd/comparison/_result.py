"""Results of a comparison of methods: summary, corrected t-test, table and plot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from sklearn_kd.comparison._picture import draw_differences, draw_scores
from sklearn_kd.comparison._tables import html_table, text_table
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.style._style import checked_axes, pyplot
from sklearn_kd.tasks._measures import MEASURES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

CONFIDENCE = 0.95
# Columns besides the measures, with their headings, and the decimals of each.
_MORE_COLUMNS = {"fit_seconds": "fit s", "lambda1": "lambda1", "temperature": "T"}
_DECIMALS = {"fit_seconds": 2, "lambda1": 2, "temperature": 2}


class MethodComparison:
    """Runs of several methods over the same folds and seeds, with their summary.

    Made by :func:`compare_methods`. It prints as a table, and as HTML in a notebook.

    Parameters
    ----------
    results : structured array
        A table in the form of ``results_``. Every method must have the same folds and seeds.
    baseline : str, default="naive"
        The method that the others are compared with.

    Attributes
    ----------
    results_ : structured array of shape (n_methods * n_folds * n_seeds,)
        One row per run: ``method``; ``fold``; ``seed`` (0, 1, … within the fold); ``random_state`` of the
        run; ``n_train``; ``n_test``; the measures on the test fold (``metrics_``); ``fit_seconds`` of the
        student, without teacher and transformers; ``models_in_batch``, the number of methods, including this
        one, that were trained in one batched run and share its time equally; ``lambda1`` and ``temperature``
        at the end (NaN if there are none); ``diverged``, whether training was given up; and ``collapsed``,
        whether the student predicts one class, or nearly one number, for its training rows, or is no better
        than chance on them.
    metrics_ : list of str
        The measures in ``results_``: ``accuracy`` and ``log_loss``; for several labels ``subset_accuracy``,
        ``macro_f1`` and ``log_loss``, the mean over the labels; for regression ``r2``, ``rmse`` and ``mae``,
        or ``d2`` and ``pinball_loss`` of a quantile. Differences are shown for the first by default.
    methods_ : list of str
        The methods in the order given.
    baseline : str
        The method that the others are compared with.

    Examples
    --------
    Compare the same runs with another baseline:

    >>> import numpy as np
    >>> from sklearn_kd import MethodComparison
    >>> runs = np.array(
    ...     [(m, fold, 0, 90, 10, 0.8 + 0.01 * fold + 0.02 * fold * (m == "b"))
    ...      for m in "ab" for fold in range(10)],
    ...     dtype=[("method", "U1"), ("fold", int), ("seed", int), ("n_train", int),
    ...            ("n_test", int), ("accuracy", float)])
    >>> summary = MethodComparison(runs, baseline="a").summary()
    >>> [round(float(value), 3) for value in summary["difference"]]
    [0.0, 0.09]
    >>> [round(float(value), 3) for value in MethodComparison(runs, "b").summary()["difference"]]
    [-0.09, 0.0]
    """

    def __init__(self, results: np.ndarray, baseline: str = "naive"):
        self.results_, self.baseline = results, baseline
        self.methods_ = list(dict.fromkeys(results["method"].tolist()))
        self.metrics_ = [name for name in MEASURES if name in (results.dtype.names or ())]
        if not self.metrics_:
            raise ValueError(f"results must have a column of scores, one of {list(MEASURES)}.")
        check_baseline(baseline, self.methods_)
        places = {
            method: sorted(results[["fold", "seed"]][results["method"] == method].tolist())
            for method in self.methods_
        }
        for method, place in places.items():
            if place != places[baseline]:
                raise ValueError(
                    f"results must have the same folds and seeds for every method, once each, but "
                    f"{method!r} has {len(place)} runs that do not match the {len(places[baseline])} "
                    f"of {baseline!r}."
                )

    def summary(self, metric: str | None = None) -> np.ndarray:
        """Return the mean of each method and its paired difference from the baseline.

        Parameters
        ----------
        metric : str or None, default=None
            One of ``metrics_``, or "fit_seconds". None: the first of them.

        Returns
        -------
        structured array of shape (n_methods,)
            ``method``; ``n``, the number of folds; ``mean`` and ``sd`` of the method;
            ``difference`` from the baseline; its ``standard_error``; ``p_value``, two-sided; and
            ``low`` and ``high``, the 95 % interval. The seeds of a fold are averaged first. The last four
            are NaN for the baseline, and if there is only one fold.

        Raises
        ------
        ValueError
            If the metric is unknown.

        Notes
        -----
        Corrected resampled t-test [1]_: training folds overlap, so the variance of the mean
        of n differences with variance s² is taken to be s² (1/n + n_test / n_train), with n − 1
        degrees of freedom. Seeds of one fold share their rows, so their average counts
        once. The p-values are not corrected for the number of methods.

        References
        ----------
        .. [1] Nadeau, Bengio. "Inference for the generalization error", Machine Learning 52,
           2003.
        """
        metric = self._checked(metric)
        scores = self._by_fold(metric)
        rows = []
        for method, values in scores.items():
            sd = values.std(ddof=1) if len(values) > 1 else np.nan
            difference = values - scores[self.baseline]
            test = (np.nan,) * 4
            if method != self.baseline:
                test = corrected_resampled_t_test(difference, self._test_share())
            rows.append((method, len(values), values.mean(), sd, difference.mean(), *test))
        numbers = ("mean", "sd", "difference", "standard_error", "p_value", "low", "high")
        fields = [("method", self.results_.dtype["method"]), ("n", np.int64)]
        return np.array(rows, dtype=[*fields, *((name, np.float64) for name in numbers)])

    def to_frame(self) -> pd.DataFrame:
        """Return ``results_`` as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row per run.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError(
                "to_frame needs pandas, which is not installed: pip install pandas. Without it, "
                "results_ and summary() are structured arrays of numpy."
            ) from None
        return pd.DataFrame(self.results_)

    def plot(self, metric: str | None = None, ax: Axes | None = None) -> Axes:
        """Plot the differences from the baseline with their 95 % intervals.

        Small dots are folds. Intervals that exclude zero are thick, with filled markers.
        :class:`ComparisonDisplay` also draws the scores against the cost.

        Parameters
        ----------
        metric : str or None, default=None
            One of ``metrics_``, or "fit_seconds". None: the first of them.
        ax : matplotlib Axes or None, default=None
            Axes to draw on. None: a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            If the metric is unknown, or there is no method beside the baseline.
        """
        plt = pyplot("plot")
        self._refuse_one_method()
        metric = self._checked(metric)
        if ax is None:
            height = 1.4 + 0.5 * (len(self.methods_) - 1)
            _, ax = plt.subplots(figsize=(7, height), layout="constrained")
        else:
            given = checked_axes(ax, "ax")
            if len(given) != 1:
                raise ValueError(f"ax has {len(given)} Axes: the differences need one.")
            ax = given[0]
        self._draw_differences(ax, metric)
        return ax

    def _refuse_one_method(self) -> None:
        if len(self.methods_) < 2:
            raise ValueError(
                f"comparison has the method {self.baseline!r} alone: there is no difference to draw. "
                "Compare at least two methods."
            )

    def _draw_differences(self, ax: Axes, metric: str) -> dict[str, Line2D]:
        """Draw the differences to the baseline; return the marker of each method."""
        return draw_differences(
            ax,
            self.summary(metric),
            self._by_fold(metric),
            self.baseline,
            _title(metric),
            lambda mean: _number(metric, mean),
        )

    def _draw_scores(self, ax: Axes, metric: str) -> dict[str, Line2D]:
        """Draw the scores against the seconds of a fit; return the marker of each method."""
        costs = {method: float(values.mean()) for method, values in self._by_fold("fit_seconds").items()}
        cost = "seconds of a fit, mean over the folds"
        if (
            "models_in_batch" in (self.results_.dtype.names or ())
            and (self.results_["models_in_batch"] > 1).any()
        ):
            cost += "\n(batched runs are shared equally)"
        return draw_scores(ax, self.summary(metric), costs, self.baseline, _title(metric), cost)

    def _checked(self, metric: str | None) -> str:
        known = [*self.metrics_, "fit_seconds"]
        if metric is not None and metric not in known:
            raise ValueError(f"metric={metric!r} is not one of {known}.{did_you_mean(metric, known)}")
        return self.metrics_[0] if metric is None else metric

    def _by_fold(self, field: str) -> dict[str, np.ndarray]:
        """Return values of shape (n_folds,) by method, averaged over the seeds of each fold."""
        runs, folds = self.results_, np.unique(self.results_["fold"])
        return {
            method: np.array(
                [runs[field][(runs["method"] == method) & (runs["fold"] == fold)].mean() for fold in folds]
            )
            for method in self.methods_
        }

    def _test_share(self) -> float:
        """Return n_test / n_train over all folds."""
        return self.results_["n_test"].sum() / self.results_["n_train"].sum()

    # ----------------------------------------------------------------------------------
    # Text and HTML

    def __repr__(self) -> str:
        header, *rows = self._table()
        return text_table(self._caption(), header, rows, [self._footnote()])

    def _repr_html_(self) -> str:
        header, *rows = self._table()
        baseline = self.methods_.index(self.baseline)
        return html_table(self._caption(), header, rows, [self._footnote()], emphasised=[baseline])

    def _caption(self) -> str:
        n_folds = len(np.unique(self.results_["fold"]))
        n_seeds = len(np.unique(self.results_["seed"]))
        sizes = (
            f"{round(self.results_[part].mean())} rows to {use}"
            for part, use in (("n_train", "train on"), ("n_test", "test on"))
        )
        counts = [(len(self.methods_), "method"), (n_folds, "fold"), (n_seeds, "seed")]
        return " × ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts) + f"; {', '.join(sizes)}"

    def _footnote(self) -> str:
        return (
            f"Mean ± sd over folds. Difference in {_title(self.metrics_[0])}, 95 % interval and p by the "
            "corrected resampled t-test; p is not corrected for the number of methods." + self._failures()
        )

    def _failures(self) -> str:
        """Count the runs that diverged or learned nothing, by method, for the footnote."""
        runs, said = self.results_, ""
        for field, what in (("diverged", "diverged"), ("collapsed", "learned nothing")):
            if field in (runs.dtype.names or ()) and runs[field].any():
                counts = [(int(runs[field][runs["method"] == m].sum()), m) for m in self.methods_]
                said += f" Runs that {what}: " + ", ".join(f"{n} of {m}" for n, m in counts if n) + "."
        return said

    def _table(self) -> list[tuple[str, ...]]:
        """Return the header and the rows as strings."""
        first, *others = self.metrics_
        summary = self.summary(first)
        columns = {
            "method": self.methods_,
            _title(first): _with_spread(first, summary),
            f"difference to {self.baseline}": [*map(self._difference, summary)],
            "p": [_p_value(p) for p in summary["p_value"]],
        }
        for metric in others:
            columns[_title(metric)] = _with_spread(metric, self.summary(metric))
        for field, head in _MORE_COLUMNS.items():
            if field in (self.results_.dtype.names or ()) and not np.isnan(self.results_[field]).all():
                columns[head] = [_number(field, values.mean()) for values in self._by_fold(field).values()]
        return [tuple(columns), *zip(*columns.values(), strict=True)]

    def _difference(self, row: np.void) -> str:
        if row["method"] == self.baseline:
            return "baseline"
        # Rounded first, so that a tiny negative number does not become −0.
        value, low, high = (f"{round(row[f], 4) + 0.0:+.4f}" for f in ("difference", "low", "high"))
        return value if np.isnan(row["low"]) else f"{value} [{low}, {high}]"


def corrected_resampled_t_test(
    differences: np.ndarray, test_share: float
) -> tuple[float, float, float, float]:
    """Test two-sided whether differences over overlapping training folds have mean 0.

    Parameters
    ----------
    differences : ndarray of shape (n,)
        One per fold.
    test_share : float
        n_test / n_train.

    Returns
    -------
    standard_error, p_value, low, high : float
        NaN if n is 1. If all differences are equal, p is 1 if they are 0, else 0.
    """
    n, mean = len(differences), differences.mean()
    if n < 2:
        return (np.nan,) * 4
    error = np.sqrt(differences.var(ddof=1) * (1 / n + test_share))
    half = error * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    p_value = 2 * stats.t.sf(abs(mean) / error, n - 1) if error > 0 else float(mean == 0)
    return error, p_value, mean - half, mean + half


def check_baseline(baseline: str, methods: Iterable[str]) -> None:
    if baseline not in methods:
        raise ValueError(
            f"baseline={baseline!r} is not among the methods {list(methods)}."
            f"{did_you_mean(baseline, methods)} Add it, or name one of them as the baseline."
        )


def _title(metric: str) -> str:
    return MEASURES[metric].title if metric in MEASURES else metric.replace("_", " ")


def _number(field: str, value: float) -> str:
    if field in MEASURES and MEASURES[field].in_units:
        return f"{value:.4g}"
    return f"{value:.{_DECIMALS.get(field, 4)}f}"


def _with_spread(field: str, summary: np.ndarray) -> list[str]:
    values = ((_number(field, row["mean"]), row["sd"]) for row in summary)
    return [mean if np.isnan(sd) else f"{mean} ± {_number(field, sd)}" for mean, sd in values]


def _p_value(p: float) -> str:
    if np.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
