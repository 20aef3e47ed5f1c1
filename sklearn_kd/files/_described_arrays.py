"""Write and read named arrays with a JSON description, without code: the files of processes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sklearn_kd._version import running_versions
from sklearn_kd.files._arrays import dump_arrays, load_arrays
from sklearn_kd.files._atomic import write_file
from sklearn_kd.files._limits import parsed_json

T = TypeVar("T")


def versions_for_the_record() -> dict[str, str]:
    """Return the versions of the libraries that such a file depends on."""
    return running_versions() | {"numpy": np.__version__, "python": platform.python_version()}


def write_described(
    path: str | PathLike[str], file_format: Any, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write arrays with their description; an existing file is replaced completely or not at all.

    Parameters
    ----------
    path : str or path-like
    file_format : int or str
        Identifies the kind of file for a reader.
    about : mapping
        Plain values that can be written as JSON.
    arrays : mapping of str to ndarray
        None of them has the name "about".
    """
    text = json.dumps({"format": file_format} | dict(about))
    write_file(path, [dump_arrays({**arrays, "about": np.array(text)})])


def read_described(
    path: str | PathLike[str],
    formats: Collection[Any],
    make: Callable[[dict[str, Any], dict[str, np.ndarray]], T],
    *,
    what: str,
    writer: str,
) -> T:
    """Read a file written by :func:`write_described`, and return ``make(about, arrays)``.

    Parameters
    ----------
    path : str or path-like
    formats : collection
        Formats that ``make`` understands.
    make : callable(about, arrays)
        May raise any error if the content is wrong.
    what : str
        Expected content, for the message.
    writer : str
        Method that writes such files, for the message.

    Raises
    ------
    OSError
        If the file does not exist or cannot be read.
    ValueError
        If the file holds anything else, or requests more memory than its length allows.
    """
    try:
        arrays = load_arrays(Path(path).read_bytes())
        about = parsed_json(str(arrays.pop("about")))
        if about.pop("format") not in formats:
            raise ValueError("it is of another kind, or of a later version of this library")
        return make(about, arrays)
    except OSError:
        raise
    except Exception as error:  # the reader may raise any error for an arbitrary file
        raise ValueError(
            f"{path} holds no {what} ({type(error).__name__}: {error}). Give a file that {writer} has "
            "written."
        ) from error
