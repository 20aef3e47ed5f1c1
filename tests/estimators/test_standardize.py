"""``standardize=True``: the student of a table starts with a layer that is fitted on D_train."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import nn
from torch.utils.data import TensorDataset

from helpers.settings import SINGLE_RUN
from sklearn_kd import (
    DistilledClassifier,
    DistProClassifier,
    MLPStudent,
    StandardizedStudent,
    layer_table,
)
from sklearn_kd.estimators._classifier_plan import checked_parameters, plan_distillation
from sklearn_kd.estimators._plan import ready_net
from sklearn_kd.estimators._preflight import validate
from sklearn_kd.training._stackable import why_not_stackable
from sklearn_kd.training._stacked import train_stacked

settings = SINGLE_RUN | {
    "optimizer": "SGD",
    "lr": 0.1,
    "meta": "none",
    "max_epochs": 2,
    "batch_size": 32,
    "random_state": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def fitted(wine):
    return DistilledClassifier(None, MLPStudent, **settings).fit(*wine)


def layer_of(clf):
    scaling = clf.student_.scaling
    return scaling.center.numpy(), scaling.factor.numpy()


def test_tables_as_they_come_are_learned():
    X, y = load_breast_cancer(return_X_y=True)
    clf = DistilledClassifier(None, MLPStudent, **settings | {"max_epochs": 20})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit(X[::2], y[::2])
    assert clf.score(X[1::2], y[1::2]) > 0.94
    raw = clf.set_params(standardize=False)
    with pytest.warns(UserWarning):
        assert raw.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) < 0.7
    assert type(raw.student_) is MLPStudent


@pytest.mark.filterwarnings("ignore:X_val is on another scale")  # it is, here
def test_only_d_train_is_looked_at(wine):
    """Rows of D_val, held out or given, leave the layer alone; so do rows of weight 0."""
    X, y = wine
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(X), 3))

    def layer(X, **given):
        clf = DistilledClassifier(None, MLPStudent, **settings | {"meta": "linear", "max_epochs": 1})
        return layer_of(clf.fit(X, y, teacher_logits=logits, **given))

    weight = np.r_[0.0, np.ones(len(X) - 1)]
    changed = X.copy()
    changed[0] *= 2
    for before, after in zip(
        layer(X, sample_weight=weight), layer(changed, sample_weight=weight), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    # A tenth of the rows is held out: changing those changes nothing.
    center = layer(X)[0]
    alike = 0
    for row in range(12):
        changed = X.copy()
        changed[row] += 1
        alike += np.array_equal(layer(changed)[0], center)
    assert 1 <= alike <= 5
    far = layer(X, X_val=X[:20] * 100, y_val=y[:20])
    np.testing.assert_array_equal(
        far[0], layer_of(DistilledClassifier(None, MLPStudent, **settings).fit(X, y))[0]
    )


def test_teacher_and_augment_see_raw_rows(wine):
    X, y = wine
    seen = []

    class Teacher(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x) * 0

    def augment(x):
        seen.append(x.clone())
        return x

    teacher = Teacher(13, 3)
    clf = DistilledClassifier(teacher, MLPStudent, **settings | {"meta": "naive", "max_epochs": 1})
    clf.set_params(augment=augment).fit(X, y)
    rows = {row.tobytes() for row in X}
    assert seen and all(row.numpy().tobytes() in rows for x in seen for row in x if row.any())


def test_one_file_takes_raw_rows(fitted, wine, tmp_path):
    X, _ = wine
    expected = fitted.predict_proba(X)
    fitted.save(tmp_path / "wine.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "wine.safetensors", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    assert loaded.standardize and type(loaded.student_) is StandardizedStudent
    loaded.save(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X), expected)
    np.testing.assert_array_equal(copy.deepcopy(fitted).predict_proba(X), expected)
    rows = torch.tensor(X)
    logits = fitted.student_(rows)
    exported = torch.export.export(fitted.student_, (rows,)).module()
    for network in (exported, torch.jit.script(fitted.student_), torch.fx.symbolic_trace(fitted.student_)):
        torch.testing.assert_close(network(rows), logits)


def test_a_dataset_is_read_once_for_it(fitted, wine):
    X, y = wine
    clf = DistilledClassifier(None, MLPStudent, **settings)
    clf.fit(TensorDataset(torch.tensor(X), torch.tensor(y)))
    for found, expected in zip(layer_of(clf), layer_of(fitted), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_warm_start_keeps_the_layer(wine):
    X, y = wine
    clf = DistilledClassifier(None, MLPStudent, **settings, warm_start=True).fit(X, y)
    before = layer_of(clf)
    clf.fit(X * 2, y)
    assert all(np.array_equal(*pair) for pair in zip(before, layer_of(clf), strict=True))
    clf.set_params(standardize=False).fit(X, y)
    assert all(np.array_equal(*pair) for pair in zip(before, layer_of(clf), strict=True))
    plain = DistilledClassifier(None, MLPStudent, **settings, warm_start=True, standardize=False)
    X = X / X.std(axis=0)
    plain.fit(X, y).set_params(standardize=True).fit(X, y)
    assert type(plain.student_) is MLPStudent
    with pytest.warns(UserWarning, match="warm_start=True continues with a student that has no layer"):
        plain.fit(X * np.r_[1e6, np.ones(12)], y)


def test_a_student_of_another_fit_keeps_its_layer(fitted, wine):
    X, y = wine
    clf = DistilledClassifier(None, fitted.student_, **settings).fit(X * 2, y)
    assert type(clf.student_.student) is MLPStudent
    assert all(np.array_equal(*pair) for pair in zip(layer_of(clf), layer_of(fitted), strict=True))


def test_a_fitted_layer_that_changes_nothing_is_kept(tmp_path):
    """As that of a table of rare ones: its numbers are those of a layer that was just made."""
    X = np.eye(40, 8) + np.eye(40, 8, -8)
    clf = DistilledClassifier(None, MLPStudent, **settings).fit(X, np.arange(40) % 2)
    assert np.array_equal(layer_of(clf), [np.zeros(8), np.ones(8)])
    clf.save(tmp_path / "it.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "it.safetensors")
    for one in (clf, pickle.loads(pickle.dumps(clf)), loaded):
        again = DistilledClassifier(None, one.student_, **settings).fit(7 + 10 * X, np.arange(40) % 2)
        assert np.array_equal(layer_of(again), layer_of(clf))


def test_a_new_standardized_student_has_its_layer_fitted(fitted, wine):
    """One that is as it was made is fitted to D_train, and keeps its own limit."""

    def student(in_features, n_classes, n_columns=13):
        return StandardizedStudent(MLPStudent(in_features, n_classes), n_columns, limit=3.0)

    for given in (student, student(13, 3)):
        clf = DistilledClassifier(None, given, **settings).fit(*wine)
        assert all(np.array_equal(*pair) for pair in zip(layer_of(clf), layer_of(fitted), strict=True))
        assert clf.student_.scaling.limit == 3 and type(clf.student_.student) is MLPStudent
    assert not given.scaling.is_filled  # the user's own stays as it is
    with pytest.warns(UserWarning, match="Set standardize=True"):
        plain = DistilledClassifier(None, student, standardize=False, **settings).fit(*wine)
    assert not plain.student_.scaling.is_filled
    with pytest.raises(ValueError, match=r"its layer has n_features=12. Make it with n_features=13"):
        DistilledClassifier(None, student, student__n_columns=12, **settings).fit(*wine)


class Codes(nn.Module):
    """Looks up the first column, and takes the second as it is."""

    def __init__(self, n_classes, cast):
        super().__init__()
        self.table, self.last, self.cast = nn.Embedding(20, 4), nn.Linear(5, n_classes), cast

    def forward(self, x):
        return self.last(torch.cat([self.table(self.cast(x[:, 0])), x[:, 1:2]], dim=1))


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.long(),
        lambda x: x.to(torch.int32),
        lambda x: torch.bucketize(x.contiguous(), torch.arange(19.0) + 0.5),
    ],
    ids=["long", "int32", "bucketize"],
)
def test_codes_are_left_alone(cast):
    """A student that makes whole numbers of X gets them; scales of the other columns are told of."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(0, 20, 200), rng.normal(size=200)]
    y = (X[:, 0] % 2).astype(int)
    clf = DistilledClassifier(
        None, Codes, student__cast=cast, **settings | {"lr": 0.03, "optimizer": "Adam", "max_epochs": 40}
    )
    assert clf.fit(X, y).score(X, y) == 1 and type(clf.student_) is Codes
    with pytest.warns(UserWarning, match="standardize=True leaves X alone"):
        clf.set_params(max_epochs=1).fit(X * [1, 1e6], y)


def test_images_are_left_alone(wine):
    X = np.random.default_rng(0).normal(size=(40, 1, 8, 8))
    clf = DistilledClassifier(None, MLPStudent, **settings).fit(X, np.arange(40) % 2)
    assert type(clf.student_) is MLPStudent


def test_names_are_those_of_the_users_module(wine):
    """Of weights in skorch's patterns, and of layers."""
    X, y = wine
    groups = [("layers.1.*", {"lr": 0.0}), ("layers.3.*", {"lr": 0.1})]
    clf = DistilledClassifier(None, MLPStudent, **settings, optimizer__param_groups=groups).fit(X, y)
    sizes = [len(group["params"]) for group in clf.net_.optimizer_.param_groups]
    assert sizes[:2] == [2, 2]
    names = [name for name, _ in clf.net_.get_all_learnable_params()]
    assert names == [name for name, _ in clf.student_.student.named_parameters()]


class Folded(nn.Module):
    """Makes images of rows of 64 numbers."""

    def __init__(self, n_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)
        )
        self.head = nn.Linear(4 * 16, n_classes)

    def forward(self, x):
        return self.head(self.body(x.reshape(-1, 1, 8, 8)).flatten(1))


def test_layers_of_distpro(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.uniform(5, 9, size=(60, 64)), np.arange(60) % 2
    layers = {"student_layers": ["body.0", "body.2"], "teacher_layers": ["body.0", "body.2"]}
    clf = DistProClassifier(
        Folded(2), Folded, **layers, transforms=["conv1"], search_epochs=1, max_epochs=1, batch_size=30,
        random_state=0, device="cpu",
    ).fit(X, y)  # fmt: skip
    assert {pathway.student_layer for pathway in clf.pathways_} == {"body.0", "body.2"}
    assert clf.process_.settings["student"] == "Folded"
    np.testing.assert_allclose(clf.student_.scaling.center, X.mean(axis=0), rtol=1e-5)  # of all rows
    assert next(row.layer for row in layer_table(clf, X[:2])) == "body.0"
    clf.save(tmp_path / "a.safetensors")
    loaded = DistProClassifier.load(tmp_path / "a.safetensors", student=Folded, device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    again = clf.set_params(teacher=clf).fit(X, y)  # a teacher with a layer of its own
    assert type(again.student_) is StandardizedStudent


def test_resumed_to_the_bit(wine, tmp_path):
    from skorch.callbacks import Callback

    class Crash(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise RuntimeError("crash")

    X, y = wine
    logits = np.eye(3)[y] * 3
    params = settings | {"meta": "linear", "max_epochs": 4}
    whole = DistilledClassifier(None, MLPStudent, **params).fit(X, y, teacher_logits=logits)
    clf = DistilledClassifier(None, MLPStudent, **params, checkpoint_dir=tmp_path)
    with pytest.raises(RuntimeError, match="crash"):
        clf.set_params(callbacks=[Crash()]).fit(X, y, teacher_logits=logits)
    clf.set_params(callbacks=None)
    resumed = clf.fit(X, y, teacher_logits=logits)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_students_trained_together_have_layers_of_their_own(wine):
    """In one batched run the numbers are those of fits one by one."""
    X, y = wine
    clf = DistilledClassifier(None, MLPStudent, **settings)
    layers, nets, data = [], [], []
    for factor in (1.0, 10.0, 100.0):
        plan = plan_of(clf, X * factor, y)
        nets.append(ready_net(plan, plan.stages[0]))
        data.append(plan.data)
        layers.append(nets[-1].module_.scaling.factor[0].item())
    assert len(set(layers)) == 3 and why_not_stackable(nets, data) is None
    train_stacked(nets, data)
    for net, factor in zip(nets, (1.0, 10.0, 100.0), strict=True):
        alone = copy.deepcopy(clf).fit(X * factor, y)
        rows = torch.tensor(X * np.float32(factor))
        torch.testing.assert_close(net.module_(rows), alone.student_(rows), rtol=1e-3, atol=1e-4)


def plan_of(clf, X, y):
    checked = checked_parameters(clf, X)
    return plan_distillation(clf, checked, validate(clf, X, y))


def test_hypergradients_see_the_layer(wine):
    """The path is that of a student given standardised rows."""
    X, y = wine
    logits = np.eye(3)[y] * 3
    for method in ("finite_difference", "jvp", "exact"):
        params = settings | {"meta": "gradient", "meta__hypergradient": method}
        clf = DistilledClassifier(None, MLPStudent, **params).fit(X, y, teacher_logits=logits)
        with torch.no_grad():
            scaled = clf.student_.scaling(torch.tensor(X)).numpy()
        plain = DistilledClassifier(None, MLPStudent, **params, standardize=False)
        plain.fit(scaled, y, teacher_logits=logits)
        np.testing.assert_array_equal(
            plain.metaparameter_path_["lambda1"], clf.metaparameter_path_["lambda1"]
        )
        np.testing.assert_array_equal(plain.predict_proba(scaled), clf.predict_proba(X))


def test_wrong_value(wine):
    with pytest.raises(ValueError, match="standardize"):
        DistilledClassifier(None, MLPStudent, **settings, standardize="yes").fit(*wine)
