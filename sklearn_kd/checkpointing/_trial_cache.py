"""Write the losses of a strategy's trials as they become known, and look them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sklearn_kd.checkpointing._rank_checkpoints import FitCheckpoints


class TrialCache:
    """The losses of the trials of one fit, kept in its checkpoints so that no trial runs twice.

    Parameters
    ----------
    checkpoints : Checkpoints or RankCheckpoints
        Losses that an earlier, killed fit wrote are read from them.

    Attributes
    ----------
    best : dict or None
        Recorded description of the best trial, in plain values and tensors.
    """

    def __init__(self, checkpoints: FitCheckpoints) -> None:
        self._checkpoints = checkpoints
        content = checkpoints.latest("trials", use=_check_calls)
        # One list per call of lookup, with a row [*values, loss or None] per trial.
        self._calls: list[list[list[Any]]] = [] if content is None else content["state"]["calls"]
        self.best: dict[str, Any] | None = None if content is None else content["state"]["best"]
        self._n_calls = 0

    def lookup(
        self, settings: Sequence[Sequence[float]]
    ) -> tuple[dict[int, float], Callable[[dict[int, float], bool, dict[str, Any] | None], None]]:
        """Return the known losses of the next batch of trials, and a callback that records new ones.

        Losses recorded for other settings are dropped, with those of all later calls.

        Parameters
        ----------
        settings : sequence of sequences of float
            The components of the metaparameters of each trial.

        Returns
        -------
        losses : dict of int to float
            The known losses, by the index of their trial.
        record : callable(losses, interrupted, best)
            Records losses, by the index of their trial, and the best trial of all. If ``interrupted``, a user
            ended these trials early: neither they nor later ones are written.
        """
        wanted = [[float(value) for value in setting] for setting in settings]
        k, self._n_calls = self._n_calls, self._n_calls + 1
        if k >= len(self._calls) or [row[:-1] for row in self._calls[k]] != wanted:
            if any(row[-1] is not None for call in self._calls[k:] for row in call):
                self.best = None  # it may be one of the dropped ones
            self._calls[k:] = [[[*row, None] for row in wanted]]
        rows = self._calls[k]

        def record(losses: dict[int, float], interrupted: bool, best: dict[str, Any] | None) -> None:
            self.best = best
            if interrupted:
                self._checkpoints.release()
            for index, loss in losses.items():
                rows[index][-1] = loss
            n_known = sum(row[-1] is not None for call in self._calls for row in call)
            self._checkpoints.write("trials", n_known, {"calls": self._calls, "best": best})

        return {index: row[-1] for index, row in enumerate(rows) if row[-1] is not None}, record


def _check_calls(state: dict[str, Any]) -> None:
    """Raise ValueError unless a :class:`TrialCache` wrote this state."""
    best = state["best"]
    if not (best is None or set(best) == {"setting", "loss", "averaged", "weights", "beside"}):
        raise ValueError(f"a best trial {str(best)[:100]}")
    for rows in state["calls"]:
        for row in rows:
            *values, loss = row
            if {type(value) for value in values} - {float} or type(loss) not in (float, type(None)):
                raise ValueError(f"a trial {str(row)[:100]}")
