"""Run a fit as ``parallel`` says: in this process, in processes launched together, or in new ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from sklearn_kd._sklearn_compat import OF_SCIKIT_LEARN, without_callbacks, without_parent
from sklearn_kd.checkpointing._fingerprint import fingerprint, sample_rows
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.runtime._process_group import count_launched, ranked_fit
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.runtime._spawn import inside_joblib, run_in_processes
from sklearn_kd.teachers._logit_checks import thawed
from sklearn_kd.teachers._registry import carry_registration, registrations_of
from sklearn_kd.training._interrupts import is_part_of_something_larger
from sklearn_kd.training._pickling import net_of_sent, state_to_send

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.inputs._validation import ValidatedInputs

Fit = TypeVar("Fit", bound=Callable[..., Any])

DDP = "ddp"
# Parameters that may differ between ranks.
_OF_RANKS = {"verbose", "checkpoint_dir", "teacher_logits_dir"}

# Wrappers of torch whose processes must run a network together, and the remedy.
_SHARDED = "FSDPModule"  # made by fully_shard; all processes of a fit ask it equally often
_DIVIDED = {
    "DistributedDataParallel": "Give the network itself: teacher.module.",
    "FullyShardedDataParallel": "Shard it by torch.distributed.fsdp.fully_shard, and set parallel='ddp'.",
    _SHARDED: "Set parallel='ddp'; its processes do.",
}


def check_parallel(parallel: Any) -> None:
    """Raise TypeError or ValueError unless ``parallel`` is None, "ddp" or a number of processes."""
    if parallel is None or (isinstance(parallel, str) and parallel == DDP):
        return
    ways = (
        "Give None for this process alone, 'ddp' to join the processes of torchrun or accelerate launch, or "
        "the number of processes to start on this machine."
    )
    if isinstance(parallel, str):
        raise ValueError(f"parallel={parallel!r} is not known. {ways}")
    if isinstance(parallel, (bool, np.bool_)) or not isinstance(parallel, Integral):
        raise TypeError(f"parallel={parallel!r} is not a number of processes. {ways}")
    if parallel < 1:
        raise ValueError(f"parallel={parallel} must be 1 or more. {ways}")


def in_ranks(fit: Fit) -> Fit:
    """Decorate ``fit`` to run where ``parallel`` says: here, with the launched processes, or in new ones."""

    @wraps(fit)
    def in_its_processes(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_parallel(self.parallel)
        if self.parallel == DDP:
            return _fit_with_others(fit, self, args, kwargs)
        if _n_processes(self) > 1:
            return _fit_in_new(self, args, kwargs)
        if self.parallel is None:
            _warn_if_launched()
        return fit(self, *args, **kwargs)

    return in_its_processes  # type: ignore[return-value]


def ranks_of(estimator: BaseDistiller) -> Ranks:
    """Return the ranks of the running fit; :data:`ALONE` for a fit in one process."""
    return vars(estimator).get("_ranks", ALONE)


def check_networks(estimator: BaseDistiller, ranks: Ranks) -> None:
    """Refuse networks that torch's own wrappers divide among processes or GPUs.

    Raises
    ------
    TypeError
        If the student is wrapped for several GPUs of one process but several processes train it.
    ValueError
        If all processes are needed to ask the teacher but would not ask it together.
    """
    if ranks.size > 1 and isinstance(estimator.student, nn.DataParallel):
        raise TypeError(
            f"student is wrapped in DataParallel with parallel={estimator.parallel!r}. Give the network "
            "itself: student.module."
        )
    teacher = thawed(estimator.teacher)
    if not isinstance(teacher, nn.Module) or count_launched() == 1:
        return
    found = [kind.__name__ for part in teacher.modules() for kind in type(part).__mro__]
    wrapper = next((kind for kind in _DIVIDED if kind in found), None)
    if wrapper is not None and not (wrapper == _SHARDED and ranks.size > 1):
        raise ValueError(
            f"teacher is wrapped in {wrapper}, whose processes must ask it together. {_DIVIDED[wrapper]}"
        )


def check_same_inputs(estimator: BaseDistiller, inputs: ValidatedInputs, ranks: Ranks) -> None:
    """Raise RuntimeError on all ranks unless all have the same rows, plain parameters and loss."""
    if ranks.size == 1:
        return
    plain = (bool, int, float, str, type(None))
    params = {
        name: v for name, v in estimator.get_params().items() if "__" not in name or name.startswith("meta__")
    }
    compared = {name: v for name, v in params.items() if isinstance(v, plain)}
    if "loss" in params:
        compared["loss"] = fingerprint(loss=params["loss"])
    valid, unlabeled, logits = inputs.valid, inputs.unlabeled, inputs.teacher_logits
    ranks.check_same(
        {f"parameter {name}": v for name, v in compared.items() if name not in _OF_RANKS}
        | {
            "the number of rows": (inputs.n_rows, inputs.valid is None, inputs.unlabeled is None),
            "y": fingerprint(codes=inputs.codes, classes=inputs.task.output_labels),
            "X": fingerprint(rows=_some_of(inputs.rows)),
            "y_val": None if valid is None else fingerprint(codes=valid.codes),
            "X_val": None if valid is None else fingerprint(rows=_some_of(valid.rows)),
            "X_unlabeled": None if unlabeled is None else fingerprint(rows=_some_of(unlabeled.rows)),
            "sample_weight": fingerprint(weight=inputs.weight),
            "teacher_logits": None if logits is None else fingerprint(rows=_some_of(logits)),
        }
    )


def _some_of(rows: Any) -> Any:
    """Return a few rows, which ranks compare to find out whether they have the same data."""
    if isinstance(rows, DatasetRows):
        return sample_rows(rows)
    index = np.unique(np.linspace(0, len(rows) - 1, 16).astype(int))
    some = rows[index]
    return some.described() if hasattr(some, "described") else some


# --------------------------------------------------------------------------------------
# One process


def _warn_if_launched() -> None:
    n_processes = count_launched()
    if n_processes > 1:
        warnings.warn(
            f"{n_processes} processes were launched, and each that calls fit trains the whole student on all "
            "rows it is given: the work is not divided, and the students may differ. Set parallel='ddp' to "
            "train one student in all of them, or parallel=1 if you intend this.",
            UserWarning,
            stacklevel=2,
        )


# --------------------------------------------------------------------------------------
# With the processes that were launched


def _fit_with_others(fit: Any, estimator: BaseDistiller, args: Any, kwargs: Any) -> Any:
    device = estimator._device()
    if device.type not in ("cpu", "cuda") or (device.index is not None and count_launched() > 1):
        raise ValueError(
            f"parallel='ddp' with device={estimator.device!r}: each process needs a device of its own. Set "
            "device='cuda' for the GPU of its LOCAL_RANK, or 'cpu'."
        )
    with ranked_fit(device) as ranks, nullcontext() if ranks.is_first else _silent(estimator):
        estimator.__dict__["_ranks"] = ranks
        try:
            return fit(estimator, *args, **kwargs)
        finally:
            estimator.__dict__.pop("_ranks", None)


@contextmanager
def _silent(estimator: BaseDistiller) -> Iterator[None]:
    """Silence an estimator's output and scikit-learn's callbacks, which are left to the first rank."""
    hidden = {
        name: vars(estimator)[name] for name in ("verbose", "_skl_callbacks") if name in vars(estimator)
    }
    without_callbacks(estimator)
    estimator.__dict__["verbose"] = 0
    try:
        yield
    finally:
        estimator.__dict__.update(hidden)


# --------------------------------------------------------------------------------------
# In new processes


def _n_processes(estimator: BaseDistiller) -> int:
    """Return how many processes ``parallel`` starts; 1 for none.

    Raises
    ------
    ValueError
        If this process is itself one of several, or there are too few GPUs.
    """
    n = 1 if estimator.parallel is None else int(estimator.parallel)
    if n == 1:
        return 1
    launched = count_launched()
    if launched > 1:
        raise ValueError(
            f"parallel={n} would start {n} processes in each of the {launched} that were launched. Set "
            "parallel='ddp', which trains in those."
        )
    if inside_joblib():
        warnings.warn(
            f"parallel={n} inside a job of joblib: this fit runs in one process. Give n_jobs=None to what "
            "calls it, or parallel=None to the estimator.",
            UserWarning,
            stacklevel=4,
        )
        return 1
    device, n_gpus = estimator._device(), torch.cuda.device_count()
    if device.type == "cuda" and (n > n_gpus or device.index is not None):
        raise ValueError(
            f"parallel={n} with device={estimator.device!r}: each process needs a GPU of its own, and torch "
            f"sees {n_gpus}. Set device='cuda' and parallel to at most {n_gpus}, or device='cpu'."
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"parallel={n} with device={estimator.device!r}: processes share CUDA devices or the CPU. Set "
            "device='cpu', or parallel=None."
        )
    return n


def _fit_in_new(estimator: BaseDistiller, args: Any, kwargs: Any) -> Any:
    """Fit in new processes, and take over the fitted attributes."""
    estimator._validate_params()
    n, device = _n_processes(estimator), estimator._device()
    sent = _unfitted(estimator)
    numpy_state = np.random.get_state() if estimator.random_state is None else None  # noqa: NPY002
    registrations = registrations_of(estimator.teacher)
    task = partial(_fit_in_this, sent, estimator.teacher, registrations, numpy_state, args, kwargs)
    fitted, kind, net, numpy_state = run_in_processes(task, n, device)
    fitted.net_ = net_of_sent(kind, net)
    if estimator.random_state is None:
        np.random.set_state(numpy_state)  # noqa: NPY002 — as if it had been drawn from here
    if isinstance(estimator.random_state, np.random.RandomState):
        estimator.random_state.set_state(fitted.random_state.get_state())
    _take_over(estimator, fitted)
    if estimator.net_.interrupted_ and is_part_of_something_larger():
        raise KeyboardInterrupt("in the processes of parallel")
    return estimator


def _unfitted(estimator: BaseDistiller) -> BaseDistiller:
    """Return a copy for other processes, without the teacher, which is sent separately.

    It has fitted attributes only if this fit continues from them.
    """
    copied = copy.copy(estimator)
    copied.teacher = None
    without_parent(copied)
    if not estimator._continues():
        for name in _fitted_names(estimator):
            del copied.__dict__[name]
    copied.__dict__["parallel"] = DDP
    return copied


def _fitted_names(estimator: BaseDistiller) -> list[str]:
    """Return the names of the attributes that are not parameters."""
    known = {*estimator.get_params(deep=False), *OF_SCIKIT_LEARN, "_ranks"}
    return [name for name in vars(estimator) if name not in known]


def _fit_in_this(
    estimator: BaseDistiller, teacher: Any, registrations: Any, numpy_state: Any, args: Any, kwargs: Any
) -> Any:
    """Fit in one of the new processes; return the estimator, its net separately, and NumPy's random state."""
    for registration in registrations:
        carry_registration(*registration)
    estimator.teacher = teacher
    if numpy_state is not None:
        np.random.set_state(numpy_state)  # noqa: NPY002
    estimator.fit(*args, **kwargs)
    net = estimator.__dict__.pop("net_")
    estimator.teacher = None
    return estimator, type(net), state_to_send(net), np.random.get_state()  # noqa: NPY002


def _take_over(estimator: BaseDistiller, fitted: BaseDistiller) -> None:
    """Take over the fitted attributes of an estimator from another process."""
    for name in _fitted_names(estimator):
        del estimator.__dict__[name]
    for name in _fitted_names(fitted):
        estimator.__dict__[name] = vars(fitted)[name]
