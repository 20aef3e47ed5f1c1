"""Store a teacher's logits while the student trains: in memory or in a file, as float32 or float16."""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._large_arrays import shared_tensor
from sklearn_kd.runtime._memory import format_mebibytes
from sklearn_kd.teachers._logit_checks import refuse_wrong_numbers

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
LOGIT_DTYPES = tuple(_DTYPES)
# Beyond this, float16 has steps of 0.25 and more.
_FAR = 256


class LogitStorage(NamedTuple):
    """Where and how the logits are stored.

    Attributes
    ----------
    dtype : {"float32", "float16"}
    folder : str, path-like or None
        Folder for a temporary file. None: keep them in memory, on the device.
    """

    dtype: str = "float32"
    folder: str | PathLike[str] | None = None

    def check(self) -> None:
        """Raise ValueError if the folder does not exist, OSError if it cannot be written to."""
        if self.folder is None:
            return
        if not Path(self.folder).is_dir():
            raise ValueError(
                f"teacher_logits_dir={self.folder!r} is not a folder. Give an existing one, with room for "
                "the teacher's logits."
            )
        self.new_file().close()

    def new_file(self) -> Any:
        """Return a new file in the folder, which is deleted when it is closed."""
        try:
            return tempfile.TemporaryFile(dir=self.folder)
        except OSError as error:
            raise type(error)(
                f"teacher_logits_dir={self.folder!r}: cannot create a file there ({error.strerror}). Give a "
                "writable folder."
            ) from error


class LogitStore:
    """Stores logits in the order in which they arrive.

    Parameters
    ----------
    n_rows : int
        Number of rows to store.
    storage : LogitStorage
    who : str
        Name of the teacher in messages.
    """

    def __init__(self, n_rows: int, storage: LogitStorage, who: str) -> None:
        self._n_rows, self._storage, self._who, self._n_stored = n_rows, storage, who, 0
        self._file: Any = None
        if storage.folder is not None:
            self._file = storage.new_file()  # which finish closes
        self._tensor: Tensor | None = None
        self._row_shape: tuple[int, ...] = ()

    def append(self, logits: Tensor) -> None:
        """Check and store the logits of the next rows.

        Raises
        ------
        WrongAnswerError
            If a row has NaN or +inf. The row is counted from the first one stored.
        OSError
            If the disk is full.
        """
        refuse_wrong_numbers(logits, self._who, self._n_stored)
        self._row_shape = tuple(logits.shape[1:])
        if self._storage.dtype == "float16":
            logits = as_float16(logits)
        if self._file is not None:
            self._write(logits.cpu().numpy())
        else:
            if self._tensor is None:
                self._tensor = logits.new_empty(self._n_rows, *self._row_shape)
            self._tensor[self._n_stored : self._n_stored + len(logits)] = logits
        self._n_stored += len(logits)

    def finish(self) -> Tensor:
        """Return all logits, shape (n_rows, n_columns) or that of maps. A file is deleted with them."""
        assert self._n_stored == self._n_rows, (
            f"{self._who}: logits of {self._n_stored} of {self._n_rows} rows"
        )
        if self._file is None:
            assert self._tensor is not None
            return self._tensor
        shape = self._n_rows, *self._row_shape
        logits: np.ndarray = np.memmap(self._file, dtype=self._storage.dtype, mode="r", shape=shape)
        self._file.close()  # the memory map keeps the nameless file
        return shared_tensor(logits)

    def _write(self, logits: np.ndarray) -> None:
        try:
            self._file.write(np.ascontiguousarray(logits).data)
            self._file.flush()  # else the last rows would be written only by ``finish``
        except OSError as error:
            with suppress(OSError):  # from rows still in the buffer
                self._file.close()
            size = format_mebibytes(self._n_rows * math.prod(self._row_shape) * logits.itemsize)
            raise OSError(
                f"teacher_logits_dir={self._storage.folder!r}: the teacher's logits, {size} as "
                f"{self._storage.dtype}, could not be written ({error.strerror}). Give a folder with "
                "more room, or teacher_logits_dtype='float16'."
            ) from error


def as_float16(logits: Tensor) -> Tensor:
    """Return logits as float16.

    Beyond ±256 float16 has steps of 0.25 and more. Rows with such numbers are shifted so that their largest
    is 0, which changes no softmax. Numbers then below the range become −inf, a probability of 0.
    """
    far = ((logits.abs() > _FAR) & torch.isfinite(logits)).any(dim=1)
    if bool(far.any()):
        logits = torch.where(far[:, None], logits - logits.amax(dim=1, keepdim=True), logits)
    return logits.half()
