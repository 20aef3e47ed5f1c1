"""Capture whole training iterations in a CUDA graph and replay them.

A small student keeps a GPU waiting for the next operation to be launched. A graph launches all
operations of an iteration at once: forward, backward, the optimizer's step, the hypergradient
and the step of the metaparameters. It reads and writes the memory that was in use when it was
captured, so batches are copied in and results are copied out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.runtime._random_state import random_state

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

log = logging.getLogger("sklearn_kd")

Iteration = Callable[..., dict[str, Tensor]]

# Number of iterations that first run as usual: they create the optimizer's state and let libraries
# choose their algorithms, which cannot be captured.
WARM_UP = 3


def why_not_captured(
    device: torch.device,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    watched: bool,
    compiled: bool,
    divided: bool = False,
) -> str | None:
    """Return why the iterations of a fit cannot be captured, or None.

    Parameters
    ----------
    device : torch.device
    optimizers : sequence of Optimizer
        The student's first, then those of the metaparameters.
    watched : bool
        Whether a callback looks at the gradients within an iteration.
    compiled : bool
        Whether the student's forward pass is compiled.
    divided : bool, default=False
        Whether batches are divided into micro-batches.
    """
    if watched:
        return "a callback reads the gradients"
    if divided:
        return "a graph keeps the memory of a whole iteration, but micro_batches should need less"
    if device.type != "cuda":
        return f"a CUDA graph needs a CUDA device, not {device.type}"
    for k, optimizer in enumerate(optimizers):
        name = type(optimizer).__name__
        if not all(group.get("capturable", True) for group in optimizer.param_groups):
            remedy = "meta__optimizer_params={'capturable': True}" if k else "optimizer__capturable=True"
            return f"{name} needs {remedy}"
        if not isinstance(optimizer, torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW):
            return f"it is not known whether a step of {name} can be captured"
    return "a compiled pass has its own graphs" if compiled else None


class CudaGraph:
    """Wrap torch's graph in the two methods that are needed."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], Any]) -> Any:
        """Record what ``function`` does without running it; replays fill its tensors."""
        with torch.cuda.graph(self._graph):
            return function()

    def replay(self) -> None:
        """Run what was captured."""
        self._graph.replay()

    @staticmethod
    def warm_up(function: Callable[[], Any]) -> Any:
        """Run ``function`` on a side stream, as torch requires before a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function()
        torch.cuda.current_stream().wait_stream(stream)
        return result


def captured_iterations(net: TrainingNet) -> CapturedIterations | None:
    """Return a net's iterations as CUDA graphs, or None and log the reason."""
    device, optimizers = torch.device(net.device), [net.optimizer_, *net.metaparameters.optimizers]
    watched = bool(net._listeners("on_grad_computed"))
    compiled, divided = net.execution.compile, net.execution.micro_batches > 1
    reason = why_not_captured(device, optimizers, watched=watched, compiled=compiled, divided=divided)
    if reason is not None:
        log.info("Not captured in a CUDA graph: %s.", reason)
        return None

    def constants() -> tuple[Any, ...]:
        groups = [{k: v for k, v in group.items() if k != "params"} for group in net.optimizer_.param_groups]
        return groups, net.val_temperature_, net.strategy.hypergradient, net.max_grad_norm

    return CapturedIterations(device, constants)


class CapturedIterations:
    """Run iterations; from the fourth of each kind and shape, run them as a graph.

    Parameters
    ----------
    device : torch.device
    settings : callable() -> object
        The numbers that a graph holds as constants, such as learning rates. If they have
        changed, the iteration is captured again.
    make_graph : callable() -> CudaGraph, default=CudaGraph
    """

    def __init__(
        self,
        device: torch.device,
        settings: Callable[[], object],
        make_graph: Callable[[], Any] = CudaGraph,
    ):
        self._device, self._settings, self._make_graph = device, settings, make_graph
        self._warmed: dict[tuple, int] = {}
        self._captured: dict[tuple, tuple[object, _Captured]] = {}
        self._draws = False

    def __call__(self, iteration: Iteration, *batches: Batch) -> dict[str, Tensor]:
        """Run or replay ``iteration(*batches)``; return its tensors by name."""
        key = (iteration.__name__, *(tuple(batch[0].shape) for batch in batches))
        if self._draws or self._warmed.get(key, 0) < WARM_UP:
            return self._warm_up(key, iteration, batches)
        settings, captured = self._captured.get(key, (None, None))
        if captured is None or settings != self._settings():
            captured = _Captured(self._make_graph(), iteration, batches)
            self._captured[key] = self._settings(), captured
        return captured(batches)

    def _warm_up(
        self, key: tuple[Any, ...], iteration: Iteration, batches: tuple[Batch, ...]
    ) -> dict[str, Tensor]:
        before = random_state(self._device)
        result = self._make_graph().warm_up(lambda: iteration(*batches))
        after = random_state(self._device)
        if not self._draws and any(not torch.equal(before[name], after[name]) for name in before):
            # A hypergradient replays random numbers, but a graph draws new ones in each replay.
            log.info("Not captured in a CUDA graph: the student draws random numbers.")
            self._draws = True
        self._warmed[key] = self._warmed.get(key, 0) + 1
        return result


class _Captured:
    """One captured iteration, with the tensors that it reads and writes."""

    def __init__(self, graph: Any, iteration: Iteration, batches: tuple[Batch, ...]) -> None:
        self._graph = graph
        self._inputs = [batch.map(torch.clone) for batch in batches]
        self._outputs = graph.capture(lambda: iteration(*self._inputs))

    def __call__(self, batches: tuple[Batch, ...]) -> dict[str, Tensor]:
        for own, given in zip(self._inputs, batches, strict=True):
            own.copy_(given)
        self._graph.replay()
        return {name: output.clone() for name, output in self._outputs.items()}
