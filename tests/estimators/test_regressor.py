"""DistilledRegressor: fits in the units of y, by every strategy, kept and resumed."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_friedman1
from sklearn.ensemble import RandomForestRegressor, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EpochScoring
from torch import nn
from torch.utils.data import TensorDataset

from helpers.pages import messages
from helpers.refused_numbers import refused_numbers
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    MetaparameterPathDisplay,
    MetaparameterProcess,
    MLPStudent,
)
from sklearn_kd.estimators._regressor_targets import InUnits
from sklearn_kd.losses import HuberLoss, RegressionLoss, SquaredError
from sklearn_kd.tasks._criterion import Criterion
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.training._net import TrainingNet

X, y = make_friedman1(200, noise=1.0, random_state=0)
y = 100 * y + 5000
Y = np.c_[y, X[:, 0] - X[:, 3]]
RIDGE = Ridge().fit(X, y)


def regressor(teacher=None, student=MLPStudent, **params):
    quick = {"max_epochs": 3, "batch_size": 50, "random_state": 0, "device": "cpu", "lr": 0.01}
    if student is MLPStudent:
        quick["student__hidden"] = 16
    return DistilledRegressor(teacher, student, **(quick | params))


def linear_network(model=RIDGE):
    """A network that predicts as a linear model does."""
    net = nn.Linear(10, 1)
    with torch.no_grad():
        net.weight[:] = torch.as_tensor(model.coef_)
        net.bias[:] = float(model.intercept_)
    return net


def assert_equal_paths(a, b):
    for column in b.metaparameter_path_.dtype.names:
        np.testing.assert_array_equal(a.metaparameter_path_[column], b.metaparameter_path_[column])


@pytest.fixture(scope="module")
def fitted():
    return regressor(Ridge(), meta="linear", loss="huber", loss__teacher_bound=0.5, max_epochs=20).fit(X, y)


def test_predictions_are_in_the_units_of_y(fitted):
    assert fitted.score(X, y) > 0.6 and fitted.score(X, y) == pytest.approx(
        1 - np.mean((fitted.predict(X) - y) ** 2) / y.var()
    )
    assert abs(fitted.predict(X).mean() - y.mean()) < 50
    np.testing.assert_allclose(fitted.target_mean_, y.mean())
    np.testing.assert_allclose(fitted.target_scale_, y.std())
    assert sorted(fitted.metaparameters_) == ["lambda1", "teacher_bound", "width"]
    path = fitted.metaparameter_path_
    assert all(np.ptp(path[name][path["search"]]) > 0 for name in fitted.metaparameters_)


def test_units_of_y_do_not_matter():
    """What the student learns is standardised: the same up to float32 in any units."""
    a = regressor(Ridge()).fit(X, y).predict(X)
    b = regressor(Ridge()).fit(X, 1e6 * y - 7).predict(X)
    np.testing.assert_allclose((b + 7) / 1e6, a, rtol=1e-5)


def test_several_targets_have_a_lambda1_each():
    reg = regressor(RandomForestRegressor(5), meta="linear", loss__per_output=True, search_epochs=4).fit(X, Y)
    assert reg.predict(X).shape == Y.shape and reg.n_outputs_ == 2
    assert reg.metaparameters_["lambda1"].shape == (2,) and not hasattr(reg, "lambda1_")
    assert regressor(Ridge()).fit(X, y[:, None]).predict(X).shape == (200, 1)


@pytest.mark.parametrize(
    "meta",
    [
        "shortlist",
        "gradient",
        "forward",
        "implicit",
        "twins",
        "halving",
        "hyperopt",
        "random",
        "naive",
        "none",
    ],
)
def test_every_strategy_runs(meta):
    teacher = None if meta == "none" else FrozenEstimator(RIDGE)
    params = {"search_epochs": 4} if meta in ("gradient", "forward") else {}
    reg = regressor(teacher, meta=meta, **params).fit(X, y)
    assert np.isfinite(reg.predict(X)).all() and 0 <= reg.lambda1_ <= 1
    assert MetaparameterPathDisplay.from_estimator(reg).figure_ is not None
    if meta == "shortlist":
        assert reg.trials_["lambda1"].tolist() == [0.05, 0.6, 0.95]


def test_gaussian_student_learns_where_the_noise_is():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(400, 1))
    z = 10 * (x[:, 0] + x[:, 0] * rng.normal(size=400))
    reg = regressor(None, meta="none", loss="gaussian_nll", max_epochs=30, lr=0.03).fit(x, z)
    mean, std = reg.predict([[0.1], [0.9]], return_std=True)
    assert 0.3 < std[0] < 3 < std[1] < 15 and mean[0] < mean[1]
    with pytest.raises(ValueError, match="'squared_error', the loss on y in fit, learns no variance"):
        regressor(Ridge()).fit(X, y).predict(X, return_std=True)


# --------------------------------------------------------------------------------------
# Teachers


def test_kinds_of_teacher_that_predict_the_same_teach_the_same():
    given = regressor().fit(X, y, teacher_predictions=RIDGE.predict(X)).predict(X)
    for teacher in (FrozenEstimator(RIDGE), RIDGE.predict, linear_network(), [FrozenEstimator(RIDGE)] * 2):
        np.testing.assert_allclose(regressor(teacher).fit(X, y).predict(X), given, rtol=1e-4)


def test_a_teacher_is_fitted_on_d_train_alone():
    seen = []

    class Watching(Ridge):
        def fit(self, X, y, sample_weight=None):
            seen.append((len(X), None if sample_weight is None else sample_weight.sum()))
            return super().fit(X, y, sample_weight)

    reg = regressor(Watching(), keep_teacher=True).fit(X, y, sample_weight=np.full(200, 2.0))
    assert seen == [(170, 340), (200, 400)]  # of the search, and of the retraining
    np.testing.assert_allclose(reg.teacher_.coef_, Ridge(0.5).fit(X, y).coef_)
    unfitted = pickle.loads(pickle.dumps(regressor(RandomForestRegressor(3)).fit(X, y))).teacher
    assert unfitted.n_estimators == 3 and not hasattr(unfitted, "estimators_")


def test_weights_that_do_not_reach_the_teacher_are_said():
    weight = np.arange(200.0)
    with pytest.warns(UserWarning, match="sample_weight does not reach teacher KNeighborsRegressor"):
        regressor(KNeighborsRegressor(), max_epochs=1).fit(X, y, sample_weight=weight)


def test_rows_without_targets_are_learned_from():
    reg = regressor(Ridge(), synthesize=0.5).fit(X[:100], y[:100], X_unlabeled=X[100:])
    assert reg.n_unlabeled_ > 100 and np.isfinite(reg.loss_curve_).all()
    given = {"X_unlabeled": X[100:], "teacher_predictions_unlabeled": RIDGE.predict(X[100:])}
    reg = regressor(meta="fixed", lambda1=0.1, max_epochs=60)
    reg.fit(X[:20], y[:20], teacher_predictions=RIDGE.predict(X[:20]), **given)
    assert reg.score(X[100:], RIDGE.predict(X[100:])) > 0.8


def test_a_network_teacher_is_asked_about_augmented_batches():
    reg = regressor(linear_network(), augment=lambda x: x + 0.5, meta="fixed", lambda1=0.0, max_epochs=20)
    assert reg.fit(X, y).predict(X + 0.5).mean() == pytest.approx(RIDGE.predict(X + 0.5).mean(), rel=0.02)


def test_predictions_are_aligned_by_their_index():
    frame, order = pd.DataFrame(X).add_prefix("x"), np.random.default_rng(0).permutation(200)
    frame.index = frame.index + 1000
    said = pd.Series(RIDGE.predict(X), index=frame.index)
    a = regressor().fit(frame, y, teacher_predictions=said).predict(frame)
    b = regressor().fit(frame, y, teacher_predictions=said.iloc[order]).predict(frame)
    np.testing.assert_array_equal(a, b)


def test_teachers_that_look_unfitted_or_fitted_before_they_are():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "teacher is already fitted")
        for teacher in (StackingRegressor([("ridge", Ridge())], cv=2), GaussianProcessRegressor(alpha=1.0)):
            assert np.isfinite(regressor(teacher, meta="fixed", max_epochs=1).fit(X, y).predict(X[:2])).all()


def test_rows_of_no_weight_do_not_make_the_teachers_units_look_wrong():
    far, weight = np.where(np.arange(200) < 20, 1e9, y), np.arange(200) >= 20
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in the units of y")
        given = {"teacher_predictions": y, "sample_weight": weight * 1e9 + 1e-9}
        regressor(max_epochs=1, meta="fixed").fit(X, far, **given)


def test_a_parameter_of_another_loss_is_said():
    with pytest.warns(UserWarning, match=r"loss__quantile=0.9 with loss='squared_error'.*\['quantile'\]"):
        regressor(Ridge(), loss__quantile=0.9, max_epochs=1, meta="fixed").fit(X, y)


def test_a_student_of_another_width_is_told_of_outputs():
    with pytest.raises(ValueError, match=r"must give 2 outputs.* 2 outputs; .* Make its last layer 2 wide\."):
        regressor(Ridge(), nn.Linear(10, 3)).fit(X, Y)
    softmax = nn.Sequential(nn.Linear(10, 2), nn.Softmax(1))  # odd for numbers, but no probabilities
    regressor(Ridge(), softmax, max_epochs=1, meta="fixed").fit(X, Y)


def test_a_network_of_complex_numbers_is_refused():
    teacher = nn.Sequential(nn.Linear(10, 1), ComplexNumbers())
    with pytest.raises(
        ValueError, match=r"teacher Sequential must predict numbers.* not a table of real numbers"
    ):
        regressor(teacher).fit(X, y)


class ComplexNumbers(nn.Module):
    def forward(self, x):
        return x + 1j


def test_a_teacher_in_other_units_is_noticed():
    with pytest.warns(UserWarning, match="teacher_predictions predicts y .* in the units of y"):
        regressor(max_epochs=1).fit(X, y, teacher_predictions=(y - y.mean()) / y.std())


# --------------------------------------------------------------------------------------
# scikit-learn, files, checkpoints


def test_in_pipelines_and_searches():
    pipe = make_pipeline(StandardScaler(), regressor(Ridge(), max_epochs=10))
    assert cross_val_score(pipe, X, y, cv=2).min() > 0.3
    grid = {"loss": ["huber", SquaredError()], "teacher__alpha": [1.0, 10.0]}
    search = GridSearchCV(regressor(Ridge(), max_epochs=1), grid, cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert "Ridge" in search.best_estimator_._repr_html_()


@pytest.mark.parametrize("loss", [{"loss": "gaussian_nll"}, {"loss": HuberLoss(0.7)}])
def test_files_predict_the_same(loss, tmp_path):
    reg = regressor(Ridge(), meta="linear", search_epochs=4, **loss).fit(X, Y)
    reg.save(tmp_path / "reg.safetensors")
    loaded = DistilledRegressor.load(tmp_path / "reg.safetensors")
    for again in (loaded, pickle.loads(pickle.dumps(reg))):
        np.testing.assert_array_equal(again.predict(X), reg.predict(X))
        assert_equal_paths(again, reg)
        np.testing.assert_array_equal(again.process_.values["lambda1"], reg.process_.values["lambda1"])
    with pytest.raises(ValueError, match="a DistilledRegressor, not a DistilledClassifier"):
        DistilledClassifier.load(tmp_path / "reg.safetensors")


def test_onnx_predicts_in_the_units_of_y(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    reg = regressor(Ridge(), loss="gaussian_nll").fit(X, Y)
    reg.export_student(tmp_path / "reg.onnx")
    session = runtime.InferenceSession(tmp_path / "reg.onnx")
    (found,) = session.run(["predictions"], {"X": X.astype(np.float32)})
    np.testing.assert_allclose(found, reg.predict(X), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mean, scale", [(1e9, 1.0), (0.0, 1e60)])
def test_exported_units_are_not_rounded_to_float32(mean, scale):
    task = Regression(np.array([mean]), np.array([scale]), True, Criterion())
    outputs = torch.tensor([[0.25], [-0.5]])
    np.testing.assert_array_equal(InUnits(nn.Identity(), task)(outputs)[:, 0], task.predictions(outputs))


class Killed(Callback):
    """Ends the fit as a crash does, after some epochs in all trainings."""

    def __init__(self, after=None):
        self.after = after

    def on_epoch_end(self, net, **kwargs):
        if self.after is not None and len(net.history) == self.after:
            raise MemoryError("killed")


@pytest.mark.parametrize("stage", ["search_callbacks", "callbacks"])
def test_a_killed_fit_goes_on_to_the_bit(stage, tmp_path):
    params = {"meta": "linear", "search_epochs": 3, "e1": 2, "e2": 2, "loss": "huber"}
    whole = regressor(Ridge(), **params, **{stage: [Killed()]}).fit(X, y)
    killed = regressor(Ridge(), **params, checkpoint_dir=tmp_path, **{stage: [Killed(2)]})
    with pytest.raises(MemoryError):
        killed.fit(X, y)
    resumed = regressor(Ridge(), **params, checkpoint_dir=tmp_path, **{stage: [Killed()]}).fit(X, y)
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))
    assert_equal_paths(resumed, whole)


def test_a_continued_fit_keeps_the_units_of_the_first():
    reg = regressor(Ridge(), warm_start=True, search_epochs=None, meta="linear").fit(X, y)
    mean, n_iter = reg.target_mean_, reg.n_iter_
    reg.fit(X[:100], y[:100] + 500)
    assert reg.target_mean_ == mean and reg.n_iter_ > n_iter


def test_a_process_is_followed(fitted, tmp_path):
    fitted.process_.save(tmp_path / "process.safetensors")
    process = MetaparameterProcess.load(tmp_path / "process.safetensors")
    follower = regressor(Ridge(), process=process, loss="huber", loss__teacher_bound=0.5).fit(X, y)
    assert follower.metaparameters_["width"] == pytest.approx(fitted.metaparameters_["width"], rel=1e-5)


def test_scorers_see_the_units_of_y():
    """Those of callbacks: R² is recorded by itself, and errors are in the units of y."""
    error = EpochScoring("neg_mean_absolute_error", name="mae", lower_is_better=False)
    reg = regressor(Ridge(), meta="linear", search_epochs=None, callbacks=[error]).fit(X, y)
    row = reg.history_[-1]
    assert 50 < -row["mae"] < 1000 and row["valid_r2"] == reg.validation_scores_[-1]
    assert "valid_acc" not in row


def test_a_dataset_has_its_targets_in_its_items():
    data = TensorDataset(torch.as_tensor(X).float(), torch.as_tensor(y).float())
    reg = regressor(linear_network()).fit(data)
    assert reg.score(data) == pytest.approx(reg.score(X, y), abs=1e-4)


# --------------------------------------------------------------------------------------
# Refused


REFUSED = refused_numbers(X, y)


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, monkeypatch):
    params, given = REFUSED[what]
    monkeypatch.setattr(TrainingNet, "train_step", None)
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        regressor(**({"teacher": Ridge()} | params)).fit(**({"X": X, "y": y} | given))


def test_losses_and_teachers_of_the_other_kind_are_refused():
    with pytest.raises(TypeError, match="is not for DistilledClassifier"):
        DistilledClassifier(None, MLPStudent, loss=SquaredError(), meta="none").fit(X, y > y.mean())
    with pytest.raises(TypeError, match="Ridge is a regressor: give a classifier, or use DistilledRegressor"):
        DistilledClassifier(Ridge(), MLPStudent).fit(X, y > y.mean())


def test_a_function_is_told_the_number_of_outputs():
    def made(in_features, n_outputs):
        return nn.Linear(in_features, n_outputs)

    reg = regressor(Ridge(), made, loss="gaussian_nll", max_epochs=1).fit(X, Y)
    assert reg.predict(X).shape == Y.shape and reg._task.n_outputs == 4


def test_a_score_needs_targets(fitted):
    with pytest.raises(ValueError, match="score needs y, unless X is a Dataset"):
        fitted.score(X)


def test_rows_that_overflow_are_refused():
    reg = regressor(None, nn.Linear(10, 2), meta="none", standardize=False).fit(X, Y)
    with torch.no_grad():
        reg.student_.weight[:] = torch.tensor([[-10.0], [0.0]])
    rows = X.copy()
    rows[7] = 3e38
    with pytest.raises(
        ValueError, match="X has 1 rows, such as row 7, for which the student's outputs overflow"
    ):
        reg.predict(rows)


def test_a_loss_of_ones_own():
    class LogCosh(RegressionLoss):
        def errors(self, outputs, targets):
            return torch.log(torch.cosh(outputs - targets))

    assert regressor(Ridge(), loss=LogCosh(), meta="linear", max_epochs=10).fit(X, y).score(X, y) > 0.3


def test_a_student_that_learns_nothing_is_noticed():
    with pytest.warns(UserWarning, match="The student learned nothing: it predicts one number"):
        regressor(None, nn.Sequential(nn.Linear(10, 1), nn.ReLU(), nn.Linear(1, 1)), meta="none", lr=0.0,
                  max_epochs=30, standardize=False).fit(0 * X, y)  # fmt: skip
