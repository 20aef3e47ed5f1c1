"""A teacher's logit of −inf, as of a masked class, is a probability of 0 wherever logits are distilled."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from sklearn_kd import hypergradient
from sklearn_kd.bilevel._hypergradient import METHODS
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Hyperopt, Random


class Masked(nn.Module):
    """A network one of whose classes is switched off."""

    def __init__(self, network, value, column=0):
        super().__init__()
        self.network, self.value, self.column = network, value, column

    def forward(self, x):
        return self.network(x).index_fill(1, torch.tensor([self.column]), self.value)


@pytest.fixture
def masked(network):
    return [Masked(network, value) for value in (float("-inf"), -1e4)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scaling", ["hinton", "none"])
def test_hypergradient_is_the_limit(method, scaling):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    X, y, f = torch.randn(12, 6).double(), torch.arange(12) % 4, 3 * torch.randn(12, 4).double()
    how = {"temperature": 2.0, "loss": LogitDistillation(temperature_scaling=scaling)}
    found, limit = (
        hypergradient(
            student, (X, y), (X, y), f.index_fill(1, torch.tensor([2]), value), method=method, **how
        )
        for value in (float("-inf"), -1e4)
    )
    np.testing.assert_array_equal(found, limit)
    assert np.isfinite(found).all() and (found != 0).all()


@pytest.mark.parametrize(
    "how", [{"meta": "linear"}, *({"meta": "gradient", "meta__hypergradient": m} for m in METHODS)]
)
def test_paths_are_those_of_the_limit(how, masked, make, digits):
    """To the bit: of one mask by −inf and one by −1e4 both are exactly 0 after the softmax."""
    infinite, limit = (make(teacher, **how).fit(*digits) for teacher in masked)
    assert sum(infinite.history_[:, "skipped_hypergradients"]) == 0
    np.testing.assert_array_equal(
        infinite.metaparameter_path_["lambda1"], limit.metaparameter_path_["lambda1"]
    )
    np.testing.assert_array_equal(
        infinite.metaparameter_path_["temperature"], limit.metaparameter_path_["temperature"]
    )
    np.testing.assert_array_equal(infinite.predict_proba(digits[0]), limit.predict_proba(digits[0]))
    assert np.ptp(infinite.metaparameter_path_["lambda1"]) > 1e-3


@pytest.mark.parametrize(
    "strategy", [Hyperopt(n_trials=4, n_startup_trials=3), Random(n_trials=4), "naive"], ids=in_words
)
def test_trials_are_those_of_the_limit(strategy, masked, make, digits):
    """Trained together where they can be."""
    infinite, limit = (make(teacher, meta=strategy).fit(*digits) for teacher in masked)
    assert (infinite.lambda1_, infinite.temperature_) == (limit.lambda1_, limit.temperature_)
    np.testing.assert_array_equal(infinite.predict_proba(digits[0]), limit.predict_proba(digits[0]))
    if hasattr(infinite, "trials_"):
        np.testing.assert_array_equal(infinite.trials_["val_loss"], limit.trials_["val_loss"])


def test_asked_batch_by_batch(masked, make, digits):
    infinite, limit = (make(teacher, augment=lambda x: x.flip(0).flip(0)).fit(*digits) for teacher in masked)
    np.testing.assert_array_equal(
        infinite.metaparameter_path_["lambda1"], limit.metaparameter_path_["lambda1"]
    )
    assert sum(infinite.history_[:, "skipped_hypergradients"]) == 0


class MaskedConvNet(ConvNet):
    def __init__(self, value):
        super().__init__(width=6)
        self.value = value

    def forward(self, x):
        return super().forward(x).index_fill(1, torch.tensor([0]), self.value)


@pytest.mark.parametrize("logit_weight", [1.0, "learned"])
def test_logit_term_of_distpro(logit_weight, make_distpro, conv_teacher, images):
    found = []
    for value in (float("-inf"), -1e4):
        teacher = MaskedConvNet(value)
        teacher.load_state_dict(conv_teacher.state_dict())
        clf = make_distpro(teacher, logit_weight=logit_weight).fit(*images)
        assert sum(clf.search_history_[:, "skipped_hypergradients"]) == 0
        found.append((clf.process_.raw, clf.process_.logit_term, clf.predict_proba(images[0])))
    for infinite, limit in zip(*found, strict=True):
        np.testing.assert_array_equal(infinite, limit)


def test_checkpoints_know_the_teacher(masked, make, digits, tmp_path):
    """The mean of a column of −inf is −inf, which is equal to itself."""
    clf = make(masked[0], checkpoint_dir=tmp_path).fit(*digits)
    assert np.isfinite(clf.predict_proba(digits[0])).all()


def test_given_logits(make, digits, logits):
    """A class that the teacher never names, and one that it rules out for some rows."""
    found = []
    for value in (float("-inf"), -1e4):
        given = np.where(np.arange(10) == 3, value, logits)
        given[:50, 7] = value
        clf = make(meta="gradient").fit(*digits, teacher_logits=given)
        assert sum(clf.history_[:, "skipped_hypergradients"]) == 0
        found.append((clf.metaparameter_path_["lambda1"], clf.predict_proba(digits[0])))
    for infinite, limit in zip(*found, strict=True):
        np.testing.assert_array_equal(infinite, limit)
