"""``student_preprocessing``: the teacher gets X as it is, the student numbers made of it by D_train."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, TablePreprocessing, TabularStudent, compare_methods
from sklearn_kd.estimators._plan import Seeds, open_checkpoints
from sklearn_kd.estimators._preflight import validate

N = 240


def make_table():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, N).astype(float),
            "job": pd.Categorical(rng.choice(["cook", "nurse", "pilot"], N)),
            "owns": rng.random(N) < 0.4,
        }
    )
    y = np.where((X["age"] > 45) ^ (X["job"] == "nurse"), "yes", "no")
    X.loc[rng.random(N) < 0.1, "age"] = np.nan
    X.loc[rng.random(N) < 0.1, "job"] = None
    return X, y


X, y = make_table()


def columns():
    return make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        (OneHotEncoder(handle_unknown="ignore"), ["job"]),
        ("passthrough", ["owns"]),
    )


def make(teacher=None, preprocessing="auto", **params):
    if teacher is None and "meta" not in params:
        teacher = HistGradientBoostingClassifier(
            max_iter=10, min_samples_leaf=5, categorical_features="from_dtype", random_state=0
        )
    settings = {"max_epochs": 4, "random_state": 0, "device": "cpu", "student__hidden": 8}
    settings |= {"student": MLPStudent, "student_preprocessing": preprocessing}
    return DistilledClassifier(teacher, **(SINGLE_RUN | settings | params))


class Notes(TransformerMixin, BaseEstimator):
    """Notes the rows and labels that it is fitted on, and keeps one column."""

    seen: list = []

    def __init__(self, column="age"):
        self.column = column

    def fit(self, X, y):
        Notes.seen.append((X.index.to_numpy(), y))
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.nan_to_num(X[[self.column]].to_numpy(dtype=float))


@pytest.fixture
def seen():
    Notes.seen.clear()
    return Notes.seen


class Sees(HistGradientBoostingClassifier):
    """A teacher that notes what it is given."""

    given: list = []

    def fit(self, X, y, sample_weight=None):
        Sees.given.append(X)
        return super().fit(X, y, sample_weight)

    def predict_proba(self, X):
        Sees.given.append(X)
        return super().predict_proba(X)


# --------------------------------------------------------------------------------------
# Who gets what


@pytest.mark.parametrize("preprocessing", ["auto", columns()], ids=["auto", "own"])
def test_the_student_is_given_numbers_and_learns(preprocessing):
    clf = make(preprocessing=preprocessing, max_epochs=40, lr=0.02).fit(X[:180], y[:180])
    assert clf.score(X[180:], y[180:]) > 0.75
    assert (clf.n_features_in_, clf.feature_names_in_.tolist()) == (3, list(X.columns))
    rows = clf.student_preprocessing_.transform(X)
    assert clf._sample_shape == (rows.shape[1],)
    logits = clf.student_(torch.as_tensor(np.asarray(rows), dtype=torch.float32)).softmax(1).detach()
    np.testing.assert_allclose(clf.predict_proba(X), logits, atol=1e-6)


def test_the_teacher_gets_the_frame_as_it_is():
    Sees.given.clear()
    make(Sees(max_iter=3, categorical_features="from_dtype", random_state=0)).fit(X, y)
    fitted, asked = Sees.given[:2]
    pd.testing.assert_frame_equal(fitted, X.loc[fitted.index])
    pd.testing.assert_frame_equal(asked, fitted)
    assert len(fitted) == 216  # D_train


def test_a_teacher_that_was_fitted_on_the_raw_frame():
    encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["job", "owns"]))
    teacher = make_pipeline(encoded, LogisticRegression()).fit(X, y)
    frozen = make(FrozenEstimator(teacher), meta="naive").fit(X, y)
    given = make(None, meta="naive").fit(X, y, teacher_logits=teacher.predict_log_proba(X))
    np.testing.assert_array_equal(frozen.predict_proba(X), given.predict_proba(X))


def test_boosting_packages_get_their_categories():
    lightgbm = pytest.importorskip("lightgbm")
    teacher = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=5, verbose=-1)
    assert make(teacher, keep_teacher=True).fit(X, y).teacher_.booster_.pandas_categorical == [
        ["cook", "nurse", "pilot"]
    ]


def test_catboost_gets_words():
    catboost = pytest.importorskip("catboost")
    frame = X.assign(job=X["job"].astype(object).fillna("none"))
    teacher = catboost.CatBoostClassifier(
        iterations=3, cat_features=("job",), verbose=0, allow_writing_files=False
    )
    clf = make(teacher, keep_teacher=True).fit(frame, y)
    assert clf.teacher_.get_cat_feature_indices() == [1]


def test_a_network_teacher_sees_the_students_rows():
    clf = make(torch.nn.Linear(7, 2), teacher_classes=["no", "yes"], augment=lambda x: x + 0.1, max_epochs=1)
    assert clf.fit(X, y)._sample_shape == (7,)
    with pytest.raises(ValueError, match="teacher Linear cannot take samples of shape"):
        make(torch.nn.Linear(3, 2), teacher_classes=["no", "yes"]).fit(X, y)


# --------------------------------------------------------------------------------------
# Fitted on D_train


def test_fitted_on_the_rows_of_d_train_and_their_labels(seen):
    make(preprocessing=Notes()).fit(X, y)
    ((rows, labels),) = seen
    np.testing.assert_array_equal(labels, y[rows])
    assert len(rows) == len(set(rows)) == 216
    whole = make(preprocessing=Notes(), meta="none").fit(X, y)
    assert len(seen[1][0]) == N  # nothing is held out
    whole.predict(X)
    assert len(seen) == 2


def test_rows_of_weight_0_and_a_given_d_val_are_not_in_it(seen):
    weight = np.ones(N - 40)
    weight[:20] = 0
    make(preprocessing=Notes()).fit(X[:200], y[:200], sample_weight=weight, X_val=X[200:], y_val=y[200:])
    ((rows, _),) = seen
    assert rows.tolist() == list(range(20, 200))


def test_cross_validation_does_not_leak(seen):
    cross_val_score(make(preprocessing=Notes()), X, y, cv=3)
    assert [len(rows) for rows, _ in seen] == [144, 144, 144]
    assert not set.intersection(*(set(rows) for rows, _ in seen))  # each row is in one test fold


def test_the_given_transformer_stays_as_it_is():
    given = columns()
    clf = make(preprocessing=given).fit(X, y)
    assert not hasattr(given, "transformers_")
    assert clone(clf).student_preprocessing is not given
    frozen = FrozenEstimator(columns().fit(X[:50]))
    assert make(preprocessing=frozen).fit(X, y).student_preprocessing_.n_features_in_ == 3


def test_warm_start_keeps_the_first_one(seen):
    clf = make(preprocessing=Notes(), warm_start=True).fit(X, y)
    first = clf.student_preprocessing_
    assert clf.fit(X[:100], y[:100]).student_preprocessing_ is first
    assert len(seen) == 1
    with pytest.raises(ValueError, match="with student_preprocessing; got student_preprocessing=None"):
        clf.set_params(student_preprocessing=None).fit(X[["age"]].fillna(0), y)


def test_a_failed_fit_leaves_the_last_one():
    clf = make().fit(X, y)
    before = clf.student_preprocessing_
    with pytest.raises(TypeError, match="student_preprocessing: column 'owns' holds both strings"):
        clf.set_params(student_preprocessing=TablePreprocessing()).fit(X.assign(owns=["a", 1] * (N // 2)), y)
    assert clf.student_preprocessing_ is before
    clf.predict(X)


# --------------------------------------------------------------------------------------
# Containers


def test_frames_of_polars_and_pandas_are_one():
    values = {name: [None if pd.isna(v) else v for v in X[name]] for name in X}
    frame = pl.DataFrame(values).with_columns(pl.col("job").cast(pl.Categorical))
    teacher = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["job"])), LogisticRegression()
    )
    by_pandas, by_polars = make(teacher).fit(X, y), make(teacher).fit(frame, y)
    np.testing.assert_array_equal(by_pandas.predict_proba(X), by_pandas.predict_proba(frame))
    np.testing.assert_array_equal(by_pandas.predict_proba(X), by_polars.predict_proba(X))


def test_columns_are_compared_with_those_of_fit():
    clf = make(meta="none").fit(X, y)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        clf.predict(X[X.columns[::-1]])
    with pytest.raises(ValueError, match="Feature names seen at fit time, yet now missing"):
        clf.predict(X[["age", "job"]])
    with pytest.raises(ValueError, match="0 sample"):
        clf.predict(X[:0])


def test_texts():
    texts = [f"{word} {k % 7}" for k, word in enumerate(["good", "fine", "bad", "poor"] * 10)]
    mood = np.array([1, 1, 0, 0] * 10)
    vectors = TfidfVectorizer(token_pattern=r"\w+")
    clf = make(make_pipeline(vectors, LogisticRegression()), vectors, max_epochs=40, lr=0.03, batch_size=8)
    assert clf.fit(texts, mood).score(texts, mood) == 1
    assert not hasattr(clf, "n_features_in_")


def test_frames_of_a_transformer_and_its_sparse_output():
    out = make(preprocessing=columns()).fit(X, y).predict_proba(X)
    frames = make(
        preprocessing=columns().set_output(transform="pandas").set_params(onehotencoder__sparse_output=False)
    )
    np.testing.assert_allclose(frames.fit(X, y).predict_proba(X), out, atol=1e-5)
    is_sparse = columns().set_params(sparse_threshold=1.0)
    np.testing.assert_allclose(make(preprocessing=is_sparse).fit(X, y).predict_proba(X), out, atol=1e-5)


# --------------------------------------------------------------------------------------
# Tools of scikit-learn and of this library


def test_its_parameters_are_searched():
    search = GridSearchCV(
        make(preprocessing=TablePreprocessing(), meta="none", max_epochs=1),
        {"student_preprocessing__categories": ["onehot", "ordinal"]},
        cv=2,
    ).fit(X, y)
    chosen = search.best_estimator_
    assert (
        chosen.student_preprocessing_.categories == search.best_params_["student_preprocessing__categories"]
    )
    with pytest.raises(ValueError, match=r"TablePreprocessing\(\) first"):
        make().set_params(student_preprocessing__min_rows=3)


def test_methods_are_compared_on_frames():
    found = compare_methods(make(max_epochs=2), X, y, methods=["naive", "linear"], cv=StratifiedKFold(2))
    assert np.isfinite(found.results_["log_loss"]).all()
    fold = next(iter(found.results_[found.results_["method"] == "linear"]))
    alone = make(max_epochs=2).set_params(random_state=int(fold["random_state"]))
    train, test = next(StratifiedKFold(2).split(X, y))
    assert alone.fit(X.iloc[train], y[train]).score(X.iloc[test], y[test]) == fold["accuracy"]


def test_checkpoints_know_the_rows_and_the_transformer(tmp_path):
    def digest(clf, X):
        return open_checkpoints(clf, validate(clf, X, y), [Seeds.draw(0)])._digest

    clf = make(checkpoint_dir=tmp_path)
    same = digest(clf, X)
    assert digest(clf, X.copy()) == same
    assert digest(clf, X.assign(owns=~X["owns"])) != same
    assert digest(make(preprocessing=TablePreprocessing(min_rows=3), checkpoint_dir=tmp_path), X) != same
    frozen = [FrozenEstimator(columns().fit(X[:n])) for n in (50, 60)]
    assert len({digest(make(preprocessing=f, checkpoint_dir=tmp_path), X) for f in frozen}) == 2


# --------------------------------------------------------------------------------------
# Files


def test_what_auto_has_learned_is_in_the_file(tmp_path):
    path = tmp_path / "auto.safetensors"
    clf = make(preprocessing=TablePreprocessing(min_rows=3)).fit(X, y)
    clf.save(path)
    again = DistilledClassifier.load(path)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.student_preprocessing.min_rows == 3
    assert again.n_features_in_ == 3
    more = DistilledClassifier.load(path, teacher=make().teacher, warm_start=True, max_epochs=1)
    assert more.fit(X, y).n_iter_ > clf.n_iter_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))


def test_a_transformer_of_ones_own_is_given_to_load(tmp_path):
    path = tmp_path / "own.safetensors"
    clf = make(preprocessing=columns()).fit(X, y)
    with pytest.warns(UserWarning, match=r"does not hold student_preprocessing.* load\(path, student_prep"):
        clf.save(path)
    with pytest.raises(
        ValueError, match=r"ColumnTransformer, cannot be written to a file\. Give load the fitted one"
    ):
        DistilledClassifier.load(path)
    with pytest.raises(ValueError, match="ColumnTransformer that load was given is not fitted"):
        DistilledClassifier.load(path, student_preprocessing=columns())
    others = X.rename(columns={"owns": "has"})
    other = make_column_transformer(("passthrough", ["age", "has"])).fit(others)
    with pytest.raises(ValueError, match="has feature_names_in_="):
        DistilledClassifier.load(path, student_preprocessing=other)
    fewer = make_column_transformer(("passthrough", ["age"]), ("drop", ["job", "owns"])).fit(X)
    with pytest.raises(ValueError, match="makes 1 columns; the student takes"):
        DistilledClassifier.load(path, student_preprocessing=fewer)
    again = DistilledClassifier.load(path, student_preprocessing=clf.student_preprocessing_)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_a_transformer_that_makes_other_columns_later_is_refused():
    clf = make(preprocessing=FunctionTransformer(lambda X: X[["owns"]] * 1.0), meta="none").fit(X, y)
    clf.student_preprocessing_.func = lambda X: X[["owns", "owns"]] * 1.0
    with pytest.raises(ValueError, match="X after student_preprocessing has samples of shape"):
        clf.predict(X)


# --------------------------------------------------------------------------------------
# Columns of codes for a TabularStudent


ORDINAL = TablePreprocessing(categories="ordinal")


@pytest.mark.parametrize("student", [TabularStudent, partial(TabularStudent, embedding_dim=4)])
def test_columns_of_codes_are_filled_in_from_d_train(student, tmp_path):
    """A missing age in D_val alone: of D_train no column says so, and the codes have another place."""
    table = X.assign(age=X["age"].fillna(40.0))
    settings = {"student": student, "max_epochs": 2}
    clf = make(None, ORDINAL, **settings).fit(table, y)
    assert clf.student_.student.categorical == {1: 5}  # rare, three jobs, missing
    Notes.seen.clear()
    make(None, Notes(), max_epochs=1).fit(table, y)
    held_out = np.setdiff1d(table.index, Notes.seen[0][0])
    table.loc[held_out[0], "age"] = np.nan
    assert make(None, ORDINAL, **settings).fit(table, y).student_.student.categorical == {1: 5}
    if student is TabularStudent:
        clf.save(tmp_path / "it.safetensors")
        again = DistilledClassifier.load(tmp_path / "it.safetensors")
        np.testing.assert_array_equal(again.predict_proba(table), clf.predict_proba(table))
        again.save(tmp_path / "it.safetensors")
        again = DistilledClassifier.load(tmp_path / "it.safetensors", teacher=clf.teacher, warm_start=True)
        assert again.fit(table, y).student_.student.categorical == {1: 5}
    whole = clone(ORDINAL).fit(table)
    assert whole.categorical_columns_ == [2]
    wrong = dict(zip(whole.categorical_columns_, whole.cardinalities_, strict=True))
    with pytest.raises(ValueError, match=r"columns of codes and their numbers of codes are {1: 5}"):
        make(None, ORDINAL, **settings, student__categorical=wrong).fit(table, y)


def test_stated_columns_of_codes_must_have_room():
    given = {"student": TabularStudent, "max_epochs": 1}
    roomy = make(None, ORDINAL, **given, student__categorical={2: 9}).fit(X, y)
    assert roomy.student_.student.categorical == {2: 9}
    with pytest.raises(ValueError, match="does not match student_preprocessing"):
        make(None, ORDINAL, **given, student__categorical={2: 4}).fit(X, y)
    assert make(None, "auto", **given).fit(X, y).student_.student.categorical == {2: 5}
