"""Rows made up for a teacher: mixtures of near rows."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sklearn_kd import Munge
from sklearn_kd.inputs._munge import joined


def made(munge, X, seed=0):
    return munge.rows(X, np.random.default_rng(seed))


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    n = 120
    return pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "count": rng.integers(100, 1000, n).astype(np.int16),
            "level": rng.integers(0, 5, n),
            "text": rng.choice(list("xyz"), n),
            "kind": pd.Categorical(rng.choice(list("pq"), n), categories=list("pqr")),
            "flag": rng.random(n) < 0.5,
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "nullable": pd.array(np.where(rng.random(n) < 0.2, None, rng.integers(0, 999, n)), dtype="Int64"),
            "day": pd.date_range("2020-01-01", periods=n),
        },
        index=np.arange(n) + 7,
    )


def test_pairs_of_near_rows_are_mixed():
    """Two pairs far apart: a made-up row lies about the line between the two rows of a pair."""
    X = np.array([[0.0, 0.0], [1.0, 1.0], [100.0, 100.0], [101.0, 101.0]])
    rows = made(Munge(500, p=0.5, s=1e9), X)  # no noise
    assert rows.shape == (2000, 2)
    unique, counts = np.unique(np.round(rows, 6), axis=0, return_counts=True)
    expected = {(a + 100 * k, b + 100 * k) for a in (0, 1) for b in (0, 1) for k in (0, 1)}
    assert {tuple(row) for row in unique.tolist()} == expected
    assert counts.min() > 200  # each of the four mixtures of each pair, a quarter of 1000


def test_numbers_are_drawn_around_the_neighbour():
    X = np.array([[0.0], [2.0]])
    rows = made(Munge(5000, p=1.0, s=4.0), X)[:, 0].reshape(-1, 2)
    np.testing.assert_allclose(rows.mean(axis=0), [2, 0], atol=0.02)
    np.testing.assert_allclose(rows.std(axis=0), [0.5, 0.5], atol=0.02)


def test_probability_0_changes_nothing(frame):
    pd.testing.assert_frame_equal(made(Munge(1.0, p=0.0), frame), frame.reset_index(drop=True))


@pytest.mark.parametrize("size", [0.25, 1.0, 2.5])
def test_size(size, frame):
    assert len(made(Munge(size), frame)) == round(size * 120)


def test_types_stay_and_values_are_possible(frame):
    rows = made(Munge(5.0), frame)
    assert rows.dtypes.equals(frame.dtypes)
    for name in ("level", "text", "kind", "flag", "day"):
        assert set(rows[name]) <= set(frame[name])
    assert frame["count"].min() <= rows["count"].min() and rows["count"].max() <= frame["count"].max()
    assert not set(rows["count"]) <= set(frame["count"]) and not set(rows["number"]) <= set(frame["number"])
    assert 0.1 < rows["gaps"].isna().mean() < 0.3 and 0.1 < rows["nullable"].isna().mean() < 0.3


def test_polars_frames(frame):
    pl = pytest.importorskip("polars")
    values = {name: [None if pd.isna(v) else v for v in frame[name]] for name in frame if name != "kind"}
    given = pl.DataFrame(values)
    rows = made(Munge(2.0), given)
    assert rows.schema == given.schema and len(rows) == 240
    assert 0.1 < rows["gaps"].null_count() / 240 < 0.3
    assert set(rows["text"]) <= set(given["text"])
    assert len(joined(given, rows)) == 360


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64, bool])
def test_arrays_keep_their_type(dtype):
    X = np.random.default_rng(0).integers(0, 200, (50, 3)).astype(dtype)
    rows = made(Munge(2.0), X)
    assert rows.dtype == dtype and rows.shape == (100, 3)


def test_draws_repeat_with_the_seed(frame):
    munge = Munge(1.5)
    pd.testing.assert_frame_equal(made(munge, frame, 3), made(munge, frame, 3))
    assert not made(munge, frame, 3).equals(made(munge, frame, 4))


def test_stated_categories(frame):
    for chosen in (["count"], [1], np.arange(9) == 1):
        rows = made(Munge(3.0, categorical_features=chosen), frame)
        assert set(rows["count"]) <= set(frame["count"])
        assert set(rows["level"]) - set(frame["level"]) == set()  # integers in 0 … 4 in any case
        assert set(rows["text"]) <= set(frame["text"])  # strings are no numbers, stated or not


def test_another_category_is_as_far_as_a_standard_deviation():
    X = pd.DataFrame({"x": [0.0, 0.1, 0.9, 8.0, 8.2], "c": list("abaab")})
    scale = X["x"].std(ddof=0)
    assert 0.9 / scale < 1  # so that row 2, of the same category, is nearer to row 0 than row 1 is
    rows = made(Munge(1.0, p=1.0, s=1e9), X)
    assert rows["x"][0] == pytest.approx(0.9)


@pytest.mark.parametrize("n", [50, 60])
def test_neighbours_of_many_rows_are_sought_among_some(n, monkeypatch):
    monkeypatch.setattr("sklearn_kd.inputs._munge._MOST_CANDIDATES", 50)
    X = np.arange(n)[:, None] * 10.0
    rows = made(Munge(1.0, p=1.0, s=1e9), X)[:, 0]
    distance = np.abs(rows - X[:, 0]).round()
    assert distance.min() == 10 and (distance.max() == 10) == (n == 50)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"size": 0}, "size=0 must be a number above 0"),
        ({"size": True}, "size=True"),
        ({"s": -1.0}, "s=-1.0 must be"),
        ({"p": 1.5}, "p=1.5 must be a probability"),
    ],
)
def test_wrong_parameters(params, match):
    with pytest.raises(ValueError, match=match):
        Munge(**params).check()


def test_wrong_columns_and_too_few_rows(frame):
    with pytest.raises(ValueError, match="there is no column 'nothing'"):
        made(Munge(categorical_features=["nothing"]), frame)
    with pytest.raises(ValueError, match="or a mask of them"):
        made(Munge(categorical_features=[True, False]), frame)
    with pytest.raises(ValueError, match="no rows can be made up: D_train has 1 rows"):
        made(Munge(), frame[:1])
    with pytest.raises(TypeError, match="X is a csr_array"):
        made(Munge(), sparse.csr_array(np.eye(3)))


def test_categories_of_the_second_table_are_those_of_the_first(frame):
    more = frame.assign(kind=pd.Categorical(["r"] * 60 + ["new"] * 60))
    both = joined(frame, more)
    assert both["kind"].dtype == frame["kind"].dtype and both["kind"].isna().sum() == 60


def test_a_second_table_takes_the_form_of_the_first(frame):
    pl = pytest.importorskip("polars")
    frame = frame[["number", "count", "text", "kind", "flag", "gaps"]]
    frame.loc[frame.index[:3], "kind"] = np.nan
    values = {name: [None if pd.isna(v) else v for v in frame[name]] for name in frame}
    tables = {"pandas": frame, "polars": pl.DataFrame(values), "array": frame.to_numpy()}
    for first in tables.values():
        for second in tables.values():
            both = joined(first, second)
            assert type(both) is type(first) and both.shape == (240, 6)
            if first is frame:
                same = frame.dtypes != np.int16  # another table's integers may be wider
                assert both.dtypes[same].equals(frame.dtypes[same])
                own = pd.concat([frame, frame], ignore_index=True)
                pd.testing.assert_frame_equal(both, own, check_dtype=False)
            elif first is not tables["array"]:
                assert both.schema == first.schema and both.null_count().equals(first.null_count() * 2)


def test_names_of_columns_may_be_numbers(frame):
    frame.columns = range(len(frame.columns))
    assert joined(frame, frame).dtypes.equals(frame.dtypes)
