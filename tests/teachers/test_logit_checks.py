"""What teachers answer is taken for what it is, or refused: logits, probabilities, outputs of every form."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn
from torch.utils.data import TensorDataset

from helpers.networks import ConvNet
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers._logit_checks import (
    AnswersWatch,
    checked_probabilities,
    log_probabilities,
    logits_in,
)
from sklearn_kd.teachers._networks import EvaluatedNetwork
from sklearn_kd.teachers._registry import make_teacher


@pytest.fixture
def taught(make):
    settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 6, "optimizer__momentum": 0.9}
    return lambda teacher, **params: make(teacher, **(settings | params))


def answers(teacher, X, classes=10):
    """Logits as they are learned from."""
    data = DistillationData(torch.as_tensor(X))
    return torch.cat([*make_teacher(teacher).iter_logits(X, data, np.arange(classes), 64)]).detach()


def centred(logits):
    return logits - logits.mean(dim=1, keepdim=True)


def confidence(clf, X):
    return float(clf.predict_proba(X).max(axis=1).mean())


# --------------------------------------------------------------------------------------
# Softmax networks, and losses that skorch does not know


@pytest.mark.parametrize("meta", ["fixed", "linear"])
@pytest.mark.parametrize("how", ["array", "dataset", "augment"])
def test_a_network_that_ends_in_softmax(how, meta, taught, trained, digits):
    X, y = digits
    data = (TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), None) if how == "dataset" else digits
    params = {"meta": meta} | ({"augment": lambda x: x} if how == "augment" else {})
    expected = taught(trained, **params).fit(*data)
    softmax = nn.Sequential(trained, nn.Softmax(1))
    with pytest.warns(UserWarning, match="teacher Sequential gives probabilities.*leave its softmax out"):
        found = taught(softmax, **params).fit(*data)
    assert abs(confidence(found, X) - confidence(expected, X)) < 0.01 and confidence(found, X) > 0.6
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=0.05)


def test_log_softmax_is_fine_as_logits(trained, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = answers(nn.Sequential(trained, nn.LogSoftmax(1)), digits[0])
    torch.testing.assert_close(centred(found), centred(answers(trained, digits[0])), rtol=1e-4, atol=1e-4)


def test_softmax_beside_feature_maps(make_distpro, images):
    class Softmax(ConvNet):
        def forward(self, x):
            return super().forward(x).softmax(dim=1)

    teacher = Softmax()
    with pytest.warns(UserWarning, match="teacher Softmax gives probabilities"):
        make_distpro(teacher, logit_weight=1.0, max_epochs=1).fit(*images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_distpro(teacher, max_epochs=1).fit(*images)  # its logits are not asked for


class Focal(nn.Module):
    def forward(self, logits, y):
        log_p = logits.log_softmax(1).gather(1, y[:, None])
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def fitted(module, X, y, net=NeuralNetClassifier, **params):
    """A skorch net whose module stays as it is given."""
    params = {"criterion": nn.CrossEntropyLoss, "max_epochs": 1, "lr": 0.0, "verbose": 0} | params
    return net(module, train_split=None, **params).fit(X, y)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, Focal, nn.MultiMarginLoss])
def test_logits_of_skorch_whatever_the_loss(criterion, trained, digits, taught):
    net = fitted(trained, *digits, criterion=criterion)
    with torch.no_grad():
        torch.testing.assert_close(answers(net, digits[0]), trained(torch.as_tensor(digits[0])))
    assert taught(net, max_epochs=20).fit(*digits).score(*digits) > 0.9


def test_logits_of_skorch_beside_feature_maps(make_distpro, images):
    clf = make_distpro(fitted(ConvNet(), *images, criterion=Focal), logit_weight=1.0, max_epochs=1)
    assert np.isfinite(clf.fit(*images).predict_proba(images[0])).all()


class NoLoss(nn.Module):
    def forward(self, values, y):
        return values.sum()


@pytest.mark.parametrize("criterion", [nn.NLLLoss, NoLoss])
def test_probabilities_of_skorch(criterion, trained, digits):
    """As skorch's module for NLLLoss gives them: without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = fitted(nn.Sequential(trained, nn.Softmax(1)), *digits, criterion=criterion)
        found = answers(net, digits[0])
    sure = found.softmax(1) > 1e-3
    torch.testing.assert_close(
        found.softmax(1)[sure], answers(trained, digits[0]).softmax(1)[sure], rtol=1e-2, atol=1e-3
    )


def test_softmax_before_a_loss_with_a_softmax(trained, digits):
    net = fitted(nn.Sequential(trained, nn.Softmax(1)), *digits)
    with pytest.warns(UserWarning, match="NeuralNetClassifier gives probabilities where logits"):
        answers(net, digits[0])


def test_a_nonlinearity_of_the_users_own(trained, digits):
    halved = fitted(trained, *digits, criterion=Focal, predict_nonlinearity=lambda z: (z / 2).softmax(1))
    found = answers(halved, digits[0]).softmax(1)
    torch.testing.assert_close(found, (answers(trained, digits[0]) / 2).softmax(1), rtol=1e-2, atol=2e-3)
    wrong = fitted(trained, *digits, predict_nonlinearity=lambda z: 100 * z.softmax(1))
    with pytest.raises(
        ValueError, match=r"teacher NeuralNetClassifier: predict_proba must give prob.*percentages"
    ):
        answers(wrong, digits[0])  # fmt: skip


def test_one_output_of_skorch_is_two_columns(digits):
    X, y = digits[0], (digits[1] % 2).astype(np.float32)
    module = nn.Sequential(nn.Linear(64, 1), nn.Flatten(0))
    net = fitted(module, X, y, NeuralNetBinaryClassifier, criterion=nn.BCEWithLogitsLoss)
    found = answers(net, X, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            found[:, 1] - found[:, 0], module(torch.as_tensor(X)), rtol=1e-3, atol=1e-3
        )


class Says(ClassifierMixin, BaseEstimator):
    """A classifier whose ``predict_proba`` is ``how`` of right probabilities."""

    def __init__(self, how=None):
        self.how = how

    def fit(self, X, y):
        self.inner_ = LogisticRegression(max_iter=200).fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.how(self.inner_.predict_proba(X))


def third_is(value):
    def how(probabilities):
        probabilities[3] = value
        return probabilities

    return how


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda p: 100 * p, "row 0 of X has .*sum 100, as percentages have"),
        (np.log, "as log-probabilities have"),
        (lambda p: np.log(p) + 3, "as decision values or logits may have"),
        (lambda p: p / 2, "the sum 0.5"),
        (lambda p: 1 - p, "the sum 9"),
        (third_is(np.nan), "row 3 of X has NaN"),
        (third_is(np.inf), "row 3 of X has .*inf"),
        (lambda p: p[:, 0], "must return an array of shape"),
        (lambda p: [p, p], "must return an array of shape"),
    ],
    ids=["percent", "logarithms", "scores", "halves", "others", "NaN", "inf", "one column", "several labels"],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_probabilities_that_are_none(how, match, frozen, make, digits):
    teacher = FrozenEstimator(Says(how).fit(*digits)) if frozen else Says(how)
    with pytest.raises(ValueError, match=f"teacher Says: predict_proba .*{match}"):
        make(teacher, meta="naive").fit(*digits)


def test_probabilities_that_are_rounded():
    checked_probabilities(np.array([[0.33, 0.33, 0.33], [0, 1, 0]]), "teacher")
    drawn = np.random.default_rng(0).dirichlet(np.ones(1000), 5)
    checked_probabilities(drawn.astype(np.float16), "teacher")
    two_decimals = np.round(drawn[:, :20] / drawn[:, :20].sum(axis=1, keepdims=True), 2)
    two_decimals[:, 0] += 0.05
    checked_probabilities(two_decimals, "teacher")
    with pytest.raises(ValueError, match=r"the sum 0\.97"):
        checked_probabilities(0.97 * drawn, "teacher")


def test_few_sums_off_by_cancellation():
    """GaussianNB in float32 gives several classes 1 each where it cannot tell them apart."""
    said = np.eye(4)[np.arange(40) % 4]
    said[5, :3] = 1
    np.testing.assert_allclose(
        np.exp(torch.as_tensor(log_probabilities(checked_probabilities(said, "it"))).log_softmax(1))[5, :3],
        1 / 3,
        atol=0.01,
    )
    said[:3] = 0.5
    with pytest.raises(ValueError, match=r"row 0 of X has the smallest value 0\.5 and the sum 2"):
        checked_probabilities(said, "teacher")


# --------------------------------------------------------------------------------------
# NaN and infinities


class Broken(nn.Linear):
    """From the ``since``-th call on it answers with ``value`` for some rows."""

    value, since, calls = torch.nan, 0, 0

    def forward(self, x):
        self.calls += 1
        logits = super().forward(x)
        if self.calls > self.since:
            logits[1::100] = self.value
        return logits


def broken(value, since=0):
    network = Broken(64, 10)
    network.value, network.since = value, since
    return network


@pytest.mark.parametrize(
    ("value", "what"), [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "nothing but")]
)
@pytest.mark.parametrize("how", ["array", "dataset", "augment", "skorch"])
def test_what_is_no_number_is_refused_at_once(how, value, what, make, digits, monkeypatch):
    X, y = digits
    teacher = broken(value)
    if how == "skorch":
        teacher = fitted(broken(value, since=4), X, y, batch_size=100)
    data = (TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), None) if how == "dataset" else digits
    name = "NeuralNetClassifier" if how == "skorch" else "Broken"
    clf = make(teacher, meta="naive", augment=(lambda x: x) if how == "augment" else None)
    with pytest.raises(ValueError, match=f"teacher {name}: row 1 of X has {what}"):
        clf.fit(*data)  # fmt: skip


def test_the_row_is_that_of_X(make, digits):
    """D_train is part of X only; in other batches than the first, too."""
    X, y = digits

    class Dislikes(nn.Linear):
        def forward(self, x):
            return torch.where(
                (x == torch.as_tensor(X[57])).all(1, keepdim=True), torch.nan, super().forward(x)
            )

    for data in (digits, (TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), None)):
        with pytest.raises(ValueError, match="row 57 of X has NaN"):
            make(Dislikes(64, 10), meta="linear", random_state=1).fit(*data)
    with pytest.raises(ValueError, match="row 57 of X has NaN"):
        compare_methods(make(Dislikes(64, 10)), *digits, methods=("naive",), cv=2, n_jobs=1)


@pytest.mark.parametrize("since", [3, 8])
def test_later_batches_are_blamed_on_the_teacher(since, make, digits):
    clf = make(broken(torch.nan, since), meta="naive", augment=lambda x: x, max_epochs=2)
    with pytest.warns(
        ConvergenceWarning, match="teacher Broken answered some training batches with NaN"
    ) as caught:
        clf.fit(*digits)
    assert not any("Lower lr" in str(w.message) for w in caught) and clf.net_.watch_ is None
    with pytest.warns(ConvergenceWarning, match="Lower lr"):  # a teacher that is not to blame
        make(broken(0.0), meta="naive", augment=lambda x: x, lr=1e30).fit(*digits)


@pytest.mark.parametrize("logit_weight", [0.0, 1.0])
def test_of_a_teacher_of_feature_maps(logit_weight, make_distpro, images):
    class Fails(ConvNet):
        since, calls = 0, 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (torch.nan if self.calls > self.since else 1)

    with pytest.raises(ValueError, match="teacher Fails: row 0 of X has NaN"):
        make_distpro(Fails(), logit_weight=logit_weight).fit(*images)
    if logit_weight:
        teacher = Fails()
        teacher.since = 20
        with pytest.warns(ConvergenceWarning, match="teacher Fails answered some training batches"):
            make_distpro(teacher, logit_weight=1.0, max_epochs=9).fit(*images)


def test_minus_inf_switches_a_class_off(taught, trained, digits):
    class Masked(nn.Module):
        def forward(self, x):
            logits = trained(x).clone()
            logits[:, 3] = -torch.inf
            return logits

    found = answers(Masked(), digits[0])
    assert bool((found[:, 3] == -torch.inf).all()) and bool(torch.isfinite(found[:, :3]).all())


def test_watch_waits_for_nothing_and_forgets_nothing():
    watch = AnswersWatch("teacher T")
    assert watch.fault() is None
    for logits in (torch.zeros(3, 2), torch.tensor([[1.0, -torch.inf]]), torch.full((2, 2), -1e38)):
        watch.note(logits)
    assert watch.fault() is None
    watch.note(torch.tensor([[torch.nan, 0.0]]))
    watch.note(torch.zeros(3, 2))
    assert "teacher T answered" in watch.fault()


# --------------------------------------------------------------------------------------
# What networks return, and are


class Returns(nn.Module):
    """Returns ``form(logits, x)``."""

    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        return self.form(self.net(x), x)


def dropping(net):
    """In training mode, half of what it knows is missing."""
    return nn.Sequential(net, nn.Dropout(0.9)).train()


def in_bits(net, dtype):
    return copy.deepcopy(net).to(dtype)


FORMS = {
    "tuple": lambda net: Returns(net, lambda z, x: (z, x)),
    "tuple, logits last": lambda net: Returns(net, lambda z, x: (x, z)),
    "tuple with a loss": lambda net: Returns(net, lambda z, x: (z.sum(), z)),
    "list": lambda net: Returns(net, lambda z, x: [x, z]),
    "nested": lambda net: Returns(net, lambda z, x: {"features": [x, x[:, :5]], "out": {"cls": z}}),
    "dict": lambda net: Returns(net, lambda z, x: {"features": x[:, :10], "logits": z}),
    "ModelOutput": lambda net: Returns(net, lambda z, x: SimpleNamespace(loss=None, logits=z)),
    "mdistiller": lambda net: Returns(net, lambda z, x: (z, {"feats": [x], "pooled_feat": x})),
    "float16": lambda net: in_bits(net, torch.float16),
    "bfloat16": lambda net: in_bits(net, torch.bfloat16),
    "float64": lambda net: in_bits(net, torch.float64),
    "DataParallel": lambda net: nn.DataParallel(copy.deepcopy(net)),  # which moves it to a GPU
    "script": torch.jit.script,
    "script in training mode": lambda net: torch.jit.script(dropping(net)),
    "frozen script": lambda net: torch.jit.freeze(torch.jit.script(copy.deepcopy(net).eval())),
    "trace": lambda net: torch.jit.trace(net, torch.zeros(2, 64)),
    "training mode": dropping,
}


def test_a_recurrent_teacher_lists_its_own_weights_after_a_pass_elsewhere():
    """Its layers list the weights of the last pass, by which copies on a GPU would stay there."""
    layer, x = nn.LSTM(8, 8), torch.rand(3, 2, 8, device="meta")
    network = EvaluatedNetwork(layer, x.device, "teacher LSTM")
    assert network(x)[0].device == x.device and network(x)[0].shape == (3, 2, 8)
    assert [id(w) for w in layer._flat_weights] == [id(w) for w in layer.parameters()]
    assert all(w.device.type == "cpu" for w in layer._flat_weights)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("home", "device"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_frozen_script_on_another_device(home, device, trained, digits, taught):
    """Its constants show no device of their own."""
    net = copy.deepcopy(trained).eval().to(home)
    clf = taught(torch.jit.freeze(torch.jit.script(net)), device=device).fit(*digits)
    assert clf.score(*digits) > 0.8


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("what", FORMS)
def test_forms_of_networks(what, trained, digits, taught):
    X = digits[0]
    teacher, expected = FORMS[what](trained), answers(trained, X)
    tolerance = 0.1 if "float" in what else 1e-4
    torch.testing.assert_close(answers(teacher, X), expected, rtol=0.01, atol=tolerance)
    assert answers(teacher, X).dtype == torch.float32
    for augment in (None, lambda x: x):
        assert taught(teacher, augment=augment).fit(*digits).score(*digits) > 0.8
    if "training mode" in what:
        assert teacher.training


def test_forms_for_skorch(trained, digits):
    for form in (lambda z, x: (z, x), lambda z, x: (z, x[:, :10])):
        net = NeuralNetClassifier(
            Returns(trained, form), criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1
        )
        net.initialize().history.new_epoch()
        torch.testing.assert_close(answers(net, digits[0]), answers(trained, digits[0]))


@pytest.mark.parametrize("kind", ["tuple", "float16", "bfloat16", "float64", "parallel", "dict"])
def test_forms_beside_feature_maps(kind, make_distpro, images):
    class Forms(ConvNet):
        def forward(self, x):
            z = super().forward(x)
            return (z, x) if kind == "tuple" else {"logits": z} if kind == "dict" else z

    teacher = Forms(width=6)
    plain = make_distpro(ConvNet(width=6), logit_weight=1.0, student_layers=["stage1"])
    plain.teacher.load_state_dict(teacher.state_dict())
    given = teacher.to(getattr(torch, kind)) if "float" in kind else teacher
    given = nn.DataParallel(given) if kind == "parallel" else given
    clf = make_distpro(given, logit_weight=1.0, student_layers=["stage1"])
    loss = [c.fit(*images).history_[-1, "train_loss"] for c in (plain, clf)]
    assert abs(loss[0] - loss[1]) < (0.05 if "float" in kind else 1e-5)
    assert next(given.parameters()).dtype == (getattr(torch, kind) if "float" in kind else torch.float32)


@pytest.mark.parametrize("how", ["array", "dataset", "augment", "skorch", "script", "float16"])
def test_other_sizes_are_refused_before_any_training(how, make, digits, monkeypatch):
    monkeypatch.setattr("sklearn_kd.training._net.TrainingNet.train_step", None)
    X, y = digits
    teacher = nn.Linear(32, 10)
    if how == "skorch":
        teacher = fitted(teacher, X[:, :32], y)
    if how in ("script", "float16"):
        teacher = torch.jit.script(teacher) if how == "script" else teacher.half()
    data = (TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), None) if how == "dataset" else digits
    clf = make(teacher, augment=(lambda x: x) if how == "augment" else None)
    with pytest.raises(ValueError, match=r"(?s)teacher \w+ cannot take samples of shape \(64,\).*trained on"):
        clf.fit(*data)


@pytest.mark.parametrize(
    ("output", "match"),
    [
        (
            (torch.zeros(4, 5), torch.zeros(4, 6)),
            r"returned tuple with tensors of shape \[\(4, 5\), \(4, 6\)\]",
        ),
        ({"loss": torch.zeros(())}, "none of which is named logits or has 10 columns"),
        (torch.zeros(4), r"for 4 it returned \(4,\)"),
        (torch.zeros(5, 10), r"for 4 it returned \(5, 10\)"),
        (None, "returned NoneType"),
        ("logits", "returned str"),
    ],
    ids=["neither", "no logits", "one dimension", "other rows", "None", "text"],
)
def test_outputs_without_logits(output, match):
    with pytest.raises(ValueError, match=match):
        logits_in(output, 4, [10], "teacher T")


def test_copies_and_clones_of_the_forms(trained, digits):
    for what in ("DataParallel", "script", "float16"):
        teacher = FORMS[what](trained)
        assert clone(DistilledClassifier(teacher, MLPStudent)).teacher is teacher


def test_floor_is_that_of_numpy():
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.05), 50)
    p[p < 1e-3] = 0
    p /= p.sum(axis=1, keepdims=True)
    floor = np.clip(p[p > 0].min() / 2, 1e-7, 1e-2)
    np.testing.assert_allclose(log_probabilities(p), np.log(np.maximum(p, floor)), rtol=1e-5)
