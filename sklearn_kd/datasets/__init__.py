"""The paper's data sets: its synthetic one, and fetchers for the images."""

from sklearn_kd.datasets._cifar import fetch_cifar10, fetch_cifar100
from sklearn_kd.datasets._fashion_mnist import fetch_fashion_mnist
from sklearn_kd.datasets._synthetic import make_metaparameter_synthetic

__all__ = [
    "fetch_cifar10",
    "fetch_cifar100",
    "fetch_fashion_mnist",
    "make_metaparameter_synthetic",
]
