"""Whole fits give the numbers that they gave: to the bit on the machine of the file, nearly elsewhere."""

import json

import golden_fits
import numpy as np
import pytest

GOLDEN = json.loads(golden_fits.GOLDEN.read_text())


@pytest.mark.parametrize("name", golden_fits.fits())
def test_fit_gives_the_same_numbers(name):
    found, golden = golden_fits.outcome(name), GOLDEN["fits"][name]
    assert found["predicts_as_saved"]
    assert abs(found["score"] - golden["score"]) < 0.03
    for column, losses in golden["losses"].items():
        np.testing.assert_allclose(found["losses"][column], losses, rtol=0.02)
    for column, values in golden["learned"].items():
        np.testing.assert_allclose(found["learned"][column], values, atol=0.02, rtol=0.02)


@pytest.mark.skipif(
    golden_fits.machine() != GOLDEN["machine"], reason="another processor or version rounds otherwise"
)
@pytest.mark.parametrize("name", golden_fits.fits())
def test_fit_is_the_same_to_the_bit(name):
    found, golden = golden_fits.outcome(name), GOLDEN["fits"][name]
    assert {key: found[key] for key in ("weights", "columns", "losses")} == {
        key: golden[key] for key in ("weights", "columns", "losses")
    }
