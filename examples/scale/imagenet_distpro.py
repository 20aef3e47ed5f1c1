"""Run DistPro at the size of ImageNet, on several GPUs.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022) search a process on small images and follow it on ImageNet: batches of 512, a cosine schedule and
100 epochs. They publish a top-1 accuracy of 73.26 % for ResNet-50 to MobileNet, and of 73.51 %, as far as is
known for DeiT. Nothing of that size was trained to write this script; docs/guide/scale.rst says what it would
cost.

The pairs are networks of timm, with its trained teachers:

    resnet      ResNet-34 to ResNet-18
    mobilenet   ResNet-50 to MobileNet
    deit        DeiT-S to DeiT-Ti

There are 27 pathways: conv1, conv2 and conv3 between the last three stages of both networks.

1. Search, on Tiny-ImageNet (or on CIFAR-100: --data cifar100). A fifth of the images is D_val:

    torchrun --nproc-per-node 8 examples/scale/imagenet_distpro.py search --data tiny-imagenet-200 \
        --pair mobilenet --out runs

2. Train along the process on ImageNet, whose folder has train/CLASS/*.JPEG and val/CLASS/*.JPEG:

    torchrun --nproc-per-node 8 examples/scale/imagenet_distpro.py train --data imagenet --pair mobilenet \
        --process runs/mobilenet_process.npz --out runs

``accelerate launch --multi_gpu --num_processes 8`` can start either too. If a run was stopped, the same
command resumes it from its last epoch. --method KD and --method none train students for comparison.

    python examples/scale/imagenet_distpro.py --quick

This generates small images in the same layout, and runs everything in two processes: the search, a training
that breaks off after its first epoch, and the rest of that training. It needs neither timm nor a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from _image_folder import CentralCrop, ImageArrays, ImageFolder, TrainingCrop, split, write_images
from _pairs import BATCH, EPOCHS, PAIRS, SEARCH_EPOCHS, network
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import DistilledClassifier, DistProClassifier
from sklearn_kd.datasets import fetch_cifar100

RANK, WORLD_SIZE = (int(os.environ.get(name, alone)) for name, alone in (("RANK", 0), ("WORLD_SIZE", 1)))
HELD_OUT = 0.2


class NoRetraining(Callback):
    """End a fit after its search."""

    def on_epoch_begin(self, net, **kwargs):
        raise KeyboardInterrupt  # ends a training early


class Breakdown(Callback):
    """Fail after the first epoch while ``now`` is true, as machines do; count the epochs that begin."""

    now, begun = False, 0

    def on_epoch_begin(self, net, **kwargs):
        Breakdown.begun += 1
        if Breakdown.now and len(net.history) == 2:  # the epoch that begins is in it
            raise RuntimeError("broken off after the first epoch")


# --------------------------------------------------------------------------------------
# The two trainings


def search(options: argparse.Namespace) -> Path:
    """Search a process; return the file that it is saved in."""
    crops = TrainingCrop(options.size), CentralCrop(options.size)
    images = training_images(options.data, crops[0])
    train, held_out = (
        images.rows(rows, crop)
        for rows, crop in zip(split(images, HELD_OUT, options.seed), crops, strict=True)
    )
    clf = pathways(
        options,
        search_epochs=options.epochs or SEARCH_EPOCHS,
        max_epochs=1,
        callbacks=[NoRetraining()],
        meta=options.meta,
        e2=options.e2,
    )
    clf.fit(train, train.labels, X_val=held_out, y_val=held_out.labels)
    file = options.out / f"{options.pair}_process.npz"
    if RANK == 0:
        clf.process_.save(file)
        last = clf.search_history_[-1]
        print(f"searched {clf.process_}, loss on D_val {last['valid_loss']:.4f}: {file}", flush=True)
    wait_for_all()
    return file


def train(options: argparse.Namespace, *callbacks: Callback) -> Any:
    """Train a student by one of the methods; return the fitted estimator."""
    images = ImageFolder.read(options.data / "train", TrainingCrop(options.size))
    test = ImageFolder.read(options.data / "val", CentralCrop(options.size))
    epochs = options.epochs or EPOCHS
    schedule = LRScheduler(CosineAnnealingLR, T_max=epochs)
    params = {"max_epochs": epochs, "callbacks": [("rate", schedule), *callbacks]}
    clf = estimator(options, **params)
    clf.fit(images, images.labels, X_val=test, y_val=test.labels)
    if RANK == 0:
        record = summary(options, clf, clf.score(test, test.labels))
        file = options.out / f"{options.pair}_{options.method}.json"
        file.write_text(json.dumps(record, indent=1) + "\n")
        torch.save(clf.student_.state_dict(), file.with_suffix(".pt"))
        print(
            f"{options.pair}, {options.method}: {100 * record['accuracy']:.2f} % on {len(test)} images",
            flush=True,
        )
    wait_for_all()
    return clf


def estimator(options: argparse.Namespace, **params: Any) -> Any:
    """Return the unfitted estimator of a method."""
    if options.method == "DistPro":
        if options.process is None:
            raise SystemExit(
                "--method DistPro follows a process. Give --process FILE, which `search` writes."
            )
        return pathways(options, process=options.process, **params)
    teacher = None if options.method == "none" else teacher_of(options)
    meta = {"meta": "none"} if options.method == "none" else {"meta": "fixed", "lambda1": 0.5}
    # With `augment` the teacher is asked about the very crop that the student sees.
    return DistilledClassifier(
        teacher, network, temperature=1.0, augment=nn.Identity(), **meta, **shared(options), **params
    )


def pathways(options: argparse.Namespace, **params: Any) -> DistProClassifier:
    pair = PAIRS[options.pair]
    return DistProClassifier(
        teacher_of(options),
        network,
        teacher_layers=list(pair.teacher_layers),
        student_layers=list(pair.student_layers),
        transforms=list(options.transforms),
        distill_weight=options.distill_weight,
        **shared(options),
        **params,
    )


def shared(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that all trainings of a pair share."""
    pair = PAIRS[options.pair]
    loading = {"num_workers": options.workers, "pin_memory": torch.cuda.is_available()}
    return {
        **pair.training,
        **{
            f"iterator_{part}__{name}": value
            for part in ("train", "valid")
            for name, value in loading.items()
        },
        "student__name": pair.student,
        "batch_size": options.batch,
        "parallel": "ddp" if WORLD_SIZE > 1 else None,
        "execution": options.execution,
        "checkpoint_dir": options.out / "checkpoints",
        "random_state": options.seed,
        "verbose": int(not options.quick),
    }


def teacher_of(options: argparse.Namespace) -> nn.Module:
    """Return the teacher, with timm's trained weights if it is one of timm's."""
    torch.manual_seed(options.seed)  # of --quick it is untrained, and must be the same in all processes
    return network(PAIRS[options.pair].teacher, options.teacher_classes, pretrained=not options.quick)


def training_images(data: Path, crop: TrainingCrop) -> Any:
    if str(data) != "cifar100":
        return ImageFolder.read(data / "train", crop)
    found = fetch_cifar100(subset="train")
    return ImageArrays(found.data, found.target, crop)


def summary(options: argparse.Namespace, clf: Any, accuracy: float) -> dict[str, Any]:
    """Return the record of a training."""
    history = clf.history_
    return {
        "pair": options.pair,
        "method": options.method,
        "processes": WORLD_SIZE,
        "batch": options.batch,
        "accuracy": accuracy,
        "published": PAIRS[options.pair].published,
        "epochs": len(history),
        "train_loss": history[:, "train_loss"],
        "valid_acc": history[:, "valid_acc"],
        "seconds": history[:, "dur"],
        "pathways": history[:, "pathways"] if options.method == "DistPro" else None,
    }


# --------------------------------------------------------------------------------------
# Running


def wait_for_all() -> None:
    if WORLD_SIZE > 1:
        dist.barrier()


def quick(options: argparse.Namespace) -> None:
    """Run everything on generated images."""
    options.data, options.pair, options.size, options.batch = options.out / "images", "small", 16, 24
    options.epochs, options.teacher_classes, options.workers, options.transforms = 2, 4, 0, ["conv1"]
    if RANK == 0:
        write_images(options.data, n_classes=4, per_class=24, size=(48, 40))
    wait_for_all()
    options.process = search(options)
    Breakdown.now = True
    try:
        train(options, Breakdown())
    except RuntimeError as error:
        print(f"process {RANK}: {error}", flush=True)
    Breakdown.now = False
    clf = train(options, Breakdown())
    same = np.array(clf.history_[:, "train_loss"]).tobytes().hex()
    print(f"process {RANK}: epochs {len(clf.history_)}, begun {Breakdown.begun}, losses {same}", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", nargs="?", choices=["search", "train"])
    parser.add_argument("--data", type=Path, help="folder in ImageNet's layout; for a search also cifar100")
    parser.add_argument("--out", type=Path, help="folder for the process, the students and the checkpoints")
    parser.add_argument("--pair", choices=[*PAIRS], default="mobilenet")
    parser.add_argument("--method", choices=["DistPro", "KD", "none"], default="DistPro")
    parser.add_argument("--process", type=Path, help="file of a process, written by `search`")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}, in a search {SEARCH_EPOCHS}")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a batch, over all processes")
    parser.add_argument("--size", type=int, help="height and width of images; default: 224, in a search 64")
    parser.add_argument("--meta", choices=["gradient", "linear"], default="gradient")
    parser.add_argument("--e2", type=int, default=10, help="predicted iterations per cycle of --meta linear")
    parser.add_argument("--transforms", nargs="+", default=["conv1", "conv2", "conv3"])
    parser.add_argument("--distill-weight", type=float, default=1.0)
    parser.add_argument("--teacher-classes", type=int, default=1000)
    parser.add_argument("--execution", choices=["eager", "bfloat16"], default="eager")
    parser.add_argument(
        "--workers", type=int, default=12, help="processes that load images, for each training process"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="use small generated images and two processes")
    options = parser.parse_args()
    if not options.quick and None in (options.stage, options.data, options.out):
        parser.error("give search or train, --data and --out; or --quick")
    # DeiT's position embeddings are of 224×224.
    small = options.stage == "search" and options.pair != "deit"
    options.size = options.size or (64 if small else 224)
    return options


def main() -> None:
    options = parsed()
    if options.quick and WORLD_SIZE == 1:
        with tempfile.TemporaryDirectory() as folder:
            out = [] if options.out else ["--out", folder]
            torchrun = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
            ]
            sys.exit(subprocess.run([*torchrun, *sys.argv, *out]).returncode)
    if WORLD_SIZE > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        quick(options)
    else:
        {"search": search, "train": train}[options.stage](options)
    if WORLD_SIZE > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
