"""Write files whole or not at all; everything that this library saves is written here.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed. Whenever the
process ends, either the old file or the new one exists. The temporary file, whose name ends in
``TEMPORARY``, is left behind only if the process is killed.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"

# Number of characters of a file's name in its temporary name; most systems limit names to 255 bytes.
_SHOWN = 40


def write_file(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Write the parts one after another to a file, which replaces the file at ``path``.

    Parameters
    ----------
    path : str or path-like
    parts : iterable of bytes-like

    Raises
    ------
    OSError
        If the file cannot be written. An old file at ``path`` is kept.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            file.write(part)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the block a temporary path to write to, then move that file to ``path``.

    The new file gets the permissions of the old one, or the default ones if there is none. A link stays a
    link, and its target is replaced. A device, such as ``/dev/stdout``, is written to directly.

    Parameters
    ----------
    path : str or path-like

    Yields
    ------
    Path
        A new, empty file.

    Raises
    ------
    OSError
        If the file cannot be written. An old file at ``path`` is kept.
    """
    old = _status(Path(path))
    if old is not None and not stat.S_ISREG(old.st_mode):
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(f"{path} is a folder. Give the name of a file.")
        yield Path(path)
        return
    path = Path(os.path.realpath(path))
    if old is not None and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is write-protected. Make it writable, or give another name.")
    temporary = path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(6)}{TEMPORARY}")
    try:
        with open(temporary, "xb"):
            pass
        yield temporary
        _keep_owner_and_permissions(temporary, old)
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    # Flush the folder, so that the new name survives a power failure if the system supports that.
    with suppress(OSError):
        _flush(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes; no other process may be writing in the folder."""
    for temporary in folder.glob(f"*{TEMPORARY}"):
        temporary.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _keep_owner_and_permissions(temporary: Path, old: os.stat_result | None) -> None:
    if old is None:
        return
    new, system = temporary.stat(), vars(os)
    change_owner: Any = system.get("chown")
    if change_owner is not None and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):  # we may not change the owner
            change_owner(temporary, old.st_uid, old.st_gid)
    with suppress(OSError):  # a file system without permissions
        os.chmod(temporary, stat.S_IMODE(old.st_mode))


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
