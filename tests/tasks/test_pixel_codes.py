"""Maps of labels and their codes: any integers, in arrays and in tensors."""

import numpy as np
import pytest
import torch

from sklearn_kd.tasks._label_kinds import Labels
from sklearn_kd.tasks._pixel_classes import PixelClassification
from sklearn_kd.tasks._pixel_codes import classes_of_maps, codes_of_maps
from sklearn_kd.tasks._pixels import known_rows, pixel_targets, resized, some_known_rows
from sklearn_kd.tasks._targets import Targets

KINDS = {
    "bytes with 255": (np.uint8, [0, 3, 200, 255], 255),
    "negative": (np.int16, [-7, 0, 5], -7),
    "far apart": (np.int64, [-(2**40), 3, 2**40], 3),
    "none ignored": (np.int32, [1, 2, 4], None),
    "booleans": (bool, [False, True], None),
}


@pytest.mark.parametrize(("dtype", "labels", "ignored"), KINDS.values(), ids=KINDS)
def test_codes_of_any_integers(dtype, labels, ignored):
    maps = np.random.default_rng(0).choice(np.array(labels, dtype), size=(5, 4, 3))
    task, codes = Labels(ignored).from_targets(Labels.check_targets(maps.tolist(), 5).astype(dtype))
    assert task.classes.dtype == dtype
    assert task.classes.tolist() == [label for label in labels if label != ignored]
    assert ((codes < 0) == (maps == ignored)).all()
    decoded = task.decode(codes)
    assert decoded.dtype == dtype
    assert (decoded == maps).all()
    form = task.form(torch.device("cpu"))
    given = form.given(torch.as_tensor(codes))
    assert (given.numpy() == maps.astype(np.int64)).all()
    assert (form.codes(given).numpy() == codes).all()
    form.check(given)


def test_an_image_without_a_map_has_no_class_where_minus_1_is_one():
    form = PixelClassification(np.array([-1, 0, 4]), (2, 2), None).form(torch.device("cpu"))
    codes = torch.tensor([[[-1, 0], [1, 2]]])
    given = form.given(codes)
    assert given.tolist() == [[[-2, -1], [0, 4]]]
    assert (form.codes(given) == codes).all()
    form.check(given)


def test_many_classes_have_codes():
    maps = np.arange(300).reshape(3, 10, 10)
    codes, unknown = codes_of_maps(maps, classes_of_maps(maps, None), None)
    assert codes.dtype == np.int16
    assert (codes == maps).all()
    assert not len(unknown)


def test_labels_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="y has the label 9223372036854775813; labels must be below 2"):
        Labels.check_targets(np.full((1, 2, 2), 2**63 + 5, np.uint64), 1)


def test_targets_of_pixels_are_those_of_their_maps():
    maps = torch.tensor([[[0, -1], [2, 1]], [[1, 1], [-1, -1]]], dtype=torch.int8)
    logits = torch.randn(2, 3, 2, 2)
    rows = pixel_targets(Targets(maps, logits, torch.tensor([0.5, 1.5])))
    assert rows.labels.tolist() == [0, -1, 2, 1, 1, 1, -1, -1]
    assert rows.weight.tolist() == [0.5] * 4 + [1.5] * 4
    assert rows.label_weight.mean() == 1
    assert (rows.teacher_logits[2] == logits[0, :, 1, 0]).all()
    outputs, known = known_rows(torch.arange(8)[:, None], rows)
    assert outputs[:, 0].tolist() == [0, 2, 3, 4, 5]
    assert known.label_weight is None
    assert len(some_known_rows(torch.arange(8)[:, None], rows)[0]) == 5


def test_images_without_a_known_pixel_are_not_held_out():
    codes = np.full((20, 2, 2), -1)
    codes[:4, 0, 0] = 0
    task = PixelClassification(np.arange(2), (2, 2), 255)
    train, val = task.split(codes, 0.5, np.random.RandomState(0), "none")
    assert set(val) < set(range(4))
    assert len(train) == 18
    with pytest.raises(ValueError, match="have no known pixel"):
        task.split(codes, 0.5, np.random.RandomState(0), "none", np.arange(20) // 10)


def test_labels_that_fit_did_not_see_are_wrong_in_the_score():
    task = PixelClassification(np.arange(2), (1, 4), None)
    true = np.array([[[0, 0, 1, 5]]])
    assert task.score(true, np.array([[[0, 0, 1, 1]]])) == pytest.approx((1 + 1 / 2 + 0) / 3)


REFUSED = {
    "none known": (np.full((2, 2, 2), 255), None, "score's y has no pixel that counts"),
    "no weight": (np.zeros((2, 2, 2), int), [0, 0], "score's y has no pixel that counts"),
    "too many weights": (np.zeros((2, 2, 2), int), [1, 1, 1], r"samples: \[2, 3\]"),
    "negative weights": (np.zeros((2, 2, 2), int), [1, -1], "sample_weight has negative numbers"),
}


@pytest.mark.parametrize(("maps", "weight", "message"), REFUSED.values(), ids=REFUSED)
def test_a_score_of_no_pixel_or_with_wrong_weights_is_refused(maps, weight, message):
    task = PixelClassification(np.array([0, 1]), (2, 2), 255)
    with pytest.raises(ValueError, match=message):
        task.score(maps, np.zeros((2, 2, 2), int), weight)


def test_switched_off_classes_are_finite_at_another_size():
    maps = torch.zeros(1, 3, 2, 2)
    maps[:, 1], maps[:, 2, 0] = -torch.inf, -torch.inf
    found = resized(maps, (5, 4)).softmax(dim=1)
    assert (found[:, 1] == 0).all()
    assert found[0, 2, 0].tolist() == [0] * 4
    assert found[0, 2, -1].tolist() == [0.5] * 4
    assert resized(maps, (2, 2)) is maps
