"""Probabilities of 0: a row that is asked about with others has the same answer as alone."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import IterableDataset

from sklearn_kd import DistilledClassifier, MLPStudent, Stream
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers import FunctionTeacher, StoredAnswers, TeacherEnsemble
from sklearn_kd.teachers._array_batches import array_teacher_by_batch
from sklearn_kd.teachers._label_logits import log_odds
from sklearn_kd.teachers._label_teachers import make_label_teacher
from sklearn_kd.teachers._logit_checks import log_probabilities, logarithms
from sklearn_kd.teachers._registry import wrap_teacher
from sklearn_kd.teachers._zeros import floor_of_all_rows, floor_of_each_row

X, y = load_iris(return_X_y=True)
X = X.astype(np.float32)
CLASSES = np.arange(3)
# The trees agree about the first 50 rows and disagree about many of the others.
FOREST = RandomForestClassifier(200, random_state=0).fit(X[::2], y[::2])
TREES = ExtraTreesClassifier(200, bootstrap=True, random_state=0).fit(X[::2], y[::2])
LABELS = np.column_stack([y > 0, y > 1]).astype(int)


def expected(p):
    """Return the logarithms in float64, each row by itself."""
    rows = []
    for row in np.asarray(p, dtype=np.float64):
        floor = min(max(min(row[row > 0]) / 2, 1e-7), 0.005)
        rows.append(np.log(np.maximum(row, floor)))
    return np.array(rows)


class Rows(IterableDataset):
    def __init__(self, places):
        self.places = places

    def __len__(self):
        return len(self.places)

    def __iter__(self):
        for i in self.places:
            yield X[i], int(y[i])


def fitted(teacher, places, streamed, batch_size, seed=0):
    given = (Stream(Rows(places), classes=CLASSES),) if streamed else (X[places], y[places])
    model = DistilledClassifier(
        teacher,
        MLPStudent,
        meta="naive",
        max_epochs=1,
        batch_size=batch_size,
        random_state=seed,
        device="cpu",
    )
    return model.fit(*given)


# --------------------------------------------------------------------------------------
# Numbers


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_each_row_has_its_own_replacement(dtype):
    p = np.random.default_rng(0).dirichlet(np.full(5, 0.05), 5000).astype(dtype)
    p[p < 1e-3] = 0
    p[:2] = [[1, 0, 0, 0, 0], [1, 1e-20, 0, 0, 0]]
    np.testing.assert_allclose(log_probabilities(p, floor_of_each_row), expected(p), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        logarithms(torch.from_numpy(p), floor_of_each_row), expected(p), rtol=1e-5, atol=1e-6
    )


def test_probabilities_of_labels_have_the_replacement_of_their_row():
    p = np.array([[0.0, 0.25], [1.0, 0.998], [1.0, 0.0]])
    moved = np.array([[0.005, 0.25], [0.999, 0.998], [0.995, 0.005]])
    np.testing.assert_allclose(log_odds(p, floor_of_each_row), np.log(moved / (1 - moved)), rtol=1e-5)


def test_pixels_of_maps_are_rows():
    p = torch.rand(2, 3, 4, 5).softmax(1)
    p[:, 0, 1] = 0
    flat = p.movedim(1, -1).reshape(-1, 3)
    found = logarithms(p, floor_of_each_row).movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(found, logarithms(flat, floor_of_each_row), rtol=0, atol=0)


@pytest.mark.parametrize("floor", [floor_of_all_rows, floor_of_each_row])
def test_no_rows(floor):
    assert log_probabilities(np.empty((0, 3)), floor).shape == (0, 3)
    assert log_odds(np.empty((0, 3)), floor).shape == (0, 3)


# --------------------------------------------------------------------------------------
# Teachers


def proba(X):
    return FOREST.predict_proba(X)


class Softmax(nn.Module):
    """A network that returns the forest's probabilities."""

    classes_ = CLASSES

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # an optimizer needs one

    def forward(self, x):
        return torch.from_numpy(proba(x.numpy())).float()


@pytest.mark.parametrize(
    "teacher",
    [
        FrozenEstimator(FOREST),
        proba,
        FunctionTeacher(lambda x: proba(x.numpy()), takes="tensor"),
        Softmax(),
    ],
    ids=["forest", "function", "tensors", "network"],
)
@pytest.mark.filterwarnings("ignore:.*gives probabilities where logits are expected")
def test_a_batch_is_answered_row_by_row(teacher):
    adapter = wrap_teacher(teacher, None)
    ask = (adapter if adapter.takes_batches() else array_teacher_by_batch(adapter)).on
    whole = ask(torch.device("cpu"), CLASSES)(torch.from_numpy(X))
    np.testing.assert_allclose(whole, expected(proba(X)), rtol=1e-5, atol=1e-6)
    again = ask(torch.device("cpu"), CLASSES)
    for size in (25, 70):
        parts = torch.cat([again(part) for part in torch.from_numpy(X).split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_all_rows_at_once_share_one_replacement():
    p, data = proba(X), DistillationData(torch.from_numpy(X))
    logits = torch.cat([*wrap_teacher(FrozenEstimator(FOREST), None).iter_logits(X, data, CLASSES, 1024)])
    floor = np.clip(p[p > 0].min() / 2, 1e-7, 1e-2)
    assert floor < 0.005
    np.testing.assert_allclose(logits, np.log(np.maximum(p, floor)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("declared", [True, False], ids=["predict_proba", "module"])
def test_a_net_of_skorch_is_asked_by_batch_or_about_all_rows(declared):
    net = NeuralNetClassifier(
        Softmax, predict_nonlinearity=None if declared else "auto", train_split=None, verbose=0
    ).initialize()
    net.history.new_epoch()  # as after a fit
    net.classes_inferred_ = CLASSES
    adapter, p = wrap_teacher(net, None), proba(X)
    batch, device = torch.from_numpy(X[:40]), torch.device("cpu")
    by_row = adapter.on(device, CLASSES)(batch)
    np.testing.assert_allclose(by_row, expected(p[:40]), rtol=1e-5, atol=1e-6)
    whole = torch.cat([*adapter.iter_logits(None, DistillationData(torch.from_numpy(X)), CLASSES, 1024)])
    np.testing.assert_allclose(whole, log_probabilities(p), rtol=1e-5, atol=1e-6)
    assert (whole[:40] - by_row).abs().max() > 0.1


def test_several_labels_are_answered_row_by_row():
    forest = RandomForestClassifier(200, random_state=0).fit(X[::2], LABELS[::2])
    ask = array_teacher_by_batch(make_label_teacher(FrozenEstimator(forest))).on(
        torch.device("cpu"), np.arange(2)
    )
    whole = ask(torch.from_numpy(X))
    parts = torch.cat([ask(part) for part in torch.from_numpy(X).split(30)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_an_ensemble_of_forests_answers_a_stream():
    members = [FrozenEstimator(FOREST), FrozenEstimator(TREES)]
    ask = array_teacher_by_batch(wrap_teacher(TeacherEnsemble(members), None)).on(
        torch.device("cpu"), CLASSES
    )
    means = (expected(FOREST.predict_proba(X)) + expected(TREES.predict_proba(X))) / 2
    parts = torch.cat([ask(part) for part in torch.from_numpy(X).split(30)])
    wanted = torch.from_numpy(means).log_softmax(1).float()
    torch.testing.assert_close(parts.log_softmax(1), wanted, rtol=0, atol=1e-2)
    fitted(TeacherEnsemble(members), np.random.default_rng(0).permutation(150), True, 50)


# --------------------------------------------------------------------------------------
# Stored answers


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "arrays"])
@pytest.mark.parametrize("forest", [FOREST, TREES], ids=["random forest", "extra trees"])
def test_stored_answers_of_a_forest_are_recognised_and_those_of_another_refused(forest, streamed, tmp_path):
    stored = StoredAnswers(FrozenEstimator(forest), tmp_path, dtype="float32")
    mixed = np.random.default_rng(0).permutation(np.arange(4, 150))
    fitted(stored, np.r_[mixed[:100], :4], streamed, 52)
    # By the first four rows the teacher is recognised, and all trees agree about them.
    for rest, size in ((mixed[80:], 25), (mixed[:44], 48)):
        fitted(stored, np.r_[:4, rest], streamed, size)
    adapter = wrap_teacher(stored, None)
    data = DistillationData(torch.from_numpy(X))
    answers = torch.cat([*adapter.iter_logits(X, data, CLASSES, 1024)])
    np.testing.assert_allclose(answers, expected(forest.predict_proba(X)), rtol=1e-5, atol=1e-6)
    other = clone(forest).set_params(max_depth=1, random_state=1).fit(X[::5], y[::5])
    with pytest.raises(ValueError, match="does not answer like the teacher"):
        fitted(StoredAnswers(FrozenEstimator(other), tmp_path, dtype="float32"), mixed, streamed, 50)
