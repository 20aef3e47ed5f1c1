"""Hold the current values of named metaparameters, move them, and record their path."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.meta._space import CoordinateMap, MetaparameterSpace
from sklearn_kd.runtime._devices import all_finite, reading_is_free
from sklearn_kd.runtime._eager_optimizers import eager_method, make_optimizer
from sklearn_kd.runtime._optimizers import plain_rate
from sklearn_kd.runtime._snapshots import OptimizerSnapshot


@dataclass(frozen=True)
class MetaOptimizer:
    """Optimizer of the metaparameters of one group, which takes steps in their coordinates θ.

    Parameters
    ----------
    make : callable, default=torch.optim.SGD
        Called with a list of one tensor and ``params``; returns a torch optimizer.
    params : dict, default={"lr": 1.0}
        Further arguments of ``make``.
    clip : float or None, default=None
        Largest absolute value of a component of the hypergradient with respect to θ. None: no limit.
    """

    make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    params: Mapping[str, Any] = field(default_factory=lambda: {"lr": 1.0})
    clip: float | None = None


class MetaparameterSource(Protocol):
    """Metaparameters for a training loop: their current values, and a record by iteration."""

    space: MetaparameterSpace

    @property
    def iteration(self) -> int:
        """Number of recorded iterations."""

    @property
    def has_schedule(self) -> bool:
        """True if the next iteration's values are set."""

    def named(self) -> dict[str, Any]:
        """Return the current values by name: numbers if reading them does not wait, else tensors."""

    def record_unchanged(self) -> None:
        """Record an iteration after which nothing moved."""

    def describe(self, iteration: int) -> str:
        """Describe the values after an iteration, for a message."""


class MetaparameterPath:
    """Metaparameters that move in coordinates θ while a student trains, and their history.

    A strategy (:mod:`sklearn_kd.meta`) gets a path. Its values descend a hypergradient, follow a schedule or
    stay, and each iteration is recorded. All values stay on the device until :meth:`table` copies them at
    once. Every move is projected onto the bounds of the space.

    Parameters
    ----------
    space : MetaparameterSpace
        The metaparameters.
    start : mapping of str to float or array-like
        Initial values. They may lie outside the bounds: only moves are projected.
    optimizers : mapping of str to MetaOptimizer or None, default=None
        Optimizers by group. None, or a missing group: SGD with learning rate 1.
    device : torch.device or str, default="cpu"
        Device of the values.

    Examples
    --------
    A strategy gets a path; one made by hand shows what a step does. The hypergradient 0.2 of lambda1 moves
    it by −lr · 0.2:

    >>> import torch
    >>> from sklearn_kd.losses import Metaparameter
    >>> from sklearn_kd.meta import MetaparameterPath, MetaparameterSpace
    >>> space = MetaparameterSpace({"lambda1": Metaparameter(0.5, bounds=(0, 1))})
    >>> path = MetaparameterPath(space, {"lambda1": 0.5})
    >>> value = path.descend(torch.tensor([0.2], dtype=torch.float64))
    >>> round(path.named()["lambda1"], 3)
    0.3
    """

    def __init__(
        self,
        space: MetaparameterSpace,
        start: Mapping[str, Any],
        optimizers: Mapping[str, MetaOptimizer] | None = None,
        *,
        device: torch.device | str = "cpu",
    ):
        # float64, so that a fixed 0.3 is 0.3 in the path. MPS has no float64.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._make: dict[str, Any] = {"dtype": dtype, "device": device}
        self.space = space
        self._coordinates = CoordinateMap(space, **self._make)
        self._now = torch.tensor(space.join(start), **self._make)
        theta = self._coordinates.to_theta(self._now)
        given = optimizers or {}
        self._groups = [
            _Group(part, theta[part], self._coordinates, given.get(name, MetaOptimizer()))
            for name, part in space.groups.items()
        ]
        self._numbers: dict[str, float] | None = None  # the current ones, until they move
        self._values = [self._now.clone()]
        self._initial = self._values[0]  # even if they move before the first iteration
        self._val_losses: list[Tensor | float] = []
        self._predicted: list[bool] = []
        self._schedule: list[Tensor] = []
        self._waited: list[int] = []  # the iterations recorded by wait

    # ----------------------------------------------------------------------------------
    # Values

    @property
    def iteration(self) -> int:
        """Number of recorded training iterations."""
        return len(self._values) - 1

    def named(self) -> dict[str, Any]:
        """Return the current values by name: numbers if reading them does not wait, else tensors."""
        if not reading_is_free(self._now):
            return self.space.split(self._now)
        if self._numbers is None:
            self._numbers = self.space.split_numbers(self._now.tolist())
        if len(self._numbers) == len(self.space):
            return dict(self._numbers)
        return self.space.split(self._now) | self._numbers

    def values_now(self) -> dict[str, np.ndarray]:
        """Return the current values by name, on the host."""
        return self.space.split(self._now.cpu().numpy())

    def values_after(self, iteration: int) -> dict[str, np.ndarray]:
        """Return the values after ``iteration`` recorded iterations, by name, on the host."""
        return self.space.split(self._values[iteration].cpu().numpy())

    def describe(self, iteration: int) -> str:
        """Describe the single numbers after an iteration for a message, in brackets after a space."""
        values = self.values_after(iteration)
        numbers = [f"{name}={values[name]:.3g}" for name in self.space.numbers]
        return f" ({', '.join(numbers)})" if numbers else ""

    def trajectory(self, first: int, last: int) -> Tensor:
        """Return θ after ``first`` … ``last`` iterations, both included, shape (last − first + 1, m)."""
        return self._coordinates.to_theta(torch.stack(self._values[first : last + 1]))

    def was_predicted(self, iteration: int) -> bool:
        """Return whether a schedule set the values of a recorded iteration (0, 1, …)."""
        return self._predicted[iteration]

    def within_bounds(self, theta: Tensor) -> Tensor:
        """Project θ of shape (k, m) onto the bounds, as :meth:`schedule` would."""
        return self._coordinates.to_theta(self._coordinates.predicted_values(theta, self._now))

    # ----------------------------------------------------------------------------------
    # Moves

    def record_unchanged(self) -> None:
        """Record an iteration in which nothing moved."""
        self._values.append(self._values[-1])
        self._annotate()

    def wait(self) -> None:
        """Record an iteration that strategies do not count, since the optimizer was not ready."""
        self._waited.append(self.iteration)
        self.record_unchanged()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimizers of the metaparameters, one for each group."""
        return [group._optimizer for group in self._groups]

    @property
    def counted(self) -> Any:
        """The path as a strategy counts it, without iterations recorded by :meth:`wait`."""
        return CountedPath(self, self._waited) if self._waited else self

    def descend(self, hypergradient: Tensor) -> Tensor:
        """Take a step θ ← project(step(θ, h)) in every group; return the values, shape (m,).

        If h is not finite, nothing moves. Everything happens on the device and in place. :meth:`record`
        records the iteration separately.

        Parameters
        ----------
        hypergradient : Tensor of shape (m,), or () for one number everywhere
            Hypergradient with respect to the values.
        """
        h = self._coordinates.slope(self._now) * hypergradient.to(**self._make)
        if len(self._groups) > 1:  # no group moves if another's is not finite
            h = h + 0 * h.sum()
        with torch.no_grad():
            for group in self._groups:
                group.step(h[group.part])
            value = self._coordinates.to_values(self._theta())
            self._move_to(value)
        return value

    def _move_to(self, value: Tensor) -> None:
        self._now.copy_(value)
        self._numbers = None

    def record(self, value: Tensor, val_loss: Tensor) -> None:
        """Record an iteration of :meth:`descend`, and the L_val after it."""
        self._values.append(value)
        self._annotate(val_loss)

    def move_to(self, values: Mapping[str, Any], val_loss: float | None = None) -> None:
        """Set the values and, if given, L_val, and record them as those after the last iteration."""
        value = torch.tensor(self.space.join(values), **self._make)
        self._move_to(value)
        theta = self._coordinates.to_theta(value)
        with torch.no_grad():
            for group in self._groups:
                group.theta.copy_(theta[group.part])
        self._values[-1] = value
        if val_loss is not None and self._val_losses:
            self._val_losses[-1] = val_loss

    def train_at(self, values: Mapping[str, Any]) -> None:
        """Set the values of the next iterations; the record does not change until :meth:`move_to`."""
        self._move_to(torch.tensor(self.space.join(values), **self._make))

    def copy(self) -> MetaparameterPath:
        """Return an independent path with the same record."""
        made = copy.copy(self)
        made._now, made._groups = self._now.clone(), copy.deepcopy(self._groups)
        for name in ("_values", "_val_losses", "_predicted", "_schedule", "_waited"):
            setattr(made, name, list(getattr(self, name)))
        return made

    def schedule(self, theta: Tensor) -> None:
        """Set the values of the next k iterations from θ of shape (k, m) or (m,), projected.

        Where θ is not finite, the current values are kept.

        Raises
        ------
        ValueError
            If θ has another shape.
        """
        theta, m = torch.as_tensor(theta, **self._make).detach(), len(self._now)
        if theta.ndim not in (1, 2) or theta.shape[-1] != m:
            raise ValueError(
                f"predict returned θ of shape {tuple(theta.shape)}; it must return shape ({m},), or (k, {m}) "
                "for k iterations."
            )
        theta = theta.reshape(-1, m)
        theta = torch.where(torch.isfinite(theta), theta, self._coordinates.to_theta(self._now))
        self._schedule = list(self._coordinates.predicted_values(theta, self._now).unbind())

    @property
    def has_schedule(self) -> bool:
        """True if the next iteration's values are set."""
        return bool(self._schedule)

    def apply_scheduled(self) -> None:
        """Move to the next values of the schedule, and record them as predicted."""
        value = self._schedule.pop(0)
        with torch.no_grad():
            self._move_to(value)
            if not self._schedule:
                theta = self._coordinates.to_theta(value)
                for group in self._groups:
                    group.theta.copy_(theta[group.part])
        self._values.append(value)
        self._annotate(predicted=True)

    def _theta(self) -> Tensor:
        thetas: list[Tensor] = [group.theta for group in self._groups]
        return thetas[0] if len(thetas) == 1 else torch.cat([*thetas]) if thetas else self._now

    # ----------------------------------------------------------------------------------
    # History

    def table(self, *, before: bool = False) -> np.ndarray:
        """Return a structured array with one row per iteration.

        Its fields are ``iteration``, one for each metaparameter (float64, of its shape), ``val_loss`` (L_val
        after the iteration's step, NaN if it was not computed), ``predicted`` (True if a schedule set the
        values) and ``search`` (always False, because a path does not know whether it belongs to a search).

        Parameters
        ----------
        before : bool, default=False
            True: the values with which the iteration trained. False: the values after it.

        Returns
        -------
        structured array of shape (iteration,)
            The path.
        """
        table = np.zeros(self.iteration, dtype=path_dtype(self.space))
        table["iteration"] = np.arange(self.iteration)
        if self.iteration:
            rows = self._values[:-1] if before else self._values[1:]
            for name, column in self.space.split(torch.stack(rows).cpu().numpy()).items():
                table[name] = column
            table["predicted"] = self._predicted
            table["val_loss"] = self._losses_on_host()
        return table

    def forget_path(self) -> None:
        """Keep only the current values."""
        self._values, self._val_losses, self._predicted = self._values[-1:], [], []
        self._waited = []

    def initial_values(self) -> Tensor:
        """Return the initial values, on the CPU, by which another training is recognised."""
        return self._initial.detach().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return everything on which the next iteration and the path depend."""
        return {
            "now": self._now,
            "steps": [group.state_dict() for group in self._groups],
            "values": torch.stack(self._values),
            "val_losses": self._losses_on_host() if self._val_losses else None,
            "predicted": self._predicted,
            "schedule": self._schedule,
            "waited": self._waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`; raise ValueError if it has another form."""
        n, losses = len(state["predicted"]), state["val_losses"]
        shape = tuple(state["values"].shape)
        if shape != (n + 1, *self._values[0].shape) or (0 if losses is None else len(losses)) != n:
            raise ValueError(f"a path of {n} iterations with values of shape {shape}")
        with torch.no_grad():
            self._move_to(state["now"])
        for group, own in zip(self._groups, state["steps"], strict=True):
            group.load_state_dict(own)
        self._values = list(state["values"].to(**self._make).unbind())
        self._val_losses = [] if losses is None else list(torch.as_tensor(losses, **self._make).unbind())
        self._predicted = list(state["predicted"])
        self._schedule = [value.to(**self._make) for value in state["schedule"]]
        self._waited = list(state["waited"])

    def _annotate(self, val_loss: Tensor | float = math.nan, predicted: bool = False) -> None:
        self._val_losses.append(val_loss)
        self._predicted.append(predicted)

    def _losses_on_host(self) -> np.ndarray:
        losses = [torch.as_tensor(loss, **self._make) for loss in self._val_losses]
        return torch.stack(losses).cpu().numpy()


def path_dtype(space: MetaparameterSpace) -> np.dtype:
    """Return the dtype of :meth:`MetaparameterPath.table`."""
    flags = [(name, np.bool_) for name in ("predicted", "search")]
    return np.dtype([("iteration", np.int64), *space.columns(), ("val_loss", np.float64), *flags])


class _Group:
    """The coordinates θ of one group, and the optimizer that moves them."""

    def __init__(self, part: slice, theta: Tensor, coordinates: CoordinateMap, how: MetaOptimizer):
        self.part, self._clip = part, how.clip
        self._bounds = [bound[part] for bound in coordinates.theta_bounds]
        self.theta = torch.nn.Parameter(theta.clone())
        self._how = how

    @functools.cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, made on first use, since metaparameters that stay need none."""
        return make_optimizer(self._how.make, [self.theta], **self._how.params)

    @functools.cached_property
    def _rate(self) -> float | None:
        """The learning rate if a step is plain SGD, which needs no call of the optimizer; else None."""
        return plain_rate(self._optimizer)

    def step(self, h: Tensor) -> None:
        """Take a step along the hypergradient, within the bounds.

        If it is not finite, no step is taken, not even by momentum.
        """
        if self._clip is not None:  # but an infinite one is not clipped
            h = torch.where(torch.isfinite(h), h.clamp(-self._clip, self._clip), h)
        finite = all_finite(h)
        if finite is not False:
            snapshot = OptimizerSnapshot(self._optimizer) if isinstance(finite, Tensor) else None
            before = self.theta.detach().clone()
            if self._rate is not None:
                self.theta.add_(h, alpha=-self._rate)
            else:
                self.theta.grad = h.expand_as(before)
                eager_method(self._optimizer, "step")()
            if snapshot is not None:
                snapshot.restore_where(~torch.as_tensor(finite))
            if all_finite(self.theta) is not True:  # a step of any size can overflow
                self.theta.copy_(torch.where(torch.isfinite(self.theta), self.theta, before))
        self.theta.clamp_(*self._bounds)

    def state_dict(self) -> dict[str, Any]:
        return {"theta": self.theta, "optimizer": eager_method(self._optimizer, "state_dict")()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.theta.copy_(state["theta"])
        eager_method(self._optimizer, "load_state_dict")(state["optimizer"])
        self.__dict__.pop("_rate", None)  # the loaded state has its own


class CountedPath:
    """A path without its waiting iterations; everything else is passed on to the path.

    Parameters
    ----------
    path : MetaparameterPath
    waited : list of int
        The iterations to leave out, in increasing order.
    """

    def __init__(self, path: MetaparameterPath, waited: list[int]):
        self._path, self._waited = path, waited

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path, name)

    @property
    def iteration(self) -> int:
        """Number of counted iterations."""
        return self._path.iteration - len(self._waited)

    def values_after(self, iteration: int) -> dict[str, np.ndarray]:
        """Return the values after ``iteration`` counted iterations, by name."""
        return self._path.values_after(self._index(iteration))

    def trajectory(self, first: int, last: int) -> Tensor:
        """Return θ after ``first`` … ``last`` counted iterations, both included."""
        rows = [self._path.trajectory(place, place) for place in map(self._index, range(first, last + 1))]
        return torch.cat(rows)

    def was_predicted(self, iteration: int) -> bool:
        """Return whether a schedule set the values of a counted iteration."""
        return self._path.was_predicted(self._index(iteration + 1) - 1)

    def _index(self, iteration: int) -> int:
        """Convert a number of counted iterations to the number of all iterations."""
        for waited in self._waited:
            iteration += waited < iteration
        return iteration


class MetaparameterSchedule:
    """Values set beforehand for each iteration; a read-only :class:`MetaparameterSource`.

    Parameters
    ----------
    space : MetaparameterSpace
    columns : mapping of str to ndarray of shape (T, ...)
        Values of each iteration. After the last row its values are kept.
    """

    def __init__(self, space: MetaparameterSpace, columns: Mapping[str, np.ndarray]):
        self.space, self._columns, self._t = space, dict(columns), 0

    @property
    def iteration(self) -> int:
        """Number of iterations so far."""
        return self._t

    @property
    def has_schedule(self) -> bool:
        """False, because the loop has nothing to apply."""
        return False

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Empty, because the values are set beforehand."""
        return []

    @property
    def counted(self) -> MetaparameterSchedule:
        """The schedule itself, because no iteration waits."""
        return self

    def named(self) -> dict[str, Any]:
        """Return the values of this iteration by name, on the host."""
        return {name: rows[min(self._t, len(rows) - 1)] for name, rows in self._columns.items()}

    def describe(self, iteration: int) -> str:
        """Return "", because a message need not describe values set beforehand."""
        return ""

    def record_unchanged(self) -> None:
        """Move on to the next row."""
        self._t += 1

    def initial_values(self) -> Tensor:
        """Return the whole schedule, shape (T, m)."""
        parts = [rows.reshape(len(rows), -1) for rows in self._columns.values()]
        return torch.as_tensor(np.concatenate(parts, axis=1, dtype=np.float64))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of iterations so far; the schedule is set beforehand."""
        return {"t": self._t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of iterations."""
        self._t = state["t"]

    def forget_path(self) -> None:
        """Keep only the last row."""
        self._columns = {name: rows[-1:] for name, rows in self._columns.items()}
