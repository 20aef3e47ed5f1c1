"""The messages that the page on losses lists are in the code."""

import pytest

from helpers.pages import GUIDE, ROOT, rows_of

MESSAGES = [
    cell for cell, rest in rows_of(GUIDE / "losses.rst").items()
    if rest and not cell.startswith(("``", "message", "what you see")) and len(cell.split()) > 2
]  # fmt: skip
IN_CODE = " ".join(
    "".join(line.strip().lstrip("f").strip("\"'") for line in path.read_text(encoding="utf-8").splitlines())
    for path in (ROOT / "sklearn_kd").rglob("*.py")
)
SEEN = {
    "a metaparameter does not move",
    "a logit starts at a bound and stays there",
    "it sits at a bound",
    "it moves until the loss vanishes",
    "fits are slow",
}


@pytest.mark.parametrize("message", [message for message in MESSAGES if message not in SEEN])
def test_messages_are_those_of_the_code(message):
    parts = message.replace("[…]", "…").replace("(…)", "…").split("…")
    for part in parts:
        assert part.strip() in IN_CODE, part
