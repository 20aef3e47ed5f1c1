"""Answers on disk: asked once for each row, recognised, rounded as stated, refused when damaged."""

import json
import shutil
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch import nn

from helpers.streams import Counted, X, y
from sklearn_kd import DistilledClassifier, DistilledRegressor, MLPStudent, Stream, distillation_report
from sklearn_kd.teachers import FunctionTeacher, StoredAnswers, _answer_store
from sklearn_kd.teachers._answer_store import AnswerStore, _digest_of, row_keys
from sklearn_kd.teachers._compressed_logits import LogitCodec
from sklearn_kd.teachers._registry import wrap_teacher
from sklearn_kd.teachers._stored_answers import _Asked, _numbers_of

N = 400


class Counting(nn.Linear):
    """A linear layer that counts the rows it is asked about."""

    n_rows = 0

    def forward(self, x):
        self.n_rows += len(x)
        return super().forward(x)


@pytest.fixture(scope="module")
def forest():
    return LogisticRegression(max_iter=100).fit(X[:N], y[:N])


@pytest.fixture
def network(forest):
    made = Counting(64, 10)
    made.weight.data = torch.tensor(forest.coef_, dtype=torch.float32)
    made.bias.data = torch.tensor(forest.intercept_, dtype=torch.float32)
    return made


def fitted(teacher, X=X[:N], y=y[:N], **params):
    settings = {"meta": "naive", "max_epochs": 2, "random_state": 0, "device": "cpu"}
    return DistilledClassifier(teacher, MLPStudent, **settings | params).fit(X, y)


def weights(estimator):
    return torch.cat([w.detach().flatten() for w in estimator.student_.parameters()])


def parts_of(folder):
    return sorted(folder.glob("part-*.npy"))


# --------------------------------------------------------------------------------------
# Rounding


def test_float16_rounds_to_a_part_of_the_distance_to_the_largest():
    torch.manual_seed(0)
    logits = 300 + 20 * torch.randn(200, 50)
    codec = LogitCodec(50)
    restored = codec.restored(codec.packed(logits))
    distance = logits - logits.amax(1, keepdim=True)
    assert codec.record.itemsize == 100
    assert ((restored - distance).abs() <= distance.abs() / 2048 + 1e-4).all()
    torch.testing.assert_close(restored.softmax(1), logits.softmax(1), rtol=2e-2, atol=1e-5)


def test_the_largest_are_kept_and_the_others_share_their_mass():
    torch.manual_seed(0)
    logits = 3 * torch.randn(100, 1000)
    codec = LogitCodec(1000, "float32", top=10)
    p, restored = logits.softmax(1), codec.restored(codec.packed(logits)).softmax(1)
    top = logits.topk(10).indices
    torch.testing.assert_close(restored.gather(1, top), p.gather(1, top), rtol=1e-4, atol=1e-7)
    others = (1 - p.gather(1, top).sum(1, keepdim=True)) / 990
    least = restored.scatter(1, top, 1.0).amin(1, keepdim=True)
    torch.testing.assert_close(least, others, rtol=1e-3, atol=1e-7)
    assert LogitCodec(1000, top=10).record.itemsize == 42  # and 16 bytes of the key


def test_logits_of_minus_infinity_and_many_classes_can_be_stored():
    logits = torch.zeros(3, 70_000).index_fill(1, torch.arange(5), -torch.inf)
    logits[:, 65_600] = 30.0
    for codec in (LogitCodec(70_000), LogitCodec(70_000, top=2)):
        restored = codec.restored(codec.packed(logits))
        assert torch.isfinite(restored).all()
        assert restored.argmax(1).tolist() == [65_600] * 3
        assert codec.agree(codec.packed(logits), logits)
    certain = torch.tensor([[100.0, -100.0, -100.0]])
    codec = LogitCodec(3, top=1)
    assert codec.restored(codec.packed(certain)).softmax(1)[0, 0] > 0.999


# --------------------------------------------------------------------------------------
# Asked once


def test_each_row_is_asked_about_once_in_all_fits(network, tmp_path):
    stored = StoredAnswers(network, tmp_path / "answers")
    fitted(stored)
    assert network.n_rows == N
    before, again = network.n_rows, fitted(stored)
    assert network.n_rows == before + 4  # by which it is recognised
    shuffled = np.random.default_rng(0).permutation(N)
    fitted(stored, X[shuffled], y[shuffled])
    assert network.n_rows == before + 8
    fitted(stored, X[: N + 50], y[: N + 50])
    assert network.n_rows == before + 12 + 50
    direct = fitted(network)
    torch.testing.assert_close(weights(again), weights(direct), rtol=1e-2, atol=1e-3)
    assert not torch.equal(weights(again), weights(direct))  # float16


def test_a_fit_does_not_depend_on_what_was_there_before(network, tmp_path):
    for top in (None, 3):
        stored = StoredAnswers(network, tmp_path / f"answers{top}", top=top)
        assert torch.equal(weights(fitted(stored)), weights(fitted(stored)))


def test_float32_answers_are_those_of_the_teacher(network, tmp_path):
    stored = fitted(StoredAnswers(network, tmp_path, dtype="float32"))
    assert torch.equal(weights(stored), weights(fitted(network)))


def test_streams_epochs_and_repeated_crops_are_answered_from_the_folder(network, tmp_path):
    def crops(x):  # two of each row, chosen at random
        return x.roll(1, dims=1) if torch.rand(()) < 0.5 else x

    stored = StoredAnswers(network, tmp_path)
    params = {"max_epochs": 12, "augment": crops, "batch_size": 100}
    clf = DistilledClassifier(stored, MLPStudent, meta="naive", random_state=0, device="cpu", **params)
    clf.fit(Stream(Counted(N), classes=range(10)))
    n_asked = network.n_rows
    assert n_asked <= 2 * N + 10  # and the samples that are tried
    clf.fit(Stream(Counted(N), classes=range(10)))
    assert network.n_rows <= n_asked + 8


def test_teachers_of_arrays_are_asked_once_too(forest, tmp_path):
    asked = []

    def function(rows):
        asked.append(len(rows))
        return forest.decision_function(rows)

    stored = StoredAnswers(FunctionTeacher(function), tmp_path / "function")
    first, second = fitted(stored), fitted(stored)
    assert asked == [N, 4]
    assert torch.equal(weights(first), weights(second))
    frozen = StoredAnswers(FrozenEstimator(forest), tmp_path / "frozen")
    fitted(frozen)
    assert (
        fitted(frozen, X[:N].astype(np.float64)).score(X[1200:], y[1200:]) > 0.5
    )  # other numbers, other rows
    for rows in (np.array([["a", "b"]], object), sparse.csr_matrix(X[:9])):
        with pytest.raises(TypeError, match="finds a row by its numbers"):
            _numbers_of(rows)


def test_what_waits_is_written_when_the_store_goes(tmp_path):
    codec = LogitCodec(4)
    store = AnswerStore(tmp_path, {}, codec.record)
    store.add(row_keys(X[:10]), codec.packed(torch.randn(10, 4)))
    assert not parts_of(tmp_path)
    del store
    assert len(AnswerStore(tmp_path, {}, codec.record)) == 10


def test_what_has_waited_long_is_written_and_batches_in_turns_make_no_parts(tmp_path, monkeypatch):
    codec = LogitCodec(4)
    asked = _Asked(AnswerStore(tmp_path, {}, codec.record), codec, "teacher")

    def ask(places):
        return torch.randn(len(places), 4)

    asked(row_keys(X[:10]), ask)
    for row in range(10, 30):  # a batch with new rows, and one without
        asked(row_keys(X[row : row + 1]), ask)
        asked(row_keys(X[:10]), ask)
    assert not parts_of(tmp_path)
    monkeypatch.setattr(_answer_store, "_SECONDS", 0.0)
    asked(row_keys(X[:10]), ask)
    assert len(parts_of(tmp_path)) == 1
    asked(row_keys(X[30:40]), ask)
    assert len(parts_of(tmp_path)) == 2
    assert len(AnswerStore(tmp_path, {}, codec.record)) == 40


def test_other_teacher_classes_are_refused_before_they_are_stored(network, tmp_path):
    fitted(StoredAnswers(network, tmp_path))
    clf = DistilledClassifier(
        StoredAnswers(network, tmp_path),
        MLPStudent,
        meta="naive",
        teacher_classes=range(9, -1, -1),
        device="cpu",
    )
    with pytest.raises(ValueError, match="answers of another kind: teacher_classes None"):
        clf.fit(X[N:], y[N:])  # no row that is there


def _store_rows(folder, start):
    codec = LogitCodec(4)
    for first in range(start, start + 100, 10):
        store = AnswerStore(folder, {"teacher": "a"}, codec.record)
        store.add(row_keys(X[first : first + 10]), codec.packed(torch.full((10, 4), float(first))))
        store.write()


def test_two_processes_share_a_folder(tmp_path):
    context = get_context("fork")  # torch is imported, and not run
    others = [context.Process(target=_store_rows, args=(tmp_path, start)) for start in (0, 50)]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    store = AnswerStore(tmp_path, {"teacher": "a"}, LogitCodec(4).record)
    _, is_there, _ = store.find(row_keys(X[:200]))
    assert is_there.tolist() == [True] * 150 + [False] * 50
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


# --------------------------------------------------------------------------------------
# Refused


def test_another_teacher_other_classes_or_settings_are_refused(network, forest, tmp_path):
    fitted(StoredAnswers(network, tmp_path))
    other = Counting(64, 10)
    other.load_state_dict(network.state_dict())
    fitted(StoredAnswers(other, tmp_path))  # the same weights
    other.bias.data[0] += 1e-3
    for changed, words in (
        (StoredAnswers(other, tmp_path), "answers of another kind: teacher '"),
        (StoredAnswers(network, tmp_path, top=3), r"top None \(here 3\)"),
        (StoredAnswers(network, tmp_path, dtype="float32"), r"dtype 'float16' \(here 'float32'\)"),
    ):
        with pytest.raises(ValueError, match=words):
            fitted(changed)
    with pytest.raises(ValueError, match="another kind: classes '"):
        fitted(StoredAnswers(network, tmp_path), y=y[:N] * 2, teacher_classes=np.arange(10) * 2)


def test_a_teacher_without_weights_is_recognised_by_its_answers(forest, tmp_path):
    fitted(StoredAnswers(FrozenEstimator(forest), tmp_path))
    other = LogisticRegression(C=1e-3).fit(X[:N], y[:N])
    with pytest.raises(ValueError, match="does not answer like the teacher whose"):
        fitted(StoredAnswers(FrozenEstimator(other), tmp_path))


def test_each_part_is_recognised_by_itself(forest, tmp_path):
    other = LogisticRegression(C=1e-3).fit(X[:N], y[:N])
    fitted(StoredAnswers(FrozenEstimator(forest), tmp_path), X[:200], y[:200])
    fitted(StoredAnswers(FrozenEstimator(other), tmp_path), X[200:N], y[200:N])  # no row that is there
    for teacher in (forest, other):
        with pytest.raises(ValueError, match="does not answer like the teacher whose"):
            fitted(StoredAnswers(FrozenEstimator(teacher), tmp_path))


def test_all_parts_are_recognised_by_one_question(forest, tmp_path):
    for start in (0, 100, 200):
        fitted(
            StoredAnswers(FrozenEstimator(forest), tmp_path), X[start : start + 100], y[start : start + 100]
        )
    assert len(parts_of(tmp_path)) == 3
    asked = []

    def answers(places):
        asked.append(places)
        return torch.tensor(forest.decision_function(X[places]), dtype=torch.float32)

    adapter = wrap_teacher(StoredAnswers(FrozenEstimator(forest), tmp_path), None)
    adapter._opened(np.arange(10))(row_keys(_numbers_of(X[:300])), answers)
    assert [len(places) for places in asked] == [3 * 4]
    assert sorted({place // 100 for place in asked[0].tolist()}) == [0, 1, 2]


@pytest.mark.gpu
def test_a_stream_on_a_gpu_is_answered_from_the_folder(network, tmp_path):
    for _ in range(2):
        clf = DistilledClassifier(
            StoredAnswers(network, tmp_path), MLPStudent, meta="naive", max_epochs=2, device="cuda"
        )
        clf.fit(Stream(Counted(N), classes=range(10)))
    assert network.n_rows <= N + 10
    assert np.isfinite(clf.predict_proba(X[:50])).all()


def test_damaged_files_are_refused(network, tmp_path):
    folder = tmp_path / "answers"
    fitted(StoredAnswers(network, folder))
    (part,) = parts_of(folder)
    data = bytearray(part.read_bytes())
    for damage in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        part.write_bytes(damage)
        with pytest.raises(ValueError, match=r"is damaged.*Delete the file"):
            fitted(StoredAnswers(network, folder))
    part.unlink()
    n_rows = network.n_rows
    fitted(StoredAnswers(network, folder))
    assert network.n_rows == n_rows + N
    (folder / "answers.json").write_text("{")
    with pytest.raises(ValueError, match=r"answers.json is damaged"):
        fitted(StoredAnswers(network, folder))


def test_a_part_with_objects_is_not_read(network, tmp_path):
    """A pickle inside would run code."""
    fitted(StoredAnswers(network, tmp_path))
    np.save(tmp_path / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    data = (tmp_path / "evil.npy").read_bytes()
    (tmp_path / f"part-{_digest_of([data])}.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"pickle|object"):
        fitted(StoredAnswers(network, tmp_path))


def test_the_folder_says_whose_answers_it_has(network, tmp_path):
    fitted(StoredAnswers(network, tmp_path, top=2))
    about = json.loads((tmp_path / "answers.json").read_text())
    assert {name: about[name] for name in ("n_classes", "dtype", "top")} == {
        "n_classes": 10,
        "dtype": "float16",
        "top": 2,
    }


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ({"dtype": "int8"}, ValueError, "dtype='int8' must be one of"),
        ({"top": 0}, ValueError, "top=0 must be at least 1"),
        ({"top": 2.5}, TypeError, "top=2.5 must be an integer"),
        ({"top": 10}, ValueError, "top=10 of 10 classes leaves no others"),
        ({"teacher": LogisticRegression()}, ValueError, "would be trained anew by each fit"),
        ({"teacher": None}, TypeError, "teacher of StoredAnswers=None is none of"),
    ],
)
def test_wrong_parameters_are_refused(network, tmp_path, params, kind, words):
    with pytest.raises(kind, match=words):
        fitted(StoredAnswers(**{"teacher": network, "folder": tmp_path} | params))


def test_it_is_a_parameter_like_others(network, tmp_path):
    again = clone(StoredAnswers(network, tmp_path)).set_params(top=3)
    assert (again.teacher, again.folder, again.top, again.dtype) == (network, tmp_path, 3, "float16")
    with pytest.raises(TypeError, match="StoredAnswers"):
        DistilledRegressor(StoredAnswers(network, tmp_path), MLPStudent, device="cpu").fit(X[:N], X[:N, 20])


def test_the_report_asks_the_teacher_itself_and_stores_nothing(network, tmp_path):
    clf = fitted(StoredAnswers(network, tmp_path))
    before, n_rows = parts_of(tmp_path), network.n_rows
    report = distillation_report(clf, X[1400:], y[1400:])
    assert "teacher (Counting)" in str(report)
    assert network.n_rows >= n_rows + len(X[1400:])
    assert parts_of(tmp_path) == before


def test_a_full_disk_is_an_error_and_leaves_the_parts_whole(network, tmp_path, monkeypatch):
    folder = tmp_path / "answers"
    fitted(StoredAnswers(network, folder), X[:100], y[:100])

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sklearn_kd.teachers._answer_store.write_file", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(StoredAnswers(network, folder))
    monkeypatch.undo()
    shutil.copytree(folder, tmp_path / "copy")
    n_rows = network.n_rows
    fitted(StoredAnswers(network, tmp_path / "copy"), X[:100], y[:100])
    assert network.n_rows == n_rows + 4
