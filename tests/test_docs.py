"""The documentation names everything public, and its tables are those of the evidence."""

import importlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import sklearn_kd
import sklearn_kd.datasets

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
PUBLIC = [sklearn_kd, sklearn_kd.meta, sklearn_kd.datasets]


def rows_of(page):
    """First cell → other cells, of every row of the page's list tables."""
    rows = re.findall(r"^   \* -(.*(?:\n     -.*)*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    cells = ([cell.strip() for cell in re.split(r"\n     -", row)] for row in rows)
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module):
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (\w+)$|^\.\. py:data:: (\w+)$", page, re.MULTILINE))
    names = {name for pair in listed for name in pair}
    assert set(module.__all__) - {"meta"} <= names, "list the new names in docs/api.rst"


def test_accuracies_are_those_of_the_evidence():
    runs = json.loads((ROOT / "examples" / "evidence" / "whom_to_trust.json").read_text())["runs"]
    found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run["method"]][run["situation"]].append(run["accuracy"])
    table = rows_of(GUIDE / "choosing.rst")
    for method, situations in found.items():
        expected = [f"{np.mean(a):.3f} ± {np.std(a, ddof=1):.3f}" for a in situations.values()]
        assert table[method] == [cell.replace("0.", ".") for cell in expected], method


def readme_rows(first_cells):
    """Cells of the rows of README's tables that begin with one of these."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = (
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
    )
    return {row[0]: row[1:] for row in rows if row[0] in first_cells}


def mean_and_sd(runs, method):
    accuracy = [run["accuracy"] for run in runs if run["method"] == method]
    return f"{np.mean(accuracy):.3f} ± {np.std(accuracy, ddof=1):.3f}".replace("0.", ".")


def test_readme_has_the_accuracies_of_the_evidence():
    runs = json.loads((ROOT / "examples" / "evidence" / "whom_to_trust.json").read_text())["runs"]
    methods = ("none", "naive", "fixed (.5, 4)", "hyperopt", "gradient", "linear", "naive+val")
    situations = {
        "clean": "clean",
        "40 % of the labels random": "noisy labels",
        "teacher's classes permuted": "permuted teacher",
        "teacher's rows shuffled": "shuffled teacher",
    }
    found = readme_rows(situations)
    for row, situation in situations.items():
        these = [run for run in runs if run["situation"] == situation]
        assert found[row] == [mean_and_sd(these, method) for method in methods], row


def test_readme_has_the_accuracies_of_fashion_mnist():
    runs = json.loads((ROOT / "examples" / "02_fashion_mnist.json").read_text())["runs"]
    methods = (
        "the teacher itself", "none", "naive", "random", "fixed (.5, 4)", "hyperopt", "gradient", "linear",
        "linear, auto",
    )  # fmt: skip
    first, *rest = (mean_and_sd(runs, method) for method in methods)
    assert readme_rows([first])[first] == rest


def test_teachers_score_what_was_published():
    found = json.loads((ROOT / "examples" / "paper" / "check_teachers.json").read_text())["runs"]
    page = (GUIDE / "students.rst").read_text(encoding="utf-8")
    for run in found:
        assert run["accuracy"] == run["published"]
        assert f"ResNet-{run['depth']} ({100 * run['accuracy']:.2f} %)" in page


def test_the_fashion_mnist_teacher_is_the_one_described():
    found = json.loads((ROOT / "examples" / "paper" / "train_fashion_mnist_teacher.json").read_text())
    page = " ".join((GUIDE / "students.rst").read_text(encoding="utf-8").split())
    held_out, test = (f"{accuracy:.3f}".removeprefix("0") for accuracy in found["accuracy"].values())
    assert f"{found['parameters']:,} parameters: accuracy {held_out} on" in page
    assert f"see, {test} on the test images" in page


def test_errors_are_those_of_the_evidence():
    errors = json.loads((ROOT / "examples" / "evidence" / "finite_difference.json").read_text())["errors"]
    table = rows_of(GUIDE / "theory.rst")
    for network, rules in errors.items():
        assert table[network] == [f"{np.median(e):.1e} ({max(e):.1e})" for e in rules.values()], network


def test_comparison_is_that_of_the_evidence():
    data = json.loads((ROOT / "examples" / "evidence" / "compare_six.json").read_text())["data"]
    table = rows_of(GUIDE / "comparing.rst")
    for name, found in data.items():
        means = [f"{row['mean']:.4f}".removeprefix("0") for row in found["against naive"]]
        assert table[name] == means, name


def test_what_training_together_saves_is_that_of_the_benchmark():
    found = json.loads((ROOT / "examples" / "benchmarks" / "many_students.json").read_text())["runs"]
    table, checked = rows_of(GUIDE / "many_runs.rst"), 0
    for run in found:
        if run["same_rows"]:
            mflop, *ratios = table[f"{run['student']}; {run['batch_size']}"]
            assert mflop == f"{run['forward_flops'] / 1e6:.1f}"
            assert ratios[(2, 4, 8, 16).index(run["students"])] == f"{run['ratio']:.2f}"
            checked += 1
    assert checked == 4 * len([row for row in table if ";" in row])


@pytest.mark.parametrize("script", ["step", "loop", "scaling"])
def test_timings_are_those_of_the_benchmarks(script, monkeypatch):
    folder = ROOT / "examples" / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    records = (json.loads((folder / f"{script}{when}.json").read_text()) for when in ("", "_before"))
    page = (GUIDE / "speed.rst").read_text(encoding="utf-8")
    for table in importlib.import_module(script).tables(*records):
        assert table in page, f"run examples/benchmarks/{script}.py --table"


def test_readme_has_the_costs_of_the_benchmark(monkeypatch):
    folder = ROOT / "examples" / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    cost = importlib.import_module("step").cost
    students = json.loads((folder / "step.json").read_text())["students"].values()
    rows = {
        '`meta="gradient"`': "finite_difference",
        '`meta="linear"`, `e1=10, e2=10`': "e1 = e2 = 10",
        '`meta="linear"`, `e1=10, e2=100`': "e1 = 10, e2 = 100",
        'the paper\'s algorithm, `"gradient"`': "the paper's algorithm",
    }
    found = readme_rows(rows)
    for row, contender in rows.items():
        assert found[row] == [cost(student, contender).split()[0] for student in students], row


def test_noise_is_that_of_the_evidence():
    found = json.loads((ROOT / "examples" / "evidence" / "hypergradient_noise.json").read_text())
    page = (ROOT / "docs" / "guide" / "speed.rst").read_text()
    full = np.array(found["noise"]["full"])
    for name in ("D_val halved", "half the extra pass", "a quarter of the extra pass"):
        ratios = np.array(found["noise"][name]) / full
        assert f"     - {np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})" in page, name
    assert np.abs(found["signal"]).min() > 0.5 and np.abs(found["signal"]).max() < 2.1


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("table2_synthetic", "reproduces_synthetic.rst"),
        ("synthetic_honest", "reproduces_synthetic.rst"),
        ("table2_images", "reproduces_images.rst"),
        ("images_honest", "reproduces_images.rst"),
        ("table1_cost", "reproduces_images.rst"),
        ("wrong_labels_and_teachers", "wrong_labels.rst"),
        ("defaults", "defaults.rst"),
        ("distpro_cifar10", "reproduces_distpro.rst"),
        ("distpro_transfer", "reproduces_distpro.rst"),
    ],
)
def test_what_reproduces_is_that_of_the_runs(script, page, monkeypatch):
    folder = ROOT / "examples" / "paper"
    monkeypatch.syspath_prepend(folder)
    record = json.loads((folder / f"{script}.json").read_text())
    page = (GUIDE / page).read_text(encoding="utf-8")
    for table in importlib.import_module(script).tables(record):
        assert table in page, f"put the tables that examples/paper/{script}.py prints into the page"


def test_what_is_said_of_distpro_is_so(monkeypatch):
    folder = ROOT / "examples" / "paper"
    monkeypatch.syspath_prepend(folder)
    by_arm_of = importlib.import_module("_distpro").by_arm_of

    def percent(script):
        record = json.loads((folder / f"{script}.json").read_text())
        arms = by_arm_of(record["runs"], record["chosen"])
        return {arm: 100 * np.mean([run["accuracy"] for run in runs]) for arm, runs in arms.items()}

    here, transferred = percent("distpro_cifar10"), percent("distpro_transfer")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (GUIDE / "reproduces_distpro.rst").read_text(encoding="utf-8")
    for said in (
        "reaches {DistPro:.1f} %, equal weights {equal:.1f}, plain distillation {KD:.1f},\n"
        "no distillation {none:.1f}, and {DistPro, lambda1 and T:.1f} with lambda1 and T learned",
    ):
        assert said.format(**here) in readme, said
    for said in (
        "{equal:.2f}; {none:.2f}",
        "{DistPro:.2f}; {equal:.2f}",
        "{DistPro:.2f}; {ReviewKD:.2f}",
        "{DistPro:.2f}; mean {mean:.2f}, final {final:.2f}",
        "KD has {KD:.2f}",
        "({reversed:.2f})",
    ):
        assert said.format(**here) in page, said
    said = "reach {DistPro, searched elsewhere:.1f}, equal weights {equal:.1f} "
    assert said.format(**transferred) in readme
    for said in ("{DistPro, searched elsewhere:.2f}; equal {equal:.2f}", "of its own ({DistPro:.2f})"):
        assert said.format(**transferred) in page, said


def test_what_is_said_of_the_images_is_so(monkeypatch):
    folder = ROOT / "examples" / "paper"
    monkeypatch.syspath_prepend(folder)
    images, honest = (importlib.import_module(name) for name in ("table2_images", "images_honest"))
    number = importlib.import_module("_protocol").number
    runs = json.loads((folder / "table2_images.json").read_text())["runs"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    summary = (GUIDE / "reproduces.rst").read_text(encoding="utf-8")
    for (name, _), methods in images.by_cell(runs).items():
        none, gradient, linear = (
            number(np.mean([run["accuracy"] for run in methods[method]]))
            for method in ("none", "gradient", "linear")
        )
        assert f"{gradient}, {linear}; {none}" in summary, name
        assert name == "CIFAR-10" or f"{none}, {gradient}, {linear}" in readme, name
    sets = honest.by_set(json.loads((folder / "images_honest.json").read_text())["runs"])
    for name, of in sets.items():
        arms = ("none", "fixed (.5, 4)", "linear", "linear, paper's settings")
        cells = [name.removeprefix("reduced "), *(number(np.mean(of[arm])) for arm in arms)]
        assert f"| {' | '.join(cells)} |" in readme, name


def test_what_the_text_says_of_the_synthetic_runs_is_so():
    folder = ROOT / "examples" / "paper"
    table2, honest = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("table2_synthetic", "synthetic_honest")
    )
    clipped = {(row["features"], row["method"], row["lr"]): row.get("clipped") for row in table2["summary"]}
    final = {
        method: np.mean([
            run["temperature"]
            for run in honest["runs"]
            if run["setting"] | {"features": "sign(x1·x2)", "method": method, "n_valid": 200} == run["setting"]
            and "accuracy" in run
        ])
        for method in ("linear", "grid, s(T) = T²")
    }  # fmt: skip
    chosen = honest["chosen"]
    page = re.sub(r"\s+", " ", (GUIDE / "reproduces_synthetic.rst").read_text(encoding="utf-8"))
    for said in (
        f"{clipped['sign(x1·x2)', 'gradient', 1.0]:.0%} (gradient)".replace("%", " %"),
        f"{clipped['sign(x1·x2)', 'linear', 1.0]:.0%} (linear)".replace("%", " %"),
        f"column alone scores {table2['without_a_student']['sign(x1·x2)']['third column']}".replace(
            "0.", "."
        ),
        f"ends at {final['linear']:.2f} on average, where the grid with T² chose {final['grid, s(T) = T²']:.2f}",
        f"{chosen['text']['lr']} and {chosen['text']['iterations']:,} with the text's features",
        f"{chosen['sign(x1·x2)']['lr']} and {chosen['sign(x1·x2)']['iterations']} with sign(x1·x2)",
    ):
        assert said in page, said


def test_memory_is_that_of_the_evidence():
    path = ROOT / "examples" / "evidence" / "memory_of_200_fits.json"
    table = rows_of(GUIDE / "many_runs.rst")
    for name, runs in json.loads(path.read_text())["runs"].items():
        sizes = [f"{runs[0]['summary'][f'MiB after fit {n}']:.1f}" for n in (50, 200)]
        slopes = []
        for summary in (run["summary"] for run in runs):
            thirds = summary["KiB per fit, by thirds"]
            total = summary["KiB per fit, last 150"]
            slopes.append(f"{total:+.1f} ({min(thirds):+.1f} to {max(thirds):+.1f})")
        assert table[name] == [*sizes, *slopes], name
        for run in runs:
            first, last = run["after so many calls: tensors, modules, KiB of tensors"].values()
            assert first == last, name


def test_what_is_lost_by_kills_is_that_of_the_runs():
    found = json.loads((ROOT / "examples" / "evidence" / "kill_and_resume.json").read_text())
    table = rows_of(GUIDE / "resuming.rst")
    for name, size in found["settings"]["sizes"].items():
        kills = [kill for kill in found["kills"] if kill["configuration"] == name and kill["killed"]]
        again = [kill["batches_again"] for kill in kills if kill["batches_again"] is not None]
        made_again = f"{np.mean(again):.1f} of {size['training batches']}, {max(again)}"
        identical = sum(kill["identical"] for kill in kills)
        assert table[name] == [str(len(kills)), str(identical), made_again], name
        assert all(kill["files_left"] == 0 for kill in kills), name
