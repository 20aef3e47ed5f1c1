"""What is released beside the code says what the code says: citation, recipe, archives."""

import importlib.util
import re

import pytest

import sklearn_kd
from helpers.pages import ROOT

tomllib = pytest.importorskip("tomllib")  # Python 3.11
_spec = importlib.util.spec_from_file_location(
    "check_archives", ROOT / "docs" / "contributing" / "check_archives.py"
)
check_archives = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_archives)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPE = (ROOT / ".conda" / "recipe.yaml").read_text(encoding="utf-8")
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "docs" / "changelog.rst").read_text(encoding="utf-8")
METADATA = """Version: 1.0
License-Expression: BSD-3-Clause
Requires-Python: >=3.10
Summary: s
Description-Content-Type: text/markdown
"""
WHEEL = ["sklearn_kd/__init__.py", "sklearn_kd/py.typed", "sklearn_kd/meta/_space.py"] + [
    f"sklearn_kd-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")
]
SDIST = [*check_archives.IN_EVERY_SDIST, "sklearn_kd/__init__.py", "tests/t.py", "examples/e.py"]


def test_citation_and_recipe_have_the_version():
    assert f"\nversion: {sklearn_kd.__version__}\n" in CITATION
    assert f'\n  version: "{sklearn_kd.__version__}"\n' in RECIPE


def test_a_release_has_a_date_in_citation_and_changelog_and_no_other_version_has():
    released = ".dev" not in sklearn_kd.__version__
    assert ("\ndate-released: " in CITATION) == released
    newest = re.search(r"^\d+\.\d+\.\d+ \((.*)\)$", CHANGELOG, re.MULTILINE)
    assert bool(re.fullmatch(r"\d{4}-\d\d-\d\d", newest[1])) == released


def test_the_changelog_is_for_this_version_and_has_the_six_kinds():
    assert (
        re.search(r"^(\d+\.\d+\.\d+) \(", CHANGELOG, re.MULTILINE)[1]
        == sklearn_kd.__version__.split(".dev")[0]
    )
    assert re.findall(r"^(\w+)\n~+$", CHANGELOG, re.MULTILINE)[:6] == [
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    ]  # fmt: skip


def test_the_recipe_needs_what_the_project_needs():
    run = RECIPE.partition("\n  run:\n")[2].partition("\n\n")[0]
    needed = dict(re.findall(r"- ([\w-]+) (\S.*)", run))
    assert needed.pop("python") == ">=${{ python_min }}"
    assert f'python_min: "{PROJECT["requires-python"].removeprefix(">=")}"' in RECIPE
    wanted = dict(re.fullmatch(r"([\w-]+)(>=.*)", line).groups() for line in PROJECT["dependencies"])
    wanted["pytorch"] = wanted.pop("torch")
    assert needed == wanted
    assert f"summary: {PROJECT['description']}\n" in RECIPE


def test_complete_archives_have_no_fault():
    assert check_archives.wheel_faults(WHEEL, METADATA) == []
    assert check_archives.sdist_faults(SDIST) == []


@pytest.mark.parametrize(
    "name", ["sklearn_kd/record.json", "sklearn_kd/a.png", "tests/test_a.py", "examples/e.py"]
)
def test_a_wheel_with_more_than_the_package_is_a_fault(name):
    assert check_archives.wheel_faults([*WHEEL, name], METADATA) == [f"{name} does not belong into the wheel"]


@pytest.mark.parametrize("name", ["sklearn_kd/py.typed", "sklearn_kd/__init__.py"])
def test_a_wheel_without_a_file_is_a_fault(name):
    assert check_archives.wheel_faults([n for n in WHEEL if n != name], METADATA) == [f"{name} is missing"]


@pytest.mark.parametrize(
    "name", ["docs/_build/html/index.html", "tests/__pycache__/t.pyc", "examples/paper/a_teacher.pt"]
)
def test_an_sdist_with_what_runs_leave_behind_is_a_fault(name):
    assert check_archives.sdist_faults([*SDIST, name]) == [f"{name} was left behind"]


def test_an_sdist_without_the_citation_is_a_fault():
    assert check_archives.sdist_faults([n for n in SDIST if n != "CITATION.cff"]) == [
        "CITATION.cff is missing"
    ]
