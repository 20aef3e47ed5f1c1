"""Store a teacher's answers on disk, once for each row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_kd.files._tensors import hash_tensor
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._structures import some_rows
from sklearn_kd.teachers._adapter import EitherWayAdapter, TeacherAdapter
from sklearn_kd.teachers._answer_store import AnswerStore, row_keys
from sklearn_kd.teachers._compressed_logits import LogitCodec
from sklearn_kd.teachers._conversion import BatchLogits, LogitConversion
from sklearn_kd.teachers._logit_checks import refuse_wrong_numbers, thawed
from sklearn_kd.teachers._registry import adapter_class, comes_trained, register_teacher, wrap_teacher
from sklearn_kd.teachers._wrappers import without_parallel

_DTYPES = ("float16", "float32")
# Number of rows of each older part about which the teacher is asked again.
_N_PROBED = 4


class StoredAnswers(BaseEstimator):
    """A teacher whose answers are stored in a folder, so that it is asked only once about each row.

    A row is found by a digest of its numbers: in any order, in other epochs, in later fits and other
    processes, as part of a larger X, and among augmented rows if ``augment`` makes the same row again. A
    changed row is a new row, and the teacher is asked about it.

    Parameters
    ----------
    teacher : object
        A trained teacher of any kind that ``DistilledClassifier`` takes.
    folder : str or path-like
        Folder for these answers only. It is created if it does not exist.
    top : int or None, default=None
        Store, for each row, the probabilities of this many most probable classes, and of all others
        together. When restored, the others share their probability equally. This saves space with many
        classes: with 1,000 classes and ``top=10`` a row takes 58 bytes instead of 2,016. Use it for T near
        1. A higher temperature raises the classes that were made equal, and the student learns worse than
        from all logits (:doc:`/guide/streams` has numbers). None: store all logits.
    dtype : {"float16", "float32"}, default="float16"
        Type of the stored numbers. In float16 the largest logit of a row becomes 0, which changes no
        softmax, and the others are rounded to 1/2048 of their distance from it.

    Raises
    ------
    ValueError
        In ``fit``, if the folder holds answers of another teacher, for other classes or with other settings,
        or if a file in it is damaged. A network is recognised by its weights. Every teacher is asked again
        about four rows of each part, and recognised by its answers.

    See Also
    --------
    sklearn_kd.Stream : Rows that do not fit into memory.

    Notes
    -----
    Nothing in the folder is code. Parts are written as a whole or not at all, every minute and at the end.
    They are memory-mapped; an index of 32 more bytes per row stays in memory. Several processes may use one
    folder at the same time; each sees what the others had written when it began.

    To compute the digest of a row on a GPU, the row is copied to the host. If the teacher takes arrays, X
    must hold numbers.

    Random augmentation makes a new row each time, and the folder grows with every epoch. To store the
    answers to a few crops of each row [1]_, let ``augment`` draw each row's crop from a few fixed ones.

    References
    ----------
    .. [1] Shen, Xing. "A fast knowledge distillation framework for visual recognition", 2022.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import StoredAnswers
    >>> X, y = load_iris(return_X_y=True)
    >>> class Counting(torch.nn.Linear):
    ...     n_rows = 0
    ...
    ...     def forward(self, x):
    ...         self.n_rows += len(x)
    ...         return super().forward(x)
    >>> network = Counting(4, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):  # the second fit asks about 4 rows only, to recognise the network
    ...         clf = DistilledClassifier(
    ...             StoredAnswers(network, folder), MLPStudent, meta="naive", max_epochs=2, device="cpu")
    ...         _ = clf.fit(X, y)
    >>> network.n_rows  # 149 different rows among 150, and 4
    153
    """

    def __init__(
        self,
        teacher: Any,
        folder: str | PathLike[str],
        top: int | None = None,
        dtype: Literal["float16", "float32"] = "float16",
    ):
        self.teacher = teacher
        self.folder = folder
        self.top = top
        self.dtype = dtype

    def __sklearn_clone__(self) -> StoredAnswers:
        return type(self)(self.teacher, self.folder, self.top, self.dtype)  # share the trained teacher


@register_teacher(StoredAnswers)
class StoredAnswersAdapter(EitherWayAdapter):
    """Adapter of StoredAnswers: asks the adapter of its teacher about rows that are not in the folder."""

    gives_numbers = False

    @classmethod
    def trains(cls, teacher: Any) -> bool:
        return False

    @classmethod
    def members(cls, teacher: Any) -> Sequence[Any]:
        return (teacher.teacher,)

    def check(self) -> None:
        own = self.teacher
        kind = adapter_class(own.teacher)
        if kind is not None and not comes_trained(own.teacher):
            raise ValueError(
                f"StoredAnswers: teacher {type(own.teacher).__name__} would be trained anew by each fit. "
                "Train it first, and give StoredAnswers(sklearn.frozen.FrozenEstimator(it), folder)."
            )
        self._inner: TeacherAdapter = wrap_teacher(
            own.teacher, self.teacher_classes, "teacher of StoredAnswers"
        )
        self._inner.ask_about_some_rows()
        if own.dtype not in _DTYPES:
            raise ValueError(f"StoredAnswers: dtype={own.dtype!r} must be one of {list(_DTYPES)}.")
        if own.top is not None and (isinstance(own.top, bool) or not isinstance(own.top, (int, np.integer))):
            raise TypeError(f"StoredAnswers: top={own.top!r} must be an integer or None.")
        if own.top is not None and own.top < 1:
            raise ValueError(f"StoredAnswers: top={own.top} must be at least 1, or None for all classes.")
        self._asked: _Asked | None = None

    @property
    def name(self) -> str:
        return self._inner.name

    def column_classes(self) -> Any:
        return self._inner.column_classes()

    def takes_batches(self) -> bool:
        return self._inner.takes_batches()

    def ask_for_maps(self) -> None:
        raise ValueError(
            "StoredAnswers store one row of logits for each row of X, but y has a map for each. Give the "
            "network itself, with teacher_logits_dir for its answers."
        )

    def ask_about_given_rows(self) -> None:
        self._inner.ask_about_given_rows()

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        inner: Any = self._inner
        asked, ask_inner = self._opened(classes), inner.on(device, classes)

        def ask(x: Any) -> Tensor:
            return asked(_keys_of_tensors(x), lambda places: ask_inner(x[torch.from_numpy(places)])).to(
                device
            )

        return BatchLogits(ask, lambda values: LogitConversion(None, probabilities=False), self.name)

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        asked = self._opened(classes)
        if self.takes_batches():
            yield from super().iter_logits(X, data, classes, batch_size)
            asked.store.write()
            return

        def ask(places: np.ndarray) -> Tensor:
            rows = DistillationData(torch.empty(len(places), 1))
            return torch.cat([*self._inner.iter_logits(some_rows(X, places), rows, classes, batch_size)])

        yield asked(row_keys(_numbers_of(X)), ask).to(data.device)
        asked.store.write()

    def _opened(self, classes: np.ndarray) -> _Asked:
        """Open the folder once; return the object that asks about rows that are not in it."""
        if self._asked is None:
            own = self.teacher
            if own.top is not None and own.top >= len(classes):
                raise ValueError(
                    f"StoredAnswers: top={own.top} of {len(classes)} classes leaves no others. Set top=None "
                    "to store all logits."
                )
            codec = LogitCodec(len(classes), own.dtype, None if own.top is None else int(own.top))
            about = {
                "teacher": _digest_of_teacher(own.teacher),
                "classes": _digest_of(classes.tolist()),
                "teacher_classes": None if self.teacher_classes is None else _digest_of(self.teacher_classes),
                "n_classes": len(classes),
                "dtype": own.dtype,
                "top": codec.top,
            }
            self._asked = _Asked(AnswerStore(Path(own.folder), about, codec.record), codec, self.name)
        return self._asked


class _Asked:
    """Returns answers from a store, and asks a teacher for those that are missing.

    Parameters
    ----------
    store : AnswerStore
    codec : LogitCodec
    who : str
        Name of the teacher in messages.
    """

    def __init__(self, store: AnswerStore, codec: LogitCodec, who: str) -> None:
        self.store, self._codec, self._who = store, codec, who
        self._unknown = set(range(store.n_of_others))  # parts whose teacher has not been recognised yet

    def __call__(self, keys: np.ndarray, ask: Callable[[np.ndarray], Tensor]) -> Tensor:
        """Return the answers for rows with these keys; call ``ask`` with the places of those without."""
        found, is_there, parts = self.store.find(keys)
        self._recognise(found, parts, lambda some: ask(np.flatnonzero(is_there)[some]))
        missing, first_places = np.unique(keys[~is_there], return_index=True)
        logits = torch.empty(len(keys), self._codec.n_columns)
        logits[torch.from_numpy(is_there)] = self._codec.restored(found)
        if len(missing):
            places = np.flatnonzero(~is_there)[np.sort(first_places)]
            fresh = ask(places)
            refuse_wrong_numbers(fresh, self._who)
            rows = self._codec.packed(fresh)
            self.store.add(keys[places], rows)
            # Use the answers as they will be read again, so that a fit does not depend on what was stored
            # before.
            again, _, _ = self.store.find(keys[~is_there])
            logits[torch.from_numpy(~is_there)] = self._codec.restored(again)
        else:
            self.store.write_if_due()
        return logits

    def _recognise(self, found: np.ndarray, parts: np.ndarray, ask: Callable[[np.ndarray], Tensor]) -> None:
        """Compare rows of each part that is not yet recognised with the answers of the teacher now."""
        unknown = sorted(self._unknown.intersection(parts.tolist()))
        if not unknown:
            return
        probed = [np.flatnonzero(parts == part)[:_N_PROBED] for part in unknown]
        answers = ask(np.concatenate(probed)).split([len(some) for some in probed])
        for part, some, fresh in zip(unknown, probed, answers, strict=True):
            if not self._codec.agree(found[some], fresh):
                raise ValueError(
                    f"{self._who} does not answer like the teacher whose answers are in "
                    f"{self.store.path_of(part)}: it is another teacher, or it answers differently each "
                    "time. Give StoredAnswers another folder, or delete the file if that teacher was the "
                    "wrong one."
                )
            self._unknown.remove(part)


def _keys_of_tensors(x: Any) -> np.ndarray:
    if not isinstance(x, Parts):
        return row_keys(x.detach().cpu().numpy())
    parts = [row_keys(part.detach().cpu().numpy()) for part in x.values]
    return row_keys(np.stack([part.view("<u8").reshape(len(x), 2) for part in parts], axis=1))


def _numbers_of(X: Any) -> np.ndarray:
    """Return X as an array of numbers, which identify the rows."""
    rows = np.asarray(X) if not hasattr(X, "toarray") else None
    if rows is None or rows.dtype.kind not in "fiub" or rows.ndim < 2:
        raise TypeError(
            f"StoredAnswers finds a row by its numbers, but X is a {type(X).__name__} of other values. Give "
            "X as an array of numbers, or the teacher's answers to fit as teacher_logits."
        )
    return rows


def _digest_of(labels: list[Any]) -> str:
    return hashlib.sha256(repr([*labels]).encode()).hexdigest()[:24]


def _digest_of_teacher(teacher: Any) -> str:
    """Return a digest of a network's structure and weights, or the class of another teacher."""
    network = thawed(teacher)
    if isinstance(network, NeuralNet):
        network = network.module_
    if not isinstance(network, nn.Module):
        return f"{type(network).__module__}.{type(network).__qualname__}"
    network, digest = without_parallel(network), hashlib.sha256()
    digest.update(re.sub("0x[0-9a-f]+", "", repr(network)).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        hash_tensor(digest.update, tensor, name)
    return digest.hexdigest()[:24]
