"""Exchange data between the processes that train one student in a fit.

Each process runs the student on its own share of a batch's rows. One message then turns the gradients and
the loss of a step into those of all rows, before anything looks at them: clipping, callbacks, the
optimizer and the check for non-finite numbers see the same in all processes.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sklearn_kd.inputs._batches import check_shares
from sklearn_kd.inputs._data import SplitData, take
from sklearn_kd.meta._strategy import updates_metaparameters
from sklearn_kd.runtime._devices import reading_is_free
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._ranks import Ranks
from sklearn_kd.runtime._snapshots import has_constant_buffers

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# Prefix of the buffers of batch normalisation and, by custom, of other layers that keep statistics.
_STATISTICS = "running_"
# Number of iterations after which a request to stop is read on devices where reading a number is not free;
# by then it has long arrived.
_LATE = 8


class SharedTraining:
    """The part of one process in a fit that several share.

    Parameters
    ----------
    ranks : Ranks
        Two processes or more.
    modules : sequence of nn.Module
        All trained modules, the student first.

    Attributes
    ----------
    interrupted : bool
        Whether a user's Ctrl-C in any process has ended the fit.
    """

    def __init__(self, ranks: Ranks, modules: Sequence[nn.Module]) -> None:
        self.ranks, self._modules = ranks, list(modules)
        self._weights = [w for module in modules for w in module.parameters()]
        self._asked, self._ended = False, False  # by Ctrl-C, by a callback
        self._requests: deque[Tensor] = deque()
        self.interrupted = False

    def begin(self, settings: dict[str, Any], metaparameters: Any) -> None:
        """Start from the first process's weights, and check that all processes agree.

        Raises
        ------
        RuntimeError
            If the processes' settings, metaparameters or students' sizes differ.
        """
        # Networks of different sizes would send messages of different sizes, which ends processes silently.
        sizes = [
            (name, tuple(t.shape), t.dtype, t.requires_grad)
            for module in self._modules
            for name, t in (*module.named_parameters(), *module.named_buffers())
        ]
        self.ranks.check_same(settings | dict(metaparameters.named()) | {"the student's layers": sizes})
        tensors = [t for module in self._modules for t in (*module.parameters(), *module.buffers())]
        self.ranks.broadcast_(tensors)

    # ----------------------------------------------------------------------------------
    # A step

    def reduced(self, loss: Tensor) -> Tensor:
        """After the backward pass, turn all gradients into those of the whole batch, and return its loss.

        The gradients of each process are weighted by its share of the rows. A weight without gradient in all
        processes keeps none. The message always has the same size.

        Parameters
        ----------
        loss : Tensor of shape ()
            Loss of this process's rows, times their weight in the mean over processes.

        Raises
        ------
        KeyboardInterrupt
            In all processes in the same iteration, if one has requested a stop.
        """
        weights = [w for w in self._weights if w.requires_grad]  # callbacks freeze and unfreeze
        without = [k for k, w in enumerate(weights) if w.grad is None]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        notes = self._notes(len(weights), without, loss)
        loss = loss.clone()  # the message is written into it
        self.ranks.mean_([*gradients, loss, notes])
        if without:
            has_gradient = (notes[2:] > 0).tolist()
            for k in without:
                weights[k].grad = gradients[k] if has_gradient[k] else None
        self._stop_where_asked(notes[:2])
        return loss

    def _notes(self, n_weights: int, without: list[int], like: Tensor) -> Tensor:
        """Return the requests to stop, and which weights have a gradient here."""
        notes = torch.ones(2 + n_weights, dtype=like.dtype)
        notes[0], notes[1] = self._asked, self._ended
        notes[[2 + k for k in without]] = 0
        return notes.to(like.device, non_blocking=True)

    # ----------------------------------------------------------------------------------
    # Statistics of batches, and validation

    def share_buffers(self) -> None:
        """Average the running statistics over processes; copy all other buffers from the first process."""
        statistics: list[Tensor] = []
        others: list[Tensor] = []
        for module in self._modules:
            for part in module.modules():
                if has_constant_buffers(part):
                    continue
                for name, buffer in part._buffers.items():
                    if buffer is not None:
                        mean = name.startswith(_STATISTICS) and buffer.is_floating_point()
                        (statistics if mean else others).append(buffer)
        self.ranks.mean_(statistics)
        self.ranks.broadcast_(others)

    def mean_record(self, record: dict[str, float]) -> dict[str, float]:
        """Average the records of all processes, each of its own rows, since schedules may monitor them."""
        values = torch.tensor(list(record.values()), dtype=torch.float64)
        self.ranks.mean_([values] if record else [])
        return dict(zip(record, values.tolist(), strict=True))

    def outputs(self, infer: Callable[[Any], Tensor], x: Any) -> Tensor:
        """Return the student's outputs for all rows; this process computes its share."""
        places = self.ranks.padded_places(len(x)).to(x.device)
        return self.ranks.joined_rows(infer(take(x, places)), len(x))

    # ----------------------------------------------------------------------------------
    # The end

    def end_epoch(self, metaparameters: Any, history: Any) -> None:
        """Check that all processes still agree, and stop if any process has requested it.

        Raises
        ------
        RuntimeError
            If the processes have diverged from each other.
        KeyboardInterrupt
            In all processes, if one has requested a stop.
        """
        state = {"the number of epochs": len(history), "the student's weights": self._some_weights()}
        self.ranks.check_same(dict(metaparameters.named()) | state)
        self._requests.clear()
        requests = torch.tensor([float(self._asked), float(self._ended)])
        self.ranks.sum_([requests])
        self._stop(requests)

    @torch.no_grad()
    def _some_weights(self) -> Tensor:
        """Return a few numbers of each weight, since a step of another length changes all numbers."""
        return torch.cat([w.reshape(-1)[:4].double() for w in self._weights]).cpu()

    def tell(
        self, method: Callable[..., None], net: TrainingNet, told: dict[str, Any], *, is_score: bool
    ) -> bool:
        """Call a method of a callback; if that ends the fit, record it for all processes and return False.

        A score of training batches gets the rows of all processes.
        """
        if is_score and told["training"] and told["batch"] is not None:
            x, labels = told["batch"]
            told = told | self._whole(x, labels, told["y_pred"])
        try:
            method(net, **told)
        except KeyboardInterrupt:
            self._ended = True
            return False
        return True

    def _whole(self, x: Any, labels: Tensor, y_pred: Tensor) -> dict[str, Any]:
        """Return the labels and the outputs of all processes' rows, with this process's inputs."""
        found = self.ranks.gather((labels.cpu(), y_pred.cpu()))
        of_all = [torch.cat(parts).to(y_pred.device) for parts in zip(*found, strict=True)]
        return {"batch": (x, of_all[0]), "y_pred": of_all[1]}

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Make the first Ctrl-C end the fit in all processes together, and a second one raise an error."""
        before = signal.getsignal(signal.SIGINT)
        if before is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, leave)
            self._asked = True

        def leave(number: int, frame: Any) -> None:
            self.ranks.close()
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop_where_asked(self, requests: Tensor) -> None:
        if not reading_is_free(requests):
            self._requests.append(requests)
            if len(self._requests) <= _LATE:
                return
            requests = self._requests.popleft()
        self._stop(requests)

    def _stop(self, requests: Tensor) -> None:
        asked, ended = requests.tolist()
        if asked or ended:
            self.interrupted = asked > 0
            raise KeyboardInterrupt


def shared_training(net: TrainingNet, data: SplitData) -> SharedTraining | None:
    """Begin a fit that several processes share; return None if one process trains the net.

    Raises
    ------
    RuntimeError
        If the processes have different settings, or different numbers of rows.
    ValueError
        If the student or its execution cannot be shared, or the batches of D_val are too small.
    """
    if net.ranks.size == 1:
        return None
    reason = why_not_shared(net.execution, net.module_, torch.device(net.device))
    if reason is not None:
        raise ValueError(f"parallel: {reason}")
    if data.valid is not None and updates_metaparameters(net.strategy):
        size = net.get_params_for("iterator_valid").get("batch_size", net.batch_size)
        check_shares(len(data.valid) if size == -1 else min(size, len(data.valid)), net.ranks)
    shared = SharedTraining(net.ranks, net.trained_modules())
    parts = {"D_train": data.train, "D_val": data.valid}
    rows = {name: None if part is None else (len(part), part.seed) for name, part in parts.items()}
    shared.begin(rows | {"max_epochs": net.max_epochs, "batch_size": net.batch_size}, net.metaparameters)
    return shared


def interrupts_of(shared: SharedTraining | None) -> AbstractContextManager[None]:
    """Return a context in which Ctrl-C ends a shared fit in all processes; one process needs none."""
    return nullcontext() if shared is None else shared.interrupts()


def why_not_shared(execution: Execution, student: nn.Module, device: torch.device) -> str | None:
    """Return why several processes cannot train this student together, with the remedy, or None."""
    if execution.compile or execution.cuda_graph:
        return (
            f"execution={execution!r} fixes the operations of an iteration, which cannot include messages to"
            " other processes. Set execution='eager' or 'bfloat16', or parallel=None."
        )
    synchronised = any(isinstance(part, nn.SyncBatchNorm) for part in student.modules())
    if synchronised and device.type == "cpu":
        return (
            "the student has SyncBatchNorm layers, which torch only supports on GPUs. Give it BatchNorm "
            "layers to train it on CPUs."
        )
    if any(getattr(part, "sparse", False) for part in student.modules()):
        return "the student has layers with sparse=True, whose gradients cannot be sent. Set sparse=False."
    return None
