"""Measure the time and size of each model of ``side_by_side.py``: plain, as ONNX, as compiled trees."""

from __future__ import annotations

import subprocess
import tempfile
import time
import warnings
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import side_by_side
from _protocol import list_table
from _tasks import Folders

TURNS = {1: 60, 1000: 12}  # by rows of a call
SECONDS_OF_COMPILING = 180
STUDENT = "linear + unlabeled"
PLAIN, ONNX, TREELITE, COMPILED = "{}, Python", "{}, ONNX", "{}, treelite", "{}, tl2cgen"


def speeds_wanted(options):
    """Yield the settings: every table, whose teacher is a forest."""
    folders = Folders(options.mlbench, options.fashion)
    for task in filter(folders.has, side_by_side.TASKS):
        if task != side_by_side.TEXT:
            yield {"task": task, "part": "speed"}


def one_speed(task, part, mlbench=None, images=None):
    """Return CPU microseconds of a call and bytes by model, and the seconds that compiling took."""
    of = side_by_side.cell(task, "more rows", 0, Folders(mlbench, images))
    models, found = {side_by_side.TEACHER: of.teacher}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models[STUDENT] = side_by_side.fitted(of, "linear", True, 0)
        for width in side_by_side.WIDTHS:
            name = side_by_side.HARD.format(width)
            models[name.partition(",")[0]] = side_by_side.fitted(of, name, True, 0)
        contenders, sizes = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for name, model in models.items():
                contenders[PLAIN.format(name)] = model.predict_proba
                sizes[PLAIN.format(name)] = side_by_side.size_of(model)
                contenders[ONNX.format(name)], sizes[ONNX.format(name)] = as_onnx(model, of, Path(folder))
            compiled, found["compiling"] = compiled_trees(of.teacher, Path(folder))
            for form, (ask, size) in compiled.items():
                contenders[form.format(side_by_side.TEACHER)] = ask
                sizes[form.format(side_by_side.TEACHER)] = size
            X = of.X_test.astype(np.float32)
            off = {
                name: distance(ask, models[name.rpartition(",")[0]], X) for name, ask in contenders.items()
            }
            times = {str(n): in_turns(contenders, np.resize(X, (n, X.shape[1])), k) for n, k in TURNS.items()}
    packages = ("skl2onnx", "onnxruntime", "treelite", "tl2cgen")
    return found | {
        "us": times,
        "bytes": sizes,
        "differences": off,
        "packages": {name: version(name) for name in packages},
    }


def as_onnx(model, of, folder: Path):
    """Write a model as ONNX; return a function that asks onnxruntime, and the bytes of the file."""
    import onnxruntime

    path = folder / "model.onnx"
    if hasattr(model, "export_student"):
        model.export_student(path)
    else:
        import skl2onnx

        made = skl2onnx.to_onnx(model, of.X[:1].astype(np.float32), options={"zipmap": False})
        path.write_bytes(made.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    name, last = session.get_inputs()[0].name, session.get_outputs()[-1].name
    return (lambda X: session.run([last], {name: X})[0]), path.stat().st_size


def compiled_trees(forest, folder: Path):
    """Return the forest in treelite's interpreter and compiled by tl2cgen, and the seconds of compiling."""
    import tl2cgen
    import treelite

    model = treelite.sklearn.import_model(forest)
    forms = {
        TREELITE: (
            lambda X: treelite.gtil.predict(model, X, nthread=1),
            len(model.serialize_bytes()),
        )
    }
    source, began = folder / "forest", time.perf_counter()
    tl2cgen.generate_c_code(model, dirpath=source, params={"parallel_comp": 32})
    files = sorted(source.glob("*.c"))
    library = source / "forest.so"
    try:
        for file in files:
            left = SECONDS_OF_COMPILING - (time.perf_counter() - began)
            command = ["cc", "-c", "-O1", "-fPIC", "-std=c99", file.name]
            subprocess.run(command, cwd=source, check=True, timeout=max(left, 0.1), capture_output=True)
    except subprocess.TimeoutExpired:
        return forms, f"more than {SECONDS_OF_COMPILING} s"
    objects = [file.with_suffix(".o").name for file in files]
    subprocess.run(["cc", "-shared", "-o", library.name, *objects, "-lm"], cwd=source, check=True)
    predictor = tl2cgen.Predictor(library, nthread=1)
    forms[COMPILED] = (
        lambda X: predictor.predict(tl2cgen.DMatrix(X, dtype="float32")),
        library.stat().st_size,
    )
    return forms, round(time.perf_counter() - began, 1)


def distance(ask, model, X) -> float:
    """Return the largest difference between a form's probabilities and the model's."""
    found = np.asarray(ask(X)).reshape(len(X), -1)
    if not np.allclose(found.sum(axis=1), 1, atol=1e-3):  # logits
        found = np.exp(found - found.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    return float(np.abs(found - model.predict_proba(X)).max())


def in_turns(contenders: dict, rows: np.ndarray, n_turns: int) -> dict:
    """Return the median CPU time of a call in microseconds, with the model in the caches.

    The contenders take turns in random order. In its turn each is called four times, of which the first is
    not timed.
    """
    times, rng = defaultdict(list), np.random.default_rng(0)
    for _ in range(n_turns):
        for name in rng.permutation(list(contenders)):
            contenders[name](rows)
            for _ in range(3):
                began = time.thread_time()
                contenders[name](rows)
                times[name].append(1e6 * (time.thread_time() - began))
    return {name: float(np.median(of_calls)) for name, of_calls in times.items()}


def speed_table(runs):
    """Return the table of µs and bytes: the median over the tasks, and the range."""
    speeds = [run for run in runs if run["setting"].get("part") == "speed"]
    found = defaultdict(lambda: defaultdict(list))
    for run in speeds:
        for n in TURNS:
            for name, us in run["us"][str(n)].items():
                found[name][n].append(us)
        for name, size in run["bytes"].items():
            found[name]["bytes"].append(size)
    for run in runs:  # measured by themselves
        method = run["setting"].get("method")
        if method in (side_by_side.AUTOGLUON, side_by_side.DEEPBRIDGE) and "us" in run:
            for n in TURNS:
                found[f"{method}, Python"][n].append(run["us"][str(n)])
            found[f"{method}, Python"]["bytes"].append(run["bytes"])
    rows = [
        [name, *(spread(of[n]) for n in TURNS), spread([b / 1000 for b in of["bytes"]])]
        for name, of in found.items()
    ]
    return list_table(["", "one row, µs", "1,000 rows, µs", "kB"], rows)


def spread(values) -> str:
    """Format median and range, such as "117 (110–160)"."""
    low, middle, high = (f"{x:,.0f}" if x >= 9.5 else f"{x:.1f}" for x in np.percentile(values, [0, 50, 100]))
    return f"{middle} ({low}–{high})"
