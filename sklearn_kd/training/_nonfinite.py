"""Skip and count steps that are not finite.

If the loss or a gradient is not finite, an iteration leaves everything unchanged: weights,
buffers, the optimizer's state and the metaparameters. On a CPU, where reading a number costs
nothing, the optimizer is not called. On other devices nothing waits for a number: the step is
taken, and the device undoes it if it was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._optimizers import uncount_steps

# Number of skipped steps in a row that end a fit. A skipped step changes nothing, so that only
# another batch can end such a run; ten unusable batches in a row are no accident.
MOST_SKIPPED_IN_A_ROW = 10

# Outcomes of an iteration, in order of rising concern.
GOOD, NO_DIRECTION, NO_HYPERGRADIENT, SKIPPED = range(4)


class StepSkipped(Exception):
    """Raised between the gradient and the optimizer's step, to prevent the step.

    Parameters
    ----------
    step : dict
        What the training step would have returned.
    """

    def __init__(self, step: dict[str, Any]):
        super().__init__("loss or gradient is not finite")
        self.step = step


def is_finite(loss: Tensor, gradients: list[Tensor]) -> bool | Tensor:
    """Return whether loss and gradients, and their sums, are finite; as a tensor if it is not read."""
    value = as_number(loss)
    if not isinstance(value, Tensor):  # reading the sums one by one takes the least time here
        return math.isfinite(sum((g.sum().item() for g in gradients), value))
    # Sums of absolute values: squares overflow long before the values do.
    sizes = torch._foreach_norm(gradients, 1) if gradients else ()
    return torch.isfinite(torch.stack([*sizes, loss]).sum())


def judged(step: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the result of a training step with its ``outcome``, after the backward pass.

    Raises
    ------
    StepSkipped
        If the loss or the gradient is not finite and that can be known without waiting.
    """
    gradients = [w.grad for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
    finite = is_finite(step["loss"], gradients)
    if isinstance(finite, Tensor):
        return step | {"outcome": torch.where(finite, GOOD, SKIPPED)}
    if not finite:
        raise StepSkipped(step | {"outcome": SKIPPED})
    return step | {"outcome": GOOD}


def are_finite(losses: Tensor, gradients: list[Tensor]) -> Tensor:
    """Return whether losses and gradients, shape (K, ...), are finite for K students, shape (K,)."""
    return torch.isfinite(sum((g.reshape(len(g), g[0].numel()).sum(dim=1) for g in gradients), losses))


def with_hypergradient(outcome: Any, known: Any, directionless: Any) -> Any:
    """Return the outcome of an iteration from that of its step; ``known``: the hypergradient is finite."""
    if not isinstance(known, torch.Tensor):
        return outcome if known else NO_DIRECTION if directionless else NO_HYPERGRADIENT
    unknown = torch.where(torch.as_tensor(directionless), NO_DIRECTION, NO_HYPERGRADIENT)
    return torch.where(known | (outcome == SKIPPED), outcome, unknown)


# --------------------------------------------------------------------------------------
# Counting


class Skips:
    """Counter of the skipped steps and hypergradients of one fit.

    Attributes
    ----------
    in_a_row : int
        Number of steps skipped in a row up to now, or up to the end of the training.
    run : int
        The iteration of the first of these.
    first : int or None
        The first iteration in which something was not finite.
    """

    def __init__(self) -> None:
        self.in_a_row = self.run = self._iteration = 0
        self.first: int | None = None
        self._epoch: list[int | Tensor] = []
        self.counts = [0] * (SKIPPED + 1)

    def note(self, outcome: int | Tensor) -> bool:
        """Record an iteration; return whether training is known to be over."""
        self._epoch.append(outcome)
        if not isinstance(outcome, Tensor):
            self._count(outcome)
        return self.over

    @property
    def n_in_epoch(self) -> int:
        """Number of iterations recorded since the epoch began."""
        return len(self._epoch)

    def end_epoch(self, optimizer: Optimizer) -> tuple[int, int]:
        """Return the numbers of skipped steps and hypergradients of this epoch; read the device once.

        Steps that the device has undone are subtracted from the ``optimizer``'s own count.
        """
        unread = [outcome for outcome in self._epoch if isinstance(outcome, Tensor)]
        outcomes = torch.stack(unread).tolist() if unread else self._epoch
        for outcome in outcomes if unread else ():
            self._count(outcome)
        self._epoch = []
        if unread:
            uncount_steps(optimizer, outcomes.count(SKIPPED))
        return outcomes.count(SKIPPED), outcomes.count(NO_DIRECTION) + outcomes.count(NO_HYPERGRADIENT)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts. Call it between two epochs."""
        return {
            "in_a_row": self.in_a_row,
            "run": self.run,
            "first": self.first,
            "counts": list(self.counts),
            "iteration": self._iteration,
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state from :meth:`state_dict`."""
        self.in_a_row, self.run, self.first = state["in_a_row"], state["run"], state["first"]
        self.counts, self._iteration, self._epoch = list(state["counts"]), state["iteration"], []

    @property
    def over(self) -> bool:
        """True if too many steps in a row were skipped to continue."""
        return self.in_a_row >= MOST_SKIPPED_IN_A_ROW

    def _count(self, outcome: Any) -> None:
        self.counts[outcome] += 1
        if outcome >= NO_HYPERGRADIENT and self.first is None:
            self.first = self._iteration
        if not self.over:
            if outcome == SKIPPED and self.in_a_row == 0:
                self.run = self._iteration
            self.in_a_row = self.in_a_row + 1 if outcome == SKIPPED else 0
        self._iteration += 1


MEND = "Lower lr, clip the gradients (a small max_grad_norm, such as 1) or scale X."


def divergence_message(
    skips: Skips, predicts: bool, n_iterations: int, epoch: int, stood: Callable[[int], str], mend: str = MEND
) -> str:
    """Compose the message: why a fit was given up after ``n_iterations``, in ``epoch``, and what is kept.

    ``predicts`` says whether the student predicted to the end; ``stood`` describes the metaparameters in an
    iteration; ``mend`` is the remedy.
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
    """Compose the message about the steps that a completed fit skipped."""
    first = skips.first or 0
    return (
        f"{skips.counts[SKIPPED]} of {sum(skips.counts)} steps were skipped, because loss or gradient was "
        f"not finite, and {skips.counts[NO_HYPERGRADIENT]} hypergradients that were not finite were not "
        f"followed; the first in iteration {first}{stood(first)}. They changed nothing; the columns "
        f"skipped_steps and skipped_hypergradients of the history count them by epoch. {mend}"
    )
