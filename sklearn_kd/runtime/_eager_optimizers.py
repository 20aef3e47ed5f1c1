"""Make and use torch optimizers without importing torch's compiler.

Torch wraps methods of its optimizers so that its compiler skips them. The wrappers import the compiler
(``torch._dynamo``) when they are first called, which takes a second. In a process that has not imported the
compiler, nothing can be traced and the wrappers have no other effect, so the functions inside them are
called. Torch itself is not changed. If the compiler has been imported, a method is wrapped in an unknown way,
or someone has replaced it, the method is called unchanged.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module

# All that torch's wrapper of ``step`` does besides calling it. A wrapper that does more is not removed.
_NAMES_IN_STEP_WRAPPER = {
    "torch._dynamo", "_dynamo", "cast", "Optimizer", "is_grad_enabled", "set_grad_enabled", "defaults",
    "graph_break",
}  # fmt: skip


def make_optimizer(make: Callable[..., Optimizer], *args: Any, **params: Any) -> Optimizer:
    """Return ``make(*args, **params)``, an optimizer."""
    if not isinstance(make, type) or type(make) is not type or not issubclass(make, Optimizer):
        return make(*args, **params)
    if make.__new__ is not object.__new__ or _compiler_is_imported():
        return make(*args, **params)
    made = object.__new__(make)
    # While the object is made, this attribute hides the method of its class.
    vars(made)["add_param_group"] = MethodType(_unwrapped(make.add_param_group), made)
    try:
        made.__init__(*args, **params)  # type: ignore[misc]
    finally:
        del vars(made)["add_param_group"]
    return made


def eager_method(optimizer: Optimizer, name: str) -> Callable[..., Any]:
    """Return the method ``name`` of an optimizer, to be called at once."""
    method = getattr(optimizer, name)
    if _compiler_is_imported() or name in vars(optimizer) or not isinstance(method, MethodType):
        return method
    return MethodType(_unwrapped(method.__func__), optimizer)


def _compiler_is_imported() -> bool:
    return "torch._dynamo" in sys.modules


@functools.lru_cache(maxsize=64)
def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an equivalent function without the compiler, or ``function`` itself."""
    if _is_made_by(getattr(torch, "_disable_dynamo", None), function):
        return inspect.unwrap(function, stop=lambda inner: inner is not function)
    if not _is_made_by(Optimizer.profile_hook_step, function):
        return function
    with_gradients_off = function.__wrapped__  # type: ignore[attr-defined]
    decorator = getattr(optimizer_module, "_use_grad_for_differentiable", None)
    if not _is_made_by(decorator, with_gradients_off):
        return function
    code = with_gradients_off.__code__
    if not _NAMES_IN_STEP_WRAPPER.issuperset(code.co_names):
        return function
    return Optimizer.profile_hook_step(_with_gradients_as_asked(with_gradients_off.__wrapped__))


def _is_made_by(decorator: Callable[..., Any] | None, function: Callable[..., Any]) -> bool:
    """Return whether this decorator, and no other, has made this function from another."""
    if decorator is None or not isinstance(function, FunctionType) or not hasattr(function, "__wrapped__"):
        return False
    return decorator(_unwrapped_example).__code__ is function.__code__


def _unwrapped_example() -> None:
    """Do nothing. Decorators are tried on this function."""


def _with_gradients_as_asked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the step of an optimizer as torch does, but without the breaks in a compiled graph."""

    @functools.wraps(step)
    def eager_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return eager_step
