"""Callbacks that cannot do what they are for are refused before the teacher is trained."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from helpers.parameter_ids import in_words


class Records(Callback):
    """One of a user's own, which records what only it knows."""

    monitor = "its own"

    def on_epoch_end(self, net, **kwargs):
        net.history.record("own", -len(net.history))


def quiet(monitor, **params):
    return EarlyStopping(monitor=monitor, sink=lambda message: None, **params)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("callback", "match"),
    [
        (quiet("valid_los"), r"callback EarlyStopping monitors 'valid_los', which is not recorded before it\. "
                             r"Did you mean 'valid_loss'\? It may monitor \['dur', .*'lambda1'.*'valid_loss_best'"),
        (Checkpoint(monitor="valid_loss_bst"), "callback Checkpoint monitors .* Did you mean 'valid_loss_best'"),
        (LRScheduler(ReduceLROnPlateau, monitor="val_loss"), "callback LRScheduler monitors 'val_loss'"),
        (quiet("f1"), "an EpochScoring in front of it adds its name"),
    ],
)  # fmt: skip
def test_unknown_monitors(callback, match, make, make_distpro, digits, images):
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression(), callbacks=[callback]).fit(*digits)
    match = match.replace(".*'lambda1'", "").replace("[\\'dur\\', ", "")
    with pytest.raises(ValueError, match=match):
        make_distpro(search_callbacks=[callback]).fit(*images)


@pytest.mark.usefixtures("no_training")
def test_monitor_in_front_of_what_records_it(make, digits):
    scoring = EpochScoring("f1_macro", name="f1", lower_is_better=False)
    with pytest.raises(ValueError, match="monitors 'f1', which is not recorded before it"):
        make(LogisticRegression(), callbacks=[quiet("f1"), scoring]).fit(*digits)
    with pytest.raises(ValueError, match="monitors 'valid_ls'"):
        clf = make(LogisticRegression(), callbacks=[quiet("valid_loss")])
        clf.set_params(callbacks__EarlyStopping__monitor="valid_ls").fit(*digits)


@pytest.mark.parametrize(
    "callbacks",
    [
        [EpochScoring("f1_macro", name="f1", lower_is_better=False), quiet("f1_best")],
        [Records(), quiet("own")],
        [quiet("lambda1")],
        [quiet("skipped_steps")],
        [quiet("valid_acc", lower_is_better=False)],
        [LRScheduler(ReduceLROnPlateau, monitor="train_loss")],
        [LRScheduler(StepLR, step_size=1, monitor="nothing", event_name="rate"), quiet("rate")],
        [LRScheduler(ReduceLROnPlateau, monitor=lambda net: 1.0)],
    ],
    ids=in_words,
)
def test_monitors_of_what_is_there(callbacks, make, digits, logits):
    clf = make(callbacks=callbacks).fit(*digits, teacher_logits=logits)
    assert len(clf.history_) == 2


def one_cycle(total_steps):
    return LRScheduler(OneCycleLR, max_lr=0.1, total_steps=total_steps, step_every="batch")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        (one_cycle(10), r"OneCycleLR fails at step 11 of the n_steps = 36 steps .*\(max_epochs = 3 × 12 batches\)"
                        r".*total_steps=36"),
        (LRScheduler(LambdaLR, lr_lambda=[1.0, 0.5].__getitem__), r"LambdaLR fails at step 2 of the n_steps = 3 "),
    ],
)  # fmt: skip
def test_schedules_with_too_few_steps(schedule, match, make, digits):
    clf = make(LogisticRegression(), callbacks=[schedule], max_epochs=3, optimizer__momentum=0.9)
    with pytest.raises(ValueError, match=match):
        clf.fit(*digits)


@pytest.mark.usefixtures("no_training")
def test_long_schedule_is_looked_up(make, digits):
    clf = make(LogisticRegression(), callbacks=[one_cycle(30_000)], max_epochs=3000, optimizer__momentum=0.9)
    with pytest.raises(ValueError, match="fails at step 30001 of the n_steps = 36000 steps"):
        clf.fit(*digits)


def test_schedule_of_as_many_steps(make, make_distpro, digits, logits, images):
    """The number of steps that the message says is the right one; none of the checks moves anything."""
    schedule = one_cycle(36)
    clf = make(callbacks=[schedule], max_epochs=3, optimizer__momentum=0.9)
    clf.fit(*digits, teacher_logits=logits)
    assert clf.n_iter_ == 36 and schedule.lr_scheduler_.last_epoch == 36
    assert clf.net_.optimizer_.param_groups[0]["lr"] < 1e-3  # the end of the cycle
    # 128 and 160 rows in batches of 32.
    distpro = make_distpro(
        callbacks=[one_cycle(10)], search_callbacks=[one_cycle(4)], optimizer__momentum=0.9
    )
    assert distpro.fit(*images).n_iter_ == 10
    with pytest.raises(ValueError, match="at step 4 of the n_steps = 4 steps"):
        distpro.set_params(search_callbacks=[one_cycle(3)]).fit(*images)


@pytest.mark.parametrize("given", ["tuple", "alone", "pair", "class"])
def test_forms_of_callbacks(given, make, digits, logits):
    stop = quiet("train_loss", patience=1, threshold=10.0, threshold_mode="abs")
    forms = {"tuple": (stop,), "alone": stop, "pair": ("stop", stop), "class": EarlyStopping}
    clf = make(callbacks=forms[given], max_epochs=5, callbacks__print_log=None)
    clf.fit(*digits, teacher_logits=logits)
    name = "stop" if given == "pair" else "EarlyStopping"
    assert name in dict(clf.net_.callbacks_)
    assert len(clf.history_) == (5 if given == "class" else 2)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", "Adam"), ("AdamW", "AdamW"), ("sgd", "SGD"), ("RMSPROP", "RMSprop")]
)
def test_optimizers_by_name(name, kind, make, make_distpro, digits, logits, images, tmp_path):
    """The same fit, to the bit, as with the class; saved and loaded too."""
    fits = []
    for optimizer in (name, getattr(torch.optim, kind)):
        clf = make(optimizer=optimizer, meta__optimizer=optimizer, lr=0.01, optimizer__weight_decay=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of RMSprop's response
            fits.append(clf.fit(*digits, teacher_logits=logits))
    assert type(fits[0].net_.optimizer_).__name__ == kind
    np.testing.assert_array_equal(*(clf.metaparameter_path_["lambda1"] for clf in fits))
    np.testing.assert_array_equal(*(clf.predict_proba(digits[0]) for clf in fits))
    fits[0].save(tmp_path / "clf.safetensors")
    assert type(fits[0]).load(tmp_path / "clf.safetensors").optimizer == name
    if kind == "Adam":
        process = make_distpro(optimizer=name, lr=0.01, search_epochs=6).fit(*images).process_
        assert process.settings["optimizer"] == "Adam"


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_numbers_as_numpy_has_them(number, make, digits, logits):
    params = {"lr": 0.25, "lambda1": 0.5, "temperature": 2.0, "meta__lr": 1.0, "validation_fraction": 0.25}
    counts = {"max_epochs": 2, "batch_size": 50, "e1": 3, "e2": 3, "student__hidden": 8}
    plain = make(**params, **counts).fit(*digits, teacher_logits=logits)
    given = {k: number(v) for k, v in params.items()} | {k: np.int64(v) for k, v in counts.items()}
    clf = make(**given).fit(*digits, teacher_logits=logits)
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_array_equal(clf.metaparameter_path_[name], plain.metaparameter_path_[name])


def test_device_by_its_index(make, digits, logits):
    clf = make(device="cpu:0").fit(*digits, teacher_logits=logits)
    plain = make(device="cpu").fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(clf.predict_proba(digits[0]), plain.predict_proba(digits[0]))
