"""Suggestions for misspelt or unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

Named = TypeVar("Named")


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
    """A KeyError whose message is printed as it is, not in quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class ByName(dict[str, Named]):
    """A dict of the library's objects by name, which says for an unknown name which names there are.

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
    """Return the closest known name; None if none is close."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return matches[0] if matches else None
