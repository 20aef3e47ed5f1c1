"""Shared parts of the estimators' two stages: the search, and the retraining along its result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from sklearn_kd.estimators._plan import FitPlan, Seeds, Stage, ready_net
from sklearn_kd.meta import PopulationStrategy, Strategy
from sklearn_kd.meta._strategy import updates_metaparameters
from sklearn_kd.training._progress import Progress

if TYPE_CHECKING:
    from skorch.history import History

    from sklearn_kd.training._net import TrainingNet

SEARCH, RETRAINING = "search", "retraining"

# For the estimate of the time left: an iteration has one forward and one backward pass of the student, or
# three and two with a hypergradient. A backward pass counts as two.
_PLAIN, _WITH_HYPERGRADIENT = 3, 7


class SearchOutcome(Protocol):
    """Result of a search: plain values and arrays that a checkpoint can hold, and the history."""

    @property
    def history(self) -> History:
        """History of the net."""

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name, so that ``cls(**fields)`` makes an equal outcome."""


OutcomeT = TypeVar("OutcomeT", bound=SearchOutcome)


def drawn_seeds(random_state: int | np.random.RandomState | None, *, searches: bool) -> list[Seeds]:
    """Draw the seeds of the retraining and, if there is one, of the search.

    Those of the retraining come first, so that it is paired with single trainings of the same
    ``random_state``. The search uses the split of a single training.
    """
    rng = check_random_state(random_state)
    seeds = Seeds.draw(rng)
    return [seeds, Seeds.draw(rng)._replace(split=seeds.split)] if searches else [seeds]


def check_search_epochs(search_epochs: Any) -> None:
    """Raise ValueError for True, which would silently mean a search of one epoch."""
    if search_epochs is True:
        raise ValueError(
            "search_epochs=True must be a number of epochs (an int), a share of max_epochs (a float), or "
            "None for no search. Give 1/3, the default, for a third of the epochs."
        )


def count_epochs(search_epochs: int | float, max_epochs: int) -> int:
    """Return the number of epochs of a search: an int as it is, a float as a share of ``max_epochs``."""
    if isinstance(search_epochs, Integral):
        return int(search_epochs)
    # 0.07 * 100 is 7.000000000000001.
    return max(1, math.ceil(round(search_epochs * max_epochs, 9)))


def run_search(
    plan: FitPlan,
    stage: Stage,
    kind: type[OutcomeT],
    read: Callable[[TrainingNet], OutcomeT],
    check: Callable[[OutcomeT], Any],
) -> tuple[OutcomeT, TrainingNet]:
    """Train the net of a search, or take its result from a checkpoint; return the outcome and the net.

    Parameters
    ----------
    plan : FitPlan
    stage : Stage
        The search.
    kind : type
        Class of the outcome.
    read : callable(net)
        Reads the outcome from the present state of a net.
    check : callable(outcome)
        Raises an error if an outcome from a checkpoint cannot be used.

    Raises
    ------
    KeyboardInterrupt
        If a user or a callback interrupts before anything is learned.
    """
    net: Any = ready_net(plan, stage)
    checkpointer = net.checkpointer_
    known = None
    if checkpointer is not None:
        known = checkpointer.stage_result(lambda known: check(kind(**known)))
    if known is not None:
        net.checkpointer_ = None  # it holds the net, and with it the lock of the checkpoints
        return kind(**known), net
    stage.train_net(plan, stage, net)
    if not net.metaparameters.iteration:
        raise KeyboardInterrupt  # from a user or a callback; nothing has been learned
    found = read(net)
    warn_if_nothing_moved(net)
    if checkpointer is not None and not net.interrupted_:
        checkpointer.finish_stage(found._asdict())
    return found, net


def warn_if_nothing_moved(net: TrainingNet) -> None:
    """Warn if a search that follows hypergradients was too short to take one."""
    table = net.metaparameters.table()
    counts = ("skipped_steps", "skipped_hypergradients")  # reported by other warnings
    skipped = sum(epoch.get(count, 0) for epoch in net.history for count in counts)
    if (
        not len(table)
        or net.interrupted_
        or net.diverged_
        or skipped
        or not updates_metaparameters(net.strategy)
    ):
        return
    moved = any((table[name] != table[name][0]).any() for name in net.metaparameters.space)
    if moved or np.isfinite(table["val_loss"]).any():
        return
    warnings.warn(
        f"The search learned nothing: no hypergradient was taken in its {len(table)} iterations, so that the "
        "retraining follows the values at the start. Adam and AdamW take none in their first ten. Set a "
        "larger search_epochs or a smaller batch_size.",
        ConvergenceWarning,
        stacklevel=2,
    )


def share_of_a_search_step(strategy: Strategy) -> float:
    """Return the mean time of a retraining iteration as a share of that of a search iteration."""
    if isinstance(strategy, PopulationStrategy):
        return 1 / strategy.n_trainings()
    taken = np.mean([strategy.takes_hypergradient(iteration) for iteration in range(1000)])
    return float(_PLAIN / (_PLAIN + taken * (_WITH_HYPERGRADIENT - _PLAIN)))


def progress_callbacks(verbose: Any, stage: str, n_epochs: int, later: float = 0.0) -> list[Any]:
    """Return the callback that prints the epochs of a stage with the time left, if ``verbose`` asks for it.

    ``later`` is the work after the stage, in epochs of the stage.
    """
    return [("progress", Progress(stage, n_epochs, later))] if verbose else []
