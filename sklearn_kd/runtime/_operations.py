"""The size of the largest operation of a forward pass, by which the number of threads is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from sklearn_kd.runtime._threads import PER_ELEMENT, threads_for

Result = TypeVar("Result")

# Functions that multiply rows by matrices. Any other counts by the elements that it makes.
_PRODUCTS = {
    "linear",
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "einsum",
    "bilinear",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
}


def largest_operation(run: Callable[[], Result], modules: Iterable[nn.Module]) -> tuple[Result, float]:
    """Return the result of ``run()``, and the multiply-adds of its largest operation.

    An element that an operation makes counts as ``PER_ELEMENT`` multiply-adds. Operations in TorchScript,
    compiled and recurrent modules cannot be observed and count as infinitely large.

    Parameters
    ----------
    run : callable() -> object
        A forward pass without gradient, not in inference mode.
    modules : iterable of nn.Module
        All modules that take part.
    """
    if any(_is_opaque(module) for module in modules):
        return run(), math.inf
    try:
        with _Counter() as counter:
            return run(), counter.largest
    except Exception:  # such as from torch.cond, which compiles; other errors will be raised again
        return run(), math.inf


def operations_of(run: Callable[[], object], modules: Iterable[nn.Module]) -> float:
    """Return the multiply-adds of the largest operation of a forward pass that is run only to count them.

    Return infinity if the operations cannot be observed, without a pass, or if the pass fails. Code that runs
    later reports the failure if it meets it too.

    Parameters
    ----------
    run, modules
        As in :func:`largest_operation`.
    """
    if any(_is_opaque(module) for module in modules):
        return math.inf
    try:
        with _Counter() as counter:
            run()
    except Exception:
        return math.inf
    return counter.largest


def largest_weight(modules: Iterable[nn.Module]) -> float:
    """Return the size of the largest weight, which a step of the optimizer changes element by element."""
    weights = (w for module in modules for w in module.parameters())
    sizes = (w.numel() for w in weights if not isinstance(w, UninitializedParameter))
    return float(PER_ELEMENT * max(sizes, default=0))


def threads_of_trial(network: nn.Module) -> threads_for:
    """Return a context with as many threads as a pass over a few rows can use, by the largest weight.

    It is for checks before training, when operations have not been counted.
    """
    return threads_for(largest_weight([network]))


def _is_opaque(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
    return compiled or isinstance(module, (ScriptModule, nn.RNNBase))


class _Counter(TorchFunctionMode):
    """Record the multiply-adds of the largest call of a torch function inside."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        made = next(_tensors((result,)), None)
        if made is not None:
            name = getattr(function, "__name__", "")
            size = _multiply_adds(name, list(_tensors((*args, *kwargs.values()))), made)
            self.largest = max(self.largest, size)
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the values, including those in tuples and lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _multiply_adds(name: str, given: list[Tensor], made: Tensor) -> float:
    if name.startswith("conv") and len(given) > 1:
        positions = given[0] if name.startswith("conv_transpose") else made
        return float(positions.numel() * math.prod(given[1].shape[1:]))
    if name in _PRODUCTS and given:
        x, *others = given
        n_rows = x.numel() // max(1, x.shape[-1])
        matrices = [n_rows * math.prod(other.shape[-2:]) for other in others if other.ndim > 1]
        return float(max(matrices, default=0))
    return 0.0 if made._is_view() else float(PER_ELEMENT * made.numel())
