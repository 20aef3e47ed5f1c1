"""Backward passes from given gradients of the outputs.

``torch.autograd.backward`` and ``torch.autograd.grad`` first compare the shapes of outputs and gradients
symbolically. This imports SymPy, which takes half a second in each process, and 40 µs in each pass. Here
shapes are compared as numbers, and the engine behind both functions is called directly, as torch itself and
other libraries do. The engine is not a documented part of torch. Before its first use it is tried on a known
derivative; if the result is wrong, the documented functions are called instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add Jᵀ r to the ``grad`` of all weights.

    Parameters
    ----------
    outputs : sequence of Tensor
        Tensors that require gradients.
    gradients : sequence of Tensor
        r: one tensor for each output, with its shape.
    """
    engine = _engine() if _have_same_shapes(outputs, gradients) else None
    if outputs[0].is_cuda:
        _start_thread(outputs[0].device)
    if engine is None:
        torch.autograd.backward(outputs, gradients)
    else:
        _accumulate(engine, tuple(outputs), tuple(gradients))


def gradient_by(
    inputs: Sequence[Tensor], output: Tensor, r: Tensor, retain_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return Jᵀ r with respect to each of ``inputs``, or None if the output does not depend on it.

    Parameters
    ----------
    inputs : sequence of Tensor
        Tensors that require gradients.
    output : Tensor
    r : Tensor of the output's shape
    retain_graph : bool, default=False
        Whether another pass through the same graph follows.
    """
    engine = _engine() if _have_same_shapes([output], [r]) else None
    if output.is_cuda:
        _start_thread(output.device)
    if engine is None:
        return torch.autograd.grad(output, inputs, r, retain_graph=retain_graph, allow_unused=True)
    return _derive(engine, tuple(inputs), output, r, retain_graph)


def _have_same_shapes(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> bool:
    """Return whether all are plain tensors, and each gradient has the shape of its output."""
    return len(outputs) == len(gradients) and all(
        type(output) is type(r) is Tensor and output.shape == r.shape
        for output, r in zip(outputs, gradients, strict=True)
    )


def _accumulate(engine: Any, outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    engine(outputs, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _derive(
    engine: Any, inputs: tuple[Tensor, ...], output: Tensor, r: Tensor, retain_graph: bool
) -> tuple[Tensor | None, ...]:
    return engine((output,), (r,), retain_graph, False, inputs, allow_unreachable=True, accumulate_grad=False)


@functools.cache
def _start_thread(device: torch.device) -> None:
    """Launch a kernel in torch's thread for the backward passes of a CUDA device, once per process.

    The first kernel gives the thread the device's context. If the thread begins with a matrix product, cuBLAS
    finds no context, and torch warns. A backward pass from a loss begins with the gradient of the loss; from
    given gradients of logits it begins with the product of the last layer.
    """
    engine = _engine()
    if engine is None:
        return
    with torch.enable_grad():
        x = torch.ones(1, device=device, requires_grad=True)
        _derive(engine, (x,), x * x, torch.ones_like(x), False)


@functools.cache
def _engine() -> Callable[..., Any] | None:
    """Return the engine's backward pass, or None if this version of torch has none with this signature."""
    try:
        engine = torch.autograd.Variable._execution_engine.run_backward
        with torch.enable_grad():
            x, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
            r = torch.tensor([1.0, 2.0])
            square = x * x
            by_x, by_unused = _derive(engine, (x, unused), square, r, True)
            _accumulate(engine, (square,), (r,))
        known = (2 * r).tolist()
        right = by_unused is None and by_x is not None and by_x.tolist() == known
        return engine if right and x.grad is not None and x.grad.tolist() == known else None
    except Exception:
        return None
