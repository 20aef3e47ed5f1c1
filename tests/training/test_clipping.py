"""max_grad_norm: the numbers of skorch's callback, in every kind of training."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, GradientNormClipping
from torch import nn

from helpers.parameter_ids import in_words
from sklearn_kd.training._clipping import clip_gradients, clip_stacked_gradients, clipping_of_callbacks
from sklearn_kd.training._net import TrainingNet


def with_gradients(*shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for w in weights:
        w.grad = torch.randn(w.shape, generator=draw)
    return nn.ParameterList(weights)


class NormWatch(Callback):
    """Keeps the norms of the gradients that callbacks see."""

    def __init__(self):
        self.norms = []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        gradients = [w.grad.ravel() for _, w in named_parameters]
        self.norms.append(float(torch.cat(gradients).norm()))


def assert_same_to_the_bit(clf, other):
    assert clf.metaparameter_path_.tobytes() == other.metaparameter_path_.tobytes()
    for a, b in zip(clf.student_.parameters(), other.student_.parameters(), strict=True):
        assert torch.equal(a, b)


def test_closed_form():
    """A gradient of length 13 becomes one of length 2; a shorter one stays."""
    module = with_gradients((2,), (1, 1))
    module[0].grad, module[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])
    clipping = clip_gradients([module], 2.0)
    torch.testing.assert_close(module[0].grad, torch.tensor([6 / 13, 8 / 13]))
    torch.testing.assert_close(module[1].grad, torch.tensor([[24 / 13]]))
    assert float(clipping.norm) == 13.0
    before = module[0].grad.clone()
    clip_gradients([module], 2.5)
    assert torch.equal(module[0].grad, before)


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e3])
def test_as_torch_clips(limit):
    shapes = (30, 40), (30,), (), (0,), (7, 2, 3)
    for seed in range(5):
        ours, theirs = with_gradients(*shapes, seed=seed), with_gradients(*shapes, seed=seed)
        frozen = nn.Linear(2, 2)  # has no gradient
        clipping = clip_gradients([ours, frozen], limit)
        assert clipping.norm == nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))


def test_each_students_norm_is_its_own():
    shapes = (3, 5, 4), (3,), (3, 0), (3, 5)
    stacked = [w.grad for w in with_gradients(*shapes)]
    stacked[0][2] = torch.nan
    alone = [[g[k].clone() for g in stacked] for k in range(3)]
    clip_stacked_gradients(stacked, 4.0)
    for k, gradients in enumerate(alone):
        norm = torch.cat([g.ravel() for g in gradients]).norm()
        factor = torch.clamp(4.0 / (norm + 1e-6), max=1.0)
        for found, g in zip(stacked, gradients, strict=True):
            torch.testing.assert_close(found[k], g * factor, equal_nan=True)
        assert (k == 2) == bool(factor.isnan())


@pytest.mark.parametrize(
    "params",
    [
        {"meta": "naive", "optimizer__momentum": 0.9},
        {"meta": "gradient", "meta__hypergradient": "jvp"},
        {"meta": "linear", "optimizer": torch.optim.Adam, "lr": 0.01},
    ],
    ids=in_words,
)
def test_a_fit_equals_one_with_the_callback_to_the_bit(params, make, digits, logits):
    watch = NormWatch()
    clf = make(max_grad_norm=0.75, callbacks=[watch], **params).fit(*digits, teacher_logits=logits)
    assert 0.1 < np.mean(np.isclose(watch.norms, 0.75)) < 1 and max(watch.norms) < 0.7501
    by_callback = make(callbacks=[GradientNormClipping(0.75)], **params).fit(*digits, teacher_logits=logits)
    assert_same_to_the_bit(clf, by_callback)


def test_search_and_retraining_of_pathways_are_clipped(make_distpro, images):
    """One norm of student and transforms together."""
    clip = [GradientNormClipping(0.1)]
    clf = make_distpro(max_grad_norm=0.1).fit(*images)
    by_callbacks = make_distpro(callbacks=clip, search_callbacks=clip).fit(*images)
    np.testing.assert_array_equal(clf.process_.raw, by_callbacks.process_.raw)
    np.testing.assert_array_equal(clf.predict_proba(images[0]), by_callbacks.predict_proba(images[0]))


def test_trials_stay_in_one_batched_run(make, digits, logits, monkeypatch):
    """And those of the callback never were."""
    alone = []
    step = TrainingNet.train_step
    monkeypatch.setattr(TrainingNet, "train_step", lambda *args: alone.append(1) or step(*args))
    settings = {"meta": "hyperopt", "meta__n_trials": 4, "meta__n_startup_trials": 4, "max_epochs": 1}
    clf = make(max_grad_norm=0.5, **settings).fit(*digits, teacher_logits=logits)
    assert len(alone) == clf.n_iter_


def test_several_callbacks_clip_as_the_tightest_does():
    """For the hypergradient, which knows one clipping."""
    callbacks = [(str(limit), GradientNormClipping(limit)) for limit in (3.0, 1.0, 2.0)]
    assert clipping_of_callbacks(callbacks, [with_gradients((2, 3))]).limit == 1.0
    assert clipping_of_callbacks([("other", GradientNormClipping(1.0, float("inf")))], []) is None


@pytest.mark.parametrize("where", ["callbacks", "search_callbacks"])
def test_given_twice(where, make, make_distpro, digits, logits, images, no_training):
    given = {where: [("clip", GradientNormClipping(0.5))], "max_grad_norm": 1.0}
    with pytest.raises(ValueError, match=r"max_grad_norm=1\.0 with the callback 'clip'.*Give one"):
        if where == "callbacks":
            make(**given).fit(*digits, teacher_logits=logits)
        else:
            make_distpro(**given).fit(*images)


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), "1"])
def test_must_be_a_number_above_zero(limit, make, digits, logits, no_training):
    with pytest.raises(ValueError, match="'max_grad_norm' parameter"):
        make(max_grad_norm=limit).fit(*digits, teacher_logits=logits)


def test_the_name_that_skorch_has_for_it(make, digits, logits):
    with pytest.raises(TypeError, match="Did you mean 'max_grad_norm'"):
        make(gradient_clip_value=1.0).fit(*digits, teacher_logits=logits)
