"""Losses of a student's logits, a teacher's logits and labels, with named metaparameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_kd.errors._context import own_code
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._threads import threads_for
from sklearn_kd.tasks._targets import Targets, label_weights


class Evaluation(Protocol):
    """A batch's training loss, its gradients, and their derivatives with respect to the metaparameters."""

    @property
    def value(self) -> Tensor:
        """The loss, shape ()."""

    @property
    def gradients(self) -> list[Tensor]:
        """∂L/∂s for each tensor s on which the loss depends."""

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂²L/∂s ∂a_j, u⟩ for each of the m metaparameter components, shape (m,)."""

    def derivatives(self) -> Tensor:
        """Return ∂²L/∂s ∂a_j, shape (m, *s)."""


class DistillationLoss(BaseEstimator):
    """Base class of training losses with named metaparameters, for ``DistilledClassifier(loss=...)``.

    A loss of your own needs two methods: :meth:`metaparameters` names what can be learned, and :meth:`loss`
    computes the loss of a batch in differentiable torch operations. Autograd computes all derivatives. Every
    strategy of :mod:`sklearn_kd.meta` can learn the metaparameters. The path, its display, checkpoints and
    saved files include them.

    As for any estimator, constructor parameters are set as ``loss__NAME``, for example in a grid search.

    Attributes
    ----------
    needs_teacher : bool, default=True
        False: the loss can be computed without a teacher. With ``teacher=None`` and no ``teacher_logits``,
        :meth:`loss` gets None as ``teacher_logits``.
    accepts_unlabeled : bool, default=False
        True: ``fit`` takes ``X_unlabeled`` with this loss. A class that redefines :meth:`loss` must set it
        again. ``labels`` is then −1 for the unlabeled rows of a batch, and :meth:`loss` must leave these
        out of computations with labels.
    has_label_loss : bool, default=False
        True: without a teacher, as with ``meta="none"``, :meth:`loss` gets None as ``teacher_logits`` and
        returns the loss of the labels. False: the cross-entropy of the labels is used instead.
    stackable : bool, default=False
        True: the operations of :meth:`loss` can be mapped by :func:`torch.vmap` (no branches on values, no
        ``item``), and all metaparameters are numbers. A class that redefines :meth:`loss` must set it again.
        Small students that are tried side by side are then trained in one batched run.
    takes_row_weight : bool, default=False
        True: :meth:`loss` gets a further keyword ``row_weight``, shape (B,) or None: the weights of the
        rows, for computations over the rows of a batch. The losses that it returns are weighted afterwards
        in any case.

    Examples
    --------
    Decoupled distillation (Zhao et al., 2022, Eq. 7), which is also available as ``loss="dkd"``, as a class
    of your own:

    >>> import torch
    >>> import torch.nn.functional as F
    >>> from sklearn_kd.losses import DistillationLoss, Metaparameter
    >>> class Decoupled(DistillationLoss):
    ...     def metaparameters(self, n_classes):
    ...         return {
    ...             "alpha": Metaparameter(1.0, bounds=(0.0, 10.0)),
    ...             "beta": Metaparameter(2.0, bounds=(0.0, 10.0)),
    ...         }
    ...
    ...     def loss(self, logits, teacher_logits, labels, *, alpha, beta):
    ...         chosen = F.one_hot(labels, logits.shape[1]).bool()
    ...         p, t = logits.softmax(1), teacher_logits.softmax(1)
    ...         p_target, t_target = p[chosen], t[chosen]
    ...         target = F.binary_cross_entropy(p_target, t_target, reduction="none")
    ...         others = (logits.masked_fill(chosen, -1e4), teacher_logits.masked_fill(chosen, -1e4))
    ...         rest = F.kl_div(others[0].log_softmax(1), others[1].softmax(1), reduction="none").sum(1)
    ...         return F.cross_entropy(logits, labels, reduction="none") + alpha * target + beta * rest
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(random_state=0), MLPStudent, loss=Decoupled(), meta="linear",
    ...     max_epochs=40, batch_size=32, random_state=0)
    >>> clf = clf.fit(*load_iris(return_X_y=True))
    >>> sorted(clf.metaparameters_)
    ['alpha', 'beta']
    >>> clf.metaparameter_path_["beta"].shape == (clf.n_iter_,)
    True
    """

    needs_teacher = True
    accepts_unlabeled = False
    has_label_loss = False
    stackable = False
    takes_row_weight = False

    def check(self) -> None:
        """Raise ValueError or TypeError if the loss's own parameters cannot be used."""

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return the metaparameters by name.

        Parameters
        ----------
        n_classes : int
            Number of the student's logits, for arrays with one number per class.

        Returns
        -------
        dict of str to Metaparameter
            The names are the keyword arguments of :meth:`loss`. Empty if nothing can be learned.
        """
        raise NotImplementedError(f"{type(self).__name__} must define metaparameters(self, n_classes).")

    def loss(
        self, logits: Tensor, teacher_logits: Any, labels: Tensor, *args: Any, **metaparameters: Any
    ) -> Tensor:
        """Return the losses of the rows of a batch; the arguments are copies.

        Parameters
        ----------
        logits : Tensor of shape (B, K)
            The student's logits.
        teacher_logits : Tensor of shape (B, K)
            The teacher's logits. A logit of −inf means a probability of 0. None if there is no teacher and
            ``needs_teacher`` is False.
        labels : Tensor of shape (B,), int64, or of shape (B, K), int8
            Class codes: indices into ``classes_``. If y has several labels: 1 for labels that the row has, 0
            for the others. −1 for an unlabeled row, which only losses with ``accepts_unlabeled = True``
            get.
        **metaparameters : Tensor
            Metaparameters by name, each of its own shape, with the dtype of ``logits``.

        Returns
        -------
        Tensor of shape (B,) or ()
            The losses of the rows, whose (weighted) mean is minimised, or the loss of the batch. Sample
            weights need losses of rows.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define loss(self, logits, teacher_logits, labels, ...)."
        )

    def evaluate(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool = True
    ) -> Evaluation:
        """Return the loss of a batch with its derivatives, here by autograd.

        Override it if closed forms are faster.

        Parameters
        ----------
        logits : Tensor of shape (B, K)
            The student's logits.
        targets : Targets
            Labels, the teacher's logits and weights of the batch.
        values : mapping of str to float or Tensor
            The metaparameters.
        differentiable : bool, default=True
            False: derivatives with respect to the metaparameters are not needed.
        """
        if logits.ndim == 3:  # several students, which only stackable losses get
            return StackedAutogradEvaluation(self, logits, targets, values, differentiable=differentiable)
        return AutogradEvaluation(self, logits, targets, values, differentiable=differentiable)


class AutogradEvaluation:
    """An :class:`Evaluation` of any differentiable loss of logits.

    Parameters
    ----------
    loss : DistillationLoss
    logits : Tensor of shape (B, K)
    targets : Targets
    values : mapping of str to float or Tensor
    differentiable : bool
        Whether :meth:`contract` and :meth:`derivatives` will be called.
    """

    def __init__(
        self,
        loss: DistillationLoss,
        logits: Tensor,
        targets: Targets,
        values: Mapping[str, Any],
        *,
        differentiable: bool,
    ):
        z = logits.detach().requires_grad_()
        # Detached, so that only this loss differentiates them. Cast to the logits' dtype, so that an array
        # of them does not promote the loss.
        self._values = {
            name: torch.as_tensor(value, device=z.device).detach().to(z.dtype).requires_grad_(differentiable)
            for name, value in values.items()
        }
        with torch.enable_grad():
            total = mean_loss(call_on_copies(loss, z, targets, self._values), targets)
            (self._r,) = torch.autograd.grad(total, [z], create_graph=differentiable)
        self.value, self.gradients = total.detach(), [self._r.detach()]

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂r/∂a_j, u⟩ of every component, shape (m,), in one backward pass for any m."""
        with torch.enable_grad():
            return self._contracted(u, create_graph=False)

    def _contracted(self, u: Tensor, create_graph: bool) -> Tensor:
        values = list(self._values.values())
        if not self._r.requires_grad or not values:
            return self._r.new_zeros(sum(value.numel() for value in values))
        found = torch.autograd.grad(
            self._r, values, u.to(self._r), retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        parts = [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])

    def derivatives(self) -> Tensor:
        """Return ∂r/∂a_j, shape (m, B, K), by differentiating the contraction, which is linear in u."""
        with torch.enable_grad():
            u = torch.zeros_like(self._r).requires_grad_()
            contracted = self._contracted(u, create_graph=True)
            by_component = self._by_component(contracted)
            if not contracted.requires_grad:
                return self._r.new_zeros(len(by_component), *self._r.shape)
            rows = [
                torch.autograd.grad(part, [u], retain_graph=True, allow_unused=True)[0]
                for part in by_component
            ]
        return torch.stack([torch.zeros_like(u) if row is None else row for row in rows]).detach()

    def _by_component(self, contracted: Tensor) -> Tensor:
        """Return the contraction of each component, shape (m,)."""
        return contracted


class StackedAutogradEvaluation(AutogradEvaluation):
    """An :class:`AutogradEvaluation` of S students at once; the value has shape (S,).

    The students are independent, so the derivative of the sum of their losses contains that of each.

    Parameters
    ----------
    loss : DistillationLoss
        A loss that :func:`is_stackable`.
    logits : Tensor of shape (S, B, K)
    targets : Targets
        Targets, likewise stacked.
    values : mapping of str to Tensor of shape (S, 1, 1)
    differentiable : bool
    """

    def __init__(
        self,
        loss: DistillationLoss,
        logits: Tensor,
        targets: Targets,
        values: Mapping[str, Any],
        *,
        differentiable: bool,
    ):
        z = logits.detach().requires_grad_()
        self._values = {
            name: value.detach().to(z).reshape(-1).requires_grad_(differentiable)
            for name, value in values.items()
        }

        def of_one(z: Tensor, targets: Targets, values: dict[str, Tensor]) -> Tensor:
            return mean_loss(call_on_copies(loss, z, targets, values), targets)

        in_dims: Any = Targets(*(None if part is None else 0 for part in targets))  # type: ignore[arg-type]
        with torch.enable_grad():
            of_each = torch.func.vmap(of_one, in_dims=(0, in_dims, 0))(z, targets, self._values)
            (self._r,) = torch.autograd.grad(of_each.sum(), [z], create_graph=differentiable)
        self.value, self.gradients = of_each.detach(), [self._r.detach()]

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂r/∂a_j, u⟩ of every component and student, shape (m, S)."""
        return super().contract(u).reshape(len(self._values), -1)

    def _by_component(self, contracted: Tensor) -> Tensor:
        return contracted.reshape(len(self._values), -1).sum(dim=1)


def call_on_copies(
    loss: DistillationLoss, logits: Tensor, targets: Targets, values: Mapping[str, Tensor]
) -> Any:
    """Call :meth:`DistillationLoss.loss` on copies, so that it may change its arguments in place.

    The teacher's logits and the labels may be views of the training set.
    """
    teacher_logits = None if targets.teacher_logits is None else targets.teacher_logits.clone()
    given = {name: value.clone() for name, value in values.items()} | row_weight_of(loss, targets)
    with own_code(f"loss={type(loss).__name__}"):
        return loss.loss(logits.clone(), teacher_logits, targets.labels.clone(), **given)


def row_weight_of(loss: DistillationLoss, targets: Targets) -> dict[str, Any]:
    """Return the keyword argument ``row_weight`` for a loss that takes it, else nothing."""
    return {"row_weight": targets.weight} if loss.takes_row_weight else {}


def mean_loss(losses: Tensor, targets: Targets) -> Tensor:
    """Return the (weighted) mean of the losses of rows; return a single number as it is.

    Raises
    ------
    ValueError
        If the losses have another shape, or are one number although the rows have weights.
    """
    n_rows = len(targets.labels)
    if losses.ndim == 0 and targets.weight is None:
        return losses
    if losses.shape != (n_rows,):
        beside = " beside weights of rows (sample_weight, class_weight)" if losses.ndim == 0 else ""
        raise ValueError(
            f"loss returned shape {tuple(losses.shape)}{beside}; it must return one loss for each row, shape "
            f"({n_rows},)."
        )
    return (losses if targets.weight is None else targets.weight.to(losses) * losses).mean()


def accepts_unlabeled(loss: DistillationLoss) -> bool:
    """Return whether the class that defines ``loss``, or one derived from it, accepts unlabeled rows.

    A subclass with another loss has to declare it again.
    """
    return declares(loss, "accepts_unlabeled")


def is_stackable(loss: DistillationLoss) -> bool:
    """Return whether the class that defines ``loss``, or one derived from it, declares that vmap can map it.

    A class with its own ``evaluate`` is not stackable, since that may not take several students.
    """
    return declares(loss, "stackable") and type(loss).evaluate is DistillationLoss.evaluate


def declares(loss: Any, name: str) -> bool:
    """Return a flag set by the class that defines ``loss``, or by one derived from it."""
    for kind in type(loss).__mro__:
        if name in vars(kind):
            return bool(vars(kind)[name])
        if "loss" in vars(kind):
            return False
    return False


def _unlabeled_refused(loss: DistillationLoss) -> str:
    name = type(loss).__name__
    return (
        f"loss={name} does not say that it can be computed for unlabeled rows, which X_unlabeled, "
        f"soft_validation, synthesize and ignore_index bring. Set accepts_unlabeled = True in class {name} "
        "if its method loss leaves rows with labels == -1 out of computations with labels, or give no such "
        "rows."
    )


def check_loss(
    loss: DistillationLoss,
    start: Mapping[str, Any],
    n_classes: int,
    *,
    weighted: bool,
    has_teacher: bool = True,
    unlabeled: bool = False,
    labels: Tensor | None = None,
) -> None:
    """Try a loss on two rows before any training; errors raised in it name the loss.

    Parameters
    ----------
    loss : DistillationLoss
    start : mapping of str to float or ndarray
        Values of the metaparameters.
    n_classes : int
    weighted : bool
        Whether the rows will have weights.
    has_teacher : bool, default=True
        Whether there will be a teacher's logits.
    unlabeled : bool, default=False
        Whether there will be unlabeled rows; one of the two rows is then unlabeled.
    labels : Tensor of shape (2,) or (2, m) or None, default=None
        Labels of the two rows. None: codes of the first and the last class.

    Raises
    ------
    TypeError
        If :meth:`DistillationLoss.loss` does not take the metaparameters by name, or does not return a
        tensor of floating-point numbers.
    ValueError
        If it returns another shape, numbers that are not finite, or a loss that does not depend on the
        logits; if its own ``evaluate`` gives another loss; or if there will be unlabeled rows and it does
        not accept them.
    """
    if unlabeled and not accepts_unlabeled(loss):
        raise ValueError(_unlabeled_refused(loss))
    name = type(loss).__name__
    logits = torch.linspace(-1, 1, 2 * n_classes).reshape(2, n_classes)
    if labels is None:
        labels = torch.tensor([0, -1 if unlabeled else n_classes - 1])
    n_columns = labels.shape[1] if labels.ndim == 2 else n_classes
    teacher_logits = logits.flip(1)[:, :n_columns] if has_teacher or loss.needs_teacher else None
    targets = Targets(
        labels,
        teacher_logits,
        torch.ones(2) if weighted else None,
        label_weights(labels) if unlabeled else None,
    )
    given = {key: torch.as_tensor(value, dtype=logits.dtype) for key, value in start.items()}
    try:
        inspect.signature(loss.loss).bind(
            logits, teacher_logits, targets.labels, **given, **row_weight_of(loss, targets)
        )
    except TypeError as error:
        raise TypeError(
            f"loss={name} could not be called with the metaparameters {list(start)}: {error}. Its method "
            "loss takes (logits, teacher_logits, labels) and each metaparameter as a keyword argument."
        ) from error
    with threads_for(0), torch.enable_grad(), preserved_random_state(logits.device, seed=0):
        losses = call_on_copies(loss, logits.requires_grad_(), targets, given)
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        got = f"a tensor of {losses.dtype}" if isinstance(losses, Tensor) else type(losses).__name__
        raise TypeError(f"loss={name} returned {got}; it must return a tensor of floating point numbers.")
    total = mean_loss(losses, targets)
    if not torch.isfinite(total):
        raise ValueError(f"loss={name} is {total.item()} for ordinary logits; it must be finite.")
    if not total.requires_grad:
        raise ValueError(
            f"loss={name} does not depend on the student's logits in a way that torch can differentiate. "
            "Compute it in torch operations, without detach(), item() or NumPy."
        )
    if not type(loss).evaluate.__module__.startswith("sklearn_kd."):  # the library's own are tested
        _check_evaluation(loss, logits.detach(), targets, given)


def _check_evaluation(
    loss: DistillationLoss, logits: Tensor, targets: Targets, values: Mapping[str, Tensor]
) -> None:
    """Refuse a loss whose own ``evaluate`` disagrees with its ``loss``."""
    with preserved_random_state(logits.device, seed=0):
        own = loss.evaluate(logits, targets, values)
    with preserved_random_state(logits.device, seed=0):
        traced = AutogradEvaluation(loss, logits, targets, values, differentiable=True)
    pairs = {
        "value": (own.value, traced.value),
        "gradients": (own.gradients[0], traced.gradients[0]),
        "contract(u)": (own.contract(logits), traced.contract(logits)),
    }
    for name, (found, wanted) in pairs.items():
        same = found.shape == wanted.shape
        if not same or not torch.allclose(found, wanted, rtol=1e-2, atol=1e-4, equal_nan=True):
            raise ValueError(
                f"loss={type(loss).__name__}: evaluate gives another {name} than autograd for its loss: "
                f"{found.tolist()}, not {wanted.tolist()}. A subclass that changes loss or metaparameters "
                "needs its own evaluate, or DistillationLoss.evaluate."
            )
