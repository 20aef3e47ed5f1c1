"""Backward passes through the engine: the same numbers as torch's functions give."""

import subprocess
import sys

import pytest
import torch

from sklearn_kd.runtime import _backward
from sklearn_kd.runtime._backward import backward, gradient_by


@pytest.fixture(params=["engine", "torch's functions"])
def way(request, monkeypatch):
    if request.param == "engine":
        assert _backward._engine() is not None
    else:
        monkeypatch.setattr(_backward, "_engine", lambda: None)


def outputs_of(w):
    return [w.sin() * 3, (w**2).sum(0)]


def test_backward_adds_to_the_gradients(way):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 3, generator=generator, requires_grad=True)
    r = [torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)]
    expected = torch.autograd.grad(outputs_of(w), [w], r)[0]
    backward(outputs_of(w), r)
    backward(outputs_of(w), r)
    assert torch.equal(w.grad, expected + expected)


def test_gradient_by_leaves_grad_alone(way):
    w, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    output, r = w**3, torch.tensor([1.0, 2.0, 3.0])
    by_w, by_unused = gradient_by([w, unused], output, r, retain_graph=True)
    assert by_w.tolist() == [3, 6, 9] and by_unused is None and w.grad is None
    assert gradient_by([w], output, r)[0].tolist() == [3, 6, 9]
    with pytest.raises(RuntimeError, match="second time"):
        gradient_by([w], output, r)


def test_gradients_of_another_shape_are_refused(way):
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"[Mm]ismatch in shape"):
        backward([w * 2], [torch.ones(2)])


def test_an_engine_that_gives_other_numbers_is_not_used(monkeypatch):
    class Engine:
        def run_backward(self, *args, **kwargs):
            return torch.zeros(2), None

    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Engine())
    assert _backward._engine.__wrapped__() is None
    monkeypatch.delattr(torch.autograd.Variable, "_execution_engine")
    assert _backward._engine.__wrapped__() is None


def test_the_pass_that_starts_the_thread_of_a_device_leaves_no_trace(monkeypatch):
    passes = []
    monkeypatch.setattr(_backward, "_derive", lambda engine, inputs, *rest: passes.append((inputs, *rest)))
    _backward._start_thread.__wrapped__(torch.device("cpu"))
    ((x,), output, r, _) = passes[0]
    assert x.is_leaf and x.grad is None and output.requires_grad and r.device == x.device


@pytest.mark.gpu
@pytest.mark.parametrize("call", ["backward([w @ w], [w.detach()])", "gradient_by([w], w @ w, w.detach())"])
def test_no_warning_of_a_context_where_a_product_comes_first(call):
    """Torch warns once per process, so that only a fresh one can tell."""
    code = (
        "import torch\nfrom sklearn_kd.runtime._backward import backward, gradient_by\n"
        "w = torch.eye(8, device='cuda', requires_grad=True)\n" + call
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, timeout=120)
