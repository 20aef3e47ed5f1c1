"""Write and read checkpoint files: atomic, with a checksum, and without code.

A file is a line of text with the format, a checksum and a length, followed by plain values and tensors in
the format of ``torch.save``. It is read with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from sklearn_kd.files._atomic import write_file
from sklearn_kd.files._limits import TooLargeError
from sklearn_kd.files._tensors import dump_tensors, load_tensors

FORMAT = 1
_MAGIC = b"sklearn_kd checkpoint"
_HEADER = re.compile(rb"sklearn_kd checkpoint, format (\d+), sha256 ([0-9a-f]{64}), (\d+) bytes\n")
_LONGEST_HEADER = 200


class Refused(Exception):
    """Raised if a checkpoint cannot be used; the message is the reason, to follow the file's name."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a file, replacing an existing one in one step.

    Parameters
    ----------
    path : Path
    content : dict
        Plain values and tensors.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    payload = dump_tensors(content)
    digest = hashlib.sha256(payload).hexdigest()
    header = b"%s, format %d, sha256 %s, %d bytes\n" % (_MAGIC, FORMAT, digest.encode(), len(payload))
    write_file(path, [header, payload])


def read(path: Path) -> dict[str, Any]:
    """Read the content of a file that :func:`write` wrote.

    Raises
    ------
    Refused
        If the file is missing, incomplete, altered, of another format, or larger than the memory.
    """
    try:
        with open(path, "rb") as file:
            written = file.read()
    except OSError as error:
        raise Refused(f"it cannot be read ({error})") from error
    if not written:
        raise Refused("it is empty")
    header = _HEADER.match(written[:_LONGEST_HEADER])
    if header is None:
        raise Refused("it does not begin like a checkpoint of sklearn_kd")
    version, digest, n_bytes = header.groups()
    if int(version) != FORMAT:
        raise Refused(f"it has format {int(version)}, but this version of sklearn_kd reads format {FORMAT}")
    payload = written[header.end() :]
    if len(payload) != int(n_bytes):
        raise Refused(f"it is truncated: it has {len(payload)} of {int(n_bytes)} bytes")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise Refused("it has been altered: its checksum differs")
    try:
        return load_tensors(payload)
    except TooLargeError as error:
        raise Refused(f"it cannot be read ({error})") from error
    except Exception as error:  # a foreign payload may fail in any way
        raise Refused(f"it cannot be read ({type(error).__name__}: {error})") from error


def prepare_checkpoint_dir(checkpoint_dir: str | PathLike[str] | None) -> Path | None:
    """Make the folder if it is missing, and return its path; None for None.

    Raises
    ------
    ValueError
        If it is a file, or cannot be written to.
    """
    if checkpoint_dir is None:
        return None
    folder = Path(checkpoint_dir).expanduser()
    mend = "Give a folder that can be written to, or None."
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"checkpoint_dir={str(checkpoint_dir)!r} is a file, not a folder. {mend}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"checkpoint_dir={str(checkpoint_dir)!r} cannot be written to: {error}. {mend}"
        ) from error
    return folder
