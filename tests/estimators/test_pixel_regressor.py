"""DistilledRegressor on maps of numbers: fits in the units of y, unknown pixels, teachers, files, checkpoints."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.callbacks import Callback, EpochScoring
from torch import nn
from torch.utils.data import Dataset

from helpers.pages import messages
from helpers.refused_number_maps import refused_number_maps
from sklearn_kd import DistilledRegressor, MetaparameterPathDisplay, ResizedStudent
from sklearn_kd.estimators._regressor_targets import target_attributes, targets_content
from sklearn_kd.files._values import ContentError
from sklearn_kd.losses import REGRESSION_LOSSES, BerHuLoss, SquaredError
from sklearn_kd.metrics import masked_root_mean_squared_error
from sklearn_kd.tasks._number_kinds import Numbers
from sklearn_kd.training._net import TrainingNet

RNG = np.random.default_rng(0)
N, SIZE = 24, 8
X = RNG.normal(size=(N, 2, SIZE, SIZE)).astype(np.float32)
TRUTH = 1000 + 50 * (X[:, 0] - X[:, 1]).astype(np.float64)
Y = np.where(RNG.random(TRUTH.shape) < 0.3, np.nan, TRUTH + RNG.normal(size=TRUTH.shape))
KNOWN = ~np.isnan(Y)


class Student(nn.Module):
    """Maps of the size of the images, or of a part of it."""

    def __init__(self, in_channels, n_outputs, stride=1):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, n_outputs, 3, stride=stride, padding=1)

    def forward(self, x):
        return self.layer(x)


class Truth(nn.Module):
    """A network that predicts the truth, in maps of shape (n, 1, h, w) of a part of the size."""

    def __init__(self, stride=1):
        super().__init__()
        self.stride, self.one = stride, nn.Parameter(torch.ones(()))

    def forward(self, x):
        maps = 1000 + 50 * (x[:, :1] - x[:, 1:]) * self.one
        return maps[:, :, :: self.stride, :: self.stride]


def truth_of(x):
    return 1000 + 50 * (x[:, 0] - x[:, 1])


def regressor(teacher=None, student=Student, **params):
    quick = {"max_epochs": 3, "batch_size": 8, "random_state": 0, "device": "cpu", "lr": 0.05}
    return DistilledRegressor(teacher, student, **(quick | params))


def assert_equal_paths(a, b):
    for column in b.metaparameter_path_.dtype.names:
        np.testing.assert_array_equal(a.metaparameter_path_[column], b.metaparameter_path_[column])


@pytest.fixture(scope="module")
def fitted():
    return regressor(Truth(), meta="linear", loss="berhu", search_epochs=None, max_epochs=15).fit(X, Y)


def test_maps_are_predicted_in_the_units_of_y(fitted):
    predicted = fitted.predict(X)
    assert predicted.shape == Y.shape and predicted.dtype == np.float64 and fitted.map_shape_ == (SIZE, SIZE)
    assert fitted.score(X, Y) == r2_score(Y[KNOWN], predicted[KNOWN]) > 0.9
    np.testing.assert_allclose(fitted.target_mean_, Y[KNOWN].mean())
    np.testing.assert_allclose(fitted.target_scale_, Y[KNOWN].std())
    assert sorted(fitted.metaparameters_) == ["lambda1", "width"]
    assert all(np.ptp(fitted.metaparameter_path_[name]) > 0 for name in fitted.metaparameters_)
    assert fitted.validation_scores_[-1] > 0.8
    assert MetaparameterPathDisplay.from_estimator(fitted).figure_ is not None


@pytest.mark.parametrize("loss", REGRESSION_LOSSES)
def test_every_loss_learns_from_the_known_pixels_alone(loss):
    """What stands in unknown pixels of y is NaN; the student is none the worse for it."""
    reg = regressor(None, meta="none", loss=loss, max_epochs=40).fit(X, Y)
    assert r2_score(TRUTH.ravel(), reg.predict(X).ravel()) > 0.9


@pytest.mark.parametrize(
    "meta",
    ["shortlist", "gradient", "forward", "implicit", "twins", "halving", "hyperopt", "random", "naive"],
)
def test_every_strategy_runs(meta):
    params = {"search_epochs": 2, "batch_size": 2} if meta in ("gradient", "forward") else {}
    params |= {"meta__n_trials": 2} if meta == "hyperopt" else {}
    reg = regressor(Truth(), meta=meta, max_epochs=2, **params).fit(X, Y)
    assert np.isfinite(reg.predict(X)).all() and 0 <= reg.lambda1_ <= 1


def test_a_gaussian_student_says_how_sure_it_is():
    noise = RNG.normal(size=Y.shape) * np.where(np.arange(SIZE) < SIZE // 2, 1, 100)  # on the right
    images = np.concatenate([X, np.broadcast_to(np.arange(SIZE) < SIZE // 2, (N, 1, SIZE, SIZE))], axis=1)
    reg = regressor(None, meta="none", loss="gaussian_nll", max_epochs=60).fit(images, Y + noise)
    mean, std = reg.predict(images, return_std=True)
    assert mean.shape == std.shape == Y.shape
    assert 3 * std[:, :, 1:3].mean() < std[:, :, 5:7].mean() < 200
    with pytest.raises(ValueError, match="learns no variance"):
        regressor(None, meta="none").fit(X, Y).predict(X, return_std=True)


def test_maps_of_another_size_are_resized_to_that_of_y():
    reg = regressor(None, meta="none", student__stride=2).fit(X, Y)
    assert isinstance(reg.student_, ResizedStudent) and reg.predict(X).shape == Y.shape
    larger = np.tile(X[:3], (1, 1, 2, 1))
    assert reg.predict(larger).shape == (3, 2 * SIZE, SIZE)
    halves = regressor(None, meta="none").fit(X, Y[:, ::2, ::2])  # y of half the size
    assert halves.predict(X).shape == (N, SIZE // 2, SIZE // 2)
    assert halves.predict(larger).shape == (3, SIZE, SIZE // 2)


def test_tiles_predict_as_the_whole():
    """Far from the ends of a tile the student sees what it sees in the whole image."""
    reg = regressor(None, meta="none", loss="gaussian_nll", student__stride=2).fit(X, Y)
    large = np.tile(X[:2], (1, 1, 4, 3))
    whole, tiled = (reg.predict(large, return_std=True, **tiles) for tiles in ({}, {"tile": 16}))
    for a, b in zip(whole, tiled, strict=True):
        assert a.shape == b.shape == (2, 32, 24)
        np.testing.assert_allclose(a[:, :8, :8], b[:, :8, :8], rtol=1e-5)
        assert np.abs(a - b).mean() < 0.1 * reg.target_scale_
    rows = regressor(None, nn.Linear(2, 1), meta="none").fit(X[:, :, 0, 0], TRUTH[:, 0, 0])
    with pytest.raises(ValueError, match="tile=16 cuts images into parts, but y had no maps"):
        rows.predict(X[:, :, 0, 0], tile=16)


# --------------------------------------------------------------------------------------
# Teachers


def test_kinds_of_teacher_that_predict_the_same_teach_the_same():
    given = regressor().fit(X, Y, teacher_predictions=TRUTH).predict(X)
    for teacher in (Truth(), truth_of, [Truth(), truth_of], FrozenEstimator(Predicting().fit(X, Y))):
        np.testing.assert_allclose(regressor(teacher).fit(X, Y).predict(X), given, rtol=1e-4)
    again = regressor().fit(X, Y, teacher_predictions=TRUTH[:, None]).predict(X)
    np.testing.assert_array_equal(again, given)


class Predicting(Ridge):
    """A regressor of images that predicts the truth, and notes what it is fitted on."""

    def fit(self, X, y, sample_weight=None):
        self.seen_ = np.shape(y), float(np.nanmean(y))
        self.coef_ = 0.0
        return self

    def predict(self, X):
        return truth_of(X)


def test_a_teacher_is_fitted_on_the_maps_of_d_train():
    reg = regressor(Predicting(), keep_teacher=True).fit(X, Y)
    shape, mean = reg.teacher_.seen_
    assert shape == Y.shape and mean == pytest.approx(np.nanmean(Y))


def test_a_distilled_regressor_teaches_another():
    large = regressor(None, meta="none", max_epochs=20)
    for teacher in (large, FrozenEstimator(clone(large).fit(X, Y))):
        assert regressor(teacher, meta="fixed", lambda1=0.0, max_epochs=20).fit(X, Y).score(X, TRUTH) > 0.9


def test_a_teacher_of_small_maps_is_followed_at_the_size_of_y():
    smooth = np.repeat(np.repeat(RNG.normal(size=(N, 1, 4, 4)), 2, axis=2), 2, axis=3).astype(np.float32)
    images = np.concatenate([smooth, 0 * smooth], axis=1)
    reg = regressor([Truth(stride=2), Truth(stride=4)], meta="fixed", lambda1=0.0, max_epochs=20)
    assert reg.fit(images, truth_of(images)).score(images, truth_of(images)) > 0.5


def test_unknown_pixels_follow_the_teacher():
    half = np.where(np.arange(SIZE) < SIZE // 2, Y, np.nan)
    weights = np.zeros((1, 2, SIZE, SIZE), np.float32)
    reg = regressor(
        Truth(), PixelTable, student__shape=weights.shape, meta="fixed", lambda1=0.5, max_epochs=60
    )
    assert reg.fit(X, half).score(X, np.where(np.arange(SIZE) < SIZE // 2, np.nan, TRUTH)) > 0.9


class PixelTable(nn.Module):
    """Weights of its own for every pixel, so that nothing is learned of one pixel from another."""

    def __init__(self, shape):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape[2:]))

    def forward(self, x):
        return (x * self.weight).sum(dim=1, keepdim=True) + self.bias


def test_images_without_maps_are_learned_from():
    params = {"meta": "fixed", "lambda1": 0.1, "max_epochs": 25}
    reg = regressor(Truth(), **params).fit(X[:4], Y[:4], X_unlabeled=X[4:])
    assert reg.n_unlabeled_ == 20 and reg.score(X[4:], TRUTH[4:]) > 0.9
    given = {"teacher_predictions": TRUTH[:4], "teacher_predictions_unlabeled": TRUTH[4:]}
    again = regressor(**params).fit(X[:4], Y[:4], X_unlabeled=X[4:], **given)
    np.testing.assert_allclose(again.predict(X), reg.predict(X), rtol=1e-4)


def flipped(x, y):
    """Images and maps from right to left, every other time."""
    if torch.rand(()) < 0.5:
        return x, y
    return x.flip(3), y.flip(2)


def test_augment_changes_images_and_maps_in_the_units_of_y():
    seen = []

    def shifted(x, y):
        seen.append((x.shape, y.shape, y.dtype, float(y.nanmean()), int(y.isnan().sum())))
        return flipped(x, y + 100)  # the student learns what augment makes of y

    reg = regressor(Truth(), augment=shifted, meta="fixed", lambda1=1.0, max_epochs=20).fit(X, Y)
    image, map_, dtype, mean, n_unknown = seen[-1]
    assert image[1:] == (2, SIZE, SIZE) and map_[1:] == (SIZE, SIZE) and dtype == torch.float32
    assert abs(mean - 1000) < 50 and 0 < n_unknown < 64 * image[0]
    assert reg.score(X, Y + 100) > 0.9


def test_several_teachers_answer_for_cropped_images():
    def cropped(x, y):
        return x[:, :, 2:, :6], y[:, 2:, :6]

    teachers = [Truth(), Truth(stride=2)]
    reg = regressor(teachers, augment=cropped, meta="fixed", lambda1=0.5, max_epochs=20).fit(X, Y)
    assert reg.score(X, TRUTH) > 0.5


def test_what_augment_must_not_do_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(TrainingNet, "train_step", None)
    for augment, message in (
        (lambda x: x, "augment takes \\(X, y\\) and returns both"),
        (lambda x, y: x, "must return both, the same number of each; it returned one tensor"),
        (lambda x, y: (x, y / 0), "augment returned maps with infinity. Fill .* with NaN"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            regressor(Truth(), augment=augment).fit(X, Y)


def test_a_teacher_in_other_units_is_noticed():
    with pytest.warns(UserWarning, match="teacher_predictions predicts y .* in the units of y"):
        regressor(max_epochs=1).fit(X, Y, teacher_predictions=TRUTH / 1000)


# --------------------------------------------------------------------------------------
# scikit-learn, Datasets, files, checkpoints


def test_weights_of_images_and_searches():
    weight = np.r_[np.zeros(12), np.ones(12)]
    far = np.where(np.arange(N)[:, None, None] < 12, 1e9, Y)
    reg = regressor(None, meta="none", max_epochs=15).fit(X, far, sample_weight=weight)
    assert reg.score(X, Y) > 0.9 and reg.score(X, far, sample_weight=weight) > 0.9
    for wrong in (weight[:1], weight[:, None, None], -weight):
        with pytest.raises(ValueError, match=r"sample_weight (a|has)"):
            reg.score(X, Y, sample_weight=wrong)
    scorer = make_scorer(masked_root_mean_squared_error, greater_is_better=False)
    few = regressor(None, meta="none", max_epochs=12)
    assert cross_val_score(few, X, Y, cv=2, scoring=scorer).min() > -30
    search = GridSearchCV(few, {"loss": ["berhu", SquaredError()]}, cv=2).fit(X, Y)
    assert search.best_score_ > 0.8


def test_the_loss_on_d_val_is_the_mean_over_its_known_pixels():
    """Of batches of which some have few known pixels, and one has none."""
    few = np.where(np.arange(N)[:, None, None] < 4, Y, np.nan)
    few[4:8, 0, 0] = 900.0
    reg = regressor(None, meta="none", max_epochs=2, batch_size=4)
    reg.fit(X, Y, X_val=X[:12], y_val=few[:12])
    known = ~np.isnan(few[:12])
    errors = ((few[:12] - reg.predict(X[:12]))[known] / reg.target_scale_) ** 2
    assert reg.history_[-1]["valid_loss"] == pytest.approx(errors.mean(), rel=1e-5)


def test_scorers_of_callbacks_see_known_pixels_in_the_units_of_y():
    masked = make_scorer(masked_root_mean_squared_error)
    scorers = [
        ("mae", EpochScoring("neg_mean_absolute_error", name="mae", lower_is_better=False)),
        ("rmse", EpochScoring(masked, name="rmse")),
        ("anew", EpochScoring(masked, name="anew", use_caching=False)),
        ("train", EpochScoring("neg_mean_absolute_error", name="train", on_train=True)),
    ]
    row = regressor(Truth(), callbacks=scorers, search_epochs=None, meta="linear").fit(X, Y).history_[-1]
    assert 0.5 < -row["mae"] / row["rmse"] < 1 and 5 < row["rmse"] < 70 and -70 < row["train"] < -5
    assert row["anew"] == pytest.approx(row["rmse"], rel=1e-5) and "valid_r2" in row


class Pairs(Dataset):
    """Images with their maps."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.as_tensor(X[i]), torch.as_tensor(Y[i])


def test_a_dataset_has_its_maps_in_its_items():
    reg = regressor(Truth()).fit(Pairs())
    assert reg.score(Pairs()) == pytest.approx(reg.score(X, Y), abs=1e-4)
    np.testing.assert_allclose(reg.predict(Pairs()), regressor(Truth()).fit(X, Y).predict(X), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Not saved, because they cannot be written as JSON")
@pytest.mark.parametrize("loss", ["gaussian_nll", BerHuLoss(0.3)])
def test_files_predict_the_same(loss, tmp_path):
    reg = regressor(Truth(), meta="linear", loss=loss, search_epochs=2, batch_size=2, student__stride=2).fit(
        X, Y
    )
    reg.save(tmp_path / "reg.safetensors")
    loaded = DistilledRegressor.load(tmp_path / "reg.safetensors", student=Student)
    for again in (loaded, pickle.loads(pickle.dumps(reg))):
        np.testing.assert_array_equal(again.predict(X), reg.predict(X))
        assert again.score(X, Y) == reg.score(X, Y) and again.map_shape_ == reg.map_shape_
        assert_equal_paths(again, reg)


@pytest.mark.parametrize(
    "changed",
    [{"map_shape": [8]}, {"map_shape": [8, -1]}, {"map_shape": "88"}, {"map_shape": [2**40, 8]},
     {"single": False}, {"criterion": ["berhu", 0]}, {"criterion": ["berhu", None]}],
)  # fmt: skip
def test_damaged_targets_of_a_file_are_refused(changed, fitted):
    content = targets_content(fitted._task)
    assert target_attributes(content)["map_shape_"] == (SIZE, SIZE)
    with pytest.raises(ContentError):
        target_attributes({"targets": content["targets"] | changed})


def test_onnx_predicts_maps_in_the_units_of_y(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    reg = regressor(None, meta="none", loss="gaussian_nll", student__stride=2).fit(X, Y)
    reg.export_student(tmp_path / "reg.onnx")
    session = runtime.InferenceSession(tmp_path / "reg.onnx")
    (found,) = session.run(["predictions"], {"X": X[:5]})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reg.predict(X[:5]), rtol=1e-5)
    taught = regressor(tmp_path / "reg.onnx", meta="fixed", lambda1=0.0, max_epochs=15).fit(X, Y)
    assert taught.score(X, reg.predict(X)) > 0.5


class Killed(Callback):
    """Ends the fit as a crash does, after some epochs in all trainings."""

    def __init__(self, after=None):
        self.after = after

    def on_epoch_end(self, net, **kwargs):
        if self.after is not None and len(net.history) == self.after:
            raise MemoryError("killed")


@pytest.mark.parametrize("stage", ["search_callbacks", "callbacks"])
def test_a_killed_fit_goes_on_to_the_bit(stage, tmp_path):
    params = {
        "meta": "linear",
        "search_epochs": 3,
        "e1": 2,
        "e2": 2,
        "loss": "berhu",
        "batch_size": 4,
        "student__stride": 2,
    }
    whole = regressor(Truth(), **params, **{stage: [Killed()]}).fit(X, Y)
    killed = regressor(Truth(), **params, checkpoint_dir=tmp_path, **{stage: [Killed(2)]})
    with pytest.raises(MemoryError):
        killed.fit(X, Y)
    resumed = regressor(Truth(), **params, checkpoint_dir=tmp_path, **{stage: [Killed()]}).fit(X, Y)
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))
    assert_equal_paths(resumed, whole)


def test_a_continued_fit_keeps_the_units_of_the_first():
    reg = regressor(Truth(), warm_start=True, search_epochs=None, meta="linear").fit(X, Y)
    mean, n_iter = reg.target_mean_, reg.n_iter_
    reg.fit(X[:10], Y[:10] + 20)
    assert reg.target_mean_ == mean and reg.n_iter_ > n_iter
    with pytest.raises(ValueError, match=r"maps of shape \(8, 8\), but y has maps of shape \(4, 8\)"):
        reg.fit(X, Y[:, :4])


def test_rows_after_maps_leave_nothing_behind(fitted):
    reg = regressor(None, meta="none").fit(X, Y)
    reg.set_params(student=nn.Linear(4, 1)).fit(RNG.normal(size=(30, 4)), RNG.normal(size=30))
    assert reg.predict(np.zeros((2, 4))).shape == (2,) and not hasattr(reg, "map_shape_")


# --------------------------------------------------------------------------------------
# Refused


def test_channels_that_seem_to_be_last_are_named():
    reg = regressor(None, meta="none", max_epochs=1)
    with pytest.warns(UserWarning, match=r"\(8, 8, 2\).*the channels seem to be last"):
        reg.fit(X.transpose(0, 2, 3, 1), Y)


def test_the_student_of_a_regressor_as_teacher_is_told_to_be_given_with_its_units():
    own = regressor(None, meta="none").fit(X, Y)
    with pytest.warns(UserWarning, match=messages()["a teacher in other units"]):
        regressor(own.student_, meta="naive", max_epochs=1).fit(X, Y)


WHOLE = np.rint(TRUTH).astype(np.uint16)
HOLES = np.isnan(Y)


@pytest.mark.parametrize(
    ("y", "code"),
    [
        (np.where(HOLES, 0, WHOLE), 0),
        (np.where(HOLES, 65535, WHOLE), 65535),
        (np.where(HOLES, 255, WHOLE % 5).astype(np.uint8), 255),
    ],
)
def test_whole_numbers_that_may_mean_no_target_are_warned_of(y, code):
    with pytest.warns(UserWarning, match=messages()["whole numbers in pixels without a target"]) as found:
        regressor(None, meta="none", max_epochs=1).fit(X, y)
    assert len(found) == 1 and f"np.where(y == {code}, np.nan, y)" in str(found[0].message)


@pytest.mark.parametrize(
    "y", [WHOLE, WHOLE % 5, np.where(WHOLE > 1000, 255, 0).astype(np.uint8), np.where(HOLES, 0.0, WHOLE)]
)
def test_other_numbers_are_not_warned_of(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Numbers(SquaredError()).check_targets(y, len(y))


REFUSED = refused_number_maps(X, Y)


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, monkeypatch):
    params, given = REFUSED[what]
    monkeypatch.setattr(TrainingNet, "train_step", None)
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        regressor(**({"teacher": Truth()} | params)).fit(**({"X": X, "y": Y} | given))
