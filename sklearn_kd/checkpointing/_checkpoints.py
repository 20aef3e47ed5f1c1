"""Write, find and delete the checkpoints of one fit.

Each fit has a folder of its own in ``checkpoint_dir``, named by the fingerprint of the fit, so that the folds
of a cross-validation and the candidates of a search can share ``checkpoint_dir``. The folder holds the last
two checkpoints of each stage of the fit, such as "training".
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sklearn_kd._version import running_versions
from sklearn_kd.checkpointing._file import Refused
from sklearn_kd.checkpointing._file import read as read_file
from sklearn_kd.checkpointing._file import write as write_file
from sklearn_kd.checkpointing._fit_lock import FitLock
from sklearn_kd.files._atomic import remove_leftovers

_N_KEPT = 2
_NAME = re.compile(r"([a-z]+)-(\d{8})\.checkpoint")
# Checkpoints that the fit in this thread has opened; None outside a fit.
_OPENED: ContextVar[list[Checkpoints] | None] = ContextVar("opened", default=None)


@contextmanager
def released_on_failure() -> Iterator[None]:
    """Release checkpoints opened inside if the block fails, so that the next fit can continue.

    Waiting until they are freed is not enough: whatever keeps the error, such as a notebook, keeps the frames
    of the fit too.
    """
    opened: list[Checkpoints] = []
    token = _OPENED.set(opened)
    try:
        yield
    except BaseException:
        for checkpoints in opened:
            checkpoints.release()
        raise
    finally:
        _OPENED.reset(token)


class Checkpoints:
    """Checkpoints of one fit. Without ``checkpoint_dir``, every method does nothing.

    Parameters
    ----------
    parent : Path or None
        ``checkpoint_dir``.
    digest : str
        The fingerprint of the fit.
    seeds : sequence of sequences of int
        The seeds drawn for the fit.
    drawn_anew : bool
        Whether another process would draw other seeds, so that the seeds in the checkpoints are used.

    Attributes
    ----------
    seeds : list of lists of int
        The seeds that the fit uses.
    n_ranks : int
        Number of ranks: 1.

    Raises
    ------
    ValueError
        If there are checkpoints and none can be used.
    """

    n_ranks = 1

    def __init__(
        self, parent: Path | None, digest: str, seeds: Sequence[Sequence[int]], drawn_anew: bool
    ) -> None:
        self._digest, self.seeds = digest, [list(own) for own in seeds]
        self._folder: Path | None = None
        self._warned: set[Path] = set()
        self._failed = False
        if parent is None:
            return
        self._folder = parent / digest
        try:
            self._lock = FitLock(self._folder)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir={str(parent)!r} cannot be written to: {error}. Give a folder that can be "
                "written to, or None."
            ) from error
        if not self._lock.held:
            warnings.warn(
                "checkpoint_dir: another process, or another thread of this one, runs the same fit, in "
                f"{self._folder}. This fit writes no checkpoints. If you want both, give each its own "
                "checkpoint_dir.",
                UserWarning,
                stacklevel=2,
            )
            self._folder = None
            return
        of_fit = _OPENED.get()
        if of_fit is not None:
            of_fit.append(self)
        remove_leftovers(self._folder)
        for stage in sorted({stage for _, stage, _ in self._files()}):
            content = self.latest(stage)
            if content is not None and drawn_anew:
                self.seeds = content["seeds"]

    @property
    def active(self) -> bool:
        """Whether checkpoints are written."""
        return self._folder is not None

    # ----------------------------------------------------------------------------------
    # Write and delete

    def write(self, stage: str, number: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, and delete all others of its stage except the previous one.

        If it cannot be written, for example on a full disk, the fit continues after a single warning, since a
        running fit is worth more than protection from a crash. The previous checkpoint is kept.

        Parameters
        ----------
        stage : str
            Lower-case letters.
        number : int
            A number that rises within a stage, such as the number of epochs.
        state : dict
            Plain values and tensors.
        """
        if self._folder is None:
            return
        content = {"fit": self._digest, "seeds": self.seeds, "versions": running_versions(), "stage": stage}
        try:
            write_file(self._folder / f"{stage}-{number:08d}.checkpoint", content | {"state": state})
            there = self._files(stage)
            # Later ones have been refused, or the fit would have resumed from them.
            ahead = [file for file in there if file[2] > number]
            for path, _, _ in [*ahead, *there[len(ahead) + _N_KEPT :]]:
                path.unlink(missing_ok=True)
        except OSError as error:
            if not self._failed:
                message = f"checkpoint_dir: a checkpoint could not be written: {error}. The fit continues."
                warnings.warn(message, UserWarning, stacklevel=2)
            self._failed = True

    def release(self) -> None:
        """Write no more checkpoints; existing ones are kept for another fit."""
        if self._folder is not None:
            self._lock.release()
        self._folder = None

    def delete_all(self) -> None:
        """Delete all checkpoints, because the fit has ended."""
        if self._folder is not None:
            try:
                for path, _, _ in self._files():
                    path.unlink(missing_ok=True)
                self._lock.remove()
                self._folder.rmdir()
            except OSError:
                pass  # the folder holds other files, or has been removed
        self._folder = None

    def close(self, interrupted: bool) -> None:
        """Delete all checkpoints, or release them if Ctrl-C has interrupted the fit."""
        if interrupted:
            self.release()
        else:
            self.delete_all()

    # ----------------------------------------------------------------------------------
    # Find

    def latest(
        self,
        stage: str,
        why_not: Callable[[dict[str, Any]], str | None] = lambda state: None,
        use: Callable[[dict[str, Any]], Any] = lambda state: None,
    ) -> dict[str, Any] | None:
        """Return the content of the latest usable checkpoint; None if there is no checkpoint.

        A warning names each later checkpoint that cannot be used, with the reason.

        Parameters
        ----------
        stage : str
        why_not : callable(state) -> str or None
            Returns a reason why a state cannot be used.
        use : callable(state)
            Uses a state. If it raises an error, the previous checkpoint is tried.

        Raises
        ------
        ValueError
            If there are checkpoints and none can be used.
        """
        reasons: list[tuple[Path, str]] = []
        for path, _, _ in self._files(stage):
            try:
                content = self._checked(read_file(path), stage)
                reason = reason_against(content["state"], why_not, use)
            except Refused as refused:
                reason = str(refused)
            if reason is None:
                for other, why in reasons:
                    self._warn(other, why)
                return content
            reasons.append((path, reason))
        if not reasons:
            return None
        listed = "; ".join(f"{path.name}: {reason}" for path, reason in reasons)
        raise ValueError(
            f"checkpoint_dir: none of the checkpoints of this fit in {self._folder} can be used. {listed}. "
            "Remove that folder to start anew, give another checkpoint_dir, or remove the causes named."
        )

    def _checked(self, content: Any, stage: str) -> dict[str, Any]:
        known = isinstance(content, dict) and {"fit", "seeds", "versions", "stage", "state"} <= content.keys()
        if not known or not isinstance(content["versions"], dict) or not isinstance(content["state"], dict):
            raise Refused("it does not hold a checkpoint")
        if content["fit"] != self._digest or content["stage"] != stage:
            raise Refused("it belongs to another fit, with other data or parameters")
        running = running_versions()
        for name, version in content["versions"].items():
            if running.get(name) != version:
                raise Refused(f"it was written with {name} {version}, but {running.get(name)} is running")
        if not _are_seeds(content["seeds"], self.seeds):
            raise Refused("it does not hold a checkpoint: its seeds are invalid")
        return content

    def _files(self, stage: str | None = None) -> list[tuple[Path, str, int]]:
        """List (path, stage, number) of the checkpoints, the latest first."""
        if self._folder is None:
            return []
        matches = [(path, _NAME.fullmatch(path.name)) for path in self._folder.iterdir()]
        found = [(path, match[1], int(match[2])) for path, match in matches if match is not None]
        return sorted(
            (file for file in found if stage in (None, file[1])), key=lambda file: file[2], reverse=True
        )

    def _warn(self, path: Path, reason: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            message = f"checkpoint_dir: {path} is not used: {reason}. The previous one is used."
            warnings.warn(message, UserWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets neither the folder nor the lock.
        return vars(self) | {"_folder": None, "_lock": None}


def reason_against(
    state: dict[str, Any],
    why_not: Callable[[dict[str, Any]], str | None],
    use: Callable[[dict[str, Any]], Any],
) -> str | None:
    """Use a state; return None, or the reason why it cannot be used."""
    try:
        reason = why_not(state)
        if reason is None:
            use(state)
        return reason
    except Exception as error:  # a foreign state may fail in any way
        return f"its content is wrong ({type(error).__name__}: {error})"


def _are_seeds(given: Any, drawn: list[list[int]]) -> bool:
    """Return whether ``given`` holds valid seeds, as many as were drawn."""
    return (
        isinstance(given, list)
        and [len(own) if isinstance(own, list) else None for own in given] == [len(own) for own in drawn]
        and all(type(seed) is int and 0 <= seed < 2**32 for own in given for seed in own)
    )
