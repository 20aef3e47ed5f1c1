"""The execution of a student's passes: eager, compiled, in bfloat16 or as CUDA graphs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator


class Execution(BaseEstimator):
    """Execution of the student's passes, for ``DistilledClassifier(execution=...)``.

    The names "eager", "compiled", "bfloat16" and "cuda_graph" stand for the defaults and for one of the
    parameters alone.

    Parameters
    ----------
    compile : bool, default=False
        ``torch.compile`` the student's forward pass.
    autocast : bool, default=False
        The student's ordinary passes in bfloat16. Iterations with a hypergradient, D_val's part in them,
        and predictions stay in float32.
    cuda_graph : bool, default=False
        Launch each training iteration as one CUDA graph, for students so small that the GPU waits for its
        operations to be launched. Adam and AdamW need ``optimizer__capturable=True`` for it. Where it
        cannot be done, such as on a CPU or with dropout, the fit goes on as usual and the logger
        "sklearn_kd" says why, at level INFO.

    Examples
    --------
    >>> from sklearn_kd import Execution
    >>> Execution.named("bfloat16")
    Execution(autocast=True)
    """

    def __init__(self, compile: bool = False, autocast: bool = False, cuda_graph: bool = False):
        self.compile = compile
        self.autocast = autocast
        self.cuda_graph = cuda_graph

    @classmethod
    def named(cls, name: str) -> Execution:
        """Return the execution of one of the names in ``EXECUTIONS``."""
        return cls(**EXECUTIONS[name])

    def check(self) -> None:
        """Raise ValueError if a parameter is neither True nor False."""
        for name, value in self.get_params(deep=False).items():
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name}={value!r} must be True or False.")

    def precision(self, device: torch.device, *, full: bool = False) -> AbstractContextManager[Any]:
        """Return a context of bfloat16, or of nothing where it was not asked for or ``full`` is."""
        if full or not self.autocast:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


# The parameters that the names stand for.
EXECUTIONS: dict[str, dict[str, bool]] = {
    "eager": {},
    "compiled": {"compile": True},
    "bfloat16": {"autocast": True},
    "cuda_graph": {"cuda_graph": True},
}
