"""Load or make data sets: the paper's synthetic data, images, and images with a map for each."""

from sklearn_kd.datasets._cifar import fetch_cifar10, fetch_cifar100
from sklearn_kd.datasets._cityscapes import load_cityscapes
from sklearn_kd.datasets._fashion_mnist import fetch_fashion_mnist
from sklearn_kd.datasets._nyu_depth import load_nyu_depth
from sklearn_kd.datasets._scenes import make_depth_scenes, make_segmentation_scenes
from sklearn_kd.datasets._synthetic import make_metaparameter_synthetic

__all__ = [
    "fetch_cifar10",
    "fetch_cifar100",
    "fetch_fashion_mnist",
    "load_cityscapes",
    "load_nyu_depth",
    "make_depth_scenes",
    "make_metaparameter_synthetic",
    "make_segmentation_scenes",
]
