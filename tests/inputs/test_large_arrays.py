"""Large data: what is shared with the user, what is converted, and where the teacher's logits are."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd import MLPStudent
from sklearn_kd.inputs import _large_arrays
from sklearn_kd.inputs._large_arrays import kept_or_float32, parts, shared_tensor
from sklearn_kd.inputs._validation import validate_predict_inputs
from sklearn_kd.teachers import _logit_store
from sklearn_kd.teachers._logit_store import LogitStorage, LogitStore, as_float16


class Shares(Callback):
    """Notes whether the tensors of a fit are the given arrays' own memory."""

    def __init__(self, X, logits=None):
        self.given = X, logits

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        (x,), logits = X.train.held, X.train._targets.teacher_logits
        shared.clear()
        shared.append(np.shares_memory(x.numpy(), self.given[0]))
        shared.append(X.valid is None or X.valid.held[0].data_ptr() == x.data_ptr())
        shared.append(self.given[1] is None or np.shares_memory(logits.numpy(), self.given[1]))


shared = []


@pytest.fixture
def kept(monkeypatch):
    """Keep arrays of any size, and read few rows at a time."""
    monkeypatch.setattr(_large_arrays, "_KEPT_FROM", 0)
    monkeypatch.setattr(_large_arrays, "_PART", 2**12)


def weights(clf):
    return torch.cat([w.detach().flatten() for w in clf.student_.parameters()])


@pytest.mark.parametrize("meta", ["linear", "naive"])
def test_float32_is_not_copied(meta, make, digits, logits):
    X, y = digits
    clf = make(meta=meta, callbacks=[Shares(X, logits)])
    clf.fit(X, y, teacher_logits=logits)
    assert shared == [True, True, True]


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8"])
@pytest.mark.parametrize("meta", ["linear", "none"])
def test_other_numbers_are_converted_batch_by_batch(dtype, meta, make, digits, logits, kept):
    X, y = (16 * digits[0]).round().astype(dtype), digits[1]
    clf = make(meta=meta, callbacks=[Shares(X)], lr=1e-3).fit(X, y, teacher_logits=logits)
    assert shared == [True, True, True]
    plain = make(meta=meta, lr=1e-3).fit(X.astype(np.float32), y, teacher_logits=logits)
    assert torch.equal(weights(clf), weights(plain))


def test_memory_mapped_read_only(make, digits, logits, tmp_path, kept):
    for name, array in (("X", digits[0].astype(np.float64)), ("logits", logits.astype(np.float16))):
        np.save(tmp_path / name, array)
    X, mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "logits"))
    clf = make(callbacks=[Shares(X, mapped)]).fit(X, digits[1], teacher_logits=mapped)
    assert shared == [True, True, True]
    plain = make().fit(*digits, teacher_logits=logits.astype(np.float16).astype(np.float32))
    assert torch.equal(weights(clf), weights(plain))
    rows = validate_predict_inputs(clf, X, (64,))
    assert np.shares_memory(rows, X) and rows.dtype == np.float64
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(digits[0]))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        clf.predict(np.where(X == 1, np.nan, X))


def test_what_torch_cannot_gather_is_copied():
    X = np.arange(12.0).reshape(4, 3)
    for given in (np.asfortranarray(X), X[:, ::-1], X.astype(">f4"), X.astype(np.uint16), X.astype("g")):
        copy = kept_or_float32(given)
        assert copy.dtype == np.float32 and copy.flags.c_contiguous and (copy == given).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_found_in_any_part(bad, make, digits, kept, no_training):
    X = digits[0].astype(np.float64)
    X[399, 3] = bad
    with pytest.raises(ValueError, match=r"^Input X contains (NaN|infinity or a value too large)"):
        make(meta="none").fit(X, digits[1])


def test_students_that_write_into_their_batches_leave_the_data(make, digits):
    X, y = digits[0] - 0.5, digits[1]
    before, student = X.copy(), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 10))
    clf = make(meta="none", student=student, standardize=False, max_epochs=1)
    clf.fit(X, y, X_val=X, y_val=y)
    np.testing.assert_array_equal(X, before)
    clf.predict(X)
    clf.predict(X[:1])
    np.testing.assert_array_equal(X, before)


def test_the_first_prediction_is_that_of_a_student_that_writes_into_its_batch(make, digits):
    class Shifts(MLPStudent):
        def forward(self, x):
            return super().forward(x.add_(1))

    clf = make(meta="none", student=Shifts, standardize=False, max_epochs=1).fit(*digits)
    first = clf.predict_proba(digits[0][:5])
    np.testing.assert_array_equal(first, clf.predict_proba(digits[0][:5]))


def test_parts_are_all_rows():
    assert [*parts(5, 2**20)] == [slice(i, i + 1) for i in range(5)]
    assert [*parts(5, 0)] == [slice(0, 5)] and not [*parts(0, 8)]


def test_read_only_memory_is_shared():
    array = np.arange(3.0)
    array.flags.writeable = False
    assert np.shares_memory(shared_tensor(array).numpy(), array)


# --------------------------------------------------------------------------------------
# The teacher's logits


@pytest.mark.parametrize("teacher", ["network", "classifier"])
def test_logits_in_a_file_are_those_in_memory(teacher, make, digits, trained, tmp_path):
    teacher = trained if teacher == "network" else LogisticRegression(max_iter=20)
    settings = {"meta": "fixed", "temperature": 2.0, "max_epochs": 1}
    plain = make(teacher, **settings).fit(*digits)
    stored = make(teacher, **settings, teacher_logits_dir=tmp_path).fit(*digits)
    assert torch.equal(weights(plain), weights(stored)) and not [*tmp_path.iterdir()]
    half = make(teacher, **settings, teacher_logits_dir=tmp_path, teacher_logits_dtype="float16").fit(*digits)
    assert not torch.equal(weights(half), weights(plain))
    torch.testing.assert_close(weights(half), weights(plain), rtol=0, atol=1e-3)


def test_float16_keeps_the_softmax():
    far = [[1e6, 1e6 - 3, 0.0], [-1e30, -1e30, 7.0], [30000.0, 29999.0, 29998.0], [-900.0, -901.0, -902.0]]
    logits = torch.tensor([[1.0, 2.0, -torch.inf], *far])
    half = as_float16(logits)
    assert half.dtype == torch.float16 and not half.isnan().any()
    torch.testing.assert_close(half.double().softmax(1), logits.double().softmax(1), rtol=1e-3, atol=0)


def test_full_disk_is_named(tmp_path, monkeypatch):
    class Full:
        def write(self, data):
            pass

        def flush(self):
            raise OSError(28, "No space left on device")

        close = flush  # a file writes then what it still holds

    monkeypatch.setattr(_logit_store.tempfile, "TemporaryFile", lambda dir: Full())
    store = LogitStore(4, LogitStorage("float32", tmp_path), "teacher")
    with pytest.raises(OSError, match=r"^teacher_logits_dir=.*0\.0 MiB as float32.*No space left.*float16"):
        store.append(torch.zeros(2, 3))


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_teacher_is_trained(
    make, digits, monkeypatch, tmp_path
):
    def no_file(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_logit_store.tempfile, "TemporaryFile", no_file)
    teacher = LogisticRegression(max_iter=20)
    monkeypatch.setattr(LogisticRegression, "fit", lambda *args, **kwargs: pytest.fail("was trained"))
    with pytest.raises(
        PermissionError, match=r"^teacher_logits_dir=.*cannot create a file there \(Permission"
    ):
        make(teacher, teacher_logits_dir=tmp_path).fit(*digits)


def test_wrong_numbers_are_named_by_their_row(make, digits):
    class Breaks(MLPStudent):
        def forward(self, x):
            return super().forward(x) / (x[:, :1] != 5)

    X = np.tile(digits[0], (3, 1))
    X[1100, 0] = 5
    with pytest.raises(ValueError, match=r"row 1100 of X has"):
        make(Breaks(64, 10), meta="fixed").fit(X, np.tile(digits[1], 3))
