"""A fitted estimator in a file of skops, which runs no code, and in MLflow, whose default it is."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.pages import messages
from sklearn_kd import MLPStudent


@pytest.fixture
def skops():
    pytest.importorskip("safetensors", reason="needs safetensors")
    pytest.importorskip("skops", minversion="0.13", reason="needs skops")
    return pytest.importorskip("skops.io", reason="needs skops")


def again(skops, model):
    written = skops.dumps(model)
    return skops.loads(written, trusted=skops.get_untrusted_types(data=written))


@pytest.mark.parametrize("meta", ["none", "linear"])
def test_pipeline(meta, make, digits, skops):
    X, y = digits
    pipe = make_pipeline(StandardScaler(), make(RandomForestClassifier(3), meta=meta, max_epochs=2))
    pipe.fit(X, y)
    loaded = again(skops, pipe)
    np.testing.assert_array_equal(loaded.predict_proba(X), pipe.predict_proba(X))
    assert loaded[-1].metaparameter_path_.tobytes() == pipe[-1].metaparameter_path_.tobytes()
    assert loaded[-1].history_[:, "train_loss"] == pipe[-1].history_[:, "train_loss"]
    assert loaded[-1].fit(X, y).score(X, y) > 0.1


def test_nothing_but_names_of_this_library_and_torch_is_to_be_trusted(make, digits, skops):
    types = skops.get_untrusted_types(data=skops.dumps(make(meta="none", max_epochs=1).fit(*digits)))
    assert {name.partition(".")[0] for name in types} <= {"sklearn_kd", "torch", "numpy"}
    assert "sklearn_kd.persistence._skops_form.NetForm" in types


def test_distpro(make_distpro, images, skops):
    clf = make_distpro(max_epochs=1).fit(*images)
    np.testing.assert_array_equal(again(skops, clf).predict_proba(images[0]), clf.predict_proba(images[0]))


def test_damaged_bytes_are_refused(make, digits, skops, monkeypatch):
    from sklearn_kd.persistence import _skops_form

    clf = make(meta="none", max_epochs=1).fit(*digits)
    whole = _skops_form.NetForm.__reduce__
    monkeypatch.setattr(
        _skops_form.NetForm, "__reduce__", lambda self: (type(self), (whole(self)[1][0][:-1],))
    )
    with pytest.raises(ValueError, match="The net in the file of skops"):
        again(skops, clf)


def test_student_that_is_a_module(make, digits, skops):
    clf = make(student=MLPStudent(64, 10), meta="none", max_epochs=1).fit(*digits)
    with pytest.raises(TypeError, match=messages()["a module as student, in skops"]):
        skops.dumps(clf)


def test_pickles_and_copies_hold_the_net_itself(make, digits):
    clf = make(meta="none", max_epochs=1).fit(*digits)
    assert copy.copy(clf).net_ is clf.net_
    for other in (copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
        assert type(other.net_) is type(clf.net_) and other.net_ is not clf.net_
        np.testing.assert_array_equal(other.predict_proba(digits[0]), clf.predict_proba(digits[0]))


@pytest.mark.filterwarnings("ignore")
def test_mlflow(make, digits, skops, tmp_path):
    mlflow = pytest.importorskip("mlflow.sklearn", reason="needs mlflow")
    pipe = make_pipeline(StandardScaler(), make(meta="none", max_epochs=1)).fit(*digits)
    trusted = skops.get_untrusted_types(data=skops.dumps(pipe))
    for name, given in (
        ("safe", {"skops_trusted_types": trusted}),
        ("pickle", {"serialization_format": "cloudpickle"}),
    ):
        mlflow.save_model(pipe, tmp_path / name, pip_requirements=[], **given)
        loaded = mlflow.load_model(str(tmp_path / name))
        np.testing.assert_array_equal(loaded.predict_proba(digits[0]), pipe.predict_proba(digits[0]))
