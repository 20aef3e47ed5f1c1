"""Names of parametrised tests."""

import re

import pytest

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def in_words(value):
    """Return the words for a parameter, the same in each process: no address, and sets in order."""
    return _ADDRESS.sub("", str(sorted(value) if isinstance(value, (set, frozenset)) else value))


def check_names(names):
    """Refuse names that differ from process to process: such tests can neither be divided nor run again."""
    if changing := [name for name in names if _ADDRESS.search(name)]:
        raise pytest.UsageError(f"{changing[0]} names an address in memory. Give parametrize ids=in_words.")
