"""Optimizers as users give them: a class, or the name of one of torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from sklearn_kd.errors._did_you_mean import did_you_mean

# Types that scikit-learn's check of parameters accepts, so that messages here can suggest a remedy.
OPTIMIZER_KINDS = [type, str, callable, Optimizer]


def named_optimizers() -> dict[str, type[Optimizer]]:
    """Return torch's optimizers by their names in lower case."""
    return {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }


def optimizer_class(optimizer: Any, name: str = "optimizer") -> type[Optimizer]:
    """Return the optimizer class, given itself or its name in :mod:`torch.optim`, in whatever case.

    Raises
    ------
    ValueError
        If no optimizer of torch has this name.
    TypeError
        If it is neither a name nor a class of optimizers; ``name`` is the parameter's.
    """
    if isinstance(optimizer, str):
        known = named_optimizers()
        if optimizer.lower() not in known:
            raise ValueError(
                f"{name}={optimizer!r} is not known.{did_you_mean(optimizer.lower(), known)} It is one of "
                f"{sorted(kind.__name__ for kind in known.values())}, or a class of optimizers."
            )
        return known[optimizer.lower()]
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer
    made = isinstance(optimizer, Optimizer)
    kind, given = type(optimizer).__name__ if made else "SGD", repr(optimizer)[:200]
    raise TypeError(
        f"{name}={f'an instance of {kind}' if made else given} must be a class of optimizers, or the name of "
        f"one: its weights and its lr are not known before fit. Give {name}=torch.optim.{kind} and its "
        f"arguments as {name}__NAME, such as {name}__weight_decay=1e-4."
    )
