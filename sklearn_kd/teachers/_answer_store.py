"""Store answers on disk, and find them by the contents of their rows.

A folder has ``answers.json``, which says whose answers these are and how they are stored, and parts
``part-DIGEST.npy``, arrays of records that never change. DIGEST is the digest of the file, which shows
whether the file is complete. Each process writes its own parts, so that processes wait for each other only
to create the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sklearn_kd.files._atomic import write_file

log = logging.getLogger("sklearn_kd")

_ABOUT, _LOCK = "answers.json", ".answers.lock"
_FORMAT = 1
# Records are written as a part once they reach this many bytes or have waited this many seconds. This bounds
# the answers lost if the process is killed, and keeps the parts few.
_PART_BYTES, _SECONDS = 2**24, 60.0
_BLOCK = 2**22

_KEY = np.dtype([("first", "<u8"), ("second", "<u8")])


def row_keys(rows: np.ndarray) -> np.ndarray:
    """Return a 16-byte digest of each row's type, shape and numbers."""
    rows = np.ascontiguousarray(rows)
    start = hashlib.blake2b(f"{rows.dtype.str}{rows.shape[1:]}".encode(), digest_size=16)
    found = []
    for row in rows:
        digest = start.copy()
        digest.update(row.data)
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), dtype=_KEY)


class AnswerStore:
    """Records of rows in a folder, and records waiting to be written.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    about : mapping of str to (str, int or None)
        Whose answers these are, and how they are stored. A folder with other answers is refused.
    record : dtype
        Dtype of a row's record.

    Attributes
    ----------
    n_of_others : int
        Number of parts that existed before.

    Raises
    ------
    ValueError
        If the folder has other answers, or a file in it is damaged.
    OSError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], record: np.dtype) -> None:
        self._folder = folder
        self._record = np.dtype([("key", _KEY), *((n, record[n]) for n in record.names or ())])
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK):
            _begin(folder, {"format": _FORMAT, **about})
        self._paths = sorted(folder.glob("part-*.npy"))
        self._parts = [self._checked_part(path) for path in self._paths]
        self.n_of_others = len(self._parts)
        self._index()
        self._waiting: list[np.ndarray] = []
        self._waiting_at: dict[bytes, tuple[int, int]] = {}  # by key: index in _waiting, and row
        self._waits_since = math.inf
        # Writes the waiting records when the store is garbage-collected or Python ends.
        self._finalizer = weakref.finalize(self, _write_last, folder, self._waiting)

    def __len__(self) -> int:
        return len(self._first) + len(self._waiting_at)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the stored records, a mask of the rows that have one, shape (n,), and each record's part.

        Parts are numbered; the first :attr:`n_of_others` of them existed before.
        """
        found, is_there = np.empty(len(keys), dtype=self._record), np.zeros(len(keys), dtype=bool)
        of_part = np.full(len(keys), len(self._parts))
        if len(self._first):
            at = np.minimum(np.searchsorted(self._first, keys["first"]), len(self._first) - 1)
            is_there = (self._first[at] == keys["first"]) & (self._second[at] == keys["second"])
            for number in np.unique(self._part_of[at[is_there]]):
                here = is_there & (self._part_of[at] == number)
                found[here], of_part[here] = self._parts[number][self._rows[at[here]]], number
        if self._waiting:
            for place in np.flatnonzero(~is_there).tolist():
                waits = self._waiting_at.get(keys[place].tobytes())
                if waits is not None:
                    found[place], is_there[place] = self._waiting[waits[0]][waits[1]], True
        return found[is_there], is_there, of_part[is_there]

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add records; they are written once there are many or the first has waited long."""
        together = np.empty(len(rows), dtype=self._record)
        together["key"] = keys
        for name in rows.dtype.names or ():
            together[name] = rows[name]
        number = len(self._waiting)
        self._waiting_at |= {key.tobytes(): (number, row) for row, key in enumerate(keys)}
        self._waiting.append(together)
        self._waits_since = min(self._waits_since, time.monotonic())
        if sum(part.nbytes for part in self._waiting) >= _PART_BYTES:
            self.write()
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write the waiting records if the first has waited long."""
        if time.monotonic() - self._waits_since >= _SECONDS:
            self.write()

    def write(self) -> None:
        """Write the waiting records.

        Raises
        ------
        OSError
            If the disk is full; the records keep waiting.
        """
        path = _write_part(self._folder, self._waiting)
        if path is not None:
            self._waiting.clear()
            self._waiting_at.clear()
            self._waits_since = math.inf
            self._paths.append(path)
            self._parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
            self._index()

    def path_of(self, part: int) -> Path:
        """Return the path of the part with this number."""
        return self._paths[part]

    def _index(self) -> None:
        """Sort the keys of the written records."""
        keys = np.concatenate([np.empty(0, _KEY), *(part["key"] for part in self._parts)])
        order = np.argsort(keys["first"], kind="stable")
        self._first, self._second = keys["first"][order], keys["second"][order]
        rows = [np.empty(0, np.int64), *(np.arange(len(part)) for part in self._parts)]
        numbers = [np.empty(0, np.int64), *(np.full(len(part), k) for k, part in enumerate(self._parts))]
        self._rows, self._part_of = np.concatenate(rows)[order], np.concatenate(numbers)[order]

    def _checked_part(self, path: Path) -> np.ndarray:
        if _file_digest(path) != path.stem.removeprefix("part-"):
            raise ValueError(
                f"{path} is damaged: its contents do not match the digest in its name. Delete the file; the "
                "teacher is asked again about the rows in it."
            )
        part = np.load(path, mmap_mode="r", allow_pickle=False)
        if part.dtype != self._record or part.ndim != 1:
            raise ValueError(f"{path} has records of {part.dtype}, not of {self._record}. Delete the file.")
        return part


def _begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the description of a folder's answers, or refuse a folder with other answers."""
    path = folder / _ABOUT
    if not path.exists():
        write_file(path, [json.dumps(about, indent=1).encode()])
        return
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it has no names")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Give another folder, or empty this one.") from error
    differing = [name for name, value in about.items() if found.get(name) != value]
    if differing:
        said = ", ".join(f"{name} {found.get(name)!r} (here {about[name]!r})" for name in differing)
        raise ValueError(
            f"folder {str(folder)!r} has answers of another kind: {said}. Give another folder, or empty this "
            "one."
        )


def _write_last(folder: Path, waiting: list[np.ndarray]) -> None:
    """Write the waiting records when no caller is left to receive an error; log one instead."""
    try:
        _write_part(folder, waiting)
    except OSError as error:
        log.warning("The last answers of a teacher were not stored in %s: %s", folder, error)


def _write_part(folder: Path, waiting: list[np.ndarray]) -> Path | None:
    """Write records as a part and return its path; None if there are no records."""
    if not waiting:
        return None
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.concatenate(waiting), allow_pickle=False)
    data = buffer.getbuffer()
    path = folder / f"part-{_digest_of([data])}.npy"
    write_file(path, [data])
    return path


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return _digest_of(iter(lambda: file.read(_BLOCK), b""))


def _digest_of(blocks: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
