"""Processes of metaparameters: what a training follows, files, and what does not fit."""

import math

import numpy as np
import pytest
import torch

from sklearn_kd import DistillationProcess, MetaparameterProcess
from sklearn_kd.losses import LogitDistillation, Metaparameter

KD = LogitDistillation().metaparameters(n_classes=10)
VALUES = {"lambda1": [0.1, 0.2, 0.4, 0.9], "temperature": [1.0, 2.0, 4.0, 9.0]}
OWN = {
    "trust": Metaparameter(0.5, shape=(3,), bounds=(0, 1), coordinate="logit"),
    "weight": Metaparameter(1.0),  # without bounds
}


def process(values=VALUES, entries=KD, **params):
    return MetaparameterProcess(values, entries, **params)


def own_process():
    rng = np.random.default_rng(0)
    return process({"trust": rng.uniform(size=(5, 3)), "weight": rng.normal(size=5)}, OWN)


@pytest.mark.parametrize(
    "weights, lambda1, temperature",
    [
        ("mean", 0.4, 72 ** (1 / 4)),  # of T the geometric mean
        ("tail", 0.65, 6.0),
        ("final", 0.9, 9.0),
    ],
)
def test_constant_schedules(weights, lambda1, temperature):
    found = process().schedule(7, weights)
    np.testing.assert_allclose(found["lambda1"], np.full(7, lambda1), rtol=1e-14)
    np.testing.assert_allclose(found["temperature"], np.full(7, temperature), rtol=1e-14)


def test_the_process_itself_is_interpolated_in_coordinates():
    found = process().schedule(7, "process")
    np.testing.assert_allclose(found["lambda1"], [0.1, 0.15, 0.2, 0.3, 0.4, 0.65, 0.9])
    np.testing.assert_allclose(found["temperature"], [1, 2**0.5, 2, 8**0.5, 4, 6, 9])
    assert process().schedule(1, "process")["lambda1"].tolist() == [0.1]


def test_logits_are_averaged_as_logits_and_arrays_by_component():
    own = own_process()
    trust = own.values["trust"]
    mean = 1 / (1 + np.exp(-np.log(trust / (1 - trust)).mean(axis=0)))
    found = own.schedule(2)
    np.testing.assert_allclose(found["trust"], np.tile(mean, (2, 1)), rtol=1e-12)
    np.testing.assert_allclose(found["weight"], np.full(2, own.values["weight"].mean()), rtol=1e-12)


@pytest.mark.parametrize("weights", ["mean", "tail", "final", "process"])
def test_one_value_stays_what_it_is_even_beyond_the_bounds(weights):
    """Such as that of a search by trials, which may try T = 0.3."""
    found = process({"lambda1": [0.3] * 3, "temperature": [0.3] * 3}).schedule(5, weights)
    assert (found["lambda1"] == 0.3).all() and (found["temperature"] == 0.3).all()


@pytest.mark.parametrize("made", [process, own_process])
def test_a_file_gives_back_the_same(made, tmp_path):
    saved = made()
    saved.settings = {"meta": "Linear()", "e1": 10}
    saved.save(tmp_path / "process.npz")
    found = MetaparameterProcess.load(tmp_path / "process.npz")
    assert {n: rows.tobytes() for n, rows in found.values.items()} == {
        n: rows.tobytes() for n, rows in saved.values.items()
    }
    assert dict(found.space) == dict(saved.space)
    assert (found.settings, found.versions) == (saved.settings, saved.versions)


def test_each_kind_of_process_refuses_the_file_of_the_other(tmp_path):
    process().save(tmp_path / "process.npz")
    with pytest.raises(ValueError, match=r"holds no distillation process .*of another kind"):
        DistillationProcess.load(tmp_path / "process.npz")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"text\.npz holds no process of metaparameters"):
        MetaparameterProcess.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        MetaparameterProcess.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"lambda1": KD["lambda1"]}, "process has other metaparameters, .*temperature"),
        (KD | {"lambda1": Metaparameter(0.5, shape=(10,), bounds=(0, 1))}, "'lambda1': .*the loss .*10"),
        (KD | {"temperature": Metaparameter(1.0, bounds=(0.5, 99.0))}, "process has other .*'log'"),
        (
            KD | {"temperature": Metaparameter(1.0, bounds=(0.5, 8.0), coordinate="log")},
            r"process has temperature from 1 to 9, outside the bounds \(0.5, 8\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        process().check_fits(entries)


def test_other_bounds_that_hold_the_values_fit():
    process().check_fits(KD | {"temperature": Metaparameter(1.0, bounds=(0.5, 99.0), coordinate="log")})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"lambda1": [0.5]}, r"values has rows for \['lambda1'\]"),
        (VALUES | {"lambda1": [0.5]}, r"values of temperature have shape \(4,\)"),
        (VALUES | {"lambda1": [[0.5]] * 4}, r"values of lambda1 have shape \(4, 1\)"),
        ({"lambda1": [], "temperature": []}, "at least one step"),
        (VALUES | {"lambda1": [math.nan] * 4}, "values of lambda1 must be finite"),
        (VALUES | {"temperature": [0.0, 1, 1, 1]}, "values of temperature must be above 0"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        process(values)


def test_tensors_are_taken_and_words_are_not():
    found = process({"lambda1": torch.ones(2), "temperature": torch.ones(2)})
    assert found.values["lambda1"].dtype == np.float64 and len(found) == 2
    with pytest.raises(TypeError, match="values of lambda1 must be an array of numbers"):
        process(VALUES | {"lambda1": ["half"] * 4})
    with pytest.raises(ValueError, match="weights='last' is not one of"):
        process().schedule(2, "last")
    for n_steps in (0, 2.5, "3", True):
        with pytest.raises(ValueError, match=f"n_steps={n_steps!r} must be an integer of at least 1"):
            process().schedule(n_steps)
