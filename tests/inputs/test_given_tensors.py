"""Tensors and arrays of every type, wherever arrays are taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from helpers.parameter_ids import in_words
from sklearn_kd import compare_methods
from sklearn_kd.inputs._arrays import from_torch

FORMS = {
    "float64": lambda a: torch.tensor(a).double(),
    "float16": lambda a: torch.tensor(a).half(),
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "float8": lambda a: torch.tensor(a).to(torch.float8_e5m2),
    "int": lambda a: torch.tensor(a).int(),
    "requires grad": lambda a: torch.tensor(a).float().requires_grad_(),
    "in a graph": lambda a: torch.tensor(a).float().requires_grad_() * 1,
    "list of tensors": lambda a: list(torch.tensor(a).bfloat16()),
    "array of bfloat16": lambda a: a.astype(pytest.importorskip("ml_dtypes").bfloat16),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
# All forms hold these numbers exactly.
X = np.random.default_rng(0).integers(0, 4, size=(60, 5)).astype(np.float64)
Y = np.arange(60) % 3
L = np.random.default_rng(1).integers(-2, 3, size=(60, 3)).astype(np.float64)
W = 1.0 + np.arange(60) % 2


@forms
@pytest.mark.parametrize("names", [["X", "y_val"], ["y", "sample_weight", "X_val"], ["teacher_logits"]])
def test_fit(names, form, make):
    given = {"X": X, "y": Y, "sample_weight": W, "teacher_logits": L, "X_val": X[::2], "y_val": Y[::2]}
    plain = make(max_epochs=1).fit(**given)
    clf = make(max_epochs=1).fit(**given | {name: form(given[name]) for name in names})
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X), strict=True)
    np.testing.assert_array_equal(clf.metaparameter_path_["val_loss"], plain.metaparameter_path_["val_loss"])
    assert clf.classes_.tolist() == [0, 1, 2]


@forms
def test_predict_and_score(form, make):
    clf = make(max_epochs=5).fit(X, Y, teacher_logits=L)
    np.testing.assert_array_equal(clf.predict_proba(form(X)), clf.predict_proba(X), strict=True)
    assert clf.score(form(X), form(Y), form(W)) == clf.score(X, Y, W) > 0


@forms
def test_items_of_a_dataset(form, make):
    if form is FORMS["array of bfloat16"] or form is FORMS["list of tensors"]:
        pytest.skip("torch makes no batch of them")

    class Items(Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return form(X[index]), form(np.asarray(Y[index]))

    plain = make(max_epochs=1).fit(X, Y, teacher_logits=L)
    clf = make(max_epochs=1).fit(Items(), teacher_logits=L)
    np.testing.assert_array_equal(clf.predict_proba(Items()), plain.predict_proba(X), strict=True)
    assert clf.score(Items()) == plain.score(X, Y)


@pytest.mark.parametrize("form", ["bfloat16", "requires grad"])
def test_methods_compared(form, make):
    def compared(X, y, logits):
        found = compare_methods(make(max_epochs=1), X, y, methods=("naive",), teacher_logits=logits, cv=2,
                                random_state=0, n_jobs=1)  # fmt: skip
        return found.results_["log_loss"]

    np.testing.assert_array_equal(compared(*map(FORMS[form], (X, Y, L))), compared(X, Y, L))


def test_distpro(make_distpro, images):
    X, y = images[0].round(), images[1]
    plain = make_distpro(max_epochs=1).fit(X, y)
    data = TensorDataset(torch.tensor(X).to(torch.uint8), torch.tensor(y))
    for given in ((torch.tensor(X).bfloat16(), torch.tensor(y).bfloat16()), (data,)):
        clf = make_distpro(max_epochs=1).fit(*given)
        np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X), strict=True)


REFUSED = {
    "sparse": (lambda a: torch.tensor(a).to_sparse(), "is a sparse tensor, .*to_dense"),
    "csr": (lambda a: torch.tensor(a).reshape(len(a), -1).to_sparse_csr(), "is a sparse tensor, .*to_dense"),
    "meta": (lambda a: torch.tensor(a).to("meta"), "is a Tensor of torch.float64 on meta, whose numbers"),
    "nested": (lambda a: torch.nested.nested_tensor(list(torch.tensor(a))), "is a nested tensor.*padded"),
    "complex": (lambda a: torch.tensor(a + 0j).conj(), ": Complex data not supported"),
}


@pytest.mark.filterwarnings(
    "ignore::UserWarning:torch", "ignore:Sparse CSR", "ignore:The PyTorch API of nested"
)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", ["X", "sample_weight", "teacher_logits"])
def test_refused_by_name(name, kind, make):
    given = {"X": X, "y": Y, "sample_weight": W, "teacher_logits": L}
    form, said = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=rf"^{name}{'' if said[0] == ':' else ' '}{said}"):
        make().fit(**given | {name: form(given[name])})


def test_what_is_no_tensor_is_left_as_it_is():
    frame, words = object(), np.array(["a", "b"])
    for values in (frame, words, None, [], [1, 2], "abc", np.zeros(2, dtype="V4")):
        assert from_torch(values, "X") is values
    assert from_torch(torch.tensor([True]), "X").dtype == bool
    lengths = from_torch([torch.zeros(2), torch.zeros(3)], "X")
    assert [row.shape for row in lengths] == [(2,), (3,)]


@pytest.mark.parametrize("path", ["rows.parquet", Path("rows.csv")], ids=in_words)
def test_a_path_is_no_table(path, make):
    with pytest.raises(TypeError, match=r"X is a path, 'rows\.\w+'\. Read the file first"):
        make(meta="none").fit(path, [0, 1])
