"""Getting started works for a reader with a CSV of their own."""

import ast
import builtins
import doctest
from pathlib import Path

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
