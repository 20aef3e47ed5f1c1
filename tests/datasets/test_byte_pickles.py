"""Pickles are read without running what they say."""

import pickle

import numpy as np
import pytest
from published_files import dumped

from sklearn_kd.datasets._byte_pickles import load_values


class Calling:
    """What a pickle does that calls any function by name."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_pickles_of_python_3_are_read(tmp_path):
    X = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps({b"data": X, b"labels": [3, 4]}, protocol=4))
    with file.open("rb") as opened:
        data, labels = load_values(opened, file, b"data", b"labels")
    np.testing.assert_array_equal(data, X)
    assert labels == [3, 4]


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
        load_values(opened, file, b"data")


def test_another_dictionary_is_refused(tmp_path):
    file = tmp_path / "batch"
    file.write_bytes(dumped({b"pixels": 1}))
    with file.open("rb") as opened, pytest.raises(OSError, match=r"not a dictionary with .*data"):
        load_values(opened, file, b"data")
