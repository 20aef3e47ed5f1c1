"""CityScapes and NYU Depth V2, read from small files in the layout of their authors."""

import pickle
import sys

import numpy as np
import pytest
from scipy.io import savemat

from sklearn_kd.datasets import load_cityscapes, load_nyu_depth

Image = pytest.importorskip("PIL.Image")
HEIGHT, WIDTH = 6, 10
SCENES = {
    "train": ["aachen/aachen_000000_000019", "bochum/bochum_000001_000005"],
    "val": ["ulm/ulm_000003_1"],
}


@pytest.fixture
def streets(tmp_path):
    """(folder, images, ids) of three scenes; ids are those of labelIds."""
    rng, images, ids = np.random.default_rng(0), {}, {}
    for part, names in SCENES.items():
        for name in names:
            images[name] = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            ids[name] = rng.integers(0, 34, (HEIGHT, WIDTH)).astype(np.uint8)
            ids[name][0, 0] = 255  # the licence plate, -1
            for kind, array, end in (
                ("leftImg8bit", images[name], "leftImg8bit"),
                ("gtFine", ids[name], "gtFine_labelIds"),
            ):
                path = tmp_path / kind / part / f"{name}_{end}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path, images, ids


def test_streets_are_the_images_and_the_benchmark_s_classes(streets):
    folder, images, ids = streets
    found = load_cityscapes(data_home=folder, subset="all")
    assert found.data.dtype == np.float32 and found.target.dtype == np.int64
    assert found.cities.tolist() == ["aachen", "bochum", "ulm"]
    pixels = np.rint(255 * found.data).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, list(images.values()))
    named = {"road": 7, "building": 11, "traffic light": 19, "bicycle": 33}
    for name, i in named.items():
        mask = found.target == found.target_names.index(name)
        np.testing.assert_array_equal(mask, np.array(list(ids.values())) == i)
    ignored = [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]
    np.testing.assert_array_equal(found.target == 255, np.isin(list(ids.values()), ignored))
    assert len(found.target_names) == 19


def test_maps_of_train_ids_take_the_place_of_missing_ones(streets):
    folder, _, _ = streets
    whole = load_cityscapes(data_home=folder, subset="all", return_X_y=True)[1]
    for path, classes in zip(sorted(folder.glob("gtFine/*/*/*")), whole, strict=True):
        path.unlink()
        Image.fromarray(classes.astype(np.uint8)).save(str(path).replace("labelIds", "labelTrainIds"))
    found = load_cityscapes(data_home=folder, subset="all", return_X_y=True)[1]
    np.testing.assert_array_equal(found, whole)


def test_streets_as_a_dataset_are_the_arrays(streets):
    folder, _, _ = streets
    (folder / "home").mkdir()
    (folder / "home" / "cityscapes").symlink_to(folder)
    X, y = load_cityscapes(data_home=folder / "home", size=(3, 5), return_X_y=True)
    samples = load_cityscapes(data_home=folder, size=[3, 5], as_dataset=True)
    assert len(samples) == 2 and X.shape == (2, 3, 3, 5)
    for i, (image, target) in enumerate(pickle.loads(pickle.dumps(samples))):
        np.testing.assert_array_equal(image, X[i])
        np.testing.assert_array_equal(target, y[i])


def test_a_dataset_and_arrays_are_not_asked_for_together(streets):
    with pytest.raises(ValueError, match="as_dataset=True asks for a Dataset of pairs, and return_X_y=True"):
        load_cityscapes(data_home=streets[0], as_dataset=True, return_X_y=True)


def test_images_are_made_smaller_by_means_and_maps_by_their_pixels(streets):
    folder, images, _ = streets
    X, y = load_cityscapes(data_home=folder, subset="val", size=(3, 5), return_X_y=True)
    image = images["ulm/ulm_000003_1"].reshape(3, 2, 5, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(255 * X[0], image, atol=1)
    whole = load_cityscapes(data_home=folder, subset="val", return_X_y=True)[1]
    np.testing.assert_array_equal(y[0], whole[0][1::2, 1::2])


def test_missing_and_wrong_streets_are_refused(streets):
    folder, _, _ = streets
    with pytest.raises(
        OSError, match=r"no images .*nowhere.*Register at .*unpack leftImg8bit_trainvaltest.zip"
    ):
        load_cityscapes(data_home=folder / "nowhere")
    with pytest.raises(ValueError, match=r"size=\(0, 5\) must be None or \(height, width\)"):
        load_cityscapes(data_home=folder, size=(0, 5))
    first, second = sorted(folder.glob("gtFine/train/*/*"))
    Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)).save(first)
    with pytest.raises(OSError, match=r"aachen_000000_000019_gtFine_labelIds.png holds the ids \[77\]"):
        load_cityscapes(data_home=folder)
    Image.fromarray(np.zeros((HEIGHT, 3), np.uint8)).save(first)
    with pytest.raises(OSError, match=r"holds uint8 of shape \(6, 3\); expected one byte for each pixel"):
        load_cityscapes(data_home=folder)
    second.unlink()
    with pytest.raises(OSError, match=r"bochum_000001_000005_leftImg8bit\.png has no map"):
        load_cityscapes(data_home=folder)


def test_images_of_several_sizes_need_one(streets):
    folder, _, _ = streets
    name = SCENES["train"][1]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"leftImg8bit/train/{name}_leftImg8bit.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"gtFine/train/{name}_gtFine_labelIds.png")
    with pytest.raises(ValueError, match=r"several sizes: \(6, 10\), \(4, 4\). Give size"):
        load_cityscapes(data_home=folder)
    assert load_cityscapes(data_home=folder, size=(4, 4)).data.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(("package", "load"), [("PIL", load_cityscapes), ("h5py", load_nyu_depth)])
def test_the_missing_package_is_named(package, load, streets, monkeypatch):
    folder, _, _ = streets
    for name in ("nyu_depth_v2_labeled.mat", "splits.mat"):
        (folder / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    installed = {"PIL": "pillow", "h5py": "h5py"}[package]
    with pytest.raises(ImportError, match=rf"pip install {installed}, as the extra sklearn-kd\[datasets\]"):
        load(data_home=folder)


@pytest.fixture
def rooms(tmp_path):
    """(folder, images, depths, raw) of five rooms in MATLAB's order of axes."""
    h5py, rng = pytest.importorskip("h5py"), np.random.default_rng(0)
    images = rng.integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    depths = rng.uniform(0.7, 10, (5, HEIGHT, WIDTH)).astype(np.float32)
    raw = np.where(rng.random(depths.shape) < 0.3, 0, depths)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"], file["rawDepths"] = depths.transpose(0, 2, 1), raw.transpose(0, 2, 1)
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[3], [1], [5]], "testNdxs": [[2], [4]]})
    return tmp_path, images, depths, raw


def test_rooms_are_the_images_and_their_distances(rooms):
    folder, images, depths, raw = rooms
    found = load_nyu_depth(data_home=folder)
    assert found.indices.tolist() == [2, 0, 4]
    np.testing.assert_allclose(255 * found.data, images[[2, 0, 4]].transpose(0, 3, 1, 2), atol=1e-4)
    np.testing.assert_array_equal(found.target, depths[[2, 0, 4]])
    assert load_nyu_depth(data_home=folder, subset="all").indices.tolist() == [2, 0, 4, 1, 3]
    measured = load_nyu_depth(data_home=folder, subset="test", depth="raw").target
    np.testing.assert_array_equal(measured, np.where(raw > 0, raw, np.nan)[[1, 3]])


def test_rooms_as_a_dataset_are_the_arrays(rooms):
    folder, _, depths, _ = rooms
    X, y = load_nyu_depth(data_home=folder, size=(3, 5), return_X_y=True)
    np.testing.assert_array_equal(y, depths[[2, 0, 4], 1::2, 1::2])
    samples = load_nyu_depth(data_home=folder, size=(3, 5), as_dataset=True)
    for i, (image, target) in enumerate(pickle.loads(pickle.dumps(samples))):
        np.testing.assert_array_equal(image, X[i])
        np.testing.assert_array_equal(target, y[i])


def test_missing_and_wrong_rooms_are_refused(rooms):
    folder, *_ = rooms
    savemat(folder / "splits.mat", {"trainNdxs": [[6]], "testNdxs": [[2], [4]]})
    with pytest.raises(OSError, match="no trainNdxs with numbers of images from 1 to 5"):
        load_nyu_depth(data_home=folder)
    with pytest.importorskip("h5py").File(folder / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["depths"]
    assert len(load_nyu_depth(data_home=folder, subset="test", depth="raw").data) == 2
    with pytest.raises(OSError, match=r"holds \{'images': \('uint8', \(5, 3, 10, 6\)\)\}; expected images"):
        load_nyu_depth(data_home=folder, subset="test")
    (folder / "splits.mat").unlink()
    with pytest.raises(OSError, match=r"splits\.mat are not in"):
        load_nyu_depth(data_home=folder)
