"""Students that return their logits in an object, as the models of transformers do."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import ConvNet
from sklearn_kd import DistilledClassifier, DistProClassifier


class Output(dict):
    """Names its logits, as a ModelOutput."""


class PreTrainedModel(nn.Module):
    """Stands for the base class of transformers' models."""

    __module__ = "transformers.modeling_utils"


class ForImages(PreTrainedModel):
    def __init__(self, n_classes=10):
        super().__init__()
        self.network = ConvNet(n_classes)

    def forward(self, pixel_values):
        return Output(logits=self.network(pixel_values))


SETTINGS = {"max_epochs": 1, "device": "cpu", "random_state": 0}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.random((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 10


def test_a_model_of_transformers_learns_as_its_network(data, tmp_path):
    (X, y), teacher = data, ConvNet()
    model = DistilledClassifier(teacher, ForImages, meta="fixed", **SETTINGS).fit(X, y)
    alone = DistilledClassifier(teacher, ConvNet, meta="fixed", **SETTINGS).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), alone.predict_proba(X))
    assert type(model.student_) is ForImages
    model.save(tmp_path / "model.kd")
    loaded = DistilledClassifier.load(tmp_path / "model.kd", student=ForImages)
    for again in (loaded, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        assert type(again.student_) is ForImages


@pytest.mark.parametrize(("teacher", "student"), [(ConvNet(), ForImages), (ForImages(), ConvNet)])
def test_layers_are_named_inside(teacher, student, data):
    distpro = DistProClassifier(teacher, student, search_epochs=1, transforms=["conv1"], **SETTINGS).fit(
        *data
    )
    layers = {p.student_layer if student is ForImages else p.teacher_layer for p in distpro.pathways_}
    assert layers == {"network.stage1", "network.stage2"}
    assert torch.is_tensor(next(distpro.student_.parameters()))
