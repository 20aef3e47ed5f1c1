"""Students that take several arrays, or integers, in one file of ONNX."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_kd import export_student
from sklearn_kd.export._onnx_inputs import inputs_of

for package in ("onnx", "onnxscript", "skl2onnx"):
    pytest.importorskip(package, reason=f"needs {package}")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


class Tokens(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(50, 8), nn.Linear(8, n_classes)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        return self.linear((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))


class Pair(Tokens):
    def forward(self, numbers, input_ids):
        return super().forward(input_ids, torch.ones_like(input_ids)) + numbers.sum(1, keepdim=True)


class Codes(Tokens):
    def forward(self, x):
        return super().forward(x, torch.ones_like(x))


def parts(kind, n=60):
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 50, (n, 6)), np.ones((n, 6), np.int64)
    mask[::3, 4:] = 0
    numbers = rng.normal(size=(n, 3))
    return {
        "dict": (Tokens, {"attention_mask": mask, "input_ids": ids}), "tuple": (Pair, (numbers, ids)),
        "integers": (Codes, ids),
    }[kind], ids[:, 0] > 24  # fmt: skip


@pytest.mark.parametrize("kind", ["dict", "tuple", "integers"])
def test_parts(kind, make, tmp_path):
    (student, X), y = parts(kind)
    clf = make(meta="none", student=student, max_epochs=1).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_student(clf, tmp_path / "model.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {given.name: given.values for given in inputs_of(X)}
    label, probabilities = session.run(["label", "probabilities"], feed)
    np.testing.assert_allclose(probabilities, clf.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(label, clf.predict(X))


def test_rows_are_needed(make, tmp_path):
    (student, X), y = parts("dict")
    with pytest.raises(ValueError, match="X is needed"):
        export_student(make(meta="none", student=student, max_epochs=1).fit(X, y), tmp_path / "model.onnx")
