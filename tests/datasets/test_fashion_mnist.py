import gzip
import hashlib

import numpy as np
import pytest
from published_files import SIZES, idx, put, real, serving, small_fashion_mnist

from sklearn_kd.datasets import _fashion_mnist, fetch_fashion_mnist


@pytest.fixture
def fashion(monkeypatch):
    """Contents of the four files and the arrays in them; their checksums are those expected."""
    contents, packed, arrays = small_fashion_mnist(_fashion_mnist.PREFIX)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(_fashion_mnist, "SHA256", sums)
    sums = {name: hashlib.md5(packed[f"{name}.gz"]).hexdigest() for name in contents}
    monkeypatch.setattr(_fashion_mnist, "MD5", sums)
    return contents, packed, arrays


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_the_original_files(packed, fashion, tmp_path):
    put(fashion[packed], tmp_path / "fashion-mnist")
    data = fetch_fashion_mnist(data_home=tmp_path, subset="test")
    X, y = fashion[2]["test"]
    assert data.data.dtype == np.float32 and data.target.dtype == np.int64
    np.testing.assert_array_equal(data.data, X[:, None].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.target, y)
    assert len(data.target_names) == 10 and "Xiao" in data.DESCR


def test_all_is_train_then_test(fashion, tmp_path):
    put(fashion[1], tmp_path / "fashion-mnist")
    data, target = fetch_fashion_mnist(data_home=str(tmp_path), subset="all", return_X_y=True)
    X, y = (np.concatenate(both) for both in zip(fashion[2]["train"], fashion[2]["test"], strict=True))
    np.testing.assert_array_equal(np.rint(255 * data).astype(np.uint8), X[:, None])
    np.testing.assert_array_equal(target, y)


def test_the_default_home_is_that_of_scikit_learn(fashion, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    put(fashion[1], tmp_path / "fashion-mnist")
    assert len(fetch_fashion_mnist().target) == SIZES["train"]


def test_another_content_is_refused(fashion, tmp_path):
    contents = fashion[0] | {"t10k-labels-idx1-ubyte": idx(np.zeros(4, np.uint8))}
    put(contents, tmp_path / "fashion-mnist")
    fetch_fashion_mnist(data_home=tmp_path)
    with pytest.raises(OSError, match=r"t10k-labels-idx1-ubyte is damaged .* SHA256 checksum is"):
        fetch_fashion_mnist(data_home=tmp_path, subset="test")


def test_fashion_mnist_that_unpacks_without_end(tmp_path, monkeypatch):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name in _fashion_mnist.MD5:
        (folder / f"{name}.gz").write_bytes(gzip.compress(bytes(5000)))
    monkeypatch.setattr(_fashion_mnist, "MAX_BYTES", 4000)
    with pytest.raises(OSError, match=r"it holds more than 4,000 bytes\. Delete it"):
        fetch_fashion_mnist(data_home=tmp_path)
    for name in _fashion_mnist.MD5:
        (folder / f"{name}.gz").write_bytes(gzip.compress(bytes(5000))[:-20])
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"it cannot be unpacked .*Delete it"):
        fetch_fashion_mnist(data_home=tmp_path)


def test_missing_files_are_downloaded_once(fashion, tmp_path, monkeypatch, capsys):
    home, folder = tmp_path / "home", tmp_path / "served"
    put(fashion[1], folder)
    with serving(folder, monkeypatch) as url:
        monkeypatch.setattr(_fashion_mnist, "URL", url)
        _, y = fetch_fashion_mnist(data_home=home, return_X_y=True)
        assert "100%" in capsys.readouterr().err, "no progress bar"
        np.testing.assert_array_equal(y, fashion[2]["train"][1])
        there = {path.name for path in (home / "fashion-mnist").iterdir()}
        assert there == {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"}
        for path in folder.iterdir():
            path.unlink()
        fetch_fashion_mnist(data_home=home)
        with pytest.raises(OSError, match="404"):
            fetch_fashion_mnist(data_home=home, subset="test", n_retries=0)


@pytest.mark.data
def test_the_real_fashion_mnist():
    data = fetch_fashion_mnist(data_home=real("fashion-mnist", "/usr/share/datasets"), subset="all")
    assert data.data.shape == (70_000, 1, 28, 28)
    assert (np.bincount(data.target) == 7_000).all()
    assert data.data.min() == 0 and data.data.max() == 1
    assert data.data[:60_000].mean(dtype=np.float64) == pytest.approx(0.2860, abs=5e-5)  # as published
