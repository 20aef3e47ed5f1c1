"""The student that trains on all rows: a fresh one, that of the search, or an average of weights."""

import copy

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklearn_kd import DistilledClassifier, MetaparameterProcess, MLPStudent
from sklearn_kd.layers._names import named_network
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Hyperopt, MetaparameterSpace, Shortlist


class Weights(Callback):
    """Keeps the student's weights before the first epoch and after each."""

    def initialize(self):
        self.after_ = []
        return self

    def on_train_begin(self, net, **kwargs):
        self.after_ = [self._flat(net)]

    def on_epoch_end(self, net, **kwargs):
        self.after_.append(self._flat(net))

    @staticmethod
    def _flat(net):
        return torch.cat([w.detach().flatten() for w in net.module_.parameters()]).double().numpy()


def flat(clf):
    return torch.cat([w.detach().flatten() for w in clf.student_.parameters()]).double().numpy()


class Dropped(nn.Sequential):
    """A student that is not trained in one run with others."""

    def __init__(self):
        super().__init__(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 10))


@pytest.fixture
def noisy(digits):
    """Digits of which 40 % have a random label."""
    rng, (X, y) = np.random.default_rng(0), digits
    return X, np.where(rng.random(len(y)) < 0.4, rng.integers(0, 10, len(y)), y)


@pytest.mark.parametrize("retrain", ["continue", "average", "fresh"])
@pytest.mark.parametrize("meta", ["linear", "twins", Shortlist([{"lambda1": 0.3}])])
def test_how_a_retraining_begins_and_ends(meta, retrain, make, digits, logits):
    clf = make(meta=meta, search_epochs=2, max_epochs=3, retrain=retrain, callbacks=[Weights()]).fit(
        *digits, teacher_logits=logits
    )
    before, *after = clf.net_.callbacks_[-2][1].after_
    alone = make(meta="fixed", max_epochs=3, callbacks=[Weights()]).fit(*digits, teacher_logits=logits)
    fresh = alone.net_.callbacks_[-2][1].after_[0]
    assert np.array_equal(before, fresh) == (retrain != "continue")
    # With decay d the average moves towards the weights by (d + 1) / (n + d) after epoch n.
    decay = {"continue": 8.0, "average": 1.0, "fresh": None}[retrain]
    expected = after[-1]
    if decay is not None:
        expected = np.zeros_like(expected)
        for n, weights in enumerate(after, 1):
            expected += (weights - expected) * (decay + 1) / (n + decay)
    np.testing.assert_allclose(flat(clf), expected, rtol=1e-5, atol=1e-6)
    assert clf.process_.settings["retrain"] == retrain
    assert clf.predict(digits[0]).shape == (400,)


@pytest.mark.parametrize("student", [MLPStudent, Dropped])
def test_the_student_of_the_best_trial_goes_on(student, make, digits, logits):
    """Trained with others, or one after another: its weights are the single trial's."""
    settings = [{"lambda1": 1.0, "temperature": 1.0}, {"lambda1": 0.2, "temperature": 2.0}]

    def start_of_retraining(candidates):
        strategy = Shortlist(candidates)
        clf = make(
            None, student, meta=strategy, search_epochs=2, retrain="continue", lr=0.3, callbacks=[Weights()]
        ).fit(*digits, teacher_logits=logits)
        return clf.net_.callbacks_[-2][1].after_[0], settings[clf.trials_["val_loss"].argmin()]

    found, best = start_of_retraining(settings)
    np.testing.assert_allclose(found, start_of_retraining([best])[0], rtol=1e-4, atol=1e-5)


def test_d_val_decides(make, digits, noisy, logits):
    """A student that still learns goes on; one that learns wrong labels by heart is averaged, and better."""
    X, y = digits
    short = make(meta="shortlist", search_epochs=2).fit(X, y, teacher_logits=logits)
    assert short.process_.settings["retrain"] == "continue"
    scores = {}
    for retrain in ("auto", "fresh"):
        clf = make(meta="linear", search_epochs=15, max_epochs=25, lr=0.5, lambda1=0.9, retrain=retrain)
        clf.set_params(loss__temperature_bounds=(0.9, 1.1)).fit(
            X[:200], noisy[1][:200], teacher_logits=logits[:200]
        )
        scores[retrain] = clf.score(X[200:], y[200:])
    assert clf.process_.settings["retrain"] == "fresh"
    assert scores["auto"] > scores["fresh"] + 0.03, scores


def test_auto_after_several_students_side_by_side_is_fresh(make, digits, logits):
    clf = make(meta="twins", search_epochs=2).fit(*digits, teacher_logits=logits)
    assert clf.process_.settings["retrain"] == "fresh"


@pytest.mark.parametrize("meta", ["linear", "shortlist"])
def test_auto_after_a_search_that_diverged_is_fresh(meta, make, digits, logits):
    class Spoils(Callback):
        def on_batch_end(self, net, training, **kwargs):
            if training and len(net.history) == 2:
                nn.init.constant_(next(net.module_.parameters()), torch.nan)

    clf = make(meta=meta, search_epochs=2, search_callbacks=[Spoils()])
    with pytest.warns(ConvergenceWarning, match="diverged"):
        clf.fit(*digits, teacher_logits=logits)
    assert clf.process_.settings["retrain"] == "fresh"


def test_a_single_training_is_averaged(make, digits, logits):
    clf = make(meta="fixed", retrain="average", max_epochs=3, callbacks=[Weights()])
    clf.fit(*digits, teacher_logits=logits)
    after = clf.net_.callbacks_[-2][1].after_[1:]
    np.testing.assert_allclose(flat(clf), np.average(after, axis=0, weights=[1, 2, 3]), rtol=1e-5, atol=1e-6)


def test_the_best_of_tpe_goes_on(make, digits, logits):
    clf = make(meta=Hyperopt(3), search_epochs=1).fit(*digits, teacher_logits=logits)
    assert clf.process_.settings["retrain"] == "continue"


def test_a_continued_fit_goes_on_with_its_own_student(make, digits, logits):
    """And not with that of the search, which is fresh."""
    clf = make(meta="linear", search_epochs=1, warm_start=True, callbacks=[Weights()])
    last = flat(clf.fit(*digits, teacher_logits=logits))
    clf.fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(clf.net_.callbacks_[-2][1].after_[0], last)
    assert clf.process_.settings["retrain"] == "fresh"
    np.testing.assert_array_equal(flat(clf), clf.net_.callbacks_[-2][1].after_[-1])


class Remembering(nn.Module):
    """A student with a buffer that training makes, and drawn columns that no weight holds."""

    def __init__(self):
        super().__init__()
        self.out, self.columns = nn.Linear(32, 10), torch.randperm(64)[:32]
        self.register_buffer("mean", None)

    def forward(self, x):
        x = x[:, self.columns]
        if self.training:
            self.mean = x.detach().mean(0) if self.mean is None else self.mean.lerp(x.detach().mean(0), 0.1)
        return self.out(x if self.mean is None else x - self.mean)


class Coded(nn.Module):
    """A student that looks up the codes in the first column."""

    code_columns = (0,)

    def __init__(self):
        super().__init__()
        self.codes, self.out = nn.Embedding(20, 4), nn.Linear(67, 10)

    def forward(self, x):
        return self.out(torch.cat([self.codes(x[:, 0].long()), x[:, 1:]], dim=1))


class OfTwoParts(Coded):
    def forward(self, numbers, codes):
        return self.out(torch.cat([self.codes(codes), numbers], dim=1))


def of_another_width(widths=iter(range(3, 99))):  # noqa: B008  # one for all calls
    return MLPStudent(64, 10, hidden=next(widths))


class Keeps(Callback):
    """Keeps a copy of the student, as it begins or as it ends."""

    def __init__(self, when):
        self.when = when

    def on_train_begin(self, net, **kwargs):
        if self.when == "begin":
            self.student_ = copy.deepcopy(named_network(net.module_))

    def on_train_end(self, net, **kwargs):
        if self.when == "end":
            self.student_ = copy.deepcopy(named_network(net.module_))


@pytest.mark.parametrize("student", [Remembering, Coded, OfTwoParts, of_another_width])
def test_the_student_that_goes_on_is_that_of_the_search(student, make, digits, logits):
    """With what no weight holds, and what training has made."""
    X, y = digits
    rows = {"numbers": X[:, 1:], "codes": X[:, 20].astype(int)} if student is OfTwoParts else X
    end, begin = Keeps("end"), Keeps("begin")
    clf = make(None, student, meta="linear", search_epochs=2, retrain="continue", search_callbacks=[end])
    clf.set_params(callbacks=[begin], standardize=student is Coded).fit(rows, y, teacher_logits=logits)
    before, after = ([*s.parameters(), *s.buffers()] for s in (end.student_, begin.student_))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if student is Remembering:
        assert torch.equal(end.student_.columns, begin.student_.columns)
    assert np.isfinite(clf.predict_proba(rows)).all()


@pytest.mark.parametrize("retrain", ["continue", "average"])
def test_the_best_weights_take_the_place_of_the_average(retrain, make, digits, logits):
    stopping = EarlyStopping(load_best=True, patience=9)
    clf = make(meta="linear", search_epochs=1, retrain=retrain, lr=0.3, max_epochs=4)
    clf.set_params(callbacks=[Weights(), stopping]).fit(
        *digits, teacher_logits=logits, X_val=digits[0][:100], y_val=digits[1][:100]
    )
    weights = next(c for _, c in clf.net_.callbacks_ if isinstance(c, Weights)).after_[1:]
    best = np.argmin(clf.history_[:, "valid_loss"])
    np.testing.assert_array_equal(flat(clf), weights[best])


def test_wrong_ways(make, digits, logits, no_training):
    with pytest.raises(ValueError, match=r"'retrain' parameter .* must be a str among"):
        make(retrain="again").fit(*digits, teacher_logits=logits)


@pytest.mark.parametrize("follows", [False, True])
def test_continue_without_a_search_is_said(follows, make, digits, logits):
    """And does nothing."""
    clf = make(meta="fixed", retrain="continue", callbacks=[Weights()])
    if follows:
        space = MetaparameterSpace(LogitDistillation().metaparameters(10))
        values = {"lambda1": np.full(2, 0.3), "temperature": np.full(2, 2.0)}
        clf.set_params(meta="shortlist", process=MetaparameterProcess(values, space))
    with pytest.warns(UserWarning, match="retrain='continue' without a search whose student could continue"):
        clf.fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(flat(clf), clf.net_.callbacks_[-2][1].after_[-1])


def test_continue_without_a_student_at_the_values_is_fresh(make, digits, logits):
    class BetweenTrials(Shortlist):
        def start(self, context):
            super().start(context)
            return {"lambda1": 0.5}

    clf = make(meta=BetweenTrials([{"lambda1": 0.3}]), search_epochs=1, retrain="continue")
    assert clf.fit(*digits, teacher_logits=logits).process_.settings["retrain"] == "fresh"


def test_the_average_of_exchanged_students_is_refused_a_place(make, digits, logits):
    with pytest.warns(UserWarning, match="retrain='average' with meta='twins' in a single run"):
        make(meta="twins", retrain="average").fit(*digits, teacher_logits=logits)


def test_it_is_saved(make, digits, logits, tmp_path):
    clf = make(meta="linear", search_epochs=1, retrain="average").fit(*digits, teacher_logits=logits)
    clf.save(tmp_path / "student.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "student.safetensors")
    assert loaded.retrain == "average" and loaded.process_.settings["retrain"] == "average"
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), clf.predict_proba(digits[0]))
