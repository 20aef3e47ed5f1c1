"""Iterations captured in a graph: on a CPU in a graph that behaves as CUDA's do.

``TapeGraph`` notes the operations that torch dispatches and undoes what they did; a replay
carries them out on the same memory. Like a CUDA graph it reads and writes the tensors of the
capture, runs no Python, and cannot wait for a number.
"""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from helpers.parameter_ids import in_words
from sklearn_kd.meta import _path
from sklearn_kd.runtime import _devices
from sklearn_kd.training import _cuda_graph as _capture


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class TapeGraph(TorchDispatchMode):
    captures = 0

    def __init__(self):
        super().__init__()
        self.tape, self.outside, self.own = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "local_scalar_dense" in str(func):
            raise AssertionError("a capture cannot wait for a number")
        # Aliases: a tensor object may point elsewhere when the tape is replayed.
        args, kwargs = tree_map(self._alias, (args, kwargs or {}))
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and storage(tensor) not in self.own:
                self.outside.setdefault(storage(tensor), (tensor, tensor.untyped_storage().clone()))
        known = self.own | set(self.outside)
        result = func(*args, **kwargs)
        fresh = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and storage(t) not in known]
        self.own |= {storage(t) for t in fresh}
        self.tape.append((func, args, kwargs, tree_map(self._alias, result), {id(t) for t in fresh}, result))
        return result

    @staticmethod
    def _alias(value):
        return value.detach() if isinstance(value, torch.Tensor) else value

    def capture(self, function):
        type(self).captures += 1
        with self:
            result = function()
        for tensor, before in self.outside.values():
            tensor.untyped_storage().copy_(before)
        return result

    def replay(self):
        for func, args, kwargs, aliases, fresh, first in self.tape:
            again = func(*args, **kwargs)
            triples = zip(tree_leaves(aliases), tree_leaves(again), tree_leaves(first), strict=True)
            for alias, new, original in triples:
                if id(original) in fresh:
                    alias.copy_(new)

    @staticmethod
    def warm_up(function):
        return function()


@pytest.fixture
def captured(monkeypatch):
    """Fits capture their iterations in tapes, and no number is free to read."""
    monkeypatch.setattr(_capture, "why_not_captured", lambda *_, **__: None)
    monkeypatch.setattr(_capture.CapturedIterations.__init__, "__defaults__", (TapeGraph,))
    monkeypatch.setattr(_path, "reading_is_free", lambda tensor: False)
    monkeypatch.setattr(_devices, "reading_is_free", lambda tensor: False)
    monkeypatch.setattr(TapeGraph, "captures", 0)


STUDENTS = {
    "mlp": lambda: nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)),
    "batch norm": lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)),
}


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(
    "optimizer", [{"max_grad_norm": 0.5}, {"optimizer__momentum": 0.9, "optimizer__nesterov": True}]
)
def test_captured_fits_equal_plain_ones(make, digits, logits, captured, student, optimizer):
    """To rounding: the same iterations, the last batch of 40 rows among them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {"student": STUDENTS[student](), "max_epochs": 4, "e1": 4, "e2": 4, **optimizer}
    plain = make(**settings).fit(*digits, teacher_logits=logits)
    assert TapeGraph.captures == 0
    graphed = make(execution="cuda_graph", **settings).fit(*digits, teacher_logits=logits)
    # Gradient and plain iterations, in full batches and in the last: four graphs at most.
    assert 2 <= TapeGraph.captures <= 4
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_allclose(
            graphed.metaparameter_path_[name], plain.metaparameter_path_[name], rtol=1e-3
        )
    for a, b in zip(plain.student_.parameters(), graphed.student_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    losses = [clf.history_[:, "train_loss"] for clf in (plain, graphed)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_captured_anew_when_the_learning_rate_changes(make, digits, logits, captured):
    from skorch.callbacks import LRScheduler

    def fit(**settings):
        scheduler = LRScheduler("StepLR", step_size=2, gamma=0.5)
        return make(meta="naive", max_epochs=6, batch_size=40, callbacks=[scheduler], **settings).fit(
            *digits, teacher_logits=logits
        )

    plain, graphed = fit(), fit(execution="cuda_graph")
    assert TapeGraph.captures == 3  # one for each rate
    for a, b in zip(plain.student_.parameters(), graphed.student_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_students_that_draw_are_not_captured(make, digits, logits, captured, caplog):
    student = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 10))
    with caplog.at_level(logging.INFO, logger="sklearn_kd"):
        make(student=student, execution="cuda_graph").fit(*digits, teacher_logits=logits)
    assert TapeGraph.captures == 0
    assert "draws random numbers" in caplog.text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "needs a CUDA device"),
        ({"gradient_clip": True}, "a callback reads the gradients"),
    ],
)
def test_reasons_are_logged(make, digits, logits, caplog, settings, reason):
    from skorch.callbacks import GradientNormClipping

    callbacks = [GradientNormClipping(1.0)] if settings else None
    with caplog.at_level(logging.INFO, logger="sklearn_kd"):
        make(execution="cuda_graph", callbacks=callbacks).fit(*digits, teacher_logits=logits)
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("makes", "reason"),
    [
        ([torch.optim.Adam], "optimizer__capturable=True"),
        ([torch.optim.SGD, torch.optim.Adam], "meta__optimizer_params={'capturable': True}"),
        ([torch.optim.SGD, torch.optim.Rprop], "meta__optimizer_params={'capturable': True}"),
        ([torch.optim.SGD, torch.optim.Adagrad], "not known whether a step of Adagrad"),
    ],
    ids=in_words,
)
def test_adam_must_be_capturable(makes, reason):
    """That of the student, and that of the metaparameters."""
    optimizers = [make([nn.Parameter(torch.zeros(2))], lr=0.1) for make in makes]
    found = _capture.why_not_captured(torch.device("cuda"), optimizers, watched=False, compiled=False)
    assert reason in found


@pytest.mark.gpu
@pytest.mark.parametrize("capturable", [False, True])
def test_metaparameters_by_adam_on_a_gpu(capturable, make, digits, logits):
    """Captured or not: the same path as without a graph."""
    params = {"meta__optimizer": torch.optim.Adam, "meta__lr": 0.05}
    params |= {"meta": "gradient", "device": "cuda", "meta__optimizer_params": {"capturable": capturable}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of a capturable Adam in ordinary iterations
        plain, graphed = (
            make(execution=execution, **params).fit(*digits, teacher_logits=logits)
            for execution in ("eager", "cuda_graph")
        )
    for name in ("lambda1", "temperature"):
        found, expected = (clf.metaparameter_path_[name] for clf in (graphed, plain))
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.gpu
def test_captured_on_a_gpu(make, digits, logits):
    """The same as on the tape, in a real graph."""
    settings = {"device": "cuda", "max_epochs": 4, "e1": 4, "e2": 4}
    plain = make(**settings).fit(*digits, teacher_logits=logits)
    graphed = make(execution="cuda_graph", **settings).fit(*digits, teacher_logits=logits)
    for a, b in zip(plain.student_.parameters(), graphed.student_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
