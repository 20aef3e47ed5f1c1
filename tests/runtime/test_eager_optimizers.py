"""Optimizers that do not import torch's compiler: the same steps, and torch left as it was."""

import copy
import functools
import sys

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from sklearn_kd.runtime import _eager_optimizers
from sklearn_kd.runtime._eager_optimizers import eager_method, make_optimizer


@pytest.fixture
def no_compiler(monkeypatch):
    """Let the process be one that has not imported torch's compiler."""
    monkeypatch.setattr(_eager_optimizers, "_compiler_is_imported", lambda: False)


def steps(make, method, **params):
    """Return the weight after three steps."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = make([w], **params)
    for k in range(3):
        method(optimizer, "zero_grad")()
        (w**2).sum().mul(k + 1).backward()
        method(optimizer, "step")()
    return w.detach(), optimizer


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_steps_are_those_of_torch(no_compiler, kind):
    ours, optimizer = steps(functools.partial(make_optimizer, kind), eager_method, lr=0.1, weight_decay=0.1)
    assert torch.equal(ours, steps(kind, getattr, lr=0.1, weight_decay=0.1)[0])
    assert type(optimizer) is kind
    assert not {"step", "zero_grad", "add_param_group"} & set(vars(optimizer))


def test_methods_of_torch_stay(no_compiler):
    before = {name: getattr(SGD, name) for name in ("step", "zero_grad", "add_param_group", "state_dict")}
    _, optimizer = steps(functools.partial(make_optimizer, SGD), eager_method, lr=0.1)
    assert all(getattr(SGD, name) is method for name, method in before.items())
    assert eager_method(optimizer, "step").__func__ is not SGD.step
    assert eager_method(optimizer, "zero_grad").__func__ is not SGD.zero_grad


def test_hooks_are_called(no_compiler):
    called = []
    optimizer = make_optimizer(SGD, [torch.nn.Parameter(torch.ones(1))], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    eager_method(optimizer, "step")(lambda: called.append("closure"))
    assert called == ["before", "closure", "after"]


def test_a_method_that_others_replaced_is_called(no_compiler, monkeypatch):
    called = []

    def noted(step):
        @functools.wraps(step)
        def wrapper(self, *args):
            called.append("class")
            return step(self, *args)

        return wrapper

    monkeypatch.setattr(SGD, "step", noted(SGD.step))
    optimizer = make_optimizer(SGD, [torch.nn.Parameter(torch.ones(1))], lr=0.1)
    eager_method(optimizer, "step")()
    optimizer.zero_grad = lambda: called.append("object")
    eager_method(optimizer, "zero_grad")()
    assert called == ["class", "object"]


def test_an_optimizer_of_ones_own(no_compiler):
    class Own(Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def add_param_group(self, group):
            self.added = getattr(self, "added", 0) + 1
            super().add_param_group(group)

        @torch.no_grad()
        def step(self, closure=None):
            for w in self.param_groups[0]["params"]:
                w -= self.defaults["lr"] * w.grad

    w, optimizer = steps(functools.partial(make_optimizer, Own), eager_method, lr=0.1)
    assert optimizer.added == 1
    assert torch.equal(w, steps(Own, getattr, lr=0.1)[0])


def test_another_wrapper_of_step_is_kept(no_compiler, monkeypatch):
    monkeypatch.setattr(_eager_optimizers, "_NAMES_IN_STEP_WRAPPER", {"set_grad_enabled"})
    _eager_optimizers._unwrapped.cache_clear()
    optimizer = make_optimizer(SGD, [torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert eager_method(optimizer, "step").__func__ is SGD.step
    _eager_optimizers._unwrapped.cache_clear()


def test_with_the_compiler_methods_are_torchs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", sys.modules.get("torch._dynamo", object()))
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1) if "torch._dynamo" in sys.modules else None
    assert eager_method(optimizer, "step") == optimizer.step


def test_a_copy_is_an_ordinary_optimizer(no_compiler):
    _, optimizer = steps(functools.partial(make_optimizer, Adam), eager_method, lr=0.1)
    copied = copy.deepcopy(optimizer)
    assert copied.state_dict().keys() == eager_method(optimizer, "state_dict")().keys()


def test_errors_are_torchs(no_compiler):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        make_optimizer(SGD, [torch.nn.Parameter(torch.ones(1))], lr=-1.0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        make_optimizer(SGD, [torch.nn.Parameter(torch.ones(1))], wrong=1)
