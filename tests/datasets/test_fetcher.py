"""What all fetchers share: parameters, docstrings, downloads by pooch and their failures."""

import hashlib
import inspect
import io
import re
import sys

import numpy as np
import pytest
from published_files import FETCHERS, Quiet, put, serving

from sklearn_kd.datasets import _fetcher, fetch_cifar10

CONTENT = b"original" * 1000
REGISTRY = {"file.gz": f"md5:{hashlib.md5(CONTENT).hexdigest()}"}


@pytest.fixture
def waits(monkeypatch):
    """Seconds that pooch would have waited between its attempts."""
    core, waits = pytest.importorskip("pooch.core"), []
    monkeypatch.setattr(core.time, "sleep", waits.append)
    return waits


def download(url, folder, n_retries=0):
    _fetcher.download(REGISTRY, url, folder, download_if_missing=True, n_retries=n_retries)


class Breaking(Quiet):
    """Breaks the connection in the middle of a file, as often as ``breaks`` says."""

    breaks = 0

    def do_GET(self):
        if type(self).breaks == 0:
            return super().do_GET()
        type(self).breaks -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1500])


# --------------------------------------------------------------------------------------
# Parameters and docstrings


@pytest.mark.parametrize("fetch", FETCHERS)
@pytest.mark.parametrize(("name", "value"), [("subset", "valid"), ("n_retries", -1), ("data_home", 3)])
def test_wrong_parameters_are_refused(fetch, name, value, tmp_path):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {fetch.__name__} must be"):
        fetch(**({"data_home": tmp_path, "download_if_missing": False} | {name: value}))


@pytest.mark.parametrize("fetch", FETCHERS)
def test_docstrings_are_complete(fetch):
    """Also the one that two fetchers share: no placeholder is left, every parameter is there."""
    text = inspect.getdoc(fetch)
    sections = re.findall(r"^(\w[\w ]*)\n-+$", text, re.MULTILINE)
    assert [name for name in sections if name != "See Also"] == [
        "Parameters", "Returns", "Raises", "Notes", "References", "Examples"]  # fmt: skip
    documented = re.findall(r"^(\w+) : .*(?:, default=|\n    Folder)", text, re.MULTILINE)
    assert documented == list(inspect.signature(fetch).parameters)
    assert "$" not in text and f">>> X, y = {fetch.__name__}(" in text


# --------------------------------------------------------------------------------------
# Downloads


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


def test_offline_it_retries_and_says_what_to_put_where(tmp_path, monkeypatch, waits):
    requests = pytest.importorskip("requests")
    trials = []

    def get(url, **kwargs):
        trials.append(url)
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(OSError, match=r"no route to host\n.*yourself:\n  cifar-10-python.tar.gz"):
        fetch_cifar10(data_home=tmp_path, n_retries=2)
    assert trials == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"] * 3
    assert waits == [1, 2], "pooch's own"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_is_tried_again(tmp_path, monkeypatch, waits):
    put({"file.gz": CONTENT}, tmp_path / "served")
    monkeypatch.setattr(Breaking, "breaks", 2)
    with serving(tmp_path / "served", monkeypatch, Breaking) as url:
        download(url, tmp_path / "home", n_retries=2)
    assert (tmp_path / "home" / "file.gz").read_bytes() == CONTENT and waits == [1, 2]


def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch, waits):
    monkeypatch.setattr(Breaking, "breaks", 2)
    message = r"file.gz could not be downloaded: (.|\n)*yourself:\n  file.gz"
    with serving(tmp_path / "served", monkeypatch, Breaking) as url, pytest.raises(OSError, match=message):
        download(url, tmp_path / "home", n_retries=1)
    assert list((tmp_path / "home").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    """Ctrl-C while the file is written."""
    requests = pytest.importorskip("requests")

    def interrupted(self, chunk_size):
        yield CONTENT[:chunk_size]
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Response, "iter_content", interrupted)
    put({"file.gz": CONTENT}, tmp_path / "served")
    with serving(tmp_path / "served", monkeypatch) as url, pytest.raises(KeyboardInterrupt):
        download(url, tmp_path / "home", n_retries=3)
    assert list((tmp_path / "home").iterdir()) == []


def test_another_content_is_not_kept(tmp_path, monkeypatch, waits):
    put({"file.gz": b"something else"}, tmp_path / "served")
    message = r"could not be downloaded: MD5 hash (.|\n)*yourself"
    with serving(tmp_path / "served", monkeypatch) as url, pytest.raises(OSError, match=message):
        download(url, tmp_path / "home", n_retries=1)
    assert list((tmp_path / "home").iterdir()) == [] and waits == [1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, waits):
    pytest.importorskip("pooch")
    (tmp_path / "home").write_bytes(b"a file")
    with pytest.raises(OSError, match=r"could not be downloaded: .*home(.|\n)*yourself"):
        download("http://127.0.0.1:9/", tmp_path / "home", n_retries=1)
    assert waits == [], "another attempt would not help"


# --------------------------------------------------------------------------------------
# Checksums of files that are there


def test_checksums(tmp_path):
    file, path = io.BytesIO(CONTENT), tmp_path / "file"
    expected = hashlib.sha256(CONTENT).hexdigest()
    _fetcher.check_digest(file, path, "sha256", expected, len(CONTENT))
    assert file.read() == CONTENT, "rewound"
    with pytest.raises(
        OSError, match=r"file is damaged .* SHA256 checksum is .*, that of the original 0\. Del"
    ):
        _fetcher.check_digest(io.BytesIO(CONTENT), path, "sha256", "0")
    with pytest.raises(OSError, match=r"it holds more than 7,999 bytes\. Delete it"):
        _fetcher.check_digest(io.BytesIO(CONTENT), path, "sha256", expected, 7_999)


# --------------------------------------------------------------------------------------
# Results


def test_parts_are_joined():
    images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 3, 2, 2)
    parts = [(images[:1], np.array([7], np.uint8)), (images[1:], np.array([8], np.uint8))]
    data, target = _fetcher.fetched(parts, [], "", return_X_y=True)
    assert data.dtype == np.float32 and target.dtype == np.int64
    np.testing.assert_array_equal(data, images.astype(np.float32) / 255)
    np.testing.assert_array_equal(target, [7, 8])
