"""It does what it is for: the scenarios of examples/evidence/whom_to_trust.py, three seeds each."""

import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "evidence" / "whom_to_trust.py"
# As the permuted teacher is, which is told and is what is wanted here.
pytestmark = pytest.mark.filterwarnings("ignore:.*with its columns in another order:UserWarning")
SEEDS = (0, 1, 2)  # other seeds than the committed results are from
EPOCHS = 30  # half as many as those results are of


@pytest.fixture(scope="module")
def means():
    run = runpy.run_path(str(SCRIPT))["run"]
    run.__globals__["EPOCHS"] = EPOCHS
    kept = {}

    def means(situation, method):
        """Mean accuracy and final lambda1."""
        if (situation, method) not in kept:
            runs = [run(situation, method, seed) for seed in SEEDS]
            kept[situation, method] = tuple(np.mean([r[k] for r in runs]) for k in ("accuracy", "lambda1"))
        return kept[situation, method]

    return means


@pytest.mark.parametrize("method", ["gradient", "linear"])
class TestLearnedMetaparameters:
    def test_trust_the_teacher_where_labels_are_wrong(self, method, means):
        accuracy, lambda1 = means("noisy labels", method)
        assert accuracy >= means("noisy labels", "naive")[0] + 0.02
        assert accuracy >= means("noisy labels", "none")[0] + 0.12
        assert lambda1 < 0.5

    def test_trust_the_labels_where_the_teacher_is_permuted(self, method, means):
        accuracy, lambda1 = means("permuted teacher", method)
        assert accuracy >= means("permuted teacher", "naive")[0] + 0.2
        assert accuracy >= means("permuted teacher", "none")[0] - 0.05
        assert lambda1 > 0.8

    def test_trust_the_labels_where_the_teacher_answers_at_random(self, method, means):
        assert means("shuffled teacher", method)[0] >= means("shuffled teacher", "naive")[0] + 0.04

    def test_do_no_harm_on_clean_data(self, method, means):
        assert means("clean", method)[0] >= means("clean", "naive")[0] - 0.03


@pytest.mark.parametrize("situation", ["clean", "noisy labels", "permuted teacher", "shuffled teacher"])
def test_prediction_costs_no_accuracy(situation, means):
    assert abs(means(situation, "linear")[0] - means(situation, "gradient")[0]) <= 0.02
