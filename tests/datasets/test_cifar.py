import os
import pickle
import sys

import numpy as np
import pytest
from published_files import dumped, members, pack, put, real, serving, small
from test_byte_pickles import Calling

from sklearn_kd.datasets import _cifar, fetch_cifar10, fetch_cifar100


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def cifar(request, monkeypatch):
    archive = small(getattr(_cifar, request.param))
    monkeypatch.setattr(_cifar, request.param, archive)
    return {"CIFAR10": fetch_cifar10, "CIFAR100": fetch_cifar100}[request.param], archive


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_is_read_from_the_original_files(packed, cifar, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)  # only downloads need it
    fetch, archive = cifar
    files, arrays = members(archive)
    if packed:
        packed = pack(files, archive, tmp_path)
        monkeypatch.setattr(_cifar, fetch.__name__.removeprefix("fetch_").upper(), packed)
    else:
        put(files, tmp_path / archive.folder)
    for subset, (X, y) in arrays.items():
        data = fetch(data_home=tmp_path, subset=subset)
        assert data.data.dtype == np.float32 and data.target.dtype == np.int64
        np.testing.assert_array_equal(data.data, X.reshape(-1, 3, 32, 32).astype(np.float32) / 255)
        np.testing.assert_array_equal(data.target, y)
        assert data.target_names == [f"class {k}" for k in range(archive.n_classes)]
    X, y = fetch(data_home=tmp_path, subset="all", return_X_y=True)
    np.testing.assert_array_equal(y, np.concatenate([arrays["train"][1], arrays["test"][1]]))


def test_a_damaged_archive_is_refused(cifar, tmp_path):
    fetch, archive = cifar
    put({archive.name: b"not the archive"}, tmp_path)
    with pytest.raises(OSError, match=r"tar\.gz is damaged .* MD5 checksum is"):
        fetch(data_home=tmp_path)


def test_labels_that_are_not_the_original_are_refused(cifar, tmp_path):
    fetch, archive = cifar
    files, (X, y) = members(archive)[0], members(archive)[1]["test"]
    files[archive.batches["test"][0]] = dumped({b"data": X[:-1], archive.labels: y[:-1].tolist()})
    put(files, tmp_path / archive.folder)
    with pytest.raises(OSError, match=r"labels in .* not the original's"):
        fetch(data_home=tmp_path, subset="test")


def test_images_that_are_not_the_original_are_refused(cifar, tmp_path):
    fetch, archive = cifar
    files, (X, y) = members(archive)[0], members(archive)[1]["test"]
    files[archive.batches["test"][0]] = dumped({b"data": X[:, 1:], archive.labels: y.tolist()})
    put(files, tmp_path / archive.folder)
    with pytest.raises(OSError, match=r"found uint8 of shape \(\d+, 3071\)"):
        fetch(data_home=tmp_path, subset="test")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cannot_run_code(protocol, tmp_path, monkeypatch):
    witness = tmp_path / "ran"
    command = pickle.dumps(Calling(os.mkdir, str(witness)), protocol)
    pickle.loads(command)
    assert witness.exists(), "it does run where nobody stops it"
    witness.rmdir()
    archive = small(_cifar.CIFAR10)
    monkeypatch.setattr(_cifar, "CIFAR10", archive)
    put(members(archive)[0] | {"test_batch": command}, tmp_path / archive.folder)
    with pytest.raises(pickle.UnpicklingError, match=r"test_batch was not read: it asks for \w+\.mkdir"):
        fetch_cifar10(data_home=tmp_path, subset="test")
    assert not witness.exists()


def test_a_missing_archive_is_downloaded(cifar, tmp_path, monkeypatch):
    fetch, archive = cifar
    files, arrays = members(archive)
    (tmp_path / "served").mkdir()
    archive = pack(files, archive, tmp_path / "served")
    monkeypatch.setattr(_cifar, fetch.__name__.removeprefix("fetch_").upper(), archive)
    with serving(tmp_path / "served", monkeypatch) as url:
        monkeypatch.setattr(_cifar, "URL", url)
        _, y = fetch(data_home=tmp_path / "home", subset="test", return_X_y=True)
    np.testing.assert_array_equal(y, arrays["test"][1])
    fetch(data_home=tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == [archive.name]


def test_a_download_with_another_checksum_is_not_kept(cifar, tmp_path, monkeypatch):
    fetch, archive = cifar
    put({archive.name: b"something else"}, tmp_path / "served")
    home = tmp_path / "home"
    with serving(tmp_path / "served", monkeypatch) as url:
        monkeypatch.setattr(_cifar, "URL", url)
        with pytest.raises(OSError, match="could not be downloaded: MD5 hash"):
            fetch(data_home=home, n_retries=0)
    assert list(home.iterdir()) == []


def test_the_docstrings_are_one_text():
    """They differ in the lines that have names and numbers of the archive."""
    one, other = fetch_cifar10.__doc__.splitlines(), fetch_cifar100.__doc__.splitlines()
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    assert len(differing) < 12
    for number in ("100, of 500 and 100 images", "cifar-100-python.tar.gz", "Classes 0 to 99.", "(169 MB)"):
        assert any(number in b for _, b in differing) and not any(number in a for a, _ in differing)


@pytest.mark.data
@pytest.mark.parametrize(
    ("fetch", "folder", "n_classes", "mean"),
    [
        (fetch_cifar10, "cifar-10-batches-py", 10, (0.4914, 0.4822, 0.4465)),
        (fetch_cifar100, "cifar-100-python", 100, (0.5071, 0.4866, 0.4409)),
    ],
)
def test_the_real_cifar(fetch, folder, n_classes, mean):
    data = fetch(data_home=real(folder))
    assert data.data.shape == (50_000, 3, 32, 32)
    assert (np.bincount(data.target) == 50_000 / n_classes).all()
    assert len(data.target_names) == n_classes and data.target_names == sorted(data.target_names)
    channels = [data.data[:, channel].mean(dtype=np.float64) for channel in range(3)]
    assert channels == pytest.approx(mean, abs=1e-4)
