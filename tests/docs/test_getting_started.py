"""Getting started works for a reader with a CSV of their own."""

import ast
import builtins
import doctest
import io
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "getting_started" / "index.rst"


def blocks():
    """Return the code of the page with and without the block that a reader with a CSV skips."""
    text = PAGE.read_text(encoding="utf-8")
    before, skipped = text.split("Skip this block if you have your own CSV.")
    skipped, after = skipped.split("For your own file,")
    return [
        "".join(example.source for part in parts for example in doctest.DocTestParser().get_examples(part))
        for parts in ([before, skipped, after], [before, after])
    ]


def undefined(code):
    """Return the names that a script reads but never binds."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name for alias in node.names}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - bound - set(dir(builtins))


def test_the_block_that_makes_up_a_csv_can_be_skipped():
    whole, own = blocks()
    assert "made_up" in whole and "made_up" not in own
    assert undefined(own) == undefined(whole) == set()


def test_columns_of_true_and_false():
    """Only words become categories, if a column of True and False with gaps is converted as the page says."""
    pd = pytest.importorskip("pandas", reason="needs pandas")
    text = "name,size,old,married,left\n" + "Ann,1,True,True,yes\nBob,2,False,False,no\n,3,True,,no\n"
    table, scope = pd.read_csv(io.StringIO(text)), {"target": "left"}
    (remedy,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if '"married": float' in line]
    lines = blocks()[1].splitlines(keepends=True)
    (first,) = [k for k, line in enumerate(lines) if line.startswith("words = ")]
    scope["table"] = table
    exec(remedy.strip(" `.") + "\n" + "".join(lines[first : first + 2]), scope)
    kinds = scope["table"].dtypes.astype(str).to_dict()
    assert kinds["name"] == "category" and kinds["married"] == "float64" and kinds["old"] == "bool"
    assert kinds["size"] == "int64"
