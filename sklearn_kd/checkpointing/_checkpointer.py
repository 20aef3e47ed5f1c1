"""Write the checkpoints of one stage of a fit, and resume the stage from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.checkpointing._protocols import Stateful, TrainingState
from sklearn_kd.checkpointing._rank_checkpoints import FitCheckpoints
from sklearn_kd.files._history import decode_history, encode_history
from sklearn_kd.files._values import STATE_VALUES
from sklearn_kd.inputs._batches import check_batches_state

# Tolerance of the comparison of teacher logits, since another number of threads rounds differently.
_TOLERANCE = 1e-4


class Checkpointer:
    """Checkpoints of one stage of a fit, such as "training".

    Parameters
    ----------
    checkpoints : Checkpoints or RankCheckpoints
        Checkpoints of the whole fit.
    stage : str
        Prefix of the names of the files, in lower-case letters.
    training : TrainingState
        The state to write and to restore.
    teacher_signature : Tensor or None, default=None
        Some of the teacher's outputs, to refuse a checkpoint written with another teacher.
    """

    def __init__(
        self,
        checkpoints: FitCheckpoints,
        stage: str,
        training: TrainingState,
        teacher_signature: Tensor | None = None,
    ) -> None:
        self._checkpoints, self._stage, self._training = checkpoints, stage, training
        self._signature = None if teacher_signature is None else teacher_signature.detach().cpu()
        self._iterators: dict[str, Stateful] = {}
        self._restored_iterators: dict[str, Any] = {}
        self._n_restored = 0

    def of(self, training: TrainingState) -> Checkpointer:
        """Return the checkpoints of the same stage with another state."""
        return Checkpointer(self._checkpoints, self._stage, training, self._signature)

    # ----------------------------------------------------------------------------------
    # In the training loop

    def restore(self) -> int:
        """Load the latest checkpoint, if there is one; return the number of epochs trained before it.

        Raises
        ------
        ValueError
            If there are checkpoints and none can be used.
        """
        self._training.begin()

        def load(state: dict[str, Any]) -> None:
            for iterator_state in state["iterators"].values():
                check_batches_state(iterator_state)
            self._training.load_state_dict(state["training"])
            self._restored_iterators = dict(state["iterators"])
            self._n_restored = self._training.n_epochs

        self._latest(load)
        return self._n_restored

    def track(self, name: str, iterator: Stateful) -> None:
        """Keep the state of an iterator in the checkpoints; restore it when it is first tracked."""
        if self._iterators.get(name) is not iterator:
            self._iterators[name] = iterator
            state = self._restored_iterators.pop(name, None)
            if state is not None:
                iterator.load_state_dict(state)

    def save(self) -> None:
        """Write a checkpoint. Call it between two epochs.

        Nothing is written if no epoch has been trained since the last checkpoint was loaded.
        """
        if self._training.n_epochs == self._n_restored or not self._checkpoints.active:
            return
        iterators = {name: iterator.state_dict() for name, iterator in self._iterators.items()}
        self._write({"iterators": iterators, "training": self._training.state_dict()})

    # ----------------------------------------------------------------------------------
    # When the stage is over

    def finish_stage(self, result: dict[str, Any]) -> None:
        """Write the result of the stage, in plain values and tensors; ``result["history"]`` is a History."""
        history = encode_history(result["history"], STATE_VALUES, self._training.on_unserializable)
        self._write({"result": STATE_VALUES.encode(result | {"history": None}), "history": history})

    def stage_result(self, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
        """Return the result that :meth:`finish_stage` wrote; None if the stage is not over.

        Parameters
        ----------
        check : callable(result)
            Raises an error if the result cannot be used.

        Raises
        ------
        ValueError
            If there are checkpoints and none can be used.
        """
        result: dict[str, Any] = {}

        def load(state: dict[str, Any]) -> None:
            result.clear()
            if "result" in state:
                found = STATE_VALUES.decode(state["result"]) | {
                    "history": decode_history(state["history"], STATE_VALUES)
                }
                check(found)
                # A copy of the history, since the check may have kept the one that it was given.
                result.update(found | {"history": decode_history(state["history"], STATE_VALUES)})

        self._latest(load)
        return result or None

    # ----------------------------------------------------------------------------------

    def _write(self, state: dict[str, Any]) -> None:
        identity: dict[str, Any] = {"teacher": self._signature, "start": self._training.initial_values}
        if self._checkpoints.n_ranks > 1:
            identity["n_ranks"] = self._checkpoints.n_ranks
        self._checkpoints.write(self._stage, self._training.n_epochs, identity | state)

    def _latest(self, load: Callable[[dict[str, Any]], None]) -> None:
        self._checkpoints.latest(self._stage, self._why_other_training, load)

    def _why_other_training(self, state: dict[str, Any]) -> str | None:
        """Return why a state belongs to another training, or None."""
        start, saved_start = self._training.initial_values, state["start"]
        if start.shape != saved_start.shape or not torch.equal(start, saved_start):
            return "it started from other metaparameters, or another process"
        n_saved, n_ranks = state.get("n_ranks", 1), self._checkpoints.n_ranks
        if n_saved != n_ranks:
            return (
                f"it was written by {n_saved} process{'es' * (n_saved > 1)} training together, but now there "
                f"{'are' if n_ranks > 1 else 'is'} {n_ranks} (what each draws by itself, such as dropout, "
                f"cannot be divided anew; start {n_saved}, or give another checkpoint_dir to begin again)"
            )
        saved, current = state["teacher"], self._signature
        if saved is None or current is None:
            return None if saved is current else "only one of this fit and the checkpoint's fit has a teacher"
        if saved.shape != current.shape or not torch.allclose(
            saved, current, rtol=_TOLERANCE, atol=_TOLERANCE
        ):
            return (
                "the teacher's outputs differ from those it was written with (a teacher that is trained "
                "differently each time needs a random_state; or give teacher_logits instead)"
            )
        return None


def teacher_signature(logits: Iterable[Tensor], n_rows: int) -> Tensor:
    """Return 64 rows of a teacher's logits and the mean of all rows, float64.

    Parameters
    ----------
    logits : iterable of Tensor
        The logits of all rows, in parts.
    n_rows : int
    """
    picked = torch.linspace(0, n_rows - 1, min(64, n_rows)).long()
    rows, start, total = [], 0, torch.zeros(())
    for part in logits:
        part = part.detach().cpu().double()
        rows.append(part[picked[(picked >= start) & (picked < start + len(part))] - start])
        start, total = start + len(part), total + part.sum(dim=0)
    return torch.cat([*rows, total[None] / n_rows])
