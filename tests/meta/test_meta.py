"""The strategies and the path."""

from functools import partial

import numpy as np
import pytest
import torch
from hyperopt import STATUS_FAIL, STATUS_OK, Trials, fmin, hp, tpe
from sklearn.base import clone
from skorch.callbacks import EarlyStopping

from sklearn_kd import meta
from sklearn_kd.bilevel import _hypergradient as _bilevel
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta._gradient import _FORMS
from sklearn_kd.meta._path import MetaOptimizer, MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.training import _stackable

SPACE = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=10))


def make_path(lambda1, temperature, space=SPACE, **steps):
    """The path of lambda1 and T with one optimizer for both."""
    return MetaparameterPath(
        space, {"lambda1": lambda1, "temperature": temperature}, {"loss": MetaOptimizer(**steps)}
    )


def make_context(evaluate_all, seed=0):
    return meta.StartContext(
        {"lambda1": 0.5, "temperature": 1.0}, SPACE, np.random.default_rng(seed), evaluate_all
    )


@pytest.mark.parametrize("form", ["anchored", "values", "increments"])
def test_line_is_exact_on_a_line(form):
    t = torch.arange(6, dtype=torch.float64)[:, None]
    slope = torch.tensor([0.03, -0.01], dtype=torch.float64)
    window = 0.2 + t * slope
    for ahead in (1, 2, 7):
        expected = window[-1] + ahead * slope
        torch.testing.assert_close(_FORMS[form](window, ahead), expected, rtol=1e-12, atol=1e-14)


def test_forms_against_polyfit():
    rng = np.random.default_rng(0)
    window = rng.normal(size=(9, 2))
    t, n = np.arange(1, 9), 8
    for j in range(2):
        slope, intercept = np.polyfit(t, window[1:, j], 1)
        d_slope, d_intercept = np.polyfit(t, np.diff(window[:, j]), 1)
        for ahead in (1, 5):
            found = {name: form(torch.as_tensor(window), ahead)[j] for name, form in _FORMS.items()}
            summed = sum(d_intercept + d_slope * (n + k) for k in range(1, ahead + 1))
            assert float(found["values"]) == pytest.approx(intercept + slope * (n + ahead))
            assert float(found["anchored"]) == pytest.approx(window[-1, j] + slope * ahead)
            assert float(found["increments"]) == pytest.approx(window[-1, j] + summed)


@pytest.mark.parametrize("form", ["anchored", "values", "increments"])
def test_linear_equals_gradient_where_the_path_is_a_line(form, make, digits, logits, monkeypatch):
    """A quadratic toy: L_val = ⟨c, w⟩ after w' = w − γ (w − λ b) has the constant h = γ ⟨c, b⟩."""
    gamma, b, c = 0.1, torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([-0.03, 0.04])

    def constant(record, *args, **kwargs):
        return gamma * b @ c, torch.tensor(0.0)

    def by_theta(self, hypergradient):  # constant in log T, not in T
        temperature = self.named()["temperature"]
        return descend(self, hypergradient / torch.tensor([1.0, temperature]))

    descend = MetaparameterPath.descend
    monkeypatch.setattr(_bilevel.HypergradientEstimator, "hypergradient", constant)
    monkeypatch.setattr(MetaparameterPath, "descend", by_theta)
    paths = {}
    for name, strategy in (
        ("gradient", meta.Gradient()),
        ("linear", meta.Linear(e1=4, e2=3, form=form)),
    ):
        clf = make(meta=strategy, temperature=3.0).fit(*digits, teacher_logits=logits)
        paths[name] = clf.metaparameter_path_
    assert not paths["gradient"]["predicted"].any() and paths["linear"]["predicted"].any()
    for field in ("lambda1", "temperature"):
        assert np.ptp(paths["gradient"][field]) > 0.05
        np.testing.assert_allclose(paths["linear"][field], paths["gradient"][field], rtol=1e-6)


def test_linear_without_predictions_is_gradient(make, digits, logits):
    gradient = make(meta="gradient").fit(*digits, teacher_logits=logits)
    linear = make(meta="linear", e1=3, e2=0).fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(gradient.metaparameter_path_, linear.metaparameter_path_)
    np.testing.assert_array_equal(gradient.predict_proba(digits[0]), linear.predict_proba(digits[0]))


def test_two_phases(make, digits, logits):
    clf = make(meta="linear", e1=3, e2=2, meta__val_temperature=1.5).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    assert path.dtype.names == ("iteration", "lambda1", "temperature", "val_loss", "predicted", "search")
    np.testing.assert_array_equal(path["iteration"], np.arange(clf.n_iter_))
    np.testing.assert_array_equal(path["predicted"], np.arange(clf.n_iter_) % 5 >= 3)
    np.testing.assert_array_equal(np.isnan(path["val_loss"]), path["predicted"])
    window = np.stack([path["lambda1"], np.log(path["temperature"])], axis=1)[5:8]
    slope = np.polyfit([1, 2, 3], window, 1)[0]
    lambda1, log_temperature = window[-1] + 2 * slope
    assert path["lambda1"][9] == pytest.approx(np.clip(lambda1, 0, 1))
    assert path["temperature"][9] == pytest.approx(np.clip(np.exp(log_temperature), 1, 10))


@pytest.mark.parametrize("name", ["none", "naive", "fixed", "random", "hyperopt"])
def test_fixed_methods_have_a_flat_path(name, make, digits, logits):
    given = {} if name == "naive" else {"lambda1": 0.3, "temperature": 4.0}
    clf = make(meta=name, **given).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    rows = 400 if name != "hyperopt" else 360
    assert len(path) == clf.n_iter_ == 2 * -(-rows // 32)
    assert np.ptp(path["lambda1"]) == np.ptp(path["temperature"]) == 0
    assert not path["predicted"].any() and np.isnan(path["val_loss"]).all()
    assert (clf.lambda1_, clf.temperature_) == (path["lambda1"][-1], path["temperature"][-1])
    expected = {"none": (1.0, 1.0), "naive": (0.5, 1.0), "fixed": (0.3, 4.0)}
    if name in expected:
        assert (clf.lambda1_, clf.temperature_) == expected[name]
    else:
        assert 0 <= clf.lambda1_ <= 1 and 0.1 <= clf.temperature_ <= 10


def test_golden_path(make, digits, logits):
    """Catches a silent change of the numerics; the values are this library's own."""
    clf = make(meta="linear", e1=5, e2=3, temperature=2.0, meta__hypergradient="exact", standardize=False)
    path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_[[0, 4, 7, 12, 15, 23]]
    lambda1 = [0.503492, 0.507142, 0.510002, 0.515524, 0.517752, 0.542118]
    temperature = [1.999551, 1.997389, 1.995679, 1.994298, 1.993572, 1.983348]
    np.testing.assert_allclose(path["lambda1"], lambda1, atol=2e-5)
    np.testing.assert_allclose(path["temperature"], temperature, atol=5e-5)


def test_projection_keeps_the_bounds(make, digits, logits):
    """Steps and predictions far too long end on the bounds, not beyond them."""
    for strategy in (meta.Gradient(lr=1e4), meta.Linear(3, 20, form="increments", lr=1e4)):
        clf = make(meta=strategy, loss__temperature_bounds=(0.5, 3.0), max_epochs=4)
        path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
        assert path["lambda1"].min() >= 0 and path["lambda1"].max() <= 1
        assert path["temperature"].min() >= 0.5 and path["temperature"].max() <= 3
        assert np.isin(path["lambda1"], [0, 1]).any()


def test_non_finite_hypergradient_moves_nothing():
    m = make_path(0.4, 2.0)
    for h in ([np.nan, 1.0], [1.0, np.inf], [0.1, 0.05]):
        m.record(m.descend(torch.tensor(h)), torch.tensor(1.0))
    path = m.table()
    np.testing.assert_array_equal(path["lambda1"][:2], 0.4)
    np.testing.assert_array_equal(path["temperature"][:2], 2.0)
    assert path["lambda1"][2] == pytest.approx(0.3)
    assert path["temperature"][2] == pytest.approx(2 * np.exp(-0.05 * 2))  # a step in log T


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_no_metaparameter_step_in_adams_first_ten(optimizer, make, digits, logits):
    clf = make(meta="gradient", optimizer=optimizer, lr=1e-3).fit(*digits, teacher_logits=logits)
    lambda1 = clf.metaparameter_path_["lambda1"]
    assert (lambda1[:10] == 0.5).all() and (np.diff(lambda1[9:]) != 0).all()


def test_hyperopt_keeps_its_trials(make, digits, logits):
    strategy = meta.Hyperopt(n_trials=4, n_startup_trials=2)
    clf = make(meta=strategy).fit(*digits, teacher_logits=logits)
    assert clf.trials_.shape == (4,) and not hasattr(strategy, "trials_")
    best = clf.trials_[clf.trials_["val_loss"].argmin()]
    assert (clf.lambda1_, clf.temperature_) == (best["lambda1"], best["temperature"])
    # The final student is the best trial's: same initialisation, same batches.
    assert clf.history_[-1, "valid_loss"] == pytest.approx(best["val_loss"], rel=1e-6)


def test_hyperopt_startup_trials_are_the_random_part(make, digits, logits):
    """TPE and random search draw the same start-up trials and then part."""
    trials = {}
    for n_startup in (2, 5):
        strategy = meta.Hyperopt(n_trials=5, n_startup_trials=n_startup)
        trials[n_startup] = make(meta=strategy).fit(*digits, teacher_logits=logits).trials_["lambda1"]
    np.testing.assert_array_equal(trials[2][:2], trials[5][:2])
    assert (trials[2][2:] != trials[5][2:]).all()


def test_guided_trials_asked_for_at_once_are_told_less(make, digits, logits):
    """The first of them is the sequential one; the next does not know how that went."""
    trials = {}
    for at_once in (1, 2):
        strategy = meta.Hyperopt(n_trials=7, n_startup_trials=3, n_guided_at_once=at_once)
        trials[at_once] = make(meta=strategy).fit(*digits, teacher_logits=logits).trials_["lambda1"]
    np.testing.assert_array_equal(trials[1][:4], trials[2][:4])
    assert trials[1][4] != trials[2][4] and len(np.unique(trials[2])) == 7


def test_hyperopt_is_hyperopts_own_algorithm():
    """Draw by draw what ``hyperopt.fmin`` tries, also when trials fail."""

    def loss(lambda1, temperature):
        return np.nan if lambda1 > 0.95 else (lambda1 - 0.3) ** 2 + (np.log10(temperature) - 0.4) ** 2

    def objective(draw):
        value = loss(draw["lambda1"], 10 ** draw["log10_temperature"])
        return {"loss": value, "status": STATUS_OK if np.isfinite(value) else STATUS_FAIL}

    done = Trials()
    space = {name: hp.uniform(name, low, 1) for name, low in (("lambda1", 0), ("log10_temperature", -1))}
    fmin(
        objective,
        space,
        algo=partial(tpe.suggest, n_startup_jobs=4),
        max_evals=14,
        rstate=np.random.default_rng(5),
        trials=done,
        verbose=False,
        show_progressbar=False,
    )
    strategy = meta.Hyperopt(n_trials=14, n_startup_trials=4)
    evaluate_all = lambda settings, n_jobs=None: [loss(**start) for start in settings]  # noqa: E731
    best = strategy.start(make_context(evaluate_all, seed=5))
    np.testing.assert_array_equal(strategy.trials_["lambda1"], done.vals["lambda1"])
    assert best["lambda1"] == done.argmin["lambda1"]


def test_random_search(make, digits, logits):
    one = make(meta="random").fit(*digits, teacher_logits=logits)
    assert not hasattr(one, "trials_") and one.n_iter_ == 2 * -(-400 // 32)
    several = make(meta=meta.Random(n_trials=4)).fit(*digits, teacher_logits=logits)
    trials = several.trials_
    assert (trials["lambda1"][0], trials["temperature"][0]) == (one.lambda1_, one.temperature_)
    assert len(np.unique(trials["lambda1"])) == 4 and several.n_iter_ == 2 * -(-360 // 32)
    best = trials[trials["val_loss"].argmin()]
    assert (several.lambda1_, several.temperature_) == (best["lambda1"], best["temperature"])
    assert several.history_[-1, "valid_loss"] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "strategy",
    [meta.Random(n_trials=4), meta.Hyperopt(n_startup_trials=4), meta.Optuna(n_trials=6, n_at_once=4)],
)
def test_trials_are_the_same_together_and_apart(strategy, make, digits, logits, monkeypatch):
    trials = []
    for fewest in (2, np.inf):
        monkeypatch.setattr(_stackable, "FEWEST", fewest)
        trials.append(make(meta=strategy).fit(*digits, teacher_logits=logits).trials_)
    for field in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_allclose(trials[0][field], trials[1][field], rtol=1e-5)


def test_trials_in_processes(make, digits, logits):
    """With a callback, which rules out that they are trained together."""
    trials = []
    for n_jobs in (1, 2):
        callbacks = [EarlyStopping(monitor="valid_acc", patience=1, sink=lambda *args: None)]
        strategy = meta.Random(n_trials=3, n_jobs=n_jobs)
        clf = make(meta=strategy, callbacks=callbacks).fit(*digits, teacher_logits=logits)
        trials.append(clf.trials_["val_loss"])
    np.testing.assert_allclose(*trials, rtol=1e-6)


def test_several_settings_are_evaluated_as_each_alone(make, digits, logits):
    class Better(meta.Strategy):
        learns_from_validation = True

        def start(self, context):
            pairs = [(0.1, 1.0), (0.5, 4.0), (0.9, 2.0)]
            tried = [{"lambda1": lambda1, "temperature": temperature} for lambda1, temperature in pairs]
            self.losses = context.evaluate_all(tried), [context.evaluate(**start) for start in tried]
            return tried[0]

    losses = make(meta=Better()).fit(*digits, teacher_logits=logits).strategy_.losses
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize(
    "strategy", [meta.Random(n_trials=0), meta.Hyperopt(n_guided_at_once=1.5), meta.Optuna(n_at_once=0)]
)
def test_counts_of_trials_are_checked(strategy, make, digits, logits):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        make(meta=strategy).fit(*digits, teacher_logits=logits)


def test_no_trial_with_a_finite_loss():
    context = make_context(lambda settings, n_jobs=None: [np.nan] * len(settings))
    for strategy in (meta.Random(n_trials=3), meta.Hyperopt(), meta.Optuna(n_trials=3)):
        with pytest.raises(ValueError, match=r"None of . trials has a finite validation loss"):
            strategy.start(context)


def test_own_strategy(make, digits, logits):
    """The shortest useful one: a schedule, written as the documentation says."""

    class Warm(meta.Strategy):
        def predict(self, metaparameters):
            share = metaparameters.iteration / 20
            return torch.tensor([1 - share, np.log(2.0)], dtype=torch.float64)

    clf = make(meta=Warm()).fit(*digits, teacher_logits=logits)
    np.testing.assert_allclose(
        clf.metaparameter_path_["lambda1"], np.clip(1 - np.arange(clf.n_iter_) / 20, 0, 1)
    )
    assert clf.metaparameter_path_["predicted"].all() and clf.temperature_ == pytest.approx(2.0)


def test_strategies_clone_and_name_themselves():
    strategy = clone(meta.Linear(e1=7, e2=1, form="values"))
    assert (strategy.e1, strategy.e2, strategy.form) == (7, 1, "values")
    assert set(meta.STRATEGIES) == {
        "none", "naive", "random", "fixed", "gradient", "linear", "forward", "implicit", "shortlist",
        "hyperopt", "optuna", "twins", "halving",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["fixed", "naive", "none", "random"])
def test_val_temperature_of_strategies_that_learn_nothing_from_d_val(name, make, digits, logits):
    """The history has the validation loss at T_val."""
    given = {"teacher_logits": logits, "X_val": digits[0], "y_val": digits[1]}
    clf = make(meta=name, meta__val_temperature=3.0, max_epochs=1).fit(*digits, **given)
    z = torch.as_tensor(clf.predict_log_proba(digits[0])) / 3.0
    expected = torch.nn.functional.cross_entropy(z, torch.as_tensor(digits[1]))
    assert clf.val_temperature_ == 3.0
    assert clf.history_[-1, "valid_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_val_temperature_auto_is_the_optimum(make, digits, logits):
    clf = make(meta="gradient", meta__val_temperature="auto", max_epochs=5)
    X_val, y_val = digits[0][300:], digits[1][300:]
    clf.fit(digits[0][:300], digits[1][:300], teacher_logits=logits[:300], X_val=X_val, y_val=y_val)
    z = clf.student_(torch.as_tensor(X_val)).detach().double()

    def loss(log_t):
        return float(torch.nn.functional.cross_entropy(z / np.exp(log_t), torch.as_tensor(y_val)))

    found = np.log(clf.val_temperature_)
    assert clf.val_temperature_ != 1.0
    assert loss(found) < min(loss(found - 0.01), loss(found + 0.01))


def test_random_start(make, digits, logits):
    starts = [
        make(meta="fixed", lambda1="random", temperature="random", random_state=seed)
        .fit(*digits, teacher_logits=logits)
        .metaparameter_path_[0]
        for seed in range(3)
    ]
    assert len({row["lambda1"] for row in starts}) == 3
    assert all(1 <= row["temperature"] <= 10 for row in starts)


@pytest.mark.parametrize("coordinates", ["own", "raw"])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_coordinates_and_clipping(coordinates, clip):
    """One step of rate 0.5 from (0.4, 2) along h = (0.1, −0.3) by lambda1 and T, by hand."""
    space = SPACE if coordinates == "own" else SPACE.in_raw_coordinates()
    m = make_path(0.4, 2.0, space, clip=clip, params={"lr": 0.5})
    lambda1, temperature = m.descend(torch.tensor([0.1, -0.3])).tolist()
    by_theta = np.array([0.1, -0.3 * (2 if coordinates == "own" else 1)])
    step = -0.5 * (by_theta if clip is None else np.clip(by_theta, -clip, clip))
    assert lambda1 == pytest.approx(0.4 + step[0])
    assert temperature == pytest.approx(2 * np.exp(step[1]) if coordinates == "own" else 2 + step[1])


def test_the_line_is_in_the_coordinates_that_are_learned(make, digits, logits):
    """Predicted values lie on a line in log T, or in T."""
    for coordinates, function in (("own", np.log), ("raw", np.asarray)):
        settings = {"temperature": 2.0, "meta__coordinates": coordinates, "max_epochs": 3}
        path = make(e1=5, e2=5, **settings).fit(*digits, teacher_logits=logits).metaparameter_path_
        predicted = function(path["temperature"][5:10])
        np.testing.assert_allclose(np.diff(predicted, n=2), 0, atol=1e-12)
        assert abs(predicted[-1] - predicted[0]) > 1e-4


# --------------------------------------------------------------------------------------
# Optimizers whose first steps take no hypergradient


def iterations_of(path, *, waiting, e1, e2):
    """Numbers of the iterations that wait, follow a hypergradient, and are predicted."""
    place = np.arange(len(path)) - waiting
    in_cycle = place % (e1 + e2)
    return (
        np.flatnonzero(place < 0),
        np.flatnonzero((place >= 0) & (in_cycle < e1)),
        np.flatnonzero((place >= 0) & (in_cycle >= e1)),
    )


@pytest.mark.filterwarnings("ignore:The hypergradient knows the steps")
@pytest.mark.parametrize(
    "optimizer, waiting",
    [
        ({"optimizer": torch.optim.Adam}, 10),
        ({"optimizer": torch.optim.AdamW}, 10),
        ({"optimizer": torch.optim.Adam, "optimizer__amsgrad": True}, 0),
        ({"optimizer": torch.optim.RMSprop}, 0),
        ({"optimizer": torch.optim.NAdam}, 0),
        ({"optimizer": torch.optim.SGD, "lr": 0.1, "optimizer__momentum": 0.9}, 0),
    ],
)
@pytest.mark.parametrize("e1, e2, max_epochs", [(3, 100, 5), (4, 7, 4)])
def test_the_cycle_starts_with_the_first_hypergradient(
    optimizer, waiting, e1, e2, max_epochs, make, digits, logits
):
    """The lines are those of polyfit through the e1 iterations before them, all of which moved."""
    params = {"lr": 0.01, "standardize": False} | optimizer
    clf = make(meta="linear", e1=e1, e2=e2, max_epochs=max_epochs, temperature=2.0, **params)
    path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
    waits, learned, predicted = iterations_of(path, waiting=waiting, e1=e1, e2=e2)
    assert len(waits) == waiting and len(learned) >= e1 and len(predicted) > 0
    np.testing.assert_array_equal(np.flatnonzero(path["predicted"]), predicted)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(path["val_loss"])), learned)
    theta = np.column_stack([path["lambda1"], np.log(path["temperature"])])
    start = np.array([0.5, np.log(2.0)])
    np.testing.assert_allclose(theta[waits], np.broadcast_to(start, (waiting, 2)), rtol=1e-15)
    moved = np.abs(np.diff(np.vstack([start, theta]), axis=0)).max(axis=1)
    assert (moved[learned] > 0).all()
    for first in predicted[np.isin(predicted - 1, learned)]:
        line = np.polyfit(np.arange(e1), theta[first - e1 : first], 1)[0]
        ahead = np.arange(1, min(e2, len(path) - first) + 1)[:, None]
        expected = theta[first - 1] + line * ahead
        expected = np.clip(expected, [0, 0], [1, np.log(10)])
        np.testing.assert_allclose(theta[first : first + len(ahead)], expected, rtol=1e-9, atol=1e-12)


class Counted(meta.Gradient):
    """Asks for a hypergradient in iterations 2 and 3 of six, and writes down what it is told."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def takes_hypergradient(self, iteration):
        self.told.append(("asked", iteration))
        return iteration % 6 in (2, 3)

    def predict(self, metaparameters):
        now = metaparameters.iteration
        values = metaparameters.trajectory(0, now)
        assert torch.equal(values[-1], metaparameters.trajectory(now, now)[0])
        assert metaparameters.values_after(0)["lambda1"] == 0.5 and len(values) == now + 1
        self.told.append(("predicts", now))
        return values[-1] + 0.001


def test_an_own_strategy_counts_the_same_in_both_of_its_methods(make, digits, logits):
    """Two iterations before its first hypergradient are its own; then it waits until Adam has made ten."""
    strategy = Counted([])
    strategy.__sklearn_clone__ = lambda: strategy
    clf = make(meta=strategy, max_epochs=2, optimizer=torch.optim.Adam, lr=0.01)
    path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
    asked = [iteration for what, iteration in strategy.told if what == "asked"]
    assert asked[:2] == [0, 1] and asked[2:10] == [2] * 8 and asked[10:] == list(range(2, len(path) - 8))
    predicts = [iteration for what, iteration in strategy.told if what == "predicts"]
    assert predicts == [k for k in range(len(path) - 8) if k % 6 not in (2, 3)]
    np.testing.assert_allclose(path["lambda1"][:10], [0.501, *[0.502] * 9])
    assert np.isfinite(path["val_loss"][10:12]).all() and path["lambda1"][11] != path["lambda1"][9]


def test_adam_counts_anew_where_a_warm_fit_goes_on(make, digits, logits):
    clf = make(meta="linear", e1=3, e2=100, optimizer=torch.optim.Adam, lr=0.01, warm_start=True)
    for _ in range(2):
        path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
    half = len(path) // 2
    for part in (path[:half], path[half:]):
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(part["val_loss"])), [10, 11, 12])
        assert part["predicted"][13:].all() and not part["predicted"][:13].any()


def test_a_hypergradient_that_is_skipped_is_a_point_at_which_nothing_moved(make, digits, logits, monkeypatch):
    """The line goes through the path as it was; the cycle does not depend on what was skipped."""
    taken, hypergradient = [], _bilevel.HypergradientEstimator.hypergradient

    def sometimes(record, *args, **kwargs):
        h, val_loss = hypergradient(record, *args, **kwargs)
        taken.append(1)
        return (torch.full_like(h, torch.nan) if len(taken) == 2 else h), val_loss

    monkeypatch.setattr(_bilevel.HypergradientEstimator, "hypergradient", sometimes)
    clf = make(meta="linear", e1=4, e2=9, optimizer=torch.optim.Adam, lr=0.01)
    with pytest.warns(UserWarning, match="1 hypergradients that were not finite"):
        path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
    values = path["lambda1"]
    assert values[11] == values[10] and values[12] != values[11]
    slope = np.polyfit(np.arange(4), values[10:14], 1)[0]
    np.testing.assert_allclose(values[14:20], values[13] + slope * np.arange(1, 7), rtol=1e-9)
