"""skorch's callbacks work unchanged."""

import numpy as np
import pytest
import torch
from skorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    ProgressBar,
    Unfreezer,
)
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd.bilevel._hypergradient import METHODS


def test_early_stopping(make, digits, logits):
    stop = EarlyStopping(patience=2, threshold=10.0, sink=lambda _: None)
    clf = make(callbacks=[stop], max_epochs=50).fit(*digits, teacher_logits=logits)
    assert len(clf.history_) == 3 and clf.n_iter_ == len(clf.metaparameter_path_) == 3 * 12


@pytest.mark.parametrize("every", ["epoch", "batch"])
def test_lr_scheduler(every, make, digits, logits):
    schedule = LRScheduler(CosineAnnealingLR, T_max=100, step_every=every)
    clf = make(callbacks=[("schedule", schedule)], meta="gradient").fit(*digits, teacher_logits=logits)
    steps = {"epoch": 2, "batch": 24}[every]
    expected = 0.05 * (1 + np.cos(np.pi * steps / 100))
    assert clf.net_.optimizer_.param_groups[0]["lr"] == pytest.approx(expected)


def test_hypergradient_follows_the_scheduled_rate(make, digits, logits):
    """At a rate of 0 the step moves nothing, whatever the constructor's lr."""
    schedule = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: float(epoch == 0))
    clf = make(callbacks=[schedule], meta="gradient").fit(*digits, teacher_logits=logits)
    lambda1 = clf.metaparameter_path_["lambda1"]
    assert (np.diff(lambda1[:12]) != 0).all() and (np.diff(lambda1[12:]) == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frozen_until", [1, None])
def test_frozen_layers(method, frozen_until, make, digits, logits, once):
    """They take no step, and the hypergradient is that of the weights that do."""
    callbacks = [
        ("freeze", Freezer("layers.1.*")),
        ("unfreeze", Unfreezer("layers.1.*", at=frozen_until or 99)),
    ]
    clf = make(callbacks=callbacks, meta="gradient", meta__hypergradient=method, max_epochs=3)
    clf.fit(*digits, teacher_logits=logits)
    untrained = make(max_epochs=1, lr=1e-30, meta="none").fit(*digits).student_
    equal = torch.equal(clf.student_.student.layers[1].weight, untrained.student.layers[1].weight)
    assert equal == (frozen_until is None)
    exact = make(callbacks=callbacks, meta="gradient", meta__hypergradient="exact", max_epochs=3)
    path = once(frozen_until, lambda: exact.fit(*digits, teacher_logits=logits).metaparameter_path_)[
        "lambda1"
    ]
    np.testing.assert_allclose(clf.metaparameter_path_["lambda1"], path, atol=2e-3)
    assert np.ptp(path) > 5e-3


def test_checkpoint_loads_the_best(make, digits, logits, tmp_path):
    checkpoint = Checkpoint(dirname=tmp_path, monitor="valid_loss_best", load_best=True)
    clf = make(callbacks=[checkpoint], max_epochs=4).fit(*digits, teacher_logits=logits)
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    assert all(torch.equal(saved[name], w) for name, w in clf.student_.state_dict().items())


@pytest.mark.parametrize("use_caching", [True, False])
def test_epoch_scoring(use_caching, make, digits, logits):
    X, y = digits
    scores = [
        EpochScoring("f1_macro", name="f1", lower_is_better=False, use_caching=use_caching),
        EpochScoring("accuracy", name="train_acc", on_train=True, use_caching=use_caching),
    ]
    clf = make(callbacks=scores, max_epochs=8, optimizer__momentum=0.9, lr=0.05)
    clf.fit(X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:])
    assert clf.history_[-1, "valid_acc"] == pytest.approx(clf.score(X[300:], y[300:]))
    assert 0.5 < clf.history_[-1, "f1"] <= 1 and 0.5 < clf.history_[-1, "train_acc"] <= 1


def test_progress_bar_and_table(make, digits, logits, capsys):
    make(callbacks=[ProgressBar()], verbose=1).fit(*digits, teacher_logits=logits)
    printed = capsys.readouterr()
    assert "lambda1" in printed.out and "valid_acc" in printed.out
    assert "100%" in printed.err + printed.out or "it/s" in printed.err + printed.out
    make().fit(*digits, teacher_logits=logits)
    assert capsys.readouterr() == ("", "")


def test_callbacks_parameters_are_routed(make, digits, logits):
    stop = EarlyStopping(patience=100, threshold=10.0, sink=lambda _: None)
    clf = make(callbacks=[("stop", stop)], callbacks__stop__patience=1, max_epochs=20)
    assert len(clf.fit(*digits, teacher_logits=logits).history_) == 2


@pytest.mark.parametrize("callback", [EarlyStopping(), Checkpoint(monitor="valid_acc_best")])
def test_monitor_without_validation_rows(callback, make, digits, logits):
    with pytest.raises(ValueError, match="Give fit X_val"):
        make(callbacks=[callback], meta="naive").fit(*digits, teacher_logits=logits)


def test_clipping_changes_the_hypergradient(make, digits, logits):
    """Clipped to almost nothing, the step hardly moves, and so does the path."""
    clips = [GradientNormClipping(limit) for limit in (1e-3, 1e9)]
    moved = []
    for clip in clips:
        clf = make(callbacks=[clip], meta="gradient", max_epochs=1).fit(*digits, teacher_logits=logits)
        moved.append(np.abs(np.diff(clf.metaparameter_path_["lambda1"])).sum())
    assert moved[0] < 0.1 * moved[1]


def test_interrupt_leaves_a_usable_estimator(make, digits, logits):
    def interrupt(net):
        raise KeyboardInterrupt

    clf = make(callbacks=[Checkpoint(monitor=interrupt, f_params=None)], max_epochs=50)
    clf.fit(*digits, teacher_logits=logits)
    assert len(clf.metaparameter_path_) == 12 and clf.predict(digits[0]).shape == (400,)
