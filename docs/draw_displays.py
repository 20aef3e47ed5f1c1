"""Draw the pictures of the guide that displays of the library make.

- ``report``: a report on handwritten digits, by ``ReportDisplay``. The teacher has seen 700 labels. The
  student has 100 of its own and 597 unlabeled rows, as in ``examples/01_quickstart.py``. Times depend on
  the machine, so they are left out.
- ``comparison``: the log loss of six methods on digits, by ``ComparisonDisplay``, from the record
  ``examples/evidence/compare_six.json``.
- ``examples/evidence/compare_six.png``, from the same record, by ``MethodComparison.plot``.

Run this script after a change of the displays (about 20 seconds)::

    python docs/draw_displays.py

It writes two SVG files for each of the first two into ``docs/_static``, for light and for dark pages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator

from sklearn_kd import (
    ComparisonDisplay,
    DistillationReport,
    DistilledClassifier,
    MethodComparison,
    MLPStudent,
    ReportDisplay,
    distillation_report,
)

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "examples" / "evidence"))
import compare_six
from draw_landing import DARK, LIGHT

STATIC = Path(__file__).parent / "_static"
RECORD = Path(__file__).parents[1] / "examples" / "evidence" / "compare_six.json"


def comparison_of(name: str) -> MethodComparison:
    """Return the comparison on a data set from the record."""
    runs = json.loads(RECORD.read_text(encoding="utf-8"))["data"][name]["runs"]
    kinds = {key: "U20" if isinstance(value, str) else float for key, value in runs[0].items()}
    rows = [tuple(np.nan if value is None else value for value in run.values()) for run in runs]
    return MethodComparison(np.array(rows, dtype=list(kinds.items())))


def report_on_digits() -> DistillationReport:
    """Return a report on the student of the quickstart, without times."""
    X, y = load_digits(return_X_y=True)
    many, few, unlabeled, test = np.split(np.random.default_rng(0).permutation(len(X)), [700, 800, 1397])
    teacher = ExtraTreesClassifier(300, random_state=0).fit(X[many], y[many])
    student = DistilledClassifier(FrozenEstimator(teacher), MLPStudent, device="cpu", random_state=0)
    student.fit(X[few], y[few], X_unlabeled=X[unlabeled])
    alone = {"student_alone": "train", "X_train": X[few], "y_train": y[few]}
    return distillation_report(student, X[test], y[test], timing=False, **alone)


def paper(colors: dict[str, str]) -> dict[str, Any]:
    """Return matplotlib's parameters for a page of these colours."""
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    exact = {"svg.hashsalt": "sklearn_kd", "svg.fonttype": "none", "font.family": "sans-serif"}
    return {
        **exact,
        **dict.fromkeys(inks, colors["ink"]),
        **dict.fromkeys(papers, colors["paper"]),
        "legend.edgecolor": colors["grid"],
    }


def main() -> None:
    """Write all pictures."""
    matplotlib.use("Agg")
    report, digits = report_on_digits(), comparison_of("digits")
    for name, colors in (("light", LIGHT), ("dark", DARK)):
        with matplotlib.rc_context(paper(colors)):
            of_report = ReportDisplay.from_report(report, panels=["size", "calibration", "fidelity"]).figure_
            of_report.set_size_inches(9.4, 3.7)
            of_methods = ComparisonDisplay.from_comparison(digits, metric="log_loss").figure_
            of_methods.set_size_inches(9.4, 3.6)
            for kind, figure in (("report", of_report), ("comparison", of_methods)):
                figure.savefig(STATIC / f"{kind}-{name}.svg", metadata={"Date": None})
                plt.close(figure)
    compare_six.draw({name: comparison_of(name) for name in compare_six.DATA})


if __name__ == "__main__":
    main()
