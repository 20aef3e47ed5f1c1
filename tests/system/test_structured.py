"""``fit``, ``predict`` and files where X is a dict, a tuple, tokens, or a table of integers."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.helper import SliceDict
from torch import nn
from torch.utils.data import Dataset

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent, compare_methods

N, LENGTH, WORDS = 240, 6, 40


class Reader(nn.Module):
    """Means of embedded tokens that are not masked, beside numbers; its weights are those of a seed."""

    def __init__(self, n_classes=2, width=8):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(WORDS, width), nn.Linear(width + 2, n_classes)

    def forward(self, tokens, mask, numbers):
        assert tokens.dtype is torch.int64 and mask.dtype is torch.bool and numbers.dtype is torch.float32
        embedded = self.embedding(tokens) * mask[..., None]
        return self.linear(torch.cat([embedded.mean(dim=1), numbers], dim=1))


class Lookup(nn.Module):
    """Embeds each column of a table of integers."""

    def __init__(self, in_features, n_classes=2):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(WORDS, 4), nn.Linear(4 * in_features, n_classes)

    def forward(self, x):
        return self.linear(self.embedding(x).flatten(1))


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    X = {
        "tokens": rng.integers(0, WORDS, (N, LENGTH)).astype(np.int32),
        "mask": np.arange(LENGTH) < rng.integers(3, LENGTH + 1, N)[:, None],
        "numbers": rng.normal(size=(N, 2)),
    }
    return X, ((X["tokens"][:, 0] > 19) | (X["numbers"][:, 0] > 1)).astype(int)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Reader(2, 16)


def make(teacher=None, student=Reader, **params):
    meta = {"meta": "none"} if teacher is None else {}
    settings = SINGLE_RUN | {"max_epochs": 4, "random_state": 0, "device": "cpu"} | meta | params
    return DistilledClassifier(teacher, student, **settings)


def taken(X, rows):
    return {name: part[rows] for name, part in X.items()}


# --------------------------------------------------------------------------------------
# Dicts and tuples


def test_a_dict_is_handed_to_forward_by_name_and_a_tuple_in_order(texts, teacher):
    X, y = texts
    by_name = make(teacher).fit(X, y)
    assert type(by_name.student_) is Reader and not hasattr(by_name, "n_features_in_")
    probabilities = by_name.predict_proba(X)
    in_order = make(teacher).fit(tuple(X.values()), y)
    np.testing.assert_array_equal(in_order.predict_proba(tuple(X.values())), probabilities)
    turned = dict(reversed(X.items()))
    np.testing.assert_array_equal(by_name.predict_proba(turned), probabilities)
    tensors = {name: torch.as_tensor(part) for name, part in X.items()}
    np.testing.assert_array_equal(make(teacher).fit(tensors, y).predict_proba(tensors), probabilities)
    assert by_name.score(X, y) == np.mean(by_name.predict(X) == y)


@pytest.mark.parametrize("hypergradient", ["finite_difference", "jvp", "exact"])
def test_metaparameters_are_learned(texts, teacher, hypergradient):
    X, y = texts
    clf = make(teacher, meta="gradient", meta__hypergradient=hypergradient, batch_size=32).fit(X, y)
    assert np.ptp(clf.metaparameter_path_["lambda1"]) > 0 and np.isfinite(clf.val_temperature_)


def test_the_split_takes_the_same_rows_of_each_part(texts):
    """The student checks that part i of a row belongs to part j of it."""
    X, y = texts
    rows = {"tokens": X["tokens"], "place": np.arange(N), "again": np.arange(N, dtype=float)[:, None]}

    class Checking(Reader):
        def forward(self, tokens, place, again):
            assert torch.equal(place, again[:, 0].long())
            return super().forward(tokens, tokens >= 0, again.repeat(1, 2) / N)

    weight = np.ones(N)
    weight[::7] = 0
    clf = make(student=Checking, meta="naive", teacher=None)
    clf.set_params(meta="none").fit(rows, y, sample_weight=weight, X_val=taken(rows, slice(50)), y_val=y[:50])
    assert clf.predict(taken(rows, slice(9))).shape == (9,)


def test_augment_gets_the_dict(texts, teacher):
    X, y = texts
    seen = []

    def drop_words(batch):
        seen.append(type(batch))
        return batch | {"mask": batch["mask"] & (torch.rand(batch["mask"].shape) > 0.1)}

    before = X["mask"].copy()
    make(teacher, augment=drop_words).fit(X, y)
    assert set(seen) == {dict} and (X["mask"] == before).all()
    with pytest.raises(ValueError, match=r"augment must map a batch .* to one of the same parts"):
        make(teacher, augment=lambda batch: batch["tokens"]).fit(X, y)


def test_a_sklearn_teacher_gets_the_dict_as_given(texts):
    X, y = texts

    class OfNumbers(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            assert type(X) is dict and X["tokens"].dtype == np.int32
            self.model_ = LogisticRegression().fit(X["numbers"], y)
            self.classes_ = self.model_.classes_
            return self

        def predict_proba(self, X):
            return self.model_.predict_proba(X["numbers"])

    clf = make(OfNumbers(), keep_teacher=True).fit(X, y)
    assert clf.teacher_.model_.n_features_in_ == 2


def test_sklearn_searches_a_slice_dict(texts):
    X, y = texts
    sliced = SliceDict(**X)
    scores = cross_val_score(make(max_epochs=8, lr=0.03), sliced, y, cv=2)
    search = GridSearchCV(make(), {"student__width": [4, 8]}, cv=2).fit(sliced, y)
    assert scores.min() > 0.6 and search.best_estimator_.predict(X).shape == (N,)


@pytest.mark.parametrize("student, form", [(Reader, dict), (Reader, tuple), (Lookup, None)])
def test_saved_loaded_and_continued(texts, tmp_path, student, form):
    X, y = texts
    X = X if form is dict else tuple(X.values()) if form is tuple else X["tokens"]
    clf = make(student=student, checkpoint_dir=tmp_path / "checkpoints").fit(X, y)
    clf.set_params(checkpoint_dir=None).save(tmp_path / "clf.safetensors")
    again = DistilledClassifier.load(tmp_path / "clf.safetensors", student=student)
    assert again._sample_shape == clf._sample_shape
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    before = clf.n_iter_
    assert clf.set_params(warm_start=True).fit(X, y).n_iter_ == 2 * before


def test_items_of_a_dataset_may_be_dicts(texts, teacher):
    X, y = texts

    class Items(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return {name: part[i] for name, part in X.items()} | {"labels": y[i]}

    loaded, arrays = make(teacher).fit(Items()), make(teacher).fit(X, y)
    np.testing.assert_array_equal(loaded.predict_proba(Items()), arrays.predict_proba(X))
    assert loaded.score(Items()) == arrays.score(X, y)


def test_a_batch_of_parts_is_copied_into_another(texts):
    from sklearn_kd.inputs._batches import Batch
    from sklearn_kd.inputs._parts import Parts
    from sklearn_kd.tasks._targets import Targets

    def batch(value):
        return Batch(
            Parts(("a", "b"), [torch.full((3,), value), torch.full((3, 2), value)]), Targets(torch.ones(3))
        )

    own = batch(0).map(torch.clone)
    own.copy_(batch(7))
    assert all(bool((part == 7).all()) for part in own[0].values)


# --------------------------------------------------------------------------------------
# Wrong input


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mask": np.ones((5, LENGTH), bool)}, r"X\['mask'\] has 5 rows and X\['tokens'\] has 240"),
        ({"numbers": ["a"] * N}, r"X\['numbers'\] holds strings, such as 'a'"),
        ({"numbers": [[1.0], [1.0, 2.0]] * (N // 2)}, r"X\['numbers'\] has rows of 1 to 2 numbers"),
        ({"numbers": np.full((N, 2), np.nan)}, r"X\['numbers'\] has values that are not finite"),
        ({"numbers": 3.0}, r"X\['numbers'\] is the single value 3.0"),
        ({"more": np.ones(N)}, r"student Reader cannot take the parts .*'more'.*forward\(\*\*X\)"),
        ({"numbers": None}, r"X\['numbers'\] holds object"),
    ],
)
def test_wrong_parts_are_named(texts, change, message):
    X, y = texts
    with pytest.raises(ValueError, match=message):
        make().fit(X | change, y)


def test_other_parts_at_predict_are_named(texts, once):
    X, y = texts
    clf = once("clf", lambda: make().fit(X, y))
    for given, message in [
        ({"tokens": X["tokens"], "mask": X["mask"]}, r"X\['numbers'\] is missing"),
        (X | {"more": np.ones(N)}, r"X\['more'\] was not there"),
        (X | {"tokens": X["tokens"][:, :3]}, r"X\['tokens'\] has samples of shape \(3,\)"),
        (X | {"tokens": X["tokens"] + 0.5}, r"X\['tokens'\] holds float32, but .* fitted on int64"),
        (X["numbers"], "X is a ndarray of rows, but .* was fitted on the parts"),
        (tuple(X.values()), "fitted on"),
    ]:
        with pytest.raises(ValueError, match=message):
            clf.predict(given)
    with pytest.raises(ValueError, match=r"X_val\['numbers'\] is missing"):
        make().fit(X, y, X_val={"tokens": X["tokens"], "mask": X["mask"]}, y_val=y)


def test_one_array_and_parts_are_not_exchanged(texts):
    X, y = texts
    clf = make(student=MLPStudent).fit(X["numbers"], y)
    with pytest.raises(ValueError, match=r"X is a dict of parts, but .* fitted on samples of shape"):
        clf.predict(X)
    with pytest.raises(TypeError, match="X is a dict of several parts, and DistProClassifier"):
        DistProClassifier(Reader(), Reader).fit(X, y)
    with pytest.raises(TypeError, match=r"X is a SliceDict of several parts; compare_methods"):
        compare_methods(make(teacher=Reader()), SliceDict(**X), y)
    with pytest.raises(TypeError, match="mapping with the key 0"):
        make().fit({0: X["tokens"]}, y)  # a name that no argument has


# --------------------------------------------------------------------------------------
# Tables of integers


def test_integers_reach_a_student_that_looks_them_up(texts):
    tokens, y = texts[0]["tokens"], texts[1]
    clf = make(MLPStudent(LENGTH, 2), Lookup).fit(tokens, y)  # the teacher gets the same numbers as floats
    assert clf.n_features_in_ == LENGTH
    np.testing.assert_array_equal(clf.predict_proba(tokens.astype(float)), clf.predict_proba(tokens))
    with pytest.raises(ValueError, match="not whole numbers"):
        clf.predict(tokens + 0.5)
    with pytest.raises(ValueError, match="X has 3 features"):
        clf.predict(tokens[:, :3])


@pytest.mark.parametrize("form", [lambda X: X.tolist(), lambda X: pd.DataFrame(X).astype("Int64")])
def test_lists_and_nullable_columns_of_integers_stay_integers(texts, form):
    tokens, y = texts[0]["tokens"].astype(np.int64), texts[1]
    expected = make(student=Lookup).fit(tokens, y).predict_proba(tokens)
    np.testing.assert_array_equal(make(student=Lookup).fit(form(tokens), y).predict_proba(tokens), expected)


@pytest.mark.parametrize("row", [0, 200])
@pytest.mark.parametrize("code", [WORDS, -1])
def test_codes_without_a_place_are_refused_before_the_teacher_is_fitted(texts, row, code):
    tokens, y = texts[0]["tokens"], texts[1]
    wrong = tokens.copy()
    wrong[row, 3] = code
    teacher = LogisticRegression()
    teacher.fit = None  # which would raise a TypeError
    with pytest.raises(ValueError, match=r"student Lookup cannot take .*at least 0 and below the size"):
        make(teacher, Lookup).fit(wrong, y)
    for name, more in (("X_val", {"y_val": y}), ("X_unlabeled", {})):
        with pytest.raises(ValueError, match=f"Lookup cannot take a row of {name}: .*below the size"):
            make(teacher, Lookup).fit(tokens, y, **{name: wrong}, **more)
    clf = make(student=Lookup).fit(tokens, y, sample_weight=np.arange(N) != row)  # others may be left out
    with pytest.raises(ValueError, match=r"Lookup cannot take a row of X: .*below the size"):
        clf.predict(wrong)


def test_floats_for_an_embedding_are_refused_with_a_remedy(texts):
    with pytest.raises(ValueError, match=r"Give X as int64 or int32.*x\.long\(\)"):
        make(student=Lookup).fit(texts[0]["tokens"].astype(float), texts[1])


def test_integers_are_numbers_to_any_other_student(texts):
    tokens, y = texts[0]["tokens"], texts[1]
    of_integers, of_floats = (make(student=MLPStudent).fit(X, y) for X in (tokens, tokens.astype(np.float32)))
    assert of_integers._sample_shape == (LENGTH,)
    np.testing.assert_array_equal(of_integers.predict_proba(tokens), of_floats.predict_proba(tokens))


def test_large_codes_are_not_rounded(texts):
    y = texts[1]
    X = np.column_stack([np.arange(N), 2**24 + y])

    class Hashed(nn.Module):
        """Tells codes apart by their last bit."""

        def __init__(self, n_classes):
            super().__init__()
            self.embedding = nn.Embedding(2, n_classes)

        def forward(self, x):
            return self.embedding(x.long()[:, 1] % 2)

    assert make(student=Hashed, max_epochs=40, lr=0.1).fit(X, y).score(X, y) == 1.0

    class Mixed(Hashed):
        """Needs floats too, so that it cannot be given integers."""

        def forward(self, x):
            return super().forward(x) + nn.functional.layer_norm(x, (2,))

    with pytest.raises(ValueError, match="X has codes beyond 16,777,216, which float32 rounds"):
        make(student=Mixed).fit(X, y)


# --------------------------------------------------------------------------------------
# Texts


def test_bert_teaches_a_smaller_one():
    transformers = pytest.importorskip("transformers")

    def bert(n_classes, width=8, depth=1):
        config = transformers.BertConfig(
            vocab_size=WORDS,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=LENGTH,
            num_labels=n_classes,
        )
        return transformers.BertForSequenceClassification(config)

    rng = np.random.default_rng(0)
    ids = rng.integers(0, WORDS, (300, LENGTH))
    y = (ids < 4).any(axis=1).astype(int)
    X = transformers.BatchEncoding({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids)})
    teacher = make(student=bert, student__width=16, max_epochs=10, lr=0.02).fit(X, y)
    clf = make(teacher.student_, bert, max_epochs=10, lr=0.02).fit(X, y)
    assert teacher.score(X, y) > 0.9 and clf.score(X, y) > 0.9
    assert type(clf.student_) is type(teacher.student_)


def test_a_table_of_the_hub_is_read_by_columns(texts, teacher):
    datasets = pytest.importorskip("datasets.arrow_dataset")  # "datasets" is a folder of these tests, too
    X, y = texts
    columns = {name: part.tolist() for name, part in X.items()}
    given = datasets.Dataset.from_dict(columns | {"label": y.tolist()})
    clf = make(teacher).fit(given, X_val=given.select(range(40)))
    again = make(teacher).fit(X, y, X_val=taken(X, slice(40)), y_val=y[:40])
    np.testing.assert_array_equal(clf.predict_proba(given), again.predict_proba(X))
    with pytest.raises(ValueError, match=r"X\['text'\] holds strings"):
        make().fit(given.add_column("text", ["a"] * N))


@pytest.mark.parametrize("form", [dict, tuple])
def test_rows_without_labels_have_the_same_parts(texts, teacher, form):
    X, y = texts
    tensors = [torch.as_tensor(X["tokens"]).long(), torch.as_tensor(X["mask"])]
    with torch.no_grad():
        told = teacher(*tensors, torch.as_tensor(X["numbers"]).float()).argmax(1).numpy()

    def rows(some):
        return taken(X, some) if form is dict else tuple(part[some] for part in X.values())

    def agreement(**given):
        given = {"X_val": rows(slice(30)), "y_val": y[:30]} | given
        clf = make(teacher, meta="fixed", lambda1=0.0, max_epochs=40, lr=0.03).fit(
            rows(slice(60)), y[:60], **given
        )
        return np.mean(clf.predict(rows(slice(None))) == told)

    assert agreement(X_unlabeled=rows(slice(60, N))) > agreement() + 0.05
    with pytest.raises(ValueError, match="X_unlabeled is a ndarray of rows, but"):
        agreement(X_unlabeled=X["tokens"])
