"""Messages of scikit-learn and NumPy name the argument and a remedy."""

import re

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_array

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.errors._columns_of_words import columns_of_words
from sklearn_kd.errors._context import error_context, own_code, teacher_context
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.networks import NETWORKS


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("Input contains NaN."), "y: Input contains NaN."),
        (TypeError("no array"), "y: no array"),
        (ValueError("y contains NaN."), "y contains NaN."),
        (ValueError("my contains NaN."), "y: my contains NaN."),
        (
            ValueError("y: could not convert string to float: 'a'"),
            "y: could not convert string to float: 'a'",
        ),
    ],
)
def test_the_argument_is_named_once(raised, message):
    with pytest.raises(type(raised)) as caught, error_context("y"):
        raise raised
    assert str(caught.value) == message


def test_rows_have_a_remedy():
    with pytest.raises(ValueError, match=r"'a'.*student_preprocessing='auto'"), error_context("X_val"):
        raise ValueError("could not convert string to float: 'a'")


def test_texts_are_told_from_tables():
    with pytest.raises(ValueError) as caught, error_context("X"):
        check_array(np.array(["a text", "another"]), dtype=None)
    assert str(caught.value).startswith("X: Expected 2D array, got 1D array instead. These are texts")
    assert "another" not in str(caught.value)


def test_the_teacher_is_named():
    with (
        pytest.raises(
            ValueError, match=r"^teacher LogisticRegression: could not .*'a'\. The teacher gets X as it is"
        ),
        teacher_context("teacher LogisticRegression"),
    ):
        LogisticRegression().fit([["a"], ["b"]], [0, 1])
    for error in (ValueError("the teacher is wrong"), NotFittedError("not fitted"), KeyError("a")):
        with pytest.raises(type(error)) as caught, teacher_context("teacher LogisticRegression"):
            raise error
        assert caught.value is error


def test_other_errors_pass():
    error = KeyError("a")
    with pytest.raises(KeyError) as caught, error_context("y"):
        raise error
    assert caught.value is error


def test_a_close_name_is_suggested():
    assert did_you_mean("naiv", ["naive", "none"]) == " Did you mean 'naive'?"
    assert did_you_mean("xyz", ["naive", "none"]) == did_you_mean("a", []) == ""


@pytest.mark.parametrize(
    "dtype", ["str", "object"]
)  # of columns of words, in newer and older versions of pandas
def test_words_in_a_frame_have_a_remedy(dtype):
    with (
        pytest.raises(ValueError, match=r"^X_val: Cannot cast .* student_preprocessing='auto'"),
        error_context("X_val"),
    ):
        raise ValueError(f"Cannot cast {dtype} dtype to float32")
    with (
        pytest.raises(ValueError, match=r"teacher Tree: .*Encode the words"),
        teacher_context("teacher Tree"),
    ):
        raise ValueError(f"Cannot cast {dtype} dtype to float32")


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, IndexError, ZeroDivisionError])
def test_errors_of_a_users_code_name_it(kind):
    raised = kind("no such row")
    with pytest.raises(kind) as caught, own_code("loss: term 'hint' (Hint)"):
        raise raised
    assert str(caught.value) == "loss: term 'hint' (Hint): no such row"
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [NotFittedError("x"), OSError(2, "x"), KeyboardInterrupt()])
def test_errors_that_cannot_be_made_again_pass(raised):
    with pytest.raises(type(raised)) as caught, own_code("loss"):
        raise raised
    assert caught.value is raised


def test_of_equally_close_names_the_one_that_begins_alike_is_meant():
    assert did_you_mean("resnet2o", NETWORKS) == " Did you mean 'resnet20'?"
    assert did_you_mean("resnet2o", ["resnet32", "resnet20"]) == " Did you mean 'resnet20'?"


def frame(**kinds):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    X = pd.DataFrame({"n": range(40), "plan": ["a", "b"] * 20, "city": ["Lima", "Rome"] * 20})
    return X.astype(kinds)


@pytest.mark.parametrize("kind", ["str", object, "category"])
def test_a_column_of_words_is_named(kind):
    X = frame(plan="category", city=kind)
    with pytest.raises(ValueError, match="The teacher gets") as caught, teacher_context("teacher Tree", X):
        raise ValueError("could not convert string to float: 'Lima'")
    remedy = " such a teacher needs X = X.astype({'city': 'category'})."
    assert str(caught.value).endswith(
        "Column 'city' holds words" + ("." if kind == "category" else ";" + remedy)
    )
    # Some messages do not quote the word. The first column that is not of categories is named then.
    with (
        pytest.raises(ValueError, match=r"Column 'plan' holds words; .*'plan': 'category'"),
        error_context("X", frame()),
    ):
        raise ValueError("Cannot cast object dtype to float32")


def test_the_remedy_for_words_works():
    y = [0, 1] * 20
    clf = DistilledClassifier(
        HistGradientBoostingClassifier(categorical_features="from_dtype"), MLPStudent,
        meta="fixed", max_epochs=5, device="cpu",
    )  # fmt: skip
    X = frame()
    with pytest.raises(ValueError, match=r"^X: .*student_preprocessing='auto'.* Column 'plan' holds words"):
        clf.fit(X, y)
    clf.set_params(student_preprocessing="auto")
    with pytest.raises(ValueError, match=r"^teacher Hist") as caught:
        clf.fit(X, y)
    (remedy,) = re.findall(r"X = (X\.astype\(.*\))\.$", str(caught.value))
    clf.fit(eval(remedy, {"X": X}), y)


def test_no_column_is_named_where_none_is_known():
    pl = pytest.importorskip("polars", reason="needs polars")
    error = "could not convert string to float: 'Lima'"
    assert columns_of_words([["Lima"]], error, "") == columns_of_words(frame()[["n"]], error, "") == ""
    assert columns_of_words(pl.DataFrame({"city": ["Lima"]}), error, "") == " Column 'city' holds words."
