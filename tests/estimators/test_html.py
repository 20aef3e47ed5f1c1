import re

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import MLPStudent


def text(estimator):
    """The diagram's text without style, script, tags, and the plain repr for browsers that show none."""
    html = re.sub(
        r"(?s)<style.*?</style>|<script.*?</script>|<div class=\"sk-text-repr-fallback\">.*?</div>",
        "",
        estimator._repr_html_(),
    )
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html))


def test_unfitted_shows_teacher_and_student(make):
    shown = text(make(RandomForestClassifier(n_estimators=7), student__hidden=16))
    assert "teacher: RandomForestClassifier" in shown
    assert "student: MLPStudent" in shown
    assert "MLPStudent(hidden=16)" in shown
    assert " type " not in shown  # what scikit-learn makes of a class


def test_fitted_shows_the_trained_student(make, digits):
    shown = text(make(LogisticRegression(max_iter=500), meta="fixed").fit(*digits))
    assert "teacher: LogisticRegression" in shown
    assert "in_features=64, out_features=32" in shown
    assert "2,410 weights" in shown  # 64·32 + 32 + 32·10 + 10


def test_network_as_teacher_is_named_by_its_class(make):
    shown = text(make(torch.nn.Linear(64, 10), MLPStudent(64, 10)))
    assert "teacher: Linear" in shown
    assert "650 weights" in shown
    assert "19,210 weights" in shown


def test_without_teacher(make):
    shown = text(make(meta="none"))
    assert "teacher:" not in shown
    assert "student: MLPStudent" in shown


@pytest.mark.parametrize(
    "wrapped", [make_pipeline, lambda scaler, clf: make_pipeline(make_pipeline(scaler, clf))]
)
def test_inside_a_pipeline(wrapped, make):
    shown = text(wrapped(StandardScaler(), make(LogisticRegression())))
    assert "teacher: LogisticRegression" in shown
    assert "student: MLPStudent" in shown
