"""Files that are written whole or not at all, and small ones that ask for much when they are read."""

import errno
import io
import json
import os
import pickle
import re
import signal
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

import sklearn_kd
from helpers.networks import ConvNet
from helpers.pages import messages
from helpers.saved_files import content_of, write
from sklearn_kd import (
    CIFARResNet,
    DistillationProcess,
    DistilledClassifier,
    MLPStudent,
    Pathway,
)
from sklearn_kd import _version as _code_version
from sklearn_kd.checkpointing import _file as checkpoint_files
from sklearn_kd.checkpointing import _fit_lock
from sklearn_kd.checkpointing._file import Refused
from sklearn_kd.checkpointing._fit_lock import FitLock
from sklearn_kd.datasets._byte_pickles import load_values
from sklearn_kd.files import _tensors as _tensor_files
from sklearn_kd.files._atomic import TEMPORARY, replacing, write_file
from sklearn_kd.files._limits import ALLOWANCE, FACTOR, TooLargeError, parsed_json
from sklearn_kd.persistence._export import WRITERS as WRITERS_OF_STUDENTS

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(scope="module")
def fitted(digits):
    return DistilledClassifier(None, MLPStudent, meta="none", max_epochs=1, device="cpu").fit(*digits)


def make_process(n_steps=3, **params):
    pathways = [Pathway("layer1", "layer1", name, 0, 0, 16, 16) for name in ("conv1", "conv2")]
    return DistillationProcess(np.ones((n_steps, 2)), pathways, **params)


# --------------------------------------------------------------------------------------
# Written whole or not at all

WRITERS = {
    "process.npz": lambda path, clf: make_process(20_000).save(path),
    "estimator.safetensors": lambda path, clf: clf.save(path),
    "student.safetensors": lambda path, clf: clf.export_student(path),
    "student.onnx": lambda path, clf: clf.export_student(path),
    "training-00000001.checkpoint": lambda path, clf: checkpoint_files.write(path, {"w": torch.ones(20_000)}),
}


@pytest.fixture(params=WRITERS)
def writer(request, fitted, tmp_path, monkeypatch):
    """(path of an old file, what writes a new one there)."""
    path = tmp_path / request.param
    path.write_bytes(b"old")
    # The export itself takes seconds; what it makes is not of interest here.
    written = {".onnx": lambda student, path, *_: path.write_bytes(bytes(5000))}
    monkeypatch.setattr("sklearn_kd.persistence._export.WRITERS", WRITERS_OF_STUDENTS | written)
    return path, lambda: WRITERS[request.param](path, fitted)


def is_untouched(path):
    return path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("function", "error"),
    [("fsync", OSError(errno.ENOSPC, "No space left on device")), ("replace", KeyboardInterrupt())],
)
def test_a_failure_at_the_end_leaves_the_old_file(function, error, writer, monkeypatch):
    path, save = writer

    def fails(*args):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(f"sklearn_kd.files._atomic.os.{function}", fails)
        save()
    assert is_untouched(path)
    save()
    assert path.stat().st_size > 3 and os.listdir(path.parent) == [path.name]


@posix
def test_a_write_that_the_system_cuts_short_leaves_the_old_file(writer):
    """The limit of a file's length fails as a full disk does: in the middle of a write."""
    resource = pytest.importorskip("resource")
    path, save = writer
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Exception, match=r"File too large|os error 27"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_untouched(path)


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_file(tmp_path / "ours", [b"new"])
        (tmp_path / "plain").write_bytes(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_permissions_of_the_old_file_are_kept(mode, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_file(path, [b"new"])
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == mode


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="needs a user who may not write all")
def test_a_write_protected_file_is_not_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o400)
    with pytest.raises(PermissionError, match="write-protected"):
        write_file(path, [b"new"])
    assert is_untouched(path)


@posix
def test_links_devices_folders_and_long_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "link", [b"ne", b"w"])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
    write_file("/dev/null", [b"new"])  # as it is: a file in its place would break the machine
    assert not os.path.isfile("/dev/null")
    with pytest.raises(IsADirectoryError, match="Give the name of a file"):
        write_file(tmp_path, [b"new"])
    write_file(tmp_path / ("ü" * 127), [b"new"])
    assert not list(tmp_path.glob(f"*{TEMPORARY}"))


def test_what_the_block_leaves_half_written_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@posix
def test_a_full_disk_costs_no_fit_and_leaves_nothing(make, digits, tmp_path):
    """Each checkpoint is cut short; the fit warns once, ends as without checkpoints, and cleans up."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.warns(UserWarning, match=r"could not be written: .*The fit continues") as said:
            clf = make(meta="none", max_epochs=3, checkpoint_dir=tmp_path).fit(*digits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(said) == 1 and os.listdir(tmp_path) == []
    expected = make(meta="none", max_epochs=3).fit(*digits).predict_proba(digits[0])
    np.testing.assert_array_equal(clf.predict_proba(digits[0]), expected)


class Stop(Callback):
    """Fails after so many epochs, as a crash does."""

    at = 2

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == Stop.at:
            raise ZeroDivisionError


def crashed(make, digits, folder):
    """A fit that has left checkpoints; f() that goes on."""

    def fit():
        return make(meta="none", max_epochs=4, callbacks=[Stop()], checkpoint_dir=folder).fit(*digits)

    Stop.at = 3
    with pytest.raises(ZeroDivisionError):
        fit()
    Stop.at = None
    [own] = folder.iterdir()
    return own, fit


def test_what_a_killed_process_left_is_removed(make, digits, tmp_path):
    own, fit = crashed(make, digits, tmp_path)
    for name in ("training-00000003.checkpoint.tmp", ".training-00000003.check.0a1b2c3d4e5f.tmp"):
        (own / name).write_bytes(b"half")
    fit()
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------------------
# One fit at a time, among threads and processes


@pytest.fixture(params=["the system's", "filelock's"])
def any_lock(request, monkeypatch):
    if request.param == "filelock's":  # as on Windows
        monkeypatch.setattr(_fit_lock, "fcntl", None)


def in_fork(f):
    """What f() is in a forked process."""
    child = os.fork()
    if child == 0:
        os._exit(int(f()))
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_lock_is_held_once(any_lock, tmp_path):
    folder = tmp_path / "fit"
    first, second = FitLock(folder), FitLock(folder)
    assert first.held and not second.held
    del second  # which lets nothing go
    found = []
    thread = threading.Thread(target=lambda: found.append(FitLock(folder).held))
    thread.start()
    thread.join()
    assert found == [False]
    first.release()
    third = FitLock(folder)
    assert third.held
    third.remove()
    assert os.listdir(folder) == []
    assert FitLock(folder).held


@posix
def test_a_fork_neither_has_the_lock_nor_releases_it(tmp_path):
    first = FitLock(tmp_path)
    assert not in_fork(lambda: FitLock(tmp_path).held)
    assert not in_fork(lambda: first.__del__() or FitLock(tmp_path).held)
    assert not in_fork(lambda: FitLock(tmp_path).held)
    first.release()
    assert in_fork(lambda: FitLock(tmp_path).held)
    assert FitLock(tmp_path).held


@posix
def test_a_killed_process_holds_nothing_though_its_fork_lives(tmp_path):
    """As the worker of a loader does that outlives the fit."""
    ready, lives = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        lock = FitLock(tmp_path)
        if os.fork() == 0:
            os.close(lives[1])
            os.read(lives[0], 1)
            os._exit(0)
        os.write(ready[1], b"1" if lock.held else b"0")
        signal.pause()
    assert os.read(ready[0], 1) == b"1"
    assert not FitLock(tmp_path).held
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert FitLock(tmp_path).held
    os.close(lives[1])


def test_threads_at_one_fit(make, digits, any_lock, tmp_path):
    """All end alike; one keeps checkpoints, the others say that they keep none."""
    clfs = [make(meta="none", checkpoint_dir=tmp_path) for _ in range(4)]
    failed = []

    def fit(clf):
        try:
            clf.fit(*digits)
        except BaseException as error:
            failed.append(error)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=fit, args=(clf,)) for clf in clfs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    pattern = messages()["the same fit in another thread"]
    assert all(re.match(pattern, str(w.message)) for w in said)
    expected = make(meta="none").fit(*digits).predict_proba(digits[0])
    for clf in clfs:
        np.testing.assert_array_equal(clf.predict_proba(digits[0]), expected)
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------------------
# Small files that ask for gigabytes

FAR_BEYOND = 2 * ALLOWANCE  # bytes, of what is made before it is read


def saved_by_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def deflated(data):
    """The same archive, compressed, as neither torch nor numpy writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return buffer.getvalue()


def expanded(n):
    return torch.zeros(1).expand(n)


class Bytes:
    def __init__(self, n):
        self.n = n

    def __reduce__(self):
        return bytearray, (self.n,)


TORCH_BOMBS = {
    "one number many times": lambda: saved_by_torch({"w": expanded(10**11)}),
    "in a list": lambda: saved_by_torch({"w": [{"v": (expanded(10**11),)}]}),
    "one tensor under many names": lambda: saved_by_torch(
        dict.fromkeys([str(k) for k in range(4000)], torch.zeros(100_000))
    ),
    "compressed": lambda: deflated(saved_by_torch({"w": torch.zeros(FAR_BEYOND // 4)})),
    "a bytearray": lambda: saved_by_torch({"w": Bytes(10**11)}),
    "a compressed bytearray": lambda: deflated(saved_by_torch({"w": Bytes(10**11)})),
    "lists within lists": lambda: saved_by_torch({"w": doubled([1], 40)}),
}


def doubled(value, times):
    for _ in range(times):
        value = [value, value]
    return value


@pytest.fixture
def little_memory():
    """256 MiB more than there is, or an error."""
    resource = pytest.importorskip("resource")
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWANCE * 4, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory")


@linux
@pytest.mark.parametrize("bomb", TORCH_BOMBS)
def test_small_files_of_torch(bomb, tmp_path, request):
    data = TORCH_BOMBS[bomb]()
    assert FACTOR * len(data) < FAR_BEYOND / 4
    request.getfixturevalue("little_memory")
    with pytest.raises(ValueError, match=r"beyond the limit|without end|bytearrays|is compressed"):
        _tensor_files.load_tensors(data)
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.pt"):
        CIFARResNet.from_file(path)


def test_tensors_that_share_or_repeat_little_are_read(tmp_path):
    shared = torch.arange(5.0)
    content = {"a": shared, "b": shared, "c": expanded(1000), "d": [shared[1:3]]}
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        found = _tensor_files.load_tensors(buffer.getvalue())
        assert torch.equal(found["c"], content["c"]) and torch.equal(found["d"][0], shared[1:3])


def test_checkpoint_that_repeats_one_number(tmp_path, monkeypatch):
    path = tmp_path / "training-00000001.checkpoint"
    checkpoint_files.write(path, {"state": expanded(10**11)})
    assert path.stat().st_size < 3000
    with pytest.raises(Refused, match=r"ask for .* bytes of memory, beyond the limit"):
        checkpoint_files.read(path)


def test_layers_that_a_small_file_names(tmp_path):
    """The first is wide, and the file has no other: the third would take a hundred gigabytes."""
    weights = CIFARResNet(8).state_dict() | {"conv1.weight": torch.zeros(16 * 500, 3, 3, 3)}
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="size mismatch"):
        CIFARResNet.from_file(tmp_path / "weights.pt")


@pytest.mark.parametrize("version", ["2.2.0", "2.5.1+cu121", "2.9.1"])
def test_an_old_torch_reads_nothing(version, monkeypatch, tmp_path):
    torch.save(CIFARResNet(8).state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=rf"torch {version.replace('+', '.')} .*CVE.* Install torch 2\.10"):
        CIFARResNet.from_file(tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "__version__", "2.10.0a0")
    CIFARResNet.from_file(tmp_path / "weights.pt")


def process_file(path, **changed):
    """A process file of which some members are others."""
    make_process().save(path)
    with np.load(path, allow_pickle=False) as file:
        parts = dict(file)
    about = json.loads(str(parts["about"])) | changed.pop("about", {})
    np.savez(path, **(parts | {"about": np.array(json.dumps(about))} | changed))


def header_only(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def replace_member(path, name, data):
    with zipfile.ZipFile(path) as old:
        parts = {part.filename: old.read(part) for part in old.infolist()} | {name: data}
    with zipfile.ZipFile(path, "w") as new:
        for part, content in parts.items():
            new.writestr(part, content)


PROCESS_BOMBS = {
    "compressed": lambda p: p.write_bytes(deflated(p.read_bytes())) if process_file(
        p, raw=np.zeros((FAR_BEYOND // 8, 2), np.float32)) is None else None,
    "a header alone": lambda p: (process_file(p), replace_member(p, "raw.npy", header_only((10**12, 2)))),
    "no column": lambda p: (process_file(p, about={"pathways": []}), replace_member(
        p, "raw.npy", header_only((10**15, 0)))),
    "a negative shape": lambda p: (process_file(p), replace_member(p, "raw.npy", header_only((-1, -2)))),
    "nested JSON": lambda p: np.savez(p, raw=np.ones((2, 1)), about=np.array("[" * 10**6)),
    "JSON of many parts": lambda p: np.savez(
        p, raw=np.ones((2, 1)), about=np.array("[" + "[]," * 10**6 + "[]]")),
    "objects": lambda p: np.savez(p, raw=np.array([{}]), about=np.array("{}")),
}  # fmt: skip


@pytest.mark.parametrize("text", ["[" + "{}," * 10**6 + "0]", b"[" + b"0," * 2 * 10**6 + b"0]"])
def test_json_of_many_parts_is_refused_before_it_is_read(text, monkeypatch):
    assert parsed_json(text[:1] + text[-2:]) == [0]
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(TooLargeError, match="beyond the limit of 4 times the length"):
        parsed_json(text)


@pytest.mark.parametrize("bomb", PROCESS_BOMBS)
def test_small_process_files(bomb, tmp_path):
    path = tmp_path / "process.npz"
    PROCESS_BOMBS[bomb](path)
    with pytest.raises(ValueError, match=r"holds no distillation process .*Give a file that"):
        DistillationProcess.load(path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"softmax_bias": float("nan")}, "softmax_bias=nan must be a finite number"),
        ({"normalization": ["softmax"]}, "holds no distillation process"),
        ({"normalization": "none"}, "is not one of"),
        ({"format": 4}, "later version"),
        ({"pathways": 3}, "holds no distillation process"),
        ({"versions": 3}, "holds no distillation process"),
        ({"settings": [1]}, "holds no distillation process"),
        ({"more": 1}, "holds no distillation process"),
    ],
)
def test_process_files_of_wrong_content(about, message, tmp_path):
    process_file(tmp_path / "process.npz", about=about)
    with pytest.raises(ValueError, match=message):
        DistillationProcess.load(tmp_path / "process.npz")


PICKLES = {
    "a far place in the memo": b"\x80\x02Nr\xff\xff\xff\x0f.",  # nine bytes and a protocol: 4 GB
    "bytes that are not there": b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00.",
    "a frame that is not there": b"\x80\x04\x95\xff\xff\xff\xff\x0f\x00\x00\x00N.",
    "a large array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01b\x87R.",
    "an array of a shape of its own": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",
}


@linux
@pytest.mark.parametrize("bomb", PICKLES)
def test_small_pickles(bomb, tmp_path, little_memory):
    with pytest.raises((pickle.UnpicklingError, OSError), match=r"batch .*Put the original there"):
        load_values(io.BytesIO(PICKLES[bomb]), tmp_path / "batch", b"data")


# --------------------------------------------------------------------------------------
# Estimators: what a file may say


def loaded(path):
    return DistilledClassifier.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["metaparameters"].update(lambda1=7), r"lambda1=7\.0 in its metaparameters, which no training"),
        (lambda a: a["metaparameters"].update(lambda1=-0.1), r"lambda1=-0\.1 in its metaparameters"),
        (lambda a: a["metaparameters"].update(lambda1=[0.5]), r"lambda1 of shape \(1,\) in its metap"),
        (lambda a: a["metaparameters"].update(temperature=-3), r"temperature=-3\.0 in its metaparameters"),
        (lambda a: a["metaparameters"].update(temperature=0), r"temperature=0\.0 in its metaparameters"),
        (lambda a: a["metaparameters"].update(temperature="1"), "'1' instead of a number"),
        (lambda a: a["metaparameters"].update(alpha=1), r"\['alpha', 'lambda1', 'temperature'\] in its metap"),
        (lambda a: a["metaparameters"].pop("lambda1"), r"\['temperature'\] in its metaparameters, not"),
        (lambda a: a.update(metaparameters=[0.5, 1.0]), "metaparameters that are no mapping of names"),
        (lambda a: a.update(val_temperature=0), r"T_val=0\.0, which must be above 0"),
        (lambda a: a["params"].update(augment={"student": "MLPStudent"}), "a class, MLPStudent, as augment"),
        (lambda a: a["params"].update(lr={"optimizer": "SGD"}), "a class, SGD, as lr"),
        (lambda a: a["params"].update(callbacks=[{"student": "MLPStudent"}]), "a class, MLPStudent, as callb"),
        (lambda a: a["params"].update(augment={"strategy": ["Naive", {}]}), "an object, Naive, as augment"),
        (lambda a: a["params"].update(meta={"loss": ["LogitDistillation", {}]}), "LogitDistillation, as meta"),
        (lambda a: a["params"].update(meta=[{"strategy": ["Naive", {}]}]), "an object, Naive, as meta"),
        (lambda a: a["params"].update(loss={"loss": ["Naive", {}]}), "which this version does not know"),
        (lambda a: a["params"].update(batch_size=10**30), "batch_size with a number beyond"),
        (lambda a: a["params"].update(max_epochs=-(10**30)), "max_epochs with a number beyond"),
        (lambda a: a["params"].update(student__hidden=[1] * 20_000), "of size 20,000, but the file has . ten"),
        (lambda a: a["labels"].update(dtype="<U33000000", values=["a", "b" * 3_000_000, *"cdefghij"]),
         "labels of 3,000,000 characters"),
    ],
)  # fmt: skip
def test_content_that_no_fit_has_made(change, message, fitted, tmp_path):
    about, tensors = content_of(fitted, tmp_path / "saved.safetensors")
    change(about)
    write(tmp_path / "saved.safetensors", about, tensors)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path / "saved.safetensors")


def test_a_depth_as_large_as_some_width_is_refused(fitted, tmp_path):
    """20,000 layers took 202 seconds to build: a width of 20,000 in the file does not allow them."""
    path = tmp_path / "saved.safetensors"
    about, tensors = content_of(fitted, path)
    about["params"]["student__hidden"] = [1] * 20_000
    write(path, about, tensors | {"student.layers.1.bias": torch.zeros(20_000)})
    with pytest.raises(ValueError, match=r"of size 20,000, but the file has \d+ tensors"):
        loaded(path)
    about["params"] |= {"student": {"student": "CIFARResNet"}, "student__depth": 20_000}
    del about["params"]["student__hidden"]
    write(path, about, tensors | {"student.layers.1.bias": torch.zeros(20_000)})
    with pytest.raises(ValueError, match=r"of size 20,000, but the file has \d+ tensors"):
        loaded(path)


def test_many_layers_of_a_file_are_loaded(digits, tmp_path):
    """In time that grows with their number, not with its square: no weight is looked for in every layer."""
    looked = []

    class Layer(nn.Linear):
        def _load_from_state_dict(self, *args):
            looked.append(self)
            super()._load_from_state_dict(*args)

    clf = DistilledClassifier(
        None, MLPStudent, student__hidden=[4] * 60, meta="none", max_epochs=1, device="cpu"
    ).fit(*digits)
    clf.save(tmp_path / "saved.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "Linear", Layer)
        again = loaded(tmp_path / "saved.safetensors")
    assert looked == [] and len(list(again.student_.parameters())) == 122
    np.testing.assert_array_equal(again.predict_proba(digits[0]), clf.predict_proba(digits[0]))


@pytest.mark.parametrize("column", ["lambda1", "temperature"])
def test_a_path_beyond_its_bounds(column, fitted, tmp_path):
    about, tensors = content_of(fitted, tmp_path / "saved.safetensors")
    tensors[f"metaparameter_path.{column}"][1] = -1
    write(tmp_path / "saved.safetensors", about, tensors)
    with pytest.raises(ValueError, match=rf"{column}=-1\.0 in its metaparameter_path"):
        loaded(tmp_path / "saved.safetensors")


def test_labels_of_a_wide_dtype_are_as_narrow_as_they_are(make, digits, tmp_path):
    """3.5 kB took 1.3 GB to load, and 5 GB to predict forty rows."""
    clf = make(meta="none").fit(digits[0], np.array([f"class {k}" for k in digits[1]]))
    about, tensors = content_of(clf, tmp_path / "saved.safetensors")
    about["labels"]["dtype"] = "<U33000000"
    write(tmp_path / "saved.safetensors", about, tensors)
    again = loaded(tmp_path / "saved.safetensors")
    assert again.classes_.dtype == "<U7"
    assert again.predict(digits[0]).tolist() == clf.predict(digits[0]).tolist()


def test_what_belongs_to_a_machine_is_not_taken_from_a_file(make, digits, tmp_path):
    path = tmp_path / "saved.safetensors"
    clf = make(meta="none", checkpoint_dir=tmp_path / "kept").fit(*digits)
    with pytest.warns(UserWarning, match=r"Not saved, .* belong to this machine: checkpoint_dir"):
        clf.save(path)
    assert DistilledClassifier.load(path).checkpoint_dir is None
    assert DistilledClassifier.load(path, checkpoint_dir="mine").checkpoint_dir == "mine"
    make(meta="none").fit(*digits).save(path)
    about, tensors = content_of(make(meta="none").fit(*digits), path)
    about["params"] |= {"checkpoint_dir": "/etc", "iterator_valid__num_workers": 200}
    about["params"]["meta"] = {"strategy": ["Random", {"n_trials": 2, "n_jobs": 200}]}
    write(path, about, tensors)
    again = DistilledClassifier.load(path)
    assert again.checkpoint_dir is None and "iterator_valid__num_workers" not in again.get_params()
    assert again.meta.n_trials == 2 and again.meta.n_jobs is None


@linux
def test_samples_of_many_numbers_take_no_memory(make, images, tmp_path, little_memory):
    """With a student of the caller's it is tried on two of them."""
    path = tmp_path / "saved.safetensors"
    about, tensors = content_of(make(meta="none", student=ConvNet).fit(*images), path)
    about["input_shape"] = [3, 5_000, 5_000]
    write(path, about, tensors)
    with pytest.raises(ValueError, match="cannot take samples of shape"):
        DistilledClassifier.load(path, student=ConvNet)


# --------------------------------------------------------------------------------------
# Checkpoints of wrong content, and of other code


def broken(change):
    def rewrite(path):
        content = checkpoint_files.read(path)
        change(content)
        checkpoint_files.write(path, content)

    return rewrite


WRONG = {
    "no training": lambda c: c["state"].pop("training"),
    "no weights": lambda c: c["state"]["training"]["modules"].clear(),
    "weights of another shape": lambda c: c["state"]["training"]["modules"][0]["weights"].update(
        {"student.layers.1.weight": torch.zeros(3, 7)}),
    "a history of strings": lambda c: c["state"]["training"].update(history=["a", "b", "c"]),
    "a history without epochs": lambda c: c["state"]["training"].update(history=[{"batches": []}] * 3),
    "an optimizer of another kind": lambda c: c["state"]["training"].update(optimizer={"state": 3}),
    "a path of another shape": lambda c: c["state"]["training"]["parts"]["metaparameters"]["dict"].update(values=torch.zeros(2, 5)),
    "batches of no generator": lambda c: c["state"].update(iterators={"train": {"order": {"generator": torch.zeros(3)}}}),
    "skips without counts": lambda c: c["state"]["training"]["parts"]["skips"]["dict"].clear(),
    "a method of a callback": lambda c: c["state"]["training"]["helpers"]["callback 'valid_acc'"]["attributes"].update(
        on_epoch_end=3),
    "generators that are none": lambda c: c["state"]["training"].update(random_state={"cpu": torch.zeros(3)}),
    "a state that is a list": lambda c: c.update(state=[1]),
    "versions that are a number": lambda c: c.update(versions=3),
    "seeds that are words": lambda c: c.update(seeds=[["a"] * 7]),
    "seeds of another number": lambda c: c.update(seeds=[[1, 2]]),
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_the_checkpoint_before_one_of_wrong_content_is_used(change, make, digits, once, tmp_path):
    own, fit = crashed(make, digits, tmp_path)
    newest = max(own.glob("*.checkpoint"))
    broken(WRONG[change])(newest)
    with pytest.warns(
        UserWarning, match=rf"{newest.name} is not used: .*(content is wrong|does not hold a checkpoint)"
    ):
        clf = fit()
    expected = once("whole", lambda: make(meta="none", max_epochs=4, callbacks=[Stop()]).fit(*digits))
    np.testing.assert_array_equal(clf.predict_proba(digits[0]), expected.predict_proba(digits[0]))
    assert clf.history_[:, "train_loss"] == expected.history_[:, "train_loss"]


def test_none_of_wrong_content_can_be_used(make, digits, tmp_path):
    own, fit = crashed(make, digits, tmp_path)
    for path in own.glob("*.checkpoint"):
        broken(WRONG["no weights"])(path)
    with pytest.raises(ValueError, match=r"none of the checkpoints .*content is wrong.*Remove that folder"):
        fit()


def test_checkpoints_of_other_code_are_refused(make, digits, tmp_path, monkeypatch):
    own, fit = crashed(make, digits, tmp_path)
    running = _code_version.code_digest()
    assert checkpoint_files.read(max(own.glob("*.checkpoint")))["versions"]["sklearn_kd's code"] == running
    monkeypatch.setattr(_code_version, "code_digest", lambda: "another")
    with pytest.raises(ValueError, match=f"it was written with sklearn_kd's code {running}, but another is"):
        fit()
    monkeypatch.undo()
    fit()


def test_the_digest_of_the_code_is_that_of_the_sources(tmp_path, monkeypatch):
    def digest(folder, **sources):
        (tmp_path / folder / "part").mkdir(parents=True)
        for name, text in sources.items():
            (tmp_path / folder / "part" / f"{name}.py").write_bytes(text)
        monkeypatch.setattr(_code_version, "__file__", str(tmp_path / folder / "_version.py"))
        return _code_version.code_digest.__wrapped__()

    first = digest("a", f=b"x = 1\ny = 2\n", g=b"")
    assert digest("b", g=b"", f=b"x = 1\r\ny = 2\r\n") == first  # as git may check it out
    others = {digest("c", f=b"x = 1\ny = 3\n", g=b""), digest("d", f=b"x = 1\ny = 2\n", h=b"")}
    others |= {digest("e", f=b"x = 1\ny = 2\n"), digest("f")}
    assert len(others) == 4 and first not in others and "unknown" in others


def test_processes_and_estimators_record_the_code(fitted, tmp_path):
    assert make_process().versions["sklearn_kd's code"] == _code_version.code_digest()
    assert make_process().versions["sklearn_kd"] == sklearn_kd.__version__
    about, _ = content_of(fitted, tmp_path / "saved.safetensors")
    assert about["sklearn_kd_code"] == _code_version.code_digest()
