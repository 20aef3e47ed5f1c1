"""Pages of the documentation, and tables in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
README = (ROOT / "README.md").read_text(encoding="utf-8")
FAILURES = GUIDE / "failures.rst"


def rows_of(page: Path) -> dict[str, list[str]]:
    """First cell → other cells, of every row of the page's list tables."""
    rows = re.findall(r"^   \* -(.*(?:\n     -.*)*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    cells = ([cell.strip() for cell in re.split(r"\n     -", row)] for row in rows)
    return {first: rest for first, *rest in cells}


def words(page: Path) -> str:
    """The text of a page as one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def messages() -> dict[str, str]:
    """First cell → message, as a pattern, of every row of the tables in failures.rst."""
    page = FAILURES.read_text(encoding="utf-8").replace(r"\_", "_")
    rows = re.findall(r"^   \* - (.*)\n     - (.*)\n     - ", page, re.MULTILINE)
    return {first: ".+".join(map(re.escape, said.split("…"))) for first, said in rows}
