"""The strategies and the path."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_kd import _bilevel, meta
from sklearn_kd._metaparameters import Metaparameters
from sklearn_kd.meta._gradient import _FORMS


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
        return descend(self, hypergradient / torch.stack([torch.ones(()), self.temperature]))

    descend = Metaparameters.descend
    monkeypatch.setattr(_bilevel.StepRecord, "hypergradient", constant)
    monkeypatch.setattr(Metaparameters, "descend", by_theta)
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
    clf = make(meta="linear", e1=3, e2=2, val_temperature=1.5).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    assert path.dtype.names == ("iteration", "lambda1", "temperature", "val_loss", "predicted")
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
    clf = make(meta=name, lambda1=0.3, temperature=4.0).fit(*digits, teacher_logits=logits)
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
    clf = make(meta="linear", e1=5, e2=3, temperature=2.0, hypergradient="exact")
    path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_[[0, 4, 7, 12, 15, 23]]
    lambda1 = [0.503492, 0.507142, 0.510002, 0.515524, 0.517752, 0.542118]
    temperature = [1.999551, 1.997389, 1.995679, 1.994298, 1.993572, 1.983348]
    np.testing.assert_allclose(path["lambda1"], lambda1, atol=2e-5)
    np.testing.assert_allclose(path["temperature"], temperature, atol=5e-5)


def test_projection_keeps_the_bounds(make, digits, logits):
    """Steps and predictions far too long end on the bounds, not beyond them."""
    for strategy in (meta.Gradient(), meta.Linear(3, 20, form="increments")):
        clf = make(meta=strategy, meta_lr=1e4, temperature_bounds=(0.5, 3.0), max_epochs=4)
        path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
        assert path["lambda1"].min() >= 0 and path["lambda1"].max() <= 1
        assert path["temperature"].min() >= 0.5 and path["temperature"].max() <= 3
        assert np.isin(path["lambda1"], [0, 1]).any()


def test_non_finite_hypergradient_moves_nothing():
    m = Metaparameters(0.4, 2.0)
    for h in ([np.nan, 1.0], [1.0, np.inf], [0.1, 0.05]):
        m.record(m.descend(torch.tensor(h)), torch.tensor(1.0))
    path = m.path()
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
        "none", "naive", "random", "fixed", "gradient", "linear", "hyperopt",
    }  # fmt: skip


def test_val_temperature_auto_is_the_optimum(make, digits, logits):
    clf = make(meta="gradient", val_temperature="auto", max_epochs=5)
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
