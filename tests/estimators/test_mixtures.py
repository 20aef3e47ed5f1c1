"""Fits by lists of losses: feature terms beside a loss of the outputs."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch import nn

from helpers.networks import ConvNet
from helpers.pages import messages
from helpers.refused_losses import REFUSED_LOSSES, Detached
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    FCNStudent,
    MetaparameterProcess,
    MLPStudent,
    Pathways,
    compare_methods,
)
from sklearn_kd.losses import TERMS, FeatureTerm, Metaparameter
from sklearn_kd.meta import Fixed

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Projected(FeatureTerm):
    """Mean squared difference, behind a convolution that learns."""

    name = "projected"

    def build(self, student, teacher):
        pairs = zip(student, teacher, strict=True)
        return nn.ModuleList(nn.Conv2d(s[0], t[0], 1) for s, t in pairs)

    def loss(self, student, teacher, module):
        triples = zip(student, teacher, module, strict=True)
        return sum(F.mse_loss(own(s), t) for s, t, own in triples)


class Similarity(FeatureTerm):
    """A newcomer's own term, of relations between the rows of a batch."""

    name = "similarity"
    kinds, auto = ("rows", "maps"), "embedding"

    def loss(self, student, teacher, module):
        return F.mse_loss(self.relations(student[0]), self.relations(teacher[0]))

    def relations(self, features):
        rows = F.normalize(features.flatten(1), dim=1)
        return rows @ rows.T


@pytest.fixture
def mixture(conv_teacher):
    def mixture(loss, **params):
        quick = {"meta": "fixed", "max_epochs": 2, "batch_size": 32, "random_state": 0, "device": "cpu"}
        quick |= {"optimizer": torch.optim.SGD, "lr": 0.1}
        return DistilledClassifier(conv_teacher, ConvNet, loss=loss, **(quick | params))

    return mixture


def test_what_a_fit_says(mixture, images):
    clf = mixture(["kd", Projected(2.0), Similarity(3.0, weight_bounds="fixed")], meta="linear", max_epochs=4)
    clf.fit(*images)
    assert set(clf.metaparameters_) == {"projected_weight", "lambda1", "temperature"}
    assert clf.terms_["projected"] == (("stage1", "stage2"), ("stage1", "stage2"), True)
    assert clf.terms_["similarity"].student_layers == ("linear:input:rows",)
    assert all(row["projected_loss"] > 0 and row["similarity_loss"] > 0 for row in clf.history_)
    assert clf.metaparameter_path_["projected_weight"].std() > 0
    assert clf.net_.objective.teacher is None


def test_the_loss_is_the_weighted_sum(mixture, images, conv_teacher):
    """One step over all rows, against torch's own."""
    X, y = images
    settings = {"max_epochs": 1, "batch_size": 160, "lr": 0.05}
    clf = mixture(["kd", Projected(0.5), Similarity(2.0)], lambda1=0.3, temperature=2.0, **settings)
    kept = {}

    class Keep(Callback):
        def on_train_begin(self, net, **kwargs):
            kept["student"] = copy.deepcopy(net.module_)
            kept["projected"] = copy.deepcopy(net.others["projected_term"])

    clf.set_params(callbacks=[Keep()]).fit(X, y)
    student, projected = (kept[name].train().double() for name in ("student", "projected"))
    x, labels, teacher = torch.tensor(X).double(), torch.tensor(y), conv_teacher.eval().double()
    s1 = student.stage1(x)
    s2 = student.stage2(s1)
    t1 = teacher.stage1(x).detach()
    t2 = teacher.stage2(t1).detach()
    z, f = student.linear(s2.mean(dim=(2, 3))), teacher.linear(t2.mean(dim=(2, 3))).detach()
    relations = Similarity().relations
    loss = (
        0.3 * F.cross_entropy(z, labels)
        + 0.7 * 4 * F.cross_entropy(z / 2, (f / 2).softmax(1))
        + 0.5 * (F.mse_loss(projected[0](s1), t1) + F.mse_loss(projected[1](s2), t2))
        + 2.0 * F.mse_loss(relations(s2.mean(dim=(2, 3))), relations(t2.mean(dim=(2, 3))))
    )
    loss.backward()
    assert clf.history_[0]["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    wanted = student.linear.weight.detach() - 0.05 * student.linear.weight.grad
    np.testing.assert_allclose(clf.student_.linear.weight.detach(), wanted, rtol=1e-3, atol=1e-6)


def test_pathways_alone_are_the_search_of_distpro(mixture, images, conv_teacher):
    """DistProClassifier is the special case: its search moves the factors by the same numbers."""
    shared = {"transforms": ["conv1", "conv2"], "importance_lr": 0.1}
    settings = {"search_epochs": 1, "validation_fraction": 0.2, "meta": "gradient", "standardize": False}
    distpro = DistProClassifier(
        conv_teacher, ConvNet, **shared, **settings, max_epochs=1, batch_size=32, random_state=0, device="cpu"
    ).fit(*images)
    clf = mixture([Pathways(**shared)], **settings, max_epochs=1).fit(*images)
    found = clf.process_.values["pathways_importance"][:-1]
    np.testing.assert_allclose(found, distpro.process_.raw[1:], rtol=1e-6)
    assert np.ptp(found) > 0.1


def test_a_term_whose_weight_vanishes_is_left_out(mixture, images):
    class Vanishing(Fixed):
        learns_from_validation = True

        def start(self, context):
            return {"projected_weight": 0.015, "similarity_weight": 0.5}

    clf = mixture(["kd", Projected(), Similarity()], meta=Vanishing(), search_epochs=1).fit(*images)
    assert not clf.terms_["projected"].is_trained and clf.terms_["similarity"].is_trained
    assert "projected_loss" not in clf.history_[-1] and "similarity_loss" in clf.history_[-1]
    assert clf.metaparameters_["projected_weight"] == 0.015


def test_pathways_below_the_threshold_are_left_out(mixture, images):
    searched = mixture([Pathways(transforms=["conv1"])], meta="gradient", search_epochs=1).fit(*images)
    process = copy.deepcopy(searched.process_)
    process.values["pathways_importance"][:] = [0.9, 0.1, 0.6, 0.5]
    clf = mixture([Pathways(transforms=["conv1"])], process=process, meta="shortlist").fit(*images)
    assert clf.history_[-1]["pathways"] == 2.0


@pytest.mark.parametrize("bounds", ["fixed", "auto"])
def test_the_history_of_pathways_is_their_loss_before_the_weight(bounds, mixture, images):
    """The training loss of one step over all rows is that of the labels and of the pathways."""
    alone, scaled = (
        mixture([Pathways(weight, weight_bounds=bounds)], max_epochs=1, batch_size=160).fit(*images)
        for weight in (1e-9, 4.0)
    )
    found = [clf.history_[0]["pathways_loss"] for clf in (alone, scaled)]
    assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0] > 0.01
    more = scaled.history_[0]["train_loss"] - alone.history_[0]["train_loss"]
    assert more == pytest.approx(4.0 * found[0], rel=1e-5)
    assert scaled.history_[0]["pathways"] == 12


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"transforms": ["conv2"]}, r"Only the process has \['student stage 0 to teacher stage 0 by conv1"),
        (
            {"connections": [(0, 0), (0, 1)], "transforms": ["conv1", "conv3"]},
            "has .*teacher stage 1 by conv1",
        ),
        ({"connections": [(1, 1), (1, 0), (0, 1), (0, 0)]}, "Their order differs"),
    ],
)
def test_a_process_of_other_pathways_is_refused(params, message, mixture, images, tmp_path, no_training):
    """As many as those of the process, so that shapes do not tell."""
    ways = [f"student stage {s} to teacher stage {t} by conv1" for t in (0, 1) for s in (0, 1)]
    entry = Metaparameter(1.0, shape=(4,), components=tuple(ways))
    made = MetaparameterProcess({"pathways_importance": np.ones((3, 4))}, {"pathways_importance": entry})
    made.save(tmp_path / "process.npz")
    for process in (made, tmp_path / "process.npz"):
        with pytest.raises(
            ValueError, match=f"process has pathways_importance of other components.*{message}"
        ):
            mixture([Pathways(**{"transforms": ["conv1"], **params})], process=process).fit(*images)


@pytest.mark.parametrize("meta", ["linear", "twins", "random"])
def test_pathways_whose_weight_is_learned_too(meta, mixture, images):
    params = {"meta__n_trials": 2} if meta == "random" else {}
    term = Pathways(transforms=["conv1"], weight_bounds="auto")
    clf = mixture(["kd", term], meta=meta, search_epochs=2, **params).fit(*images)
    assert meta == "twins" or clf.metaparameters_["pathways_weight"] != 1.0
    assert clf.metaparameters_["pathways_importance"].shape == (4,)


def test_without_a_teacher_the_terms_are_left_out(mixture, images):
    alone = mixture("kd", meta="none").fit(*images)
    clf = mixture(["kd", Projected()], meta="none").fit(*images)
    assert clf.terms_ == {}
    np.testing.assert_array_equal(clf.predict_proba(images[0]), alone.predict_proba(images[0]))


def test_an_augmented_batch_is_asked_about_once(mixture, images):
    calls = []
    handle = mixture("kd").teacher.register_forward_hook(lambda *_: calls.append(1))
    clf = mixture(["kd", Projected()], augment=lambda x: x + 0.01, teacher_classes=range(10))
    handle.remove()
    handle = clf.teacher.register_forward_hook(lambda *_: calls.append(1))
    clf.fit(*images)
    n_short = len(calls)
    calls.clear()
    clf.set_params(max_epochs=4).fit(*images)
    handle.remove()
    assert len(calls) - n_short == 2 * 5  # two more epochs of five batches


def test_teacher_logits_beside_features(mixture, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = mixture(["kd", Projected()]).fit(*images, teacher_logits=4 * np.eye(10)[images[1]] - 1)
    other = mixture(["kd", Projected()]).fit(*images)
    assert not np.array_equal(clf.predict_proba(images[0]), other.predict_proba(images[0]))


def test_a_fitted_classifier_teaches_as_it_is(images):
    teacher = DistilledClassifier(None, ConvNet, student__width=6, meta="none", max_epochs=1).fit(*images)
    before = teacher.predict_proba(images[0])
    grid = GridSearchCV(
        DistilledClassifier(teacher, ConvNet, loss=["kd", Similarity()], meta="fixed", max_epochs=1),
        {"loss__similarity__weight": [0.1, 10.0]}, cv=2, error_score="raise",
    )  # fmt: skip
    grid.fit(*images)
    np.testing.assert_array_equal(teacher.predict_proba(images[0]), before)
    assert set(grid.best_estimator_.terms_) == {"similarity"}


def test_a_fitted_classifier_is_asked_about_augmented_batches(images):
    quick = {"max_epochs": 1, "random_state": 0, "device": "cpu", "optimizer": "SGD", "lr": 0.05}
    teacher = DistilledClassifier(None, ConvNet, student__width=6, meta="none", **quick).fit(*images)
    clf = DistilledClassifier(teacher, ConvNet, loss=["kd", Similarity()], meta="fixed", **quick)
    as_they_are = clf.fit(*images).predict_proba(images[0])
    same = clf.set_params(augment=lambda x: 1 * x).fit(*images).predict_proba(images[0])
    np.testing.assert_allclose(same, as_they_are, atol=1e-5)
    with pytest.raises(ValueError, match="teacher DistilledClassifier takes arrays"):
        clf.set_params(loss="kd", teacher=FrozenEstimator(teacher)).fit(*images)


@pytest.mark.parametrize("meta", ["twins", "halving", "hyperopt", "random", "shortlist", "gradient"])
def test_every_strategy_that_can(meta, mixture, images):
    params = {"meta__n_trials": 2} if meta in ("hyperopt", "random") else {}
    clf = mixture(["kd", Similarity()], meta=meta, max_epochs=4, search_epochs=3, **params).fit(*images)
    assert np.isfinite(clf.metaparameters_["similarity_weight"])
    assert 0 < clf.score(*images) <= 1


@pytest.mark.parametrize("meta", ["forward", "implicit"])
def test_strategies_that_cannot_are_refused(meta, mixture, images):
    with pytest.raises(
        ValueError, match="losses of the student's outputs only, but this loss compares features"
    ):
        mixture(["kd", Similarity()], meta=meta).fit(*images)


def test_trials_in_processes_have_the_teacher(mixture, images):
    params = {"meta": "random", "meta__n_trials": 2, "search_epochs": 1}
    alone = mixture(["kd", "reviewkd"], **params).fit(*images)
    spread = mixture(["kd", "reviewkd"], **params, meta__n_jobs=2).fit(*images)
    np.testing.assert_allclose(spread.trials_["val_loss"], alone.trials_["val_loss"], rtol=1e-5)


@pytest.mark.parametrize("name", [*TERMS])
def test_every_term_by_its_name(name, mixture, images):
    clf = mixture(["kd", name], meta="linear", search_epochs=1).fit(*images)
    assert clf.terms_[name].is_trained and np.isfinite(clf.history_[-1][f"{name}_loss"])
    moved = [p for n, p in clf.process_.values.items() if n.startswith(name)]
    assert moved and all(np.ptp(p) > 0 for p in moved)


class Killed(Callback):
    """Ends the fit as a crash does, after some epochs in all trainings."""

    def __init__(self, after=None):
        self.after = after

    def on_epoch_end(self, net, **kwargs):
        if self.after is not None and len(net.history) == self.after:
            raise MemoryError("killed")


@pytest.mark.parametrize("stage", ["search_callbacks", "callbacks"])
def test_a_killed_fit_goes_on_to_the_bit(stage, mixture, images, tmp_path):
    params = {"meta": "linear", "search_epochs": 3, "max_epochs": 3, "retrain": "continue"}
    losses = ["kd", Projected(), Pathways(transforms=["conv1"])]
    whole = mixture(losses, **params, **{stage: [Killed()]}).fit(*images)
    with pytest.raises(MemoryError):
        mixture(losses, **params, checkpoint_dir=tmp_path, **{stage: [Killed(2)]}).fit(*images)
    resumed = mixture(losses, **params, checkpoint_dir=tmp_path, **{stage: [Killed()]}).fit(*images)
    np.testing.assert_array_equal(resumed.predict_proba(images[0]), whole.predict_proba(images[0]))
    for name in whole.metaparameter_path_.dtype.names:
        np.testing.assert_array_equal(resumed.metaparameter_path_[name], whole.metaparameter_path_[name])


def test_a_retraining_that_continues_has_the_modules_of_the_search(mixture, images):
    seen = {}

    class Keep(Callback):
        def __init__(self, name):
            self.name = name

        def on_train_begin(self, net, **kwargs):
            seen[self.name, "begin"] = copy.deepcopy(net.others["projected_term"].state_dict())

        def on_train_end(self, net, **kwargs):
            seen[self.name, "end"] = copy.deepcopy(net.others["projected_term"].state_dict())

    mixture(
        ["kd", Projected()], meta="linear", search_epochs=1, retrain="continue",
        search_callbacks=[Keep("search")], callbacks=[Keep("retraining")],
    ).fit(*images)  # fmt: skip
    for name, tensor in seen["search", "end"].items():
        assert torch.equal(seen["retraining", "begin"][name], tensor)
        assert not torch.equal(seen["retraining", "end"][name], tensor)


def test_pickles_and_files(mixture, images, tmp_path):
    clf = mixture(["kd", Pathways(transforms=["conv1"]), ("more", Pathways(transforms=["conv2"]))]).fit(
        *images
    )
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict(images[0]), clf.predict(images[0]))
    clf.save(tmp_path / "clf.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "clf.safetensors", student=ConvNet)
    np.testing.assert_array_equal(loaded.predict(images[0]), clf.predict(images[0]))
    assert loaded.terms_ == clf.terms_ and [type(item) for item in loaded.loss] == [str, Pathways, tuple]
    assert loaded.loss[1].transforms == ["conv1"] and loaded.loss[2][0] == "more"
    np.testing.assert_array_equal(
        loaded.metaparameters_["more_importance"], clf.metaparameters_["more_importance"]
    )


def test_a_term_of_ones_own_is_not_in_a_file(mixture, images, tmp_path):
    clf = mixture(["kd", Similarity()]).fit(*images)
    with pytest.warns(UserWarning, match="Not saved.*loss"):
        clf.save(tmp_path / "clf.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "clf.safetensors", student=ConvNet)
    assert loaded.metaparameters_ == clf.metaparameters_


def test_tables_and_numbers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5)).astype(np.float32)
    teacher = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        y = teacher(torch.tensor(X)).numpy().ravel()
    reg = DistilledRegressor(
        teacher, MLPStudent, loss=["squared_error", Similarity()], meta="linear", max_epochs=3
    ).fit(X, y)
    assert set(reg.metaparameters_) == {"similarity_weight", "lambda1"}
    several = (np.stack([y > 0, X[:, 0] > 0], axis=1)).astype(int)
    labels = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    clf = DistilledClassifier(labels, MLPStudent, loss=[Similarity()], meta="linear", max_epochs=3)
    assert clf.fit(X, several).predict(X).shape == (120, 2)


def test_rows_without_labels_are_compared_too(mixture, images):
    X, y = images
    clf = mixture([Similarity(5.0)], max_epochs=3)
    without = clf.fit(X[:60], y[:60]).predict_proba(X)
    beside = clf.fit(X[:60], y[:60], X_unlabeled=X[60:]).predict_proba(X)
    assert not np.array_equal(without, beside) and clf.n_unlabeled_ == 100


@pytest.mark.parametrize("base", [["kd", Similarity(5.0)], "kd"])
def test_a_mixture_is_compared_with_a_loss_of_logits(base, mixture, images):
    methods = {"kd": {"loss": "kd"}, "mixture": {"loss": ["kd", Similarity(5.0)]}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared = compare_methods(
            mixture(base), *images, methods=methods, baseline="kd", cv=2, n_jobs=1, random_state=0
        )
    rows = compared.results_
    assert (rows["log_loss"][rows["method"] == "kd"] != rows["log_loss"][rows["method"] == "mixture"]).all()


class Writing(Similarity):
    def loss(self, student, teacher, module):
        return teacher[0].mul_(2).mean() + student[0].mean()


class Rows(Similarity):
    def loss(self, student, teacher, module):
        return student[0].mean(dim=1)


class Infinite(Similarity):
    def loss(self, student, teacher, module):
        return super().loss(student, teacher, module) / 0


class Number(Similarity):
    def loss(self, student, teacher, module):
        return 3.0


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (Detached(), ValueError, "does not depend on the student's features"),
        (Writing(), ValueError, "writes into features that other terms share"),
        (Rows(), ValueError, r"returned shape \(2,\)"),
        (Infinite(), ValueError, "its loss must be finite"),
        (Number(), TypeError, "returned float"),
        (Similarity(teacher_layers=["stage3"]), ValueError, "teacher_layers: ConvNet has no layer 'stage3'"),
        (Projected(teacher_layers=["stage1"]), ValueError, "compared in pairs"),
        (Projected(weight=-1.0), ValueError, r"term 'projected': weight=-1.0"),
        (Pathways(importance_lr=-1.0), ValueError, "importance_lr=-1.0 must be at least 0"),
        (Pathways(importance_lr="x"), TypeError, "importance_lr='x' must be a number"),
        (Pathways(softmax_bias=float("nan")), ValueError, "softmax_bias=nan must be finite"),
        (Pathways(pathway_threshold="x"), TypeError, "pathway_threshold='x' must be a number"),
        (Pathways(normalization="softmx"), ValueError, "'softmx' is not known. Did you mean 'softmax'"),
    ],
)
def test_terms_that_are_refused(term, error, message, mixture, images, no_training):
    with pytest.raises(error, match=message):
        mixture(["kd", term]).fit(*images)


@pytest.mark.parametrize("what", REFUSED_LOSSES)
def test_refused_as_the_page_says(what, mixture, images, no_training):
    loss, params = REFUSED_LOSSES[what]
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        mixture(loss).set_params(**params).fit(*images)


@pytest.mark.parametrize("loss", [["rkd", ("rkd_distance", Projected())], [("lambda1", Pathways()), "kd"]])
def test_two_things_of_one_name_are_refused(loss, mixture, images, no_training):
    with pytest.raises(ValueError, match=r"name of a term: its '(rkd_distance_weight|lambda1)' is already"):
        mixture(loss).fit(*images)


def test_a_warm_start_goes_on_with_what_the_terms_have_learned(mixture, images):
    clf = mixture(["kd", ("own", Projected())], warm_start=True, lr=1e-9, max_epochs=1).fit(*images)
    with torch.no_grad():
        clf.net_.others["own_term"][0].bias.fill_(3.0)
    assert clf.fit(*images).net_.others["own_term"][0].bias.detach() == pytest.approx(3.0)
    clf.set_params(loss__own=Projected(student_layers=["stage2"], teacher_layers=["stage2"])).fit(*images)
    assert clf.net_.others["own_term"][0].bias.detach().max() < 1.0  # other layers: a fresh one


def test_a_given_process_keeps_small_weights_that_have_not_vanished(mixture, images):
    entry = Projected(2.0, weight_bounds=(0.001, 100.0)).metaparameters()["weight"]
    for values, kept in (([2.0, 2.0], True), ([100.0, 1.0], False)):
        process = MetaparameterProcess({"projected_weight": values}, {"projected_weight": entry})
        term = Projected(weight=100.0, weight_bounds=(0.001, 100.0))
        clf = mixture([term], process=process, meta="shortlist", weights="final").fit(*images)
        assert clf.terms_["projected"].is_trained == kept


def test_the_teacher_still_answers_augmented_batches_when_no_term_is_left(mixture, images):
    pathways = Pathways(transforms=["conv1"], pathway_threshold=99.0)
    params = {"meta": "linear", "search_epochs": 1, "max_epochs": 1, "retrain": "fresh"}
    plain, augmented = (
        mixture(["kd", pathways], augment=augment, **params).fit(*images) for augment in (None, torch.clone)
    )
    assert not augmented.terms_["pathways"].is_trained
    assert augmented.history_[0]["train_loss"] == pytest.approx(plain.history_[0]["train_loss"], rel=1e-5)


class OfTwoWeights(Projected):
    """Losses of the rows, of which two rows have as many as there are weights."""

    weight_names = ("weight", "second")
    second = 1.0

    def loss(self, student, teacher, module):
        return (module[0](student[0]) - teacher[0]).square().mean(dim=(1, 2, 3))


class Lazy(Projected):
    """A term whose transforms do not know their input."""

    def build(self, student, teacher):
        return nn.ModuleList(nn.LazyConv2d(t[0], 1) for t in teacher)


class Nothing(Projected):
    """A term that forgets to return its module."""

    def build(self, student, teacher):
        return None


@pytest.mark.parametrize(
    "term, said", [(OfTwoWeights(), r"shape \(32,\)"), (Lazy(), "lazy weights"), (Nothing(), "nn.Module")]
)
def test_own_terms_that_are_wrong(term, said, mixture, images):
    with pytest.raises((ValueError, TypeError), match=said):
        mixture(["kd", term]).fit(*images)


@pytest.mark.parametrize("name", ["hint", "pathways"])
def test_a_term_of_maps_on_a_table(name, digits, no_training):
    teacher = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    clf = DistilledClassifier(teacher, MLPStudent, loss=["kd", name])
    with pytest.raises(
        ValueError, match=f"term '{name}': .* compares maps.*'similarity', 'rkd', 'correlation'"
    ):
        clf.fit(*digits)


def test_the_default_keeps_the_weights_beside_the_labels_alone(mixture, images):
    """The shortlist tries values of lambda1, and there is none."""
    default = mixture([Similarity(2.0)], meta="shortlist").fit(*images)
    fixed = mixture([Similarity(2.0)], meta="fixed").fit(*images)
    assert type(default.strategy_) is Fixed and default.metaparameters_ == {"similarity_weight": 2.0}
    np.testing.assert_array_equal(default.predict_proba(images[0]), fixed.predict_proba(images[0]))


class Failing(Projected):
    """Fails in the pass of this number, the trial before the training included."""

    name, fails_at = "failing", 1

    def __init__(self, fails_at=1):
        super().__init__()
        self.fails_at = fails_at
        self.passes = [0]

    def loss(self, student, teacher, module):
        self.passes[0] += 1
        if self.passes[0] >= self.fails_at:
            raise RuntimeError("sizes of tensors must match")
        return super().loss(student, teacher, module)


@pytest.mark.parametrize("fails_at", [1, 4])
def test_an_error_inside_a_term_names_it(fails_at, mixture, images):
    with pytest.raises(RuntimeError, match=r"^loss: term 'own' \(Failing\): sizes of tensors") as error:
        mixture(["kd", ("own", Failing(fails_at))]).fit(*images)
    assert str(error.value.__cause__) == "sizes of tensors must match"


@pytest.mark.parametrize(("fails_at", "who"), [(1, "distance"), (9, "transforms or distance of pathways")])
def test_an_error_inside_a_distance_names_it(fails_at, who, mixture, images):
    n_calls = [0]

    def distance(ours, theirs):
        n_calls[0] += 1
        if n_calls[0] >= fails_at:
            raise RuntimeError("sizes of tensors must match")
        return F.mse_loss(ours, theirs)

    with pytest.raises(RuntimeError, match=f"^{who}: sizes of tensors must match"):
        mixture([Pathways(distance=distance, transforms=["conv1"])]).fit(*images)


class MeanMap(FeatureTerm):
    """Takes weights; a class derived from it need not."""

    name, takes_row_weight, weights = "mean_map", True, None

    def loss(self, student, teacher, module, *, row_weight):
        type(self).weights = row_weight
        rows = (student[0].mean(dim=(1, 2, 3)) - teacher[0].mean(dim=(1, 2, 3))).square()
        return (rows if row_weight is None else row_weight * rows).mean()


class Unweighted(MeanMap):
    name = "unweighted"

    def loss(self, student, teacher, module):
        return super().loss(student, teacher, module, row_weight=None)


def test_terms_are_given_the_weights_of_rows(mixture, images):
    X, y = images
    weight = np.where(np.arange(len(y)) % 2, 3.0, 1.0)
    settings = {"max_epochs": 1, "batch_size": len(y)}
    clf = mixture(["kd", MeanMap(), Unweighted()], **settings).fit(X, y, sample_weight=weight)
    assert sorted(set(MeanMap.weights.tolist())) == [0.5, 1.5]
    assert clf.history_[0]["mean_map_loss"] != pytest.approx(clf.history_[0]["unweighted_loss"], rel=1e-3)
    mixture(["kd", MeanMap()], **settings).fit(X, y)
    assert MeanMap.weights is None


def test_weights_of_images_whose_pixels_are_the_rows(mixture):
    rng = np.random.default_rng(0)
    X, y = rng.random((8, 3, 16, 16)).astype(np.float32), rng.integers(3, size=(8, 16, 16))
    layers = {"teacher_layers": ["layer2"], "student_layers": ["layer2"]}
    clf = mixture(["kd", MeanMap(**layers)], max_epochs=1, student__channels=(4, 8))
    clf.set_params(teacher=FCNStudent(3, 3), student=FCNStudent)
    clf.fit(X, y, sample_weight=np.repeat([1.0, 3.0], 4))
    assert sorted(MeanMap.weights.tolist()) == [0.5] * 4 + [1.5] * 4
