"""``augment``: the training batches, and nothing else; the teacher is asked online."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import TensorDataset

from helpers.callbacks import Watch
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.training import _net


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


def brighter(x):
    return 2 * x + 100


def as_dataset(X, y):
    return TensorDataset(torch.as_tensor(X), torch.as_tensor(y))


@pytest.fixture(params=["arrays", "dataset"])
def data(request, digits):
    """X and y as ``fit`` takes them."""
    return digits if request.param == "arrays" else (as_dataset(*digits), None)


@pytest.mark.parametrize("meta", ["naive", "gradient"])
def test_teacher_is_asked_about_the_very_batch(meta, data, make, network):
    made, asked, watch = [], [], Watch()

    def augment(x):
        made.append(noisy(x))
        return made[-1]

    network.register_forward_hook(lambda module, args, out: asked.append((args[0], out)))
    make(network, meta=meta, augment=augment, callbacks=[watch]).fit(*data)
    # Before the batches both were tried on two rows.
    assert len(made) == len(asked) == len(watch.train_) + 1
    for batch, x, (question, answer) in zip(watch.train_, made[1:], asked[1:], strict=True):
        assert batch[0] is x and torch.equal(question, x)
        torch.testing.assert_close(batch.targets.teacher_logits, answer, rtol=0, atol=0)


def test_run_is_that_on_augmented_rows(make, digits, network):
    """Step and hypergradient see what augment made: as if X had been that, D_val being given."""
    X, y = digits
    flip = lambda x: x.flip(1) * 2  # noqa: E731
    settings = {"meta": "linear", "e1": 3, "e2": 2, "max_epochs": 3, "standardize": False}
    online = make(network, augment=flip, **settings).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    cached = make(network, **settings).fit(flip(torch.tensor(X[:300])), y[:300], X_val=X[300:], y_val=y[300:])
    for name in ("lambda1", "temperature", "val_loss"):
        a, b = online.metaparameter_path_[name], cached.metaparameter_path_[name]
        np.testing.assert_allclose(a, b, rtol=1e-4)
        assert len(np.unique(a[~np.isnan(a)])) > 5
    np.testing.assert_allclose(online.predict_proba(X), cached.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("meta", ["gradient", "hyperopt"])
def test_D_val_and_prediction_are_as_they_are(meta, data, make, network, monkeypatch):
    calls, evaluated, watch = [], [], Watch()

    def augment(x):
        calls.append(len(x))
        return brighter(x)

    class Spied:
        def __init__(self, dataset, **settings):
            self.batches = evaluation_batches(dataset, **settings)

        def __iter__(self):
            for batch in self.batches:
                evaluated.append(batch[0])
                yield batch

        def state_dict(self):
            return self.batches.state_dict()

    evaluation_batches = _net.evaluation_batches
    monkeypatch.setattr(_net, "evaluation_batches", Spied)
    clf = make(network, meta=meta, augment=augment, lr=1e-4, max_epochs=1, callbacks=[watch]).fit(*data)
    assert all(x.min() >= 100 for x, _ in watch.train_)
    assert evaluated and all(x.max() <= 1 for x in evaluated)  # of the hypergradient's too
    assert watch.valid_ and all(x.max() <= 1 for x, _ in watch.valid_)
    n_calls = len(calls)
    clf.predict_proba(data[0])
    clf.score(*data)
    assert len(calls) == n_calls


def test_repeats_with_random_state(data, make, network):
    def fitted(seed, **params):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        clf = make(network, augment=noisy, **params).fit(*data)
        assert (torch.get_rng_state() == before).all()
        return torch.cat([w.flatten() for w in clf.student_.parameters()])

    first = fitted(0)
    assert (first == fitted(1)).all()
    assert (first != fitted(0, random_state=1)).any()


def test_it_matters(make, digits, network):
    plain, other = make(network).fit(*digits), make(network, augment=noisy).fit(*digits)
    assert np.abs(plain.predict_proba(digits[0]) - other.predict_proba(digits[0])).max() > 1e-4


def test_in_place_augmentation_spares_the_data(make, digits, network):
    """Batches in order are views of X."""
    X, y = digits[0].copy(), digits[1]
    clf = make(network, meta="naive", augment=lambda x: x.mul_(0.5), iterator_train__shuffle=False)
    watch = Watch()
    clf.set_params(callbacks=[watch]).fit(X, y)
    np.testing.assert_array_equal(X, digits[0])
    assert max(float(x.max()) for x, _ in watch.train_) == 0.5  # not halved again in each epoch


def test_no_teacher_no_question(data, make):
    watch = Watch()
    make(None, meta="none", augment=brighter, callbacks=[watch], lr=1e-4).fit(*data)
    assert all(x.min() >= 100 and batch_targets is None for x, batch_targets in (
        (batch[0], batch.targets.teacher_logits) for batch in watch.train_
    ))  # fmt: skip


def test_identity_answers_a_dataset_that_draws(make, digits, network):
    """The documented way to have the teacher asked online about what a Dataset makes."""
    X, y = digits

    class Jittered(TensorDataset):
        def __getitem__(self, i):
            x, label = super().__getitem__(i)
            return noisy(x), label

        __getitems__ = None  # a later TensorDataset fetches whole batches

    watch = Watch()
    clf = make(network, augment=nn.Identity(), callbacks=[watch])
    clf.fit(Jittered(torch.tensor(X), torch.tensor(y)), X_val=as_dataset(X, y))
    with torch.no_grad():
        for batch in watch.train_:
            torch.testing.assert_close(batch.targets.teacher_logits, network.eval()(batch[0]))


def test_it_is_a_parameter_like_others(make, digits, network):
    clf = make(network, augment=noisy)
    assert clf.get_params()["augment"] is noisy
    assert clone(clf).augment is noisy
    fitted = pickle.loads(pickle.dumps(clf.fit(*digits)))
    assert fitted.augment is noisy
    assert (fitted.predict(digits[0]) == clf.predict(digits[0])).all()
    search = GridSearchCV(clf, {"augment": [None, noisy], "max_epochs": [1]}, cv=2).fit(*digits)
    assert search.best_params_["augment"] in (None, noisy)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"augment": 3}, "'augment' parameter"),
        (
            {"augment": lambda x: x[:1]},
            r"the same number of rows; from shape \(2, 64\) it made shape \(1, 64\)",
        ),
        ({"augment": lambda x: x.numpy()}, "it made ndarray"),
        ({"augment": nn.Identity}, "it made Identity"),
        ({"augment": lambda x: x[:, :9]}, "output of augment does not suit the student.*cannot take"),
        ({"augment": lambda x: x.double()}, "output of augment does not suit the student"),
        ({"teacher": LogisticRegression()}, "teacher LogisticRegression takes arrays.*set augment=None"),
        ({"teacher": FrozenEstimator(LogisticRegression())}, "not fitted"),
        ({"teacher": nn.Linear(64, 3)}, "does not know"),
    ],
)
def test_refused_before_training(params, match, data, make, network, monkeypatch):
    def train_step(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(_net.TrainingNet, "train_step", train_step)
    monkeypatch.setattr(LogisticRegression, "fit", train_step)
    with pytest.raises(ValueError, match=match):
        make(**({"teacher": network, "augment": noisy} | params)).fit(*data)


def test_teacher_logits_are_refused(data, make, logits):
    with pytest.raises(ValueError, match="teacher_logits are answers to the rows as given"):
        make(augment=noisy).fit(*data, teacher_logits=logits)
    make(augment=noisy, meta="none", max_epochs=1).fit(*data, teacher_logits=logits)


def test_a_length_that_changes_later(make, digits, network):
    with pytest.raises(ValueError, match="the same number of rows"):
        make(network, augment=lambda x: x[:20]).fit(*digits)


def test_comparison_refuses_it(digits, network):
    clf = DistilledClassifier(network, MLPStudent, augment=noisy, max_epochs=1, **SINGLE_RUN)
    with pytest.raises(ValueError, match="never about augmented rows"):
        compare_methods(clf, *digits, cv=2)
    comparison = compare_methods(clf, *digits, cv=2, methods=("none",), baseline="none")
    assert len(comparison.results_) == 2
