"""Optimizers as users give them."""

import pytest
import torch

from sklearn_kd.runtime._optimizers import named_optimizers, optimizer_class, uncount_steps

MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")


def test_undone_steps_are_taken_off_counts_on_the_host():
    """Those on the weight's own device are undone there."""
    weights = [torch.zeros(2, device=device, requires_grad=True) for device in ("meta", "meta", "cpu")]
    optimizer = torch.optim.Adam(weights)
    for w in weights:
        optimizer.state[w]["step"] = torch.tensor(5.0)
    for w in (weights[0], weights[2]):  # the other is frozen
        w.grad = torch.zeros_like(w)
    uncount_steps(optimizer, 3)
    assert [optimizer.state[w]["step"].item() for w in weights] == [2.0, 5.0, 5.0]


@pytest.mark.parametrize("name", ["SGD", "adamw", "RMSPROP"])
def test_names_in_whatever_case(name):
    assert optimizer_class(name) is named_optimizers()[name.lower()]


@pytest.mark.parametrize(
    ("given", "name", "match"),
    [
        ("SparseAdam", "optimizer", r"^optimizer=SparseAdam cannot be used: it takes sparse gradients only"),
        (torch.optim.SparseAdam, "meta__optimizer", r"^meta: optimizer=SparseAdam cannot be used"),
        pytest.param("muon", "optimizer", r"^optimizer=Muon cannot be used.*Give 'AdamW', or the class", marks=MUON),
        pytest.param("Muon", "meta__optimizer", r"^meta: optimizer=Muon.*metaparameters are not", marks=MUON),
        ("lbfgs", "meta__optimizer", r"^meta: optimizer=LBFGS.*several times in a step"),
    ],
)  # fmt: skip
def test_those_that_cannot_take_steps_are_refused(given, name, match, make, digits, logits, no_training):
    with pytest.raises(ValueError, match=match):
        make(meta="gradient", **{name: given}).fit(*digits, teacher_logits=logits)


@MUON
def test_muon_trains_a_student_of_matrices(make, digits):
    student = torch.nn.Linear(64, 10, bias=False)
    clf = make(None, student, meta="none", optimizer=torch.optim.Muon).fit(*digits)
    assert clf.score(*digits) > 0.5
