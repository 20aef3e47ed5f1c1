"""Teachers of several labels: their answers as logits, a column for each label."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet

from sklearn_kd.teachers import BatchTeacherAdapter, FunctionTeacher, register_teacher
from sklearn_kd.teachers._label_logits import LabelConversion, log_odds
from sklearn_kd.teachers._label_teachers import label_logits_of

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = (X @ RNG.normal(size=(4, 3)) + RNG.normal(size=(N, 3)) > 0).astype(int)
LOGISTIC = LogisticRegression()


def odds(p):
    return np.log(p / (1 - p))


def test_log_odds_of_0_and_1_are_half_the_smallest_step():
    p = np.array([[0.0, 0.25], [1.0, 0.98]])
    found = log_odds(p)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, odds(np.array([[0.01, 0.25], [0.99, 0.98]])), rtol=1e-6)


@pytest.mark.parametrize(
    "classifier",
    [MLPClassifier(max_iter=3), OneVsRestClassifier(LOGISTIC), ClassifierChain(LOGISTIC)],
    ids=lambda c: type(c).__name__,
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_array_of_probabilities(classifier):
    fitted = classifier.fit(X, Y)
    np.testing.assert_allclose(
        label_logits_of(fitted, X, N, 3), odds(fitted.predict_proba(X)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "classifier",
    [MultiOutputClassifier(LOGISTIC), make_pipeline(StandardScaler(), MultiOutputClassifier(LOGISTIC))],
    ids=lambda c: type(c).__name__,
)
def test_a_list_with_an_array_for_each_label(classifier):
    fitted = classifier.fit(X, Y)
    p = np.column_stack([part[:, 1] for part in fitted.predict_proba(X)])
    np.testing.assert_allclose(label_logits_of(fitted, X, N, 3), odds(p), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classifier", [RandomForestClassifier(5), KNeighborsClassifier(), DummyClassifier()])
def test_constant_labels_of_a_list(classifier):
    y = np.c_[Y[:, 0], np.zeros(N, int), np.ones(N, int)]
    logits = label_logits_of(classifier.fit(X, y), X, N, 3)
    assert (logits[:, 1] < -2).all()
    assert (logits[:, 2] > 2).all()


@pytest.mark.filterwarnings("ignore:.*margins of its decision_function")
def test_margins_are_logits_where_there_are_no_probabilities():
    fitted = RidgeClassifier().fit(X, Y)
    np.testing.assert_allclose(label_logits_of(fitted, X, N, 3), fitted.decision_function(X), rtol=1e-5)


class Scores(BatchTeacherAdapter):
    """Registered below: an adapter of a user's own."""

    def predict_logits(self, X):
        return X @ self.teacher.weights


class Weights:
    weights = torch.as_tensor(RNG.normal(size=(4, 3)).astype(np.float32))


register_teacher(Weights, Scores)


def network():
    linear = torch.nn.Linear(4, 3)
    linear.weight.data, linear.bias.data = Weights.weights.T.contiguous(), torch.zeros(3)
    return linear


def skorch_net():
    net = NeuralNet(network(), torch.nn.BCEWithLogitsLoss, max_epochs=1, lr=0.0, verbose=0, train_split=None)
    return net.fit(X, Y.astype(np.float32))


ANSWERS = X @ Weights.weights.numpy()
TEACHERS = {
    "a network": network,
    "a skorch net": skorch_net,
    "a function": lambda: lambda X: X @ Weights.weights.numpy(),
    "a function of tensors": lambda: FunctionTeacher(lambda x: x @ Weights.weights, takes="tensor"),
    "a function of probabilities": lambda: lambda X: 1 / (1 + np.exp(-X @ Weights.weights.numpy())),
    "an adapter of a user's own": Weights,
    "a frozen classifier": lambda: FrozenEstimator(OneVsRestClassifier(LOGISTIC).fit(X, Y)),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_what_the_student_learns_from(kind, make):
    """That of the same logits, given."""
    teacher = TEACHERS[kind]()
    logits = ANSWERS
    if isinstance(teacher, FrozenEstimator):
        logits = odds(teacher.predict_proba(X))
    settings = {"meta": "fixed", "lambda1": 0.2, "temperature": 2.0, "max_epochs": 2}
    found = make(teacher, **settings).fit(X, Y).predict_proba(X)
    given = make(None, **settings).fit(X, Y, teacher_logits=logits).predict_proba(X)
    np.testing.assert_allclose(found, given, atol=1e-5)


def test_a_network_that_ends_in_a_sigmoid_is_warned_of(make):
    teacher = torch.nn.Sequential(network(), torch.nn.Sigmoid())
    with pytest.warns(
        UserWarning, match="gives probabilities where logits are expected.*leave its sigmoid out"
    ):
        make(teacher, meta="fixed", max_epochs=1).fit(X, Y)
    with pytest.warns(UserWarning, match="teacher_logits gives probabilities.*before its sigmoid"):
        make(None, meta="fixed", max_epochs=1).fit(X, Y, teacher_logits=np.full((N, 3), 0.3))


WRONG = {
    "one label per row": (FrozenEstimator(LOGISTIC.fit(X, Y[:, 0])), "predicts one label per row, and y has 3"),
    "fewer labels": (FrozenEstimator(KNeighborsClassifier().fit(X, Y[:, :2])), "gives 2 columns, and y has 3 labels"),
    "a network of fewer": (torch.nn.Linear(4, 2), "gives 2 columns, and y has 3 labels"),
    "a function that names classes": (
        FunctionTeacher(lambda X: X, classes=["a", "b", "c"]), "states classes of its columns, .'a', 'b', 'c'.",
    ),
    "a list": ([network(), network()], "teacher list cannot be asked about several labels"),
    "a label of other classes": (
        FrozenEstimator(KNeighborsClassifier().fit(X, 1 + Y)), "each label must have the classes 0 and 1",
    ),
    "a label of words": (
        FrozenEstimator(KNeighborsClassifier().fit(X, np.where(Y == 1, "a", "b"))), "for the classes .'a', 'b'. of a label",
    ),
    "a label that is constant to it": (
        MultiOutputClassifier(LOGISTIC), "label 2 of y is the same in all rows.*needs samples of at least 2 classes",
    ),
    "a classifier of one label": (
        make_pipeline(StandardScaler(), LogisticRegression()), "learns one label per row, and y has 3 labels. Give sklearn.multioutput",
    ),
    "a vote of one label": (VotingClassifier([("k", KNeighborsClassifier())], voting="soft"), "learns one label per row, and y has 3 labels"),
    "a function of lists": (KNeighborsClassifier().fit(X, Y).predict_proba, r"a list of arrays. .*np.column_stack"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_refused_before_the_student_is_trained(kind, make, monkeypatch):
    monkeypatch.setattr("sklearn_kd.training._net.TrainingNet.train_step", None)
    teacher, match = WRONG[kind]
    y = np.c_[Y[:, :2], np.zeros(N, int)] if "constant" in kind else Y
    with pytest.raises(ValueError, match=match):
        make(teacher, meta="fixed").fit(X, y)


@pytest.mark.usefixtures("no_training")
def test_a_teacher_of_several_labels_is_refused_beside_one(make):
    with pytest.raises(ValueError, match="was fitted on 3 labels for each row, and y has one"):
        make(FrozenEstimator(KNeighborsClassifier().fit(X, Y))).fit(X, Y[:, 0])


@pytest.mark.parametrize("last", [torch.log_softmax, torch.softmax])
def test_a_softmax_is_warned_of(last):
    values = last(torch.as_tensor(ANSWERS), 1)
    with pytest.warns(UserWarning, match="teacher f: in every row the probabilities sum to 1"):
        LabelConversion.of(values, 3, "teacher f", None)
    LabelConversion.of(values / 2, 3, "teacher f", None)  # no warning, which would be an error


def test_logits_after_probabilities_are_not_cut_in_silence():
    convert = LabelConversion.of(torch.tensor([[0.5, 1.0]]), 2, "teacher f", None)
    torch.testing.assert_close(convert(torch.tensor([[0.5, 0.25]])), torch.tensor([[0.0, -1.0986123]]))
    with pytest.raises(ValueError, match=r"teacher f gave .* for the first rows.* numbers from -3 to 0.5"):
        convert(torch.tensor([[0.5, -3.0]]))


@pytest.mark.parametrize("shift", [0, 1])
def test_columns_in_another_order_are_warned_of(shift, make):
    rng = np.random.default_rng(0)
    y = (rng.random((150, 4)) < 0.4).astype(int)
    logits = np.roll(4.0 * y + rng.normal(size=y.shape), shift, axis=1)
    clf, rows = make(meta="fixed", max_epochs=1), rng.normal(size=(150, 4))
    if not shift:
        clf.fit(rows, y, teacher_logits=logits)  # no warning, which would be an error
        return
    with pytest.warns(
        UserWarning, match=r"teacher_logits: its columns hardly correlate .* take the columns \[1, 2, 3, 0\]"
    ):
        clf.fit(rows, y, teacher_logits=logits)
