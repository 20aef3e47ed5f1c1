"""torch's ambient state, set aside while this library is at work.

A program may have set a default dtype or a default device, and may be inside autocast,
``no_grad`` or ``inference_mode``, when it calls ``fit``, ``predict``, ``save`` or the like.
Inside :func:`ordinary_torch` all of these are as torch has them at its start, so that a call
gives the same numbers whatever is around it.

All but the default dtype belong to one thread. The default dtype belongs to the process: those
at work share it, the first of them sets it, and the last one puts it back. Nobody waits.

Left as they are: settings of how exact, deterministic or watched torch's operations are
(``set_float32_matmul_precision``, ``use_deterministic_algorithms``, ``set_detect_anomaly``),
which are there to have an effect.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# Devices that autocast may be set for.
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def ordinary_torch() -> Iterator[None]:
    """Float32, CPU and gradients by default inside, and no autocast; also a decorator.

    Raises
    ------
    RuntimeError
        Inside a transform of ``torch.func``, or where torch makes tensors without numbers.
    """
    with ExitStack() as stack:
        stack.enter_context(_float32.held())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        autocasting = [device for device in _AUTOCAST_DEVICES if autocasts(device)]
        if autocasting:
            stack.enter_context(_without_autocast(autocasting))
        made = torch.empty(0)  # where and what torch makes now
        if made.device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise RuntimeError(
                "This was called inside a transform of torch.func (vmap, grad, jvp, ...), which cannot go "
                "through it. Call it outside, and give the transformed function its result."
            )
        if type(made) is not torch.Tensor:
            raise RuntimeError(
                f"This was called where torch makes each tensor a {type(made).__name__}, without numbers, as "
                "in FakeTensorMode. Call it outside."
            )
        yield


def autocasts(device: str) -> bool:
    """Whether autocast is on for a kind of device in this thread."""
    try:
        return torch.is_autocast_enabled(device)
    except (TypeError, RuntimeError):  # older versions of torch know autocast on CPU and CUDA alone
        return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


@contextmanager
def _without_autocast(devices: list[str]) -> Iterator[None]:
    """As if autocast had never been entered.

    It keeps the casts of weights until the outermost of its contexts is left. For a net that is
    trained with autocast of its own inside, that must be its own context, or every step would go on
    with the casts of the first.
    """
    depth = torch.autocast_increment_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    try:
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            # The contexts just entered do not count either.
            for _ in devices:
                torch.autocast_decrement_nesting()
            try:
                yield
            finally:
                for _ in devices:
                    torch.autocast_increment_nesting()
    finally:
        for _ in range(depth - 1):
            torch.autocast_increment_nesting()


class _SharedDefaultDtype:
    """Float32 as the default dtype of the process for as long as any thread holds it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._n_holders = 0
        self._before = torch.float32
        self._in_thread = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Float32 inside."""
        depth = getattr(self._in_thread, "depth", 0)
        if not depth:
            self._take()
        self._in_thread.depth = depth + 1
        try:
            yield
        finally:
            self._in_thread.depth = depth
            if not depth:
                self._give_back()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """What this thread found, inside, unless another one holds float32."""
        depth = getattr(self._in_thread, "depth", 0)
        if not depth:
            yield
            return
        self._in_thread.depth = 0
        self._give_back()
        try:
            yield
        finally:
            self._take()
            self._in_thread.depth = depth

    def _take(self):
        with self._lock:
            self._n_holders += 1
            if self._n_holders == 1:
                self._before = torch.get_default_dtype()
                if self._before is not torch.float32:
                    torch.set_default_dtype(torch.float32)

    def _give_back(self):
        with self._lock:
            self._n_holders -= 1
            # Unless somebody has set another one meanwhile.
            if not self._n_holders and torch.get_default_dtype() is torch.float32:
                torch.set_default_dtype(self._before)


_float32 = _SharedDefaultDtype()


def default_dtype_of_caller():
    """A context for code of the user's that is no network of ours: the default dtype that was set.

    A scikit-learn teacher that is made of torch, such as a Gaussian process, may need it.
    """
    return _float32.let_go()
