"""Whole fits with a loss of one's own: learned by every strategy, shown, saved, resumed, searched."""

import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from helpers.own_losses import LOSSES, Classwise, Decoupled, Smoothed
from helpers.parameter_ids import in_words
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent, compare_methods, meta
from sklearn_kd.losses import DistillationLoss, Metaparameter

X, y = load_digits(return_X_y=True)
X, y = (X[:300] / 16).astype(np.float32), y[:300]


@pytest.fixture(scope="module")
def teacher_logits():
    return LogisticRegression(C=10).fit(X, y).predict_log_proba(X)


def distilled(loss, **params):
    sgd = {"optimizer": "SGD", "lr": 0.1, "max_epochs": 3, "batch_size": 50}
    params = SINGLE_RUN | sgd | {"random_state": 0, "device": "cpu"} | params
    return DistilledClassifier(None, MLPStudent, student__hidden=16, loss=loss, **params)


def assert_equal_tables(a, b):
    assert a.dtype == b.dtype
    for column in a.dtype.names:
        np.testing.assert_array_equal(a[column], b[column])


@pytest.mark.parametrize("strategy", ["gradient", "linear", "fixed", "random", "hyperopt", "naive", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_strategy_takes_every_loss(name, strategy, teacher_logits):
    loss = LOSSES[name]()
    entries = loss.metaparameters(10)
    clf = distilled(loss, meta=strategy, e1=4, e2=4).fit(X, y, teacher_logits=teacher_logits)
    path = clf.metaparameter_path_
    assert path.dtype.names == ("iteration", *entries, "val_loss", "predicted", "search")
    for key, entry in entries.items():
        assert path[key].shape == (clf.n_iter_, *entry.shape)
        np.testing.assert_array_equal(path[key][-1], clf.metaparameters_[key])
        low, high = entry.bounds
        assert (path[key] >= low).all() and (path[key] <= high).all()
        moved = not np.array_equal(path[key][-1], np.broadcast_to(entry.start, entry.shape))
        assert moved == (strategy in ("gradient", "linear", "random", "hyperopt"))
    assert path["predicted"].any() == (strategy == "linear")
    if strategy == "hyperopt":
        assert clf.trials_.dtype.names == (*entries, "val_loss", "seconds") and len(clf.trials_) == 5
        best = clf.trials_[clf.trials_["val_loss"].argmin()]
        for key in entries:
            np.testing.assert_array_equal(best[key], clf.metaparameters_[key])


def test_without_distillation_the_loss_is_that_of_the_labels():
    own = distilled(Decoupled(), meta="none").fit(X, y)
    kd = distilled("kd", meta="none").fit(X, y)
    np.testing.assert_array_equal(own.predict_proba(X), kd.predict_proba(X))


def test_a_strategy_without_a_teacher_leaves_given_logits_alone(teacher_logits):
    alone = distilled(Classwise(), meta="none").fit(X, y)
    given = distilled(Classwise(), meta="none").fit(X, y, teacher_logits=teacher_logits)
    np.testing.assert_array_equal(given.predict_proba(X), alone.predict_proba(X))


def test_gradient_learns_to_trust_the_labels_of_the_classes_whose_teacher_is_wrong(teacher_logits):
    wrong = teacher_logits.copy()
    wrong[:, :5] = np.roll(wrong[:, :5], 1, axis=1)  # the teacher mistakes the first five classes
    given = {"max_epochs": 30, "lr": 0.3, "validation_fraction": 0.3}
    clf = distilled(Classwise(), meta="gradient", **given).fit(X, y, teacher_logits=wrong)
    trust = clf.metaparameters_["trust"]
    assert trust[:5].mean() > trust[5:].mean() + 0.1
    fixed = distilled(Classwise(), meta="fixed", **given).fit(X, y, teacher_logits=wrong)
    assert clf.score(X, y) > fixed.score(X, y) + 0.2


def test_the_history_records_the_numbers(teacher_logits):
    clf = distilled(Decoupled(), meta="gradient").fit(X, y, teacher_logits=teacher_logits)
    assert clf.history_[-1, "alpha"] == clf.metaparameters_["alpha"]
    assert not hasattr(clf, "lambda1_")


@pytest.mark.parametrize("name", LOSSES)
def test_a_fit_is_saved_loaded_and_pickled(name, teacher_logits, tmp_path):
    loss = LOSSES[name]()
    clf = distilled(loss, meta="hyperopt").fit(X, y, teacher_logits=teacher_logits)
    with pytest.warns(UserWarning, match="Not saved, .*: loss"):
        clf.save(tmp_path / "clf.safetensors")
    again = DistilledClassifier.load(tmp_path / "clf.safetensors", loss=loss)
    without = DistilledClassifier.load(tmp_path / "clf.safetensors")
    for other in (again, without, pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(other.predict_proba(X), clf.predict_proba(X))
        assert_equal_tables(other.metaparameter_path_, clf.metaparameter_path_)
        assert_equal_tables(other.trials_, clf.trials_)
        for key, value in clf.metaparameters_.items():
            np.testing.assert_array_equal(other.metaparameters_[key], value)


class Killed(Callback):
    """Ends the process, as it were, at the begin of the third epoch."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            raise MemoryError("killed")


@pytest.mark.parametrize("name", LOSSES)
def test_a_killed_fit_ends_as_it_would_have(name, teacher_logits, tmp_path):
    given = {"meta": "linear", "e1": 4, "e2": 4, "checkpoint_dir": tmp_path}
    whole = distilled(LOSSES[name](), **(given | {"checkpoint_dir": None}))
    whole.fit(X, y, teacher_logits=teacher_logits)
    killed = distilled(LOSSES[name](), callbacks=[("killed", Killed())], **given)
    with pytest.raises(MemoryError):
        killed.fit(X, y, teacher_logits=teacher_logits)
    resumed = distilled(LOSSES[name](), **given)
    resumed.fit(X, y, teacher_logits=teacher_logits)
    assert_equal_tables(resumed.metaparameter_path_, whole.metaparameter_path_)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def test_warm_start_goes_on_with_the_metaparameters(teacher_logits):
    clf = distilled(Classwise(), meta="gradient", warm_start=True).fit(X, y, teacher_logits=teacher_logits)
    n, trust = clf.n_iter_, clf.metaparameters_["trust"].copy()
    clf.fit(X, y, teacher_logits=teacher_logits)
    assert clf.n_iter_ == 2 * n
    assert np.abs(clf.metaparameter_path_["trust"][n] - trust).max() < 0.1


class Reordered(Classwise):
    def metaparameters(self, n_classes):
        return dict(reversed(super().metaparameters(n_classes).items()))


class OneTrust(Classwise):
    def metaparameters(self, n_classes):
        return super().metaparameters(n_classes) | {"trust": Metaparameter(0.5, bounds=(0.0, 1.0))}


@pytest.mark.parametrize("loss", ["kd", Decoupled(), Reordered(), OneTrust()], ids=in_words)
@pytest.mark.parametrize("strategy", ["gradient", "fixed"])
def test_warm_start_refuses_other_metaparameters(loss, strategy, teacher_logits):
    clf = distilled(Classwise(), meta=strategy, max_epochs=1).fit(X, y, teacher_logits=teacher_logits)
    with pytest.raises(
        ValueError, match=r"(?s)^warm_start=True continues.*loss=.*Give the loss of the last fit"
    ):
        clf.set_params(loss=loss, warm_start=True).fit(X, y, teacher_logits=teacher_logits)


@pytest.mark.parametrize("strategy", ["gradient", "linear", "fixed", "random", "hyperopt", "naive", "none"])
def test_a_loss_without_a_teacher(strategy):
    clf = distilled(Smoothed(), meta=strategy).fit(X, y)
    assert clf.teacher_ is None
    assert (clf.metaparameters_["smoothing"] != 0.1) == (strategy not in ("fixed", "naive", "none"))


def test_a_loss_that_can_do_without_a_teacher_takes_a_given_one(teacher_logits):
    class Mixed(Smoothed):
        def loss(self, logits, teacher_logits, labels, *, smoothing):
            own = super().loss(logits, teacher_logits, labels, smoothing=smoothing)
            if teacher_logits is None:
                return own
            return own + torch.nn.functional.mse_loss(logits, teacher_logits, reduction="none").sum(1)

    alone = distilled(Mixed(), standardize=False).fit(X, y)
    taught = distilled(Mixed(), standardize=False).fit(X, y, teacher_logits=teacher_logits)
    assert alone.history_[-1, "train_loss"] < taught.history_[-1, "train_loss"]


def test_comparisons_take_a_loss_without_a_teacher():
    clf = DistilledClassifier(None, MLPStudent, loss=Smoothed(), max_epochs=2, device="cpu", **SINGLE_RUN)
    compared = {"cv": 2, "random_state": 0, "n_jobs": 1, "baseline": "none"}
    found = compare_methods(clf, X, y, methods=("none", "gradient"), **compared)
    assert np.isfinite(found.results_["accuracy"]).all()
    methods = {"none": {"meta": "none"}, "kd": {"loss": "kd"}}
    with pytest.raises(ValueError, match=r"teacher=None leaves nothing to distil by \['kd'\]"):
        compare_methods(clf, X, y, methods=methods, **compared)


def test_parameters_of_the_loss_are_searched():
    grid = {"loss__beta": [0.5, 2.0], "meta__lr": [0.1]}
    params = SINGLE_RUN | {"meta": "gradient", "max_epochs": 2, "device": "cpu"}
    clf = DistilledClassifier(LogisticRegression(C=10), MLPStudent, loss=Decoupled(), **params)
    search = GridSearchCV(clf, grid, cv=2).fit(X, y)
    assert search.best_estimator_.loss.beta in (0.5, 2.0) and clf.loss.beta == 2.0
    assert clone(clf).set_params(loss__beta=0.25).loss.beta == 0.25


def test_comparisons_take_a_loss():
    clf = DistilledClassifier(
        LogisticRegression(C=10), MLPStudent, loss=Decoupled(), max_epochs=2, device="cpu", **SINGLE_RUN
    )
    methods = {"kd": {"loss": "kd", "meta": "fixed"}, "own": {"meta": "gradient"}}
    found = compare_methods(clf, X, y, methods=methods, baseline="kd", cv=2, random_state=0, n_jobs=1)
    own = found.results_["method"] == "own"
    assert (
        np.isnan(found.results_["lambda1"][own]).all() and not np.isnan(found.results_["lambda1"][~own]).any()
    )


def test_the_display_has_a_panel_for_each(teacher_logits):
    pytest.importorskip("matplotlib").use("Agg")
    clf = distilled(Decoupled(), meta="gradient").fit(X, y, teacher_logits=teacher_logits)
    assert len(MetaparameterPathDisplay.from_estimator(clf).axes_) == 3


# --------------------------------------------------------------------------------------
# Wrong input, before any training


def test_a_loss_is_an_object():
    with pytest.raises(ValueError, match=r"loss='hnt' is not known\."):
        distilled("hnt").fit(X, y, teacher_logits=X[:, :10])
    with pytest.raises(TypeError, match=r"loss=Decoupled is a class\. Give an object: Decoupled\(\)\."):
        distilled(Decoupled).fit(X, y, teacher_logits=X[:, :10])


class Unbounded(Smoothed):
    def metaparameters(self, n_classes):
        return {"smoothing": Metaparameter(0.1)}


class WithoutStart(Smoothed):
    def metaparameters(self, n_classes):
        return {"smoothing": Metaparameter(bounds=(0.0, 0.9))}


def test_a_metaparameter_needs_a_start():
    with pytest.raises(
        ValueError, match="'smoothing' of the loss has no start value, and DistilledClassifier has start"
    ):
        distilled(WithoutStart()).fit(X, y, teacher_logits=X[:, :10])


@pytest.mark.parametrize("strategy", ["random", "hyperopt"])
def test_draws_need_bounds(strategy):
    with pytest.raises(
        ValueError, match=r"'smoothing' has bounds=\(-inf, inf\), from which nothing can be drawn"
    ):
        distilled(Unbounded(), meta=strategy).fit(X, y, teacher_logits=X[:, :10])


class Constant(DistillationLoss):
    def metaparameters(self, n_classes):
        return {}

    def loss(self, logits, teacher_logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def test_nothing_to_learn_is_said():
    for strategy in (meta.Gradient(), meta.Hyperopt(), meta.Random(n_trials=2)):
        expected = f"{type(strategy).__name__} has no metaparameter to learn"
        with pytest.raises(ValueError, match=expected):
            distilled(Constant(), meta=strategy).fit(X, y, teacher_logits=X[:, :10])
    assert distilled(Constant(), meta="fixed").fit(X, y, teacher_logits=X[:, :10]).metaparameters_ == {}


@pytest.mark.parametrize(
    "name", ["iteration", "val_loss", "not a name", "epoch", "batches", "train_loss", "valid_loss", "labels"]
)
def test_names_must_be_names_of_columns(name):
    class Named(Smoothed):
        def metaparameters(self, n_classes):
            return {name: Metaparameter(0.1)}

    with pytest.raises(ValueError, match="cannot be the name of a metaparameter"):
        distilled(Named()).fit(X, y, teacher_logits=X[:, :10])


def test_all_columns_of_the_history_are_reserved(teacher_logits):
    clf = distilled(Smoothed(), meta="gradient").fit(X, y, teacher_logits=teacher_logits)
    columns = {name for name in clf.history_[-1] if not name.endswith("_best")} - {"smoothing"}
    for name in columns:
        with pytest.raises(ValueError, match="cannot be the name of a metaparameter"):
            meta.MetaparameterSpace({name: Metaparameter(0.1)})


@pytest.mark.parametrize("returned", [None, ["weight"]])
def test_metaparameters_are_a_dict(returned):
    class Listed(Smoothed):
        def metaparameters(self, n_classes):
            return returned

    with pytest.raises(TypeError, match=r"metaparameters\(n_classes\) returned \w+; it must return a dict"):
        distilled(Listed()).fit(X, y)


def test_a_strategy_that_names_another_is_refused(teacher_logits):
    class Wrong(meta.Strategy):
        learns_from_validation = True

        def start(self, context):
            context.evaluate(gamma=1.0)

    with pytest.raises(ValueError, match=r"'gamma' is not a metaparameter of this fit; there are \['alpha'"):
        distilled(Decoupled(), meta=Wrong()).fit(X, y, teacher_logits=teacher_logits)


def test_lambda1_beside_a_loss_without_it_has_no_effect(teacher_logits):
    with pytest.warns(UserWarning, match="Without effect: lambda1=0.9 with loss="):
        distilled(Decoupled(), lambda1=0.9).fit(X, y, teacher_logits=teacher_logits)


# --------------------------------------------------------------------------------------
# Losses and strategies of unusual kinds


class Prior(DistillationLoss):
    """A weight for each class, which starts at a parameter of the loss."""

    def __init__(self, prior=None, name="prior", bounds=(0.0, 5.0), group="loss"):
        self.prior, self.name, self.bounds, self.group = prior, name, bounds, group

    def metaparameters(self, n_classes):
        entry = Metaparameter(self.prior, shape=(n_classes,), bounds=self.bounds, group=self.group)
        return {self.name: entry}

    def loss(self, logits, teacher_logits, labels, **values):
        (prior,) = values.values()
        distance = (logits.softmax(1) - teacher_logits.softmax(1)).square().sum(1)
        return F.cross_entropy(logits, labels, reduction="none") + prior[labels] * distance


class Sharpened(DistillationLoss):
    """A loss of the labels alone."""

    needs_teacher = False

    def metaparameters(self, n_classes):
        return {"sharpness": Metaparameter(1.0, bounds=(0.1, 5.0))}

    def loss(self, logits, teacher_logits, labels, *, sharpness):
        assert teacher_logits is None
        return F.cross_entropy(logits * sharpness, labels, reduction="none")


def test_a_start_may_have_the_number_of_classes(teacher_logits):
    start = np.linspace(0.5, 1.5, 10)
    clf = distilled(Prior(start), meta="fixed").fit(X, y, teacher_logits=teacher_logits)
    np.testing.assert_array_equal(clf.metaparameters_["prior"], start)


def test_a_loss_that_needs_no_teacher_is_learned_without():
    clf = distilled(Sharpened(), meta="gradient").fit(X, y)
    assert clf.metaparameters_["sharpness"] != 1.0 and clf.teacher_ is None


def test_every_group_takes_the_steps_of_the_strategy(teacher_logits):
    paths = [
        distilled(Prior(1.0, group=group), meta="gradient", meta__lr=0.01)
        .fit(X, y, teacher_logits=teacher_logits)
        .metaparameter_path_
        for group in ("loss", "another")
    ]
    assert_equal_tables(*paths)


def test_a_loss_that_changes_its_arguments_leaves_the_data_alone(teacher_logits):
    class Changing(Prior):
        def loss(self, logits, teacher_logits, labels, **values):
            teacher_logits.mul_(0.5)
            return super().loss(logits, teacher_logits, labels, **values)

    class Unchanging(Prior):
        def loss(self, logits, teacher_logits, labels, **values):
            return super().loss(logits, teacher_logits * 0.5, labels, **values)

    paths = [
        distilled(loss(1.0), meta="gradient", iterator_train__shuffle=False)
        .fit(X, y, teacher_logits=teacher_logits)
        .metaparameter_path_
        for loss in (Changing, Unchanging)
    ]
    assert_equal_tables(*paths)


@pytest.mark.parametrize("name", ["lr", "loss", "fit"])
def test_only_the_estimators_own_starts_serve_a_loss(name, teacher_logits):
    with pytest.raises(ValueError, match=f"'{name}' of the loss has no start"):
        distilled(Prior(name=name)).fit(X, y, teacher_logits=teacher_logits)


def test_a_random_start_needs_finite_bounds(teacher_logits):
    with pytest.raises(ValueError, match="has bounds=\\(0, inf\\), from which nothing can be drawn"):
        distilled(Prior("random", bounds=(0.0, np.inf))).fit(X, y, teacher_logits=teacher_logits)


def test_a_lambda1_of_ones_own_may_be_large(teacher_logits, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    loss = Prior(1.5, name="lambda1", bounds=(0.0, 2.0))
    clf = distilled(loss, meta="gradient").fit(X, y, teacher_logits=teacher_logits)
    with pytest.warns(UserWarning, match="Not saved, .*loss"):
        clf.save(tmp_path / "clf.safetensors")
    again = DistilledClassifier.load(tmp_path / "clf.safetensors", loss=loss)
    assert_equal_tables(again.metaparameter_path_, clf.metaparameter_path_)
    (panel,) = MetaparameterPathDisplay.from_estimator(clf).axes_
    assert panel.get_ylim()[1] > clf.metaparameters_["lambda1"].max()


def test_an_estimator_loaded_without_its_loss_can_be_saved_again(teacher_logits, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    clf = distilled(Prior(1.0), meta="gradient").fit(X, y, teacher_logits=teacher_logits)
    with pytest.warns(UserWarning, match="Not saved, .*loss"):
        clf.save(tmp_path / "first.safetensors")
    with pytest.warns(UserWarning, match="Not saved, .*loss"):
        DistilledClassifier.load(tmp_path / "first.safetensors").save(tmp_path / "second.safetensors")
    again = DistilledClassifier.load(tmp_path / "second.safetensors")
    assert_equal_tables(again.metaparameter_path_, clf.metaparameter_path_)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    with pytest.warns(UserWarning, match=r"does not hold \['loss'\]; fit uses loss='kd'\. Give load or set_"):
        again.fit(X, y, teacher_logits=teacher_logits)
    with warnings.catch_warnings(record=True) as caught:
        again.fit(X, y, teacher_logits=teacher_logits)  # by now it has its own loss, "kd"
        DistilledClassifier.load(tmp_path / "first.safetensors", loss=Prior(1.0)).fit(
            X, y, teacher_logits=teacher_logits
        )
    assert not [w for w in caught if "does not hold" in str(w.message)]


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ({"smoothness": 0.1}, ValueError, "Starts.start: 'smoothness' is not a metaparameter of this fit"),
        ({"smoothing": [0.1, 0.2]}, ValueError, r"Starts.start: smoothing has shape \(2,\)"),
        ({"smoothing": np.nan}, ValueError, "Starts.start: smoothing=nan must be finite"),
        (None, TypeError, "Starts.start: got NoneType; values of metaparameters must be a dict by name"),
    ],
)
def test_wrong_starts_of_a_strategy_are_refused(start, error, message, teacher_logits):
    class Starts(meta.Strategy):
        def start(self, context):
            return start

    with pytest.raises(error, match=message):
        distilled(Smoothed(), meta=Starts()).fit(X, y, teacher_logits=teacher_logits)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (), (1, 1, 2)])
def test_a_prediction_of_another_shape_is_refused(shape, teacher_logits):
    class Predicts(meta.Strategy):
        def predict(self, metaparameters):
            return torch.ones(shape)

    with pytest.raises(ValueError, match=r"it must return shape \(2,\), or \(k, 2\) for k iterations"):
        distilled("kd", meta=Predicts()).fit(X, y, teacher_logits=teacher_logits)


@pytest.mark.parametrize("what", ["hypergradient", "trials"])
def test_a_strategy_that_holds_out_nothing_cannot_learn_from_it(what, teacher_logits):
    class Learns(meta.Strategy):
        def takes_hypergradient(self, iteration):
            return what == "hypergradient"

        def start(self, context):
            return {} if what == "hypergradient" else {"lambda1": context.evaluate()}

    with pytest.raises(ValueError, match="Set learns_from_validation = True in its class, or give fit X_val"):
        distilled("kd", meta=Learns()).fit(X, y, teacher_logits=teacher_logits)


def test_a_strategy_without_teacher_moves_nothing_in_a_loss_that_needs_one():
    class Alone(meta.Gradient):
        needs_teacher = False

    clf = distilled(Prior(1.0), meta=Alone()).fit(X, y)
    np.testing.assert_array_equal(clf.metaparameters_["prior"], np.ones(10))


class Hot(DistillationLoss):
    """Names its metaparameters as "kd" does, with starts and bounds of its own."""

    def metaparameters(self, n_classes):
        return {
            "temperature": Metaparameter(25.0, bounds=(20.0, 50.0), coordinate="log"),
            "lambda1": Metaparameter(3.0, bounds=(2.0, 5.0)),
        }

    def loss(self, logits, teacher_logits, labels, *, temperature, lambda1):
        soft = F.cross_entropy(logits, (teacher_logits / temperature).softmax(1), reduction="none")
        return lambda1 * F.cross_entropy(logits, labels, reduction="none") + soft


@pytest.mark.parametrize("strategy", ["naive", "none", "random", meta.Random(n_trials=3), "hyperopt"])
def test_starts_and_bounds_are_the_losss_own(strategy, teacher_logits):
    clf = distilled(Hot(), meta=strategy).fit(X, y, teacher_logits=teacher_logits)
    assert 20 <= clf.temperature_ <= 50 and 2 <= clf.lambda1_ <= 5
    if strategy in ("naive", "none"):
        assert clf.metaparameters_ == {"temperature": 25.0, "lambda1": 3.0}


def test_hyperopt_tells_a_logarithm_from_another_metaparameter(teacher_logits):
    class Alike(DistillationLoss):
        def metaparameters(self, n_classes):
            return {
                "a": Metaparameter(1.0, bounds=(0.1, 5.0), coordinate="log"),
                "log_a": Metaparameter(0.5, bounds=(0.0, 1.0)),
            }

        def loss(self, logits, teacher_logits, labels, *, a, log_a):
            return a * F.cross_entropy(logits, labels, reduction="none") + log_a * logits.square().sum(1)

    clf = distilled(Alike(), meta="hyperopt", max_epochs=1).fit(X, y, teacher_logits=teacher_logits)
    assert np.abs(clf.trials_["a"] - np.exp(clf.trials_["log_a"])).min() > 1e-6


def test_hyperopt_needs_something_to_choose(teacher_logits):
    class Constant(DistillationLoss):
        def metaparameters(self, n_classes):
            return {}

        def loss(self, logits, teacher_logits, labels):
            return F.cross_entropy(logits, labels, reduction="none")

    with pytest.raises(ValueError, match="Hyperopt has no metaparameter to learn"):
        distilled(Constant(), meta="hyperopt").fit(X, y, teacher_logits=teacher_logits)


def test_methods_without_teacher_are_compared():
    found = compare_methods(distilled(Sharpened()), X, y, methods=["naive", "gradient"], cv=2, n_jobs=1)
    assert np.isfinite(found.summary()["mean"]).all()


def test_nothing_is_left_of_a_fit_with_another_loss(teacher_logits):
    clf = distilled("kd", meta="fixed").fit(X, y, teacher_logits=teacher_logits)
    assert clf.lambda1_ == 0.5
    clf.set_params(loss=Smoothed()).fit(X, y, teacher_logits=teacher_logits)
    assert not hasattr(clf, "lambda1_") and not hasattr(clf, "temperature_")
