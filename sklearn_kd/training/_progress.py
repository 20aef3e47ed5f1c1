"""Print a line for each epoch of a fit in several phases, with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from skorch.callbacks import Callback

# Columns to show of an epoch, if it has them.
_SHOWN = {
    "train_loss": ".4f",
    "valid_loss": ".4f",
    "valid_acc": ".4f",
    "pathways": ".1f",
    "skipped_steps": "d",
    "skipped_hypergradients": "d",
    "lambda1": ".3f",
    "temperature": ".2f",
}


class Progress(Callback):
    """Print the progress of a phase, its last losses, and an estimate of the time left.

    Parameters
    ----------
    phase : str
    n_epochs : int
        Number of epochs of this phase.
    later : float, default=0.0
        Work after this phase, in epochs of this phase.
    sink : callable(str), default=print
    clock : callable() -> float, default=time.monotonic
    """

    def __init__(
        self,
        phase: str,
        n_epochs: int,
        later: float = 0.0,
        sink: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.phase = phase
        self.n_epochs = n_epochs
        self.later = later
        self.sink = sink
        self.clock = clock

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began_ = self.clock()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Print the line."""
        done, row = len(net.history), net.history[-1]
        took = self.clock() - self.began_
        left = took / done * (max(0, self.n_epochs - done) + self.later)
        shown = [f"{name} {row[name]:{form}}" for name, form in _SHOWN.items() if row.get(name) is not None]
        shown += [f"{name} {value:.4g}" for name, value in row.items() if name.endswith("_weight")]
        place = f"{self.phase} {done:>{len(str(self.n_epochs))}}/{self.n_epochs}"
        self.sink(f"{'  '.join([place, *shown])}  {in_words(took)}, about {in_words(left)} left")


def in_words(seconds: float) -> str:
    """Write a duration in the largest unit that fits.

    Examples
    --------
    >>> in_words(4.24), in_words(150), in_words(7260)
    ('4.2 s', '2.5 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
