"""Add the argument's name and a remedy to messages of scikit-learn and NumPy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn_kd.errors._columns_of_words import columns_of_words

# Remedies for messages that state none, by a part of the message. These are for X, X_val and other rows:
_WORDS = (
    ". student_preprocessing='auto' of DistilledClassifier and DistilledRegressor encodes words as numbers "
    "for the student, and gives the teacher X as it is."
)
_REMEDIES_OF_ROWS = {
    "could not convert string": _WORDS,
    "Cannot cast str": _WORDS,  # pandas, from version 3
    "Cannot cast object": _WORDS,  # before
    "'NAType'": (
        ". student_preprocessing='auto' of DistilledClassifier and DistilledRegressor fills in missing "
        "values for the student, and gives the teacher X as it is."
    ),
    "Input X contains NaN": (
        "\nstudent_preprocessing='auto' of DistilledClassifier and DistilledRegressor fills in missing "
        "values for the student, and gives the teacher X as it is."
    ),
    "contains infinity": (
        " Replace infinite values by finite ones. Scale columns with values beyond 3e38, for example by "
        "their logarithm."
    ),
}
# X of one dimension, whose first entry is a string.
_TEXTS = re.compile(r"Expected 2D array, got 1D array instead:\narray=\[(np\.str_\()?['\"]")
_REMEDY_OF_TEXTS = (
    "These are texts, not rows of a table. Put a vectorizer, such as TfidfVectorizer, in front of "
    "DistilledClassifier in a Pipeline; or give one as student_preprocessing, and a teacher that takes texts."
)
_WORDS_OF_TEACHERS = (
    ". The teacher gets X as it is. Encode the words in a Pipeline with the teacher as its last step, or "
    "give a teacher that takes words, as HistGradientBoostingClassifier does in columns of the dtype "
    "'category'."
)
_OTHER_COLUMNS = (
    "The teacher was fitted on other columns than X has. Give X the columns that it was fitted "
    "on, or freeze a fitted Pipeline that selects them in front of the teacher."
)
_REMEDIES_OF_TEACHERS = {
    "could not convert string": _WORDS_OF_TEACHERS,
    "Cannot cast str": _WORDS_OF_TEACHERS,
    "Cannot cast object": _WORDS_OF_TEACHERS,
    "pandas dtypes must be int": _WORDS_OF_TEACHERS,  # LightGBM
    "DataFrame.dtypes for data must be int": _WORDS_OF_TEACHERS,  # XGBoost
    "X contains NaN": (
        "\nThe teacher gets X as it is. Fill in missing values in a Pipeline with the teacher as its last "
        "step, or give a teacher that takes them, such as HistGradientBoostingClassifier."
    ),
    "features as input": " " + _OTHER_COLUMNS,
    "feature names should match": _OTHER_COLUMNS,
}
_REMEDIES_OF_WEIGHTS = {
    "sample_weight contains NaN": " Give 0 for rows to leave out.",
    "sample_weight contains infinity": " Give finite weights; they are scaled to mean 1.",
    "sample_weight.shape ==": " Give one weight per row of X.",
}
_REMEDIES_OF_WEIGHTS_OF_X_VAL = _REMEDIES_OF_WEIGHTS | {
    "sample_weight.shape ==": " Give one weight per row of X_val."
}


# Errors of a user's own code that can be raised again with another message. Subclasses pass unchanged,
# including torch's out-of-memory errors.
_OF_OWN_CODE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


@contextmanager
def own_code(who: str) -> Iterator[None]:
    """Prefix the message of an error from a user's own code with its origin, unless it names it.

    Parameters
    ----------
    who : str
        The origin, such as "loss: term 'hint' (Hint)".
    """
    try:
        yield
    except Exception as error:
        if type(error) not in _OF_OWN_CODE or who in str(error):
            raise
        raise type(error)(f"{who}: {error}") from error


@contextmanager
def error_context(name: str, rows: Any = None) -> Iterator[None]:
    """Prefix ValueErrors and TypeErrors raised inside with the argument's name, unless they contain it.

    The message itself is kept, since users know it; a remedy follows if it states none.

    Parameters
    ----------
    name : str
        Name of the argument.
    rows : object, default=None
        Value of the argument. If it is a DataFrame with words that are refused, the message names the column.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if _TEXTS.search(str(error)):  # the texts themselves would hide what is wrong
            raise ValueError(f"{name}: Expected 2D array, got 1D array instead. {_REMEDY_OF_TEXTS}") from None
        named = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) is not None
        weights = _REMEDIES_OF_WEIGHTS_OF_X_VAL if name.endswith("_val") else _REMEDIES_OF_WEIGHTS
        remedies = _REMEDIES_OF_ROWS if name.startswith("X") else weights
        remedy = next((own for text, own in remedies.items() if text in str(error)), "")
        if remedy == _WORDS:
            remedy += columns_of_words(
                rows, str(error), "HistGradientBoostingClassifier as the teacher needs"
            )
        if named and not remedy:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{'' if named else f'{name}: '}{error}{remedy}") from error


@contextmanager
def teacher_context(who: str, rows: Any = None) -> Iterator[None]:
    """Prefix ValueErrors and TypeErrors raised inside with the teacher's name, unless they contain it.

    Errors of subclasses pass unchanged.

    Parameters
    ----------
    who : str
        What messages call the teacher.
    rows : object, default=None
        Rows that the teacher gets. If it is a DataFrame with words that are refused, the message names the
        column.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) or "teacher" in str(error):
            raise
        remedy = next((own for text, own in _REMEDIES_OF_TEACHERS.items() if text in str(error)), "")
        if remedy == _WORDS_OF_TEACHERS:
            remedy += columns_of_words(rows, str(error), "such a teacher needs")
        raise type(error)(f"{who}: {error}{remedy}") from error
