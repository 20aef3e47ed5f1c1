"""The metaparameters λ = (lambda1, T): their bounds, their steps, and their path."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.runtime._devices import as_number, reading_is_free
from sklearn_kd.runtime._snapshots import OptimizerSnapshot

LAMBDA1_BOUNDS = (0.0, 1.0)

PATH_DTYPE = np.dtype(
    [
        ("iteration", np.int64),
        ("lambda1", np.float64),
        ("temperature", np.float64),
        ("val_loss", np.float64),
        ("predicted", np.bool_),
    ]
)


def check_bounds(bounds: Any, temperature: float | str) -> None:
    """Raise ValueError unless ``temperature_bounds`` are two numbers with the start of T between them."""
    valid = len(bounds) == 2 and all(isinstance(b, Real) for b in bounds)
    if not valid or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"temperature_bounds={bounds!r} must be two numbers, 0 < low <= high.")
    low, high = bounds
    if not isinstance(temperature, str) and not low <= temperature <= high:
        raise ValueError(
            f"temperature={temperature!r} lies outside temperature_bounds=({low}, {high}). Start inside the "
            "bounds, or widen them."
        )


class LearnedPath:
    """Numbers that move while a student trains, in coordinates θ, and where they have been.

    What a strategy (:mod:`sklearn_kd.meta`) is given: they descend a hypergradient, follow a
    plan or stay, and each iteration is recorded. Subclasses say what they are: they set
    ``_now`` (their values, in place), ``_theta`` (where the steps are taken), and override
    :meth:`descend` and, where θ is not the values, ``_to_theta`` and ``_from_theta``. All values
    stay on the device.

    Parameters
    ----------
    start : Tensor of shape (m,)
    """

    _theta: torch.nn.Parameter
    _optimizer: torch.optim.Optimizer

    def __init__(self, start: Tensor):
        self._now = start
        self._make: dict[str, Any] = {"dtype": start.dtype, "device": start.device}
        self._values = [start.clone()]
        self._val_losses: list[Tensor | float] = []
        self._predicted: list[bool] = []
        self._planned: list[Tensor] = []
        self._waited: list[int] = []  # the iterations of wait

    def _to_theta(self, values: Tensor) -> Tensor:
        return values

    def _from_theta(self, theta: Tensor) -> Tensor:
        """The values, projected onto their bounds."""
        return theta

    @property
    def iteration(self) -> int:
        """Number of recorded training iterations."""
        return len(self._values) - 1

    def after(self, iteration: int) -> Tensor:
        """The values after so many recorded iterations, shape (m,)."""
        return self._values[iteration]

    def hold(self) -> None:
        """Record an iteration after which nothing moved."""
        self._values.append(self._values[-1])
        self._annotate()

    def wait(self) -> None:
        """Record an iteration that no strategy counts: its optimizer was not ready to be learned from."""
        self._waited.append(self.iteration)
        self.hold()

    @property
    def counted(self) -> Any:
        """The path as a strategy counts it, without the iterations of :meth:`wait`."""
        return CountedPath(self, self._waited) if self._waited else self

    def descend(self, hypergradient: Tensor) -> Tensor:
        """Move θ by a hypergradient of shape (m,), if it is finite; returns the values, projected."""
        raise NotImplementedError

    def _follow(self, hypergradient: Tensor) -> None:
        """A step of the optimizer in θ; none, not even by its momentum, where h is not finite."""
        finite = as_number(torch.isfinite(hypergradient).all())
        if finite is False:
            return
        kept = OptimizerSnapshot(self._optimizer) if isinstance(finite, Tensor) else None
        before = self._theta.detach().clone()
        self._theta.grad = hypergradient.expand_as(before)
        self._optimizer.step()
        if kept is not None:
            kept.restore_where(~torch.as_tensor(finite))
        with torch.no_grad():  # a step of any size can overflow
            self._theta.copy_(torch.where(torch.isfinite(self._theta), self._theta, before))

    def record(self, value: Tensor, val_loss: Tensor) -> None:
        """Record an iteration of :meth:`descend` and the L_val after it."""
        self._values.append(value)
        self._annotate(val_loss)

    def plan(self, theta: Tensor) -> None:
        """Set where the next k iterations lead, θ of shape (k, m) or (m,), projected.

        Where it is not finite they stay where they are now.
        """
        theta = theta.reshape(-1, len(self._now)).to(**self._make)
        theta = torch.where(torch.isfinite(theta), theta, self._to_theta(self._now))
        self._planned = list(self._from_theta(theta).unbind())

    @property
    def planned(self) -> bool:
        """True if the next iteration's values are set."""
        return bool(self._planned)

    def follow_plan(self) -> None:
        """θ ← the next of the plan, recorded as predicted."""
        value = self._planned.pop(0)
        with torch.no_grad():
            self._now.copy_(value)
            if not self._planned:
                self._go_on_from(value)
        self._values.append(value)
        self._annotate(predicted=True)

    def _go_on_from(self, value: Tensor) -> None:
        """Set the values from which the optimizer takes its next step."""
        self._theta.copy_(self._to_theta(value))

    def trajectory(self, first: int, last: int) -> Tensor:
        """θ after ``first`` … ``last`` iterations, both included, shape (last − first + 1, m)."""
        return self._to_theta(torch.stack(self._values[first : last + 1]))

    def path(self) -> np.ndarray:
        """One row per iteration, as a structured array."""
        raise NotImplementedError

    def forget_path(self) -> None:
        """Keep only where they are now."""
        self._values, self._val_losses, self._predicted = self._values[-1:], [], []
        self._waited = []

    # ----------------------------------------------------------------------------------
    # Kept and taken up again

    def start_of_path(self) -> Tensor:
        """Return the values that the path began with, on the CPU: another training has another."""
        return self._values[0].detach().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next iteration, and the path, depend on."""
        return {
            "now": self._now,
            "steps": self._state_of_steps(),
            "values": torch.stack(self._values),
            "val_losses": self._losses_on_host() if self._val_losses else None,
            "predicted": self._predicted,
            "planned": self._planned,
            "waited": self._waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`; raise ValueError if it is of another kind."""
        n, losses = len(state["predicted"]), state["val_losses"]
        shape = tuple(state["values"].shape)
        if shape != (n + 1, *self._values[0].shape) or (0 if losses is None else len(losses)) != n:
            raise ValueError(f"a path of {n} iterations with values of shape {shape}")
        with torch.no_grad():
            self._now.copy_(state["now"])
        self._go_on_with_steps(state["steps"])
        self._values = list(state["values"].to(**self._make).unbind())
        losses = state["val_losses"]
        self._val_losses = [] if losses is None else list(torch.as_tensor(losses, **self._make).unbind())
        self._predicted = list(state["predicted"])
        self._planned = [value.to(**self._make) for value in state["planned"]]
        self._waited = list(state["waited"])

    def _state_of_steps(self) -> Any:
        """Return the state of the coordinates and of their optimizer."""
        return {"theta": self._theta, "optimizer": self._optimizer.state_dict()}

    def _go_on_with_steps(self, state: Any) -> None:
        with torch.no_grad():
            self._theta.copy_(state["theta"])
        self._optimizer.load_state_dict(state["optimizer"])

    # ----------------------------------------------------------------------------------

    def _annotate(self, val_loss=math.nan, predicted=False):
        self._val_losses.append(val_loss)
        self._predicted.append(predicted)

    def _losses_on_host(self) -> np.ndarray:
        losses = [torch.as_tensor(loss, **self._make) for loss in self._val_losses]
        return torch.stack(losses).cpu().numpy()


class CountedPath:
    """A path whose waiting iterations are left out; all else is the path's own.

    Parameters
    ----------
    path : LearnedPath
    waited : list of int
        The iterations to leave out, in rising order.
    """

    def __init__(self, path: LearnedPath, waited: list[int]):
        self._path, self._waited = path, waited

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path, name)

    @property
    def iteration(self) -> int:
        """Number of counted iterations."""
        return self._path.iteration - len(self._waited)

    def after(self, iteration: int) -> Tensor:
        """Return the values after so many counted iterations, shape (m,)."""
        return self._path.after(self._place(iteration))

    def trajectory(self, first: int, last: int) -> Tensor:
        """θ after ``first`` … ``last`` counted iterations, both included."""
        rows = [self._path.trajectory(place, place) for place in map(self._place, range(first, last + 1))]
        return torch.cat(rows)

    def _place(self, iteration):
        """Convert a number of counted iterations to that of all iterations."""
        for waited in self._waited:
            iteration += waited < iteration
        return iteration


class Metaparameters(LearnedPath):
    """lambda1 and T of one training run.

    They move in the coordinates θ = (lambda1, log T): raw hypergradients by lambda1 and by
    T differ by three orders of magnitude. Every move is projected onto the bounds. All
    values stay on the device; :meth:`path` copies them once.

    Parameters
    ----------
    lambda1, temperature : float
        Where they start.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
    optimizer : type of torch.optim.Optimizer, default=torch.optim.SGD
        Takes the steps in θ.
    lr : float, default=1.0
    coordinates : {"log", "raw"}, default="log"
        "raw": θ = (lambda1, T), as in the paper.
    clip : float or None, default=None
        No component of the hypergradient by θ is larger than this.
    device : torch.device or str, default="cpu"
    **optimizer_params
        Further arguments of ``optimizer``.
    """

    def __init__(
        self,
        lambda1: float,
        temperature: float,
        *,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        lr: float = 1.0,
        coordinates: str = "log",
        clip: float | None = None,
        device: torch.device | str = "cpu",
        **optimizer_params,
    ):
        # float64, so that a fixed 0.3 is 0.3 in the path; zero-dimensional, so that it
        # does not promote float32 logits. MPS has no float64.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        make: dict[str, Any] = {"dtype": dtype, "device": device}
        super().__init__(torch.tensor([lambda1, temperature], **make))
        self._is_log = torch.tensor([False, coordinates == "log"], device=device)
        self._clip = clip
        self._bounds = tuple(
            torch.tensor([lambda1_bound, T_bound], **self._make)
            for lambda1_bound, T_bound in zip(LAMBDA1_BOUNDS, temperature_bounds, strict=True)
        )
        self._theta_bounds = tuple(map(self._to_theta, self._bounds))
        self._theta = torch.nn.Parameter(self._to_theta(self._now))
        self._optimizer = optimizer([self._theta], lr=lr, **optimizer_params)

    @property
    def lambda1(self) -> Tensor:
        """Weight of the labels now, shape ()."""
        return self._now[0]

    @property
    def temperature(self) -> Tensor:
        """T now, shape ()."""
        return self._now[1]

    @property
    def now(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """(lambda1, T) to calculate with, as numbers where reading them does not wait."""
        lambda1, temperature = self._now.tolist() if reading_is_free(self._now) else self._now.unbind()
        return lambda1, temperature

    def descend(self, hypergradient: Tensor) -> Tensor:
        """θ ← project(step(θ, h)), for h of shape (2,) by lambda1 and T; returns (lambda1, T).

        Where h is not finite nothing moves. All on the device and in place: the iteration
        is recorded apart, by :meth:`record`.
        """
        h = self._now**self._is_log * hypergradient  # dL/d log T = T · dL/dT
        if self._clip is not None:  # but an infinite one is no large one
            h = torch.where(torch.isfinite(h), h.clamp(-self._clip, self._clip), h)
        self._follow(h)
        with torch.no_grad():
            self._theta.clamp_(*self._theta_bounds)
            value = self._from_theta(self._theta)
            self._now.copy_(value)
        return value

    def path(self) -> np.ndarray:
        """One row per iteration, as they stood after it, in ``PATH_DTYPE``.

        ``val_loss`` is L_val after the iteration's step, NaN where it was not computed.
        """
        path = np.empty(self.iteration, dtype=PATH_DTYPE)
        path["iteration"] = np.arange(self.iteration)
        if self.iteration:
            values = torch.stack(self._values[1:]).cpu().numpy()
            path["lambda1"], path["temperature"] = values.T
            path["predicted"] = self._predicted
            path["val_loss"] = self._losses_on_host()
        return path

    def _to_theta(self, values):
        return torch.where(self._is_log, values.log(), values)

    def _from_theta(self, theta):
        """(lambda1, T), projected onto the bounds."""
        return torch.where(self._is_log, theta.exp(), theta).clamp(*self._bounds)
