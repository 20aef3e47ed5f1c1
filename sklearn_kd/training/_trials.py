"""Train students as trials: return their L_val, and keep the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.parallel import Parallel

from sklearn_kd.checkpointing._trial_cache import TrialCache
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._broadcast import calls
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._processes import count_processes, one_thread_per_process, streaming_return_as
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._ending import Ending, ending_of
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stackable import group_stackable
from sklearn_kd.training._stacked import train_stacked
from sklearn_kd.training._work import threads_of_training


class TrialsInterrupted(KeyboardInterrupt):
    """Raised if a user ends the trials.

    Attributes
    ----------
    val_loss : float
    net : TrainingNet
        The net with the smallest L_val so far, including interrupted ones.
    """

    def __init__(self, val_loss: float, net: TrainingNet):
        super().__init__(val_loss, net)
        self.val_loss, self.net = val_loss, net


class BestTrial(NamedTuple):
    """The trial with the smallest L_val.

    Attributes
    ----------
    setting : list of float
        The components of its metaparameters.
    loss, averaged, weights, beside : float, bool or None, dict of str to Tensor, dict of str to Tensor
        As in :class:`Ending`.
    """

    setting: list[float]
    loss: float
    averaged: bool | None
    weights: dict[str, Any]
    beside: dict[str, Any]

    @property
    def ending(self) -> Ending:
        """End of the training of the trial."""
        return Ending(*self[1:])


class Trials:
    """Fresh students trained at fixed metaparameters, all on the same data with the same seed.

    Parameters
    ----------
    make_net : callable(dict) -> TrainingNet
        Makes an initialised net whose metaparameters have these values.
    space : MetaparameterSpace
    start : mapping of str to float or ndarray
        Values of metaparameters that a setting does not name.
    data : SplitData
    seed : int
        Seed of each training.
    cache : TrialCache
        Losses that are already known.

    Attributes
    ----------
    best : BestTrial or None
        The best trial so far.
    """

    def __init__(
        self,
        make_net: Callable[[dict[str, Any]], TrainingNet],
        space: MetaparameterSpace,
        start: Mapping[str, Any],
        data: SplitData,
        seed: int,
        cache: TrialCache,
    ):
        self._make_net, self._data, self._seed, self._cache = make_net, data, seed, cache
        self._space, self._start = space, start
        self._best: list[tuple[float, TrainingNet]] = []
        self.best = None if cache.best is None else BestTrial(**cache.best)

    def losses(self, settings: Sequence[Mapping[str, Any]], n_jobs: int | None = None) -> list[float]:
        """Return L_val of a student trained at each setting; a missing metaparameter has its start value.

        Raises
        ------
        TrialsInterrupted
            With the best of all trials, including those of earlier calls.
        ValueError
            If a setting cannot be used, or there is no D_val.
        """
        if self._data.valid is None:
            raise ValueError(
                "A strategy that tries settings needs D_val. Set learns_from_validation = True in its class, "
                "or give fit X_val and y_val."
            )
        complete = [self._space.completed(self._start, setting) for setting in settings]
        nets = [self._make_net(setting) for setting in complete]
        rows = [self._space.join(setting).tolist() for setting in complete]
        known, record = self._cache.lookup(rows)
        if self._cache.best is None:  # also if earlier losses have been dropped
            self.best = None

        def note(endings: dict[int, Ending], interrupted: bool) -> None:
            for k, ending in endings.items():
                if np.isfinite(ending.loss) and (self.best is None or ending.loss < self.best.loss):
                    self.best = BestTrial(rows[k], *ending)
            best = None if self.best is None else self.best._asdict()
            record({k: ending.loss for k, ending in endings.items()}, interrupted, best)

        try:
            losses = trial_losses(nets, self._data, self._seed, n_jobs, known, note)
        except TrialsInterrupted as interrupted:
            self._best.append((interrupted.val_loss, interrupted.net))
            raise TrialsInterrupted(*min(self._best, key=_ranked)) from None
        self._best += _trained_here(dict(enumerate(losses)), nets)
        self._best = sorted(self._best, key=_ranked)[:1]
        return losses


def trial_losses(
    nets: Sequence[TrainingNet],
    data: SplitData,
    seed: int,
    n_jobs: int | None = None,
    known: Mapping[int, float] = MappingProxyType({}),
    note: Callable[[dict[int, Ending], bool], None] = lambda endings, interrupted: None,
) -> list[float]:
    """Train nets and return their L_val.

    They are trained in one batched run if that is possible and pays, else in processes.

    Parameters
    ----------
    nets : sequence of TrainingNet
        Initialised nets that differ only in the values of their metaparameters.
    data : SplitData
        Data of all of them.
    seed : int
        Seed of each training.
    n_jobs : int or None, default=None
        Number of processes, as for joblib.
    known : mapping of int to float, default={}
        The losses of nets that need not be trained any more.
    note : callable(endings, interrupted), default=nothing
        Called with the endings of trainings as soon as they are known, and with whether a user interrupted
        them.

    Raises
    ------
    TrialsInterrupted
        If a user ended one of them.
    """
    assert data.valid is not None
    losses: dict[int, float] = dict(known)
    # Group as if no loss were known, because a net trained alone rounds differently from one of several.
    groups = [
        members for members in group_stackable(nets, [data] * len(nets)) if not losses.keys() >= set(members)
    ]
    alone = [k for members in groups if len(members) == 1 for k in members]
    for members in groups:
        if len(members) > 1:
            train_stacked([nets[k] for k in members], [data] * len(members))
            with threads_of_training([nets[members[0]]], data):
                found = {k: ending_of(nets[k], data.valid) for k in members}
            _note(note, found, nets[members[0]].interrupted_, losses, nets)
    shared = nets[0].ranks.size > 1  # all processes train each net together, one net after another
    n_processes = 1 if shared else count_processes(n_jobs, max(len(alone), 1))
    if n_processes == 1:
        for k in alone:
            ending, interrupted = _trained(nets[k], data, seed)
            _note(note, {k: ending}, interrupted, losses, nets)
    else:
        with one_thread_per_process():
            parallel = Parallel(n_jobs=n_processes, return_as=streaming_return_as())
            paths = [nets[k].metaparameters for k in alone]
            trials = parallel(calls(_trained_elsewhere, (nets[alone[0]], data, seed), paths, n_processes))
            for k, (ending, interrupted) in zip(alone, trials, strict=True):
                _note(note, {k: ending}, interrupted, losses, nets)
    return [losses[k] for k in range(len(nets))]


def _trained(net: TrainingNet, data: SplitData, seed: int) -> tuple[Ending, bool]:
    with threads_of_training([net], data), torch_state_lock():
        net = train_alone(net, data, seed)
        assert data.valid is not None
        ending = ending_of(net, data.valid)
        loss, averaged = net.ranks.broadcast((ending.loss, ending.averaged))
        return ending._replace(loss=loss, averaged=averaged), net.interrupted_


def _trained_elsewhere(
    shared: tuple[TrainingNet, SplitData, int], metaparameters: MetaparameterPath
) -> tuple[Ending, bool]:
    """Train a copy of the first net at the metaparameters of another; everything else is the same."""
    net, data, seed = shared
    net.metaparameters = metaparameters
    return _trained(net, data, seed)


def _note(
    note: Callable[[dict[int, Ending], bool], None],
    found: dict[int, Ending],
    interrupted: bool,
    losses: dict[int, float],
    nets: Sequence[TrainingNet],
) -> None:
    """Add the new losses, and stop if a user has interrupted."""
    note(found, interrupted)
    losses |= {k: ending.loss for k, ending in found.items()}
    if interrupted:
        trained = _trained_here(losses, nets)
        raise TrialsInterrupted(*min(trained, key=_ranked)) if trained else KeyboardInterrupt


def _trained_here(losses: dict[int, float], nets: Sequence[TrainingNet]) -> list[tuple[float, TrainingNet]]:
    """Return (L_val, net) of the trials trained in this process; other nets are untrained here."""
    return [(loss, nets[k]) for k, loss in losses.items() if len(nets[k].history)]


def _ranked(trial: tuple[float, TrainingNet]) -> float:
    loss, _ = trial
    return loss if np.isfinite(loss) else np.inf
