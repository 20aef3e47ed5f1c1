"""Move the metaparameters of the students in a batched run, each along its own path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.bilevel._hypergradient import SMALLEST_NORM, Contraction
from sklearn_kd.bilevel._optimizer_response import Clipping
from sklearn_kd.bilevel._stacked_hypergradient import StackedHypergradients
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.meta._strategy import updates_metaparameters
from sklearn_kd.runtime._devices import full_precision
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._nonfinite import GOOD, SKIPPED, with_hypergradient
from sklearn_kd.training._turns import Turn, follow, turn_of


class StackedMetaparameters:
    """Move the metaparameters of those students of a batched run whose strategies move them.

    In each iteration, call :meth:`begin`, run the training forward pass, call :meth:`after_forward`, take the
    optimizer's step, and call :meth:`move`. Each net has its own strategy, path, batches of D_val and counts
    of skipped steps.

    Parameters
    ----------
    nets : sequence of K TrainingNet
    taught : sequence of K bools
        Whether each student has a teacher; without one, no metaparameter matters.
    optimizer : Optimizer
        Optimizer of the stacked weights.
    hypergradients : StackedHypergradients
    """

    def __init__(
        self,
        nets: Sequence[TrainingNet],
        taught: Sequence[bool],
        optimizer: torch.optim.Optimizer,
        hypergradients: StackedHypergradients,
    ):
        self._nets, self._taught, self._optimizer = nets, taught, optimizer
        self._hypergradients = hypergradients
        self.movers = [k for k, net in enumerate(nets) if updates_metaparameters(net.strategy)]
        self._turns: dict[int, Turn] = {}

    def begin(self) -> None:
        """Ask each strategy what the iteration does, and keep what its hypergradient will need."""
        going = [k for k in self.movers if not self._nets[k].diverged_ and not self._nets[k].skips_.over]
        self._turns = {
            k: turn_of(self._nets[k].metaparameters, self._nets[k].strategy, self._optimizer) for k in going
        }
        if self._learners:
            self._hypergradients.begin()

    @property
    def _learners(self) -> list[int]:
        return [k for k, turn in self._turns.items() if turn is Turn.LEARN]

    def after_forward(self, logits: Tensor, evaluation: Contraction) -> None:
        """Keep what a hypergradient needs of the training pass while its graph exists."""
        if any(self._nets[k].strategy.hypergradient == "exact" for k in self._learners):
            self._hypergradients.pull_back(logits, evaluation)

    def note_clipping(self, clipping: Clipping) -> None:
        """Record that the gradients were clipped before the optimizer's step."""
        self._hypergradients.clipping = clipping

    def move(self, x: Tensor, shared: bool, logits: Tensor, evaluation: Contraction, finite: Tensor) -> None:
        """Move and record each path after the optimizer's step; ``finite`` says which steps were taken."""
        took_step = finite.tolist()
        outcomes = {k: GOOD if took_step[k] else SKIPPED for k in self._turns}
        batches = {k: next(self._nets[k].validation_batches_) for k in self._learners}
        for members, method in self._alike(batches):
            train = (x if shared else x[members], logits, evaluation)
            outcomes |= self._learn(members, method, train, [batches[k] for k in members], outcomes)
        for k, turn in self._turns.items():
            net = self._nets[k]
            if turn is Turn.WAIT:
                net.metaparameters.wait()
            elif turn is Turn.FOLLOW:
                follow(net.metaparameters, net.strategy)
            net.skips_.note(outcomes[k])

    def _alike(self, batches: dict[int, Batch]) -> list[tuple[list[int], str]]:
        """Divide the learners into groups that can be computed at once: (members, method)."""
        groups: dict[Any, list[int]] = {}
        for k, batch in batches.items():
            weighted = batch.targets.weight is not None
            groups.setdefault((tuple(batch[0].shape), weighted, self._method(k)), []).append(k)
        return [(members, self._method(members[0])) for members in groups.values()]

    def _method(self, k: int) -> str:
        return self._nets[k].strategy.hypergradient

    def _learn(
        self, members: list[int], method: str, train: Any, batches: list[Batch], outcomes: dict[int, int]
    ) -> dict[int, int]:
        """Take a step of the members' metaparameters; return the iteration's outcome for each member."""
        labels, weights = zip(*((b.targets.labels, b.targets.weight) for b in batches), strict=True)
        targets = Targets(torch.stack(labels), None, None if weights[0] is None else torch.stack(weights))
        first = self._nets[members[0]]
        val_temperatures = train[1].new_tensor([self._nets[k].val_temperature_ for k in members])

        def validation_loss(z: Tensor) -> tuple[Tensor, Tensor]:
            return first.task.validation_loss(z, targets, val_temperatures.reshape(-1, 1, 1))

        x_val = torch.stack([batch[0] for batch in batches])
        with full_precision(x_val.device):
            of_all = self._hypergradients.of(members, method, train, x_val, validation_loss)
        found = {}
        for k, h, val_loss, norm in zip(members, *of_all, strict=True):
            path, skipped = self._nets[k].metaparameters, outcomes[k] == SKIPPED
            if not self._taught[k]:
                h = torch.where(norm > SMALLEST_NORM, 0.0, torch.nan).expand(h.shape)  # labels alone
            h, val_loss = (torch.full_like(t, torch.nan) if skipped else t for t in (h, val_loss))
            path.record(path.descend(h), val_loss)
            known, directionless = bool(torch.isfinite(h).all()), bool(norm <= SMALLEST_NORM)
            found[k] = SKIPPED if skipped else with_hypergradient(GOOD, known, directionless)
        return found
