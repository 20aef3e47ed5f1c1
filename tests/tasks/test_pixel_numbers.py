"""Numbers of pixels as targets: units of the known pixels, validation loss, splits, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from sklearn_kd.tasks import _pixel_numbers
from sklearn_kd.tasks._criterion import CRITERIA, Criterion
from sklearn_kd.tasks._number_kinds import Numbers
from sklearn_kd.tasks._pixel_numbers import PixelRegression, checked_number_maps
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.tasks._targets import Targets, label_weights

RNG = np.random.default_rng(0)
SHAPE = (12, 4, 5)
Y = np.where(RNG.random(SHAPE) < 0.3, np.nan, 3 * RNG.normal(size=SHAPE) + 100)
KNOWN = ~np.isnan(Y)
PARAMETERS = {"huber": 0.8, "berhu": 0.4, "quantile": 0.3}


def made(y=Y, weight=None, criterion=None):
    return Numbers(criterion or Criterion()).from_targets(y, weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_codes_have_mean_0_and_deviation_1_over_the_known_pixels(weighted, monkeypatch):
    monkeypatch.setattr(_pixel_numbers, "_PIXELS_AT_A_TIME", 50)  # several parts
    weight = RNG.integers(0, 3, 12) if weighted else None
    task, codes = made(weight=weight)
    by_pixel = np.broadcast_to(np.ones(12)[:, None, None] if weight is None else weight[:, None, None], SHAPE)
    mean = np.average(Y[KNOWN], weights=by_pixel[KNOWN])
    np.testing.assert_allclose(task.mean, mean)
    np.testing.assert_allclose(task.scale**2, np.average((Y[KNOWN] - mean) ** 2, weights=by_pixel[KNOWN]))
    assert codes.shape == SHAPE and codes.dtype == np.float32 and task.map_shape == (4, 5)
    np.testing.assert_array_equal(np.isnan(codes), ~KNOWN)
    np.testing.assert_allclose(task.decode(codes), Y, rtol=1e-6)


def test_units_beyond_the_range_of_squares():
    for factor in (2.0**-600, 2.0**600):  # whose squares vanish, and overflow
        np.testing.assert_array_equal(made(factor * Y)[1], made()[1])
    with pytest.raises(ValueError, match=r"y has numbers up to 1.7e\+308, whose sum or differences overflow"):
        made(np.full(SHAPE, 1.7e308))


@pytest.mark.parametrize("name", CRITERIA)
def test_validation_leaves_unknown_pixels_out(name):
    """The mean of the loss, and its gradient, are those of the known rows alone."""
    criterion = Criterion(name, PARAMETERS.get(name))
    task = PixelRegression(np.zeros(1), np.ones(1), criterion, (3, 2))
    plain = Regression(np.zeros(1), np.ones(1), True, criterion)
    torch.manual_seed(0)
    outputs = torch.randn(12, task.n_outputs, dtype=torch.float64)
    labels, weight = torch.randn(12, 1).double(), torch.linspace(0.5, 1.5, 12).double()
    some = torch.tensor([0, 2, 3, 7, 11])
    unknown = torch.full_like(labels, torch.nan).index_copy(0, some, labels[some])
    for w in (None, weight):
        targets = Targets(unknown, None, w, label_weights(unknown).double())
        value, gradient = task.validation_loss(outputs, targets)
        known = Targets(labels[some], None, None if w is None else w[some])
        wanted, wanted_gradient = plain.validation_loss(outputs[some], known)
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(gradient[some], wanted_gradient)
        assert float(gradient.abs().sum(dim=1).ne(0).sum()) == 5
        torch.testing.assert_close(task.validation_losses(outputs, targets).mean(), wanted)


def test_the_score_of_an_epoch_is_r2_of_all_its_known_pixels():
    task, codes = made()
    outputs = torch.as_tensor(RNG.normal(size=(240, 1)))
    labels = torch.as_tensor(codes).reshape(-1, 1)
    sums = [task.pixel_sums(outputs[i : i + 100], Targets(labels[i : i + 100])) for i in (0, 100, 200)]
    known = KNOWN.ravel()
    wanted = r2_score(labels.numpy()[known], outputs.numpy()[known])
    assert task.score_of_sums(sum(sums).tolist()) == pytest.approx(wanted, rel=1e-9)
    assert np.isnan(task.score_of_sums([0, 0, 0, 0]))


def test_predictions_and_deviations_are_maps_in_the_units_of_y():
    task = PixelRegression(np.array([1.0]), np.array([10.0]), Criterion("gaussian_nll"), (4, 5))
    outputs = torch.randn(3, 2, 8, 6)  # of larger images than those of fit
    np.testing.assert_allclose(task.predictions(outputs), 10 * outputs[:, 0].double() + 1)
    deviations = 10 * torch.exp(5 * torch.tanh(outputs[:, 1].double() / 10))
    np.testing.assert_allclose(task.deviations(outputs), deviations)


def test_score_is_r2_of_the_known_pixels():
    task, _ = made()
    predicted, weight = Y + RNG.normal(size=SHAPE), np.arange(12.0)
    predicted[~KNOWN] = 0
    assert task.score(Y, predicted) == r2_score(Y[KNOWN], predicted[KNOWN])
    by_pixel = np.broadcast_to(weight[:, None, None], SHAPE)[KNOWN]
    wanted = r2_score(Y[KNOWN], predicted[KNOWN], sample_weight=by_pixel)
    assert task.score(Y.tolist(), predicted, weight) == wanted
    with pytest.raises(ValueError, match=r"y has shape \(12, 4, 5\), but the predictions for X have \(12, 4"):
        task.score(Y, predicted[:, :, :4])
    with pytest.raises(ValueError, match="y has no pixel that counts"):
        task.score(Y, predicted, np.zeros(12))
    with pytest.raises(ValueError, match=r"samples: \[12, 11\]. Give sample_weight a weight for each image"):
        task.score(Y, predicted, weight[1:])


def test_both_parts_of_a_split_have_known_pixels():
    y = Y.copy()
    y[2:] = np.nan
    task, codes = made(y)
    for seed in range(5):
        train, val = task.split(codes, 0.2, np.random.RandomState(seed), "none")
        assert len(val) == 1 and val[0] < 2 and sorted([*train, *val]) == list(range(12))
    groups = np.arange(12) // 2
    with pytest.raises(ValueError, match=r"have no known pixel: y has no target in any of them.*or none"):
        task.split(codes, 0.2, np.random.RandomState(0), "none", groups)
    task, codes = made()
    train, val = task.split(codes, 0.2, np.random.RandomState(0), "none", groups)
    assert len(val) and not set(groups[train]) & set(groups[val])
    with pytest.raises(ValueError, match=r"n_samples = 1 rows none can be held out"):
        task.split(codes[:1], 0.2, np.random.RandomState(0), "none")


def test_a_continued_fit_keeps_its_units():
    last, _ = made()
    task, codes = Numbers(Criterion("berhu", 0.2), last).from_targets(Y + 6)
    assert task.criterion.name == "berhu"
    np.testing.assert_allclose(task.decode(codes), Y + 6, rtol=1e-6)
    with pytest.warns(UserWarning, match="the units of y have changed, set warm_start=False"):
        Numbers(Criterion(), last).from_targets(1000 * Y)
    with pytest.raises(ValueError, match="for numbers of pixels, but y has numbers of rows, shape"):
        Numbers(Criterion(), last).from_targets(Y[:, 0])
    of_rows, _ = made(Y[KNOWN])
    with pytest.raises(ValueError, match="for numbers of rows, but y has numbers of pixels, shape"):
        Numbers(Criterion(), of_rows).from_targets(Y)


def test_types_that_float32_holds_stay_small():
    for kind in (np.float32, np.float16, np.uint16, np.int8):
        assert checked_number_maps(np.ones(SHAPE, kind), 12).dtype == np.float32
    assert checked_number_maps(np.ones(SHAPE, np.int64), 12).dtype == np.float64
    assert Numbers(Criterion()).check_targets([[[1, None], [2, 3]]], 1).dtype == np.float64


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([np.zeros((4, 5)), np.zeros((4, 6))], "y has maps of differing shapes"),
        (np.where(KNOWN, Y, np.inf)[:2], "y contains infinity, in image 0. Give NaN where"),
        (np.full((2, 4, 5), np.nan), "y is NaN in all pixels: none has a target"),
        (np.zeros((2, 0, 5)), r"y has shape \(2, 0, 5\), which holds no pixel"),
        (Y[:3], r"inconsistent numbers of samples: \[2, 3\]. X has 2 images and y 3 maps"),
        (Y[:2] + 1j, "y is complex"),
        (Y[:2].astype(str), "y has words"),
    ],
)
def test_what_is_no_map_of_numbers_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Numbers(Criterion()).check_targets(y, 2)


def test_maps_from_which_nothing_can_be_learned_are_refused():
    weight = np.r_[0, np.ones(11)]
    constant = np.where(KNOWN, 0.1, np.nan)
    constant[0] += 1
    task, codes = made(constant, weight)
    with pytest.raises(
        ValueError, match=r"y is one number, 0.1, in all known pixels of n_samples = 11 images of"
    ):
        task.check_learnable(codes, weight)
    made(constant)[0].check_learnable(codes, None)
    unknown = np.where(np.arange(12)[:, None, None] == 0, Y, np.nan)
    with pytest.raises(ValueError, match="y is NaN in all pixels of the images of positive weight"):
        made(unknown, weight)
    task, _ = made()
    with pytest.raises(ValueError, match=r"y_val has maps of shape \(4, 3\), but y has \(4, 5\)"):
        task.encode(Y[:, :, :3], "y_val")
    with pytest.raises(
        ValueError, match=r"y_val has 1e\+60 in image 1, more than 1e\+15 standard deviations"
    ):
        task.encode(np.where(np.arange(12)[:, None, None] == 1, 1e60, Y), "y_val")
