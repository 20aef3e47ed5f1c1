"""Fits with strategies that look further ahead than one step."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from skorch.callbacks import Callback
from torch import nn

from helpers.parameter_ids import in_words
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent, meta
from sklearn_kd.training._far import far_iterations
from sklearn_kd.training._stackable import _why_alone

X, Y = load_iris(return_X_y=True)
LOGITS = 4 * np.eye(3, dtype=np.float32)[np.random.default_rng(0).permutation(Y)]


class Small(nn.Module):
    """A network with what a training pass changes or draws."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
        )

    def forward(self, x):
        return self.layers(x)


def distilled(strategy, **params):
    settings = {"max_epochs": 4, "batch_size": 32, "random_state": 0, "device": "cpu", "lr": 0.1}
    settings |= {"optimizer": "SGD", "optimizer__momentum": 0.5, "temperature": 2.0}
    if "optimizer" in params:
        settings.pop("optimizer__momentum")
    return DistilledClassifier(
        None, **(SINGLE_RUN | settings | {"student": Small, "meta": strategy} | params)
    )


def fitted(strategy, **params):
    return distilled(strategy, **params).fit(X, Y, teacher_logits=LOGITS)


def moves(clf):
    """Return the iterations after which the metaparameters were others."""
    values = np.r_[0.5, clf.metaparameter_path_["lambda1"]]
    return np.flatnonzero(np.diff(values)).tolist()


FAR = {
    "forward": meta.ForwardGradient(),
    "forward, Hessian": meta.ForwardGradient(every=3, carry=False, curvature="hessian"),
    "implicit": meta.ImplicitGradient(n_batches=2, n_terms=2),
}


@pytest.mark.parametrize("name", FAR)
def test_moves_come_when_they_are_due(name):
    clf = fitted(FAR[name], optimizer="AdamW", max_epochs=3)
    n_waited = 10 if "forward" in name else 0  # of an epoch's 5 iterations
    due = [i for i in range(15) if i % 5 == 4] if FAR[name].every == "epoch" else [12]
    judged = np.flatnonzero(np.isfinite(clf.metaparameter_path_["val_loss"])).tolist()
    assert judged == [i for i in due if i >= n_waited]
    assert moves(clf)[0] == judged[0] and set(moves(clf)) <= set(judged)
    assert not clf.metaparameter_path_["predicted"].any()


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_without_memory_the_path_is_that_of_gradient(curvature):
    how = {"lr": 0.5, "hypergradient": "central_difference"}
    expected = fitted(meta.Gradient(**how)).metaparameter_path_
    path = fitted(meta.ForwardGradient(every=1, decay=0.0, curvature=curvature, **how)).metaparameter_path_
    assert np.ptp(expected["lambda1"]) > 0.01
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_allclose(path[name], expected[name], rtol=2e-3, atol=1e-4)


class Killed(Callback):
    """Ends the process, as it were, when the third epoch begins."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            raise MemoryError("killed")


@pytest.mark.parametrize("name", FAR)
def test_a_killed_fit_ends_as_it_would_have(name, tmp_path):
    whole = fitted(FAR[name])
    with pytest.raises(MemoryError):
        fitted(FAR[name], callbacks=[("killed", Killed())], checkpoint_dir=tmp_path)
    resumed = fitted(FAR[name], checkpoint_dir=tmp_path)
    for column in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_array_equal(resumed.metaparameter_path_[column], whole.metaparameter_path_[column])
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


class SecondIsNaN(Callback):
    """Lets the second batch of each epoch, and the last one of the last epoch, have no loss."""

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        place = (len(net.history), len(net.history[-1]["batches"]))
        if training and (place[1] == 2 or place == (4, 5)):
            batch[0].fill_(torch.nan)


@pytest.mark.parametrize("name", FAR)
def test_a_step_that_is_skipped_leaves_the_tangents(name):
    clf = distilled(FAR[name], callbacks=[("nan", SecondIsNaN())])
    with pytest.warns(match="5 of 20 steps were skipped"):
        clf.fit(X, Y, teacher_logits=LOGITS)
    judged = np.flatnonzero(np.isfinite(clf.metaparameter_path_["val_loss"]))
    assert judged.tolist() == ([4, 9, 14] if FAR[name].every == "epoch" else [2, 5, 8, 14, 17])
    assert sum(clf.history_[:, "skipped_hypergradients"]) == 0
    assert np.isfinite(clf.metaparameter_path_["temperature"]).all()


@pytest.mark.parametrize("strategy", ["forward", "implicit"])
def test_estimators_keep_them(strategy, tmp_path):
    clf = clone(distilled(strategy, meta__every=2, student=MLPStudent)).fit(X, Y, teacher_logits=LOGITS)
    clf.save(tmp_path / "student.safetensors")
    again = DistilledClassifier.load(tmp_path / "student.safetensors")
    assert again.get_params()["meta"] == strategy
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert moves(clf)[0] == 1
    as_object = fitted(FAR["implicit"], student=MLPStudent)
    as_object.save(tmp_path / "object.safetensors")
    assert (
        DistilledClassifier.load(tmp_path / "object.safetensors").meta.get_params()
        == FAR["implicit"].get_params()
    )


def test_students_train_alone():
    clf = distilled(FAR["implicit"])
    clf.fit(X, Y, teacher_logits=LOGITS)
    assert "looks further than one step" in _why_alone(clf.net_, None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strategy": meta.ForwardGradient(every=0)}, "every=0 must be 'epoch' or an integer of at least 1"),
        ({"strategy": meta.ForwardGradient(decay=1.5)}, "decay=1.5 must be between 0 and 1"),
        ({"strategy": meta.ForwardGradient(carry="no")}, "carry='no' must be True or False"),
        ({"strategy": meta.ForwardGradient(curvature="fisher")}, "curvature='fisher' is not one of"),
        ({"strategy": meta.ForwardGradient(hypergradient="exact")}, "cannot be used by ForwardGradient with"),
        ({"strategy": meta.ImplicitGradient(solver="qr")}, "solver='qr' is not one of"),
        ({"strategy": meta.ImplicitGradient(damping=-1.0)}, "damping=-1.0 must be a finite number"),
        (
            {"strategy": "forward", "optimizer": "RMSprop"},
            "through the steps of SGD, Adam and AdamW.* is RMSprop",
        ),
        ({"strategy": "implicit", "execution": "cuda_graph"}, "cannot be captured in a CUDA graph"),
    ],
    ids=in_words,
)
def test_what_cannot_be_used_is_refused_before_training(params, message):
    with pytest.raises(ValueError, match=message):
        fitted(**params)


def test_pathways_are_refused():
    X_images = torch.randn(20, 1, 8, 8)
    stages = [nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)]
    teacher = nn.Sequential(*stages, nn.Flatten(), nn.Linear(16, 2))
    clf = DistProClassifier(teacher, copy.deepcopy(teacher), meta=meta.ImplicitGradient(), device="cpu")
    with pytest.raises(
        ValueError,
        match="ImplicitGradient differentiates losses of the student's outputs only, but this loss compares features",
    ):
        clf.fit(X_images, np.arange(20) % 2)


def test_other_strategies_have_no_far_iterations():
    assert far_iterations(fitted("gradient").net_, None) is None
