"""Steps that are not finite are not taken, but counted.

Where the loss or a gradient is not finite, an iteration leaves everything as it was: weights,
buffers, the optimizer's state, the metaparameters. On a CPU, where reading a number costs
nothing, the optimizer is not called. Elsewhere nothing waits for a number: the step is taken,
and undone by the device where it should not have been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd._devices import as_number

# After so many skipped steps in a row a fit is over. A skipped step changes nothing, so that only
# another batch can end such a run; ten batches that all cannot be learned from are no accident.
MOST_SKIPPED_IN_A_ROW = 10

# What became of an iteration, in rising order of concern.
GOOD, NO_DIRECTION, NO_HYPERGRADIENT, SKIPPED = range(4)


class StepSkipped(Exception):
    """Raised between the gradient and the optimizer's step, which so does not happen.

    Parameters
    ----------
    step : dict
        What the training step would have returned.
    """

    def __init__(self, step: dict[str, Any]):
        super().__init__("loss or gradient is not finite")
        self.step = step


def is_finite(loss: Tensor, gradients: list[Tensor]) -> bool | Tensor:
    """Return whether loss and gradients, and their sums, are finite; as a tensor where it is not read."""
    value = as_number(loss)
    if not isinstance(value, Tensor):  # where sums, read one by one, take the least time
        return math.isfinite(sum((g.sum().item() for g in gradients), value))
    # Sums of absolute values: squares overflow long before the values do.
    sizes = torch._foreach_norm(gradients, 1) if gradients else ()
    return torch.isfinite(torch.stack([*sizes, loss]).sum())


def are_finite(losses: Tensor, gradients: list[Tensor]) -> Tensor:
    """Return whether they are finite for K students, shape (K,); gradients have shape (K, ...)."""
    return torch.isfinite(sum((g.flatten(1).sum(dim=1) for g in gradients), losses))


# --------------------------------------------------------------------------------------
# Undoing a step without knowing whether there is anything to undo


class Buffers:
    """The buffers of the parts of a module as they stand; put back on leaving the context."""

    def __init__(self, parts: Sequence[nn.Module]):
        kept = [
            (part._buffers, name, buffer)
            for part in parts
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        self._kept, self._buffers = kept, [buffer for _, _, buffer in kept]
        self._values = [buffer.clone() for buffer in self._buffers]

    def put_back(self) -> None:
        """Restore the buffers, whatever was written into them or put in their place."""
        self._own()
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._values)

    def put_back_where(self, bad: Tensor) -> None:
        """Restore them where ``bad``, shape (), is true, without reading it."""
        found = [(owner[name], buffer) for owner, name, buffer in self._kept]
        now = [buffer if new is None else new for new, buffer in found]
        if any(new is not buffer for new, buffer in zip(now, self._buffers, strict=True)):
            with torch.no_grad():  # what took their place had no place before
                torch._foreach_copy_(self._buffers, now)
            self._own()
        undo_where(bad, self._buffers, self._values)

    def _own(self):
        for owner, name, buffer in self._kept:
            owner[name] = buffer

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.put_back()


class KeptState:
    """Snapshot of an optimizer's weights and state, which it is about to change.

    The count of Adam's steps is the host's where Adam is not capturable: it goes on in steps that
    are undone, as it does for all students that share it.

    Parameters
    ----------
    optimizer : Optimizer
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._state = optimizer.state
        self._weights = [w for group in optimizer.param_groups for w in group["params"]]
        self._values = [w.detach().clone() for w in self._weights]
        self._state_before = {
            (w, name): value.clone()
            for w, state in optimizer.state.items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def put_back_where(self, bad: Tensor) -> None:
        """Undo the step where ``bad`` says so: shape (), or (K,) for stacked weights (K, ...)."""
        now, before = list(self._weights), list(self._values)
        for w in self._weights:
            for name, value in self._state.get(w, {}).items():
                if isinstance(value, Tensor) and value.device == w.device and value.ndim >= bad.ndim:
                    now.append(value)
                    old = self._state_before.get((w, name))
                    before.append(torch.zeros_like(value) if old is None else old)  # made by this step
        undo_where(bad, now, before)


def undo_where(bad: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """``now`` ← ``before`` in place where ``bad``, shape () or (K,), is true; exact, and never read.

    Done on the bits: a product with NaN would be NaN, and there is no choice between lists.
    """
    if not now:
        return
    bits, bits_before = [_bits(t) for t in now], [_bits(t) for t in before]
    undo = torch._foreach_sub(bits_before, bits)
    if bad.ndim == 0:
        torch._foreach_mul_(undo, bad.to(torch.int8))
    else:
        masks = [bad.reshape(-1, *[1] * (t.ndim - 1)).to(t.dtype) for t in undo]
        torch._foreach_mul_(undo, masks)
    torch._foreach_add_(bits, undo)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(t: Tensor) -> Tensor:
    return t.detach().view(_INTEGERS[t.element_size()])


# --------------------------------------------------------------------------------------
# Counting


class Skips:
    """Counts the skipped steps and hypergradients of one fit.

    Attributes
    ----------
    in_a_row : int
        How many steps were skipped up to now, or up to when training was over.
    run : int
        The iteration of the first of these.
    first : int or None
        The first iteration of which something was not finite.
    """

    def __init__(self) -> None:
        self.in_a_row = self.run = self._iteration = 0
        self.first: int | None = None
        self._epoch: list[int | Tensor] = []
        self.counts = [0] * (SKIPPED + 1)

    def note(self, outcome: int | Tensor) -> bool:
        """Note an iteration; whether training is known to be over."""
        self._epoch.append(outcome)
        if not isinstance(outcome, Tensor):
            self._count(outcome)
        return self.over

    def end_epoch(self) -> tuple[int, int]:
        """Steps and hypergradients of this epoch that were not followed; read from the device once."""
        unread = [outcome for outcome in self._epoch if isinstance(outcome, Tensor)]
        outcomes = torch.stack(unread).tolist() if unread else self._epoch
        for outcome in outcomes if unread else ():
            self._count(outcome)
        self._epoch = []
        return outcomes.count(SKIPPED), outcomes.count(NO_DIRECTION) + outcomes.count(NO_HYPERGRADIENT)

    @property
    def over(self) -> bool:
        """True if so many steps in a row were skipped that there is nothing more to learn."""
        return self.in_a_row >= MOST_SKIPPED_IN_A_ROW

    def _count(self, outcome):
        self.counts[outcome] += 1
        if outcome >= NO_HYPERGRADIENT and self.first is None:
            self.first = self._iteration
        if not self.over:
            if outcome == SKIPPED and self.in_a_row == 0:
                self.run = self._iteration
            self.in_a_row = self.in_a_row + 1 if outcome == SKIPPED else 0
        self._iteration += 1


MEND = "Lower lr, clip the gradients (skorch.callbacks.GradientNormClipping) or scale X."


def divergence_message(
    skips: Skips, predicts: bool, n_iterations: int, epoch: int, stood: Callable[[int], str], mend: str = MEND
) -> str:
    """Compose the message: why a fit was given up after ``n_iterations``, in ``epoch``, and what is kept.

    ``predicts`` says whether the student did to the end; ``stood`` tells the metaparameters of an
    iteration; ``mend`` is what to do.
    """
    if skips.in_a_row:
        last = skips.run + skips.in_a_row - 1
        found = (
            f"in iterations {skips.run} to {last} (epoch {epoch}), the last {skips.in_a_row} of the fit, "
            f"loss or gradient was not finite{stood(skips.run)}, and the steps were skipped"
        )
    else:
        found = (
            f"after iteration {n_iterations - 1} (epoch {epoch}) the student's weights or logits were not "
            f"finite{stood(n_iterations)}"
        )
    state = f"before iteration {skips.run}" if predicts else f"from the end of epoch {epoch - 1}"
    return f"Training diverged: {found}. The weights {state} are kept. {mend}"


def skips_message(skips: Skips, stood: Callable[[int], str], mend: str = MEND) -> str:
    """Compose the message about what a completed fit has skipped."""
    first = skips.first or 0
    return (
        f"{skips.counts[SKIPPED]} of {sum(skips.counts)} steps were skipped, because loss or gradient was "
        f"not finite, and {skips.counts[NO_HYPERGRADIENT]} hypergradients that were not finite were not "
        f"followed; the first in iteration {first}{stood(first)}. They changed nothing; the columns "
        f"skipped_steps and skipped_hypergradients of the history count them by epoch. {mend}"
    )
