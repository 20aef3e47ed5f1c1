"""Checkpoint files: written whole or not at all, and refused with a reason where they are not whole.

A file is a line of text, which has the format, a checksum and a length, and after it what ``torch.save``
makes of plain values and tensors. It is read with ``weights_only=True``: no code in it is run.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
_MAGIC = b"sklearn_kd checkpoint"
_HEADER = re.compile(rb"sklearn_kd checkpoint, format (\d+), sha256 ([0-9a-f]{64}), (\d+) bytes\n")
_LONGEST_HEADER = 200


class Refused(Exception):
    """A file cannot be used; the message is a reason, to stand behind the file's name and a colon."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Put ``content``, plain values and tensors, in place of what is at ``path``, in one step.

    Whenever the process ends, there is the old file or the new one. A temporary file may be left
    beside it, whose name ends in ".tmp".
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest()
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(b"%s, format %d, sha256 %s, %d bytes\n" % (_MAGIC, FORMAT, digest.encode(), len(payload)))
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _settle(path.parent)


def _settle(folder):
    """Have the names in a folder outlast a loss of power, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` was given.

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
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
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


class Lock:
    """Of a folder, which is made, held by one process until it is released, or ends in whatever way.

    Attributes
    ----------
    held : bool
        Whether no other process has it. Where the system has no such locks, it is believed so.
    """

    def __init__(self, folder: Path):
        self.held, self._descriptor, self._path = True, -1, folder / "lock"
        folder.mkdir(exist_ok=True)
        try:
            import fcntl
        except ImportError:
            return
        try:
            self._descriptor = self._opened()
        except FileNotFoundError:  # one that came to its end has removed the folder
            folder.mkdir(exist_ok=True)
            self._descriptor = self._opened()
        try:
            # Not flock: a loader's workers, which may outlive a killed process, would inherit that.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.held = False
        except OSError:
            pass  # a file system without locks

    def _opened(self):
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)

    def remove(self) -> None:
        """Release it, and leave no trace."""
        self._path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self):
        self.release()
