"""The interface of every kind of teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.runtime._random_state import seeded_without_lock
from sklearn_kd.runtime._torch_modes import default_dtype_of_caller


class Teacher:
    """A teacher that comes trained; ``fitted`` is what the estimator keeps of it.

    Parameters
    ----------
    teacher : object
    stated : list or None, default=None
        The classes of its columns, where the user states them.
    """

    def __init__(self, teacher, stated=None):
        self.fitted, self.stated = teacher, stated
        self.check()

    @staticmethod
    def accepts(teacher) -> bool:
        """Return whether this is the wrapper for ``teacher``."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError if the teacher cannot be used."""

    def fit(self, X, y, *, sample_weight, rng) -> None:
        """Train on D_train, given in the user's container and labels."""

    def logits(self, X, X_tensor: Tensor, classes: np.ndarray, batch_size: int) -> Tensor:
        """Return logits of shape (n, K), columns in the order of ``classes``, on X_tensor's device."""
        raise NotImplementedError

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """Enter a context to train and to ask it in, seeded with ``seed``; generators are put back.

        The lock of torch's state is not held, since a scikit-learn teacher may wait for threads that need it.
        """
        with seeded_without_lock(seed), default_dtype_of_caller():
            yield


def shown(teacher: Any, n_max: int = 200) -> str:
    """Its ``repr`` in a message, cut: that of weights or arrays is pages long."""
    text = " ".join(repr(teacher).split())
    return text if len(text) <= n_max else f"{text[:n_max]}..."


def how_to_give(teacher: Any) -> str:
    """Return advice for an object that is no teacher, or an empty string."""
    if isinstance(teacher, type):
        return " Give an instance, not the class."
    if isinstance(teacher, Mapping):
        return " Load weights into their network by load_state_dict, and give the network."
    if isinstance(teacher, (str, PathLike)):
        return " Load the file, and give what is in it."
    return ""
