"""The packages import downwards alone, and the pictures of the contributing pages show the present code."""

import importlib.util
import re
from pathlib import Path

import pytest

from helpers.pages import ROOT, rows_of

FOLDER = ROOT / "docs" / "contributing"
_spec = importlib.util.spec_from_file_location("draw_rooms", FOLDER / "draw_rooms.py")
draw_rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(draw_rooms)

ROOMS = draw_rooms.read_rooms()


def test_there_is_no_circle():
    assert draw_rooms.circles(ROOMS) == []


def test_no_package_imports_upwards():
    on_floor = draw_rooms.floors(ROOMS)
    up = [(room, below) for room in ROOMS for below in ROOMS[room] if on_floor[below] >= on_floor[room]]
    assert up == []


def test_no_room_imports_the_package_itself():
    """sklearn_kd/__init__.py stands above all rooms."""
    outside = {"_version", "_sklearn_compat"}
    for room in ROOMS:
        for path in (draw_rooms.PACKAGE / room).rglob("*.py"):
            first = {module.split(".")[0] for module in draw_rooms.imported_modules(path)}
            assert first <= ROOMS.keys() | outside, path


@pytest.mark.parametrize("name", ["rooms.svg", "fit.svg"])
def test_the_pictures_are_those_of_the_code(name):
    drawn = draw_rooms.pictures()[name]
    assert (FOLDER / name).read_text(encoding="utf-8") == drawn, "run docs/contributing/draw_rooms.py"


def test_both_fits_are_the_same_pipe():
    pipes = [draw_rooms.read_steps(f"estimators/{name}.py", "fit") for name in ("_classifier", "_distpro")]
    ends = [[step for step in pipe if not step.function.startswith("plan_")][1:] for pipe in pipes]
    assert ends[0] == ends[1] and [step.function for step in ends[0]] == [
        "validate_rows_or_stream",
        "run_plan",
        "publish",
    ]


def test_every_room_has_its_row():
    table = rows_of(FOLDER / "rooms.rst")
    named = {cell.strip("`").rstrip("/") for cell in table if cell.startswith("``")}
    assert named == set(ROOMS)


def test_every_import_is_allowed_by_the_table():
    table = {
        cell.strip("`"): set(re.findall(r"\w+", rest[1])) - {"none"}
        for cell, rest in rows_of(FOLDER / "rooms.rst").items()
        if cell.startswith("``")
    }
    for room, allowed in table.items():
        extra = sorted(ROOMS[room] - allowed)
        assert not extra, f"{room} imports {extra}: docs/contributing/rooms.rst does not allow it"
        # What is allowed and not used may stand there, but not upwards.
        assert allowed <= ROOMS.keys() and room not in set().union(*map(table.get, allowed)), room


def test_the_pages_name_files_that_exist():
    for page in FOLDER.glob("*.rst"):
        for path in re.findall(r"``((?:sklearn_kd|tests|docs|examples|\.ci)/[\w./]*)``", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


# --------------------------------------------------------------------------------------
# The script


def write(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return package


def test_imports_in_functions_and_for_types_count(tmp_path):
    package = write(tmp_path / "house", {
        "top/a.py": "def f():\n    from house.middle.b import g\n",
        "middle/b.py": "if TYPE_CHECKING:\n    from house import bottom\n",
        "bottom/c.py": "import numpy\n",
    })  # fmt: skip
    graph = draw_rooms.read_rooms(package)
    assert graph == {"top": {"middle"}, "middle": {"bottom"}, "bottom": set()}
    assert draw_rooms.floors(graph) == {"top": 2, "middle": 1, "bottom": 0}


def test_a_circle_is_found(tmp_path):
    package = write(tmp_path / "house", {
        "a/m.py": "import house.b.m", "b/m.py": "import house.c.m", "c/m.py": "from house.a import m",
        "top/m.py": "import house.a.m",
    })  # fmt: skip
    graph = draw_rooms.read_rooms(package)
    assert draw_rooms.circles(graph) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"import each other in a circle: \['a', 'b', 'c'\]"):
        draw_rooms.floors(graph)


def test_an_arrow_is_not_shown_where_a_way_leads_through_others():
    graph = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    assert draw_rooms.shown_arrows(graph) == [("top", "middle"), ("middle", "bottom")]


def test_the_pictures_show_no_markup():
    for svg in draw_rooms.pictures().values():
        assert not re.search(r":\w+:`|``", svg)


def test_arrows_lead_downwards_in_the_picture():
    for drawn in re.findall(r'class="arrow" d="M[\d.]+ ([\d.]+) (.+?)"', draw_rooms.pictures()["rooms.svg"]):
        first, rest = drawn
        assert float(rest.split()[-1]) > float(first)


def test_the_functions_are_where_the_page_says():
    table = rows_of(FOLDER / "how_a_fit_runs.rst")
    places = [
        rest for rest in table.values() if len(rest) == 2 and rest[1].startswith("``") and "/" in rest[1]
    ]
    looked_up = 0
    for functions, files in places:
        code = "".join(
            (draw_rooms.PACKAGE / file).read_text(encoding="utf-8")
            for file in re.findall(r"``(\S+\.py)``", files)
        )
        for function in re.findall(r"``(\w+)``", functions):
            assert f"def {function}(" in code, (function, files)
            looked_up += 1
    assert looked_up > 10
