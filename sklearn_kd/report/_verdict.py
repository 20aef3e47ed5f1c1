"""The verdict in words, which claims no more than the test rows support."""

from __future__ import annotations

from typing import Any

from sklearn_kd.report._words import Words
from sklearn_kd.tasks._measures import MEASURES

# A difference counts in the first measure below this p, and in log loss beyond this many standard errors.
P_VALUE = 0.05
N_ERRORS = 2.0


def verdict_of(
    models: dict[str, dict[str, Any]], differences: dict[str, dict[str, float]], n: int, words: Words
) -> str:
    """Return the sentences of the verdict.

    Parameters
    ----------
    models : dict of dict
        Scores by role of the model: "student", and possibly "teacher", "student alone" and peers.
    differences : dict of dict
        Paired differences between the student and each other model, by the other's role.
    n : int
        Number of test rows.
    words : Words
    """
    said = []
    if "student alone" in models:
        said.append(_beside_the_student_alone(models, differences["student alone"], n, words))
    else:
        said.append(
            "Whether distillation helped is not judged: the student alone was not trained "
            "(student_alone='train', with X_train and y_train)."
        )
    if "teacher" in models:
        said.append(_beside_the_teacher(models["student"], models["teacher"], differences["teacher"], words))
    peers = [role for role in models if role not in ("student", "student alone", "teacher")]
    said += [_beside_a_peer(role, models, differences[role], words) for role in peers]
    return " ".join(said)


def _beside_the_student_alone(
    models: dict[str, dict[str, Any]], difference: dict[str, float], n: int, words: Words
) -> str:
    measure, title = _first(words)
    change, error, p_value = (difference[key] for key in (measure, "standard_error", "p_value"))
    pair = _pair(models["student"], models["student alone"], words)
    numbers = f"{pair}, {signed(change)} ± {share(error)}, {_p_shown(p_value)}"
    probabilities = _change_of_probabilities(difference, words)
    alone = f"the same student trained on {words.y} alone"
    if p_value < P_VALUE:
        did = f"helped here: {words.better}" if change > 0 else f"did harm here: {words.worse}"
        said = f"Distillation {did} than {alone} ({numbers})."
    else:
        did = f"helped the probabilities here, not the {title}" if probabilities < 0 else "did not help here"
        said = (
            f"Distillation {did}: the {n:,} test rows show no difference in {title} from {alone} ({numbers})."
        )
        if error > 0:
            said += f" A difference of less than {share(N_ERRORS * error)} cannot be seen on these rows."
    return said + _of_the_probabilities(models, difference, probabilities, words)


def _first(words: Words) -> tuple[str, str]:
    """Return the name and the title of the measure on which the verdict is based."""
    return words.measures[0], MEASURES[words.measures[0]].title


def _pair(student: dict[str, Any], other: dict[str, Any], words: Words) -> str:
    """Return both values of the first measure, with its title unless it is the accuracy."""
    measure, title = _first(words)
    pair = f"{share(student[measure])} against {share(other[measure])}"
    return pair if measure == "accuracy" else f"{title} {pair}"


def _p_shown(p_value: float) -> str:
    return "p < .001" if p_value < 0.001 else f"p = {share(p_value)}"


def _change_of_probabilities(difference: dict[str, float], words: Words) -> float:
    """Return the difference in the measure of probabilities, or 0 if it is within two standard errors."""
    if words.probabilities is None:
        return 0.0
    change, error = difference[words.probabilities], difference[f"{words.probabilities}_standard_error"]
    return change if abs(change) > N_ERRORS * error else 0.0  # an error of NaN too


def _of_the_probabilities(
    models: dict[str, dict[str, Any]], difference: dict[str, float], change: float, words: Words
) -> str:
    measure = words.probabilities
    if measure is None or change == 0:
        return ""
    student, alone = (models[role][measure] for role in ("student", "student alone"))
    error = difference[f"{measure}_standard_error"]
    return (
        f" Its {MEASURES[measure].title} is {'better' if change < 0 else 'worse'} ({student:.3f} against "
        f"{alone:.3f}, {signed(change)} ± {share(error)})."
    )


def _beside_the_teacher(
    student: dict[str, Any], teacher: dict[str, Any], difference: dict[str, float], words: Words
) -> str:
    measure, title = _first(words)
    own, of_teacher = student[measure], teacher[measure]
    pair = f"{share(own)} against {share(of_teacher)}"
    if difference["p_value"] < P_VALUE and difference[measure] > 0:
        kept = f"The teacher is worse than the student: the student's {title} is {pair}"
    elif own >= of_teacher:
        kept = f"The student is {words.as_good} the teacher ({_pair(student, teacher, words)})"
    elif own > 0:
        kept = f"The student keeps {own / of_teacher:.1%} of the teacher's {title} ({pair})"
    else:  # R² may be negative
        kept = f"The student keeps nothing of the teacher's {title} ({pair})"
    costs = _costs(student, teacher)
    return f"{kept}{costs and ', ' + costs}."


def _beside_a_peer(
    role: str, models: dict[str, dict[str, Any]], difference: dict[str, float], words: Words
) -> str:
    measure, title = _first(words)
    numbers = f"{_pair(models['student'], models[role], words)}, {_p_shown(difference['p_value'])}"
    trained_here = role in ("peer", "taught peer")
    who = f"the {role}, {models[role]['model']}" if trained_here else f'"{role}", {models[role]["model"]}'
    if difference["p_value"] >= P_VALUE:
        return f"The rows show no difference in {title} from {who} ({numbers})."
    return (
        f"{(words.better if difference[measure] > 0 else words.worse).capitalize()} than {who} ({numbers})."
    )


def _costs(student: dict[str, Any], teacher: dict[str, Any]) -> str:
    """Return how the student's speed and size compare with the teacher's, if both are known."""
    parts = []
    if student["us_single"] and teacher["us_single"]:
        single, batch = (teacher[key] / student[key] for key in ("us_single", "us_batch"))
        parts.append(f"{times(single)} × its speed for single rows, {times(batch)} × in batches")
    if student["n_bytes"] and teacher["n_bytes"]:
        parts.append(f"{times(student['n_bytes'] / teacher['n_bytes'])} × its size")
    return f"at {', '.join(parts)}" if parts else ""


def share(value: float) -> str:
    """Return a number with three decimals, without the zero before the point if it is below 1."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign, or without a sign if it rounds to 0."""
    return f"{'−' if value < 0 else '+'}{share(abs(value))}" if round(value, 3) else ".000"


def times(ratio: float) -> str:
    """Return a ratio with two digits, or as a whole number from 100 on."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.2g}"
