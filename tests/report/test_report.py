"""Reports on fitted estimators: who is asked about what, and refusals."""

import json
import pickle
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch.utils.data import TensorDataset

from helpers.networks import ConvNet
from helpers.pages import messages
from sklearn_kd import DistillationReport, DistilledClassifier, distillation_report
from sklearn_kd.report import _report
from sklearn_kd.report._models import training_seconds
from sklearn_kd.teachers import TeacherAdapter, register_teacher
from sklearn_kd.training._net import TrainingNet

matplotlib.use("Agg")


@pytest.fixture
def split(digits):
    """X_train, y_train, X_test, y_test."""
    X, y = digits
    return X[:300], y[:300], X[300:], y[300:]


@pytest.fixture
def fitted(make, split):
    """A distilled student that has kept its teacher."""
    return make(GaussianNB(), keep_teacher=True).fit(*split[:2])


def quick(*args, **kwargs):
    return distillation_report(*args, timing=False, **kwargs)


def numbers(report, role):
    return report.to_dict()["models"][role]


def test_numbers_are_those_of_the_models(fitted, split):
    X, y, X_test, y_test = split
    report = quick(fitted, X_test, y_test, student_alone="train", X_train=X, y_train=y)
    alone = clone(fitted).set_params(meta="none", teacher=None).fit(X, y)
    models = {"teacher": fitted.teacher_, "student": fitted, "student alone": alone}
    for role, model in models.items():
        found = numbers(report, role)
        assert found["accuracy"] == accuracy_score(y_test, model.predict(X_test))
        same = (model.predict(X_test) == fitted.teacher_.predict(X_test)).mean()
        assert found["agreement"] == (None if role == "teacher" else same)
        assert found["train_seconds"] > 0
    weights = [*fitted.student_.parameters(), *fitted.student_.buffers()]
    assert numbers(report, "student")["n_bytes"] == 4 * sum(w.numel() for w in weights)
    assert numbers(report, "student")["us_single"] is None
    assert report.to_frame().loc["student", "model"] == "MLPStudent"


def test_it_is_shown_pickled_and_written(fitted, split):
    report = distillation_report(fitted, *split[2:])
    assert isinstance(report, DistillationReport)
    for role in ("teacher", "student"):
        assert numbers(report, role)["us_single_p99"] >= numbers(report, role)["us_single"] > 0
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report) and report.verdict.split()[0] in str(report)
    left, right = again.plot().axes
    assert left.get_xscale() == "log" and "confidence" in right.get_xlabel()


def test_pipeline_whose_teacher_sees_transformed_rows(make, split):
    X, y, X_test, y_test = split
    pipeline = make_pipeline(StandardScaler(), make(LogisticRegression(max_iter=200), keep_teacher=True))
    pipeline.fit(10 * X + 5, y)
    report = quick(pipeline, 10 * X_test + 5, y_test, student_alone="train", X_train=10 * X + 5, y_train=y)
    scaler, clf = pipeline[0], pipeline[-1]
    assert numbers(report, "teacher")["accuracy"] == clf.teacher_.score(
        scaler.transform(10 * X_test + 5), y_test
    )
    assert numbers(report, "student")["accuracy"] == pipeline.score(10 * X_test + 5, y_test)
    alone = make_pipeline(StandardScaler(), make(meta="none")).fit(10 * X + 5, y)
    assert numbers(report, "student alone")["accuracy"] == alone.score(10 * X_test + 5, y_test)
    assert numbers(report, "student")["bytes_of"] == "pickle + weights"
    assert pipeline[-1] is clf and clf.teacher is not None  # the user's own is left alone


def test_a_search_gives_its_best_estimator(make, split):
    X, y, X_test, y_test = split
    pipeline = make_pipeline(MinMaxScaler(), make(GaussianNB(), keep_teacher=True))
    search = GridSearchCV(pipeline, {"distilledclassifier__lr": [0.1]}, cv=2).fit(X, y)
    assert numbers(quick(search, X_test, y_test), "student")["accuracy"] == search.score(X_test, y_test)


TEACHERS = {
    "a network": lambda net, y: net,
    "a frozen network": lambda net, y: FrozenEstimator(net),
}


@pytest.mark.parametrize("what", TEACHERS)
def test_networks_that_come_trained_need_not_be_kept(what, make, split, trained):
    X, y, X_test, y_test = split
    clf = make(TEACHERS[what](trained, y)).fit(X, y)
    found = numbers(quick(clf, X_test, y_test), "teacher")
    with torch.no_grad():
        logits = trained(torch.as_tensor(X_test))
    assert found["accuracy"] == (logits.argmax(1).numpy() == y_test).mean()
    expected = -logits.log_softmax(1)[range(len(y_test)), torch.as_tensor(y_test)].mean().item()
    assert found["log_loss"] == pytest.approx(expected, rel=1e-5)
    assert found["bytes_of"] == "weights" and found["n_bytes"] == 4 * (64 * 10 + 10)
    given = quick(make(meta="none").fit(X, y), X_test, y_test, teacher_logits=logits)
    assert numbers(given, "teacher")["accuracy"] == found["accuracy"]
    assert numbers(given, "teacher")["n_bytes"] is None
    assert given.plot().axes[0].get_xlabel() == "bytes"


class OnCodes(GaussianNB):
    """Takes the labels 0 … K−1 alone, as some boosting libraries do."""

    def fit(self, X, y):
        if y.dtype.kind not in "iu":
            raise ValueError("labels must be 0 to K-1")
        return super().fit(X, y)


def test_a_kept_teacher_that_was_trained_on_codes(make, split):
    X, y, X_test, y_test = split
    names = np.array(list("zyxwvutsrq"))
    clf = make(OnCodes(), keep_teacher=True).fit(X, names[y])
    assert clf.teacher_.classes_.tolist() == list(range(10))
    plain = GaussianNB().fit(X, y).score(X_test, y_test)
    assert numbers(quick(clf, X_test, names[y_test]), "teacher")["accuracy"] == pytest.approx(plain, abs=0.06)


def test_a_teacher_of_more_classes_is_asked_about_those_of_the_student(make, split):
    X, y, X_test, y_test = split
    teacher, few = GaussianNB().fit(X, y), y < 5
    clf = make(FrozenEstimator(teacher)).fit(X[few], y[few])
    kept = y_test < 5
    found = numbers(quick(clf, X_test[kept], y_test[kept]), "teacher")
    own = teacher.predict_proba(X_test[kept])[:, :5]
    assert found["accuracy"] == (own.argmax(axis=1) == y_test[kept]).mean()


def test_dataset_and_data_frame(fitted, make, split):
    X, y, X_test, y_test = split
    expected = quick(fitted, X_test, y_test).to_dict()
    assert quick(fitted, TensorDataset(*map(torch.as_tensor, (X_test, y_test)))).to_dict() == expected
    listed = quick(fitted, X_test.tolist(), y_test.tolist())
    assert numbers(listed, "student") == expected["models"]["student"]
    frame, frame_test = (pd.DataFrame(rows).add_prefix("c") for rows in (X, X_test))
    clf = make(GaussianNB(), keep_teacher=True).fit(frame, y)
    found = distillation_report(clf, frame_test, y_test)
    assert numbers(found, "student")["accuracy"] == clf.score(frame_test, y_test)


def test_distpro(make_distpro, images):
    X, y = images
    clf = make_distpro(weights="equal").fit(X[:120], y[:120])
    report = quick(clf, X[120:], y[120:], student_alone="train", X_train=X[:120], y_train=y[:120])
    assert list(report.to_dict()["models"]) == ["teacher", "student", "student alone"]
    assert numbers(report, "student")["accuracy"] == clf.score(X[120:], y[120:])


def test_what_the_student_alone_is_given(fitted, split, monkeypatch):
    X, y, X_test, y_test = split
    fits = []
    fit = DistilledClassifier.fit

    def noted(self, X, y=None, **given):
        fits.append((self.get_params(deep=False), len(X), given))
        return fit(self, X, y, **given)

    monkeypatch.setattr(DistilledClassifier, "fit", noted)
    weight = np.linspace(1, 2, len(y))
    train = {"student_alone": "train", "X_train": X, "y_train": y}
    report = quick(fitted, X_test, y_test, **train, fit_params={"sample_weight": weight})
    [(params, n_rows, given)] = fits
    assert n_rows == 300 and given["sample_weight"] is weight
    own = fitted.get_params(deep=False)
    changed = {name for name in own if params[name] is not own[name] and params[name] != own[name]}
    assert changed == {"teacher", "meta", "keep_teacher", "search_epochs"}
    alone = fit(clone(fitted).set_params(meta="none", teacher=None), X, y, sample_weight=weight)
    assert (
        quick(fitted, X_test, y_test, student_alone=alone).to_dict()["differences"]
        == report.to_dict()["differences"]
    )


@pytest.mark.parametrize(("retrain", "n_epochs"), [("continue", 3), ("average", 2), ("fresh", 2)])
def test_the_student_alone_of_a_search_has_as_many_epochs(retrain, n_epochs, make, split, recwarn):
    """It searches nothing, and has the epochs of a search after which the distilled student goes on."""
    X, y, X_test, y_test = split
    clf = make(GaussianNB(), search_epochs=1, search_callbacks=[], weights="tail", retrain=retrain)
    clf.fit(X, y)
    train = {"student_alone": "train", "X_train": X, "y_train": y}
    report = quick(clf, X_test, y_test, **train)
    alone = make(meta="none", max_epochs=n_epochs).fit(X, y)
    assert (
        report.to_dict()["differences"]
        == quick(clf, X_test, y_test, student_alone=alone).to_dict()["differences"]
    )
    said = " ".join(str(report).split())
    assert f"The student alone trained for {n_epochs} epochs of all rows" in said
    assert ("as the distilled student in its search (1) and after it" in said) == (retrain == "continue")
    assert ("ends with its last weights" in said) == (retrain != "fresh")
    assert not [w for w in recwarn if "Without effect" in str(w.message)]


def test_without_a_teacher_there_is_a_note(make, split):
    X, y, X_test, y_test = split
    report = quick(make(GaussianNB()).fit(X, y), X_test, y_test)
    assert list(report.to_dict()["models"]) == ["student"] and "keep_teacher=True" in str(report)
    given = quick(make(GaussianNB()).fit(X, y), X_test, y_test, teacher=GaussianNB().fit(X, y))
    assert "teacher" in given.to_dict()["models"]


def test_seconds_after_a_save_are_those_of_the_history(fitted, split, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    fitted.save(tmp_path / "m.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "m.safetensors")
    seconds = numbers(quick(loaded, *split[2:]), "student")["train_seconds"]
    assert seconds == pytest.approx(sum(fitted.history_[:, "dur"]))


def test_seconds_after_a_save_have_those_of_trials(make, split, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    clf = make(GaussianNB(), meta="shortlist", search_epochs=1).fit(*split[:2])
    clf.save(tmp_path / "m.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "m.safetensors")
    seconds = clf.trials_["seconds"].sum() + sum(clf.history_[:, "dur"])
    assert training_seconds(loaded) == pytest.approx(seconds)


TRAIN = {"student_alone": "train"}
# What is given, as f(X_test, y_test) -> arguments that are changed.
REFUSED = {
    "no labels for the report": lambda X, y: {"y_test": None},
    "no rows for the report": lambda X, y: {"X_test": X[:0], "y_test": y[:0]},
    "a student alone without training data": lambda X, y: TRAIN,
    "training data that is not used": lambda X, y: {"X_train": X},
    "a student alone of no known kind": lambda X, y: {"student_alone": 3},
    "a misspelt student alone": lambda X, y: {"student_alone": "trained"},
    "a student alone of other classes": lambda X, y: TRAIN | {"X_train": X[y < 5], "y_train": y[y < 5]},
    "a teacher and its logits": lambda X, y: {"teacher": GaussianNB(), "teacher_logits": np.eye(10)[y]},
    "a teacher that is not fitted": lambda X, y: {"teacher": GaussianNB()},
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, fitted, split):
    _, _, X_test, y_test = split
    given = {"X_test": X_test, "y_test": y_test} | REFUSED[what](X_test, y_test)
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        quick(fitted, **given)


def test_refused_with_the_argument_named(fitted, split, make, monkeypatch):
    X, y, X_test, y_test = split
    monkeypatch.setattr(TrainingNet, "train_step", None)  # nothing is trained before
    monkeypatch.setattr(_report, "train_alone", None)
    train = {"student_alone": "train", "X_train": X, "y_train": y}
    with pytest.raises(ValueError, match=r"y_test has labels that y lacks: \[77\]"):
        quick(fitted, X_test, np.where(y_test == 3, 77, y_test), **train)
    with pytest.raises(ValueError, match=r"X_test has 100 rows and y_test 99"):
        quick(fitted, X_test, y_test[1:], **train)
    with pytest.raises(ValueError, match="Input y_test contains NaN"):
        quick(fitted, X_test, np.where(y_test == 3, np.nan, y_test), **train)
    with pytest.raises(ValueError, match=r"X_test: .*NaN"):
        quick(fitted, np.where(X_test > 0.9, np.nan, X_test), y_test, **train)
    with pytest.raises(NotFittedError):
        quick(make(GaussianNB()), X_test, y_test)
    with pytest.raises(TypeError, match="estimator must be a DistilledClassifier"):
        quick(RandomForestClassifier(), X_test, y_test)
    with pytest.raises(ValueError, match="does not know the class"):
        quick(fitted, X_test, y_test, teacher=GaussianNB().fit(X[y < 5], y[y < 5]))


class Prototypes:
    """A teacher of a registered kind, which is trained on D_train."""

    def fit_means(self, X, y):
        self.labels = np.unique(y)
        self.means = np.stack([X[y == label].mean(axis=0) for label in self.labels])
        return self


@register_teacher(Prototypes)
class PrototypesTeacher(TeacherAdapter):
    def fit(self, X, y, *, sample_weight, rng):
        self.teacher = Prototypes().fit_means(X, y)

    def column_classes(self):
        return self.teacher.labels

    def predict_logits(self, X):
        return -((np.asarray(X)[:, None] - self.teacher.means) ** 2).sum(axis=2)


def test_a_registered_teacher_is_asked_by_its_adapter(make, split):
    X, y, X_test, y_test = split
    clf = make(Prototypes(), keep_teacher=True).fit(X, y)
    report = distillation_report(clf, X_test, y_test)
    nearest = ((X_test[:, None] - clf.teacher_.means) ** 2).sum(axis=2).argmin(axis=1)
    assert numbers(report, "teacher")["accuracy"] == (nearest == y_test).mean()
    assert numbers(report, "teacher")["us_batch"] > 0


def test_a_teacher_of_maps_alone_has_no_row(make_distpro, images):
    X, y = images
    clf = make_distpro(ConvNet(width=6, n_classes=3), weights="equal", max_epochs=1).fit(X[:120], y[:120])
    report = quick(clf, X[120:], y[120:])
    assert list(report.to_dict()["models"]) == ["student"]
    assert "No row for the teacher, whose feature maps alone were used" in " ".join(str(report).split())


class Answers:
    """A trained object that says its classes in no attribute."""

    def __init__(self, model):
        self.model = model

    def predict_proba(self, X):
        return self.model.predict_proba(X)


@pytest.mark.parametrize("says", ["teacher_classes", "labels", "columns"])
def test_a_trained_object_without_classes_(says, make, split):
    X, y, X_test, y_test = split
    names = np.array(list("zyxwvutsrq"))
    teacher = Answers(GaussianNB().fit(X, names[y]))
    own = teacher.model.classes_
    if says == "labels":
        teacher.labels = own.tolist()
    if says == "columns":
        teacher.predict_proba = lambda rows: pd.DataFrame(teacher.model.predict_proba(rows), columns=own)
    clf = make(teacher, teacher_classes=own if says == "teacher_classes" else None).fit(X, names[y])
    found = numbers(quick(clf, X_test, names[y_test]), "teacher")
    assert found["accuracy"] == teacher.model.score(X_test, names[y_test])


def test_a_kept_teacher_that_has_not_seen_a_class(make, split):
    """All its rows have weight 0; on codes, the teacher itself cannot say which class that is."""
    X, y, X_test, y_test = split
    names = np.array(list("zyxwvutsrq"))
    weight = (names[y] != "q").astype(float)
    plain = GaussianNB().fit(X[weight > 0], names[y[weight > 0]]).score(X_test, names[y_test])
    for teacher in (GaussianNB(), OnCodes()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # OnCodes takes no weights
            clf = make(teacher, meta="fixed", keep_teacher=True).fit(X, names[y], sample_weight=weight)
        assert numbers(quick(clf, X_test, names[y_test]), "teacher")["accuracy"] == pytest.approx(plain)
