"""The table on bytes of the page on several machines is that of its record."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("search", ["trials", "comparison", "search"])
def test_bytes_that_searches_send(search):
    page = (ROOT / "docs/guide/more_machines.rst").read_text(encoding="utf-8")
    record = json.loads((ROOT / "examples/benchmarks/clusters.json").read_text(encoding="utf-8"))
    plain, shared = record["searches"][search]["plain"], record["searches"][search]["shared"]
    numbers = (plain["per_task"], shared["per_task"], shared["once"])
    assert "".join(f"     - {number / 1e3:,.0f}\n" for number in numbers) in page
    assert record["equal_to_one_process"][search]
    assert plain["per_task"] > 20 * shared["per_task"]
