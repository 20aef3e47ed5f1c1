"""Students that are trained to see how well they learn: their L_val, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.utils.parallel import Parallel, delayed

from sklearn_kd._data import SplitData
from sklearn_kd._net import DistillationNet
from sklearn_kd._processes import count_processes, one_thread_per_process
from sklearn_kd._together import divided, train_alone, train_together
from sklearn_kd._turns import turn


class TrialsInterrupted(KeyboardInterrupt):
    """A user ended the trials.

    Attributes
    ----------
    val_loss : float
    net : DistillationNet
        The one of the smallest L_val of those trained so far, the interrupted ones included.
    """

    def __init__(self, val_loss: float, net: DistillationNet):
        super().__init__(val_loss, net)
        self.val_loss, self.net = val_loss, net


class Trials:
    """Fresh students trained at fixed metaparameters, all on the same data under the same seed.

    Parameters
    ----------
    make_net : callable(lambda1, temperature) -> DistillationNet
        An initialised one.
    data : SplitData
    seed : int
        Of each training.
    """

    def __init__(self, make_net: Callable[[float, float], DistillationNet], data: SplitData, seed: int):
        self._make_net, self._data, self._seed = make_net, data, seed
        self._best: list[tuple[float, DistillationNet]] = []

    def losses(self, settings: Sequence[tuple[float, float]], n_jobs: int | None = None) -> list[float]:
        """L_val of each (lambda1, T) when trained.

        Raises
        ------
        TrialsInterrupted
            With the best of all, those of earlier calls included.
        """
        nets = [self._make_net(*start) for start in settings]
        try:
            losses = trial_losses(nets, self._data, self._seed, n_jobs)
        except TrialsInterrupted as interrupted:
            self._best.append((interrupted.val_loss, interrupted.net))
            raise TrialsInterrupted(*min(self._best, key=_ranked)) from None
        # Those trained in other processes have learned nothing here.
        self._best += [trial for trial in zip(losses, nets, strict=True) if len(trial[1].history)]
        self._best = sorted(self._best, key=_ranked)[:1]
        return losses


def trial_losses(
    nets: Sequence[DistillationNet], data: SplitData, seed: int, n_jobs: int | None = None
) -> list[float]:
    """L_val of each net when trained: together where that can be and pays, else in processes.

    Parameters
    ----------
    nets : sequence of DistillationNet
        Initialised.
    data : SplitData
        Of all of them.
    seed : int
        Of each training.
    n_jobs : int or None, default=None
        Processes, as joblib reads it.

    Raises
    ------
    TrialsInterrupted
        Where a user ended one of them.
    """
    losses: dict[int, float] = {}
    alone: list[int] = []
    for members in divided(nets, [data] * len(nets)):
        if len(members) == 1:
            alone += members
            continue
        train_together([nets[k] for k in members], [data] * len(members))
        losses |= {k: nets[k].validation_loss(data.valid) for k in members}
        _check_interrupted(losses, nets)
    n_processes = count_processes(n_jobs, max(len(alone), 1))
    if n_processes == 1:
        for k in alone:
            losses[k] = _trained(nets[k], data, seed)
            _check_interrupted(losses, nets)
    else:
        with one_thread_per_process():
            found = Parallel(n_jobs=n_processes)(delayed(_trained)(nets[k], data, seed) for k in alone)
        losses |= dict(zip(alone, found, strict=True))
    return [losses[k] for k in range(len(nets))]


def _trained(net, data, seed) -> float:
    with turn():
        return train_alone(net, data, seed).validation_loss(data.valid)


def _check_interrupted(losses, nets):
    if any(nets[k].interrupted_ for k in losses):
        raise TrialsInterrupted(*min(((loss, nets[k]) for k, loss in losses.items()), key=_ranked))


def _ranked(trial):
    loss, _ = trial
    return loss if np.isfinite(loss) else np.inf
