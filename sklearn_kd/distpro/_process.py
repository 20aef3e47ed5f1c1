"""A distillation process: how the weights of pathways changed over a search, to be followed again."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from sklearn_kd._version import running_versions
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.distpro._pathways import Pathway
from sklearn_kd.files._arrays import dump_arrays, load_arrays
from sklearn_kd.files._atomic import write_file
from sklearn_kd.files._limits import parsed_json
from sklearn_kd.files._values import JSON_VALUES, ContentError, simplified
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.runtime._torch_modes import ordinary_torch

if TYPE_CHECKING:
    from typing_extensions import Self

ProcessT = TypeVar("ProcessT", bound="DistillationProcess")

# What ``DistProClassifier(weights=...)`` takes.
WEIGHTS = ("process", "equal", "final", "mean", "reversed")

# Of the file: 2 where it has lambda1 and T, which a reader of 1 would not follow.
_FORMATS = (1, 2)


class DistillationProcess:
    """The raw importance factors of each pathway at each step of a search.

    It can be saved, plotted, and followed by another training: for another number of steps by
    interpolation, with another student, or on other data, as long as its pathways connect the
    same stages by the same transforms [1]_.

    Parameters
    ----------
    raw : array-like of shape (n_steps, L)
        Row t has the raw factors that step t of the search trained with.
    pathways : sequence of L Pathway
    normalization : str, default="biased_softmax"
        From raw factors to weights: one of "biased_softmax", "softmax", "biased_l1", "l1" and
        "sigmoid".
    g : float, default=1.0
        The bias of "biased_softmax".
    logit_term : array-like of shape (n_steps, 2) or None, default=None
        Row t has the (lambda1, T) that step t of the search trained with, where they were learned
        with the factors.
    settings : dict or None, default=None
        Of the search, for the record; plain numbers and strings.
    versions : dict or None, default=None
        Of the libraries; None: those that are running.

    Attributes
    ----------
    raw : ndarray of shape (n_steps, L), float32
    pathways : list of Pathway
    logit_term : ndarray of shape (n_steps, 2), float32, or None
    normalization, g, settings, versions
        As given.

    See Also
    --------
    DistProClassifier : Searches a process, or follows one.
    ProcessDisplay : Draws one.

    References
    ----------
    .. [1] Deng, Sun, Newsam, Wang. "DistPro: Searching a fast knowledge distillation process via
       meta optimization", ECCV 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_kd import DistillationProcess, Pathway
    >>> pathways = [Pathway("layer1", "layer1", name, 0, 0, 16, 16) for name in ("conv1", "conv2")]
    >>> process = DistillationProcess([[1.0, 1.0], [3.0, 1.0]], pathways, normalization="softmax")
    >>> process
    DistillationProcess(2 steps, 2 pathways, normalization='softmax')
    >>> process.at(0, n_steps=5).round(3)
    array([0.5, 0.5])
    >>> process.at(2, n_steps=5).round(3)  # halfway: raw factors 2 and 1
    array([0.731, 0.269])
    """

    def __init__(
        self,
        raw: Any,
        pathways: Sequence[Pathway],
        *,
        normalization: str = "biased_softmax",
        g: float = 1.0,
        logit_term: Any = None,
        settings: dict[str, Any] | None = None,
        versions: dict[str, str] | None = None,
    ):
        self.raw = np.asarray(from_torch(raw, "raw"), dtype=np.float32)
        self.pathways = [Pathway(*pathway) for pathway in pathways]
        self.normalization, self.g = normalization, float(g)
        if not math.isfinite(self.g):
            raise ValueError(f"g={g!r} must be a finite number: the bias of biased_softmax, 1.0 by default.")
        self.settings = {name: simplified(value) for name, value in (settings or {}).items()}
        self.versions = _running_versions() if versions is None else dict(versions)
        if self.raw.ndim != 2 or self.raw.size == 0 or self.raw.shape[1] != len(self.pathways):
            raise ValueError(
                f"raw has shape {self.raw.shape}; it must be (n_steps, {len(self.pathways)}), at least one "
                "step and one pathway, and one column for each pathway."
            )
        if not np.isfinite(self.raw).all():
            raise ValueError("raw must be finite.")
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization={normalization!r} is not one of {list(NORMALIZATIONS)}.")
        self.logit_term = None if logit_term is None else _checked_logit_term(logit_term, len(self.raw))

    def __repr__(self):
        size = f"{self.raw.shape[0]} steps, {self.raw.shape[1]} pathways"
        size += "" if self.logit_term is None else ", lambda1 and T"
        return f"{type(self).__name__}({size}, normalization={self.normalization!r})"

    def __len__(self) -> int:
        return len(self.raw)

    # ----------------------------------------------------------------------------------
    # The weights

    @property
    def weights(self) -> np.ndarray:
        """α at each step of the search, shape (n_steps, L)."""
        return self._normalized(self.raw)

    def at(self, t: int, n_steps: int) -> np.ndarray:
        """α at step t of a training of ``n_steps`` steps.

        The raw rows are interpolated linearly at t (len(process) − 1)/(n_steps − 1), then
        normalised: the first step has the first row, the last step the last one.

        Parameters
        ----------
        t : int
            From 0 to ``n_steps`` − 1.
        n_steps : int
            At least 1. One step has the first row.

        Returns
        -------
        ndarray of shape (L,)

        Raises
        ------
        ValueError
            If t is out of range.
        """
        if not 0 <= t < n_steps:
            raise ValueError(f"t={t!r} is no step of a training of n_steps={n_steps!r}: 0 <= t < n_steps.")
        return self._normalized(self.raw_at(np.array([t]), n_steps))[0]

    def raw_at(self, t: np.ndarray, n_steps: int) -> np.ndarray:
        """Raw factors at several steps of a training of ``n_steps`` steps, shape (len(t), L).

        Parameters
        ----------
        t : ndarray of int
        n_steps : int

        Returns
        -------
        ndarray of shape (len(t), L)
        """
        return self._interpolated(self.raw, t, n_steps)

    def logit_term_at(self, t: np.ndarray, n_steps: int) -> np.ndarray | None:
        """(lambda1, T) at several steps of a training of ``n_steps`` steps, shape (len(t), 2).

        Between the rows lambda1 and log T are interpolated, the coordinates they are learned in.

        Parameters
        ----------
        t : ndarray of int
        n_steps : int

        Returns
        -------
        ndarray of shape (len(t), 2), or None where the process has none
        """
        if self.logit_term is None:
            return None
        return _from_log(self._interpolated(_to_log(self.logit_term), t, n_steps))

    def _interpolated(self, rows, t, n_steps):
        place = np.asarray(t) * ((len(self) - 1) / max(1, n_steps - 1))
        return np.stack([np.interp(place, np.arange(len(self)), column) for column in rows.T], axis=1)

    @ordinary_torch()
    def _normalized(self, raw):
        normalize = NORMALIZATIONS[self.normalization](self.g)
        return normalize(torch.as_tensor(np.asarray(raw, dtype=np.float64))).numpy()

    # ----------------------------------------------------------------------------------
    # Another task

    def fitted_to(self, pathways: Sequence[Pathway]) -> DistillationProcess:
        """The process with its columns in the order of another task's pathways.

        Parameters
        ----------
        pathways : sequence of Pathway
            They match by teacher stage, student stage and transform; layers and channels may
            differ.

        Returns
        -------
        DistillationProcess

        Raises
        ------
        ValueError
            If they are not the same pathways; the message lists both.
        """
        own, wanted = [p.key for p in self.pathways], [p.key for p in pathways]
        if sorted(own) != sorted(wanted):
            raise ValueError(
                "process is of other pathways. (Teacher stage, student stage, transform) of the process: "
                f"{own}; of this estimator: {wanted}. Set teacher_layers, student_layers, connections and "
                "transforms to those that it was searched with, or search a new one with process=None."
            )
        return DistillationProcess(
            self.raw[:, [own.index(key) for key in wanted]],
            pathways,
            normalization=self.normalization,
            g=self.g,
            logit_term=self.logit_term,
            settings=self.settings,
            versions=self.versions,
        )

    # ----------------------------------------------------------------------------------
    # Files

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file, which holds no code.

        Parameters
        ----------
        path : str or path-like
            Usually ends in ``.npz``; a file that is there is replaced, at once or not at all.

        Raises
        ------
        OSError
            If the file cannot be written, as on a full disk. What was there is there still.
        """
        about, arrays = process_content(self)
        about = {"format": 1 if self.logit_term is None else 2} | about
        write_file(path, [dump_arrays(arrays | {"about": np.array(json.dumps(about))})])

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file that :meth:`save` has written; no code in it is run.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        DistillationProcess

        Raises
        ------
        OSError
            If there is no such file, or it cannot be read.
        ValueError
            If it holds something else, or asks for more memory than a file of its length may.
        """
        try:
            arrays = load_arrays(Path(path).read_bytes())
            about = parsed_json(str(arrays.pop("about")))
            if about.pop("format") not in _FORMATS:
                raise ValueError("it is of a later version of this library")
            return process_of_content(about, arrays, cls)
        except OSError:
            raise
        except Exception as error:  # what an arbitrary file makes of the reader is not foreseeable
            raise ValueError(
                f"{path} holds no distillation process ({type(error).__name__}: {error}). Give a file that "
                "DistillationProcess.save has written."
            ) from error


def process_content(process: DistillationProcess) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the values, in the forms of ``JSON_VALUES``, and the arrays that a file of a process holds.

    Raises
    ------
    Unserializable
        If JSON has no form for a setting.
    """
    about = {
        "pathways": [pathway._asdict() for pathway in process.pathways],
        "normalization": process.normalization,
        "g": process.g,
        "settings": {name: JSON_VALUES.encode(value) for name, value in process.settings.items()},
        "versions": process.versions,
    }
    arrays = {"raw": process.raw}
    if process.logit_term is not None:
        arrays["logit_term"] = process.logit_term
    return about, arrays


def process_of_content(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], cls: type[ProcessT]
) -> ProcessT:
    """Make a process, of class ``cls``, from the result of :func:`process_content`.

    Raises
    ------
    ContentError
        If a pathway is none.
    Exception
        Of any type, if the content is wrong otherwise.
    """
    about = dict(about)
    pathways = [pathway_of_content(fields) for fields in about.pop("pathways")]
    settings = {name: JSON_VALUES.decode(form) for name, form in about.pop("settings", {}).items()}
    return cls(arrays["raw"], pathways, logit_term=arrays.get("logit_term"), settings=settings, **about)


def pathway_of_content(fields: Any) -> Pathway:
    """Make a pathway from its fields in a file.

    Raises
    ------
    ContentError
        If the fields have wrong types.
    """
    pathway = Pathway(**fields)
    types = [str] * 3 + [int] * 4
    if [type(value) for value in pathway] != types or min(pathway[3:]) < 0:
        raise ContentError(f"a pathway {str(fields)[:200]}")
    return pathway


def _checked_logit_term(logit_term: Any, n_steps: int) -> np.ndarray:
    rows = np.asarray(from_torch(logit_term, "logit_term"), dtype=np.float32)
    if rows.shape != (n_steps, 2):
        raise ValueError(
            f"logit_term has shape {rows.shape}; it must be ({n_steps}, 2), (lambda1, T) for each row of raw."
        )
    lambda1, temperature = rows.T
    if not (np.isfinite(rows).all() and ((lambda1 >= 0) & (lambda1 <= 1) & (temperature > 0)).all()):
        raise ValueError("logit_term must be finite, with 0 <= lambda1 <= 1 and T > 0.")
    return rows


def _to_log(logit_term):
    return np.stack([logit_term[:, 0], np.log(logit_term[:, 1])], axis=1)


def _from_log(logit_term):
    return np.stack([logit_term[:, 0], np.exp(logit_term[:, 1])], axis=1)


def _running_versions() -> dict[str, str]:
    return running_versions() | {"numpy": np.__version__, "python": platform.python_version()}


def retraining_weights(
    process: DistillationProcess | None, n_steps: int, weights: str, tau: float | None, n_pathways: int
) -> np.ndarray:
    """α of each pathway at each step of a retraining; 0 where it is not computed.

    Parameters
    ----------
    process : DistillationProcess or None
        None with "equal".
    n_steps : int
        Of the retraining.
    weights : {"process", "equal", "final", "mean", "reversed"}
        The process; 1/L each; its last weights throughout; each pathway's mean over time, the
        steps at which it is not computed counting as 0, so that the strength is the same; the
        process backwards.
    tau : float or None
        A pathway is not computed where its raw factor is at most this; the others are not
        renormalised. None: all are computed.
    n_pathways : int

    Returns
    -------
    ndarray of shape (n_steps, L), float32
    """
    if weights == "equal":
        return np.full((n_steps, n_pathways), 1 / n_pathways, dtype=np.float32)
    assert process is not None
    raw = process.raw_at(np.arange(n_steps), n_steps)
    if weights == "final":
        raw = np.repeat(process.raw[-1:], n_steps, axis=0)
    alpha = process._normalized(raw)
    if tau is not None:
        alpha = np.where(raw > tau, alpha, 0.0)
    if weights == "mean":
        alpha = np.repeat(alpha.mean(axis=0, keepdims=True), n_steps, axis=0)
    if weights == "reversed":
        alpha = alpha[::-1].copy()
    return alpha.astype(np.float32)


def retraining_logit_term(process: DistillationProcess, n_steps: int, weights: str) -> np.ndarray:
    """(lambda1, T) at each step of a retraining, replaced as the weights of pathways are.

    Parameters
    ----------
    process : DistillationProcess
        With a ``logit_term``.
    n_steps : int
        Of the retraining.
    weights : {"process", "final", "mean", "reversed"}
        "mean": of lambda1 and of log T over time.

    Returns
    -------
    ndarray of shape (n_steps, 2)
    """
    found = process.logit_term_at(np.arange(n_steps), n_steps)
    assert found is not None and process.logit_term is not None
    if weights == "final":
        found = np.repeat(process.logit_term[-1:], n_steps, axis=0)
    if weights == "mean":
        found = np.repeat(_from_log(_to_log(found).mean(axis=0, keepdims=True)), n_steps, axis=0)
    return found[::-1].copy() if weights == "reversed" else found
