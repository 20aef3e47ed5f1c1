"""Parameters that count for nothing beside others are said, in one warning before any training."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

from helpers.parameter_ids import in_words
from sklearn_kd import MLPStudent
from sklearn_kd.meta import PAPER_SETTINGS, Gradient, Hyperopt, Linear, Random


class Asked(Exception):
    pass


class Teacher(nn.Linear):
    """That of a test in which nothing is to be trained."""

    def forward(self, x):
        if len(x) > 2:
            raise Asked
        return super().forward(x)


def said(fit, also=()):
    """The reasons that one warning gives before the teacher is asked."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(Asked):
            fit()
    (message,) = [str(w.message) for w in found if w.category is UserWarning]
    assert message.startswith("Without effect: ") and message.endswith(".")
    return message.removeprefix("Without effect: ")[:-1].split("; ")


def assert_silent(fit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit()


CASES = {
    "e1 and e2 beside an object": (
        {"meta": Linear(e1=3), "e1": 20, "e2": 30},
        [
            r"e1=20 with meta=Linear\(e1=3\), whose own e1=3 counts \(set meta__e1=20\)",
            r"e2=30 with meta=Linear\(e1=3\), whose own e2=10 counts \(set meta__e2=30\)",
        ],
    ),
    "weights beside a shortlist": (
        {"meta": "shortlist", "search_epochs": 1, "weights": "tail"},
        [
            r"weights='tail' with meta='shortlist', whose setting does not change \(set meta='linear', which "
            r"learns a path\)"
        ],
    ),
    "lambda1 beside a shortlist": (
        {"meta": "shortlist", "lambda1": 0.3},
        [
            r"lambda1=0.3 with meta='shortlist', whose candidates have their own \(set meta='fixed', or "
            r"give it candidates\)",
        ],
    ),
    "parameters of another meta beside the default": (
        {"meta": "shortlist", "e1": 5, "e2": 20, "meta__lr": 0.1, "meta__val_temperature": 1.0},
        [
            rf"{given} with meta='shortlist', which takes no steps \(set meta='linear'\)"
            for given in ("e1=5", "e2=20", "meta__lr=0.1")
        ],
    ),
    "lambda1 and T beside naive": (
        {"meta": "naive", "temperature": 4.0, "lambda1": 0.3},
        [
            r"lambda1=0.3 with meta='naive', which is lambda1=0.5 and T=1 \(set meta='fixed'\)",
            r"temperature=4.0 with meta='naive', which is lambda1=0.5 and T=1 \(set meta='fixed'\)",
        ],
    ),
    "bounds beside a search": (
        {"meta": Random(), "loss__temperature_bounds": (1.0, 20.0)},
        [
            r"temperature_bounds=\(1.0, 20.0\) of the loss with meta=Random\(\), which draws T from 0.1 to 10 "
            r"\(set meta=Random\(log10_temperature=\(0, 1.3\)\)\)"
        ],
    ),
    "lr beside the optimizer's own": (
        {"meta": "fixed", "lr": 0.5, "optimizer__lr": 0.01},
        [r"lr=0.5 with optimizer__lr=0.01, which counts \(give one of them\)"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_counts_is_named_and_the_mend(name, make, digits):
    params, reasons = CASES[name]
    found = said(lambda: make(Teacher(64, 10), **params).fit(*digits))
    assert len(found) == len(reasons)
    assert all(re.fullmatch(reason, text) for reason, text in zip(reasons, found, strict=True))


@pytest.mark.parametrize(
    "params",
    [
        {"meta": Linear(e1=3, e2=4)},
        {"meta": Linear(e1=3, e2=4), "e1": 3, "e2": 4},
        {"meta": Gradient(), "e1": 20},
        {"meta": "shortlist", "search_epochs": 1 / 3, "meta__n_jobs": 1},
        {"meta": "fixed", "search_epochs": 1 / 3},
        {"meta": "fixed", "e1": 20, "e2": 5, "meta__lr": 0.1, "meta__hypergradient": "exact"},
        {"meta": "none", "temperature": 4.0, "lambda1": 0.2},
        {"meta": "naive", "temperature": 1.0, "lambda1": 0.5},
        {"meta": "random", "temperature": 4.0},
        {"meta": "naive", **PAPER_SETTINGS},
        {"meta": "hyperopt", **PAPER_SETTINGS},
        {"meta": Hyperopt(n_trials=2, log10_temperature=(0, 1)), "loss__temperature_bounds": (1.0, 10.0)},
        {"meta": "linear", "loss__temperature_bounds": (1.0, 20.0), "temperature": 15.0, "e1": 3},
        {"meta": "fixed", "lr": 0.01, "optimizer__lr": 0.01},
        {"meta": "fixed", "lr": 0.003, "optimizer__lr": 0.01},
    ],
    ids=in_words,
)
def test_what_counts_or_misleads_nobody_is_not_said(params, make, digits, logits):
    assert_silent(lambda: make(**params | {"max_epochs": 1}).fit(*digits, teacher_logits=logits))


def test_the_own_lr_of_the_optimizer_counts(make, digits):
    """What the message says."""
    with pytest.warns(UserWarning, match="lr=0.5 with optimizer__lr=0.0"):
        clf = make(meta="none", lr=0.5, optimizer__lr=0.0).fit(*digits)
    fresh = make(meta="none", lr=0.0).fit(*digits)
    assert all(
        torch.equal(a, b) for a, b in zip(clf.student_.parameters(), fresh.student_.parameters(), strict=True)
    )


def test_a_search_over_meta_says_nothing_of_e1(make, digits):
    grid = {"meta": ["none", "fixed", "linear", Gradient()]}
    clf = make(e1=3, e2=3, max_epochs=1)
    X, y = digits
    search = GridSearchCV(clf, grid, cv=2, error_score="raise", refit=False)
    assert_silent(lambda: search.fit(X, y, teacher_logits=4.0 * np.eye(10)[y]))


# --------------------------------------------------------------------------------------
# Feature maps


def test_a_given_process_has_its_own_normalization(make_distpro, images):
    process = make_distpro(max_epochs=1).fit(*images).process_
    clf = make_distpro(process=process, normalization="softmax", softmax_bias=3.0)
    with pytest.warns(UserWarning) as found:
        clf.fit(*images)
    assert str(found[0].message) == (
        "Without effect: normalization='softmax' with a given process, whose own "
        "normalization='biased_softmax' counts (leave it out, or search with it: process=None); softmax_bias=3.0 "
        "with a given process, whose own softmax_bias=1.0 counts (leave it out, or search with it: process=None)."
    )
    plain = make_distpro(process=process).fit(*images)
    assert all(
        torch.equal(a, b) for a, b in zip(clf.student_.parameters(), plain.student_.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "params, match",
    [
        (
            {"normalization": "softmax", "softmax_bias": 2.0},
            r"softmax_bias=2.0 with normalization='softmax'.*'biased_softmax'",
        ),
        ({"temperature": 2.0}, r"temperature=2.0 with logit_weight=0.0, .*\(set logit_weight\)"),
        (
            {"meta__lr": 0.1},
            r"meta__lr=0.1 with logit_weight=0.0.*\(the rate of the factors is importance_lr\)",
        ),
        ({"meta": Linear(2, 2), "e2": 7}, r"e2=7 with meta=Linear\(e1=2, e2=2\), whose own e2=2 counts"),
    ],
)
def test_of_a_search(params, match, make_distpro, images):
    with pytest.warns(UserWarning, match=f"Without effect: {match}"):
        make_distpro(max_epochs=1, **params).fit(*images)


# --------------------------------------------------------------------------------------
# Processes of torch.distributed


@pytest.fixture
def two_processes():
    """As in one of two processes that torchrun started."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def test_each_process_trains_the_whole_student(two_processes, make, make_distpro, digits, images):
    whole = r"2 processes were launched, and each that calls fit trains the whole student.*parallel='ddp'"
    with pytest.warns(UserWarning, match=whole):
        make(meta="none", max_epochs=1).fit(*digits)
    with pytest.warns(UserWarning, match=whole):
        make_distpro(max_epochs=1).fit(*images)


def test_one_process_is_as_none(tmp_path, make, digits):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert_silent(lambda: make(meta="none", max_epochs=1).fit(*digits))
        student = nn.parallel.DistributedDataParallel(MLPStudent(64, 10))
        with pytest.raises(
            TypeError, match=r"wrapped in DistributedDataParallel.*Give the module.*student.module"
        ):
            make(meta="none", student=student).fit(*digits)
        clf = make(meta="none", student=student.module, max_epochs=1)
        assert_silent(lambda: clf.fit(*digits))
    finally:
        torch.distributed.destroy_process_group()


def test_a_student_in_data_parallel_trains_as_the_module_in_it(make, digits):
    """Of one process: its gradients are its module's own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MLPStudent(64, 10)
    plain = make(meta="none", student=module).fit(*digits)
    wrapped = make(meta="none", student=nn.DataParallel(module)).fit(*digits)
    np.testing.assert_array_equal(wrapped.predict_proba(digits[0]), plain.predict_proba(digits[0]))
