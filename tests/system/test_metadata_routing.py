"""What is given to ``fit`` beside X and y finds its way through searches and pipelines."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd.inputs import _validation


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


@pytest.fixture
def apprentice(make):
    """Learns from the teacher's logits alone, so that their order is all that counts."""
    return make(meta="fixed", lambda1=0.0, max_epochs=20, optimizer__momentum=0.5)


@pytest.fixture
def requesting(apprentice, routing):
    return apprentice.set_fit_request(teacher_logits=True)


@pytest.mark.filterwarnings("ignore:The student was still learning fast")  # from a shuffled teacher
@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: GridSearchCV(clf, {}, cv=2),
        lambda clf: GridSearchCV(make_pipeline(StandardScaler(), clf), {}, cv=2, n_jobs=2),
        lambda clf: CalibratedClassifierCV(clf, cv=2),
        lambda clf: BaggingClassifier(clf, n_estimators=2, random_state=0),
    ],
    ids=["search", "search over a pipeline in parallel", "calibration", "bagging"],
)
def test_logits_follow_the_rows(wrap, requesting, digits, logits):
    X, y = digits
    order = np.random.default_rng(0).permutation(300)
    aligned, shuffled = (
        wrap(requesting).fit(X[:300], y[:300], teacher_logits=given).score(X[300:], y[300:])
        for given in (logits[:300], logits[order])
    )
    assert aligned > 0.6 > 0.3 > shuffled


def test_cross_validate_takes_params(requesting, digits, logits):
    scores = cross_validate(requesting, *digits, cv=2, params={"teacher_logits": logits})["test_score"]
    assert scores.mean() > 0.6


def test_nothing_is_passed_that_was_not_asked_for(apprentice, routing, digits, logits):
    with pytest.raises(UnsetMetadataPassedError, match="teacher_logits"):
        GridSearchCV(apprentice, {}, cv=2).fit(*digits, teacher_logits=logits)


def test_weights_follow_the_folds(make, routing, digits, logits):
    """Rows of weight 0 do not count: a fold is fitted and scored as if they were absent."""
    X, y = digits
    wrong = np.arange(400) % 4 == 3
    weight = np.where(wrong, 0.0, 1.0)
    y_wrong = np.where(wrong, (y + 1) % 10, y)
    clf = make(meta="none", max_epochs=20).set_fit_request(sample_weight=True)
    pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clf)
    # A scorer of its own: in scikit-learn 1.6 a pipeline's score is passed no weights.
    scoring = get_scorer("accuracy").set_score_request(sample_weight=True)
    search = GridSearchCV(pipeline, {}, cv=2, scoring=scoring)
    weighted, ones = (
        clone(search).fit(X, y_wrong, sample_weight=given).best_score_ for given in (weight, np.ones(400))
    )
    assert weighted > 0.8 > ones + 0.05


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda logits: {"teacher_logits": logits[:-1]}, r"got \(399, 10\)"),
        (lambda logits: {"teacher_logits": logits[:, :9]}, r"got \(200, 9\)"),
        (lambda logits: {"teacher_logits": logits.T}, r"got \(10, 400\)"),
        (lambda logits: {"sample_weight": np.ones(399)}, "sample_weight"),
    ],
    ids=["a row too few", "a column too few", "transposed", "a weight too few"],
)
def test_misaligned_arrays_are_refused(enabled, given, match, apprentice, digits, logits):
    with config_context(enable_metadata_routing=enabled):
        if enabled:
            apprentice.set_fit_request(teacher_logits=True, sample_weight=True)
        search = GridSearchCV(apprentice, {}, cv=2, error_score="raise")
        with pytest.raises(ValueError, match=match):
            search.fit(*digits, **given(logits))


def test_logits_of_one_fold_only_are_refused_by_the_refit(requesting, digits, logits):
    """200 logits for 400 rows are as many as each fold trains on, but not as all."""
    with pytest.raises(ValueError, match=r"got \(200, 10\)"):
        GridSearchCV(requesting, {}, cv=2).fit(*digits, teacher_logits=logits[:200])


# --------------------------------------------------------------------------------------
# D_val through a pipeline


@pytest.fixture
def scaled(make, routing):
    """A pipeline that scales D_val as it scales X, and its classifier alone."""
    clf = make(meta="gradient", max_epochs=3)
    asking = clone(clf).set_fit_request(X_val=True, y_val=True, teacher_logits=True)
    return make_pipeline(StandardScaler(), asking, transform_input=["X_val"]), clf


def test_d_val_is_transformed_by_the_pipeline(scaled, digits, logits):
    pipeline, clf = scaled
    X, X_val, y, y_val = digits[0][:300], digits[0][300:], digits[1][:300], digits[1][300:]
    pipeline.fit(X, y, teacher_logits=logits[:300], X_val=X_val, y_val=y_val)
    scaler = StandardScaler().fit(X)
    given = {"teacher_logits": logits[:300], "y_val": y_val}
    by_hand = clone(clf).fit(scaler.transform(X), y, X_val=scaler.transform(X_val), **given)
    raw = clone(clf).fit(scaler.transform(X), y, X_val=X_val, **given)
    path = pipeline[-1].metaparameter_path_["val_loss"]
    np.testing.assert_array_equal(path, by_hand.metaparameter_path_["val_loss"])
    assert not np.allclose(path, raw.metaparameter_path_["val_loss"])


def test_d_val_is_whole_in_every_fold(scaled, digits, logits, monkeypatch):
    """300 rows train on 150 each; D_val, which has another length, is never cut."""
    pipeline, _ = scaled
    seen = []
    check = _validation._checked_validation_rows

    def recording(estimator, X_val, y_val, *rest):
        seen.append((len(X_val), len(y_val)))
        return check(estimator, X_val, y_val, *rest)

    monkeypatch.setattr(_validation, "_checked_validation_rows", recording)
    given = {"teacher_logits": logits[:300], "X_val": digits[0][300:], "y_val": digits[1][300:]}
    search = GridSearchCV(pipeline, {"distilledclassifier__lr": [0.1]}, cv=2, error_score="raise")
    search.fit(digits[0][:300], digits[1][:300], **given)
    assert seen == [(100, 100)] * 3 and search.best_score_ > 0.3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y_val": np.zeros(99, dtype=int)}, "X_val has 100 rows and y_val 99"),
        ({"y_val": np.full(100, 10)}, "labels that y lacks"),
        ({"X_val": np.zeros((100, 63), dtype=np.float32)}, "63 features"),
    ],
    ids=["rows", "labels", "features"],
)
def test_misaligned_d_val_is_refused(change, match, scaled, digits, logits):
    pipeline, _ = scaled
    given = {"teacher_logits": logits[:300], "X_val": digits[0][300:], "y_val": digits[1][300:]} | change
    with pytest.raises(ValueError, match=match):
        pipeline.fit(digits[0][:300], digits[1][:300], **given)


def test_without_routing_a_pipeline_takes_the_prefix(apprentice, digits, logits):
    pipeline = make_pipeline(StandardScaler(), apprentice)
    pipeline.fit(*digits, distilledclassifier__teacher_logits=logits)
    assert pipeline.score(*digits) > 0.6
    params = {"distilledclassifier__teacher_logits": logits}
    assert cross_val_score(pipeline, *digits, cv=2, params=params).mean() > 0.6
