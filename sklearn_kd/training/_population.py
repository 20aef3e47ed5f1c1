"""Train students side by side on the same batches, each with its own metaparameters."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sklearn_kd.checkpointing._modules import load_module_state, module_state
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._population import PopulationStrategy
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._eager_optimizers import eager_method
from sklearn_kd.runtime._random_state import (
    host_random_state,
    preserved_random_state,
    random_state,
    set_host_random_state,
    set_random_state,
)
from sklearn_kd.tasks._pixels import mean_of_images
from sklearn_kd.training import _stackable
from sklearn_kd.training._interrupts import from_outside
from sklearn_kd.training._memory_errors import (
    explain_memory_of_stacked_training,
    explain_memory_of_training,
)
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._population_state import PopulationState
from sklearn_kd.training._stacked import BatchedRun
from sklearn_kd.training._trainer_state import TrainerState
from sklearn_kd.training._work import threads_of_training

log = logging.getLogger("sklearn_kd")


class StudentPopulation:
    """The members of a :class:`~sklearn_kd.meta.Population`, and their training.

    Parameters
    ----------
    first : TrainingNet
        The first member, initialised: the only one that a user's callbacks see. It has a checkpointer if
        checkpoints are written.
    make_net : callable() -> TrainingNet
        Makes the initialised net of another member: the same untrained student, with clones of the
        callbacks. The strategies of nets move no metaparameters.
    data : SplitData
        Data of all members.
    space : MetaparameterSpace
    start : dict of str to float or ndarray
    rng : numpy.random.Generator
        Generator of the strategy.
    seed : int
        Seed of the training.
    verbose : int, default=0
    """

    def __init__(
        self,
        first: TrainingNet,
        make_net: Callable[[], TrainingNet],
        data: SplitData,
        *,
        space: MetaparameterSpace,
        start: dict[str, Any],
        rng: np.random.Generator,
        seed: int,
        verbose: int = 0,
    ):
        self.space, self.start, self.rng = space, start, rng
        self.n_epochs, self.verbose = int(first.max_epochs), verbose
        self._make_net, self._data, self._seed = make_net, data, seed
        self._device = data.train.device
        self._n_done = 0
        self.told: list[np.ndarray] = []  # results of val_losses, if there are checkpoints
        self._n_told = 0
        # Taken from the net, whose own epochs would write checkpoints.
        self._checkpointer, first.checkpointer_ = first.checkpointer_, None
        self._resumed: _Resumed | None = None
        self._nets: list[TrainingNet] = []
        self._draws: list[_Draws] = []
        self._trainer_states: list[TrainerState] = []
        self._run: BatchedRun | None = None
        self._stackable = False
        self._add(first)
        self._batches: Any = first.get_iterator(data.train, training=True)
        valid = None if data.valid is None else first.get_iterator(data.valid, training=False)
        self._valid_batches: Any = valid

    # ----------------------------------------------------------------------------------
    # The interface for strategies

    @property
    def n_epochs_left(self) -> int:
        """Number of epochs that each member still has to train."""
        return self.n_epochs - self._n_done

    def __len__(self) -> int:
        return len(self._nets)

    def select(self, sources: Sequence[int]) -> None:
        """Replace the members: member j becomes a copy of the present member ``sources[j]``."""
        right = isinstance(sources, (Sequence, np.ndarray)) and len(sources) > 0
        if not right or not all(_is_integer(source, 0, len(self) - 1) for source in sources):
            raise ValueError(
                f"select: sources={sources!r} must be a non-empty list of indices of the {len(self)} members."
            )
        moves = {j: source for j, source in enumerate(sources) if j != source}
        if not moves and len(sources) == len(self):
            return
        self._end_run()
        states = {source: self._state(source) for source in set(moves.values())}
        self._resize(len(sources))
        for j, source in moves.items():
            self._load(j, states[source])

    def train(
        self,
        values: Sequence[Mapping[str, Any]],
        n_epochs: int = 1,
        *,
        centre: Mapping[str, Any] | None = None,
    ) -> None:
        """Train each member for some epochs, member k at ``values[k]``."""
        if len(values) != len(self):
            raise ValueError(
                f"train: {len(values)} values for {len(self)} members. Give one for each member; select "
                "changes their number."
            )
        if not _is_integer(n_epochs, 1, self.n_epochs_left):
            raise ValueError(
                f"train: n_epochs={n_epochs!r} must be an integer from 1 to the {self.n_epochs_left} epochs "
                "that are left (n_epochs_left)."
            )
        for net, own in zip(self._nets, values, strict=True):
            path: MetaparameterPath = net.metaparameters
            path.move_to(self.space.completed(self.start, own if centre is None else centre))
            if centre is not None:
                path.train_at(self.space.completed(self.start, own))
        for _ in range(n_epochs):
            if self._resumed is not None and self._n_done < self._resumed.n_epochs:
                self._n_done += 1  # the killed fit has trained this epoch
                continue
            self._before_epoch()
            self._epoch()

    def val_losses(self) -> np.ndarray:
        """Return each member's loss on each row of D_val, shape (n_members, n_val)."""
        if self._resumed is None:
            losses = self._val_losses_of_members()
        else:
            losses = self._resumed.next_losses(self._n_told)
        self._n_told += 1
        if self._checkpointer is not None:
            self.told.append(losses)
        return losses.astype(np.float64)

    def record(self, values: Mapping[str, Any], val_loss: float | None = None) -> None:
        """Set the values and the L_val after the last iteration in the paths of all members."""
        for net in self._nets:
            net.metaparameters.move_to(self.space.completed(self.start, values), val_loss)

    # ----------------------------------------------------------------------------------
    # The whole training

    def search(self, strategy: PopulationStrategy) -> TrainingNet:
        """Run the strategy on the members; return the net of the one to keep, trained to the end."""
        first = self._nets[0]
        with threads_of_training(self._nets, self._data), preserved_random_state(self._device):
            if self._checkpointer is not None:
                self._checkpointer = self._checkpointer.of(PopulationState(self))
                self._checkpointer.restore()
                self._checkpointer.track("train", self._batches)
                if self._valid_batches is not None:
                    self._checkpointer.track("valid", self._valid_batches)
            try:
                strategy.search(self)
                self.select([0])
                if self.n_epochs_left:
                    self.train([first.metaparameters.values_now()], self.n_epochs_left)
            except KeyboardInterrupt as interrupt:
                first.interrupted_ = from_outside(interrupt)
            finally:
                self._checkpointer = None  # it refers to this population and holds the lock of its files
            self._finish()
        return first

    def _finish(self) -> None:
        """End the training of all members."""
        self._end_run()
        self._resize(1)
        first = self._nets[0]
        path = first.metaparameters
        path.move_to(self.space.shaped(path.values_after(path.iteration)))  # where the record ends
        first.validation_batches_ = None  # it holds D_val
        if first.diverged_ and first.guard_ is not None and first.guard_.message is not None:
            warnings.warn(first.guard_.message, ConvergenceWarning, stacklevel=2)
        with self._draws_of(0):
            first.notify("on_train_end", X=self._data, y=None)

    # ----------------------------------------------------------------------------------
    # Checkpoints

    def members_state(self) -> list[tuple[dict[str, Any], bool]]:
        """Return the state of each member, and whether it has diverged."""
        self._end_run()
        states = []
        for k, net in enumerate(self._nets):
            with self._draws_of(k):
                states.append((self._trainer_states[k].state_dict(), net.diverged_))
        return states

    def resume(
        self, n_epochs: int, told: list[np.ndarray], members: list[tuple[dict[str, Any], bool]]
    ) -> None:
        """Continue from a state after ``n_epochs``, once the strategy has been given the same losses."""
        self._resumed = _Resumed(n_epochs, told, members)

    def _before_epoch(self) -> None:
        """Load the state that a resumed fit continues from, or write a checkpoint."""
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            resumed.check(len(self), self._n_told)
            for k, (state, diverged) in enumerate(resumed.members):
                with self._draws_of(k):
                    self._trainer_states[k].load_state_dict(state)
                self._nets[k].diverged_ = diverged
        elif self._checkpointer is not None:
            self._checkpointer.save()

    # ----------------------------------------------------------------------------------
    # An epoch

    def _epoch(self) -> None:
        run = self._batched_run()
        if run is None:
            self._epoch_one_by_one()
        else:
            with explain_memory_of_stacked_training(self._nets, [self._data] * len(self)):
                run.epoch()
        self._n_done += 1
        if all(net.diverged_ for net in self._nets):
            raise KeyboardInterrupt  # how callbacks end a fit early

    def _batched_run(self) -> BatchedRun | None:
        """Return the batched run of the members, or None if they are trained one by one."""
        if not self._stackable or len(self) < _stackable.FEWEST:
            return None
        if self._run is None:
            self._run = BatchedRun(self._nets, [self._data] * len(self), self._batches)
        return self._run

    def _end_run(self) -> None:
        """Give the members of a batched run their own weights."""
        if self._run is not None:
            self._run.hand_back()
            self._run = None

    def _epoch_one_by_one(self) -> None:
        datasets = {"dataset_train": self._data.train, "dataset_valid": self._data.valid}
        train, valid = self._batches, self._valid_batches
        rewind = _rewinding(train), _rewinding(valid)
        for k, net in enumerate(self._nets):
            if net.diverged_:
                continue
            for back in rewind:
                back()
            with self._draws_of(k), explain_memory_of_training(net, self._data):
                net.notify("on_epoch_begin", **datasets)
                net.run_single_epoch(train, training=True, prefix="train", step_fn=net.train_step)
                net.run_single_epoch(valid, training=False, prefix="valid", step_fn=net.validation_step)
                net.notify("on_epoch_end", **datasets)

    def _val_losses_of_members(self) -> np.ndarray:
        """Return the losses of the rows of D_val; they are infinite for members that have diverged."""
        if self._data.valid is None:
            raise ValueError(
                "val_losses needs D_val. Set learns_from_validation = True in the strategy's class, or "
                "give fit X_val and y_val."
            )
        back = _rewinding(self._valid_batches)
        found = {}
        for k, net in enumerate(self._nets):
            if not net.diverged_:
                found[k] = self._row_losses(net)
                back()  # all members predict the same rows, in the same order
        n_rows = max(map(len, found.values()), default=len(self._data.valid))
        losses = np.full((len(self), n_rows), np.inf, np.float32)
        for k, rows in found.items():
            if np.isfinite(rows).all():
                losses[k] = rows
        return losses

    def _row_losses(self, net: TrainingNet) -> np.ndarray:
        with preserved_random_state(self._device, seed=0):
            losses = torch.cat([self._batch_losses(net, batch) for batch in self._valid_batches])
        return losses.float().cpu().numpy()

    def _batch_losses(self, net: TrainingNet, batch: Batch) -> torch.Tensor:
        logits = net.validation_step(batch)["y_pred"]
        losses = net.task.validation_losses(logits, batch.targets, net.val_temperature_)
        return losses if len(losses) == len(batch[0]) else mean_of_images(losses, len(batch[0]))

    # ----------------------------------------------------------------------------------
    # Members

    def _resize(self, n: int) -> None:
        """Set the number of members that take part; new ones are untrained."""
        for net in self._nets[n:]:
            net.validation_batches_ = None
            net.notify("on_train_end", X=self._data, y=None)
        del self._nets[n:], self._draws[n:], self._trainer_states[n:]
        if n <= len(self):
            return
        while len(self) < n:
            self._add(self._make_net())
        reason = _stackable.why_not_stackable(self._nets, [self._data] * n)
        log.info(
            "%d members: %s", n, "one batched run" if reason is None else f"one by one, because {reason}"
        )
        self._stackable = reason is None

    def _add(self, net: TrainingNet) -> None:
        """Add an untrained member."""
        with preserved_random_state(self._device, self._seed):
            net.notify("on_train_begin", X=self._data, y=None)
            self._draws.append(_Draws.now(self._device))
        net.draw_validation_batches(self._data.valid)
        assert net.guard_ is not None
        net.guard_.silent = True
        self._nets.append(net)
        self._trainer_states.append(TrainerState(net))

    @contextmanager
    def _draws_of(self, k: int) -> Iterator[None]:
        """Make a member draw its own random numbers inside."""
        with preserved_random_state(self._device):
            self._draws[k].resume(self._device)
            yield
            self._draws[k] = _Draws.now(self._device)

    def _state(self, k: int) -> _MemberState:
        net = self._nets[k]
        return _MemberState(
            [module_state(module) for module in net.trained_modules()],
            copy.deepcopy(eager_method(net.optimizer_, "state_dict")()),
            net.skips_.state_dict(),
            net.metaparameters.copy(),
            copy.copy(net.history),
            net.val_temperature_,
            net.diverged_,
            self._draws[k],
        )

    def _load(self, k: int, state: _MemberState) -> None:
        net = self._nets[k]
        for module, own in zip(net.trained_modules(), state.modules, strict=True):
            load_module_state(module, own)
        eager_method(net.optimizer_, "load_state_dict")(copy.deepcopy(state.optimizer))
        net.skips_.load_state_dict(state.skips)
        net.metaparameters = state.path.copy()
        net.history_ = copy.copy(state.history)
        net.val_temperature_, net.diverged_ = state.val_temperature, state.diverged
        self._draws[k] = state.draws


def _is_integer(value: Any, least: int, most: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def _rewinding(batches: Any) -> Callable[[], None]:
    """Return a function that resets an iterator to its present state, so that the same batches come again."""
    if batches is None:
        return lambda: None
    state = batches.state_dict()
    return lambda: batches.load_state_dict(state)


class _Draws(NamedTuple):
    """States of the generators that a member draws from."""

    of_torch: dict[str, Any]
    of_host: dict[str, Any]

    @classmethod
    def now(cls, device: torch.device) -> _Draws:
        return cls(random_state(device), host_random_state())

    def resume(self, device: torch.device) -> None:
        set_random_state(self.of_torch, device)
        set_host_random_state(self.of_host)


class _Resumed(NamedTuple):
    """State from which a resumed fit continues."""

    n_epochs: int
    told: list[np.ndarray]
    members: list[tuple[dict[str, Any], bool]]

    def next_losses(self, n_told: int) -> np.ndarray:
        """Return the losses that the strategy was given after the first ``n_told`` ones."""
        if n_told >= len(self.told):
            raise ValueError(self._message())
        return self.told[n_told]

    def check(self, n_members: int, n_told: int) -> None:
        """Raise ValueError unless the strategy has reached the state in the same way as before."""
        if (n_members, n_told) != (len(self.members), len(self.told)):
            raise ValueError(self._message())

    def _message(self) -> str:
        return (
            "checkpoint_dir: the strategy did not repeat what it had done before its fit was killed: "
            f"{len(self.told)} calls of val_losses and {len(self.members)} members after {self.n_epochs} "
            "epochs. Draw random numbers only from population.rng, or remove the checkpoints to start anew."
        )


class _MemberState(NamedTuple):
    """Everything that a member's training depends on, except the state of its callbacks."""

    modules: list[dict[str, Any]]
    optimizer: dict[str, Any]
    skips: dict[str, Any]
    path: MetaparameterPath
    history: Any
    val_temperature: Any
    diverged: bool
    draws: _Draws
