"""Check the callbacks that users give, before any training: their type, what they monitor, their steps."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from sklearn.metrics import get_scorer, get_scorer_names
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochScoring, GradientNormClipping, LRScheduler, PassthroughScoring
from skorch.callbacks.scoring import ScoringBase
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sklearn_kd._sklearn_compat import metric_of_scorer
from sklearn_kd.errors._did_you_mean import did_you_mean

# Types that scikit-learn's parameter validation accepts.
CALLBACK_KINDS = [list, tuple, Callback, type, None]
# Largest number of steps to try a schedule for, at some 5 µs each. For longer ones compare total_steps.
_MOST_TRIED_STEPS = 20_000


def listed_callbacks(callbacks: Any, name: str = "callbacks") -> list:
    """Return callbacks, given as a list, a tuple or a single one, as the list that skorch takes.

    Raises
    ------
    TypeError
        If one of them is not a callback. ``name`` is the name of the parameter.
    """
    if callbacks is None:
        return []
    alone = not isinstance(callbacks, (list, tuple)) or _is_named(callbacks)
    found = [callbacks] if alone else list(callbacks)
    for given in found:
        callback = given[1] if _is_named(given) else given
        kind = callback if isinstance(callback, type) else type(callback)
        if not hasattr(kind, "on_epoch_end"):
            raise TypeError(
                f"{name} has {given!r:.200}, which is not a callback. Give a list of skorch's callbacks, "
                f"such as {name}=[skorch.callbacks.EarlyStopping()], or of pairs (name, callback)."
            )
    return found


def _is_named(given: Any) -> bool:
    """Return whether ``given`` is a pair (name, callback)."""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)


def check_callback_names(net: NeuralNet, routed: Iterable[str]) -> None:
    """Refuse ``callbacks__NAME`` where no callback of the net has that name."""
    known = {name for name, _ in (*net.get_default_callbacks(), *net.callbacks_)}
    for name in routed:
        if name.partition("__")[0] not in known:
            raise TypeError(
                f"callbacks__{name}: there is no such callback."
                f"{did_you_mean(name.partition('__')[0], known)} There are {sorted(known)}."
            )


def check_monitors(net: NeuralNet, recorded: Iterable[str], validated: bool, who: str) -> None:
    """Refuse callbacks that monitor a name that no epoch of the training records.

    Parameters
    ----------
    net : NeuralNet
        Initialised.
    recorded : iterable of str
        Names that the net itself records in each epoch.
    validated : bool
        Whether there is a D_val.
    who : str
        What a message calls the training.

    Raises
    ------
    ValueError
        Names the callback and what it could monitor.
    """
    complete = True  # false after a callback of the user's own, which may record anything
    known = {*recorded, "epoch", "dur", "train_loss", "train_loss_best", "train_batch_count"}
    known |= {"valid_loss", "valid_loss_best", "valid_batch_count"} if validated else set()
    for _, callback in net.callbacks_:
        monitor = _monitor(callback)
        ours = type(callback).__module__.startswith("skorch.")
        if monitor is not None and monitor not in known:
            missing = not validated and monitor.startswith("valid_")
            if missing or (ours and complete):
                _refuse_monitor(callback, monitor, known, missing, who)
        complete &= ours
        known |= _recorded_by(callback, validated)


def _monitor(callback: Callback) -> str | None:
    """Return the name in the history that a callback monitors, or None."""
    monitor = getattr(callback, "monitor", None)
    if isinstance(callback, LRScheduler) and callback.policy_ is not ReduceLROnPlateau:
        return None
    return monitor if isinstance(monitor, str) else None


def _recorded_by(callback: Callback, validated: bool) -> set[str]:
    if isinstance(callback, EpochScoring):
        name = callback.name_
        return {name, f"{name}_best"} if validated or callback.on_train else set()
    if isinstance(callback, PassthroughScoring):
        return {callback.name, f"{callback.name}_best"} if validated or callback.on_train else set()
    return {name for name in (getattr(callback, "event_name", None),) if name}


def _refuse_monitor(callback: Callback, monitor: str, known: set[str], missing: bool, who: str) -> None:
    kind = type(callback).__name__
    if missing:
        raise ValueError(
            f"callback {kind} monitors {monitor!r}, but {who} trains on all rows and holds none out. Give "
            "fit X_val and y_val, or monitor 'train_loss'."
        )
    raise ValueError(
        f"callback {kind} monitors {monitor!r}, which is not recorded before it."
        f"{did_you_mean(monitor, known)} It may monitor {sorted(known)}; an EpochScoring in front of it "
        "adds its name."
    )


def check_scorers(net: NeuralNet) -> None:
    """Raise ValueError if a callback scores a regression by a classification scorer of scikit-learn."""
    for name, callback in net.callbacks_:
        scoring = getattr(callback, "scoring", None)
        if not isinstance(scoring, str) or scoring not in get_scorer_names():
            continue
        metric, _ = metric_of_scorer(get_scorer(scoring))
        if not getattr(metric, "__module__", "").endswith("._regression"):
            raise ValueError(
                f"callback {name!r} scores by {scoring!r}, which is for classes. Give it a scorer for "
                "regression, such as 'neg_mean_absolute_error'."
            )


def check_pixel_scorers(net: NeuralNet) -> None:
    """Raise ValueError if a callback would score maps of classes by its own predictions, not by rows."""
    for name, callback in net.callbacks_:
        if isinstance(callback, ScoringBase) and not callback.use_caching:
            raise ValueError(
                f"callback {name!r} has use_caching=False: it would predict maps, but scorers of classes "
                "take rows. Set use_caching=True, which gives it the known pixels as rows."
            )


def check_clipping(net: NeuralNet) -> None:
    """Raise ValueError if both a callback and ``max_grad_norm`` clip the gradients."""
    for name, callback in net.callbacks_:
        limit = getattr(callback, "gradient_clip_value", None)
        if isinstance(callback, GradientNormClipping) and limit is not None and net.max_grad_norm is not None:
            raise ValueError(
                f"max_grad_norm={net.max_grad_norm!r} with the callback {name!r}, "
                f"GradientNormClipping({limit!r}): the gradients would be clipped twice. Give one of them."
            )


def check_schedules(net: NeuralNet, n_batches: int) -> None:
    """Refuse learning rate schedules that end or fail before the training does.

    ``net`` will not be trained: the schedules are tried on its optimizer. ``n_batches`` is the number of
    iterations in an epoch.

    Raises
    ------
    ValueError
        Names the schedule and the number of steps that it must have.
    """
    for _, callback in net.callbacks_:
        if isinstance(callback, LRScheduler):
            by_epoch = callback.step_every == "epoch"
            _check_schedule(net, callback, net.max_epochs * (1 if by_epoch else n_batches), n_batches)


def _check_schedule(net: NeuralNet, callback: LRScheduler, n_steps: int, n_batches: int) -> None:
    taken = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = callback.policy_(net.optimizer_, **callback.kwargs)
            if isinstance(scheduler, ReduceLROnPlateau):
                return  # its steps need a score, and never end
            n_tried = n_steps if n_steps <= _MOST_TRIED_STEPS else 1
            for taken in range(n_tried):  # noqa: B007 (used in the message)
                scheduler.step()
            total = getattr(scheduler, "total_steps", n_steps)
            if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR) and total < n_steps:
                taken = total
                raise ValueError(f"it has total_steps={total}")
    except Exception as error:
        policy = getattr(callback.policy_, "__name__", repr(callback.policy_))
        if isinstance(error, TypeError) and taken == 0:
            raise TypeError(
                f"callback LRScheduler: {policy} cannot be made with {sorted(callback.kwargs)}: {error}."
            ) from error
        steps = f"max_epochs = {net.max_epochs}"
        if callback.step_every != "epoch":
            steps += f" × {n_batches} batches"
        raise ValueError(
            f"callback LRScheduler: {policy} fails at step {taken + 1} of the n_steps = {n_steps} steps of "
            f"this training ({steps}): {error}. Give it a schedule of {n_steps} steps, such as "
            f"total_steps={n_steps} of OneCycleLR."
        ) from error
