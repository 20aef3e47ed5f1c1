"""The tasks of search_then_retrain.py keep their rows apart and repeat; its runs and tables are right."""

import importlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS, CLEAN, PERMUTED, SHUFFLED = (
    "digits, teacher of 600 others",
    "digits, 40 % flips, clean D_val",
    "digits, permuted teacher",
    "digits, shuffled teacher",
)


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "evidence")
    return importlib.import_module("distillation_tasks")


@pytest.fixture
def load(tasks, monkeypatch):
    """Load a task, with a teacher that is quickly fitted."""

    def forest(seed):
        return tasks.RandomForestClassifier(5, random_state=seed)

    monkeypatch.setitem(tasks.TEACHERS, "forest", forest)
    return tasks.load_task


@pytest.mark.parametrize("name", [OTHERS, CLEAN, "made, 3,000 rows"])
def test_no_row_is_used_twice(load, name):
    task = load(name, 0)
    parts = [{row.tobytes() for row in X} for X in (task.X_train, task.X_test)]
    assert not parts[0] & parts[1]
    assert all(not set(a) & set(b) for a, b in combinations(task.places.values(), 2))
    assert task.n_rows == len(task.y_train) and len(task.X_test) == len(task.y_test) <= 4000


def test_a_seed_gives_the_same_task_again_and_another_seed_another(load):
    a, b, other = (load(SHUFFLED, seed) for seed in (3, 3, 4))
    for name in ("X_train", "y_train", "X_test", "y_test", "teacher_logits"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.X_train, other.X_train)


def test_labels_are_wrong_in_the_students_rows_alone(load):
    y, task = load_digits().target, load(CLEAN, 0)
    assert np.mean(task.y_train != y[task.places["own"]]) == pytest.approx(0.4, abs=0.05)
    np.testing.assert_array_equal(task.y_val, y[task.places["val"]])
    np.testing.assert_array_equal(task.y_test, y[task.places["test"]])


def test_a_teacher_of_the_students_rows_is_not_fitted(load):
    task = load(CLEAN, 0)
    assert task.teacher_logits is None and not hasattr(task.teacher, "classes_")


def test_a_spoilt_teacher_gives_its_answers_to_other_classes_or_rows(load):
    sound, permuted, shuffled = (load(name, 1).teacher_logits for name in (OTHERS, PERMUTED, SHUFFLED))
    np.testing.assert_array_equal(np.sort(permuted, axis=1), np.sort(sound, axis=1))
    assert not (permuted.argmax(axis=1) == sound.argmax(axis=1)).any()
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(sound, axis=0))
    assert np.mean(shuffled.argmax(axis=1) == sound.argmax(axis=1)) < 0.2


@pytest.fixture
def script(tasks):
    return importlib.import_module("search_then_retrain")


def test_settings_of_the_grid_are_trained_as_users_fit_them(script, load, monkeypatch):
    monkeypatch.setattr(script, "SETTINGS", [(0.5, 4.0), script.LABELS_ALONE])
    task, short = load(CLEAN, 0), {"max_epochs": 1}
    found = script.run_grid(task, 0, short)["settings"]
    for params, of_grid in (({"meta": "fixed", "temperature": 4.0}, found[0]), ({"meta": "none"}, found[1])):
        run = script.run_method(task, 0, script.Method(params), short)
        assert run["accuracy"] == of_grid["accuracy"] and run["trainings"] == 1
        assert run["log_loss"] == pytest.approx(of_grid["log_loss"], rel=1e-3)


def runs_of(script, task, seed, accuracies):
    """Runs of a grid whose settings have these L_val and accuracies, and of a method."""
    settings = [
        {"lambda1": lambda1, "temperature": temperature, "val_loss": 1.0, "accuracy": 0.5, "log_loss": 1.0}
        for lambda1, temperature in script.SETTINGS
    ]
    settings[3] |= {"val_loss": 0.1, "accuracy": accuracies[0]}
    settings[7] |= {"accuracy": 0.9}
    grid = {"task": task, "seed": seed, "method": "grid", "settings": settings}
    grid |= {"cpu_seconds": 3.0, "cpu_seconds_of_trials": 2.0}
    method = {"task": task, "seed": seed, "method": "linear", "accuracy": accuracies[1]}
    return [grid, method]


def test_the_grid_chooses_by_validation_and_the_oracle_by_the_test(script):
    runs = [
        *runs_of(script, "vowel", 0, (0.7, 0.8)),
        *runs_of(script, "vowel", 1, (0.7, 0.82)),
        *runs_of(script, "vehicle", 0, (0.8, 0.7)),
    ]
    comparison = script.Comparison(runs, ["linear"])
    assert comparison.tasks == ["vehicle", "vowel"]  # the kept-back ones last
    assert comparison.mean("grid", "accuracy") == pytest.approx(0.75)
    assert comparison.mean("oracle", "accuracy") == pytest.approx(0.9)
    assert comparison.difference("linear", "vowel") == pytest.approx((0.11, 0.01))
    assert comparison.over("linear", comparison.tasks) == pytest.approx((0.005, 0.105))
    assert comparison.below("linear", "oracle") == "1 of 2"


def test_runs_go_on_and_do_not_mix_with_other_parameters(script, tmp_path):
    run = {"task": "vowel", "seed": 0, "method": "linear", "params": "{'meta': 'linear'}"}
    script.RunFile(tmp_path / "runs.jsonl").add(run)
    file = script.RunFile(tmp_path / "runs.jsonl")
    assert file.has(run) and not file.has(run | {"seed": 1})
    with pytest.raises(ValueError, match="has a run"):
        file.has(run | {"params": "{'meta': 'linear', 'lr': 0.1}"})
