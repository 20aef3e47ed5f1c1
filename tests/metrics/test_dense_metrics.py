"""Metrics of maps, against those of scikit-learn on the known pixels in one row."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import (
    accuracy_score,
    jaccard_score,
    make_scorer,
    mean_absolute_percentage_error,
    root_mean_squared_error,
)

from helpers.pages import messages
from sklearn_kd.metrics import (
    masked_mean_relative_error,
    masked_root_mean_squared_error,
    mean_iou_score,
    pixel_accuracy_score,
)

pytestmark = pytest.mark.filterwarnings("ignore:y_true has the label 255")
RNG = np.random.default_rng(0)
SHAPE = (6, 5, 4)
CLASSES, OTHERS = RNG.choice([-3, 1, 7, 255], SHAPE), RNG.choice([-3, 1, 8], SHAPE)
NUMBERS = np.where(RNG.random(SHAPE) < 0.3, np.nan, RNG.uniform(1, 5, SHAPE))
GUESSES = RNG.uniform(1, 5, SHAPE)
WEIGHT = np.array([0, 1, 2, 0.5, 3, 1])
BY_PIXEL = np.broadcast_to(WEIGHT[:, None, None], SHAPE)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_classes_are_those_of_the_known_pixels(weighted):
    known = CLASSES != 255
    pixels = CLASSES[known], OTHERS[known]
    given, theirs = (WEIGHT, BY_PIXEL[known]) if weighted else (None, None)
    found = mean_iou_score(CLASSES, OTHERS, ignore_index=255, sample_weight=given)
    assert found == pytest.approx(jaccard_score(*pixels, average="macro", sample_weight=theirs), rel=1e-12)
    found = pixel_accuracy_score(CLASSES, OTHERS, ignore_index=255, sample_weight=given)
    assert found == pytest.approx(accuracy_score(*pixels, sample_weight=theirs), rel=1e-12)


def test_without_an_ignored_label_all_pixels_count():
    ours, theirs = mean_iou_score(CLASSES, OTHERS), (CLASSES.ravel(), OTHERS.ravel())
    assert ours == pytest.approx(jaccard_score(*theirs, average="macro"), rel=1e-12)
    assert pixel_accuracy_score(CLASSES, OTHERS) == pytest.approx(accuracy_score(*theirs), rel=1e-12)
    assert mean_iou_score(CLASSES, CLASSES) == pixel_accuracy_score(CLASSES, CLASSES) == 1
    bytes_alone = mean_iou_score(CLASSES.astype(np.uint8), OTHERS.astype(np.uint8))
    assert bytes_alone == pytest.approx(ours, rel=1e-12)


def test_predictions_of_unknown_pixels_make_no_class_occur():
    y_true, y_pred = [[[0, 1, 255]]], [[[0, 1, 2]]]
    assert mean_iou_score(y_true, y_pred, ignore_index=255) == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_numbers_are_those_of_the_pixels_with_a_target(weighted):
    known = ~np.isnan(NUMBERS)
    pixels = NUMBERS[known], GUESSES[known]
    given, theirs = (WEIGHT, BY_PIXEL[known]) if weighted else (None, None)
    found = masked_root_mean_squared_error(NUMBERS, GUESSES, sample_weight=given)
    assert found == pytest.approx(root_mean_squared_error(*pixels, sample_weight=theirs), rel=1e-12)
    found = masked_mean_relative_error(-NUMBERS, -GUESSES, sample_weight=given)
    assert found == pytest.approx(mean_absolute_percentage_error(*pixels, sample_weight=theirs), rel=1e-12)


class Guesses(BaseEstimator):
    """Predicts the same maps for any images."""

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return GUESSES


def test_metrics_make_scorers():
    scorer = make_scorer(masked_root_mean_squared_error, greater_is_better=False)
    assert scorer(Guesses(), SHAPE, NUMBERS) == -masked_root_mean_squared_error(NUMBERS, GUESSES)


@pytest.mark.parametrize(
    ("metric", "y_true", "y_pred", "weight", "message"),
    [
        (mean_iou_score, CLASSES, OTHERS[:, :2], None, r"shape \(6, 5, 4\) and y_pred \(6, 2, 4\)"),
        (mean_iou_score, 1.0 * CLASSES, OTHERS, None, "y_true has maps of type float64"),
        (mean_iou_score, CLASSES[:0], OTHERS[:0], None, "it has no pixels to compare"),
        (
            mean_iou_score,
            CLASSES,
            OTHERS,
            WEIGHT[:2],
            "sample_weight a weight for each image",
        ),
        (mean_iou_score, CLASSES, OTHERS, -WEIGHT, "sample_weight has negative numbers, infinity or NaN"),
        (mean_iou_score, CLASSES, OTHERS, 0 * WEIGHT, "y_true has no pixel that counts: all have the label"),
        (pixel_accuracy_score, CLASSES, OTHERS, 0 * WEIGHT, "y_true has no pixel that counts"),
        (
            masked_root_mean_squared_error,
            np.nan * GUESSES,
            GUESSES,
            None,
            "no pixel that counts: all are NaN",
        ),
        (masked_root_mean_squared_error, GUESSES, NUMBERS, None, "y_pred contains NaN"),
        (
            masked_root_mean_squared_error,
            np.where(GUESSES > 3, np.inf, 1),
            GUESSES,
            None,
            "y_true contains infinity",
        ),
        (masked_mean_relative_error, 0 * NUMBERS, GUESSES, None, "y_true is 0 in .* pixels"),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, y_true, y_pred, weight, message):
    with pytest.raises(ValueError, match=message):
        metric(y_true, y_pred, sample_weight=weight)


def test_pixels_as_rows_have_the_metrics_of_their_map():
    """As scorers of callbacks see the known pixels."""
    true, predicted = CLASSES.ravel(), OTHERS.ravel()
    assert mean_iou_score(true, predicted, ignore_index=255) == mean_iou_score(
        CLASSES, OTHERS, ignore_index=255
    )
    weight = BY_PIXEL.ravel()
    assert mean_iou_score(true, predicted, sample_weight=weight) == pytest.approx(
        mean_iou_score(CLASSES, OTHERS, sample_weight=WEIGHT), rel=1e-12
    )
    error = masked_root_mean_squared_error(NUMBERS.ravel(), GUESSES.ravel())
    assert error == pytest.approx(masked_root_mean_squared_error(NUMBERS, GUESSES), rel=1e-12)


@pytest.mark.parametrize("ignored", ["255", 1.5, np.nan, [254, 255]])
@pytest.mark.parametrize("metric", [mean_iou_score, pixel_accuracy_score])
def test_an_ignore_index_that_no_label_equals_is_refused(metric, ignored):
    with pytest.raises(ValueError, match=r"ignore_index=.*whole number"):
        metric(CLASSES, OTHERS, ignore_index=ignored)


@pytest.mark.parametrize("weight", [1.0, np.ones(5), np.ones(SHAPE), np.full(6, np.inf), -np.ones(6)])
@pytest.mark.parametrize("metric", [mean_iou_score, pixel_accuracy_score, masked_root_mean_squared_error])
def test_weights_that_are_none_of_images_are_refused(metric, weight):
    with pytest.raises(ValueError, match=r"sample_weight (a|has)"):
        metric(CLASSES, OTHERS, sample_weight=weight)


def test_maps_of_a_wrong_type_are_refused():
    masked = np.ma.masked_array(CLASSES, CLASSES == 255)
    for metric in (mean_iou_score, pixel_accuracy_score, masked_mean_relative_error):
        with pytest.raises(ValueError, match="y_true is a masked array"):
            metric(masked, OTHERS)
    with pytest.raises(ValueError, match="y_pred has maps of type float64"):
        pixel_accuracy_score(CLASSES, OTHERS / 2)
    with pytest.raises(ValueError, match="y_true is complex"):
        masked_root_mean_squared_error(NUMBERS + 1j, GUESSES)
    assert masked_root_mean_squared_error(CLASSES.astype(object), CLASSES) == 0


@pytest.mark.parametrize("metric", [mean_iou_score, pixel_accuracy_score])
def test_a_label_that_is_often_unknown_and_never_predicted_is_warned_of(metric):
    true = np.array([[[0, 1], [2, 255]]])
    with pytest.warns(UserWarning, match=messages()["a label that is often unknown, in a score"]):
        metric(true, np.zeros_like(true))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(true, np.zeros_like(true), ignore_index=255)
        metric(true, true)
        metric(np.where(true == 255, 255, 0), np.zeros_like(true))  # a mask of one thing
