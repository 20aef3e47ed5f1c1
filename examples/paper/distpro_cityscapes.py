"""Compare DistPro with its baselines on a class for each pixel: CityScapes, or small composed scenes.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022), report for CityScapes, with a ResNet-101 that teaches a ResNet-18, a mean IoU of 69.12 against
66.92 of the student alone. The arms are the student alone; its teacher's logits of each pixel (KD, T = 4);
pathways of equal weight; ReviewKD's fusion blocks; DistPro, and the mean over time of its process. Each arm's
weight is the best of three on a fifth of the training images, the same for all arms; the mean has DistPro's.
The arms of a seed have the same initial weights, batches and mirrored images, so differences are paired. The
numbers are those of the last epoch.

With --quick the data are scenes of 48×48 pixels and 11 classes: articles of Fashion-MNIST on images of
CIFAR-10, from 6,000 of the training images and 1,000 of the test images of both sets. A wide network teaches
a narrow one. The teacher is trained first. This takes minutes on one GPU and 16 cores:

    python examples/paper/distpro_cityscapes.py --quick --device cuda --jobs 12 --out FOLDER

Without --quick the data are CityScapes' own files (sklearn_kd.datasets.load_cityscapes) at half their size,
and the networks are torchvision's encoders with the library's sum of their stages; --student mobilenet_v2 is
the paper's other student. This has not been run.

It prints the tables, and writes every run to distpro_cityscapes.json and the teacher's weights beside it.
"""

from __future__ import annotations

from _map_study import Arrays, Study, carry_out
from _maps import MapPlan
from _maps import tables as tables_of

from sklearn_kd.datasets import load_cityscapes, make_segmentation_scenes

STAGES = ("layer1", "layer2", "layer3", "layer4")
SGD = {"optimizer": "SGD", "optimizer__momentum": 0.9, "optimizer__weight_decay": 5e-4}


def compose(objects, labels, backgrounds, n, size, seed):
    """Return scenes of one to three articles, and the class of each pixel."""
    return make_segmentation_scenes(
        objects, labels, backgrounds, n, size=size, scale=(0.5, 0.9), random_state=seed, return_X_y=True
    )


def load(data, size) -> Arrays:
    """Return CityScapes' images for training and validation."""
    train, test = (
        load_cityscapes(data_home=data, subset=subset, size=size, return_X_y=True)
        for subset in ("train", "val")
    )
    return *train, *test


STUDY = Study(
    small=MapPlan(
        kind="classes",
        student={"channels": (12, 24, 48)},
        teacher={"channels": (64, 128, 256), "blocks": 2},
        layers=STAGES[:3],
        transforms=("conv2",),
        training={"optimizer": "Adam", "lr": 0.01, "batch_size": 64},
        warm_up=2,
    ),
    full=MapPlan(
        kind="classes",
        student={"encoder": "resnet18"},
        teacher={"encoder": "resnet101"},
        layers=STAGES,
        transforms=("conv1", "conv2", "conv3"),
        training=SGD | {"lr": 0.01, "batch_size": 8},
        warm_up=10,
        ignored=255,
    ),
    n_outputs=(11, 19),
    lengths=((20, 8, 30), (100, 30, 100)),
    compose=compose,
    load=load,
    size=((48, 48), (512, 1024)),
)


def tables(record):
    """Return the tables of runs of the small task."""
    return tables_of(STUDY.small, record)


if __name__ == "__main__":
    carry_out(__doc__, __file__, STUDY)
