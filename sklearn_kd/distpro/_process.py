"""Distillation processes: weights of pathways over a search, which another training can follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.distpro._pathways import Pathway
from sklearn_kd.files._described_arrays import read_described, versions_for_the_record, write_described
from sklearn_kd.files._values import JSON_VALUES, ContentError, simplified
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.meta._process import MetaparameterProcess, resampled
from sklearn_kd.meta._process import process_content as metaparameters_content
from sklearn_kd.meta._process import process_of_content as metaparameters_of_content
from sklearn_kd.runtime._torch_modes import ordinary_torch

if TYPE_CHECKING:
    from typing_extensions import Self

ProcessT = TypeVar("ProcessT", bound="DistillationProcess")

# The values that ``DistProClassifier(weights=...)`` takes.
WEIGHTS = ("process", "equal", "final", "mean", "reversed")

# Formats of the file. 2 adds lambda1 and T, which a reader of format 1 would ignore. 3 adds the
# metaparameters of a regressor's loss.
_FORMATS = (1, 2, 3)
_OF_OUTPUTS = "output_term"


class DistillationProcess:
    """Raw importance factors of all pathways at all steps of a search.

    Save it, plot it, or train with it again. The other training may have another student, other data or
    another number of steps, to which the process is interpolated. Its pathways must connect the same stages
    by the same transforms [1]_.

    Parameters
    ----------
    raw : array-like of shape (n_steps, L)
        Raw factors. Row t is step t of the search.
    pathways : sequence of L Pathway
        The pathways, in the order of the columns of ``raw``.
    normalization : str, default="biased_softmax"
        Function from raw factors to weights: "biased_softmax", "softmax", "biased_l1", "l1" or
        "sigmoid".
    softmax_bias : float, default=1.0
        Bias of "biased_softmax".
    logit_term : array-like of shape (n_steps, 2) or None, default=None
        (lambda1, T) if they were learned with the factors. Row t is step t of the search.
    output_term : MetaparameterProcess of n_steps rows or None, default=None
        lambda1 and the other metaparameters of the loss of a :class:`DistProRegressor`, if they were learned
        with the factors. Row t is step t of the search. A process has at most one of ``logit_term`` and
        ``output_term``.
    settings : dict or None, default=None
        Settings of the search, for the record: plain numbers and strings.
    versions : dict or None, default=None
        Versions of the libraries. None: the installed ones.

    Attributes
    ----------
    raw : ndarray of shape (n_steps, L), float32
        The raw factors.
    pathways : list of Pathway
        The pathways.
    logit_term : ndarray of shape (n_steps, 2), float32, or None
        (lambda1, T) at each step.
    output_term : MetaparameterProcess or None
        The metaparameters of a regressor's loss at each step.
    normalization, softmax_bias, settings, versions
        The given parameters.

    See Also
    --------
    DistProClassifier : Search a process, or follow one.
    ProcessDisplay : Draw a process.

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
        softmax_bias: float = 1.0,
        logit_term: Any = None,
        output_term: MetaparameterProcess | None = None,
        settings: dict[str, Any] | None = None,
        versions: dict[str, str] | None = None,
    ):
        self.raw = np.asarray(from_torch(raw, "raw"), dtype=np.float32)
        self.pathways = [Pathway(*pathway) for pathway in pathways]
        self.normalization, self.softmax_bias = normalization, float(softmax_bias)
        if not math.isfinite(self.softmax_bias):
            raise ValueError(
                f"softmax_bias={softmax_bias!r} must be a finite number. It is the bias of biased_softmax; "
                "the default is 1.0."
            )
        self.settings = {name: simplified(value) for name, value in (settings or {}).items()}
        self.versions = versions_for_the_record() if versions is None else dict(versions)
        if self.raw.ndim != 2 or self.raw.size == 0 or self.raw.shape[1] != len(self.pathways):
            raise ValueError(
                f"raw has shape {self.raw.shape}; it must be (n_steps, {len(self.pathways)}), with one "
                "column for each pathway, and at least one step and one pathway."
            )
        if not np.isfinite(self.raw).all():
            raise ValueError("raw must be finite.")
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization={normalization!r} is not one of {list(NORMALIZATIONS)}.")
        self.logit_term = None if logit_term is None else _checked_logit_term(logit_term, len(self.raw))
        self.output_term = output_term
        if output_term is not None:
            _check_output_term(output_term, len(self.raw), alone=logit_term is None)

    def __repr__(self) -> str:
        size = f"{self.raw.shape[0]} steps, {self.raw.shape[1]} pathways"
        size += "" if self.logit_term is None else ", lambda1 and T"
        size += "" if self.output_term is None else f", {', '.join(self.output_term.space)}"
        return f"{type(self).__name__}({size}, normalization={self.normalization!r})"

    def __len__(self) -> int:
        return len(self.raw)

    # ----------------------------------------------------------------------------------
    # The weights

    @property
    def weights(self) -> np.ndarray:
        """Weights α at each step of the search, shape (n_steps, L)."""
        return self._normalized(self.raw)

    def at(self, t: int, n_steps: int) -> np.ndarray:
        """Return the weights α at step t of a training of ``n_steps`` steps.

        Interpolate the raw rows linearly at t (len(process) − 1)/(n_steps − 1), then normalise. The
        first step gets the first row, and the last step the last row.

        Parameters
        ----------
        t : int
            From 0 to ``n_steps`` − 1.
        n_steps : int
            Number of steps, at least 1. A single step gets the first row.

        Returns
        -------
        ndarray of shape (L,)
            The weights of the pathways.

        Raises
        ------
        ValueError
            If t is out of range.
        """
        if not 0 <= t < n_steps:
            raise ValueError(f"t={t!r} must be in 0 <= t < n_steps, with n_steps={n_steps!r}.")
        return self._normalized(self.raw_at(np.array([t]), n_steps))[0]

    def raw_at(self, t: np.ndarray, n_steps: int) -> np.ndarray:
        """Return the raw factors at several steps of a training of ``n_steps`` steps.

        Parameters
        ----------
        t : ndarray of int
            Steps, from 0 to ``n_steps`` − 1.
        n_steps : int
            Number of steps, at least 1.

        Returns
        -------
        ndarray of shape (len(t), L)
            The interpolated rows of ``raw``.
        """
        return resampled(self.raw, t, n_steps)

    def logit_term_at(self, t: np.ndarray, n_steps: int) -> np.ndarray | None:
        """Return (lambda1, T) at several steps of a training of ``n_steps`` steps.

        Interpolate lambda1 and log T between the rows, because the search learns these.

        Parameters
        ----------
        t : ndarray of int
            Steps, from 0 to ``n_steps`` − 1.
        n_steps : int
            Number of steps, at least 1.

        Returns
        -------
        ndarray of shape (len(t), 2) or None
            (lambda1, T) at each step. None if the process has no ``logit_term``.
        """
        if self.logit_term is None:
            return None
        return _from_log(resampled(_to_log(self.logit_term), t, n_steps))

    @ordinary_torch()
    def _normalized(self, raw: np.ndarray) -> np.ndarray:
        normalize = NORMALIZATIONS[self.normalization](self.softmax_bias)
        return normalize(torch.as_tensor(np.asarray(raw, dtype=np.float64))).numpy()

    # ----------------------------------------------------------------------------------
    # Another task

    def fitted_to(self, pathways: Sequence[Pathway]) -> DistillationProcess:
        """Return the process with its columns in the order of another task's pathways.

        Parameters
        ----------
        pathways : sequence of Pathway
            Pathways of the other task. They are matched by teacher stage, student stage and
            transform; layers and channels may differ.

        Returns
        -------
        DistillationProcess
            A process for the other task's pathways.

        Raises
        ------
        ValueError
            If the pathways differ. The message lists both.
        """
        own, wanted = [p.key for p in self.pathways], [p.key for p in pathways]
        if sorted(own) != sorted(wanted):
            raise ValueError(
                "process has other pathways. (Teacher stage, student stage, transform) of the process: "
                f"{own}; of this estimator: {wanted}. Set teacher_layers, student_layers, connections and "
                "transforms to those of its search, or search a new process with process=None."
            )
        return DistillationProcess(
            self.raw[:, [own.index(key) for key in wanted]],
            pathways,
            normalization=self.normalization,
            softmax_bias=self.softmax_bias,
            logit_term=self.logit_term,
            output_term=self.output_term,
            settings=self.settings,
            versions=self.versions,
        )

    # ----------------------------------------------------------------------------------
    # Files

    def save(self, path: str | PathLike[str]) -> None:
        """Write the process to a file that holds no code.

        Parameters
        ----------
        path : str or path-like
            Path of the file, usually with the suffix ``.npz``. An existing file is replaced
            completely or not at all.

        Raises
        ------
        OSError
            If the file cannot be written, for example because the disk is full. An existing file is then
            kept.
        """
        about, arrays = process_content(self)
        write_described(path, _format_of(self), about, arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file written by :meth:`save`, without running any code in it.

        Parameters
        ----------
        path : str or path-like
            Path of the file.

        Returns
        -------
        DistillationProcess
            The saved process.

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If the file does not hold a process, or asks for more memory than its length allows.
        """
        return read_described(
            path,
            _FORMATS,
            lambda about, arrays: process_of_content(about, arrays, cls),
            what="distillation process",
            writer="DistillationProcess.save",
        )


def process_content(process: DistillationProcess) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of a process's file: the values, in the forms of ``JSON_VALUES``, and the arrays.

    Raises
    ------
    Unserializable
        If a setting cannot be written as JSON.
    """
    about = {
        "pathways": [pathway._asdict() for pathway in process.pathways],
        "normalization": process.normalization,
        "softmax_bias": process.softmax_bias,
        "settings": {name: JSON_VALUES.encode(value) for name, value in process.settings.items()},
        "versions": process.versions,
    }
    arrays = {"raw": process.raw}
    if process.logit_term is not None:
        arrays["logit_term"] = process.logit_term
    if process.output_term is not None:
        about[_OF_OUTPUTS], values = metaparameters_content(process.output_term)
        arrays |= {f"{_OF_OUTPUTS}.{name}": rows for name, rows in values.items()}
    return about, arrays


def _format_of(process: DistillationProcess) -> int:
    if process.output_term is not None:
        return 3
    return 1 if process.logit_term is None else 2


def process_of_content(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], cls: type[ProcessT]
) -> ProcessT:
    """Make a process of class ``cls`` from the result of :func:`process_content`.

    Raises
    ------
    ContentError
        If an entry of the pathways is not a pathway.
    Exception
        Of any type, if the content is wrong in another way.
    """
    about = dict(about)
    pathways = [pathway_of_content(fields) for fields in about.pop("pathways")]
    settings = {name: JSON_VALUES.decode(form) for name, form in about.pop("settings", {}).items()}
    of_outputs, head = about.pop(_OF_OUTPUTS, None), f"{_OF_OUTPUTS}."
    if of_outputs is not None:
        values = {name.removeprefix(head): rows for name, rows in arrays.items() if name.startswith(head)}
        about[_OF_OUTPUTS] = metaparameters_of_content(of_outputs, values)
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


def _check_output_term(term: Any, n_steps: int, *, alone: bool) -> None:
    if not isinstance(term, MetaparameterProcess):
        raise TypeError(f"output_term={str(term)[:100]} must be a MetaparameterProcess.")
    if len(term) != n_steps:
        raise ValueError(
            f"output_term has {len(term)} steps, and raw {n_steps}. Give both the same number of rows."
        )
    if not alone:
        raise ValueError(
            "logit_term and output_term are both given. Give logit_term for a classifier, or output_term "
            "for a regressor."
        )


def _to_log(logit_term: np.ndarray) -> np.ndarray:
    return np.stack([logit_term[:, 0], np.log(logit_term[:, 1])], axis=1)


def _from_log(logit_term: np.ndarray) -> np.ndarray:
    return np.stack([logit_term[:, 0], np.exp(logit_term[:, 1])], axis=1)


def retraining_weights(
    process: DistillationProcess | None, n_steps: int, weights: str, threshold: float | None, n_pathways: int
) -> np.ndarray:
    """Return the weights α of all pathways at all steps of a retraining; 0 for pathways left out.

    Parameters
    ----------
    process : DistillationProcess or None
        The process to follow. None with ``weights="equal"``.
    n_steps : int
        Number of steps of the retraining.
    weights : {"process", "equal", "final", "mean", "reversed"}
        "process": the process. "equal": 1/L each. "final": the last weights at all steps. "mean": the
        mean of each pathway over time, with 0 for the steps that leave it out, so that the overall
        strength is unchanged. "reversed": the process backwards.
    threshold : float or None
        A pathway is left out at the steps at which its raw factor is at most this. The other weights
        are not renormalised. None: no pathway is left out.
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
    if threshold is not None:
        alpha = np.where(raw > threshold, alpha, 0.0)
    if weights == "mean":
        alpha = np.repeat(alpha.mean(axis=0, keepdims=True), n_steps, axis=0)
    if weights == "reversed":
        alpha = alpha[::-1].copy()
    return alpha.astype(np.float32)


def retraining_logit_term(process: DistillationProcess, n_steps: int, weights: str) -> np.ndarray:
    """Return (lambda1, T) at all steps of a retraining, as :func:`retraining_weights` does for weights.

    Parameters
    ----------
    process : DistillationProcess
        A process with a ``logit_term``.
    n_steps : int
        Number of steps of the retraining.
    weights : {"process", "final", "mean", "reversed"}
        As in :func:`retraining_weights`; "mean" is the mean of lambda1 and of log T over time.

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
