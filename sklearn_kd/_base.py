"""What the estimators share: routed parameters, cloning, device, seeds."""

from __future__ import annotations

import copy
import difflib
import inspect
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from skorch import NeuralNet

from sklearn_kd._data import TensorBatches
from sklearn_kd._sklearn_compat import clone_by_parameters


class Seeds(NamedTuple):
    """One seed per use, so that methods compared under one ``random_state`` are paired."""

    split: int
    teacher: int
    student: int
    training: int
    train_batches: int
    valid_batches: int
    strategy: int

    @classmethod
    def draw(cls, random_state) -> Seeds:
        """Fresh seeds from an int, a RandomState or None."""
        rng = check_random_state(random_state)
        return cls(*(int(seed) for seed in rng.randint(np.iinfo(np.int32).max, size=len(cls._fields))))


class BaseDistiller(BaseEstimator):
    """Base of the estimators: ``PREFIX__NAME`` parameters beside the named ones."""

    # What may stand before the double underscore, beside nested estimators.
    _routed_prefixes = (
        "student",
        "optimizer",
        "meta_optimizer",
        "iterator_train",
        "iterator_valid",
        "callbacks",
    )

    # ----------------------------------------------------------------------------------
    # Parameters

    def _routed_names(self):
        named = self._get_param_names()
        return sorted(
            name
            for name in vars(self)
            if name not in named and not name.startswith("_") and not name.endswith("_")
        )

    def _routed(self, prefix: str) -> dict:
        """The parameters given as ``prefix__NAME``, by NAME."""
        start = prefix + "__"
        names = [name for name in self._routed_names() if name.startswith(start)]
        return {name[len(start) :]: getattr(self, name) for name in names}

    def get_params(self, deep=True):
        """Get the parameters, those given as ``PREFIX__NAME`` included.

        Parameters
        ----------
        deep : bool, default=True
            Include the parameters of a teacher or a strategy that is an estimator.

        Returns
        -------
        dict
            Parameter names mapped to their values.
        """
        return super().get_params(deep) | {n: getattr(self, n) for n in self._routed_names()}

    def set_params(self, **params):
        """Set parameters, also of nested objects as ``PREFIX__NAME``.

        Parameters
        ----------
        **params : dict
            ``teacher__*`` and ``meta__*`` reach into a teacher or a strategy that is an
            estimator; ``student__*``, ``optimizer__*``, ``meta_optimizer__*``,
            ``iterator_train__*``, ``iterator_valid__*`` and ``callbacks__*`` are kept for
            ``fit``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is not known.
        """
        routed = {
            name: value
            for name, value in params.items()
            if "__" in name and name.partition("__")[0] in self._routed_prefixes
        }
        super().set_params(**{name: v for name, v in params.items() if name not in routed})
        vars(self).update(routed)
        return self

    def _check_routed(self):
        """Raise TypeError, with the nearest names, for a routed parameter nothing takes."""
        takers = {
            "optimizer": [*_arguments(self.optimizer), "param_groups"],
            "meta_optimizer": _arguments(self.meta_optimizer),
            "iterator_train": _arguments(TensorBatches),
            "iterator_valid": _arguments(TensorBatches),
        }
        for name in self._routed_names():
            prefix, _, rest = name.partition("__")
            if not rest or prefix not in self._routed_prefixes:
                known = [*self._get_param_names(), *(f"{p}__{rest}" for p in self._routed_prefixes)]
                raise TypeError(
                    f"{type(self).__name__} got an unexpected parameter {name!r}.{nearest(name, known)}"
                )
            known = takers.get(prefix)
            if known and rest.partition("__")[0] not in known:
                raise TypeError(
                    f"{name!r}: {prefix} takes no {rest!r}."
                    f"{nearest(name, [f'{prefix}__{k}' for k in known])} It takes {known}."
                )

    def __sklearn_clone__(self):
        # A trained network is shared by the clones: a copy costs memory in every fold, and
        # a skorch net would be cloned into an unfitted one.
        if not isinstance(self.teacher, (torch.nn.Module, NeuralNet)):
            return clone_by_parameters(self)
        without_teacher = copy.copy(self)
        without_teacher.teacher = None
        clone = clone_by_parameters(without_teacher)
        clone.teacher = self.teacher
        return clone

    # ----------------------------------------------------------------------------------
    # Device

    def _device(self) -> torch.device:
        """``device``, where "auto" is CUDA, then MPS, then the CPU."""
        if self.device != "auto":
            try:
                device = torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(f"device={self.device!r} is not known: {error}") from None
            if device.type == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"device={self.device!r}, but torch sees no CUDA device. Set device='auto'.")
            return device
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _arguments(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("params", "dataset")]


def nearest(name: str, known) -> str:
    """Ask whether the nearest known name was meant; an empty string where none is near."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
