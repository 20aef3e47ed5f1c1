"""The verdict in words, which says no more than the test rows do."""

from __future__ import annotations

from typing import Any

# A difference in accuracy counts below this p of McNemar's test, one in log loss beyond so many standard
# errors.
P_VALUE = 0.05
N_ERRORS = 2.0


def verdict_of(models: dict[str, dict[str, Any]], differences: dict[str, dict[str, float]], n: int) -> str:
    """Return the sentences of the verdict.

    Parameters
    ----------
    models : dict of dict
        Scores by the role of the model: "student", and perhaps "teacher" and "student alone".
    differences : dict of dict
        Paired differences of the student to the others, by their role.
    n : int
        Test rows.
    """
    if "student alone" in models:
        first = _beside_the_student_alone(models, differences["student alone"], n)
    else:
        first = "Whether distillation helped is not judged: the student alone was not trained."
    second = ""
    if "teacher" in models:
        second = " " + _beside_the_teacher(models["student"], models["teacher"], differences["teacher"])
    return first + second


def _beside_the_student_alone(models: dict[str, dict[str, Any]], difference: dict[str, float], n: int) -> str:
    student, alone = (models[role]["accuracy"] for role in ("student", "student alone"))
    change, error, p_value = (difference[key] for key in ("accuracy", "standard_error", "p_value"))
    p_shown = "p < .001" if p_value < 0.001 else f"p = {share(p_value)}"
    numbers = f"{share(student)} against {share(alone)}, {signed(change)} ± {share(error)}, {p_shown}"
    log_loss = _log_loss_change(difference)
    if p_value < P_VALUE:
        did = (
            "helped here: the student is more accurate"
            if change > 0
            else "did harm here: the student is less accurate"
        )
        said = f"Distillation {did} than the same student trained on the labels alone ({numbers})."
    else:
        did = "helped the probabilities here, not the accuracy" if log_loss < 0 else "did not help here"
        said = (
            f"Distillation {did}: the {n:,} test rows show no difference in accuracy from the same student "
            f"trained on the labels alone ({numbers})."
        )
        if error > 0:
            said += f" A difference of less than {share(N_ERRORS * error)} cannot be seen on these rows."
    return said + _of_the_log_loss(models, difference, log_loss)


def _log_loss_change(difference: dict[str, float]) -> float:
    """Return the difference in log loss, 0 where it is within two standard errors."""
    change, error = difference["log_loss"], difference["log_loss_standard_error"]
    return change if abs(change) > N_ERRORS * error else 0.0  # an error of NaN too


def _of_the_log_loss(models: dict[str, dict[str, Any]], difference: dict[str, float], change: float) -> str:
    if change == 0:
        return ""
    student, alone = (models[role]["log_loss"] for role in ("student", "student alone"))
    error = difference["log_loss_standard_error"]
    return (
        f" Its log loss is {'better' if change < 0 else 'worse'} ({student:.3f} against {alone:.3f}, "
        f"{signed(change)} ± {share(error)})."
    )


def _beside_the_teacher(
    student: dict[str, Any], teacher: dict[str, Any], difference: dict[str, float]
) -> str:
    pair = f"{share(student['accuracy'])} against {share(teacher['accuracy'])}"
    if difference["p_value"] < P_VALUE and difference["accuracy"] > 0:
        kept = f"The teacher is worse than the student: the student's accuracy is {pair}"
    elif student["accuracy"] >= teacher["accuracy"]:
        kept = f"The student is no less accurate than the teacher ({pair})"
    else:
        kept_share = student["accuracy"] / teacher["accuracy"]
        kept = f"The student keeps {kept_share:.1%} of the teacher's accuracy ({pair})"
    costs = _costs(student, teacher)
    return f"{kept}{costs and ', ' + costs}."


def _costs(student: dict[str, Any], teacher: dict[str, Any]) -> str:
    """Return how the student's speed and size compare with the teacher's, as far as both are known."""
    parts = []
    if student["us_single"] and teacher["us_single"]:
        single, batch = (teacher[key] / student[key] for key in ("us_single", "us_batch"))
        parts.append(f"at {times(single)} × its speed for single rows, {times(batch)} × in batches")
    if student["n_bytes"] and teacher["n_bytes"]:
        parts.append(f"{times(student['n_bytes'] / teacher['n_bytes'])} × its size")
    return ", ".join(parts)


def share(value: float) -> str:
    """Return a number with three decimals; a share of 1 without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign; what is 0 when rounded has none."""
    return f"{'−' if value < 0 else '+'}{share(abs(value))}" if round(value, 3) else ".000"


def times(ratio: float) -> str:
    """Return a ratio with two digits, or as it is beyond 100."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.2g}"
