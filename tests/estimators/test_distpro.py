"""DistProClassifier as scikit-learn's users meet it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from skorch.utils import noop
from torch import nn
from torch.utils.data import TensorDataset

from helpers.callbacks import CountsPasses, PassesPerStep, Recorder
from helpers.networks import ConvNet
from sklearn_kd import (
    DistillationProcess,
    DistilledClassifier,
    ProcessDisplay,
    build_transforms,
)
from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator
from sklearn_kd.distpro._transforms import Conv1
from sklearn_kd.runtime import _backward
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.training._progress import Progress


@pytest.fixture
def process(make_distpro, images, once):
    """A process of 8 pathways over 4 steps."""
    return once("process", lambda: make_distpro().fit(*images).process_)


def weights_of(module):
    return torch.cat([w.detach().flatten() for w in module.state_dict().values()])


# --------------------------------------------------------------------------------------
# Search and retraining


def test_what_is_fitted(make_distpro, images):
    clf = make_distpro(search_epochs=2, max_epochs=3).fit(*images)
    assert clf.process_.raw.shape == (2 * 4, 8)  # 128 of 160 rows, 32 a batch; 2·2·2 pathways
    np.testing.assert_array_equal(clf.process_.raw[0], 1)
    assert (np.abs(np.diff(clf.process_.raw, axis=0)) > 1e-3).any(axis=1).all()  # every step moved them
    assert clf.process_.pathways == clf.pathways_ and clf.process_.settings["search_epochs"] == 2
    assert clf.pathways_[2][:3] == ("stage1", "stage2", "conv1")
    assert len(clf.search_history_) == 2 and len(clf.history_) == 3
    assert clf.search_history_[:, "pathways"] == [8, 8] and clf.search_history_[-1, "skipped_steps"] == 0
    assert "valid_loss" in clf.search_history_[-1] and "valid_loss" not in clf.history_[-1]
    assert clf.n_iter_ == 3 * 5 and len(clf.transforms_) == 8
    assert type(clf.student_) is ConvNet and clf.classes_.tolist() == list(range(10))
    proba = clf.predict_proba(images[0])
    assert proba.shape == (160, 10) and proba.dtype == np.float32
    assert len(ProcessDisplay.from_estimator(clf).axes_) == 2


def test_it_learns(make_distpro, images):
    clf = make_distpro(transforms=["conv1"], max_epochs=25, optimizer__momentum=0.9, student__width=8)
    assert clf.fit(*images).score(*images) > 0.8


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"exact"}))
def test_the_ways_to_the_hypergradient_agree(method, make_distpro, images, once):
    """A step of Adam hides the size: compare its directions over an epoch of search."""
    settings = {"search_epochs": 2, "weights": "final", "max_epochs": 1, "optimizer__momentum": 0.9}
    exact = once(
        "exact", lambda: make_distpro(meta__hypergradient="exact", **settings).fit(*images).process_.raw
    )
    found = make_distpro(meta__hypergradient=method, **settings).fit(*images).process_.raw
    np.testing.assert_allclose(found, exact, atol=0.03)
    assert np.ptp(exact) > 0.3


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [("finite_difference", 3, 2), ("central_difference", 4, 2), ("jvp", 3, 2), ("exact", 2, 2 + 8)],
)
def test_passes_of_a_step(method, forward, backward, make_distpro, images, monkeypatch):
    """The real step serves as the virtual one: no pass is made for that."""
    calls = []
    monkeypatch.setattr(_backward, "_engine", lambda: None)  # so that all passes are called by name
    for name in ("backward", "grad"):
        function = getattr(torch.autograd, name)
        monkeypatch.setattr(
            torch.autograd, name, lambda *a, f=function, **k: (calls.append(1), f(*a, **k))[1]
        )
    search, retraining = PassesPerStep(), PassesPerStep()
    clf = make_distpro(None, CountsPasses, meta__hypergradient=method, max_epochs=1)
    clf.set_params(search_callbacks=[search], callbacks=[retraining]).fit(*images)
    assert search.passes_ == [forward] * 4 and retraining.passes_ == [1] * 5
    assert len(calls) == 4 * backward + 5


def test_no_direction_is_counted_and_not_followed(make_distpro, images, monkeypatch):
    found, take = [], HypergradientEstimator.hypergradient

    def sometimes(record, *args, **kwargs):
        h, loss = take(record, *args, **kwargs)
        found.append(1)
        record.directionless = len(found) % 2 == 1
        return (torch.full_like(h, torch.nan) if record.directionless else h), loss

    monkeypatch.setattr(HypergradientEstimator, "hypergradient", sometimes)
    clf = make_distpro(search_epochs=2).fit(*images)
    assert clf.search_history_[:, "skipped_hypergradients"] == [2, 2]
    np.testing.assert_array_equal(clf.process_.raw[1], clf.process_.raw[0])
    assert (clf.process_.raw[2] != clf.process_.raw[1]).any()


def test_adams_first_steps_teach_nothing(make_distpro, images):
    """They are left out, as in the first system."""
    clf = make_distpro(optimizer=torch.optim.Adam, lr=0.01, search_epochs=3).fit(*images)
    np.testing.assert_array_equal(clf.process_.raw[:11], 1)
    assert (clf.process_.raw[11] != 1).all()


def test_bfloat16_leaves_the_search_alone(make_distpro, images):
    plain, half = make_distpro().fit(*images), make_distpro(execution="bfloat16").fit(*images)
    np.testing.assert_array_equal(plain.process_.raw, half.process_.raw)
    difference = np.abs(plain.predict_proba(images[0]) - half.predict_proba(images[0])).max()
    assert 0 < difference < 0.2


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu(method, make_distpro, images):
    """The same search and the same student, within the rounding of float32."""
    params = {"meta__hypergradient": method, "logit_weight": 0.5}
    cpu, gpu = (make_distpro(device=device, **params).fit(*images) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.process_.raw, cpu.process_.raw, atol=0.03)
    np.testing.assert_allclose(gpu.predict_proba(images[0]), cpu.predict_proba(images[0]), atol=0.02)


# --------------------------------------------------------------------------------------
# Pruning, ablations, transfer

RAN = []


class Noted(Conv1):
    """Notes each run."""

    def forward(self, x, size):
        if self.training:
            RAN.append(self)
        return super().forward(x, size)


def test_pruned_pathways_are_not_run(make_distpro, images, process):
    clf = make_distpro(transforms=[Noted], max_epochs=2)
    pathways = [p._replace(transform="Noted") for p in process.pathways if p.transform == "conv1"]
    raw = np.ones((10, 4))
    raw[5:, 0] = 0.5  # at most tau = 0.5 from the sixth of ten steps
    raw[:, 3] = 0.2
    RAN.clear()
    clf.set_params(process=DistillationProcess(raw, pathways)).fit(*images)
    assert [sum(t is ran for ran in RAN) for t in clf.transforms_] == [5, 10, 10, 0]
    assert clf.history_[:, "pathways"] == [3, 2]
    RAN.clear()
    clf.set_params(pathway_threshold=None).fit(*images)
    assert len(RAN) == 4 * 10
    RAN.clear()
    clf.set_params(pathway_threshold=0.1, weights="reversed", max_epochs=1).fit(*images)
    assert len(RAN) == 4 * 5


def test_a_teacher_that_nothing_is_made_of_is_not_asked(make_distpro, images, process, conv_teacher):
    asked = []
    clf = make_distpro(process=process, pathway_threshold=100.0, callbacks=[PassesPerStep()])
    handle = conv_teacher.linear.register_forward_hook(lambda *_: asked.append(1))
    clf.fit(*images)
    before = len(asked)  # to find the layers and to try the pathways
    clf.set_params(pathway_threshold=None).fit(*images)
    assert len(asked) - 2 * before == 2 * 5 + 1  # once more to count its operations
    handle.remove()
    assert clf.set_params(pathway_threshold=100.0).fit(*images).history_[-1, "pathways"] == 0


def test_prediction_runs_neither_teacher_nor_transforms(make_distpro, images, conv_teacher):
    clf = make_distpro().fit(*images)
    expected = clf.predict_proba(images[0])

    def forward(*args):
        raise AssertionError("run to predict")

    for module in (conv_teacher, *clf.transforms_):
        module.register_forward_hook(forward)
    np.testing.assert_array_equal(clf.predict_proba(images[0]), expected)
    assert clf.student_.state_dict().keys() == ConvNet().state_dict().keys()


def test_teacher_is_left_as_it_was(make_distpro, images, conv_teacher):
    conv_teacher.train()
    before = copy.deepcopy(conv_teacher.state_dict())
    clf = make_distpro().fit(*images)
    assert conv_teacher.training and not any(w.grad is not None for w in conv_teacher.parameters())
    assert all(torch.equal(before[name], w) for name, w in conv_teacher.state_dict().items())
    assert not any(part._forward_hooks for part in (*conv_teacher.modules(), *clf.student_.modules()))


@pytest.mark.parametrize("weights", ["process", "equal", "final", "mean", "reversed"])
def test_arms_start_alike_and_differ(weights, make_distpro, images, process, once):
    def of_arm(weights):
        clf = make_distpro(process=process, weights=weights, pathway_threshold=None)
        return once(("arm", weights), lambda: weights_of(clf.fit(*images).student_))

    clf = make_distpro(process=process, weights=weights, pathway_threshold=None)
    start = weights_of(clone(clf).set_params(lr=0.0, max_epochs=1).fit(*images).student_.linear)
    of_none = DistilledClassifier(
        None, ConvNet, meta="none", lr=0.0, max_epochs=1, batch_size=32, random_state=0
    )
    assert torch.equal(start, once("none", lambda: weights_of(of_none.fit(*images).student_.linear)))
    other = "mean" if weights != "mean" else "final"
    assert not torch.equal(of_arm(weights), of_arm(other))


def test_without_distillation_it_is_plain_training(make_distpro, images):
    """Initial weights and batches are paired with those of DistilledClassifier."""
    clf = make_distpro(weights="equal", distill_weight=0.0).fit(*images)
    plain = DistilledClassifier(
        None, ConvNet, meta="none", optimizer="SGD", lr=0.1, max_epochs=2, batch_size=32, random_state=0,
        device="cpu",
    ).fit(*images)  # fmt: skip
    np.testing.assert_allclose(clf.predict_proba(images[0]), plain.predict_proba(images[0]), atol=1e-5)


def test_the_logit_term_is_the_loss_of_the_first_system(make_distpro, images, conv_teacher):
    """CE + w · T² soft CE is (1 + w) times that of lambda1 = 1/(1 + w)."""
    clf = make_distpro(weights="equal", distill_weight=0.0, logit_weight=3.0, lr=0.02).fit(*images)
    first = DistilledClassifier(
        conv_teacher, ConvNet, meta="fixed", lambda1=0.25, temperature=4.0, optimizer="SGD", lr=0.08, max_epochs=2,
        batch_size=32, random_state=0, device="cpu",
    ).fit(*images)  # fmt: skip
    np.testing.assert_allclose(clf.predict_proba(images[0]), first.predict_proba(images[0]), atol=1e-5)
    assert clf.history_[-1, "train_loss"] == pytest.approx(4 * first.history_[-1, "train_loss"], rel=1e-4)


def test_equal_weights_need_no_search(make_distpro, images):
    clf = make_distpro(weights="equal").fit(*images)
    assert clf.process_ is None and clf.search_history_ is None and clf.history_[-1, "pathways"] == 8
    with pytest.raises(ValueError, match="followed no process"):
        ProcessDisplay.from_estimator(clf)


def test_a_process_followed_at_once_is_the_one_searched_before(make_distpro, images, process):
    """Search and retraining are apart: the seeds of the one do not reach the other."""
    both, alone = make_distpro().fit(*images), make_distpro(process=process).fit(*images)
    assert alone.search_history_ is None
    np.testing.assert_array_equal(both.predict_proba(images[0]), alone.predict_proba(images[0]))


def test_transfer(make_distpro, images, process, tmp_path):
    """From the file, to a wider student, a deeper schedule, and a task with other classes."""
    X, y = images[0], images[1] % 3
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = ConvNet(n_classes=100, width=5)  # its classes play no part
    process.save(tmp_path / "p.npz")
    clf = make_distpro(teacher, process=tmp_path / "p.npz", student__width=7, max_epochs=3).fit(X, y)
    assert clf.n_iter_ == 15 and clf.classes_.tolist() == [0, 1, 2] and clf.predict_proba(X).shape == (160, 3)
    np.testing.assert_array_equal(clf.process_.raw, process.raw)
    assert clf.process_.pathways == clf.pathways_ != process.pathways
    assert (clf.pathways_[0].teacher_channels, clf.pathways_[0].student_channels) == (5, 7)


def test_a_process_brings_its_own_normalization(make_distpro, images):
    process = make_distpro(normalization="l1").fit(*images).process_
    clf = make_distpro(process=process)  # normalization="biased_softmax", which a search would use
    assert clf.fit(*images).process_.normalization == "l1" and clf.history_[-1, "pathways"] == 8
    with pytest.raises(ValueError, match="normalization='l1', whose raw factors have no scale"):
        clf.set_params(pathway_threshold=0.5).fit(*images)


# --------------------------------------------------------------------------------------
# scikit-learn


def test_same_seed_same_result_and_global_generators_untouched(make_distpro, images):
    results = []
    for _ in range(2):
        np.random.rand(3), torch.rand(3)  # the result must not depend on these
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        clf = make_distpro(student__dropout=0.3, augment=lambda x: x + torch.randn_like(x) / 9).fit(*images)
        assert torch.equal(before[1], torch.get_rng_state())
        np.testing.assert_array_equal(before[0], np.random.get_state()[1])
        results.append((clf.process_.raw, clf.predict_proba(images[0])))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    other = make_distpro(student__dropout=0.3, random_state=1).fit(*images)
    assert (other.process_.raw != results[0][0]).any()


def test_clone_and_parameters(make_distpro, conv_teacher, process):
    clf = make_distpro(process=process, student__width=6, optimizer__momentum=0.5)
    params = clf.get_params()
    assert (
        params["student__width"] == 6
        and params["optimizer__momentum"] == 0.5
        and params["weights"] == "process"
    )
    again = clone(clf)
    assert again.teacher is conv_teacher and again.get_params().keys() == params.keys()
    again.set_params(pathway_threshold=0.3, student__width=3, iterator_train__drop_last=True)
    assert (
        again.pathway_threshold == 0.3
        and again.get_params()["student__width"] == 3
        and clf.student__width == 6
    )


def test_clone_shares_a_fitted_estimator_as_teacher(make_distpro, images):
    teacher = DistilledClassifier(None, ConvNet, meta="none", max_epochs=1, device="cpu").fit(*images)
    clf = clone(make_distpro(teacher, keep_teacher=True))
    assert clf.teacher is teacher and clf.fit(*images).teacher_ is teacher


@pytest.mark.parametrize("keep_teacher", [True, False])
def test_pickle(keep_teacher, make_distpro, images):
    clf = make_distpro(keep_teacher=keep_teacher).fit(*images)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(images[0]), clf.predict_proba(images[0]))
    np.testing.assert_array_equal(again.process_.raw, clf.process_.raw)
    assert (again.teacher is None) == (again.teacher_ is None) == (not keep_teacher)
    assert clf.teacher is not None
    size = len(pickle.dumps(clf))
    big = make_distpro(ConvNet(width=60), keep_teacher=keep_teacher).fit(*images)
    grown = len(pickle.dumps(big)) - size  # the transforms grow with the teacher
    of_transforms = len(pickle.dumps(big.transforms_)) - len(pickle.dumps(clf.transforms_))
    assert (grown > 2 * of_transforms) == keep_teacher
    assert keep_teacher or grown < 1.3 * of_transforms  # the weights are there once


def test_student_and_transforms_are_saved_apart(make_distpro, images, tmp_path):
    clf = make_distpro().fit(*images)
    clf.export_student(tmp_path / "student.safetensors")
    torch.save(clf.transforms_.state_dict(), tmp_path / "transforms.pt")
    pathways = pickle.loads(pickle.dumps(clf.pathways_))
    built = build_transforms(pathways, clf.transforms)
    built.load_state_dict(torch.load(tmp_path / "transforms.pt", weights_only=True))
    x = torch.rand(2, pathways[-1].student_channels, 4, 4)
    torch.testing.assert_close(built[-1].eval()(x, (4, 4)), clf.transforms_[-1].eval()(x, (4, 4)))


def test_cross_validation(make_distpro, images):
    scores = cross_val_score(make_distpro(), *images, cv=2, error_score="raise")
    assert scores.shape == (2,)


def test_grids(make_distpro, images, process):
    grid = {"weights": ["process", "equal", "mean"], "pathway_threshold": [0.5, None], "student__width": [3]}
    search = GridSearchCV(make_distpro(process=process), grid, cv=2, error_score="raise").fit(*images)
    assert len(search.cv_results_["params"]) == 6 and search.best_estimator_.student_.linear.in_features == 6


def test_given_validation_rows(make_distpro, images):
    X, y = images
    clf = make_distpro().fit(X[:96], y[:96], X_val=X[96:], y_val=y[96:])
    assert len(clf.process_) == 3 and clf.n_iter_ == 2 * 3  # all 96 rows in both trainings
    assert "valid_acc" in clf.history_[-1] and "valid_acc" in clf.search_history_[-1]


def test_rows_of_weight_zero_are_left_out(make_distpro, images):
    X, y = images
    weight = np.ones(160)
    weight[128:] = 0
    weighted = make_distpro().fit(X, y, sample_weight=weight)
    fewer = make_distpro().fit(X[:128], y[:128])
    np.testing.assert_allclose(weighted.process_.raw, fewer.process_.raw, atol=1e-3)
    np.testing.assert_allclose(weighted.predict_proba(X), fewer.predict_proba(X), atol=1e-5)


def test_dataset_in_place_of_arrays(make_distpro, images):
    X, y = images
    clf = make_distpro()
    of_arrays = clf.fit(X, y).predict_proba(X)
    raw = clf.process_.raw
    data = TensorDataset(torch.tensor(X), torch.tensor(y))
    np.testing.assert_allclose(clf.fit(data).predict_proba(data), of_arrays, atol=1e-5)
    np.testing.assert_allclose(clf.process_.raw, raw, atol=1e-3)
    assert 0 <= clf.score(data) <= 1


def test_teacher_sees_the_augmented_batch(make_distpro, images, conv_teacher):
    seen = []
    handle = conv_teacher.stage1.register_forward_pre_hook(lambda _, args: seen.append(float(args[0].min())))
    make_distpro(augment=lambda x: x + 100, lr=1e-6).fit(*images)
    handle.remove()
    assert sum(low >= 100 for low in seen) == 4 + 2 * 5


# --------------------------------------------------------------------------------------
# Teachers


def fitted_teacher(kind, images):
    if kind == "module":
        return ConvNet()
    if kind == "skorch":
        net = NeuralNetClassifier(
            ConvNet, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0
        )
        return net.fit(images[0], images[1].astype(np.int64))
    return DistilledClassifier(None, ConvNet, meta="none", max_epochs=1, device="cpu").fit(*images)


@pytest.mark.parametrize("kind", ["module", "skorch", "distilled"])
@pytest.mark.parametrize("frozen", [False, True])
def test_teachers(kind, frozen, make_distpro, images):
    teacher = fitted_teacher(kind, images)
    clf = make_distpro(FrozenEstimator(teacher) if frozen and kind != "module" else teacher, logit_weight=0.5)
    clf.fit(*images)
    assert clf.process_.settings["teacher"] == "ConvNet" and clf.predict(images[0]).shape == (160,)


def test_teacher_columns_follow_its_classes(make_distpro, images):
    """A teacher of more classes teaches those that y has."""
    X, y = images
    teacher, x = fitted_teacher("distilled", images), torch.tensor(X[:5])
    asked = FeatureTeacher(teacher, torch.device("cpu"))
    asked.align_logits(x, np.array([1, 9, 4]))
    with torch.no_grad():
        torch.testing.assert_close(asked(x, ["stage1"])[1], teacher.student_.eval()(x)[:, [1, 9, 4]])
    odd = y % 2 == 1
    clf = make_distpro(teacher, logit_weight=1.0, batch_size=16).fit(X[odd], y[odd])
    assert clf.classes_.tolist() == [1, 3, 5, 7, 9]
    with pytest.raises(ValueError, match="does not know the class"):
        make_distpro(teacher, logit_weight=1.0).fit(X, y + 5)
    make_distpro(teacher, logit_weight=0.0, max_epochs=1).fit(X, y + 5)  # maps have no classes


# --------------------------------------------------------------------------------------
# Callbacks and progress


def test_skorch_callbacks_in_the_retraining(make_distpro, images):
    callbacks = [
        ("train_acc", EpochScoring("accuracy", on_train=True, name="train_acc")),
        EarlyStopping(monitor="train_loss", patience=2, threshold=10.0, sink=noop),
    ]
    clf = make_distpro(callbacks=callbacks, max_epochs=9, callbacks__train_acc__name="acc").fit(*images)
    assert len(clf.history_) < 9 and "acc" in clf.history_[-1] and "acc" not in clf.search_history_[-1]


def test_a_checkpoint_takes_no_teacher(make_distpro, images, tmp_path):
    checkpoint = Checkpoint(dirname=tmp_path, monitor=None, f_pickle="net.pkl")
    clf = make_distpro(callbacks=[checkpoint]).fit(*images)
    net = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert net.objective.teacher is None and len(net.history) == 2
    x = torch.tensor(images[0])
    torch.testing.assert_close(net.module_.eval()(x), clf.student_.eval()(x))
    torch.testing.assert_close(weights_of(net.transforms_), weights_of(clf.transforms_))


def test_what_diverges_is_given_up(make_distpro, images):
    """Student and transforms are those from the end of the last epoch that was finite."""
    clf = make_distpro(weights="equal", max_epochs=5, distill_weight=1e30)
    with pytest.warns(ConvergenceWarning, match="Training diverged"):
        clf.fit(*images)
    assert len(clf.history_) < 5 and np.isfinite(clf.predict_proba(images[0])).all()
    assert all(torch.isfinite(weights_of(module)).all() for module in (clf.student_, clf.transforms_))


def test_learning_rates_are_scheduled_in_either_phase(make_distpro, images):
    rates = {"search": [], "retraining": []}

    class Rates(Callback):
        def __init__(self, phase):
            self.phase = phase

        def on_epoch_end(self, net, **kwargs):
            rates[self.phase].append(net.optimizer_.param_groups[0]["lr"])

    def schedule():
        return LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)

    make_distpro(search_epochs=3, max_epochs=3, search_callbacks=[("lr", schedule()), Rates("search")],
                 callbacks=[Rates("retraining")]).fit(*images)  # fmt: skip
    assert rates["retraining"] == [0.1] * 3 and rates["search"][0] > rates["search"][2]


def test_verbose_goes_through_both_phases(make_distpro, images, capsys):
    make_distpro(search_epochs=2, max_epochs=2, verbose=1).fit(*images)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "search 1/2",
        "search 2/2",
        "retraining 1/2",
        "retraining 2/2",
    ]
    assert "valid_acc" in lines[0] and "skipped_steps 0" in lines[0] and "pathways 8.0" in lines[2]
    assert all("left" in line for line in lines) and lines[-1].endswith("about 0.0 s left")
    make_distpro().fit(*images)
    assert capsys.readouterr().out == ""


def test_time_left_counts_what_comes_later():
    class Net:
        history = [{"train_loss": 0.25}]

    said, clock = [], iter([0.0, 30.0])
    progress = Progress("search", 3, later=4.0, sink=said.append, clock=lambda: next(clock))
    progress.on_train_begin(Net)
    progress.on_epoch_end(Net)
    assert said == ["search 1/3  train_loss 0.2500  30.0 s, about 3.0 min left"]  # 2 + 4 epochs of 30 s


def test_both_phases_are_tasks_of_scikit_learns_callbacks(make_distpro, images):
    pytest.importorskip("sklearn.callback")
    heard = Recorder()
    clf = make_distpro(search_epochs=2, max_epochs=1).set_callbacks(heard).fit(*images)
    begun = [what[1] for what in heard.heard if what[0] == "begin"]
    assert begun == ["fit", "search epoch", "search epoch", "epoch"]
    np.testing.assert_array_equal(heard.students[-1].predict(images[0]), clf.predict(images[0]))
