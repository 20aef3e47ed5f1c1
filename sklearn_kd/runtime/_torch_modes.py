"""Run this library under torch's default modes, whatever modes the caller has set.

A program may have set a default dtype or a default device, or be inside autocast,
``no_grad`` or ``inference_mode``, when it calls ``fit``, ``predict``, ``save`` or another method.
Inside :func:`ordinary_torch` all of these modes have torch's defaults, so that a call gives the same numbers
whatever the caller has set.

Each mode except the default dtype belongs to one thread. The default dtype belongs to the process: the first
thread to enter sets it, and the last one to leave restores it. No thread waits for another.

Settings of precision, determinism and anomaly detection (``set_float32_matmul_precision``,
``use_deterministic_algorithms``, ``set_detect_anomaly``) keep the caller's values, because their effect is
intended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ContextDecorator, ExitStack, contextmanager
from types import TracebackType

import torch

# Devices for which autocast may be set.
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


class ordinary_torch(ContextDecorator):
    """Make float32, the CPU and gradients the defaults inside, without autocast. Also works as a decorator.

    Raises
    ------
    RuntimeError
        If called inside a transform of ``torch.func``, or inside a mode in which tensors have no numbers.
    """

    def _recreate_cm(self) -> ordinary_torch:
        return ordinary_torch()  # for each call of a decorated function

    def __enter__(self) -> None:
        _float32.take()
        self._stack = ExitStack()
        try:
            for context in _undoing():
                self._stack.enter_context(context)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, where)
        finally:
            _float32.give_back()


def _undoing() -> Iterator[AbstractContextManager]:
    """Yield contexts that undo the modes that the caller has set."""
    made = torch.empty(0)  # shows the default device and the type of tensor
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            "This was called inside a transform of torch.func (vmap, grad, jvp, ...), which cannot transform "
            "it. Call it outside, and pass its result to the transformed function."
        )
    if type(made) is not torch.Tensor:
        raise RuntimeError(
            f"This was called in a mode such as FakeTensorMode, in which each tensor is a "
            f"{type(made).__name__} without numbers. Call it outside."
        )
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    if not torch.is_grad_enabled():
        yield torch.enable_grad()
    autocasting = [device for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
    if autocasting:
        yield _without_autocast(autocasting)
    if made.device.type != "cpu":
        yield torch.device("cpu")


@contextmanager
def _without_autocast(devices: list[str]) -> Iterator[None]:
    """Leave autocast inside, with its cache and its depth of nesting, and enter it again afterwards.

    Autocast caches the casts of weights until its outermost context is left. If a net with its own autocast
    is trained inside, its context must be the outermost one; otherwise every step would use the casts of the
    first step.
    """
    depth = torch.autocast_increment_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    try:
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            # Nor may the contexts just entered count as nesting.
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
    """Make float32 the default dtype of the process while any thread holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_holders = 0
        self._before = torch.float32
        self._in_thread = threading.local()
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=self._reset_after_fork)

    def take(self) -> None:
        """Hold float32. A thread may hold it several times."""
        depth = getattr(self._in_thread, "depth", 0)
        if not depth:
            self._join()
        self._in_thread.depth = depth + 1

    def give_back(self) -> None:
        """Undo one :meth:`take`."""
        self._in_thread.depth -= 1
        if not self._in_thread.depth:
            self._leave()

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """Restore the caller's default dtype inside, unless another thread holds float32."""
        depth = getattr(self._in_thread, "depth", 0)
        if not depth:
            yield
            return
        self._in_thread.depth = 0
        self._leave()
        try:
            yield
        finally:
            self._join()
            self._in_thread.depth = depth

    def _join(self) -> None:
        with self._lock:
            self._n_holders += 1
            if self._n_holders == 1:
                self._before = torch.get_default_dtype()
                if self._before is not torch.float32:
                    torch.set_default_dtype(torch.float32)

    def _leave(self) -> None:
        with self._lock:
            self._n_holders -= 1
            # A default dtype that the user has set in the meantime is kept.
            if not self._n_holders and torch.get_default_dtype() is torch.float32:
                torch.set_default_dtype(self._before)

    def _reset_after_fork(self) -> None:
        # Other threads that held float32 during the fork do not exist in this process.
        self._lock = threading.Lock()
        holds = bool(getattr(self._in_thread, "depth", 0))
        if self._n_holders and not holds:
            self._n_holders = 1
            self._leave()
        self._n_holders = int(holds)


_float32 = _SharedDefaultDtype()


def default_dtype_of_caller() -> AbstractContextManager[None]:
    """Return a context with the default dtype that the user has set, for user code.

    A scikit-learn teacher built on torch, such as a Gaussian process, may need it.
    """
    return _float32.let_go()
