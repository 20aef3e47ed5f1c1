"""Draw the rooms of the library and the pipe of a fit from the code itself.

The rooms are the packages in ``sklearn_kd``. Their arrows are the import statements, read by :mod:`ast`:
those inside functions and those for type annotations count too. The pipe is the body of
``fit`` of both estimators. Run this script after a change of imports or of ``fit``; a test fails until then::

    python docs/contributing/draw_rooms.py

It writes ``rooms.svg`` and ``fit.svg`` beside itself.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "sklearn_kd"

Graph = dict[str, set[str]]

# --------------------------------------------------------------------------------------
# Imports


def imported_modules(path: Path, package: Path = PACKAGE) -> Iterator[str]:
    """Yield the modules of the package that a file imports, as dotted names without the package's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{path}: import by the full name, as all other files do.")
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        prefix = f"{package.name}."
        yield from (name.removeprefix(prefix) for name in names if name.startswith(prefix))


def read_rooms(package: Path = PACKAGE) -> Graph:
    """Return the rooms that each room imports. Files beside the packages are not rooms."""
    rooms = {folder.parent.name for folder in package.glob("*/__init__.py")}
    graph: Graph = {room: set() for room in sorted(rooms)}
    for room in rooms:
        for path in (package / room).rglob("*.py"):
            found = {module.split(".")[0] for module in imported_modules(path, package)}
            graph[room] |= (found & rooms) - {room}
    return graph


def reachable(graph: Graph, room: str) -> set[str]:
    """Return all rooms that the arrows of a room lead to, directly or through others."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        for below in graph[waiting.pop()] - found:
            found.add(below)
            waiting.append(below)
    return found


def circles(graph: Graph) -> list[str]:
    """Return the rooms that reach themselves."""
    return sorted(room for room in graph if room in reachable(graph, room))


def floors(graph: Graph) -> dict[str, int]:
    """Return the floor of each room: 0 without imports, else one above the highest room that it imports.

    Raises
    ------
    ValueError
        If rooms import each other in a circle.
    """
    if found := circles(graph):
        raise ValueError(f"These packages import each other in a circle: {found}.")
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in heights:
            heights[room] = 1 + max(map(height, graph[room]), default=-1)
        return heights[room]

    return {room: height(room) for room in graph}


def shown_arrows(graph: Graph) -> list[tuple[str, str]]:
    """Return the arrows without those that a way through other rooms replaces."""
    arrows = []
    for room, below in graph.items():
        through = set().union(*(reachable(graph, other) for other in below)) if below else set()
        arrows += [(room, other) for other in sorted(below - through)]
    return arrows


# --------------------------------------------------------------------------------------
# The pipe of a fit


class Step(NamedTuple):
    """A call in a function: the function called, its file, and the variable that holds the result."""

    function: str
    file: str
    result: str


def read_steps(file: str, function: str, package: Path = PACKAGE) -> list[Step]:
    """Return the calls of functions of the package that a function's body makes, in order.

    Parameters
    ----------
    file : str
        Within the package, such as "estimators/_classifier.py".
    function : str
        Name of the function or method.
    package : Path
    """
    tree = ast.parse((package / file).read_text(encoding="utf-8"))
    home = {node.name: file for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package.name}."):
            path = "/".join(str(node.module).split(".")[1:]) + ".py"
            home |= {alias.asname or alias.name: path for alias in node.names}
    body = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function
    )
    steps = []
    for statement in body.body:
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
        names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        result = ", ".join(ast.unparse(target).strip("()") for target in targets)
        steps += [Step(name, home[name], result) for name in names if name in home and name.islower()]
    return steps


# --------------------------------------------------------------------------------------
# Pictures

_STYLE = """<style>
text { font-family: system-ui, "DejaVu Sans", sans-serif; fill: #1d2733; }
.name { font-size: 14px; font-weight: 600; text-anchor: middle; }
.small { font-size: 12px; fill: #4a5a6a; text-anchor: middle; }
.left { font-size: 12px; fill: #4a5a6a; }
.box { fill: #e8f0f8; stroke: #4a7aa8; stroke-width: 1.2; }
.arrow { fill: none; stroke: #7c8b9a; stroke-width: 1.2; marker-end: url(#head); }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#7c8b9a"/></marker></defs>"""


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>{escape(title)}</title>'
    )
    ground = f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#ffffff"/>'
    return "\n".join([head, _STYLE, ground, *parts, "</svg>", ""])


def _text(x: float, y: float, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'


_BOX, _FLOOR, _GAP = (118, 30), 64, 26
_LANE = 14  # width that an arrow takes where it passes a floor

Way = list[tuple[float, float]]


def _ways(graph: Graph, on_floor: dict[str, int]) -> dict[tuple[str, str], list[str]]:
    """Return, for each arrow, what it meets floor by floor: its room, a lane on each floor, its room."""
    return {
        (room, below): [
            room,
            *(f"{room}>{below}" for _ in range(on_floor[room] - on_floor[below] - 1)),
            below,
        ]
        for room, below in shown_arrows(graph)
    }


def _places(graph: Graph, on_floor: dict[str, int], width: float) -> dict[tuple[str, int], float]:
    """Return the middle x of each room, and of each arrow that passes a floor, by name and floor.

    Every floor is ordered by the places above: each room below those that use it.
    """
    wanted_from: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    levels: dict[int, set[str]] = defaultdict(set)
    for room in graph:
        levels[on_floor[room]].add(room)
    for (room, _), way in _ways(graph, on_floor).items():
        for k, (above, name) in enumerate(pairwise(way)):
            floor = on_floor[room] - k - 1
            levels[floor].add(name)
            wanted_from[name, floor].append((above, floor + 1))
    x: dict[tuple[str, int], float] = {}
    for floor in sorted(levels, reverse=True):
        wanted = {
            name: sum(x[above] for above in users) / len(users) if users else 0.7 * width
            for name, users in ((name, wanted_from[name, floor]) for name in levels[floor])
        }
        order = sorted(levels[floor], key=lambda name: (round(wanted[name], 3), name))
        halves = [_BOX[0] / 2 if name in graph else _LANE / 2 for name in order]
        for k, name in enumerate(order):
            ahead, behind = sum(2 * h + _GAP for h in halves[:k]), sum(2 * h + _GAP for h in halves[k + 1 :])
            low, high = 10 + ahead + halves[k], width - 10 - behind - halves[k]
            if k:
                low = max(low, x[order[k - 1], floor] + halves[k - 1] + _GAP + halves[k])
            x[name, floor] = round(max(low, min(wanted[name], high)), 1)
    left = min(x.values()) - _BOX[0] / 2 - 10
    return {at: middle - left for at, middle in x.items()}


def _curve(way: Way) -> str:
    """Draw an arrow from the first point down through all others."""
    (x, y), *others = way
    drawn = f"M{x:g} {y:g}"
    for below_x, below_y in others:
        bend = (below_y - y) / 2
        drawn += f" C{x:g} {y + bend:g} {below_x:g} {below_y - bend:g} {below_x:g} {below_y:g}"
        x, y = below_x, below_y
    return f'<path class="arrow" d="{drawn}"/>'


def rooms_svg(graph: Graph) -> str:
    """Draw the rooms by floors, with arrows from a room to the rooms that it imports."""
    on_floor = floors(graph)
    top = max(on_floor.values())
    x = _places(graph, on_floor, width=760)
    width = max(x.values()) + _BOX[0] / 2 + 10
    y = [16 + (top - floor) * _FLOOR for floor in range(top + 1)]
    parts = []
    for (room, below), way in _ways(graph, on_floor).items():
        first, last = on_floor[room], on_floor[below]
        points = [(x[room, first], float(y[first] + _BOX[1]))]
        for floor, name in zip(range(first - 1, last, -1), way[1:-1], strict=True):
            points += [(x[name, floor], float(y[floor])), (x[name, floor], float(y[floor] + _BOX[1]))]
        parts.append(_curve([*points, (x[below, last], float(y[last] - 1))]))
    for room, floor in on_floor.items():
        parts.append(_box(x[room, floor] - _BOX[0] / 2, y[floor], *_BOX))
        parts.append(_text(x[room, floor], y[floor] + 20, "name", room))
    title = "The packages of sklearn_kd; arrows lead to imported packages"
    return _svg(width, y[0] + _BOX[1] + 16, title, parts)


def fit_svg(*pipes: list[Step]) -> str:
    """Draw the steps of one ``fit`` or several, one below the other, with the value that each hands on."""
    width, middle, tall, gap = 660, 180, 50, 28
    parts, y = [], 12
    for k, steps in enumerate(zip(*pipes, strict=True)):
        names, files = (list(dict.fromkeys(of)) for of in zip(*(step[:2] for step in steps), strict=True))
        parts.append(_box(10, y, 2 * (middle - 10), tall))
        parts.append(_text(middle, y + 21, "name", " or ".join(f"{name}()" for name in names)))
        parts.append(_text(middle, y + 39, "small", " or ".join([files[0], *map(_file_name, files[1:])])))
        for line, words in enumerate(wrap(_summary_of(steps[0]), 40)):
            parts.append(_text(2 * middle + 14, y + 21 + 16 * line, "left", words))
        if k + 1 < len(pipes[0]):
            parts.append(_curve([(middle, y + tall), (middle, y + tall + gap - 1)]))
            results = dict.fromkeys(step.result for step in steps)
            parts.append(_text(middle + 10, y + tall + 18, "left", " or ".join(results)))
        y += tall + gap
    return _svg(width, y - gap + 12, "The steps of fit and the values between them", parts)


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _summary_of(step: Step) -> str:
    """Return the first line of the docstring of a step's function, as plain text."""
    tree = ast.parse((PACKAGE / step.file).read_text(encoding="utf-8"))
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == step.function
    )
    summary = (ast.get_docstring(function) or "").splitlines()[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", summary).replace("``", "")


def pictures() -> dict[str, str]:
    """Return the pictures of the present code, by the name of their file."""
    classifier, distpro = (read_steps(f"estimators/{name}.py", "fit") for name in ("_classifier", "_distpro"))
    return {"rooms.svg": rooms_svg(read_rooms()), "fit.svg": fit_svg(classifier, distpro)}


if __name__ == "__main__":
    for name, svg in pictures().items():
        (HERE / name).write_text(svg, encoding="utf-8")
