"""Execution of a student's passes: eager, compiled, in bfloat16, as CUDA graphs, in micro-batches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator


class Execution(BaseEstimator):
    """Execution of the student's passes, for ``DistilledClassifier(execution=...)``.

    The name "eager" means the defaults. "compiled", "bfloat16" and "cuda_graph" set one parameter each:
    ``compile``, ``autocast`` or ``cuda_graph``.

    Parameters
    ----------
    compile : bool, default=False
        Compile the student's forward pass with ``torch.compile``.
    autocast : bool, default=False
        Run the student's ordinary passes in bfloat16. Iterations with a hypergradient, including their passes
        on D_val, and predictions stay in float32.
    cuda_graph : bool, default=False
        Launch each training iteration as one CUDA graph, for students so small that the GPU waits for
        operations to be launched. Adam and AdamW then need ``optimizer__capturable=True``. If a graph cannot
        be used, for example on a CPU or with dropout, the fit continues without it and the logger
        "sklearn_kd" reports the reason at level INFO.
    micro_batches : int, default=1
        Number of micro-batches per batch, for gradient accumulation ("accumulate_grad_batches"). The student
        processes them one after another. Their gradients add up, and the optimizer takes one step.
        ``batch_size`` is still that of the step, but the student's activations take the memory of one
        micro-batch. In iterations with a hypergradient all passes are divided, including those on D_val. A
        small batch, such as the last one of an epoch, is divided into fewer micro-batches of at least two
        rows. With ``parallel``, each process divides its own share of the batch.

    Notes
    -----
    Except for rounding, training in micro-batches gives the same result as training in whole batches if the
    loss is a mean over rows: micro-batches are weighted by their numbers of rows. The result differs with

    - batch normalisation, in the student or in transforms of pathways: it gets one micro-batch at a time, on
      D_val too;
    - dropout, which draws a mask for each micro-batch; hypergradients repeat the masks;
    - losses that relate rows to each other ("similarity", "rkd", "correlation", the correlation over rows of
      "dist"): they relate the rows of a micro-batch;
    - rows or pixels without a label: some losses are means over the labeled ones of a micro-batch, and then
      over micro-batches.

    The teacher computes feature maps by micro-batch. An iteration with a hypergradient keeps the maps of the
    whole batch. With ``augment``, a teacher computes outputs for the whole batch, without a graph.
    ``meta="forward"`` refuses micro-batches, and iterations with micro-batches are not captured in CUDA
    graphs.

    Examples
    --------
    >>> from sklearn_kd import Execution
    >>> Execution.named("bfloat16")
    Execution(autocast=True)

    Four micro-batches per batch give the same student, except for rounding:

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_iris(return_X_y=True)
    >>> whole = DistilledClassifier(
    ...     LogisticRegression(max_iter=1000), MLPStudent, meta="gradient", search_epochs=None, batch_size=64,
    ...     max_epochs=5, random_state=0)
    >>> divided = whole.__sklearn_clone__().set_params(execution=Execution(micro_batches=4))
    >>> P = [clf.fit(X, y).predict_proba(X) for clf in (whole, divided)]
    >>> bool(np.abs(P[0] - P[1]).max() < 1e-3)
    True
    """

    def __init__(
        self,
        compile: bool = False,
        autocast: bool = False,
        cuda_graph: bool = False,
        micro_batches: int = 1,
    ):
        self.compile = compile
        self.autocast = autocast
        self.cuda_graph = cuda_graph
        self.micro_batches = micro_batches

    @classmethod
    def named(cls, name: str) -> Execution:
        """Return the execution with this name, one of ``EXECUTIONS``."""
        return cls(**EXECUTIONS[name])

    def check(self) -> None:
        """Raise ValueError or TypeError if a parameter cannot be used."""
        for name in ("compile", "autocast", "cuda_graph"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name}={value!r} must be True or False.")
        n = self.micro_batches
        if isinstance(n, (bool, np.bool_)) or not isinstance(n, Integral):
            raise TypeError(f"micro_batches={n!r} must be a whole number, into which batches are divided.")
        if n < 1:
            raise ValueError(f"micro_batches={n!r} must be at least 1, for whole batches.")

    def precision(self, device: torch.device, *, full: bool = False) -> AbstractContextManager[Any]:
        """Return a context with autocast to bfloat16; an empty one without ``autocast`` or with ``full``."""
        if full or not self.autocast:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


# The parameters that each name sets.
EXECUTIONS: dict[str, dict[str, bool]] = {
    "eager": {},
    "compiled": {"compile": True},
    "bfloat16": {"autocast": True},
    "cuda_graph": {"cuda_graph": True},
}
