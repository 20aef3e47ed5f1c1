"""Checks before a file is written or read: its path, and the package for its format."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType


def checked_path(path: str | PathLike[str], suffixes: Sequence[str], hint: str = "") -> Path:
    """Return the path of a file to be written.

    Parameters
    ----------
    path : str or path-like
    suffixes : sequence of str
        Allowed suffixes of the name, in upper or lower case.
    hint : str, default=""
        Text added to the message about a wrong suffix.

    Raises
    ------
    TypeError
        If ``path`` is not a path.
    ValueError
        If the suffix is wrong.
    FileNotFoundError
        If the folder does not exist.
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path={path!r} must be a str or a path.")
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"path={str(path)!r} ends in {path.suffix!r}; end it in {' or '.join(map(repr, suffixes))}.{hint}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {str(path.parent)!r}.")
    return path


def import_package(module: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Full name of the module.
    purpose : str
        Subject of the message, such as "Saving an estimator".

    Raises
    ------
    ImportError
        If the module cannot be imported. The message names the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {module.partition('.')[0]}, which cannot be imported ({error}). "
            "Install sklearn-kd[export]."
        ) from error
