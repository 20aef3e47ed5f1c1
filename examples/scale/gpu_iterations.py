"""Measure iterations of the pairs of networks on one GPU: seconds, images per second, memory.

Each number is the time of an iteration inside ``fit``, on noise images of 224×224 that are on the GPU, so
that no decoding is included. It is the median of the iterations after the first ones, between callbacks that
wait for the GPU. The kinds are:

- none: the student on the labels;
- KD: with the teacher's logits of each batch;
- retraining: DistPro along equal weights, so that all 27 pathways are computed;
- search: DistPro with a hypergradient in every iteration.

Batches are the share of 512 images for each of 1, 8 and 64 GPUs, or less if that does not fit. The script
needs timm.

    python examples/scale/gpu_iterations.py      # about seven minutes on an H200

It writes gpu_iterations.json beside this file, or in --out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _pairs import PAIRS, Pair, network
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd import DistilledClassifier, DistProClassifier

sys.path.append(str(Path(__file__).resolve().parents[1]))
from _provenance import provenance

KINDS = ("none", "KD", "retraining", "search")
BATCHES = (8, 64, 256)
N_CLASSES, WARM_UP, MEASURED = 1000, 5, 9
SIZE, DEVICE = 224, "cuda"


class Clock(Callback):
    """Record the seconds of each training iteration; end the fit after the last one."""

    def __init__(self, n: int):
        self.n = n

    def on_train_begin(self, net, **kwargs):
        self.at_: list[float] = []
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def on_batch_end(self, net, training=False, **kwargs):
        if not training:
            return
        torch.cuda.synchronize()
        self.at_.append(time.perf_counter())
        if len(self.at_) > self.n:
            self.peak_ = torch.cuda.max_memory_allocated()
            raise KeyboardInterrupt  # ends a training early

    def seconds(self) -> list[float]:
        return np.diff(self.at_)[WARM_UP:].tolist()


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Return noise and labels; every class occurs."""
    X = np.random.default_rng(0).standard_normal((1024, 3, SIZE, SIZE), dtype=np.float32)
    return X, np.arange(len(X)) % N_CLASSES


def estimator(pair: Pair, kind: str, clock: Clock, **params: Any) -> Any:
    """Return an estimator whose training has iterations of one kind."""
    student = {"student": network, "student__name": pair.student}
    teacher = None if kind == "none" else network(pair.teacher, N_CLASSES)
    params |= student | pair.training
    if kind in ("none", "KD"):
        meta = "none" if kind == "none" else "fixed"
        augment = nn.Identity()  # the teacher is asked about each batch
        return DistilledClassifier(teacher, meta=meta, augment=augment, callbacks=[clock], **params)
    make = partial(
        DistProClassifier,
        teacher,
        teacher_layers=list(pair.teacher_layers),
        student_layers=list(pair.student_layers),
        **params,
    )
    if kind == "retraining":
        return make(weights="equal", callbacks=[clock])
    return make(search_epochs=1, max_epochs=1, search_callbacks=[clock], callbacks=[End()])


class End(Callback):
    """End a training before it begins."""

    def on_epoch_begin(self, net, **kwargs):
        raise KeyboardInterrupt


def measure(pair: str, kind: str, batch: int, execution: str) -> dict:
    """Return the median seconds of an iteration, and the peak memory of a training."""
    X, y = images()
    clock = Clock(WARM_UP + MEASURED)
    clf = estimator(
        PAIRS[pair],
        kind,
        clock,
        batch_size=batch,
        max_epochs=100,
        device=DEVICE,
        random_state=0,
        execution=execution,
    )
    if kind == "search":
        clf.set_params(search_epochs=100)
    found = {"pair": pair, "kind": kind, "batch": batch, "execution": execution}
    try:
        clf.fit(X, y, X_val=X[:batch], y_val=y[:batch])
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        return found | {"seconds": None, "why": "out of memory"}
    seconds = clock.seconds()
    return found | {
        "seconds": float(np.median(seconds)),
        "quartiles": np.percentile(seconds, [25, 75]).tolist(),
        "n": len(seconds),
        "peak bytes": clock.peak_ - X.nbytes,  # the images are on the GPU
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--pairs", nargs="+", default=[name for name in PAIRS if name != "small"])
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    chosen = parser.parse_args()
    record: dict[str, Any] = {"gpu": torch.cuda.get_device_name()} | provenance(__file__, timm)
    record["tf32 in convolutions"] = torch.backends.cudnn.allow_tf32
    record["runs"] = []
    for execution in ("eager", "bfloat16"):
        for pair in chosen.pairs:
            for kind in chosen.kinds:
                for batch in chosen.batches:
                    if kind == "search" and execution == "bfloat16":
                        continue  # hypergradients are taken in float32
                    began = time.perf_counter()
                    record["runs"].append(measure(pair, kind, batch, execution))
                    print(json.dumps(record["runs"][-1]), round(time.perf_counter() - began, 1), flush=True)
                    gc.collect()
                    torch.cuda.empty_cache()
                    (chosen.out / "gpu_iterations.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
