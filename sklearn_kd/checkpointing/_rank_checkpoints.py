"""Checkpoints of a fit on several ranks: the first has the files, and all get the same content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sklearn_kd.checkpointing._checkpoints import Checkpoints, reason_against
from sklearn_kd.runtime._ranks import Ranks


class RankCheckpoints:
    """Checkpoints of one fit on several ranks, with the methods of :class:`Checkpoints`.

    All ranks call the same methods in the same order.

    Parameters
    ----------
    ranks : Ranks
    own : Checkpoints
        Checkpoints of this rank: with a folder on the first, without one on the others.

    Attributes
    ----------
    seeds : list of lists of int
        The seeds that the fit uses: those of the first rank.
    active : bool
        Whether checkpoints are written.
    n_ranks : int
        Number of ranks.
    """

    def __init__(self, ranks: Ranks, own: Checkpoints) -> None:
        self._ranks, self._own, self.n_ranks = ranks, own, ranks.size
        self.seeds, self.active = ranks.broadcast((own.seeds, own.active))

    def write(self, stage: str, number: int, state: dict[str, Any]) -> None:
        """Write a checkpoint on the first rank."""
        self._own.write(stage, number, state)

    def release(self) -> None:
        """Write no more checkpoints; existing ones are kept for another fit."""
        self._own.release()
        self.active = False

    def close(self, interrupted: bool) -> None:
        """Delete all checkpoints, or release them if Ctrl-C has interrupted the fit."""
        self._own.close(interrupted)
        self.active = False

    def latest(
        self,
        stage: str,
        why_not: Callable[[dict[str, Any]], str | None] = lambda state: None,
        use: Callable[[dict[str, Any]], Any] = lambda state: None,
    ) -> dict[str, Any] | None:
        """Return the content of the latest checkpoint that the first rank can use, and use it on all ranks.

        Parameters
        ----------
        stage, why_not, use
            As in :meth:`Checkpoints.latest`.

        Raises
        ------
        ValueError
            If there are checkpoints and none can be used.
        """
        if not self.active:
            return None
        if self._ranks.is_first:
            content = self._own.latest(stage, why_not, use)
            self._ranks.broadcast(content)
            return content
        content = self._ranks.broadcast(None)
        if content is not None:
            reason = reason_against(content["state"], why_not, use)
            if reason is not None:
                raise ValueError(f"checkpoint_dir: rank {self._ranks.rank} cannot use {stage!r}: {reason}.")
        return content


FitCheckpoints: TypeAlias = Checkpoints | RankCheckpoints
