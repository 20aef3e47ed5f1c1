"""The verdict, for models of which it is known who is better."""

import re

import numpy as np
import pytest

from sklearn_kd.report._forms import form_of
from sklearn_kd.report._result import DistillationReport, numbers_of
from sklearn_kd.report._scores import difference_between, error_of_mean
from sklearn_kd.report._sizes import Size
from sklearn_kd.report._timing import Latency
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._criterion import Criterion
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._regression import Regression

N = 1000


def probabilities(n_right, confidence=0.9, first=0):
    """Two classes, label 0: ``n_right`` rows from row ``first`` on are right, and so sure."""
    right = np.zeros(N, dtype=bool)
    right[np.arange(first, first + n_right) % N] = True
    own = np.where(right, confidence, 1 - confidence)
    return np.c_[own, 1 - own]


CLASSES = Classification(np.array([0, 1]))


def report(models, latency=None, n_bytes=None, *, task=CLASSES, targets=None):
    """A report of these answers; of classes the targets are 0."""
    targets = np.zeros(N, dtype=int) if targets is None else targets
    form = form_of(task)
    first = form.words.measures[0]
    scores = {role: task.row_scores(targets, answers) for role, answers in models.items()}
    numbers = {
        role: numbers_of(
            "<b>Net</b>",
            found.values | {f"{first}_standard_error": error_of_mean(found.rows[first])},
            Size((n_bytes or {}).get(role), "weights"),
            (latency or {}).get(role),
            None,
        )
        for role, found in scores.items()
    }
    differences = {role: difference_between(scores["student"], scores[role]) for role in models}
    del differences["student"]
    panels = {role: form.panel(targets, answers) for role, answers in models.items()}
    return DistillationReport(numbers, differences, panels, N, form.words, [])


@pytest.mark.parametrize(
    ("student", "alone", "says"),
    [
        ((950,), (900,), "Distillation helped here: the student is more accurate"),
        ((900,), (950,), "Distillation did harm here: the student is less accurate"),
        ((900,), (900,), "Distillation did not help here: the 1,000 test rows show no difference"),
        # 15 rows gained, 10 lost: within the error.
        ((905, 0.9, 10), (900,), "Distillation did not help here"),
        ((900, 0.9), (900, 0.6), "Distillation helped the probabilities here, not the accuracy"),
        ((900, 0.6), (900, 0.9), r"Distillation did not help here.+Its log loss is worse"),
    ],
)
def test_beside_the_student_alone(student, alone, says):
    made = report({"student": probabilities(*student), "student alone": probabilities(*alone)})
    assert re.search(says, made.verdict), made.verdict
    assert (".900 against .900" in made.verdict) == (student[0] == alone[0] == 900)


def test_the_numbers_of_a_difference():
    verdict = report({"student": probabilities(905, 0.9, 10), "student alone": probabilities(900)}).verdict
    error = np.r_[np.ones(15), -np.ones(10), np.zeros(N - 25)].std(ddof=1) / np.sqrt(N)
    assert f"(.905 against .900, +.005 ± {error:.3f}, p = .424)".replace("± 0", "± ") in verdict
    assert f"A difference of less than {2 * error:.3f} cannot be seen".replace("than 0", "than ") in verdict


def test_without_the_student_alone_nothing_is_claimed():
    verdict = report({"student": probabilities(900)}).verdict
    assert verdict.startswith(
        "Whether distillation helped is not judged: the student alone was not trained ("
    )


def test_beside_the_teacher():
    models = {"teacher": probabilities(960), "student": probabilities(912)}
    fast, slow = Latency(10, 12, 1, 300, 30), Latency(2500, 3000, 2, 60, 10)
    verdict = report(
        models, {"teacher": slow, "student": fast}, {"teacher": 1_000_000, "student": 20_000}
    ).verdict
    assert (
        "keeps 95.0% of the teacher's accuracy (.912 against .960), at 250 × its speed for single rows, 2 × "
        "in batches, 0.02 × its size." in verdict
    )


@pytest.mark.parametrize("teacher", [912, 911])
def test_a_teacher_that_is_as_good(teacher):
    verdict = report({"teacher": probabilities(teacher), "student": probabilities(912)}).verdict
    assert f"The student is no less accurate than the teacher (.912 against .{teacher})." in verdict


def test_a_teacher_worse_than_the_student():
    verdict = report({"teacher": probabilities(800), "student": probabilities(912)}).verdict
    assert "The teacher is worse than the student: the student's accuracy is .912 against .800." in verdict


def test_html_escapes_names():
    found = report({"student": probabilities(900)})._repr_html_()
    assert "student (&lt;b&gt;Net&lt;/b&gt;)" in found and "<b>" not in found


def test_a_column_that_nobody_has_is_left_out():
    lines = str(report({"student": probabilities(900)})).splitlines()
    header = next(line for line in lines if line.startswith("model "))
    assert "accuracy" in header and not {"agreement", "size", "p99"} & set(header.split())


def test_peers_have_a_sentence_each():
    models = {"student": probabilities(912), "peer": probabilities(800), "mine": probabilities(912)}
    verdict = report(models).verdict
    assert "The student is more accurate than the peer, <b>Net</b> (.912 against .800, p < .001)." in verdict
    assert 'The rows show no difference in accuracy from "mine", <b>Net</b>' in verdict


RNG = np.random.default_rng(0)
Y = RNG.normal(size=N)


def numbers(noise):
    return Y + noise * np.random.default_rng(1).normal(size=N)


@pytest.mark.parametrize(
    ("student", "alone", "says"),
    [
        (0.3, 0.5, r"helped here: the student predicts better than the same student trained on y alone \(R²"),
        (0.5, 0.3, "did harm here: the student predicts worse"),
        (0.5, 0.5001, "did not help here: the 1,000 test rows show no difference in R²"),
    ],
)
def test_numbers(student, alone, says):
    task = Regression(np.zeros(1), np.ones(1), True, Criterion())
    # Other rows are off, by as much.
    other = Y + alone * np.random.default_rng(2).normal(size=N)
    made = report({"student": numbers(student), "student alone": other}, task=task, targets=Y)
    assert re.search(says, made.verdict), made.verdict


def test_a_teacher_of_numbers():
    task = Regression(np.zeros(1), np.ones(1), True, Criterion())
    for noise, says in (
        (0.6, r"keeps \d\d\.\d% of the teacher's R²"),
        (2, "keeps nothing of the teacher's R²"),
    ):
        models = {"teacher": numbers(0.1), "student": numbers(noise)}
        assert re.search(says, report(models, task=task, targets=Y).verdict)
    models = {"teacher": numbers(0.3), "student": numbers(0.3)}
    assert "is no worse than the teacher (R² " in report(models, task=task, targets=Y).verdict


def test_several_labels():
    targets = RNG.integers(0, 2, (N, 3))
    right = np.where(targets == 1, 0.9, 0.1)
    worse = right.copy()
    worse[:200, 0] = 1 - worse[:200, 0]
    made = report({"student": right, "student alone": worse}, task=Multilabel(3, int), targets=targets)
    assert "the student is more accurate than the same student" in made.verdict
    assert "(subset accuracy 1.000 against .800, +.200" in made.verdict
    assert "1,000 test rows, 3 labels" in str(made) and "macro F1" in str(made)
