"""DistPro refuses wrong input before any training, with a word on how to mend it."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.tree import DecisionTreeClassifier
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from helpers.processes import make_process
from sklearn_kd import DistilledClassifier
from sklearn_kd.distpro._transforms import Conv1
from sklearn_kd.meta import Hyperopt, Linear
from sklearn_kd.training._net import TrainingNet


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def train_step(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(TrainingNet, "train_step", train_step)


class Flat(ConvNet):
    """One stage."""

    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.stage2[0].stride = (1, 1)


class Wrong(Conv1):
    """Does not resize."""

    def forward(self, x, size):
        return self.match(x)


class Writes(Conv1):
    """Into a map that it shares with others."""

    def forward(self, x, size):
        return super().forward(x.relu_(), size)


class Unhappy(nn.Module):
    """Takes other images."""

    def forward(self, x):
        raise ValueError("three channels, please")


def three_stages():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 10)
    )


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        (
            {"teacher_layers": ["layer1"]},
            ValueError,
            "teacher_layers: ConvNet has no layer 'layer1'. Nearest",
        ),
        (
            {"student_layers": ["stage3"]},
            ValueError,
            "student_layers: ConvNet has no layer 'stage3'. Nearest",
        ),
        ({"student_layers": ["linear"]}, ValueError, "no spatial extent"),
        ({"optimizer": "adm"}, ValueError, "optimizer='adm' is not known. Did you mean 'adam'"),
        ({"device": "gpu"}, ValueError, "Did you mean 'cuda'"),
        ({"width": 3}, TypeError, "Did you mean 'student__width'"),
        ({"class_weight": {10: 2.0}}, ValueError, "class_weight has 10, which is not a class of y"),
        ({"epochs": 3}, TypeError, "Did you mean 'max_epochs'"),
        ({"callbacks": EarlyStopping()}, ValueError, "but the retraining trains on all rows"),
        ({"search_callbacks": (3,)}, TypeError, "search_callbacks has 3, which is not a callback"),
        ({"student_layers": "stage1"}, TypeError, "'auto' or a list of layers"),
        ({"student": Flat}, ValueError, r"finds 1 stage\(s\).*'stage2'"),
        (
            {"teacher": three_stages()},
            ValueError,
            "'auto' finds 3 stages in the teacher.*and 2 in the student",
        ),
        ({"student_layers": ["stage1"], "connections": "lower"}, ValueError, "same number of stages"),
        ({"connections": [(2, 0)]}, ValueError, "out of range"),
        ({"connections": "some"}, ValueError, "'all', 'lower'"),
        ({"transforms": ["conv9"]}, ValueError, "is not known"),
        ({"transforms": [Wrong]}, ValueError, "'Wrong' returns .* but the teacher's map"),
        ({"transforms": [Writes]}, ValueError, r"'Writes' or distance writes into a map .* inplace=False"),
        ({"distance": "hlc"}, ValueError, "Did you mean 'hcl'"),
        ({"distance": lambda a, b: (a - b) ** 2}, ValueError, "one number"),
        ({"distance": lambda a, b: 0.0}, ValueError, "one number.*float"),
        (
            {"normalization": "softmax", "pathway_threshold": 0.5},
            ValueError,
            "no scale.*Set pathway_threshold=None",
        ),
        ({"normalization": "softmux"}, ValueError, "'normalization' parameter"),
        ({"weights": "last"}, ValueError, "'weights' parameter"),
        ({"search_epochs": 0}, ValueError, "'search_epochs' parameter"),
        ({"validation_fraction": 1.0}, ValueError, "'validation_fraction' parameter"),
        ({"importance_lr": -1.0}, ValueError, "'importance_lr' parameter"),
        ({"meta": "lines"}, ValueError, r"meta='lines' is not known. Did you mean 'linear'"),
        ({"meta": "hyperopt"}, ValueError, "is one of \\['gradient', 'linear'\\]"),
        ({"meta": Hyperopt()}, ValueError, "takes no hypergradient.*overrides takes_hypergradient"),
        ({"meta": "linear", "e1": 1}, ValueError, "a line needs at least two points"),
        ({"meta": Linear(form="curve")}, ValueError, "form='curve'"),
        ({"meta": 3}, ValueError, "'meta' parameter"),
        ({"e2": -1}, ValueError, "'e2' parameter"),
        (
            {"meta__lr": -1.0, "logit_weight": "learned"},
            ValueError,
            "^meta: lr=-1.0 must be a finite number of at least 0",
        ),
        ({"meta__hypergradient_rows": 8}, ValueError, "of whole batches.*Set meta__hypergradient_rows=None"),
        ({"meta__val_temperature": 0.5}, ValueError, "at T_val = 1. Set meta__val_temperature=1.0"),
        ({"logit_weight": "found"}, ValueError, "'logit_weight' parameter"),
        ({"logit_weight": "learned", "weights": "equal"}, ValueError, "Give logit_weight as a number"),
        (
            {"logit_weight": "learned", "temperature": 20.0},
            ValueError,
            r"start value of a learned T, must be within its bounds \[1, 10\]",
        ),
        (
            {"logit_weight": "learned", "process": make_process()},
            ValueError,
            "has no path of lambda1 and T. Give logit_weight as a number",
        ),
        (
            {"process": make_process(logit_term=[[0.5, 4.0]] * 3)},
            ValueError,
            "logit_weight=0.0, but the given process has a path of lambda1 and T. Set logit_weight='learned'",
        ),
        ({"teacher": ConvNet(3), "logit_weight": "learned"}, ValueError, "does not know all of the 10"),
        ({"pathway_threshold": "half"}, ValueError, "'pathway_threshold' parameter"),
        ({"pathway_threshold": float("nan")}, ValueError, "'pathway_threshold' parameter"),
        ({"process": 3}, ValueError, "'process' parameter"),
        ({"process": "nowhere.npz"}, FileNotFoundError, "nowhere"),
        ({"student__wdth": 3}, TypeError, "wdth"),
        ({"distance": nn.MSELoss}, TypeError, r"distance=MSELoss is a class\. Give an object: MSELoss\(\)"),
        ({"temperature_bounds": (1, 3)}, TypeError, "unexpected parameter 'temperature_bounds'"),
        ({"hypergradient": "exact"}, TypeError, "Did you mean 'meta__hypergradient'"),
        ({"meta__e1": 3}, TypeError, "Give e1=3 instead"),
        ({"meta__optimizer__lr": 3}, TypeError, "takes no 'optimizer__lr'"),
        ({"loss__temperature_bounds": (1, 3)}, TypeError, "unexpected parameter"),
        ({"execution": "compiled"}, ValueError, "is not known.*\\['eager', 'bfloat16'\\]"),
        ({"optimizer__momentun": 0.9}, TypeError, "Did you mean 'optimizer__momentum'"),
        ({"callbacks__stop__patience": 2}, TypeError, "no such callback"),
        (
            {"callbacks": [EarlyStopping()]},
            ValueError,
            "the retraining trains on all rows and holds none out",
        ),
        ({"teacher": Unhappy()}, ValueError, "cannot take samples of shape .*three channels"),
        (
            {"teacher": ConvNet(), "logit_weight": 1.0, "student": ConvNet(11)},
            ValueError,
            "one logit per class",
        ),
        ({"teacher": ConvNet(3), "logit_weight": 1.0}, ValueError, "does not know all of the 10"),
        ({"teacher": nn.Conv2d(1, 1, 1), "logit_weight": 1.0}, ValueError, "returns logits"),
    ],
    ids=in_words,
)
def test_refused_before_training(params, error, match, make_distpro, images):
    with pytest.raises(error, match=match):
        make_distpro(**params).fit(*images)


@pytest.mark.parametrize("kind", ["tree", "frozen tree", "class", "none"])
def test_only_networks_teach(kind, make_distpro, images):
    tree = DecisionTreeClassifier().fit(images[0].reshape(160, -1), images[1])
    clf = make_distpro()
    clf.teacher = {"tree": tree, "frozen tree": FrozenEstimator(tree), "class": ConvNet, "none": None}[kind]
    with pytest.raises(TypeError, match=r"is not a network.*fitted skorch net"):
        clf.fit(*images)


@pytest.mark.parametrize(
    "teacher",
    [DistilledClassifier(None, ConvNet), NeuralNetClassifier(ConvNet)],
    ids=["estimator", "skorch"],
)
def test_unfitted_teachers(teacher, make_distpro, images):
    with pytest.raises(ValueError, match="not been fitted"):
        make_distpro(teacher).fit(*images)


def test_too_few_rows_to_hold_any_out(make_distpro, images):
    with pytest.raises(ValueError, match=r"D_val is empty.*or a process to follow"):
        make_distpro().fit(images[0][:10], np.arange(10))


def test_a_process_of_other_pathways(make_distpro, images):
    with pytest.raises(ValueError) as refused:
        make_distpro(process=make_process()).fit(*images)
    assert "(0, 1, 'conv1'), (1, 1, 'conv2')]" in str(refused.value)  # the process's
    assert "[(0, 0, 'conv1'), (0, 0, 'conv2')," in str(refused.value)  # the estimator's
