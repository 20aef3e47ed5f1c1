"""Files that are refused, and that nothing in them runs; no other reader of files runs code either."""

import ast
import copy
import json
import pickle
import random
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from helpers.saved_files import content_of, write
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent
from sklearn_kd.files._compression import bytes_of, compress_rows
from sklearn_kd.persistence import _container
from sklearn_kd.persistence._container import Content, packed

safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fitted(digits, logits):
    quick = SINGLE_RUN | {"max_epochs": 1, "batch_size": 64, "random_state": 0, "device": "cpu"}
    clf = DistilledClassifier(None, MLPStudent, student__hidden=(8, 6), standardize=False, **quick)
    return clf.fit(*digits, teacher_logits=logits)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saved.safetensors"


@pytest.fixture
def saved(fitted, path):
    """(about, tensors) of a file that loads, to be changed."""
    return content_of(fitted, path)


def refuses_to_load(path, message, estimator=DistilledClassifier, **given):
    with pytest.raises(ValueError, match=message):
        estimator.load(path, **given)


# --------------------------------------------------------------------------------------
# Other files


class Runs:
    """Its pickle, read, would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [pickle.dump, joblib.dump])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle(dump, protocol, path, tmp_path):
    with path.open("wb") as file:
        dump(Runs(tmp_path / "ran"), file, protocol=protocol)
    refuses_to_load(
        path,
        "is not a safetensors file, but a pickle, which can run any code.*save the estimator with its method",
    )
    assert not (tmp_path / "ran").exists()


def test_file_of_torch_save(path, tmp_path):
    torch.save({"weights": Runs(tmp_path / "ran")}, path)
    refuses_to_load(path, "is not a safetensors file, but a zip archive, as torch.save")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x00", b"no", b"{}", b"\xff" * 100, bytes(1000)])
def test_anything(content, path):
    path.write_bytes(content)
    refuses_to_load(path, "is not a safetensors file")


def test_no_file(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        DistilledClassifier.load(path)
    with pytest.raises(OSError):
        DistilledClassifier.load(tmp_path)


def test_student_of_export_student(fitted, path):
    fitted.export_student(path)
    refuses_to_load(path, r"has only a student.*safetensors\.torch\.load_model.*method save")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_of_others(metadata, path):
    safetensors.save_file({"w": torch.zeros(3)}, path, metadata=metadata)
    refuses_to_load(path, "is a safetensors file, but not of an estimator: .*kind=None")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated(share, fitted, path):
    fitted.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refuses_to_load(path, "is truncated or damaged|is damaged|is not a safetensors file")


def rewritten(path, change):
    """The header changed in place, the tensors as they were."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("version", ["3", "0", "one", "1.0", ""])
def test_format_of_another_version(version, fitted, path):
    fitted.save(path)
    rewritten(path, lambda header: header["__metadata__"].update(format_version=version))
    refuses_to_load(path, f"has format '{version}'; this version of sklearn-kd reads 1 and 2")


def test_no_version_no_metadata(fitted, path):
    fitted.save(path)
    rewritten(path, lambda header: header["__metadata__"].pop("format_version"))
    refuses_to_load(path, "has format None")
    rewritten(path, lambda header: header.pop("__metadata__"))
    refuses_to_load(path, "kind=None")


@pytest.mark.parametrize("text", ["", "{", "nothing", "[]", "3", "null", "[" * 100_000, '{"a": 1e999999}'])
def test_metadata_that_are_no_dictionary(text, saved, path, monkeypatch):
    _, tensors = saved
    monkeypatch.setattr("sklearn_kd.persistence._container.json.dumps", lambda value: text)
    data = packed(Content({}, tensors))
    monkeypatch.undo()
    path.write_bytes(data)
    refuses_to_load(
        path, "is damaged|metadata that are not JSON|as metadata, not a dictionary|cannot be loaded"
    )


def test_one_weight_changed(fitted, digits, path):
    """It is a weight like any other: the digest alone can tell."""
    fitted.save(path)
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start, _ = header["student.layers.1.weight"]["data_offsets"]
    data[8 + int.from_bytes(data[:8], "little") + start + 2] ^= 1
    path.write_bytes(data)
    refuses_to_load(path, "its content does not match its sha256")


def test_two_names_exchanged(fitted, path):
    fitted.save(path)

    def exchange(header):
        first, second = "metaparameter_path.lambda1", "metaparameter_path.temperature"
        header[first], header[second] = header[second], header[first]

    rewritten(path, exchange)
    refuses_to_load(path, "its content does not match its sha256")


# --------------------------------------------------------------------------------------
# Files of this kind with a digest that is right, and a content that is not


def test_extra_tensor(saved, path):
    about, tensors = saved
    write(path, about, tensors | {"more": torch.zeros(2)})
    refuses_to_load(path, r"tensors that the estimator does not use: \['more'\]")
    write(path, about, tensors | {"student.more": torch.zeros(2)})
    refuses_to_load(path, "do not fit the student MLPStudent. unexpected: more")


@pytest.mark.parametrize("name", ["student.layers.1.weight", "history", "metaparameter_path.lambda1"])
def test_missing_tensor(name, saved, path):
    about, tensors = saved
    del tensors[name]
    write(path, about, tensors)
    refuses_to_load(path, name.removeprefix("student."))


def test_weights_of_another_shape_or_type(saved, path):
    about, tensors = saved
    last = "student.layers.5.weight"
    write(path, about, tensors | {last: tensors[last][:9]})
    refuses_to_load(
        path, r"layers\.5\.weight' is \(9, 6\) float32 in the file and \(10, 6\) float32 in the module"
    )
    write(path, about, tensors | {last: tensors[last].double()})
    refuses_to_load(path, r"\(10, 6\) float64 in the file and \(10, 6\) float32 in the module")


PATH = "metaparameter_path.lambda1"
BOMB = torch.frombuffer(bytearray(zlib.compress(bytes(10**8))), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        (BOMB, ["float64", [6]], "compressed bytes that hold more than the stated 48"),
        (BOMB, ["float64", [10**7]], "ask for 80,.* bytes of memory, beyond the limit"),
        (BOMB, ["float64", [10**12, 10**12]], "bytes of memory, beyond the limit"),
        (BOMB[:-9], ["uint8", [10**7 * 6]], "compressed bytes that"),
        (None, ["float64", [7]], "compressed bytes that end after"),
        (None, ["float32", [6]], "compressed bytes that hold more"),
        (None, ["float64", [0]], "of type and shape"),
        (None, ["float64", [-6]], "of type and shape"),
        (None, ["float64", 6], "of type and shape"),
        (None, ["quint8", [48]], "of type and shape"),
        (None, ["os.system", [48]], "of type and shape"),
        (None, "float64", "of type and shape"),
        (None, [], "of type and shape"),
        (torch.zeros(9), ["float64", [6]], "no bytes of the compressed tensor"),
        (torch.zeros(9, dtype=torch.uint8), ["float64", [6]], "cannot be decompressed"),
    ],
    ids=in_words,
)
def test_compressed_tensors(data, form, message, saved, path, monkeypatch):
    """More or less than stated, a type or a shape that is none: refused before the memory is taken."""
    about, tensors = saved
    if data is None:
        rows = bytes_of(tensors[PATH].numpy())
        data = torch.frombuffer(bytearray(compress_rows(rows)), dtype=torch.uint8)
    hostile = tensors | {PATH: data}, {PATH: form}
    monkeypatch.setattr(_container, "compress_tensors", lambda tensors: hostile)
    write(path, about, tensors)
    refuses_to_load(path, message)


@pytest.mark.parametrize("compressed", [[1], 1, {"nothing": ["float64", [6]]}], ids=in_words)
def test_no_such_compressed_tensor(compressed, saved, path, monkeypatch):
    about, tensors = saved
    monkeypatch.setattr(_container, "compress_tensors", lambda tensors: (tensors, compressed))
    write(path, about, tensors)
    refuses_to_load(path, "compressed tensor")


def test_labels_that_do_not_fit_the_last_layer(saved, path):
    about, tensors = saved
    about["labels"]["values"].pop()
    write(path, about, tensors)
    refuses_to_load(path, r"layers\.5\.weight' is \(10, 6\) float32 in the file and \(9, 6\)")
    refuses_to_load(path, "must give one logit per class", student=MLPStudent(64, 10, hidden=(8, 6)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, saved, path):
    about, tensors = saved
    tensors["student.layers.3.bias"][2] = value
    write(path, about, tensors)
    refuses_to_load(path, r"weights of the student that are not finite: layers\.3\.bias")


MANY = 10**12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.clear(), "cannot be loaded"),
        (lambda a: a.update(estimator="os.system"), "it has a os.system, not a DistilledClassifier"),
        (lambda a: a.update(input_shape=[]), "samples of shape"),
        (lambda a: a.update(input_shape=[64.0]), "samples of shape"),
        (lambda a: a.update(input_shape=[-64]), "samples of shape"),
        (lambda a: a.update(input_shape=[MANY]), "beyond the limit"),
        (lambda a: a.update(input_shape=[10**7]), "do not fit the student"),
        (lambda a: a["params"].update(student__hidden=MANY), "student__ parameters of size 1,000,000,000,000"),
        (lambda a: a["params"].update(student__hidden=[1] * 1000), "student__ parameters of size 1,000"),
        (lambda a: a["params"].update(student__hidden=[8, 6, 4]), "do not fit the student"),
        (lambda a: a["params"].update(student__hidden="wide"), "cannot be loaded"),
        (lambda a: a["params"].update(student__depth=8), "cannot be loaded"),
        (lambda a: a["params"].update(student={"student": "os.system"}), "which this version does not know"),
        (lambda a: a["params"].update(student="MLPStudent"), "has MLPStudent as student"),
        (lambda a: a["params"].update(student={"optimizer": "SGD"}), "as student"),
        (lambda a: a["params"].update(optimizer={"optimizer": "lr_scheduler"}), "does not know"),
        (lambda a: a["params"].update(optimizer={"optimizer": "os.system"}), "does not know"),
        (lambda a: a["params"].update(meta={"strategy": ["Strategy", {}]}), "does not know"),
        (lambda a: a["params"].update(meta={"strategy": ["Linear", {"e3": 1}]}), "cannot be loaded"),
        (lambda a: a["params"].update(meta={"tuple": 3}), "does not know"),
        (lambda a: a["params"].update(loss={"loss": ["DistillationLoss", {}]}), "does not know"),
        (lambda a: a["params"].update(loss={"loss": ["LogitDistillation", {"e3": 1}]}), "cannot be loaded"),
        (lambda a: a["params"].update(loss="best"), "cannot be loaded"),
        (lambda a: a["params"].update(loss={"strategy": ["Linear", {}]}), "an object, Linear, as loss"),
        (lambda a: a["params"].update(meta={"loss": ["LogitDistillation", {}]}), "LogitDistillation, as meta"),
        (lambda a: a["params"].update(execution={"execution": ["os.system", {}]}), "does not know"),
        (lambda a: a["params"].update(execution=[{"execution": ["Execution", {}]}]), "Execution, as execution"),
        (lambda a: a["params"].update(__class__="int"), "parameters that DistilledClassifier does not have"),
        (lambda a: a["params"].update(net_=3), "parameters that DistilledClassifier does not have"),
        (lambda a: a["params"].update(lr=-1), "lr"),
        (lambda a: a["params"].update(meta="best"), "cannot be loaded"),
        (lambda a: a["params"].update(device="nowhere"), "device='nowhere'"),
        (lambda a: a["params"].update(device=3), "device"),
        (lambda a: a.update(params=[]), "cannot be loaded"),
        (lambda a: a.pop("labels"), "cannot be loaded"),
        (lambda a: a["labels"].update(dtype="O,O"), "labels of dtype"),
        (lambda a: a["labels"].update(dtype="|V8"), "labels of dtype"),
        (lambda a: a["labels"].update(dtype="<U999999999"), "labels that are not at least two"),
        (lambda a: a["labels"].update(dtype="<i3"), "cannot be loaded"),
        (lambda a: a["labels"].update(dtype="|u1", values=list(range(250, 260))), "labels|cannot be loaded"),
        (lambda a: a["labels"].update(values=[[1]] * 10), "labels that are not a list"),
        (lambda a: a["labels"].update(values=list(range(10))[::-1]), "labels that are not at least two, sorted"),
        (lambda a: a["labels"].update(values=[1]), "labels that are not at least two"),
        (lambda a: a.update(n_iter=3), "a path of 6 iterations of 3"),
        (lambda a: a.update(n_iter="many"), "'many' as a number of iterations"),
        (lambda a: a["metaparameters"].update(lambda1=np.nan), "'nan' instead of a number"),
        (lambda a: a["metaparameters"].update(lambda1="half"), "'half' instead of a number"),
        (lambda a: a["metaparameters"].update(lambda1=1.5), "lambda1=1.5 in its metaparameters, which no"),
        (lambda a: a["metaparameters"].update(trust=0.5), "the metaparameters .*'trust'.*, not"),
        (lambda a: a["metaparameters"].pop("temperature"), "in its metaparameters, not"),
        (lambda a: a.update(metaparameters=[0.5, 1.0]), "metaparameters that are no mapping"),
        (lambda a: a.update(val_temperature=np.nan), "'nan' instead of a number"),
        (lambda a: a.update(val_temperature="half"), "'half' instead of a number"),
        (lambda a: a.update(feature_names=["a"]), "names of features that are not 64 strings"),
        (lambda a: a.update(feature_names=[1] * 64), "names of features that are not 64 strings"),
        (lambda a: a.update(left_out=3), "cannot be loaded"),
        (lambda a: a.pop("metaparameter_path_columns"), "None as the columns of metaparameter_path"),
        (lambda a: a["metaparameter_path_columns"].append("lambda1"), "as the columns of metaparameter_path"),
        (lambda a: a["metaparameter_path_columns"].append("x.y"), "as the columns of metaparameter_path"),
        (lambda a: a["metaparameter_path_columns"].append("x"), "no tensor 'metaparameter_path.x'"),
        (lambda a: a["metaparameter_path_columns"].remove("predicted"), "with the columns .*, not .*predicted"),
        (lambda a: a.update(trials_columns=["lambda1"]), "no tensor 'trials.lambda1'"),
    ],
)  # fmt: skip
def test_content_that_is_wrong(change, message, saved, path):
    about, tensors = saved
    change(about)
    write(path, about, tensors)
    refuses_to_load(path, message)


def json_tensor(value):
    return torch.from_numpy(np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("history", json_tensor({"a": 1}), "a history that is not a list of epochs"),
        ("history", json_tensor([1]), "a history that is not a list of epochs"),
        ("history", json_tensor({"epochs": {"layouts": [["epoch"]], "others": {}}}), "not a list of epochs"),
        ("history", json_tensor({"epochs": 3, "batches": 3}), "not a list of epochs"),
        ("history.epochs", torch.zeros(3, dtype=torch.int64), "not a list of epochs"),
        ("history.epochs", torch.full((1,), 7), "not a list of epochs"),
        ("history.batches.train_loss", torch.zeros(()), "an invalid column"),
        ("history.batches.train_loss", torch.zeros(3), "not a list of epochs"),
        ("history.epochs.batches", torch.full((1,), 99), "batches, not the 99"),
        ("history", torch.zeros(3, dtype=torch.uint8), "cannot be loaded"),
        ("history", torch.zeros(3), "'history' of float32, not of uint8"),
        ("metaparameter_path.lambda1", torch.zeros(3, dtype=torch.float64), "with different lengths"),
        ("metaparameter_path.lambda1", torch.zeros(6), r"\('lambda1', '<f4'\).*, not .*\('lambda1', '<f8'\)"),
        (
            "metaparameter_path.lambda1",
            torch.zeros(6, 1, dtype=torch.float64),
            r"\('lambda1', '<f8', \(1,\)\)",
        ),
        ("metaparameter_path.lambda1", torch.zeros((), dtype=torch.float64), "with different lengths"),
        (
            "metaparameter_path.lambda1",
            torch.zeros(6, dtype=torch.bfloat16),
            "of bfloat16, which is not a type",
        ),
        (
            "trials.val_loss",
            torch.zeros(6, dtype=torch.float64),
            "tensors that the estimator does not use: .'trials.val",
        ),
    ],
)
def test_tables_and_histories_that_are_none(name, tensor, message, saved, path):
    about, tensors = saved
    write(path, about, tensors | {name: tensor})
    refuses_to_load(path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: a.update(standardize_limit=0), "must be above 0"),
        (lambda a, t: a.update(standardize_limit="5"), "instead of a number"),
        (lambda a, t: a.pop("standardize_limit"), "do not fit the student MLPStudent"),
        (lambda a, t: a.update(input_shape=[10_000]), r"shapes \[\(64,\), \(64,\)\]"),
        (lambda a, t: a.update(input_shape=[8, 8]), r"shapes \[\(64,\), \(64,\)\]"),
        (lambda a, t: t.pop("student.scaling.factor"), r"shapes \[\(64,\)\]"),
        (lambda a, t: t["student.scaling.factor"].fill_(np.nan), r"not finite: scaling\.factor"),
    ],
)
def test_layers_that_standardise_something_else(change, message, digits, path):
    quick = {"max_epochs": 1, "batch_size": 64, "random_state": 0, "device": "cpu", "meta": "none"}
    about, tensors = content_of(DistilledClassifier(None, MLPStudent, **quick).fit(*digits), path)
    change(about, tensors)
    write(path, about, tensors)
    refuses_to_load(path, message)


def test_students_that_do_not_fit(saved, path):
    write(path, *saved)
    refuses_to_load(path, r"unexpected: layers\.5\.bias", student=MLPStudent(64, 10, hidden=8))
    refuses_to_load(path, "missing: weight, bias; unexpected", student=nn.Linear(64, 10))
    refuses_to_load(path, "student Linear must give one logit per class", student=nn.Linear(64, 9))
    refuses_to_load(path, "cannot take samples of shape", student=nn.Linear(63, 10))
    for student in (3, "MLPStudent", int):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            DistilledClassifier.load(path, student=student)
    with pytest.raises(TypeError, match=r"'max_epoch' of DistilledClassifier. Did you mean 'max_epochs'"):
        DistilledClassifier.load(path, max_epoch=3)


def test_nothing_named_by_a_file_is_imported(saved, path, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    about, tensors = saved
    about["student_class"] = "planted.Student"
    write(path, about, tensors)
    DistilledClassifier.load(path)
    del about["params"]["student"]
    write(path, about, tensors)
    refuses_to_load(path, r"has a student of class planted\.Student")
    about["params"]["student"] = {"student": "planted.Student"}
    write(path, about, tensors)
    refuses_to_load(path, "does not know")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: t.pop("process.values.lambda1"), "no tensor 'process.values.lambda1'"),
        (lambda a, t: t["process.values.lambda1"].fill_(torch.nan), "values of lambda1 must be finite"),
        (
            lambda a, t: a["process"]["metaparameters"].pop(),
            r"the estimator does not use: \['process\.values\.temp",
        ),
        (lambda a, t: a["process"]["metaparameters"][0].pop(), "cannot be loaded"),
        (lambda a, t: a["process"].update(metaparameters=[]), "cannot be loaded|at least one metaparameter"),
        (lambda a, t: t.pop("search_history.epochs"), "no tensor 'search_history.epochs'"),
    ],
)
def test_process_of_a_search_that_is_wrong(change, message, make, digits, logits, once, path):
    fitted = once("search", lambda: make(search_epochs=1).fit(*digits, teacher_logits=logits))
    about, tensors = content_of(fitted, path)
    change(about, tensors)
    write(path, about, tensors)
    refuses_to_load(path, message)


# --------------------------------------------------------------------------------------
# DistPro


@pytest.fixture
def saved_distpro(make_distpro, images, once, path):
    fitted = once("DistPro", lambda: make_distpro(logit_weight="learned").fit(*images))
    return content_of(fitted, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: a["pathways"].pop(), "raw has shape"),
        (lambda a, t: t.pop("transforms.0.match.0.weight"), r"missing: 0\.match\.0\.weight"),
        (lambda a, t: a["pathways"][0].update(teacher_channels=5), "do not fit the transforms"),
        (lambda a, t: a["pathways"][0].update(teacher_channels=MANY), "pathways of size"),
        (lambda a, t: a["pathways"][0].update(transform="conv9"), "cannot be loaded"),
        (lambda a, t: a["pathways"][0].update(transform=3), "a pathway"),
        (lambda a, t: a["pathways"][0].update(more=3), "cannot be loaded"),
        (lambda a, t: a["process"].update(normalization="most"), "normalization='most'"),
        (lambda a, t: a["process"].update(softmax_bias=None), "'None' instead of a number"),
        (lambda a, t: a.pop("process"), "cannot be loaded"),
        (lambda a, t: a.update(process=None), r"the estimator does not use: \['process\.logit_term', 'process\.raw'\]"),
        (lambda a, t: t.pop("process.raw"), "no tensor 'process.raw'"),
        (lambda a, t: t["process.raw"].fill_(torch.nan), "raw must be finite"),
        (lambda a, t: t.update({"process.raw": t["process.raw"][:, 1:]}), "raw has shape"),
        (lambda a, t: t["process.logit_term"].fill_(2), "logit_term must be finite"),
        (lambda a, t: t.pop("search_history"), "no tensor 'search_history'"),
        (lambda a, t: t["transforms.0.match.0.weight"].fill_(torch.nan), "transforms that are"),
        (lambda a, t: a["params"].update(transforms="conv1"), "transforms"),
        (lambda a, t: a["params"].update(transforms=[["conv1"]]), "cannot be loaded"),
    ],
)  # fmt: skip
def test_process_that_is_wrong(change, message, saved_distpro, path):
    about, tensors = saved_distpro
    change(about, tensors)
    write(path, about, tensors)
    refuses_to_load(path, message, DistProClassifier, student=ConvNet)


# --------------------------------------------------------------------------------------
# Any damage


def damaged(data, rng):
    """A copy with some bytes changed, left out, doubled or cut off, in the header half of the time."""
    data = bytearray(data)
    end = 8 + int.from_bytes(data[:8], "little") if rng.random() < 0.5 else len(data)
    place, kind = int(rng.integers(end)), rng.integers(5)
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[place] = int(rng.integers(256))
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + int(rng.integers(1, 9))]
    else:
        data[place:place] = data[place : place + int(rng.integers(1, 9))]
    return bytes(data)


def test_damage_is_noticed_or_does_none(fitted, digits, path):
    fitted.save(path)
    data, rng, harmless = path.read_bytes(), np.random.default_rng(0), 0
    expected = fitted.predict_proba(digits[0])
    for _ in range(300):
        changed = damaged(data, rng)
        path.write_bytes(changed)
        try:
            again = DistilledClassifier.load(path)
        except ValueError:
            assert changed != data
            continue
        harmless += 1
        np.testing.assert_array_equal(again.predict_proba(digits[0]), expected)
        assert again.classes_.tolist() == fitted.classes_.tolist()
    assert harmless < 30  # the few that changed nothing, or a space


def places(value, before=()):
    """The keys that lead to each value in nested dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*before, key)
        yield from places(part, (*before, key))


VALUES = [
    None, True, -1, 0, 3, 10**15, 10**400, 1.5, np.nan, "", "conv1", "os.system", [], [[]], {}, [10**9] * 3,
    {"tuple": [1]}, {"student": "MLPStudent"}, {"student": []}, {"optimizer": "Adam"}, {"strategy": [[], {}]},
    {"loss": ["LogitDistillation", {}]}, {"execution": ["Execution", {}]},
]  # fmt: skip


def corrupted(about, tensors, rng):
    """A copy of a content with a value replaced or left out, and sometimes a tensor made another."""
    about, tensors = copy.deepcopy(about), dict(tensors)
    *way, last = rng.choice(list(places(about)))
    holder = about
    for key in way:
        holder = holder[key]
    if rng.random() < 0.8:
        holder[last] = rng.choice(VALUES)
    else:
        del holder[last]
    if rng.random() < 0.2 and isinstance(about.get("params"), dict):
        about["params"][rng.choice(["more", "student__more", "optimizer__more"])] = rng.choice(VALUES)
    if rng.random() < 0.2:
        name = rng.choice(sorted(tensors))
        tensor = tensors[name]
        others = [tensor[:1] if tensor.ndim else tensor[None], tensor.double(), tensor.reshape(-1)]
        tensors[name] = rng.choice([*others, tensor.bool(), torch.full(tensor.shape, torch.nan)])
    return about, tensors


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("estimator", [DistilledClassifier, DistProClassifier])
def test_damage_under_a_digest_that_is_right(estimator, request, digits, images, path):
    """As one who writes files by hand can do it: ValueError, or an estimator that predicts."""
    distpro = estimator is DistProClassifier
    about, tensors = request.getfixturevalue("saved_distpro" if distpro else "saved")
    X, given = (images[0], {"student": ConvNet}) if distpro else (digits[0], {})
    rng, loaded = random.Random(0), 0
    for _ in range(100):
        write(path, *corrupted(about, tensors, rng))
        try:
            again = estimator.load(path, **given)
        except ValueError:
            continue
        loaded += 1
        assert again.predict(X[:3]).shape == (3,)
    assert 0 < loaded < 50


# --------------------------------------------------------------------------------------
# All readers of files, of the library and of the examples

# What runs, or may run, what a file says. These are safe where they are called in one way.
SAFE = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
UNSAFE = {
    *(f"{module}.{name}" for module in ("pickle", "dill", "cloudpickle") for name in ("load", "loads", "Unpickler")),
    "joblib.load", "pandas.read_pickle", "shelve.open", "marshal.load", "marshal.loads", "torch.hub.load",
    "torch.jit.load", "eval", "exec", "__import__",
}  # fmt: skip
# What is left, and why it may be.
ALLOWED = {
    (
        "examples/evidence/ranks_equality.py",
        "torch.load",
    ): "what the script's own processes have just written",
    (
        "sklearn_kd/datasets/_byte_pickles.py",
        "pickle.Unpickler",
    ): "a subclass that admits arrays of bytes alone",
    (
        "sklearn_kd/teachers/_networks.py",
        "torch.jit.load",
    ): "a copy of the user's module, made in memory just before",
    (
        "sklearn_kd/runtime/_broadcast.py",
        "pickle.loads",
    ): "what a search sends its own workers, with their tasks",
    (
        "sklearn_kd/runtime/_spawn.py",
        "pickle.load",
    ): "written by a process of this fit, in a folder that it made",
    ("sklearn_kd/runtime/_spawn.py", "pickle.loads"): "the same",
}


def imported(tree):
    """What each name in a module stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node, names):
    """The full name of a name or an attribute; an empty string of anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        value = dotted(node.value, names)
        return f"{value}.{node.attr}" if value else ""
    return ""


def says(call, keyword, value):
    given = {part.arg: part.value for part in call.keywords}
    return isinstance(given.get(keyword), ast.Constant) and given[keyword].value is value


def unsafe_readers(text):
    """Names of the unsafe functions that a module uses."""
    tree = ast.parse(text)
    names, found, safe = imported(tree), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func, names)
            if name in SAFE and says(node, *SAFE[name]):
                safe.add(node.func)
    for node in ast.walk(tree):
        name = dotted(node, names) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if name in UNSAFE or (name in SAFE and node not in safe):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch\ntorch.load(f)", ["torch.load"]),
        ("import torch as t\nt.load(f, weights_only=False)", ["torch.load"]),
        ("from torch import load\nload(f, weights_only=flag)", ["torch.load"]),
        ("import torch\nread = torch.load\nread(f)", ["torch.load"]),
        ("import torch\ntorch.load(f, weights_only=True)", []),
        ("import numpy as np\nnp.load(f)", ["numpy.load"]),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", ["numpy.load"]),
        ("import numpy as np\nnp.load(f, allow_pickle=False)", []),
        ("import pickle\npickle.loads(f)", ["pickle.loads"]),
        ("from pickle import load as read\nread(f)", ["pickle.load"]),
        ("import pickle\nclass A(pickle.Unpickler): pass", ["pickle.Unpickler"]),
        ("import joblib\njoblib.load(f)", ["joblib.load"]),
        ("eval('1')\nmodel.eval()", ["eval"]),
        ("import pickle\npickle.dumps(f)", []),
    ],
)
def test_the_search_for_unsafe_readers_finds_them(text, found):
    assert unsafe_readers(text) == found


def test_no_reader_of_files_runs_code():
    used = set()
    for folder in ("sklearn_kd", "examples"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            used |= {(name, reader) for reader in unsafe_readers(file.read_text(encoding="utf-8"))}
    assert used == set(ALLOWED)
