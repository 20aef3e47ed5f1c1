"""The paper's data sets: its synthetic one, and fetchers for the images; scenes with a map for each image."""

from sklearn_kd.datasets._cifar import fetch_cifar10, fetch_cifar100
from sklearn_kd.datasets._fashion_mnist import fetch_fashion_mnist
from sklearn_kd.datasets._scenes import make_depth_scenes, make_segmentation_scenes
from sklearn_kd.datasets._synthetic import make_metaparameter_synthetic

__all__ = [
    "fetch_cifar10",
    "fetch_cifar100",
    "fetch_fashion_mnist",
    "make_depth_scenes",
    "make_metaparameter_synthetic",
    "make_segmentation_scenes",
]
