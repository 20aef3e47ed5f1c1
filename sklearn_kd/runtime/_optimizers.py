"""Optimizers given by the user: a class, or the name of one of torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_kd.errors._did_you_mean import did_you_mean

# Types that scikit-learn's check of parameters accepts, so that messages here can suggest a remedy.
OPTIMIZER_KINDS = [type, str, callable, Optimizer]


def named_optimizers() -> dict[str, type[Optimizer]]:
    """Return torch's optimizers by lower-case name."""
    return {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }


def clear_gradients(optimizer: Optimizer) -> None:
    """Set the gradients of an optimizer's weights to None, faster than ``zero_grad``."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for w in group["params"]:
            w.grad = None


def uncount_steps(optimizer: Optimizer, n_undone: int) -> None:
    """Subtract the steps undone on the device from the step counts on the host.

    Adam and similar optimizers count the steps of CUDA weights on the host unless they are ``capturable``.
    """
    for w, state in optimizer.state.items():
        n_steps = state.get("step")
        if isinstance(n_steps, Tensor) and n_steps.device != w.device and w.grad is not None:
            n_steps.sub_(n_undone).clamp_(min=0)


def plain_rate(optimizer: Optimizer) -> float | None:
    """Return the learning rate if a step is exactly w − lr · g, as in plain SGD, else None."""
    group = optimizer.param_groups[0]
    plain = type(optimizer) is torch.optim.SGD and len(optimizer.param_groups) == 1
    more = any(group.get(name) for name in ("momentum", "weight_decay", "maximize"))
    return group["lr"] if plain and not more and isinstance(group["lr"], float) else None


def optimizer_class(optimizer: Any, *, of_metaparameters: bool = False) -> type[Optimizer]:
    """Return the optimizer class for a class or a name in :mod:`torch.optim`, in upper or lower case.

    Parameters
    ----------
    optimizer : class or str
    of_metaparameters : bool, default=False
        Whether the optimizer updates metaparameters instead of weights.

    Raises
    ------
    ValueError
        If torch has no optimizer with this name, or the optimizer cannot be used here.
    TypeError
        If it is neither a name nor a class of optimizers.
    """
    if isinstance(optimizer, str):
        known = named_optimizers()
        if optimizer.lower() not in known:
            raise ValueError(
                f"optimizer={optimizer!r} is not known.{did_you_mean(optimizer.lower(), known)} Give one of "
                f"{sorted(kind.__name__ for kind in known.values())}, or an optimizer class."
            )
        _refuse_unsuitable(known[optimizer.lower()], optimizer, of_metaparameters)
        return known[optimizer.lower()]
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        _refuse_unsuitable(optimizer, optimizer, of_metaparameters)
        return optimizer
    made = isinstance(optimizer, Optimizer)
    kind, given = type(optimizer).__name__ if made else "SGD", repr(optimizer)[:200]
    arguments = "optimizer_params={...}" if of_metaparameters else "optimizer__NAME"
    example = "{'weight_decay': 1e-4}" if of_metaparameters else "optimizer__weight_decay=1e-4"
    raise TypeError(
        f"optimizer={f'an instance of {kind}' if made else given} must be an optimizer class or its name, "
        f"because its weights and its lr are not known before fit. Give optimizer=torch.optim.{kind} and its "
        f"arguments as {arguments}, such as {example}."
    )


def _refuse_unsuitable(kind: type[Optimizer], given: Any, of_metaparameters: bool) -> None:
    """Raise ValueError for a torch optimizer that would fail in its constructor or its first step."""
    is_muon = kind is getattr(torch.optim, "Muon", None)
    if kind is torch.optim.SparseAdam:
        reason = "it takes sparse gradients only, and gradients are dense here. Give 'Adam'"
    elif is_muon and of_metaparameters:
        reason = "it takes matrices only, which metaparameters are not. Give 'Adam'"
    elif is_muon and isinstance(given, str):
        reason = (
            "it takes matrices only, and most students have biases too. Give 'AdamW', or the class "
            "torch.optim.Muon for a student whose weights are all matrices"
        )
    elif kind is torch.optim.LBFGS and of_metaparameters:
        reason = "it evaluates the loss several times in a step. Give 'Adam'"
    else:
        return
    raise ValueError(f"optimizer={kind.__name__} cannot be used: {reason}.")
