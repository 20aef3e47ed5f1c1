"""The best of a few settings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone

from sklearn_kd.losses import LogitDistillation, Metaparameter
from sklearn_kd.meta import Shortlist
from sklearn_kd.meta._shortlist import CANDIDATES

TWO = [{"lambda1": 0.25, "temperature": 3.0}, {"lambda1": 0.75}]


def test_each_candidate_has_the_loss_of_a_student_trained_at_it(make, digits, logits):
    X, y = digits
    given = {"teacher_logits": logits[:300], "X_val": X[300:], "y_val": y[300:]}
    clf = make(meta=Shortlist(TWO), temperature=2.0, max_epochs=2).fit(X[:300], y[:300], **given)
    np.testing.assert_array_equal(clf.trials_["lambda1"], [0.25, 0.75])
    np.testing.assert_array_equal(clf.trials_["temperature"], [3.0, 2.0])  # left out: the start
    for trial in clf.trials_:
        alone = make(
            meta="fixed", meta__val_temperature="auto", max_epochs=2,
            lambda1=float(trial["lambda1"]), temperature=float(trial["temperature"]),
        ).fit(X[:300], y[:300], **given)  # fmt: skip
        z = torch.from_numpy(alone.decision_function(X[300:])) / alone.val_temperature_
        expected = torch.nn.functional.cross_entropy(z.double(), torch.as_tensor(y[300:]).long())
        assert trial["val_loss"] == pytest.approx(float(expected), rel=1e-5)
    best = clf.trials_[clf.trials_["val_loss"].argmin()]
    assert (clf.lambda1_, clf.temperature_) == (best["lambda1"], best["temperature"])


def test_in_a_search_it_is_retrained_on_all_rows(make, digits, logits):
    """To the last bit what a fit at the chosen setting is."""
    clf = make(meta="shortlist", max_epochs=3, search_epochs=1, retrain="fresh").fit(
        *digits, teacher_logits=logits
    )
    values = {"lambda1": clf.lambda1_, "temperature": clf.temperature_}
    assert values in CANDIDATES and len(clf.trials_) == len(CANDIDATES)
    alone = make(meta="fixed", max_epochs=3, **values).fit(*digits, teacher_logits=logits)
    for ours, theirs in zip(clf.student_.parameters(), alone.student_.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_follows_a_teacher_that_knows_and_leaves_one_that_does_not(make, digits, logits):
    X, y = digits
    found = []
    for answers in (5.0 * np.eye(10)[y], np.random.default_rng(0).permutation(logits)):
        wrong = np.where(np.arange(len(y)) % 2, y, (y + 3) % 10)
        rows = {"teacher_logits": answers[:300], "X_val": X[300:], "y_val": y[300:]}
        clf = make(meta="shortlist", search_epochs=10, max_epochs=10)
        labels = wrong if not found else y
        found.append(clf.fit(X[:300], labels[:300], **rows).lambda1_)
    assert found == [0.05, 0.95]


def test_it_is_cloned_and_shared(make, digits, logits):
    strategy = Shortlist(TWO, n_jobs=1)
    clone(make(meta=strategy, max_epochs=1)).fit(*digits, teacher_logits=logits)
    assert not hasattr(strategy, "trials_")


class WithoutLambda1(LogitDistillation):
    def metaparameters(self, n_classes):
        return {"temperature": super().metaparameters(n_classes)["temperature"]}


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "at least one"),
        ({"lambda1": 0.5}, "must be a list of dicts"),
        ([0.5], "candidates has 0.5"),
        ([{"lamda1": 0.5}], "no metaparameter 'lamda1'"),
        ([{"lambda1": 1.5}], "lies outside its bounds"),
        ([{"lambda1": 0.5, "temperature": -1.0}], "above 0"),
        ([{"lambda1": np.nan}], "must be finite"),
    ],
)
def test_candidates_that_cannot_be_are_refused(candidates, message, make, digits, logits):
    with pytest.raises(ValueError, match=message):
        make(meta=Shortlist(candidates)).fit(*digits, teacher_logits=logits)


def test_the_usual_candidates_need_a_loss_with_lambda1(make, digits, logits):
    with pytest.raises(ValueError, match=r"no \['lambda1'\].*Set meta='fixed', .* meta='linear'"):
        make(meta="shortlist", loss=WithoutLambda1()).fit(*digits, teacher_logits=logits)


class WithBeta(LogitDistillation):
    """One metaparameter more, that nothing follows."""

    def metaparameters(self, n_classes):
        return super().metaparameters(n_classes) | {"beta": Metaparameter(0.5, bounds=(0.0, 1.0))}

    def loss(self, logits, teacher_logits, labels, *, lambda1, temperature, beta):
        return F.cross_entropy(logits, labels, reduction="none") * (lambda1 + temperature + beta)


def test_other_metaparameters_keep_their_start_and_that_is_said(make, digits, logits):
    clf = make(meta="shortlist", max_epochs=1, loss=WithBeta())
    with pytest.warns(
        UserWarning, match=r"\['beta'\] of the loss, which keep their start values \(set meta='linear'"
    ):
        clf.fit(*digits, teacher_logits=logits)
    assert set(clf.trials_["beta"]) == {0.5}


def test_the_usual_candidates_are_moved_into_the_bounds(make, digits, logits):
    """And so the start of the estimator, which nothing uses, may lie outside."""
    clf = make(meta="shortlist", max_epochs=1, loss__temperature_bounds=(1.5, 1.8))
    clf.fit(*digits, teacher_logits=logits)
    assert clf.trials_["temperature"].tolist() == [1.8, 1.5, 1.8]


def test_where_all_rows_of_d_val_are_right_the_first_is_taken(make, digits):
    """Losses that differ by rounding are equal."""
    X, y = digits[0], (digits[1] > 0).astype(int)
    X = np.c_[X, 5 * y].astype(np.float32)  # a column tells the class
    sure = np.c_[-8.0 * y, 8.0 * y].astype(np.float32)
    candidates = [{"lambda1": 0.5}, {"lambda1": 1.0}]
    for given in (candidates, candidates[::-1]):
        clf = make(meta=Shortlist(given), search_epochs=10, max_epochs=1, lr=0.5, batch_size=16)
        clf.fit(X, y, teacher_logits=sure)
        assert clf.lambda1_ == given[0]["lambda1"]
        assert (clf.trials_["val_loss"] == 0.1 / 40).all()  # a tenth of 400 rows is D_val
