"""Compare DistPro with its baselines on a distance for each pixel: NYU Depth V2, or small composed scenes.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022), report for NYU Depth V2, with a ResNet-50 that teaches a ResNet-18, an RMSE of .1972 against
.2032 of the student alone. The arms, the choice of their weights and the pairs are those of
distpro_cityscapes.py, with the teacher's predictions instead of logits for KD. The loss is the squared error.

With --quick the data are scenes of Fashion-MNIST's articles before a wall and up to 1.5 m above a floor, both
tiled with CIFAR-10's images, 48×48 pixels: 6,000 of the training images and 1,000 of the test images of both
sets. The height of an article depends on its class, so its distance follows from its class and its size in
the image. A wide network teaches a narrow one. The teacher is trained first. This takes minutes on one GPU
and 16 cores:

    python examples/paper/distpro_nyuv2.py --quick --device cuda --jobs 12 --out FOLDER

Without --quick the data are the authors' files (sklearn_kd.datasets.load_nyu_depth) at half their size, and
the networks are torchvision's encoders with the library's sum of their stages. This has not been run.

It prints the tables, and writes every run to distpro_nyuv2.json and the teacher's weights beside it.
"""

from __future__ import annotations

import numpy as np
from _map_study import Arrays, Study, carry_out
from _maps import MapPlan
from _maps import tables as tables_of

from sklearn_kd.datasets import load_nyu_depth, make_depth_scenes

STAGES = ("layer1", "layer2", "layer3", "layer4")
SGD = {"optimizer": "SGD", "optimizer__momentum": 0.9, "optimizer__weight_decay": 5e-4}
# Metres, of Fashion-MNIST's ten classes: T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker,
# bag, boot. Larger than in life, so that they are some pixels high.
HEIGHTS = np.array([1.1, 1.7, 1.1, 1.9, 1.4, 0.5, 1.2, 0.6, 0.7, 0.8])


def compose(objects, labels, backgrounds, n, size, seed):
    """Return scenes of two to five articles, up to 1.5 m above a floor, and the distance of each pixel."""
    return make_depth_scenes(
        objects,
        HEIGHTS[labels],
        backgrounds,
        n,
        size=size,
        n_objects=(2, 5),
        camera_height=(1.5, 1.5),
        horizon=(0.4, 0.4),
        wall=(5.0, 8.0),
        lift=(0.0, 1.5),
        random_state=seed,
        return_X_y=True,
    )


def load(data, size) -> Arrays:
    """Return the images of rooms for training and for the test."""
    train, test = (
        load_nyu_depth(data_home=data, subset=subset, size=size, return_X_y=True)
        for subset in ("train", "test")
    )
    return *train, *test


STUDY = Study(
    small=MapPlan(
        kind="distances",
        student={"channels": (12, 24, 48)},
        teacher={"channels": (64, 128, 256), "blocks": 2},
        layers=STAGES[:3],
        transforms=("conv2",),
        training={"optimizer": "Adam", "lr": 0.01, "batch_size": 64},
        warm_up=2,
    ),
    full=MapPlan(
        kind="distances",
        student={"encoder": "resnet18"},
        teacher={"encoder": "resnet50"},
        layers=STAGES,
        transforms=("conv1", "conv2", "conv3"),
        training=SGD | {"lr": 0.01, "batch_size": 8},
        warm_up=10,
    ),
    n_outputs=(1, 1),
    lengths=((20, 8, 30), (100, 30, 100)),
    compose=compose,
    load=load,
    size=((48, 48), (240, 320)),
)


def tables(record):
    """Return the tables of runs of the small task."""
    return tables_of(STUDY.small, record)


if __name__ == "__main__":
    carry_out(__doc__, __file__, STUDY)
