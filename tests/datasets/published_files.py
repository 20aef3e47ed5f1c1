"""Small files in the form that the authors of the data sets publish, and a server for them."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sklearn_kd.datasets import fetch_cifar10, fetch_cifar100, fetch_fashion_mnist

FETCHERS = [fetch_fashion_mnist, fetch_cifar10, fetch_cifar100]
SIZES = {"train": 6, "test": 4}  # of the small Fashion-MNIST


def put(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def real(folder, *homes):
    """The first of scikit-learn's data folder and these that has the data set."""
    for home in (os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data"), *homes):
        if (Path(home).expanduser() / folder).exists():
            return Path(home).expanduser()
    pytest.skip(f"{folder} is not in scikit-learn's data folder (SCIKIT_LEARN_DATA)")


# Fashion-MNIST


def idx(array):
    """The bytes of an IDX file."""
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def small_fashion_mnist(prefixes):
    """Contents of the four files, the same packed, and the arrays in them."""
    rng, contents, arrays = np.random.default_rng(0), {}, {}
    for part, prefix in prefixes.items():
        X = rng.integers(0, 256, (SIZES[part], 28, 28), np.uint8)
        arrays[part] = X, rng.integers(0, 10, SIZES[part], np.uint8)
        contents[f"{prefix}-images-idx3-ubyte"], contents[f"{prefix}-labels-idx1-ubyte"] = map(
            idx, arrays[part]
        )
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    return contents, packed, arrays


# CIFAR: pickles as Python 2 and its numpy wrote them


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


def small(archive):
    """The archive with one row per class and training batch."""
    return dataclasses.replace(archive, per_class={"train": len(archive.batches["train"]), "test": 1})


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
    names = [b"class %d" % k for k in range(archive.n_classes)]
    files[archive.meta] = dumped({archive.label_names: names})
    return files, arrays


def pack(files, archive, home):
    """Write the archive; return its description with the checksum of the written file."""
    put(files, home / "unpacked")
    with tarfile.open(home / archive.name, "w:gz") as tar:
        for name in files:
            tar.add(home / "unpacked" / name, f"{archive.folder}/{name}")
    return dataclasses.replace(archive, md5=hashlib.md5((home / archive.name).read_bytes()).hexdigest())


# A server


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def serving(folder, monkeypatch, handler=Quiet):
    """Address of an HTTP server of this process for the files of the folder."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder.mkdir(exist_ok=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
