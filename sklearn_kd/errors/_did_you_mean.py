"""Suggestions for misspelt or unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NoReturn, TypeVar

Named = TypeVar("Named")
_MOST_MATCHES = 10  # matches to compare


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return a question with the closest known name, after a space; an empty string if none is close.

    Examples
    --------
    >>> from sklearn_kd.errors._did_you_mean import did_you_mean
    >>> did_you_mean("hyperop", ["linear", "hyperopt"])
    " Did you mean 'hyperopt'?"
    """
    match = closest(name, known)
    return "" if match is None else f" Did you mean {match!r}?"


class UnknownNameError(KeyError):
    """A KeyError whose message is printed without quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class ByName(dict[str, Named]):
    """A dict of the library's objects by name; its error for an unknown name lists the known ones.

    Examples
    --------
    >>> from sklearn_kd.errors._did_you_mean import ByName
    >>> try:
    ...     ByName(resnet20=20, resnet32=32)["resnet2o"]
    ... except KeyError as error:
    ...     print(error)
    'resnet2o' is none of the names resnet20, resnet32. Did you mean 'resnet20'?
    """

    def __missing__(self, name: Any) -> NoReturn:
        raise UnknownNameError(
            f"{name!r} is none of the names {', '.join(map(str, self))}.{did_you_mean(name, self)}"
        )


def closest(name: object, known: Iterable[object]) -> str | None:
    """Return the closest known name or None; of equally close ones, that with the longest common prefix."""
    own = str(name)
    matches = difflib.get_close_matches(own, [str(k) for k in known], n=_MOST_MATCHES)
    if not matches:
        return None
    share = _share_in_common(own, matches[0])
    best = [match for match in matches if _share_in_common(own, match) == share]
    return max(best, key=lambda match: _length_in_common(own, match))


def _share_in_common(name: str, match: str) -> float:
    return difflib.SequenceMatcher(None, match, name).ratio()  # as in difflib.get_close_matches


def _length_in_common(name: str, match: str) -> int:
    """Return the length of the common prefix of two names."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, match, strict=False)))
