"""Several labels: what is taken, how it is split, and the validation loss."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse

from sklearn_kd.tasks._label_kinds import Labels
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._targets import Targets

N = 30
RNG = np.random.default_rng(0)
Y = (RNG.random((N, 3)) < [0.5, 0.3, 0.7]).astype(int)
X = RNG.normal(size=(N, 4)).astype(np.float32)


def changed(value, dtype=float):
    y = Y.astype(dtype)
    y[4, 1] = value
    return y


@pytest.mark.parametrize(
    "y",
    [Y, Y.tolist(), Y.astype(float), Y == 1, sparse.csr_matrix(Y), sparse.coo_array(Y), pd.DataFrame(Y),
     pd.DataFrame(Y).astype({0: bool}), Y.astype(object), list(Y)],
    ids=lambda y: type(y).__name__,
)  # fmt: skip
def test_matrices_of_0_and_1_are_several_labels(y):
    targets = Labels.check_targets(y, N)
    task, codes = Labels().from_targets(targets)
    assert isinstance(task, Multilabel)
    assert (codes == Y).all()
    assert codes.dtype == np.int8
    assert (task.decode(codes) == Y).all()
    assert task.decode(codes).dtype == targets.dtype


SHAPE = r"y should be a 1d array, got an array of shape \(30, 3\) instead\."
BINARIZER = "Turn lists of labels into a matrix of 0 and 1 by sklearn.preprocessing.MultiLabelBinarizer"
BAD = {
    "NaN": (changed(np.nan), r"Input y contains NaN or None: labels are missing in 1 of 30 rows, such as row 4"),
    "None": (changed(None, object), "Input y contains NaN or None"),
    "a 2": (changed(2, int), SHAPE + rf".*row 4 has 2 in column 1\. {BINARIZER}"),
    "a half": (changed(0.5), SHAPE + ".*row 4 has 0.5 in column 1"),
    "words": (Y.astype(str), SHAPE + ".*row 0 has '[01]' in column 0"),
    "four dimensions": (Y[:, :, None, None], r"got an array of shape \(30, 3, 1, 1\).*shape \(30, k\), k of 2 or more; or a map"),
    "one sparse column": (sparse.csr_matrix(Y[:, :1]), r"shape \(30, 1\) instead.*in a dense array"),
    "sets": ([{"a"}, {"a", "b"}] * 15, f"y has sets of labels as rows. {BINARIZER}"),
    "an array of sets": (np.array([{1}, {2}] * 15, dtype=object), "y has sets of labels as rows"),
    "lists": ([["a"], ["a", "b"]] * 15, f"y has rows of differing lengths, as lists of labels have. {BINARIZER}"),
    "lists of words": ([["a", "b"], ["b", "c"]] * 15, "y has lists of labels as rows"),
    "a column of lists": (pd.Series([[0, 1], [1, 1]] * 15), r"y has lists as rows \(turn lists of 0 and 1 into np.array"),
    "a column of arrays": (pd.Series([np.array(["a", "b"]), np.array(["a"])] * 15), "y has rows of differing lengths"),
    "fewer rows": (Y[1:], r"inconsistent numbers of samples: \[30, 29\]"),
    "one-hot": (sparse.csr_matrix(np.eye(3)[Y[:, 0]]), "exactly one of 3 labels: it is one-hot"),
    "the same in all rows": (np.tile([1, 0], (N, 1))[:, [0, 0, 1]], r"the same labels in all 30 rows, \[1, 1, 0\]"),
}  # fmt: skip


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("kind", BAD)
def test_other_matrices_are_refused(kind, make):
    y, match = BAD[kind]
    with pytest.raises(ValueError, match=match):
        make(None, meta="none").fit(X, y)


class Squashed(torch.nn.Linear):
    """Its sigmoid is no module."""

    def forward(self, x):
        return super().forward(x).sigmoid()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("given", "params", "match"),
    [
        ({"X_val": X, "y_val": Y[:, :2]}, {}, r"y_val has shape \(30, 2\), but y has 3 labels"),
        ({"X_val": X, "y_val": Y[:, 0]}, {}, r"y_val has shape \(30,\), one label per row, but y has several"),
        ({"X_val": X, "y_val": 2 * Y}, {}, "y_val should be a 1d array.*row 0 has 2"),
        ({"teacher_logits": np.zeros((N, 2))}, {}, r"one column per label of y, shape \(30, 3\); got \(30, 2\)"),
        ({"teacher_logits": np.full((N, 3), np.nan)}, {}, "teacher_logits: row 0 of X has NaN"),
        ({"teacher_logits": np.full((N, 3), np.inf)}, {}, r"row 0 of X has \+inf.*infinite where p is 0 or 1"),
        ({"teacher_logits": np.zeros((3, N, 2))}, {}, r"into np.column_stack\(\[p\[:, 1\] for p in answers\]\)"),
        ({}, {"class_weight": "balanced"}, "class_weight='balanced' weights classes that exclude each other"),
        ({}, {"teacher_classes": [0, 1, 2]}, "teacher_classes are the classes of columns, but y has several"),
        ({}, {"student": torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid())}, "ends in a sigmoid"),
        ({}, {"student": Squashed(4, 3)}, "student Squashed ends in a sigmoid"),
        ({}, {"student": torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LogSoftmax(1))}, "Sequential ends in a log_softmax"),
    ],
)  # fmt: skip
def test_what_does_not_fit_several_labels_is_refused(given, params, match, make):
    with pytest.raises(ValueError, match=match):
        make(**({"meta": "linear"} | params)).fit(X, Y, **({"teacher_logits": np.ones((N, 3)) - 2} | given))


@pytest.mark.parametrize("n_rare", [1, 2, 5])
def test_d_train_has_every_label_and_rows_without_it(n_rare):
    for seed in range(20):
        codes = (np.random.default_rng(seed).random((40, 5)) < 0.4).astype(np.int8)
        codes[:, 3], codes[:, 4] = 0, 1
        codes[:n_rare, 3], codes[-n_rare:, 4] = 1, 0
        train, val = Multilabel(5, int).split(codes, 0.25, np.random.RandomState(seed), "")
        assert sorted([*train, *val]) == list(range(40))
        assert len(val) == 10
        assert codes[train].max(axis=0).all()
        assert not codes[train].min(axis=0).any()


def test_shares_of_labels_are_nearer_than_those_of_one_draw():
    codes = (np.random.default_rng(0).random((300, 8)) < 0.3).astype(np.int8)
    task, off, of_one = Multilabel(8, int), [], []
    for seed in range(20):
        _, val = task.split(codes, 0.2, np.random.RandomState(seed), "")
        drawn = np.random.RandomState(seed).permutation(300)[:60]
        off.append(np.abs(codes[val].mean(axis=0) - codes.mean(axis=0)).mean())
        of_one.append(np.abs(codes[drawn].mean(axis=0) - codes.mean(axis=0)).mean())
    assert np.mean(off) < 0.8 * np.mean(of_one)


def test_groups_are_in_one_part():
    codes = (np.random.default_rng(0).random((60, 3)) < 0.5).astype(np.int8)
    groups = np.arange(60) // 5
    codes[groups == 7, 2], codes[groups != 7, 2] = 1, 0  # which D_train needs
    train, val = Multilabel(3, int).split(codes, 0.25, np.random.RandomState(0), "", groups)
    assert not set(groups[train]) & set(groups[val])
    assert 7 in groups[train]
    assert len(val) == 15
    with pytest.raises(
        ValueError, match="none of the 2 groups can be held out, since each has all rows of a label"
    ):
        Multilabel(3, int).split(codes, 0.25, np.random.RandomState(0), "", (groups == 7).astype(int))


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_loss_and_its_gradient(weighted):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(N, generator=generator, dtype=torch.float64) if weighted else None
    targets = Targets(torch.as_tensor(Y.astype(np.int8)), None, weight)
    losses = F.binary_cross_entropy_with_logits(z / 1.7, torch.as_tensor(Y).double(), reduction="none").mean(
        dim=1
    )
    expected = losses.mean() if weight is None else (weight * losses).mean()
    (gradient,) = torch.autograd.grad(expected, z)
    value, r = Multilabel.validation_loss(z.detach(), targets, 1.7)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(r, gradient)
    torch.testing.assert_close(Multilabel.validation_losses(z.detach(), targets, 1.7).mean(), value)


def test_the_optimal_validation_temperature():
    z = 4 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    y = (torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) < (z / 2.5).sigmoid()).to(torch.int8)
    found = Multilabel.optimal_val_temperature([(z[:900], Targets(y[:900])), (z[900:], Targets(y[900:]))])
    assert found == pytest.approx(2.5, rel=0.1)
    at = Multilabel.validation_loss(z, Targets(y), found)[0]
    assert all(at <= Multilabel.validation_loss(z, Targets(y), found * f)[0] for f in (0.95, 1.05))
