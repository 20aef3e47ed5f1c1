import dataclasses
import gzip
import hashlib
import http.server
import os
import pickle
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sklearn_kd.datasets import (
    _cifar,
    _fashion_mnist,
    _files,
    fetch_cifar10,
    fetch_cifar100,
    fetch_fashion_mnist,
    make_metaparameter_synthetic,
)

FETCHERS = [fetch_fashion_mnist, fetch_cifar10, fetch_cifar100]
SIZES = {"train": 6, "test": 4}


# Fashion-MNIST: files in the original's format, with fewer images.


def idx(array):
    """The bytes of an IDX file."""
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture
def fashion(monkeypatch):
    """Contents of the four files and the arrays in them; their checksums are those expected."""
    rng, contents, arrays = np.random.default_rng(0), {}, {}
    for part, prefix in _fashion_mnist.PREFIX.items():
        X = rng.integers(0, 256, (SIZES[part], 28, 28), np.uint8)
        arrays[part] = X, rng.integers(0, 10, SIZES[part], np.uint8)
        contents[f"{prefix}-images-idx3-ubyte"], contents[f"{prefix}-labels-idx1-ubyte"] = map(
            idx, arrays[part]
        )
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(_fashion_mnist, "SHA256", sums)
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    sums = {name: hashlib.md5(packed[f"{name}.gz"]).hexdigest() for name in contents}
    monkeypatch.setattr(_fashion_mnist, "MD5", sums)
    return contents, packed, arrays


def put(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


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


# CIFAR: pickles as Python 2 and its numpy wrote them, with fewer images.


def string(content):
    return b"U" + bytes([len(content)]) + content if len(content) < 256 else (
        b"T" + len(content).to_bytes(4, "little") + content)  # fmt: skip


def python2(value):
    """Opcodes of protocol 2 that make the value, strings being bytes."""
    if isinstance(value, bytes):
        return string(value)
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little")
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(part) for item in value.items() for part in item) + b"u"
    assert value.dtype == np.uint8
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    uint8 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
    return array + b"(K\x01" + shape + uint8 + b"\x89" + string(value.tobytes()) + b"tb"


def dumped(value):
    return b"\x80\x02" + python2(value) + b"."


def members(archive):
    """The files of a small archive, and the arrays in them."""
    rng, files, arrays = np.random.default_rng(0), {}, {}
    for part, names in archive.batches.items():
        batches = []
        for name in names:
            n = archive.n_classes * archive.per_class[part] // len(names)
            X = rng.integers(0, 256, (n, 3072), np.uint8)
            y = np.arange(n) % archive.n_classes
            content = {b"data": X, archive.labels: y.tolist(), b"filenames": [b"x.png"] * n}
            files[name] = dumped(content)
            batches.append((X, y))
        arrays[part] = tuple(map(np.concatenate, zip(*batches, strict=True)))
    files[archive.meta] = dumped({archive.names: [b"class %d" % k for k in range(archive.n_classes)]})
    return files, arrays


def small(archive):
    """With one row per class and training batch."""
    return dataclasses.replace(archive, per_class={"train": len(archive.batches["train"]), "test": 1})


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def cifar(request, monkeypatch):
    archive = small(getattr(_cifar, request.param))
    monkeypatch.setattr(_cifar, request.param, archive)
    return {"CIFAR10": fetch_cifar10, "CIFAR100": fetch_cifar100}[request.param], archive


def pack(files, archive, home):
    """The archive, and a description of the data set that has its checksum."""
    put(files, home / "unpacked")
    with tarfile.open(home / archive.file.name, "w:gz") as tar:
        for name in files:
            tar.add(home / "unpacked" / name, f"{archive.folder}/{name}")
    md5 = hashlib.md5((home / archive.file.name).read_bytes()).hexdigest()
    return dataclasses.replace(archive, file=dataclasses.replace(archive.file, md5=md5))


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_is_read_from_the_original_files(packed, cifar, tmp_path, monkeypatch):
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


def test_pickles_of_python_3_are_read(tmp_path):
    X = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps({b"data": X, b"labels": [3, 4]}, protocol=4))
    with file.open("rb") as opened:
        data, labels = _cifar._load(opened, file, b"data", b"labels")
    np.testing.assert_array_equal(data, X)
    assert labels == [3, 4]


def test_a_damaged_archive_is_refused(cifar, tmp_path):
    fetch, archive = cifar
    put({archive.file.name: b"not the archive"}, tmp_path)
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


class Calling:
    """What a pickle does that calls any function by name."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Calling(eval, "1")), "it asks for builtins.eval"),
        (pickle.dumps(np.array([1, {}], dtype=object)), "an array of 'O8'"),
        (pickle.dumps(np.zeros(3)), "an array of 'f8'"),
        (b"cnumpy\ndtype.__class__\n.", "it asks for numpy.dtype.__class__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "it asks for numpy.load"),
        (dumped({b"data": np.zeros((2, 3), np.uint8)})[:-9], "was not read"),
        (b"", "was not read"),
    ],
    ids=["eval", "objects", "floats", "dotted", "numpy.load", "truncated", "empty"],
)
def test_only_bytes_and_containers_are_admitted(content, message, tmp_path):
    file = tmp_path / "batch"
    file.write_bytes(content)
    with file.open("rb") as opened, pytest.raises(pickle.UnpicklingError, match=message):
        _cifar._load(opened, file, b"data")


def test_another_dictionary_is_refused(tmp_path):
    file = tmp_path / "batch"
    file.write_bytes(dumped({b"pixels": 1}))
    with file.open("rb") as opened, pytest.raises(OSError, match=r"no dictionary with .*data"):
        _cifar._load(opened, file, b"data")


# Downloads.


@pytest.mark.parametrize("fetch", FETCHERS)
def test_missing_files_are_named_with_their_place(fetch, tmp_path):
    with pytest.raises(OSError, match="download_if_missing=False") as caught:
        fetch(data_home=tmp_path / "none", download_if_missing=False)
    name = fetch.__name__.removeprefix("fetch_")
    file = {
        "fashion_mnist": "train-labels-idx1-ubyte.gz",
        "cifar10": "cifar-10-python.tar.gz",
        "cifar100": "cifar-100-python.tar.gz",
    }[name]
    folder = tmp_path / "none" / "fashion-mnist" if name == "fashion_mnist" else tmp_path / "none"
    assert f"Put into {folder} yourself" in str(caught.value) and f"  {file}  (http" in str(caught.value)
    assert "t10k" not in str(caught.value), "the test files are not asked for"
    assert not (tmp_path / "none").exists()


def test_without_pooch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"sklearn-kd\[datasets\](.|\n)*cifar-10-python\.tar\.gz"):
        fetch_cifar10(data_home=tmp_path)


def test_offline_it_retries_and_says_what_to_put_where(tmp_path, monkeypatch):
    pooch, requests = pytest.importorskip("pooch"), pytest.importorskip("requests")
    trials, waits = [], []

    def retrieve(url, *args, **kwargs):
        trials.append(url)
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(_files.time, "sleep", waits.append)
    with pytest.raises(OSError, match=r"no route to host\n.*yourself:\n  cifar-10-python.tar.gz"):
        fetch_cifar10(data_home=tmp_path, n_retries=2, delay=0.5)
    assert trials == [_cifar.CIFAR10.file.url] * 3 and waits == [0.5, 0.5]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, served folder) of an HTTP server of this process."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()


def test_missing_files_are_downloaded_once(fashion, server, tmp_path, monkeypatch, capsys):
    url, folder = server
    monkeypatch.setattr(_fashion_mnist, "URL", url)
    put(fashion[1], folder)
    home = tmp_path / "home"
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


def test_a_download_with_another_checksum_is_not_kept(cifar, server, tmp_path, monkeypatch):
    fetch, archive = cifar
    url, folder = server
    put({archive.file.name: b"something else"}, folder)
    file = dataclasses.replace(archive.file, url=url + archive.file.name)
    name = fetch.__name__.removeprefix("fetch_").upper()
    monkeypatch.setattr(_cifar, name, dataclasses.replace(archive, file=file))
    home = tmp_path / "home"
    with pytest.raises(OSError, match="could not be downloaded: MD5 hash"):
        fetch(data_home=home, n_retries=1, delay=0)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("fetch", FETCHERS)
@pytest.mark.parametrize(("name", "value"), [("subset", "valid"), ("n_retries", -1), ("data_home", 3)])
def test_wrong_parameters_are_refused(fetch, name, value, tmp_path):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {fetch.__name__} must be"):
        fetch(**({"data_home": tmp_path, "download_if_missing": False} | {name: value}))


# The real files, where they are.


def real(folder, *homes):
    """The first of scikit-learn's data folder and these that has the data set."""
    for home in (os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data"), *homes):
        if (Path(home).expanduser() / folder).exists():
            return Path(home).expanduser()
    pytest.skip(f"{folder} is not in scikit-learn's data folder (SCIKIT_LEARN_DATA)")


@pytest.mark.data
def test_the_real_fashion_mnist():
    data = fetch_fashion_mnist(data_home=real("fashion-mnist", "/usr/share/datasets"), subset="all")
    assert data.data.shape == (70_000, 1, 28, 28)
    assert (np.bincount(data.target) == 7_000).all()
    assert data.data.min() == 0 and data.data.max() == 1
    assert data.data[:60_000].mean(dtype=np.float64) == pytest.approx(0.2860, abs=5e-5)  # as published


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


# The synthetic set.


def test_sizes_and_columns_of_the_synthetic_set():
    data = make_metaparameter_synthetic(random_state=0)
    assert data.X_teacher.shape == (200, 3) and data.y_teacher.shape == (200,)
    for part, n in (("train", 15), ("valid", 15), ("test", 200)):
        x, seen = data[f"X_{part}"], data[f"X_{part}_teacher"]
        assert x.shape == seen.shape == (n, 3) and data[f"y_{part}"].shape == (n,)
        np.testing.assert_array_equal(x[:, :2], seen[:, :2])
        signs = np.sign(x[:, 0]) + np.sign(x[:, 1])
        np.testing.assert_array_equal(x[:, 2], signs > 0)  # as the paper's text writes both
        np.testing.assert_array_equal(seen[:, 2], signs + 0.1 > 0)
    assert make_metaparameter_synthetic(7, 8, 9, 10).X_valid.shape == (9, 3)


def test_the_rows_are_those_of_the_notebook():
    rng = np.random.RandomState(42)
    x, noise = rng.randn(430, 2), rng.randn(430)
    y = (np.sign(x[:, 0] * x[:, 1] + 0.5 * noise) + 1) // 2
    data = make_metaparameter_synthetic(
        student_feature="product", teacher_feature="and", random_state=42)  # fmt: skip
    np.testing.assert_array_equal(data.X_teacher[:, :2], x[:200])
    np.testing.assert_array_equal(data.X_train[:, :2], x[200:215])
    np.testing.assert_array_equal(data.X_test, np.c_[x, np.sign(x[:, 0] * x[:, 1])][-200:])
    np.testing.assert_array_equal(data.y_test, y[-200:])


def test_the_notebook_s_accuracy_without_distillation():
    data = make_metaparameter_synthetic(
        student_feature="product", teacher_feature="and", random_state=42)  # fmt: skip
    torch.manual_seed(0)
    student = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    X, y = torch.tensor(data.X_train, dtype=torch.float32), torch.tensor(data.y_train)
    for _ in range(2000):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(student(X), y).backward()
        optimizer.step()
    said = student(torch.tensor(data.X_test, dtype=torch.float32)).argmax(1).numpy()
    assert np.mean(said == data.y_test) == pytest.approx(0.63)


def test_seeds_and_features():
    one, same, other = (make_metaparameter_synthetic(random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.X_test, same.X_test)
    assert not np.array_equal(one.X_test, other.X_test)
    equal = make_metaparameter_synthetic(student_feature="or", random_state=0)
    np.testing.assert_array_equal(one.X_test[:, :2], equal.X_test[:, :2])
    np.testing.assert_array_equal(one.y_test, equal.y_test)
    np.testing.assert_array_equal(equal.X_test, equal.X_test_teacher)


def test_classes_are_balanced_and_the_noise_is_that_of_the_paper():
    data = make_metaparameter_synthetic(n_test=50_000, student_feature="product", random_state=0)
    assert data.y_test.mean() == pytest.approx(0.5, abs=0.01)
    # E[Phi(|x1 x2| / 0.5)]; it would be 0.728 were 0.5 the variance
    assert np.mean((data.X_test[:, 2] > 0) == data.y_test) == pytest.approx(0.7689, abs=0.006)


def test_only_the_noise_free_feature_makes_it_trivial():
    def accuracy(feature, columns):
        data = make_metaparameter_synthetic(
            n_train=200, n_test=5_000, delta=0, student_feature=feature, random_state=0)  # fmt: skip
        model = LogisticRegression(C=100).fit(data.X_train[:, columns], data.y_train)
        return model.score(data.X_test[:, columns], data.y_test)

    assert accuracy("product", [0, 1, 2]) == 1
    assert accuracy("and", [0, 1, 2]) < 0.9 and accuracy("or", [0, 1, 2]) < 0.9
    assert accuracy("product", [0, 1]) < 0.6


@pytest.mark.parametrize(
    ("name", "value"), [("n_train", 0), ("delta", -1), ("student_feature", "xor"), ("n_test", 2.5)]
)
def test_wrong_parameters_of_the_synthetic_set_are_refused(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of make_metaparameter_synthetic must be"):
        make_metaparameter_synthetic(**{name: value})
