"""Strategies whose hypergradients look further ahead than one step of the student."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from sklearn_kd.bilevel._forward_mode import FORWARD_METHODS, ForwardHypergradient
from sklearn_kd.bilevel._implicit import SOLVE, ImplicitHypergradient
from sklearn_kd.bilevel._long_horizon import CURVATURES
from sklearn_kd.bilevel._optimizer_tangent import why_no_tangent
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import HypergradientStrategy, check_positive_ints, check_real


class FarStrategy(HypergradientStrategy):
    """Base class of strategies that move the metaparameters rarely, by hypergradients over many steps.

    Attributes
    ----------
    every : int or "epoch"
        Number of iterations between two moves. "epoch": move at the end of each epoch.
    """

    every: int | Literal["epoch"]

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        if self.every != "epoch":
            right = isinstance(self.every, Integral) and not isinstance(self.every, bool) and self.every > 0
            if not right:
                raise ValueError(f"every={self.every!r} must be 'epoch' or an integer of at least 1.")

    def moves_after(self, iteration: int, *, ends_epoch: bool) -> bool:
        """Return whether the metaparameters move after this iteration (0, 1, …)."""
        return ends_epoch if self.every == "epoch" else (iteration + 1) % self.every == 0

    @abstractmethod
    def why_unsuitable(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Return why the student's optimizer cannot be used, as the rest of a message, or None."""

    @abstractmethod
    def make_estimator(self, student: nn.Module, optimizer: torch.optim.Optimizer, **passes: Any) -> Any:
        """Return an estimator of the hypergradients of one training.

        ``passes`` are ``forward``, ``ranks`` and, in forward mode, ``loss_gradient``.
        """


class ForwardGradient(FarStrategy):
    """Move the metaparameters by hypergradients over many steps, propagated in forward mode.

    The derivatives of the student's weights with respect to the metaparameters are updated along with the
    student: Z_j = ∂w/∂a_j for each of the m components, through the steps of SGD (with momentum, Nesterov,
    weight decay), Adam or AdamW, including their moments. At a move the hypergradient is ⟨∇L_val(w), Z_j⟩:
    the effect on L_val of a change of a_j held since Z began. An iteration costs 1 + m forward and backward
    passes. A move takes as many batches of D_val as there were iterations since the last move, or all of
    D_val once if it has fewer.

    Parameters
    ----------
    every : int or "epoch", default="epoch"
        Number of iterations between two moves. "epoch": move at the end of each epoch.
    decay : float, default=0.99
        Factor by which Z is multiplied in each iteration, so that about the last 1 / (1 − decay) iterations
        count. 1: all. 0: only the last one, as in :class:`Gradient`.
    carry : bool, default=True
        Whether Z continues after a move. False: it restarts at zero after each move, and is thus the
        derivative with respect to values held since then.
    curvature : {"gauss_newton", "hessian"}, default="gauss_newton"
        The curvature of the training loss that propagates Z. "gauss_newton" leaves out the curvature of the
        student itself, which keeps Z bounded over many epochs. "hessian" is exact; over more than an epoch Z
        may grow without bound, and then its sign is meaningless.
    lr : float, default=1.0
        Learning rate of the metaparameters, in their coordinates.
    hypergradient : {"finite_difference", "central_difference", "jvp"}, default="finite_difference"
        How J Z_j is computed: with one more forward pass, with two, or by forward-mode differentiation.
        ``curvature="hessian"`` takes only the first two, as a difference of gradients.
    clip, optimizer, optimizer_params, coordinates, val_temperature
        As in :class:`HypergradientStrategy`. With ``val_temperature="auto"`` and all of D_val, T_val is
        refitted at each move.

    Notes
    -----
    With Adam and AdamW Z begins after ten steps, like other hypergradients, because the first steps divide
    by a second moment that depends on one or two batches. Dropout masks are those of the step. If Z becomes
    infinite, nothing moves and Z restarts.

    Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, meta
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(20, random_state=0), MLPStudent, meta=meta.ForwardGradient(),
    ...     max_epochs=4, batch_size=32, search_epochs=None, random_state=0, device="cpu").fit(X, y)
    >>> lambda1 = clf.metaparameter_path_["lambda1"]  # 4 batches in each epoch
    >>> (np.flatnonzero(np.diff(lambda1)) + 1).tolist()  # moves begin after Adam's tenth step
    [11, 15]
    """

    def __init__(
        self,
        every: int | Literal["epoch"] = "epoch",
        decay: float = 0.99,
        carry: bool = True,
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
        *,
        lr: float = 1.0,
        clip: float | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        optimizer_params: dict[str, Any] | None = None,
        coordinates: Literal["own", "raw"] = "own",
        hypergradient: Literal["finite_difference", "central_difference", "jvp"] = "finite_difference",
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.every = every
        self.decay = decay
        self.carry = carry
        self.curvature = curvature
        self.lr = lr
        self.clip = clip
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.coordinates = coordinates
        self.hypergradient = hypergradient
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        _check_curvature(self.curvature)
        known = FORWARD_METHODS[self.curvature]
        if self.hypergradient not in known:
            raise ValueError(
                f"hypergradient={self.hypergradient!r} cannot be used by ForwardGradient with "
                f"curvature={self.curvature!r}. Give one of {list(known)}."
            )
        check_real("decay", self.decay, least=0.0)
        if self.decay > 1.0:
            raise ValueError(f"decay={self.decay!r} must be between 0 and 1: above 1, Z grows without end.")
        if not isinstance(self.carry, bool):
            raise ValueError(f"carry={self.carry!r} must be True or False.")

    def why_unsuitable(self, optimizer: torch.optim.Optimizer) -> str | None:
        reason = why_no_tangent(optimizer)
        if reason is None:
            return None
        return (
            "carries derivatives through the steps of SGD, Adam and AdamW, without amsgrad and maximize; "
            f"the student's optimizer is {reason}. Give one of these, or meta='implicit', which takes any "
            "optimizer"
        )

    def make_estimator(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, **passes: Any
    ) -> ForwardHypergradient:
        how: dict[str, Any] = {
            "decay": float(self.decay),
            "curvature": self.curvature,
            "method": self.hypergradient,
        }
        return ForwardHypergradient(student, optimizer, **how, **passes)


class ImplicitGradient(FarStrategy):
    """Move the metaparameters by hypergradients of converged training, by the implicit function theorem.

    The hypergradient is −⟨∂g/∂a_j, (H + damping)⁻¹ ∇L_val(w)⟩ with the curvature H of the training loss, as
    if the student were trained to convergence on the current quadratic model of its loss. It is exact if
    training has converged and the student is deterministic. Iterations between two moves cost the same as
    plain ones. A move costs about n_terms + 2 passes through ``n_batches`` batches of D_train, the last ones
    of the epoch, and one through D_val.

    Parameters
    ----------
    every : int or "epoch", default="epoch"
        Number of iterations between two moves. "epoch": move at the end of each epoch.
    n_terms : int, default=5
        Number of conjugate gradient steps, or of terms of the Neumann series after the first.
    solver : {"cg", "neumann"}, default="cg"
        How the system is solved: by conjugate gradients or by a Neumann series.
    damping : float, default=0.1
        Added to H. The larger it is, the less far ahead the hypergradient looks. H belongs to the loss
        alone: SGD's ``weight_decay`` acts as damping, and should be included in this number.
    curvature : {"gauss_newton", "hessian"}, default="gauss_newton"
        "gauss_newton" leaves out the curvature of the student itself, and is never negative. "hessian" is
        exact and may be negative, which ends the conjugate gradients.
    n_batches : int, default=8
        Number of batches of D_train on which H and ∂g/∂a_j are computed, joined into one; at most those of
        the epoch so far.
    lr : float, default=1.0
        Learning rate of the metaparameters, in their coordinates.
    clip, optimizer, optimizer_params, coordinates, val_temperature
        As in :class:`HypergradientStrategy`. With ``val_temperature="auto"`` T_val is refitted at each move.

    Notes
    -----
    Dropout masks are the same in all passes of a move. A direction of negative curvature ends the conjugate
    gradients; if it is the first direction, (H + damping)⁻¹ is left out.

    Lorraine, Vicol, Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, meta
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(20, random_state=0), MLPStudent, meta=meta.ImplicitGradient(every=8),
    ...     max_epochs=4, batch_size=32, search_epochs=None, random_state=0, device="cpu").fit(X, y)
    >>> lambda1 = clf.metaparameter_path_["lambda1"]
    >>> (np.flatnonzero(np.diff(lambda1)) + 1).tolist()
    [7, 15]
    """

    def __init__(
        self,
        every: int | Literal["epoch"] = "epoch",
        n_terms: int = 5,
        solver: Literal["cg", "neumann"] = "cg",
        damping: float = 0.1,
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
        n_batches: int = 8,
        *,
        lr: float = 1.0,
        clip: float | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        optimizer_params: dict[str, Any] | None = None,
        coordinates: Literal["own", "raw"] = "own",
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.every = every
        self.n_terms = n_terms
        self.solver = solver
        self.damping = damping
        self.curvature = curvature
        self.n_batches = n_batches
        self.lr = lr
        self.clip = clip
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.coordinates = coordinates
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        _check_curvature(self.curvature)
        check_positive_ints(n_terms=self.n_terms, n_batches=self.n_batches)
        check_real("damping", self.damping, least=0.0)
        if self.solver not in SOLVE:
            raise ValueError(f"solver={self.solver!r} is not one of {list(SOLVE)}.")

    def why_unsuitable(self, optimizer: torch.optim.Optimizer) -> str | None:
        return None

    def make_estimator(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, **passes: Any
    ) -> ImplicitHypergradient:
        how: dict[str, Any] = {
            "n_terms": int(self.n_terms),
            "solver": self.solver,
            "damping": float(self.damping),
            "curvature": self.curvature,
        }
        return ImplicitHypergradient(student, optimizer, **how, **passes)


def _check_curvature(curvature: Any) -> None:
    """Raise ValueError if the name is not known."""
    if curvature not in CURVATURES:
        raise ValueError(f"curvature={curvature!r} is not one of {list(CURVATURES)}.")
