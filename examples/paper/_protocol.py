"""Shared parts of the scripts for the paper's tables and figures.

The module has the command line, the finished runs on disk, statistics, tables, and drawing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import scipy
import torch
from scipy import stats
from tqdm import tqdm

from sklearn_kd.style import _style as style

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import code_of, versions

METHODS = ("none", "naive", "random", "gradient", "linear", "hyperopt")
# Colours of the library's pictures; the lines differ, so that they can be read in grey.
LOOKS = {
    "none": {"color": style.GREY, "linestyle": ":"},
    "naive": {"color": style.BLUE, "linestyle": "--"},
    "random": {"color": style.PURPLE, "linestyle": (0, (2, 1.5))},
    "gradient": {"color": style.ORANGE, "linestyle": "-."},
    "linear": {"color": style.VERMILION, "linestyle": "-"},
    "hyperopt": {"color": style.GREEN, "linestyle": (0, (8, 3))},
}
SECONDS_BETWEEN_WRITES = 2


# --------------------------------------------------------------------------------------
# The command line


def arguments(
    description: str,
    script: str,
    *,
    runs: int,
    length: tuple[str, int | None],
    quick: tuple[int, int],
    **further: dict[str, Any],
) -> argparse.Namespace:
    """Parse the options of a script.

    Parameters
    ----------
    description, script : str
        The script's docstring and its ``__file__``.
    runs : int
        The default of ``--runs``.
    length : tuple of (str, int or None)
        Unit of the training, "epochs" or "iterations", and its default; None if the default
        differs by setting.
    quick : tuple of (int, int)
        Runs and length under ``--quick``.
    **further : dict
        The script's own options, as keyword arguments of ``add_argument``.

    Returns
    -------
    argparse.Namespace
        ``runs``, the length under its name, ``jobs``, ``anew``, ``beside``, ``quick``, ``json`` (the path of
        the record or None) and ``code``, as returned by :func:`code_of`.
    """
    unit, amount = length
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, help=f"runs per setting; default {runs}")
    parser.add_argument(
        f"--{unit}", type=int, help=f"length of each training; default {amount or 'by setting'}"
    )
    for name, of in further.items():
        parser.add_argument(f"--{name}", **of)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes; default 1")
    parser.add_argument("--anew", action="store_true", help="discard the runs on disk")
    parser.add_argument(
        "--beside",
        metavar="WHY",
        help="add to runs of other code; the record keeps the reason WHY they can be compared",
    )
    parser.add_argument("--out", type=Path, help="folder to write to; default: the script's")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"make {quick[0]} runs of {quick[1]} {unit}, as a test; write no file without --out",
    )
    chosen = parser.parse_args()
    defaults = quick if chosen.quick else (runs, amount)
    for name, default in zip(("runs", unit), defaults, strict=True):
        if getattr(chosen, name) is None:
            setattr(chosen, name, default)
    folder = chosen.out or (None if chosen.quick else Path(script).parent)
    chosen.json = folder and folder / f"{Path(script).stem}.json"
    chosen.code = code_of(script)
    return chosen


# --------------------------------------------------------------------------------------
# The runs


class Runs:
    """The finished runs of a script, in memory and on disk.

    A script that was stopped resumes: a run whose settings are in the file is not repeated.

    Parameters
    ----------
    path : Path or None
        The JSON file; None: nothing is read or written.
    settings : dict
        Settings that all runs share. A file with other settings, or with other versions of the packages, is
        refused.
    code : dict or None, default=None
        The code of the runs, as returned by :func:`code_of`. The record lists under ``codes`` every code that
        made some of its runs. The ``code`` of a run is an index into that list. Runs without one are older
        than the list.
    anew : bool, default=False
        Discard the runs in the file.
    beside : str or None, default=None
        The reason why runs of this code can be compared with the file's runs of other code. Without a reason
        they are not added to the file.
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict,
        code: dict | None = None,
        *,
        anew: bool = False,
        beside: str | None = None,
    ):
        self.path = path
        self._record = {"versions": versions(scipy), "settings": _as_json(settings), "codes": []}
        self._done: dict[str, dict] = {}
        self._written = 0.0
        if path is not None and path.exists() and not anew:
            self._take_up(json.loads(path.read_text()), code, beside)
        self._code = self._place_of(code, beside)

    @classmethod
    def of_script(cls, options: argparse.Namespace, settings: dict) -> Runs:
        """Return the runs of a script by its :func:`arguments`."""
        return cls(options.json, settings, options.code, anew=options.anew, beside=options.beside)

    def _take_up(self, found, code, beside):
        for part in ("versions", "settings"):
            if found[part] != self._record[part]:
                raise SystemExit(
                    f"{self.path} has runs of other {part}: {found[part]}, now {self._record[part]}. "
                    "Give --anew to replace them, or --out FOLDER to keep them."
                )
        self._done = {_key(run["setting"]): run for run in found["runs"]}
        self._record["codes"] = found.get("codes", [])
        known = any(_same_code(code, one) for one in self._record["codes"])
        if self._done and not known and not beside:
            raise SystemExit(
                f"{self.path} has runs of other code: {_codes_in_words(found)}; now {_in_words(code)}. To "
                "continue with that code, check out its commit. Otherwise give --anew to replace the runs, "
                "--out FOLDER to keep them, or --beside WHY to add runs of this code; WHY says why the runs "
                "can be compared, and is kept in the record."
            )

    def _place_of(self, code, beside):
        """Return the index of this code in the record's list; add it if it is missing."""
        codes = self._record["codes"]
        for place, one in enumerate(codes):
            if _same_code(code, one):
                return place
        codes.append((code or {}) | ({"beside": beside} if self._done else {}))
        return len(codes) - 1

    def of(
        self, function: Callable[..., dict], wanted: Iterable[dict], jobs: int = 1, **given: Any
    ) -> list[dict]:
        """Return ``function(**setting, **given)`` of each setting, computed or taken from the file.

        Each result is a dict of ``setting``, the function's results, ``seconds`` and ``code``. ``given``
        holds arguments that no number depends on, such as the paths of the data.
        """
        wanted = [_as_json(setting) for setting in wanted]
        missing = [setting for setting in wanted if _key(setting) not in self._done]
        function = _importable(function)
        made = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_run)(function, setting, given) for setting in missing
        )
        try:
            for run in tqdm(made, total=len(missing), unit="run", disable=None):
                self._done[_key(run["setting"])] = run | {"code": self._code}
                if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
                    self.write()
        finally:
            self.write()
        return [self._done[_key(setting)] for setting in wanted]

    def all(self) -> list[dict]:
        """Return all finished runs, including those that this call of the script did not request."""
        return list(self._done.values())

    def write(self, **found: Any) -> None:
        """Write everything to the file atomically; ``found`` are results of the runs."""
        self._record |= _as_json(found)
        self._written = time.monotonic()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        lines = ",\n".join(json.dumps(run) for run in self._done.values())
        head = json.dumps(self._record, indent=1).removesuffix("\n}")
        unfinished.write_text(f'{head},\n "runs": [\n{lines}\n]}}\n')
        os.replace(unfinished, self.path)


def _importable(function):
    """Return a script's function under the module of its file, not ``__main__``, for other processes."""
    if function.__module__ != "__main__":
        return function
    script = Path(sys.modules["__main__"].__file__).stem
    return getattr(importlib.import_module(script), function.__name__)


def _run(function, setting, given):
    torch.set_num_threads(1)
    began = time.perf_counter()
    found = _as_json(function(**setting, **given))
    return {"setting": setting} | found | {"seconds": round(time.perf_counter() - began, 2)}


def _key(setting):
    return json.dumps(setting, sort_keys=True)


def _as_json(value):
    """Convert a value as JSON does, so that computed and stored values are equal."""
    return json.loads(json.dumps(value))


def _same_code(code, other):
    return all((code or {}).get(part) == other.get(part) for part in ("library", "script"))


def _in_words(code):
    return ", ".join(f"{part} {of}" for part, of in (code or {}).items()) or "code that was not noted"


def _codes_in_words(found):
    """Return the number of runs of each code in a record, in words."""
    counts = Counter(run.get("code") for run in found["runs"])
    return "; ".join(
        f"{n} of {_in_words(None if place is None else found['codes'][place])}" for place, n in counts.items()
    )


# --------------------------------------------------------------------------------------
# Statistics


def number(value: float, sign: bool = False) -> str:
    """Format with three digits after the point and none before it: ".630", "−.012"."""
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text).replace("-", "−")


def mean_max(values: Sequence[float]) -> str:
    """Format as in the paper, ".630 (.720)"."""
    return f"{number(np.mean(values))} ({number(np.max(values))})"


def mean_sd(values: Sequence[float]) -> str:
    """Format as ".630 ± .012", with the sample standard deviation."""
    return f"{number(np.mean(values))} ± {number(np.std(values, ddof=1))}"


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Return the mean of a − b with its 95 % intervals: Student's, and the bootstrap's (BCa).

    If all differences are equal the intervals are that one number.
    """
    difference = np.subtract(a, b)
    mean, n = float(difference.mean()), len(difference)
    low = high = boot_low = boot_high = mean
    if np.ptp(difference) > 0:
        half = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
        low, high = mean - half, mean + half
        rng = np.random.default_rng(seed)
        boot = stats.bootstrap((difference,), np.mean, n_resamples=5000, random_state=rng)
        boot_low, boot_high = boot.confidence_interval
    return {
        "mean": mean,
        "low": float(low),
        "high": float(high),
        "boot_low": float(boot_low),
        "boot_high": float(boot_high),
        "better": int((difference > 0).sum()),
        "worse": int((difference < 0).sum()),
        "n": n,
    }


def interval(difference: dict[str, float]) -> str:
    """Format as "+.012 [−.003, +.027]", by Student's t."""
    mean, low, high = (number(difference[part], sign=True) for part in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def share_clipped(
    path: np.ndarray, largest_move: float, temperature_bounds: tuple[float, float]
) -> float | None:
    """Return the share of the hypergradients' components that were clipped.

    Moves that ended on a bound are not counted. Return None if there are no others.
    """
    shares = []
    taken = ~np.isnan(path["val_loss"])[1:]
    for name, bounds in (("lambda1", (0, 1)), ("temperature", temperature_bounds)):
        inside = taken & ~np.isin(path[name][1:], bounds)
        shares.append(np.abs(np.diff(path[name]))[inside] > 0.999 * largest_move)
    both = np.concatenate(shares)
    return round(float(both.mean()), 4) if len(both) else None


def list_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table for the documentation."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: numbers", ""]
    for first, *rest in (header, *rows):
        lines += [f"   * - {first}".rstrip(), *(f"     - {cell}" for cell in rest)]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------
# Drawing


def band(ax, x: Sequence[float], curves: Sequence[Sequence[float]], **style: Any) -> None:
    """Draw the mean of several curves, and one standard deviation to either side."""
    mean = np.mean(curves, axis=0)
    (line,) = ax.plot(x, mean, **style)
    if len(curves) == 1:
        return
    sd = np.std(curves, axis=0, ddof=1)
    ax.fill_between(x, mean - sd, mean + sd, color=line.get_color(), alpha=0.15, linewidth=0)
