"""Checkpoint files: written whole or not at all, and refused with a reason where they are not whole.

A file is a line of text, which has the format, a checksum and a length, and after it what ``torch.save``
makes of plain values and tensors. It is read with ``weights_only=True``: no code in it is run.
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
    """A file cannot be used; the message is a reason, to stand behind the file's name and a colon."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Put ``content``, plain values and tensors, in place of what is at ``path``, in one step.

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
    """Read the content that :func:`write` was given.

    Raises
    ------
    Refused
        If the file is not what was written.
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
        raise Refused("it does not begin as a checkpoint of sklearn_kd does")
    version, digest, n_bytes = header.groups()
    if int(version) != FORMAT:
        raise Refused(f"it has format {int(version)}, and this version of sklearn_kd reads format {FORMAT}")
    payload = written[header.end() :]
    if len(payload) != int(n_bytes):
        raise Refused(f"it is truncated: {len(payload)} of {int(n_bytes)} bytes are there")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise Refused("it has been altered: its checksum is another one")
    try:
        return load_tensors(payload)
    except TooLargeError as error:
        raise Refused(f"it cannot be read ({error})") from error
    except Exception as error:  # whatever a payload that was not made here does to the reader
        raise Refused(f"it cannot be read ({type(error).__name__}: {error})") from error


def checked_folder(checkpoint_dir: str | PathLike[str] | None) -> Path | None:
    """The folder, made where it is missing; None for None.

    Raises
    ------
    ValueError
        If there can be no files in it.
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
