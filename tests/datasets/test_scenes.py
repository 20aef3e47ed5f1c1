"""Scenes: the maps are those of what is seen, by the geometry that the docstrings state."""

import numpy as np
import pytest

from sklearn_kd.datasets import _scenes, make_depth_scenes, make_segmentation_scenes

BLACK = np.zeros((1, 3, 8, 8), np.float32)


def shapes():
    """A square and a flat bar, which touch no border."""
    images = np.zeros((2, 10, 10), np.float32)
    images[0, 1:9, 1:9] = 1
    images[1, 4:6, 1:9] = 1
    return images


def noise(n=6):
    rng = np.random.default_rng(0)
    return rng.random((n, 9, 9)) * 0.8 + 0.2, np.arange(n) % 3, rng.random((n, 3, 8, 8))


def scenes_of(kind, *given, **params):
    function = {"classes": make_segmentation_scenes, "depth": make_depth_scenes}[kind]
    return function(*given, return_X_y=True, **{"random_state": 0, "n_scenes": 5, "size": 32} | params)


def test_classes_are_those_of_the_drawn_objects():
    X, y = scenes_of("classes", shapes(), ["square", "bar"], BLACK, n_scenes=60, n_objects=(1, 1), rotation=0)
    assert X.dtype == np.float32 and y.dtype == np.int64
    np.testing.assert_array_equal((X > 0).all(axis=1), y > 0)
    for scene in y:
        (kind,) = set(scene[scene > 0])
        rows, columns = (np.ptp(at) + 1 for at in np.nonzero(scene))
        if not scene[:, [0, -1]].any() and not scene[[0, -1]].any():  # no border cuts it
            # "bar" sorts first: 2 rows of 8; "square" has as many of both
            assert rows / columns == pytest.approx({1: 0.25, 2: 1.0}[kind], abs=0.15)
    assert set(np.unique(y)) == {0, 1, 2}
    named = make_segmentation_scenes(shapes(), ["square", "bar"], BLACK, 1, random_state=0)
    assert named.target_names == ["background", "bar", "square"] and "2 classes" in named.DESCR


def test_each_pixel_has_the_class_of_the_object_in_front():
    """Objects differ in their tints: no tint is seen in pixels of two classes."""
    X, y = scenes_of("classes", shapes(), [0, 1], BLACK, n_scenes=20, n_objects=(3, 3), scale=(0.6, 0.9))
    for scene, classes in zip(np.moveaxis(X, 1, 3), y, strict=True):
        found = {}
        for colour, k in zip(scene[classes > 0], classes[classes > 0], strict=True):
            found.setdefault(tuple((colour / colour.max()).round(3).tolist()), set()).add(int(k))
        assert found and all(len(of) == 1 for of in found.values())


def test_the_floor_is_a_plane_before_a_wall():
    """Under perspective, 1 / distance of a plane is linear in the row."""
    _, y = scenes_of("depth", shapes(), 1.0, BLACK, n_objects=(0, 0), size=(64, 48), camera_height=(1.2, 1.8))
    assert y.shape == (5, 64, 48) and y.dtype == np.float32
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :, :1], y.shape))
    for distance in y[:, :, 0]:
        wall = distance == distance[0]
        assert 5 <= distance[0] <= 10 and 0 < wall.sum() < 64 and wall[: wall.sum()].all()
        steps = np.diff(1 / distance[~wall])
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)
        assert 1 / 1.8 / 64 - 1e-6 <= steps.mean() <= 1 / 1.2 / 64 + 1e-6  # camera 1.2 to 1.8 m above it


def test_objects_stand_on_the_floor_in_their_size():
    X, y = scenes_of("depth", shapes()[:1], 1.0, BLACK, n_scenes=40, n_objects=(1, 1), size=128)
    seen, checked = (X > 0).all(axis=1), 0
    for mask, distance in zip(seen, y, strict=True):
        rows, columns = np.nonzero(mask)
        if not len(rows) or rows.max() == 127 or columns.min() == 0 or columns.max() == 127:
            continue
        (own,) = set(distance[mask])
        # the focal length is 128 pixels; edges are rounded to pixels
        assert np.ptp(rows) + 1 == pytest.approx(128 * 1.0 / own, abs=2)
        assert np.ptp(columns) + 1 == pytest.approx(128 * 1.0 / own, abs=2)
        floor = np.delete(distance, np.unique(columns), axis=1)[:, 0]
        assert own == pytest.approx(floor[rows.max()], rel=0.05)
        assert 2 <= own < distance[0, 0]
        checked += 1
    assert checked > 10


def test_objects_in_the_air_are_higher_by_that():
    params = {"n_scenes": 40, "n_objects": (1, 1), "size": 128, "horizon": (0.5, 0.5)}
    one, other = (
        scenes_of("depth", shapes()[:1], 0.4, BLACK, lift=(lift, lift), **params) for lift in (0.5, 1.0)
    )
    checked = 0
    for low, high, y_low, y_high in zip(one[0], other[0], one[1], other[1], strict=True):
        rows = [np.nonzero(X.all(axis=0))[0] for X in (low, high)]
        if all(len(at) for at in rows) and rows[0].max() < 127:  # no border cuts it
            own = y_high[high.all(axis=0)][0]
            assert own == y_low[low.all(axis=0)][0]
            assert rows[0].max() - rows[1].max() == pytest.approx(128 * 0.5 / own, abs=1.5)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("kind", ["classes", "depth"])
def test_seeds_bytes_and_parts(kind, monkeypatch):
    images, labels, backgrounds = noise()
    given = labels if kind == "classes" else 1.0 + labels
    X, y = scenes_of(kind, images, given, backgrounds)
    assert X.min() >= 0 and X.max() <= 1 and np.isfinite(y).all()
    assert not np.array_equal(X, scenes_of(kind, images, given, backgrounds, random_state=1)[0])
    monkeypatch.setattr(_scenes, "_CHUNK", 2)
    for part, same in zip((X, y), scenes_of(kind, images[:, None], given, backgrounds), strict=True):
        np.testing.assert_array_equal(part, same)
    as_bytes = [np.rint(255 * part).astype(np.uint8) for part in (images, backgrounds)]
    rounded, _ = scenes_of(kind, as_bytes[0], given, as_bytes[1])
    np.testing.assert_allclose(rounded, X, atol=0.01)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("classes", {"images": np.zeros((6, 3, 9, 9))}, r"images must be grey, .* got \(6, 3, 9, 9\)"),
        ("classes", {"images": np.zeros((6, 9, 9))}, "image 0 has no pixel brighter than foreground=0.1"),
        (
            "classes",
            {"images": np.full((6, 9, 9), 2.0)},
            r"images must be in \[0, 1\]; got float32 from 2 to 2",
        ),
        ("classes", {"backgrounds": np.zeros((6, 8, 8))}, r"backgrounds must be of shape .* got \(6, 8, 8\)"),
        ("classes", {"labels": [0, 1]}, r"labels must be of shape \(6,\), one for each image; got \(2,\)"),
        ("classes", {"size": 7}, "'size' parameter of make_segmentation_scenes must be"),
        ("classes", {"size": (32, 7)}, r"size=\(32, 7\) must be one whole number or two, of 8 or more"),
        ("classes", {"n_objects": (3, 1)}, r"n_objects=\(3, 1\) must be two whole numbers"),
        ("classes", {"scale": (0, 1)}, r"scale=\(0, 1\) must be two numbers, 0 < least <= largest"),
        (
            "depth",
            {"horizon": (0.5, 1.0)},
            r"horizon=\(0.5, 1.0\) must be below 1, and wall=\(5.0, 10.0\) above",
        ),
        ("depth", {"heights": [1.0, 2.0]}, r"heights must be one number, or of shape \(6,\)"),
        ("depth", {"heights": np.full(6, np.nan)}, "heights must be finite numbers above 0, in metres"),
        ("depth", {"backgrounds": np.full((6, 3, 8, 8), np.nan)}, r"backgrounds must be in \[0, 1\]; got"),
    ],
)
def test_wrong_scenes_are_refused(kind, change, message):
    images, labels, backgrounds = noise()
    second = {"classes": ("labels", labels), "depth": ("heights", 1.0)}[kind]
    given = {"images": images, second[0]: second[1], "backgrounds": backgrounds}
    given |= {name: value for name, value in change.items() if name in given}
    further = {name: value for name, value in change.items() if name not in given}
    with pytest.raises(ValueError, match=message):
        scenes_of(kind, *given.values(), **further)
