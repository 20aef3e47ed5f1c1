"""What every kind of teacher can do."""

from __future__ import annotations

import numpy as np
from torch import Tensor


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
        """Whether this is the wrapper for ``teacher``."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError if the teacher cannot be used."""

    def fit(self, X, y, *, sample_weight, rng) -> None:
        """Train on D_train, given in the user's container and labels."""

    def logits(self, X, X_tensor: Tensor, classes: np.ndarray, batch_size: int) -> Tensor:
        """Logits of shape (n, K), columns in the order of ``classes``, on X_tensor's device."""
        raise NotImplementedError
