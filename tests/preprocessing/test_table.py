"""TablePreprocessing: what it makes of each kind of column, and its form in a file."""

import datetime
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from helpers.parameter_ids import in_words
from sklearn_kd import TablePreprocessing
from sklearn_kd.files._values import ContentError
from sklearn_kd.preprocessing._form import form_of, table_of

FRAME = pd.DataFrame(
    {
        "age": [30.0, None, 50.0, 41.0],
        "rooms": [1, 2, 3, 4],
        "owns": [True, False, True, True],
        "job": ["cook", "nurse", "cook", None],
    }
)


@parametrize_with_checks([TablePreprocessing(min_rows=1)])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_numbers_by_hand():
    table = TablePreprocessing(min_rows=1).fit(FRAME)
    names = ["age", "age_missing", "rooms", "owns", "job_cook", "job_nurse", "job_missing"]
    assert table.get_feature_names_out().tolist() == names
    made = table.transform(FRAME)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(
        made,
        [[30, 0, 1, 1, 1, 0, 0], [41, 1, 2, 0, 0, 1, 0], [50, 0, 3, 1, 1, 0, 0], [41, 0, 4, 1, 0, 0, 1]],
    )


def containers():
    as_categories = FRAME.assign(job=FRAME["job"].astype("category"))
    yield "object array", FRAME.astype(object).to_numpy(), FRAME
    yield "nested list", FRAME.astype(object).to_numpy().tolist(), FRAME
    yield "pandas category", as_categories, FRAME
    yield "pandas' own types", FRAME.convert_dtypes(), FRAME
    yield "polars", pl.from_pandas(FRAME), FRAME
    yield "polars Categorical", pl.from_pandas(FRAME).with_columns(pl.col("job").cast(pl.Categorical)), FRAME


@pytest.mark.parametrize(
    ("what", "given", "same"), list(containers()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_containers_are_equal(what, given, same):
    expected = TablePreprocessing(min_rows=1).fit_transform(same)
    table = TablePreprocessing(min_rows=1).fit(given)
    np.testing.assert_array_equal(table.transform(given), expected)
    if hasattr(given, "columns"):  # fitted on one kind of frame, and given another
        np.testing.assert_array_equal(table.transform(same), expected)


def test_rare_and_unknown_categories():
    X = pd.DataFrame({"town": ["a"] * 6 + ["b"] * 5 + ["c"] * 2})
    table = TablePreprocessing().fit(X)
    assert table.get_feature_names_out().tolist() == ["town_a", "town_b", "town_rare"]
    rows = pd.DataFrame({"town": ["a", "c", "never seen"]})
    np.testing.assert_array_equal(table.transform(rows), [[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    without_rare = table.fit(X[:11])
    np.testing.assert_array_equal(without_rare.transform(rows), [[1, 0], [0, 0], [0, 0]])
    most = TablePreprocessing(max_categories=1).fit(X)
    assert most.get_feature_names_out().tolist() == ["town_a", "town_rare"]


def test_codes():
    X = pd.DataFrame({"town": ["a"] * 6 + ["b"] * 5 + ["c", None], "age": np.arange(13.0)})
    table = TablePreprocessing(categories="ordinal").fit(X)
    assert (table.categorical_columns_, table.cardinalities_) == ([0], [4])
    rows = pd.DataFrame({"town": ["a", "b", "c", "never seen", None], "age": 0})
    assert table.transform(rows)[:, 0].tolist() == [1, 2, 0, 0, 3]
    assert table.fit(X[:11]).cardinalities_ == [3]
    assert table.transform(rows)[:, 0].tolist() == [1, 2, 0, 0, 0]  # a missing value that fit has not seen


def test_columns_that_say_nothing_are_left_out_and_named():
    n = 40
    X = pd.DataFrame(
        {"x": np.arange(n), "one": 3, "word": "a", "empty": np.nan, "id": [f"id {j}" for j in range(n)]}
    )
    with pytest.warns(UserWarning) as said:
        table = TablePreprocessing().fit(X)
    (message,) = [str(w.message) for w in said]
    assert message == (
        "Columns are left out: 'one' has one value; 'word' has one value; 'empty' has no values; 'id' has 40 "
        "categories, none of them in 5 rows or more."
    )
    assert table.get_feature_names_out().tolist() == ["x"]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (pd.date_range("2020", periods=3), TypeError),
        ([datetime.date(2020, 1, 1)] * 3, TypeError),
        (pd.to_timedelta([1, 2, 3]), TypeError),
        (pd.period_range("2020", periods=3), TypeError),
        ([{}, {}, {}], TypeError),
        (["a", 1, 2], TypeError),
        ([1.0, np.inf, 2.0], ValueError),
        ([1.0, 1e200, 2.0], ValueError),
    ],
    ids=in_words,
)
def test_what_is_neither_number_nor_category_is_refused_by_name(values, error):
    with pytest.raises(error, match="'odd'"):
        TablePreprocessing(min_rows=1).fit(pd.DataFrame({"x": [1, 2, 3], "odd": values}))


def test_polars_dates_are_refused():
    with pytest.raises(TypeError, match="'odd' holds dates"):
        TablePreprocessing().fit(pl.DataFrame({"odd": [datetime.date(2020, 1, 1)] * 3}))


def test_another_type_than_in_fit_is_refused():
    table = TablePreprocessing(min_rows=1).fit(FRAME)
    with pytest.raises(TypeError, match="'rooms' holds strings; in fit it held numbers"):
        table.transform(FRAME.assign(rooms="many"))
    with pytest.raises(TypeError, match="'job' holds numbers; in fit it held strings"):
        table.transform(FRAME.assign(job=3))
    assert table.transform(FRAME.assign(job=None)).shape == (4, 7)
    with pytest.raises(ValueError, match="feature names"):
        table.transform(FRAME[FRAME.columns[::-1]])
    with pytest.raises(TypeError, match="sparse"):
        table.transform(sparse.eye(4))


def test_form_in_a_file():
    X = FRAME.assign(bins=pd.cut(FRAME["rooms"], 2), one=1)
    table = TablePreprocessing(categories="ordinal", min_rows=1).fit(X)
    form = json.loads(json.dumps(form_of(table)))
    again = table_of(form, 6, table.feature_names_in_, len(table.get_feature_names_out()))
    assert again.columns_ == table.columns_
    np.testing.assert_array_equal(again.transform(X), table.transform(X))
    assert clone(again).get_params() == table.get_params()


def changed(form, **values):
    form["columns"][0].update(values)
    return form


@pytest.mark.parametrize(
    "change",
    [
        lambda form: [],
        lambda form: form | {"columns": form["columns"][1:]},
        lambda form: form | {"columns": "abcd"},
        lambda form: form | {"params": {"categories": "onehot"}},
        lambda form: form | {"params": form["params"] | {"min_rows": "os.system"}},
        lambda form: changed(form, kind="pickle"),
        lambda form: changed(form, name="other"),
        lambda form: changed(form, fill=1e300),
        lambda form: changed(form, fill="1"),
        lambda form: changed(form, has_missing=False),  # one column less than the student takes
        lambda form: changed(form, more=1),
    ],
)
def test_a_wrong_form_is_refused(change):
    table = TablePreprocessing(min_rows=1).fit(FRAME)
    form = json.loads(json.dumps(form_of(table)))
    with pytest.raises(ContentError, match="student_preprocessing"):
        table_of(change(form), 4, table.feature_names_in_, 7)
