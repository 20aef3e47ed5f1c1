"""Every kind of teacher, aligned with rows and classes."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_kd import MLPStudent
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers._logit_checks import log_probabilities
from sklearn_kd.teachers._registry import make_teacher


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5), nn.BatchNorm1d(10))


@pytest.fixture
def net(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NeuralNetClassifier(
            MLPStudent, module__in_features=64, module__n_classes=10, criterion=nn.CrossEntropyLoss,
            max_epochs=5, lr=0.1, batch_size=32, verbose=0, train_split=None,
        )  # fmt: skip
        return net.fit(digits[0], digits[1].astype(np.int64))


def logits_of(teacher, X, y, classes=None):
    wrapped = make_teacher(teacher)
    wrapped.fit(X, y, sample_weight=None, rng=np.random.RandomState(0))
    classes = np.unique(y) if classes is None else classes
    data = DistillationData(torch.as_tensor(np.asarray(X, np.float32)))
    return torch.cat([*wrapped.iter_logits(X, data, classes, 64)]).numpy()


@pytest.mark.filterwarnings("ignore:The student learned nothing")  # an untrained module teaches little
def test_all_kinds_in_a_fit(make, digits, logits, module, net):
    """Without label loss the student can only have learned from the teacher."""
    X, y = digits
    kinds = {
        "estimator": RandomForestClassifier(n_estimators=10),
        "frozen": FrozenEstimator(LogisticRegression(max_iter=200).fit(X, y)),
        "skorch": net,
        "frozen skorch": FrozenEstimator(net),
        "module": module,
    }
    for name, teacher in kinds.items():
        clf = make(
            teacher, meta="fixed", lambda1=0.0, max_epochs=20, optimizer__momentum=0.9, keep_teacher=True
        ).fit(X, y)
        said = logits_of(teacher, X, y).argmax(axis=1)
        agreement = (clf.predict(X) == said).mean()
        assert agreement > 0.75, (name, agreement)
        assert clf.teacher_ is not None
    assert make(keep_teacher=True).fit(X, y, teacher_logits=logits).teacher_ is None


def test_zeros_of_a_forest_are_half_a_vote(digits):
    X, y = digits
    forest = RandomForestClassifier(n_estimators=100, random_state=0).fit(X, y)
    logits, proba = logits_of(FrozenEstimator(forest), X, y), forest.predict_proba(X)
    np.testing.assert_allclose(logits[proba == 0], np.log(0.005), rtol=1e-5)
    np.testing.assert_allclose(np.exp(logits[proba > 0]), proba[proba > 0], rtol=1e-5)


@pytest.mark.parametrize(("smallest", "floor"), [(1.0, 1e-2), (0.02, 1e-2), (1e-3, 5e-4), (1e-30, 1e-7)])
def test_floor_of_probabilities(smallest, floor):
    logits = log_probabilities(np.array([[0.0, smallest], [0.0, 1.0]]))
    np.testing.assert_allclose(
        logits, np.log([[floor, max(smallest, floor)], [floor, 1]]), rtol=1e-6, atol=1e-6
    )


def test_module_is_left_as_it_is_and_seen_in_eval_mode(digits, module):
    X, y = digits
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first, second = (logits_of(module, X, y) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert all(part.training for part in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(w.grad is None for w in module.parameters())


def test_skorch_logits(digits, net):
    X, y = digits
    with torch.no_grad():
        expected = net.module_.eval()(torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(logits_of(net, X, y), expected, rtol=1e-5, atol=1e-6)


def test_teacher_weights_are_in_no_optimizer(make, digits, module):
    clf = make(module).fit(*digits)
    trained = {id(w) for group in clf.net_.optimizer_.param_groups for w in group["params"]}
    assert not trained & {id(w) for w in module.parameters()}


def test_networks_are_shared_by_clones_and_folds(make, digits, module, net):
    for teacher in (module, net, FrozenEstimator(net)):
        assert clone(make(teacher)).teacher is teacher
        scores = cross_val_score(make(teacher), *digits, cv=2, error_score="raise")
        assert np.isfinite(scores).all()
    forest = RandomForestClassifier()
    assert clone(make(forest)).teacher is not forest
    with_request = make(module).set_params(lr=0.3)
    assert clone(with_request).lr == 0.3


@pytest.mark.parametrize("labels", [np.arange(10), np.array([f"class {i}" for i in range(10)])])
def test_columns_follow_the_labels(digits, labels):
    """A teacher that knows more classes, in another order, gives the columns of y's."""
    X, y = digits
    y = labels[y]
    some = np.isin(y, labels[[1, 4, 7]])
    teacher = LogisticRegression(max_iter=200).fit(X, y)
    logits = logits_of(FrozenEstimator(teacher), X[some], y[some])
    np.testing.assert_allclose(logits, teacher.predict_log_proba(X[some])[:, [1, 4, 7]], atol=1e-3)


def test_module_on_a_fold_that_lacks_a_class(digits, module):
    X, y = digits
    some, names = y != 3, np.array([f"class {i}" for i in range(10)])
    everything = logits_of(module, X, y)[some]
    for labels in (np.arange(10), names):
        with pytest.raises(ValueError, match="which column is which class is not known"):
            logits_of(module, X[some], labels[y[some]])
    module.classes_ = np.arange(10)
    logits = logits_of(module, X[some], y[some])
    np.testing.assert_allclose(logits, np.delete(everything, 3, axis=1), rtol=1e-5)
    module.classes_ = names
    np.testing.assert_allclose(logits_of(module, X[some], names[y[some]]), logits)


def test_class_without_weight_gets_the_floor(digits):
    X, y = digits
    kept = y != 3
    wrapped = make_teacher(LogisticRegression(max_iter=200))
    wrapped.fit(X[kept], y[kept], sample_weight=None, rng=np.random.RandomState(0))
    (logits,) = wrapped.iter_logits(X, DistillationData(torch.as_tensor(X)), np.arange(10), 64)
    assert logits[:, 3].max() == logits.min()


def test_open_seeds_of_the_teacher_follow_random_state(make, digits):
    teacher = CalibratedClassifierCV(RandomForestClassifier(n_estimators=3), cv=2)
    made = [make(teacher, meta="naive", random_state=s, keep_teacher=True) for s in (0, 0, 1)]
    fitted = [clf.fit(*digits).teacher_ for clf in made]
    proba = [clf.predict_proba(digits[0]) for clf in fitted]
    np.testing.assert_array_equal(proba[0], proba[1])
    assert (proba[0] != proba[2]).any()
    assert teacher.estimator.random_state is None


def test_container_reaches_the_teacher(make, digits):
    """A teacher fitted on a frame warns when it is shown an array."""
    X = pd.DataFrame(digits[0]).rename(columns=str)
    clf = make(FrozenEstimator(LogisticRegression(max_iter=200).fit(X, digits[1])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(X, digits[1])
        assert not caught
        clf.fit(digits[0], digits[1])
        assert any("feature names" in str(warning.message) for warning in caught)


def test_fitted_but_not_frozen_is_said(make, digits):
    with pytest.warns(UserWarning, match="FrozenEstimator"):
        make(DecisionTreeClassifier().fit(*digits)).fit(*digits)


@pytest.mark.parametrize(
    ("teacher", "error", "match"),
    [
        (None, ValueError, "teacher_logits"),
        (LinearRegression(), TypeError, "is none of.*LinearRegression is a regressor: give a classifier"),
        (RandomForestClassifier, TypeError, "not the class"),
        ("forest.pt", TypeError, "is none of.*Load the file"),
        (Path("forest.pt"), TypeError, "Load the file"),
        (nn.Linear(64, 10).state_dict(), TypeError, r"^teacher=OrderedDict.{,900}load_state_dict"),
        (VotingClassifier([("a", LinearSVC())]), ValueError, "CalibratedClassifierCV"),
        ([], TypeError, "is none of.*The list is empty"),
        (FrozenEstimator(LogisticRegression()), ValueError, "not fitted"),
        (NeuralNetClassifier(MLPStudent), ValueError, "has not been fitted.* or give its module_"),
    ],
)
def test_unusable_teachers(teacher, error, match, make, digits):
    with pytest.raises(error, match=match):
        make(teacher).fit(*digits)


def test_teacher_of_other_classes(make, digits):
    X, y = digits
    few = FrozenEstimator(LogisticRegression(max_iter=200).fit(X[y < 5], y[y < 5]))
    with pytest.raises(ValueError, match=r"does not know the class\(es\) \[5, 6, 7, 8, 9\]"):
        make(few).fit(X, y)
    with pytest.raises(ValueError, match="3 columns and does not know all of the 10 classes"):
        make(nn.Linear(64, 3)).fit(X, y)
    with pytest.raises(ValueError, match="logits of shape"):
        make(nn.Sequential(nn.Linear(64, 10), nn.Unflatten(1, (5, 2)))).fit(X, y)


@pytest.mark.parametrize("frozen", [False, True])
def test_images_are_flattened_by_a_step_of_the_teachers(frozen, make, digits):
    """A classifier that takes tables says what to do, and the same step mends it."""
    X, y = digits
    images, tree = X.reshape(-1, 8, 8), DecisionTreeClassifier(random_state=0)
    for teacher, reads in ((tree, False), (make_pipeline(FunctionTransformer(flat), tree), True)):
        given = FrozenEstimator(clone(teacher).fit(images if reads else X, y)) if frozen else teacher
        clf = make(given, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), keep_teacher=True)
        if reads:
            assert clf.fit(images, y).teacher_ is not None
        else:
            with pytest.raises(ValueError, match=r"samples of shape \(8, 8\).*flatten X before it"):
                clf.fit(images, y)


def flat(images):
    return images.reshape(len(images), -1)
