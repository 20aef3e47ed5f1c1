"""Suggestions for misspelt or unknown names."""

from __future__ import annotations

import difflib


def did_you_mean(name: str, known) -> str:
    """Ask whether the nearest known name was meant; an empty string where none is near."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
