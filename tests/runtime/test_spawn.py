"""What processes that are started here are given, and give back; tests/system/test_parallel.py starts them."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from joblib.externals.loky.backend.reduction import dumps
from torch import nn

from sklearn_kd import DistilledClassifier
from sklearn_kd.runtime import _spawn
from sklearn_kd.training._pickling import net_of_sent, state_to_send

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
y = (X[:, 0] > 0).astype(int)


def test_a_student_of_any_class_comes_back():
    """skorch's own pickle, by the names of classes, would not take it."""

    class Student(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    clf = DistilledClassifier(None, Student, meta="none", max_epochs=2, device="cpu").fit(X, y)
    outputs = clf.predict_proba(X)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(clf.net_)
    sent = pickle.loads(dumps((type(clf.net_), state_to_send(clf.net_))))
    clf.net_ = net_of_sent(*sent)
    np.testing.assert_array_equal(clf.predict_proba(X), outputs)
    assert type(clf.student_.student) is Student and len(clf.loss_curve_) == 2


def test_the_classes_of_a_script_are_sent(monkeypatch):
    main = types.ModuleType("__main__")
    exec("import torch\nclass Own(torch.nn.Linear): pass\nclass Bad: lock = open", vars(main))
    main.Bad.lock = sys.stderr  # which cannot be pickled
    monkeypatch.setitem(sys.modules, "__main__", main)
    found = _spawn._classes_of_main()
    assert pickle.loads(found["Own"]) is main.Own and "Linear" not in found


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_large_arrays_are_mapped(tmp_path, kind):
    large, small = np.arange(2**18, dtype=np.float64), np.arange(4.0)
    with (tmp_path / "function").open("wb") as file:
        _spawn.dump(
            {"rows": [kind(large), kind(small)], "again": kind(large)},
            file,
            reducers=_spawn._mapping(tmp_path),
        )
    assert (tmp_path / "function").stat().st_size < 10_000
    found = _spawn._read(tmp_path / "function")
    for ours, theirs in zip([large, small, large], [*found["rows"], found["again"]], strict=True):
        np.testing.assert_array_equal(np.asarray(theirs), ours)
    found["rows"][0][:] = 0  # a copy of this process's own
    np.testing.assert_array_equal(np.asarray(_spawn._read(tmp_path / "function")["rows"][0]), large)
