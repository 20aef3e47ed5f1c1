"""What models weigh."""

import os
import pickle

import torch
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_kd.report._sizes import size_of
from sklearn_kd.teachers import FunctionTeacher, OnnxTeacher, TeacherEnsemble


def test_weights_and_buffers_of_a_network_count_by_their_type():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()
    # 3·2 + 2 weights, 2 + 2 of the normalisation, means and variances; its count of batches takes 8 bytes.
    assert size_of([network]) == (2 * (8 + 4 + 4) + 8, "weights")


def test_a_pickle_counts_for_anything_else(digits):
    scaler, model = StandardScaler().fit(digits[0]), GaussianNB().fit(*digits)
    n_bytes = [len(pickle.dumps(part, pickle.HIGHEST_PROTOCOL)) for part in (scaler, model)]
    assert size_of([scaler, FrozenEstimator(model)]) == (sum(n_bytes), "pickle")
    assert size_of([scaler, nn.Linear(3, 2)]) == (n_bytes[0] + 32, "pickle + weights")


def test_the_size_of_a_function_and_of_what_has_no_pickle_is_unknown():
    assert size_of([torch.softmax]).n_bytes is None
    assert size_of([nn.Linear(3, 2), (part for part in "ab")]).n_bytes is None


def test_what_stands_for_a_teacher_is_not_its_size(tmp_path, digits):
    """The path of a file, the name of a function; and several teachers weigh what they weigh together."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x" * 5000)
    assert size_of([str(path)]) == size_of([OnnxTeacher(path)]) == size_of([OnnxTeacher(b"x" * 5000)])
    assert size_of([str(path)]) == (5000, "file")
    path.with_name("net.onnx.data").write_bytes(b"x" * 70)
    both = [str(path), nn.Linear(3, 2)]
    assert size_of([both]) == size_of([TeacherEnsemble(both)]) == (5070 + 32, "file + weights")
    assert size_of([FunctionTeacher(os.path.join)]).n_bytes is None
