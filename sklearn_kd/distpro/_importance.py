"""The importance of each pathway: raw factors, their normalisations, and their steps.

The training loss is L_train = CE + distill_weight · Σ_p α_p · loss_p, with α = n(α̃) of raw
factors α̃ (Deng et al., Table 7):

    biased_softmax    exp(α̃_p) / (Σ exp(α̃) + exp(g))
    softmax           exp(α̃_p) / Σ exp(α̃)
    biased_l1         α̃_p / (|α̃|₁ + 1)
    l1                α̃_p / |α̃|₁
    sigmoid           1 / (1 + exp(−α̃_p))

The loss is linear in α, so ∂²L_train/∂loss_p ∂α̃_j = distill_weight · J_pj with J = ∂α/∂α̃, which
comes in closed form here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.meta._path import LearnedPath, Metaparameters

# Where predictions may lead a raw factor. At 10, beside 26 others at 1 as at the start, the biased
# softmax gives it 0.997 of the weight, and at −10 less than 1e-6: nothing beyond would change the
# training loss, and from there a hypergradient, which has the factor α (1 − α), hardly leads back.
RAW_BOUNDS = (-10.0, 10.0)


class Normalization:
    """From raw factors to weights.

    Attributes
    ----------
    has_scale : bool
        Whether a raw factor says something without the others, so that it can be held against
        a threshold.
    """

    has_scale = True

    def __init__(self, g: float = 1.0):
        self.g = g

    def __call__(self, raw: Tensor) -> Tensor:
        """α of raw factors of shape (..., L)."""
        raise NotImplementedError

    def jacobian(self, raw: Tensor) -> Tensor:
        """J with J[p, j] = ∂α_p/∂α̃_j, shape (L, L), for raw factors of shape (L,)."""
        raise NotImplementedError


class BiasedSoftmax(Normalization):
    """exp(α̃_p) / (Σ exp(α̃) + exp(g))."""

    def __call__(self, raw):
        bias = torch.full_like(raw[..., :1], self.g)
        return torch.softmax(torch.cat([raw, bias], dim=-1), dim=-1)[..., :-1]

    def jacobian(self, raw):
        alpha = self(raw)
        return torch.diag(alpha) - torch.outer(alpha, alpha)


class Softmax(BiasedSoftmax):
    """exp(α̃_p) / Σ exp(α̃)."""

    has_scale = False

    def __call__(self, raw):
        return torch.softmax(raw, dim=-1)


class BiasedL1(Normalization):
    """α̃_p / (|α̃|₁ + 1)."""

    bias = 1.0

    def __call__(self, raw):
        return raw / (raw.abs().sum(dim=-1, keepdim=True) + self.bias)

    def jacobian(self, raw):
        total = raw.abs().sum() + self.bias
        return torch.eye(len(raw), dtype=raw.dtype, device=raw.device) / total - (
            torch.outer(raw, raw.sign()) / total**2
        )


class L1(BiasedL1):
    """α̃_p / |α̃|₁."""

    has_scale = False
    bias = 0.0


class Sigmoid(Normalization):
    """1 / (1 + exp(−α̃_p))."""

    def __call__(self, raw):
        return torch.sigmoid(raw)

    def jacobian(self, raw):
        alpha = self(raw)
        return torch.diag(alpha * (1 - alpha))


NORMALIZATIONS: dict[str, type[Normalization]] = {
    "biased_softmax": BiasedSoftmax,
    "softmax": Softmax,
    "biased_l1": BiasedL1,
    "l1": L1,
    "sigmoid": Sigmoid,
}


def checked_tau(tau: float | str | None, normalization: str) -> float | None:
    """The threshold for raw factors; "auto" is 0.5 with "biased_softmax", else None.

    Raises
    ------
    ValueError
        If it is a number, and raw factors have no scale.
    """
    if tau == "auto":
        return 0.5 if normalization == "biased_softmax" else None
    if tau is not None and not NORMALIZATIONS[normalization].has_scale:
        scaled = [name for name, kind in NORMALIZATIONS.items() if kind.has_scale]
        raise ValueError(
            f"tau={tau!r} cannot be used with normalization={normalization!r}, whose raw factors have no "
            "scale: all of them can be shifted or multiplied without a change of the weights. Set tau=None, "
            f"or a normalization of {scaled}."
        )
    return None if tau is None else float(tau)


class PathwayWeights(LearnedPath):
    """The weights of a net's pathways, and which of them are active.

    Attributes
    ----------
    has_logit_term : bool
        Whether a lambda1 and a T go with them.
    """

    has_logit_term = False

    @property
    def now(self) -> Tensor:
        """α of the ``active`` pathways."""
        raise NotImplementedError

    @property
    def active(self) -> list[int]:
        """The pathways that are computed in this iteration."""
        raise NotImplementedError

    def derivatives(self) -> Tensor:
        """∂²Σ α_p loss_p / ∂α̃_j ∂loss_p, shape (L, L), where they are learned."""
        raise NotImplementedError

    @property
    def logit_term(self) -> tuple[Any, Any] | None:
        """(lambda1, T) now, or None."""
        return None

    def _path_of(self, sizes: dict[str, int]) -> np.ndarray:
        """One row per iteration: what it trained with, the values in columns of these sizes."""
        fields: list[tuple] = [("iteration", np.int64)]
        fields += [(name, np.float32, (size,)) for name, size in sizes.items()]
        fields += [("val_loss", np.float64), ("predicted", np.bool_)]
        path = np.empty(self.iteration, dtype=np.dtype(fields))
        path["iteration"] = np.arange(self.iteration)
        if self.iteration:
            values = torch.stack(self._values[:-1]).split(list(sizes.values()), dim=1)
            for name, columns in zip(sizes, values, strict=True):
                path[name] = columns.cpu().numpy()
            path["predicted"] = self._predicted
            path["val_loss"] = self._losses_on_host()
        return path


class ImportanceFactors(PathwayWeights):
    """Raw importance factors that are learned; every pathway is active.

    A pathway of little weight is computed all the same: it could not come back otherwise. The
    coordinates θ are the raw factors themselves. Steps by the hypergradient lead wherever Adam
    takes them; predictions are projected onto ``RAW_BOUNDS``, widened to where a factor is.

    Parameters
    ----------
    n_pathways : int
    normalization : Normalization
    lr : float, default=0.05
        Of Adam with betas (0.5, 0.999), which takes the steps.
    start : float, default=1.0
        Of every raw factor.
    device : torch.device or str, default="cpu"
    """

    def __init__(
        self,
        n_pathways: int,
        normalization: Normalization,
        *,
        lr: float = 0.05,
        start: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        super().__init__(torch.full((n_pathways,), float(start), dtype=dtype, device=device))
        self.normalization = normalization
        self._theta = torch.nn.Parameter(self._now.clone())
        self._optimizer = torch.optim.Adam([self._theta], lr=lr, betas=(0.5, 0.999))

    @property
    def now(self) -> Tensor:
        return self.normalization(self._now)

    @property
    def active(self) -> list[int]:
        return list(range(len(self._now)))

    def derivatives(self) -> Tensor:
        return self.normalization.jacobian(self._now).T

    def descend(self, hypergradient: Tensor) -> Tensor:
        """One step of Adam; none, not even by its momentum, where h is not finite.

        Returns the raw factors.
        """
        self._follow(hypergradient.to(**self._make))
        value = self._theta.detach().clone()
        self._now.copy_(value)
        return value

    def _from_theta(self, theta):
        low, high = (torch.full_like(self._now, bound) for bound in RAW_BOUNDS)
        return theta.clamp(torch.minimum(low, self._now), torch.maximum(high, self._now))

    def path(self) -> np.ndarray:
        """One row per iteration: the raw factors that it trained with.

        Columns ``iteration``, ``raw`` (of shape (L,)), ``val_loss`` (after the iteration's
        step; NaN where it was not computed) and ``predicted`` (whether the factors were set
        by a plan after it).
        """
        return self._path_of({"raw": len(self._now)})


class JointFactors(PathwayWeights):
    """Raw factors, and lambda1 and T beside them, moved by one hypergradient of shape (L + 2,).

    Each part takes its steps as it does alone, and has its own coordinates and bounds.

    Parameters
    ----------
    factors : ImportanceFactors
    logit_term : Metaparameters
    """

    has_logit_term = True

    def __init__(self, factors: ImportanceFactors, logit_term: Metaparameters):
        self._parts = factors, logit_term
        super().__init__(torch.cat([part._now for part in self._parts]))
        # Views: whatever moves the whole moves the parts, and the other way round.
        factors._now, logit_term._now = self._split(self._now)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Split values into those of the factors and those of (lambda1, T)."""
        return values[..., :-2], values[..., -2:]

    @property
    def now(self) -> Tensor:
        return self._parts[0].now

    @property
    def active(self) -> list[int]:
        return self._parts[0].active

    def derivatives(self) -> Tensor:
        return self._parts[0].derivatives()

    @property
    def logit_term(self) -> tuple[Any, Any]:
        return self._parts[1].now

    def descend(self, hypergradient: Tensor) -> Tensor:
        """Step both parts; neither where h is not finite anywhere."""
        h = hypergradient + 0 * hypergradient.sum()
        for part, own in zip(self._parts, self._split(h), strict=True):
            part.descend(own)
        return self._now.clone()

    def _go_on_from(self, value):
        for part, own in zip(self._parts, self._split(value), strict=True):
            part._go_on_from(own)

    def _state_of_steps(self):
        return [part._state_of_steps() for part in self._parts]

    def _go_on_with_steps(self, state):
        for part, own in zip(self._parts, state, strict=True):
            part._go_on_with_steps(own)

    def _to_theta(self, values):
        parts = zip(self._parts, self._split(values), strict=True)
        return torch.cat([part._to_theta(own) for part, own in parts], dim=-1)

    def _from_theta(self, theta):
        parts = zip(self._parts, self._split(theta), strict=True)
        return torch.cat([part._from_theta(own) for part, own in parts], dim=-1)

    def path(self) -> np.ndarray:
        """One row per iteration as for the factors, with ``logit_term``, (lambda1, T), beside ``raw``."""
        return self._path_of({"raw": len(self._now) - 2, "logit_term": 2})


class ScheduledWeights(PathwayWeights):
    """Weights that are set beforehand for each iteration; pathways of weight 0 are not active.

    Parameters
    ----------
    schedule : ndarray of shape (T, L)
        α of each iteration. The last row stays after it.
    logit_term : ndarray of shape (T, 2) or None, default=None
        (lambda1, T) of each iteration.
    device : torch.device or str, default="cpu"
    """

    def __init__(
        self,
        schedule: np.ndarray,
        logit_term: np.ndarray | None = None,
        *,
        device: torch.device | str = "cpu",
    ):
        self._schedule, self._logit_term, self._t = schedule, logit_term, 0
        self.has_logit_term = logit_term is not None
        super().__init__(torch.as_tensor(schedule[0], device=device))

    @property
    def iteration(self) -> int:
        return self._t

    @property
    def _row(self) -> np.ndarray:
        return self._schedule[min(self._t, len(self._schedule) - 1)]

    @property
    def now(self) -> Tensor:
        row = self._row
        return torch.as_tensor(row[row != 0], device=self._now.device)

    @property
    def active(self) -> list[int]:
        return np.flatnonzero(self._row).tolist()

    @property
    def logit_term(self) -> tuple[float, float] | None:
        if self._logit_term is None:
            return None
        lambda1, temperature = self._logit_term[min(self._t, len(self._logit_term) - 1)]
        return float(lambda1), float(temperature)

    def hold(self) -> None:
        """Go on to the next row."""
        self._t += 1

    def start_of_path(self) -> Tensor:
        """Return the whole schedule."""
        parts = [part for part in (self._schedule, self._logit_term) if part is not None]
        return torch.as_tensor(np.concatenate(parts, axis=1, dtype=np.float64))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of iterations so far; the schedule is set beforehand."""
        return {"t": self._t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after as many."""
        self._t = state["t"]

    def forget_path(self) -> None:
        """Keep only the last row."""
        self._schedule = self._schedule[-1:]
        self._logit_term = None if self._logit_term is None else self._logit_term[-1:]
