"""Shared parts of the two scripts on maps: the command line, the small task, the teacher, and the runs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _distpro import digest
from _encoders import CHANNELS
from _maps import (
    MapExperiment,
    MapPlan,
    MapTask,
    common_settings,
    errors_of,
    run_of,
    tables,
    teacher_of,
    train_teacher,
)
from _protocol import Runs, arguments

from sklearn_kd.datasets import fetch_cifar10, fetch_fashion_mnist

# Images for the small tasks: (training, test), so many of each set.
N_OBJECTS, N_BACKGROUNDS, N_TEST = (12_000, 2_000), (7_000, 1_000), 1_000
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Study(NamedTuple):
    """The parts that differ between the two scripts.

    Attributes
    ----------
    small, full : MapPlan
        The plans under ``--quick`` and of the paper's data.
    n_outputs : tuple of (int, int)
        Numbers of outputs of both plans.
    lengths : tuple of (tuple, tuple)
        Epochs of the training, of the search and of the teacher, for both plans.
    compose : callable
        ``compose(objects, labels, backgrounds, n, size, seed)`` returns (X, y) of scenes.
    load : callable
        ``load(data_home, size)`` returns (X, y, X_test, y_test) of the paper's data.
    size : tuple of (tuple, tuple)
        Height and width of the images, for both plans.
    """

    small: MapPlan
    full: MapPlan
    n_outputs: tuple[int, int]
    lengths: tuple[tuple[int, int, int], tuple[int, int, int]]
    compose: Callable[..., tuple[np.ndarray, np.ndarray]]
    load: Callable[..., Arrays]
    size: tuple[tuple[int, int], tuple[int, int]]


# --------------------------------------------------------------------------------------
# The small task


def sources_of(data: str | None) -> dict[str, np.ndarray]:
    """Return the images that scenes are composed of, as bytes, and their labels, for both subsets."""
    found = {}
    for part, subset in enumerate(("train", "test")):
        objects, labels = fetch_fashion_mnist(data_home=data, subset=subset, return_X_y=True)
        backgrounds, _ = fetch_cifar10(data_home=data, subset=subset, return_X_y=True)
        n, m = N_OBJECTS[part], N_BACKGROUNDS[part]
        found |= {
            f"objects_{subset}": np.rint(255 * objects[:n, 0]).astype(np.uint8),
            f"labels_{subset}": labels[:n].astype(np.uint8),
            f"backgrounds_{subset}": np.rint(255 * backgrounds[:m]).astype(np.uint8),
        }
    return found


def write_scenes(file: Path, study: Study, options: Any) -> None:
    """Compose and write the scenes of a study; no image of a training scene is in a test scene."""
    sources = (
        dict(np.load(options.sources, allow_pickle=False)) if options.sources else sources_of(options.data)
    )
    arrays = {}
    for seed, (subset, n) in enumerate((("train", options.images), ("test", options.test_images))):
        of = (sources[f"{name}_{subset}"] for name in ("objects", "labels", "backgrounds"))
        X, y = study.compose(*of, n, options.size, seed)
        arrays |= {f"X_{subset}": np.rint(255 * X).astype(np.uint8), f"y_{subset}": y}
    np.savez(file, **arrays)


@cache
def scenes_in(file: Path) -> Arrays:
    """Return (X, y, X_test, y_test) of a file of scenes."""
    with np.load(file, allow_pickle=False) as found:
        return tuple(
            found[name].astype(np.float32) / 255 if name.startswith("X") else found[name]
            for name in ("X_train", "y_train", "X_test", "y_test")
        )


@cache
def loaded(load: Callable[..., Arrays], data: str | None, size: tuple[int, int]) -> Arrays:
    """Load the paper's data once in each process."""
    return load(data, size)


# --------------------------------------------------------------------------------------
# One run


def one_run(images, processes, plan, n_outputs, arrays, teacher, **setting):
    """Make one run; ``arrays`` is a file of scenes, or the function that loads them and its arguments."""
    found = scenes_in(arrays) if isinstance(arrays, Path) else loaded(*arrays)
    task = MapTask(*found, teacher_of(teacher, plan, n_outputs))
    return run_of(task, plan, processes, **setting)


# --------------------------------------------------------------------------------------
# The command line


def options_of(doc: str, script: str, study: Study) -> Any:
    """Parse the options of a script; the small task and the paper's data have different defaults."""
    (epochs, *_), (full_epochs, *_) = study.lengths
    number = {"type": int, "metavar": "N"}
    options = arguments(
        doc,
        script,
        runs=3,
        length=("epochs", full_epochs),
        quick=(3, epochs),
        data={"metavar": "FOLDER", "help": "folder of the data sets; default: scikit-learn's"},
        sources={"type": Path, "metavar": "FILE", "help": "images for the scenes, by --write-sources"},
        device={"default": "auto", "help": "device of PyTorch; default: a GPU if there is one"},
        seeds=number | {"nargs": "+", "help": "seeds; default: 0 to --runs"},
        images=number | {"help": "number of training scenes under --quick; default 6000"},
        size={"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH"), "help": "size of the images"},
        **{
            "write-sources": {"type": Path, "metavar": "FILE", "help": "write images for --sources, and end"},
            "search-epochs": number | {"help": "epochs of the search"},
            "teacher-epochs": number | {"help": "epochs of the teacher"},
            "student": {"choices": list(CHANNELS), "help": "the student's encoder, without --quick"},
            "test-images": number | {"default": N_TEST, "help": f"number of test scenes; default {N_TEST}"},
        },
    )
    _, search_epochs, teacher_epochs = study.lengths[0 if options.quick else 1]
    options.search_epochs = options.search_epochs or search_epochs
    options.teacher_epochs = options.teacher_epochs or teacher_epochs
    options.images = (options.images or 6_000) if options.quick else 0
    options.size = tuple(options.size or study.size[0 if options.quick else 1])
    options.seeds = options.seeds or list(range(options.runs))
    return options


def carry_out(doc: str, script: str, study: Study) -> None:
    """Run a script: data, teacher, all runs, tables."""
    options = options_of(doc, script, study)
    if options.write_sources:
        np.savez_compressed(options.write_sources, **sources_of(options.data))
        return
    which = 0 if options.quick else 1
    plan = (study.small, study.full)[which]._replace(device=options.device)
    if options.student and not options.quick:
        plan = plan._replace(student={"encoder": options.student})
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        arrays: Any = (study.load, options.data, options.size)
        if options.quick:
            arrays = Path(temporary) / "scenes.npz"
            write_scenes(arrays, study, options)
        X, y, X_test, y_test = scenes_in(arrays) if options.quick else loaded(*arrays)
        teacher = folder / f"{Path(script).stem}_teacher.pt"
        if not teacher.exists() or options.anew:
            train_teacher(teacher, plan, X, y, options.teacher_epochs)
        settings = common_settings(plan) | {
            "teacher": digest(teacher),
            "teacher_errors": teacher_errors(teacher, plan, study.n_outputs[which], X_test, y_test),
            "test": hashlib.sha256(y_test.tobytes()).hexdigest(),
            "size": options.size,
        }
        runs = Runs.of_script(options, settings)
        given = {"plan": plan, "n_outputs": study.n_outputs[which], "arrays": arrays, "teacher": teacher}
        found = MapExperiment(runs, one_run, options, **given).carry_out()
        runs.write(chosen=found["chosen"])
    print(f"the teacher: {settings['teacher_errors']}\n")
    for table in tables(plan, found):
        print(table)


def teacher_errors(file: Path, plan: MapPlan, n_outputs: int, X: np.ndarray, y: np.ndarray) -> dict:
    """Return the errors of a teacher on the test images."""
    device = "cuda" if plan.device in ("auto", "cuda") and torch.cuda.is_available() else "cpu"
    teacher = teacher_of(file, plan, n_outputs).to(device)
    parts = []
    with torch.inference_mode():
        for x in torch.tensor(X).split(50):
            maps = torch.nn.functional.interpolate(teacher(x.to(device)), size=y.shape[1:], mode="bilinear")
            parts.append((maps[:, 0] if plan.kind == "distances" else maps.argmax(dim=1)).cpu().numpy())
    errors = errors_of(plan, y, np.concatenate(parts))
    return {name: round(float(value), 4) for name, value in errors.items() if name != "score"}
