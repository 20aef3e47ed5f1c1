"""Estimators as files of tensors and JSON: what comes back, what is refused, and that no code runs."""

import json
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from helpers.networks import ConvNet, stage
from helpers.saved_files import content_of, write
from helpers.settings import SINGLE_RUN
from sklearn_kd import CIFARResNet, CNNStudent, DistilledClassifier, DistProClassifier, Execution, MLPStudent
from sklearn_kd.files._history import encode_history
from sklearn_kd.files._values import JSON_VALUES
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Hyperopt, Linear, Random, Strategy
from sklearn_kd.persistence import _container, _save_load
from sklearn_kd.persistence._codecs import table_content, take_table
from sklearn_kd.persistence._container import packed, unpacked
from sklearn_kd.students._standardize import own_student

pytest.importorskip("safetensors", reason="needs safetensors")


class NormStudent(nn.Module):
    """Of the caller's: buffers, an integer among them, and other results in training mode."""

    def __init__(self, in_features, n_classes, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden), nn.BatchNorm1d(hidden), nn.Dropout(), nn.Linear(hidden, n_classes)
        )

    def forward(self, x):
        return self.layers(x)


class TiedStudent(nn.Module):
    """Two names for one weight."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.first, self.second = (nn.Linear(in_features, in_features) for _ in range(2))
        self.second.weight = self.first.weight
        self.last = nn.Linear(in_features, n_classes)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class LazyStudent(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.layer = nn.LazyLinear(n_classes)

    def forward(self, x):
        return self.layer(x)


class StatefulStudent(NormStudent):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saved.safetensors"


@pytest.fixture(scope="module")
def fitted(digits, logits):
    """Distilled along a learned path; tests change copies of what it is saved as."""
    quick = SINGLE_RUN | {"max_epochs": 2, "batch_size": 32, "random_state": 0, "device": "cpu"}
    clf = DistilledClassifier(None, MLPStudent, student__hidden=(8, 6), **quick)
    return clf.fit(*digits, teacher_logits=logits)


def assert_same(again, clf, X, y):
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))
    assert again.predict(X).dtype == clf.predict(X).dtype
    assert again.score(X, y) == clf.score(X, y)
    assert again.n_features_in_ == clf.n_features_in_
    assert again.n_iter_ == clf.n_iter_


# --------------------------------------------------------------------------------------
# Round trips


@pytest.mark.parametrize(
    ("student", "shape", "params"),
    [
        (MLPStudent, (64,), {}),
        (MLPStudent, (8, 8), {"student__hidden": [8, 6]}),
        (CNNStudent, (1, 8, 8), {"student__channels": (4, 4, 4), "student__hidden": 8}),
        (CIFARResNet, (1, 8, 8), {"student__depth": 8, "student__mean": (0.3,), "student__std": (0.4,)}),
    ],
)
def test_students_of_this_library_need_nothing_but_the_file(student, shape, params, make, digits, path):
    X, y = digits[0][:60].reshape(-1, *shape), digits[1][:60]
    clf = make(meta="none", student=student, max_epochs=1, **params).fit(X, y)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert_same(again, clf, X, y)
    assert type(own_student(again.student_)) is student
    assert again.get_params() == clf.get_params()


@pytest.mark.parametrize("instance", [False, True])
@pytest.mark.parametrize("student", [NormStudent, TiedStudent, LazyStudent])
def test_other_students_are_given(student, instance, make, digits, path):
    X, y = digits
    clf = make(meta="none", student=student).fit(X, y)
    clf.save(path)
    with pytest.raises(ValueError, match=rf"student of class .*{student.__name__}.*student=\.\.\."):
        DistilledClassifier.load(path)
    given = student(**({"in_features": 64} if student is not LazyStudent else {}), n_classes=10)
    before = torch.get_rng_state()
    again = DistilledClassifier.load(path, student=given if instance else student)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(again, clf, X, y)


def test_parameters_of_another_student_are_the_file_s(make, digits, path):
    clf = make(meta="none", student=NormStudent, student__hidden=5).fit(*digits)
    clf.save(path)
    assert_same(DistilledClassifier.load(path, student=NormStudent), clf, *digits)
    again = DistilledClassifier.load(path, student=NormStudent(64, 10, hidden=5))
    assert_same(again, clf, *digits)
    assert "student__hidden" not in again.get_params()  # which an instance would refuse
    clone(again).set_params(meta="none").fit(*digits)


def test_student_given_as_an_instance(make, digits, path):
    clf = make(meta="none", student=MLPStudent(64, 10, hidden=7)).fit(*digits)
    clf.save(path)
    with pytest.raises(
        ValueError, match="MLPStudent, which is not the library's or was given as an instance"
    ):
        DistilledClassifier.load(path)
    assert_same(DistilledClassifier.load(path, student=MLPStudent, student__hidden=7), clf, *digits)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(10) - 3,
        np.arange(10, dtype=np.int16),
        np.arange(10, dtype=np.uint8) + 200,
        np.arange(10) / 3,
        (np.arange(10) / 3).astype(np.float32),
        np.array([f"class ü{i}" for i in range(10)], dtype="<U20"),
        np.array([f"class {i}" for i in range(10)], dtype=object),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_come_back_as_they_were(labels, make, digits, path):
    X, y = digits[0], labels[digits[1]]
    if labels.dtype.kind == "f":  # not whole numbers: scikit-learn takes those for no classes
        y = np.round(y * 3).astype(labels.dtype)
    clf = make(meta="none").fit(X, y)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert again.classes_.dtype == clf.classes_.dtype
    assert again.classes_.tolist() == clf.classes_.tolist()
    assert list(map(type, again.classes_.tolist())) == list(map(type, clf.classes_.tolist()))
    assert_same(again, clf, X, y)


def test_two_classes_true_and_false(make, digits, path):
    X, y = digits[0], digits[1] > 4
    clf = make(meta="none").fit(X, y)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert again.classes_.dtype == bool
    assert_same(again, clf, X, y)


def test_names_of_features_are_still_checked(make, digits, path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    X, y = pandas.DataFrame(digits[0], columns=[f"pixel {i}" for i in range(64)]), digits[1]
    clf = make(meta="none").fit(X, y)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert_same(again, clf, X, y)
    assert again.feature_names_in_.tolist() == X.columns.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(X.rename(columns={"pixel 3": "pixel x"}))
    with pytest.raises(ValueError, match="63 features"):
        again.predict(digits[0][:, :63])


def test_without_names_there_are_none(fitted, digits, path):
    fitted.save(path)
    assert not hasattr(DistilledClassifier.load(path), "feature_names_in_")


def test_path_history_and_numbers(fitted, path):
    fitted.save(path)
    again = DistilledClassifier.load(path)
    assert again.metaparameter_path_.dtype == fitted.metaparameter_path_.dtype
    assert again.metaparameter_path_.tobytes() == fitted.metaparameter_path_.tobytes()
    for name in ("lambda1_", "temperature_", "val_temperature_"):
        assert getattr(again, name) == getattr(fitted, name)
    assert list(again.history_) == list(fitted.history_)
    assert again.history_[:, "train_loss"] == fitted.history_[:, "train_loss"]
    assert repr(again.strategy_) == repr(fitted.strategy_)
    assert again.teacher is None and again.teacher_ is None


def test_tables_of_any_columns():
    """A metaparameter may be an array, and have any name."""
    dtype = [("iteration", "i8"), ("trust", "f8", (3,)), ("λ", "f4"), ("predicted", "?")]
    table = np.zeros(4, dtype=dtype)
    table["trust"], table["predicted"] = np.arange(12).reshape(4, 3), [True, False, True, False]
    content = table_content(table, "path")
    restored = unpacked(packed(content), "it")
    again = take_table(restored, "path")
    assert again.dtype == table.dtype and again.tobytes() == table.tobytes()
    assert restored.tensors == {}


@pytest.mark.filterwarnings("ignore:The student learned nothing")
def test_how_the_training_ended(make, digits, path):
    """A student that learned nothing is still known as one."""
    clf = make(meta="none", lr=0.0, max_epochs=5, random_state=1).fit(digits[0] * 0, digits[1])
    clf.save(path)
    net = DistilledClassifier.load(path).net_
    assert clf.net_.collapsed_ and net.collapsed_ and not net.diverged_ and not net.interrupted_
    clf.net_.collapsed_, clf.net_.diverged_, clf.net_.interrupted_ = False, True, True
    clf.save(path)
    net = DistilledClassifier.load(path).net_
    assert net.diverged_ and net.interrupted_ and not net.collapsed_


def test_path_of_one_iteration(make, digits, path):
    clf = make(meta="none", max_epochs=1, batch_size=400).fit(*digits)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert again.metaparameter_path_.tobytes() == clf.metaparameter_path_.tobytes()
    assert_same(again, clf, *digits)


@pytest.mark.parametrize("meta", [Hyperopt(n_trials=2), Random(n_trials=2)])
def test_trials(meta, make, digits, logits, path):
    clf = make(meta=meta, max_epochs=1).fit(*digits, teacher_logits=logits)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert again.trials_.tobytes() == clf.trials_.tobytes()
    assert again.strategy_.trials_ is again.trials_
    assert again.meta.get_params() == meta.get_params()


def test_parameters_with_a_form(make, digits, logits, path):
    params = {
        "meta": Linear(e1=3, e2=4),
        "optimizer": torch.optim.Adam,
        "optimizer__betas": (0.8, 0.9),
        "lr": 0.01,
        "batch_size": np.int64(64),
        "device": torch.device("cpu"),
        "loss": LogitDistillation((0.5, 20.0), temperature_scaling="none"),
        "temperature": 12.0,
        "execution": Execution(autocast=True),
    }
    clf = make(**params).fit(*digits, teacher_logits=logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.save(path)
    again = DistilledClassifier.load(path)
    assert again.optimizer is torch.optim.Adam
    assert again.optimizer__betas == (0.8, 0.9)
    assert type(again.loss) is LogitDistillation and type(again.execution) is Execution
    assert again.loss.get_params() == params["loss"].get_params()
    assert again.execution.get_params() == params["execution"].get_params()
    assert (again.meta.e1, again.meta.e2) == (3, 4)
    assert again.batch_size == 64 and type(again.batch_size) is int
    refitted = clone(again).fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(refitted.predict_proba(digits[0]), clf.predict_proba(digits[0]))


def test_parameters_beside_names(make, digits, logits, path):
    params = {
        "meta__lr": 0.2,
        "meta__optimizer": torch.optim.Adam,
        "loss__temperature_bounds": (0.5, 20.0),
        "execution__autocast": True,
    }
    clf = make(**params).fit(*digits, teacher_logits=logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.save(path)
    again = DistilledClassifier.load(path)
    assert {name: again.get_params()[name] for name in params} == params
    refitted = clone(again).fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(refitted.predict_proba(digits[0]), clf.predict_proba(digits[0]))


def test_a_file_says_nothing_of_processes(make, digits, logits, path):
    clf = make(meta="hyperopt", meta__n_trials=2, meta__n_jobs=1, max_epochs=1)
    clf.fit(*digits, teacher_logits=logits)
    with pytest.warns(UserWarning, match="they belong to this machine: meta__n_jobs"):
        clf.save(path)
    about, tensors = unpacked(path.read_bytes(), "it")
    assert "meta__n_jobs" not in about["params"] and about["params"]["meta__n_trials"] == 2
    about["params"]["meta__n_jobs"] = 8
    write(path, about, dict(tensors))
    assert "meta__n_jobs" not in DistilledClassifier.load(path).get_params()
    of_object = {"strategy": ["Hyperopt", {"n_trials": 2, "n_jobs": 8}]}
    for name in ("meta__n_trials", "meta__n_jobs"):
        del about["params"][name]
    write(path, about | {"params": about["params"] | {"meta": of_object}}, dict(tensors))
    assert DistilledClassifier.load(path).meta.n_jobs is None


def half(x):
    return x / 2


class Custom(Strategy):
    pass


def test_what_has_no_form_is_told_and_can_be_given(make, digits, logits, path):
    random_state = np.random.RandomState(0)
    clf = make(nn.Linear(64, 10), augment=half, meta=Custom(), random_state=random_state).fit(*digits)
    with pytest.warns(
        UserWarning,
        match="Not saved, because they cannot be written as JSON.*: augment, meta, random_state. Predictions",
    ) as told:
        clf.save(path)
    assert told[0].filename == __file__
    again = DistilledClassifier.load(path)
    assert_same(again, clf, *digits)
    assert again.augment is None and not hasattr(again, "strategy_")
    given = DistilledClassifier.load(path, augment=half, meta=Custom(), teacher=clf.teacher, max_epochs=3)
    assert given.augment is half and given.max_epochs == 3 and isinstance(given.strategy_, Custom)
    assert_same(given, clf, *digits)


def test_columns_of_the_history_without_a_form_are_told(make, digits, path):
    clf = make(meta="none").fit(*digits)
    clf.history_[-1]["mine"] = object()
    clf.history_[-1]["count"] = np.int64(3)
    clf.history_[-1]["pair"] = (1, 2.5)
    with pytest.warns(UserWarning, match="Not saved, .*: column 'mine' of the history"):
        clf.save(path)
    last = DistilledClassifier.load(path).history_[-1]
    assert last["count"] == 3 and last["pair"] == (1, 2.5) and "mine" not in last


def test_training_goes_on_as_without_the_file(make, digits, logits, path):
    """No fit keeps the optimizer's state, so that nothing is lost that a warm start had."""
    clf = make(student=NormStudent, optimizer=torch.optim.Adam, lr=0.01).fit(*digits, teacher_logits=logits)
    clf.save(path)
    again = DistilledClassifier.load(path, student=NormStudent, warm_start=True)
    again.fit(*digits, teacher_logits=logits)
    clf.set_params(warm_start=True).fit(*digits, teacher_logits=logits)
    assert again.n_iter_ == clf.n_iter_ == len(again.metaparameter_path_)
    assert again.metaparameter_path_.tobytes() == clf.metaparameter_path_.tobytes()
    assert_same(again, clf, *digits)


def test_what_is_loaded_is_an_estimator_like_any(fitted, digits, path, tmp_path):
    fitted.save(path)
    again = DistilledClassifier.load(path)
    assert_same(pickle.loads(pickle.dumps(again)), fitted, *digits)
    assert not hasattr(clone(again), "net_")
    again.save(tmp_path / "second.safetensors")
    (about, tensors), (first, others) = (
        unpacked(file.read_bytes(), "it") for file in (tmp_path / "second.safetensors", path)
    )
    assert about == first and tensors.keys() == others.keys()
    for name, tensor in tensors.items():  # by bytes, since NaN is in them
        assert tensor.numpy().tobytes() == others[name].numpy().tobytes()
    again.export_student(tmp_path / "student.safetensors")
    assert "MLPStudent" in again._repr_html_()
    with pytest.raises(ValueError, match="teacher=None"):
        again.fit(*digits)


def test_display(fitted, path):
    pytest.importorskip("matplotlib", reason="needs matplotlib").use("agg")
    from sklearn_kd import MetaparameterPathDisplay

    fitted.save(path)
    display = MetaparameterPathDisplay.from_estimator(DistilledClassifier.load(path))
    assert len(display.lines_[0].get_ydata()) == fitted.n_iter_


def test_step_of_a_pipeline(make, digits, path):
    X, y = digits
    pipe = make_pipeline(StandardScaler(), make(meta="none")).fit(X, y)
    pipe[-1].save(path)
    again = make_pipeline(pipe[0], DistilledClassifier.load(path))
    np.testing.assert_array_equal(again.predict_proba(X), pipe.predict_proba(X))


def test_loaded_as_a_teacher(fitted, digits, images, path):
    """Of an estimator of this library DistPro takes the student."""
    X, y = images
    clf = DistilledClassifier(None, ConvNet, meta="none", max_epochs=1, device="cpu").fit(X, y)
    clf.save(path)
    teacher = DistilledClassifier.load(path, student=ConvNet)
    taught = DistProClassifier(
        teacher, ConvNet, transforms=["conv1"], search_epochs=1, max_epochs=1, device="cpu", keep_teacher=True
    ).fit(X, y)
    assert taught.teacher_.student_ is teacher.student_


def test_subclass(digits, path):
    class Mine(DistilledClassifier):
        pass

    clf = Mine(None, MLPStudent, meta="none", max_epochs=1, device="cpu").fit(*digits)
    clf.save(path)
    assert type(Mine.load(path)) is Mine
    with pytest.raises(
        ValueError, match=r"it has a Mine, not a DistilledClassifier: load it with Mine\.load"
    ):
        DistilledClassifier.load(path)


@pytest.mark.gpu
def test_from_the_gpu_to_the_cpu(make, digits, path):
    clf = make(meta="none", device="cuda").fit(*digits)
    clf.save(path)
    np.testing.assert_array_equal(
        DistilledClassifier.load(path).predict_proba(digits[0]), clf.predict_proba(digits[0])
    )
    on_cpu = DistilledClassifier.load(path, device="cpu")
    assert next(on_cpu.student_.parameters()).device.type == "cpu"
    np.testing.assert_allclose(on_cpu.predict_proba(digits[0]), clf.predict_proba(digits[0]), atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_device_that_is_not_here(fitted, path):
    about, tensors = content_of(fitted, path)
    about["params"]["device"] = "cuda"
    write(path, about, tensors)
    with pytest.raises(ValueError, match=r"device='cuda'.*Set device='auto'"):
        DistilledClassifier.load(path)
    assert DistilledClassifier.load(path, device="auto").device == "auto"


# --------------------------------------------------------------------------------------
# A search and its process


def test_a_search(make, digits, logits, path):
    clf = make(search_epochs=1).fit(*digits, teacher_logits=logits)
    clf.save(path)
    again = DistilledClassifier.load(path)
    assert_same(again, clf, *digits)
    assert again.metaparameter_path_.tobytes() == clf.metaparameter_path_.tobytes()
    assert list(again.search_history_) == list(clf.search_history_)
    process, saved = again.process_, clf.process_
    assert dict(process.space) == dict(saved.space) and process.settings == saved.settings
    assert all(process.values[name].tobytes() == rows.tobytes() for name, rows in saved.values.items())
    clf.save(path, history=False)
    again = DistilledClassifier.load(path)
    assert len(again.metaparameter_path_) == 0 and again.n_iter_ == clf.n_iter_
    assert again.search_history_ is None and again.process_ is None


def test_a_file_of_a_version_without_searches(make, digits, logits, path):
    clf = make().fit(*digits, teacher_logits=logits)
    about, tensors = content_of(clf, path)
    about["metaparameter_path_columns"].remove("search")
    for name in ("metaparameter_path.search", "search_history"):
        del tensors[name]
    write(path, about, tensors)
    again = DistilledClassifier.load(path)
    assert again.metaparameter_path_.tobytes() == clf.metaparameter_path_.tobytes()
    assert again.process_ is None and again.search_history_ is None


# --------------------------------------------------------------------------------------
# DistPro


@pytest.mark.parametrize("params", [{}, {"logit_weight": "learned"}, {"weights": "equal"}])
def test_distpro(params, make_distpro, images, path):
    clf = make_distpro(**params).fit(*images)
    clf.save(path)
    again = DistProClassifier.load(path, student=ConvNet)
    assert_same(again, clf, *images)
    assert again.pathways_ == clf.pathways_
    for name, weights in clf.transforms_.state_dict().items():
        assert torch.equal(again.transforms_.state_dict()[name], weights)
    assert list(again.history_) == list(clf.history_)
    if params.get("weights") == "equal":
        assert again.process_ is None and again.search_history_ is None
        return
    assert list(again.search_history_) == list(clf.search_history_)
    process, saved = again.process_, clf.process_
    np.testing.assert_array_equal(process.raw, saved.raw)
    np.testing.assert_array_equal(process.logit_term, saved.logit_term)
    assert (process.pathways, process.normalization, process.softmax_bias) == (
        saved.pathways,
        saved.normalization,
        saved.softmax_bias,
    )
    assert (process.settings, process.versions) == (saved.settings, saved.versions)


def test_process_of_a_file_is_followed(make_distpro, images, path):
    clf = make_distpro().fit(*images)
    clf.save(path)
    process = DistProClassifier.load(path, student=ConvNet).process_
    expected, found = (make_distpro(process=p).fit(*images) for p in (clf.process_, process))
    np.testing.assert_array_equal(found.predict_proba(images[0]), expected.predict_proba(images[0]))


def own_transform(c_in, c_out):
    return Own(c_in, c_out)


class Own(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.layers = stage(c_in, c_out, 1)

    def forward(self, x, size):
        return nn.functional.interpolate(self.layers(x), size=size)


def test_transforms_of_the_caller_are_given_again(make_distpro, images, path):
    clf = make_distpro(transforms=["conv1", own_transform]).fit(*images)
    with pytest.warns(UserWarning, match="Not saved, .*: transforms"):
        clf.save(path)
    with pytest.raises(ValueError, match=r"transforms that were given as callables.*transforms=\[\.\.\.\]"):
        DistProClassifier.load(path, student=ConvNet)
    again = DistProClassifier.load(path, student=ConvNet, transforms=["conv1", own_transform])
    assert_same(again, clf, *images)


def test_each_estimator_loads_its_own(fitted, make_distpro, images, path):
    fitted.save(path)
    with pytest.raises(ValueError, match=r"load it with DistilledClassifier\.load"):
        DistProClassifier.load(path)
    make_distpro().fit(*images).save(path)
    with pytest.raises(ValueError, match=r"load it with DistProClassifier\.load"):
        DistilledClassifier.load(path, student=ConvNet)


# --------------------------------------------------------------------------------------
# Not written


def files(folder):
    return [file.name for file in folder.iterdir()]


def test_unfitted(make, path):
    with pytest.raises(NotFittedError):
        make().save(path)


@pytest.mark.parametrize("name", ["model.pkl", "model"])
def test_unknown_suffix(name, fitted, tmp_path):
    with pytest.raises(ValueError, match=r"end it in '\.safetensors'"):
        fitted.save(tmp_path / name)


def test_history_is_true_or_false(fitted, path):
    with pytest.raises(ValueError, match="history='no' must be True or False"):
        fitted.save(path, history="no")


def test_folder_that_is_not_there(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        fitted.save(tmp_path / "nowhere" / "model.safetensors")


def test_labels_without_a_form(make, digits, path):
    clf = make(meta="none").fit(*digits)
    for labels in (np.arange(10).astype("datetime64[D]"), np.array([b"%d" % i for i in range(10)])):
        clf.classes_ = labels
        with pytest.raises(TypeError, match=r"y had labels of dtype .* which cannot be written as JSON"):
            clf.save(path)
    assert files(path.parent) == []


def test_state_that_is_no_tensor(make, digits, path):
    clf = make(meta="none", student=StatefulStudent).fit(*digits)
    with pytest.raises(TypeError, match="_extra_state"):
        clf.save(path)
    assert files(path.parent) == []


def test_tensor_without_a_form(make, digits, path):
    clf = make(meta="none").fit(*digits)
    clf.student_.register_buffer("odd", torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match=r"does not support sparse and quantized tensors.*student\.odd"):
        clf.save(path)
    assert files(path.parent) == []


def test_student_that_is_no_longer_what_was_fitted(make, digits, path):
    clf = make(meta="none", student__hidden=8).fit(*digits)
    clf.save(path)
    before = path.read_bytes()
    clf.set_params(student__hidden=9)
    with pytest.raises(
        ValueError, match=r"was not written, because it could not be loaded again: .*\(8, 64\)"
    ):
        clf.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_failure_leaves_the_old_file(function, fitted, path, monkeypatch):
    fitted.save(path)
    before = path.read_bytes()

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(function, fails)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(path)
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]


def test_link_stays_a_link(fitted, path, tmp_path):
    target = tmp_path / "target.safetensors"
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("needs links")
    fitted.save(path)
    assert path.is_symlink() and target.stat().st_size


def test_missing_package_is_named(fitted, path, monkeypatch):
    fitted.save(path)
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"Loading .* safetensors.*sklearn-kd\[export\]"):
        DistilledClassifier.load(path)
    with pytest.raises(ImportError, match=r"Saving .* safetensors.*sklearn-kd\[export\]"):
        fitted.save(path)


def test_metadata_are_json(fitted, path):
    fitted.save(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert metadata["kind"] == "sklearn_kd.estimator" and metadata["format_version"] == "2"
    about = json.loads(metadata["about"])
    assert about["estimator"] == "DistilledClassifier"
    assert about["params"]["student"] == {"student": "MLPStudent"}
    assert about["params"]["student__hidden"] == {"tuple": [8, 6]}
    assert "teacher" not in about["params"]


def test_a_file_of_format_1_has_the_defaults_of_its_time(path, digits, monkeypatch):
    """An MLPStudent was 32 wide, and nothing was standardised: the file does not say so."""
    settings = {"meta": "none", "max_epochs": 1, "device": "cpu", "student__hidden": 32}
    clf = DistilledClassifier(None, MLPStudent, standardize=False, **settings).fit(*digits)
    about, tensors = content_of(clf, path)
    for name in ("student__hidden", "standardize", "teacher_logits_dtype"):
        del about["params"][name]
    monkeypatch.setattr(_container, "FORMAT_VERSION", 1)
    write(path, about, tensors)
    monkeypatch.undo()
    loaded = DistilledClassifier.load(path)
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), clf.predict_proba(digits[0]))
    again = clone(loaded).fit(*digits).student_
    assert type(again) is MLPStudent and again.layers[1].out_features == 32
    assert DistilledClassifier.load(path, standardize=True).standardize


# --------------------------------------------------------------------------------------
# Small files


def test_files_and_pickles_of_a_small_student(path):
    """What the training recorded is compressed, or left out."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:400] / 16, y[:400]
    settings = {"max_epochs": 200, "batch_size": 128, "device": "cpu", "random_state": 0}
    clf = DistilledClassifier(None, MLPStudent, student__hidden=16, meta="none", **settings).fit(X, y)
    weights = sum(w.nbytes for w in clf.student_.parameters())
    records = clf.metaparameter_path_.nbytes + len(json.dumps(clf.history_.to_list()))
    clf.save(path)
    assert path.stat().st_size < 2 * weights + 0.15 * records
    assert len(pickle.dumps(clf)) < 6 * weights + 0.15 * records
    clf.save(path, history=False)
    assert path.stat().st_size < 2 * weights


@pytest.mark.parametrize(
    "params", [{}, {"optimizer": "SGD", "optimizer__momentum": 0.9}, {"meta": Random(n_trials=3)}]
)
def test_pickles_hold_the_weights_once_and_no_moments_of_them(params, digits):
    """Those of Adam are twice the weights. A fit that goes on from the student begins without them."""
    X, y = digits
    logits = 4.0 * np.eye(10)[y]
    clf = DistilledClassifier(
        None, MLPStudent, **{"meta": "fixed", "max_epochs": 2, "device": "cpu", "random_state": 0} | params
    ).fit(X, y, teacher_logits=logits)
    weights = sum(w.nbytes for w in clf.student_.parameters())
    assert len(pickle.dumps(clf)) < 1.4 * weights
    goes_on = pickle.loads(pickle.dumps(clf)).set_params(warm_start=True)
    clf.set_params(warm_start=True).fit(X, y, teacher_logits=logits)
    goes_on.fit(X, y, teacher_logits=logits)
    np.testing.assert_array_equal(goes_on.predict_proba(X), clf.predict_proba(X))


def test_without_history(fitted, path, digits):
    fitted.save(path, history=False)
    again = DistilledClassifier.load(path)
    np.testing.assert_array_equal(again.predict_proba(digits[0]), fitted.predict_proba(digits[0]))
    assert again.n_iter_ == fitted.n_iter_ and again.lambda1_ == fitted.lambda1_
    assert len(again.history_) == len(again.metaparameter_path_) == 0
    assert again.metaparameter_path_.dtype == fitted.metaparameter_path_.dtype
    again.set_params(warm_start=True, meta="naive", max_epochs=1)
    again.fit(*digits, teacher_logits=3 * np.eye(10)[digits[1]])
    assert again.n_iter_ == fitted.n_iter_ + len(again.metaparameter_path_)
    assert again.metaparameter_path_["iteration"].tolist() == list(range(fitted.n_iter_, again.n_iter_))
    again.save(path)  # a path that is a part of all iterations
    assert DistilledClassifier.load(path).n_iter_ == again.n_iter_


def test_files_of_format_1(fitted, path, monkeypatch):
    """Nothing is compressed in them, and the history is a list of rows."""

    def rows_of(history, name, lost):
        rows = encode_history(history, JSON_VALUES, lambda *_: None)
        return {name: torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)}

    monkeypatch.setattr(_save_load, "history_tensors", rows_of)
    monkeypatch.setattr(_container, "compress_tensors", lambda tensors: (tensors, {}))
    monkeypatch.setattr(_container, "FORMAT_VERSION", 1)
    fitted.save(path)
    again = DistilledClassifier.load(path)
    assert list(again.history_) == list(fitted.history_)
    assert again.metaparameter_path_.tobytes() == fitted.metaparameter_path_.tobytes()


def test_a_pickle_has_the_records(fitted, digits):
    again = pickle.loads(pickle.dumps(fitted))
    assert repr(again.history_) == repr(fitted.history_)
    assert again.metaparameter_path_.tobytes() == fitted.metaparameter_path_.tobytes()
    assert again.net_.module is again.student_
    np.testing.assert_array_equal(again.predict_proba(digits[0]), fitted.predict_proba(digits[0]))
