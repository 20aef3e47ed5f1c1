"""Strategies that train several students side by side: twins and successive halving."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from sklearn_kd import DistilledClassifier, compare_methods, meta
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta._population import Difference, UnitCube
from sklearn_kd.meta._space import Metaparameter, MetaparameterSpace
from sklearn_kd.training._net import TrainingNet

SPACE = MetaparameterSpace(LogitDistillation(temperature_bounds=(1, 16)).metaparameters(3))


@pytest.fixture
def permuted(digits):
    """Logits of a teacher that takes each digit for the next one."""
    return 8 * np.eye(10, dtype=np.float32)[(digits[1] + 1) % 10]


@pytest.fixture
def n_steps(monkeypatch):
    """The student steps that all members take."""
    taken, step = [], TrainingNet.train_step
    monkeypatch.setattr(
        TrainingNet, "train_step", lambda net, *args, **kw: taken.append(1) or step(net, *args, **kw)
    )
    monkeypatch.setattr("sklearn_kd.training._stackable.FEWEST", 99)
    return taken


def test_the_unit_cube_is_linear_in_log_t():
    cube = UnitCube(SPACE)
    assert cube.place({"lambda1": 0.3, "temperature": 4.0}) == pytest.approx([0.3, 0.5])
    assert cube.values(np.array([1.0, 0.25])) == pytest.approx({"lambda1": 1.0, "temperature": 2.0})
    assert cube.values(np.array([0.0, 1.0])) == {"lambda1": 0.0, "temperature": 16.0}
    arrays = MetaparameterSpace({"a": Metaparameter(0.0, shape=(2,), bounds=(-2, 2), coordinate="logit")})
    assert UnitCube(arrays).values(np.array([0.25, 1.0]))["a"].tolist() == [-1.0, 2.0]


def test_the_difference_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    found, t = Difference.of(a, b), ttest_rel(a, b).statistic
    assert found.mean / found.error == pytest.approx(t)
    assert found.differs(abs(t) - 0.01) and not found.differs(abs(t) + 0.01)
    lost = np.full(50, np.inf)
    assert Difference.of(a, lost).is_below_zero(100.0) and not Difference.of(lost, a).is_below_zero(0.0)
    assert not Difference.of(lost, lost).differs(0.0)
    by_one_row = Difference.of(a[:1], b[:1])
    assert by_one_row.differs(0.0) and not by_one_row.differs(1e-9)


@pytest.mark.parametrize("pairs", [1, 2])
def test_twins_trust_the_labels_where_the_teacher_is_wrong(pairs, make, digits, permuted):
    with pytest.warns(UserWarning, match="agrees with the labels"):
        clf = make(meta=meta.Twins(pairs=pairs), max_epochs=8).fit(*digits, teacher_logits=permuted)
    path, moves = clf.metaparameter_path_, clf.moves_
    by_epoch = path["lambda1"].reshape(8, -1)
    assert (
        by_epoch[:, :-1] == np.r_[0.5, by_epoch[:-1, -1]][:, None]
    ).all()  # the centre moves after an epoch
    assert clf.lambda1_ == path["lambda1"][-1] > 0.75
    assert len(moves) == 8 * pairs and moves["epoch"].tolist() == np.repeat(np.arange(1, 9), pairs).tolist()
    taken = moves[moves["taken"]]
    better = np.where(taken["mean_difference"] < 0, taken["lambda1_up"], taken["lambda1_down"])
    np.testing.assert_allclose(better, by_epoch[:, -1], rtol=1e-12)
    assert np.isfinite(path["val_loss"].reshape(8, -1)[:, -1]).all()


def test_twins_stay_where_no_difference_is_sure(make, digits, logits):
    clf = make(meta=meta.Twins(delta=0.1, z=50.0, epochs_per_move=2), max_epochs=3).fit(
        *digits, teacher_logits=logits
    )
    assert set(clf.metaparameter_path_["lambda1"]) == {0.5} and not clf.moves_["taken"].any()
    assert clf.moves_["epoch"].tolist() == [2, 3]
    assert abs(clf.moves_["lambda1_up"] - 0.5) == pytest.approx(0.1)
    assert clf.moves_["lambda1_up"] + clf.moves_["lambda1_down"] == pytest.approx(1.0)


def test_halving_finds_the_labels_where_the_teacher_is_wrong(make, digits, permuted):
    strategy = meta.SuccessiveHalving(n_members=8, rungs=(0.5, 0.75))
    with pytest.warns(UserWarning, match="agrees with the labels"):
        clf = make(meta=strategy, max_epochs=8, lambda1=0.1).fit(*digits, teacher_logits=permuted)
    trials = clf.trials_
    assert len(trials) == 8 and trials["lambda1"][0] == 0.1
    assert (np.floor(np.sort(trials["lambda1"][1:]) * 7) == np.arange(7)).all()  # one of each seventh
    kept = trials[trials["lambda1"] == clf.lambda1_]
    assert kept["val_loss"] == trials["val_loss"].min() and clf.lambda1_ > 0.7
    assert set(clf.metaparameter_path_["lambda1"]) == {
        clf.lambda1_
    }  # it was trained there from the beginning


@pytest.mark.filterwarnings("ignore:.*agrees with the labels")
def test_halving_keeps_the_start_where_no_difference_is_sure(make, digits, permuted):
    strategy = meta.SuccessiveHalving(n_members=3, rungs=(0.5,), z=1000.0)
    clf = make(meta=strategy, max_epochs=4, lambda1=0.3).fit(*digits, teacher_logits=permuted)
    assert clf.lambda1_ == 0.3 and clf.trials_["val_loss"].argmin() != 0


@pytest.mark.parametrize(
    ("strategy", "n_trainings"),
    [
        (meta.Twins(), 2),
        (meta.Twins(pairs=2), 4),
        (meta.SuccessiveHalving(), 2.4),
        (meta.SuccessiveHalving(n_members=5, rungs=(0.4, 0.8)), 2 + 3 * 0.4 + 0.2),
    ],
)
def test_costs(strategy, n_trainings, n_steps, make, digits, logits):
    make(meta=strategy, max_epochs=5).fit(*digits, teacher_logits=logits)
    assert len(n_steps) == pytest.approx(n_trainings * 5 * 12)
    if hasattr(strategy, "n_trainings"):
        assert strategy.n_trainings() == pytest.approx(n_trainings)


@pytest.mark.parametrize("name", ["twins", "halving"])
def test_fits_repeat_and_are_saved(name, make, digits, logits, tmp_path):
    first, second = (make(meta=name, max_epochs=3).fit(*digits, teacher_logits=logits) for _ in range(2))
    assert first.metaparameter_path_.tobytes() == second.metaparameter_path_.tobytes()
    record = "moves_" if name == "twins" else "trials_"
    first.save(tmp_path / "s.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "s.safetensors")
    assert getattr(loaded, record).tobytes() == getattr(first, record).tobytes()
    assert (loaded.predict(digits[0]) == second.predict(digits[0])).all()


def test_a_fit_goes_on_from_where_the_metaparameters_ended(make, digits, logits):
    clf = make(meta="twins", warm_start=True, max_epochs=2).fit(*digits, teacher_logits=logits)
    end = clf.lambda1_
    clf.fit(*digits, teacher_logits=logits)
    assert clf.metaparameter_path_["lambda1"][24] == end and clf.n_iter_ == 48


@pytest.mark.filterwarnings("ignore:.*agrees with the labels")
@pytest.mark.parametrize("name", ["twins", "halving"])
def test_they_search_a_process_for_all_rows(name, make, digits, permuted):
    """The search is the single run of as many epochs; the retraining follows the mean of its path."""
    given = {"X": digits[0], "y": digits[1], "teacher_logits": permuted}
    clf = make(meta=name, search_epochs=4, max_epochs=5, temperature=4.0).fit(**given)
    path = clf.metaparameter_path_
    found = path[path["search"]]
    assert len(found) == 4 * 12 and len(path) == 4 * 12 + 5 * 13
    assert clf.process_.values["lambda1"].tolist() == found["lambda1"].tolist()
    assert clf.lambda1_ == pytest.approx(found["lambda1"].mean()) and clf.lambda1_ > 0.5
    assert clf.temperature_ == pytest.approx(np.exp(np.log(found["temperature"]).mean()))
    assert len(clf.search_history_) == 4 and len(clf.moves_ if name == "twins" else clf.trials_) == 4


def test_a_killed_search_is_not_begun_anew(make, digits, logits, tmp_path, monkeypatch):
    params = {"meta": "halving", "search_epochs": 4, "max_epochs": 2}
    whole = make(**params).fit(*digits, teacher_logits=logits)
    train, n_trained = TrainingNet.train_step, []

    def killed(net, batch):
        n_trained.append(1)
        if len(n_trained) == n_until:
            raise MemoryError
        return train(net, batch)

    monkeypatch.setattr("sklearn_kd.training._stackable.FEWEST", 99)
    monkeypatch.setattr(TrainingNet, "train_step", killed)
    # In the fourth member's second epoch. Then in the retraining, after two of four epochs with four members,
    # one with two and one with one: the first was not done again.
    for step in (4 * 12 * 2 - 5, (4 + 2 + 1) * 12 + 5):
        n_until = step
        n_trained.clear()
        with pytest.raises(MemoryError):
            make(checkpoint_dir=tmp_path, **params).fit(*digits, teacher_logits=logits)
    n_trained.clear()
    n_until = None
    clf = make(checkpoint_dir=tmp_path, **params).fit(*digits, teacher_logits=logits)
    assert len(n_trained) == 2 * 13  # of the retraining alone
    assert clf.trials_.dtype == whole.trials_.dtype
    np.testing.assert_allclose(clf.trials_["val_loss"], whole.trials_["val_loss"], rtol=1e-3)
    assert clf.lambda1_ == whole.lambda1_


def test_a_comparison_fits_them_as_users_do(make, digits, logits):
    """Beside methods that are trained together they train their own students."""
    clf, (X, y) = make(None, max_epochs=3), (digits[0][:150], digits[1][:150])
    methods = {name: {"meta": name} for name in ("gradient", "twins")}
    given = {"methods": methods, "baseline": "gradient", "cv": 2, "random_state": 0}
    results = compare_methods(clf, X, y, teacher_logits=logits[:150], **given).results_
    found = results[results["method"] == "twins"]
    assert set(found["models_in_batch"]) == {1}
    assert 0.5 not in found["lambda1"]  # which an odd number of moves leaves


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (meta.Twins(delta=0.0), "delta=0.0 must be a finite number above 0"),
        (meta.Twins(pairs=0), "pairs=0 must be an integer of at least 1"),
        (meta.Twins(z=-1.0), "z=-1.0 must be a finite number of at least 0"),
        (meta.SuccessiveHalving(rungs=(0.6, 0.4)), r"rungs=\(0.6, 0.4\) must be shares of the epochs"),
        (meta.SuccessiveHalving(rungs=()), r"rungs=\(\) must be shares of the epochs"),
        (meta.SuccessiveHalving(n_members=1.5), "n_members=1.5 must be an integer"),
    ],
)
def test_wrong_parameters_are_refused(strategy, message, no_training, make, digits, logits):
    with pytest.raises(ValueError, match=f"^meta: .*{message}"):
        make(meta=strategy).fit(*digits, teacher_logits=logits)
