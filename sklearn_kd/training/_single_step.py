"""Compute the hypergradient of one step of plain SGD, for comparison with other implementations."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator
from sklearn_kd.losses._distillation_loss import DistillationLoss, check_loss
from sklearn_kd.losses._named import loss_for_labels, named_loss
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._backward import backward
from sklearn_kd.runtime._devices import full_precision
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._snapshots import BufferSnapshot
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._targets import Targets, label_weights

# Start values of metaparameters that take theirs from an estimator: those of DistilledClassifier.
_STARTS = {"lambda1": 0.5, "temperature": 1.0}


@ordinary_torch()
def hypergradient(
    student: nn.Module,
    train_batch: tuple[Tensor, Tensor],
    val_batch: tuple[Tensor, Tensor],
    teacher_logits: Tensor | None,
    *,
    loss: DistillationLoss | str = "kd",
    lr: float = 0.1,
    method: Literal["finite_difference", "central_difference", "jvp", "exact"] = "finite_difference",
    val_temperature: float = 1.0,
    **metaparameters: Any,
) -> np.ndarray:
    """Return the hypergradient of one plain SGD step, d L_val(w − lr · ∇L_train(w, λ)) / dλ.

    λ are the metaparameters. :class:`DistilledClassifier` moves them by this gradient. Use the function to
    check it, for one step of plain SGD, against your own implementation.

    Parameters
    ----------
    student : nn.Module
        Network that maps inputs to logits of shape (B, K). Its weights, buffers, gradients and mode, and the
        random state, are not changed.
    train_batch, val_batch : tuple of (Tensor, Tensor)
        Inputs of shape (B, ...) and class codes of shape (B,), or 0 and 1 of shape (B, K) for several labels;
        −1 for a row of the training batch without a label.
    teacher_logits : Tensor of shape (B, K) or None
        The teacher's logits for the training batch. None for a loss that needs no teacher.
    loss : DistillationLoss or str, default="kd"
        The training loss.
    lr : float, default=0.1
        Learning rate of the step.
    method : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
        "finite_difference": one more forward pass. "central_difference": two more. "jvp": forward-mode
        differentiation. "exact": two vector-Jacobian products. The last two are exact.
    val_temperature : float, default=1.0
        T_val, the temperature of the validation loss.
    **metaparameters : float or array-like
        Values by name; for "kd", ``lambda1`` (default 0.5) and ``temperature`` (default 1). A metaparameter
        that is not given has its start value.

    Returns
    -------
    ndarray of shape (m,)
        Derivatives by the m components of the metaparameters, in the order in which the loss names
        them: for "kd", by lambda1 and by T. NaN if the validation gradient vanishes.

    Raises
    ------
    ValueError
        If ``method`` or ``loss`` is unknown, a parameter of the loss or the value of a metaparameter
        cannot be used, a metaparameter has no value, or the loss needs the teacher's logits.
    TypeError
        If the loss has no metaparameter of a given name, or cannot be called with those that it names.

    Notes
    -----
    Gorpinich, Bakhteev and Strijov, "Metaparameter optimization in knowledge distillation",
    Eq. 3: h = −lr · (∂²L_train/∂w∂λ)ᵀ ∂L_val(w')/∂w'. Both batches run in the student's
    current mode, except that dropout is off for the validation batch.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import hypergradient
    >>> _ = torch.manual_seed(0)
    >>> student = torch.nn.Linear(4, 3).double()
    >>> X, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    >>> f = 3 * torch.nn.functional.one_hot(y, 3).double()
    >>> fast = hypergradient(student, (X, y), (X, y), f)
    >>> exact = hypergradient(student, (X, y), (X, y), f, method="exact")
    >>> bool(abs(fast - exact).max() < 1e-6)
    True
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {sorted(METHODS)}.")
    several = train_batch[1].ndim == 2
    loss = loss_for_labels(named_loss(loss), several, by_name=isinstance(loss, str))
    loss.check()
    if teacher_logits is None and loss.needs_teacher:
        raise ValueError(f"teacher_logits=None, but loss={type(loss).__name__} needs a teacher's logits.")
    (x, y), (x_val, y_val) = (map(_without_past, batch) for batch in (train_batch, val_batch))
    # A step must be taken to be differentiated; the weights are restored afterwards.
    live = [w for w in student.parameters() if w.requires_grad]
    if any(w.is_inference() for w in live):
        raise ValueError(
            "student was made inside torch.inference_mode, so that its weights cannot be trained. Make it "
            "outside, or give copy.deepcopy(student), copied outside."
        )
    kept = [(w.detach().clone(), w.grad) for w in live]
    optimizer = torch.optim.SGD(live, lr=lr)
    record = HypergradientEstimator(student, optimizer, method=method)
    try:
        with (
            preserved_random_state(record.device),
            full_precision(record.device),
            BufferSnapshot(record.parts),
        ):
            record.begin()
            with torch.enable_grad():
                logits = student(x)
            unlabeled = bool((y < 0).any())
            targets = Targets(
                y,
                None if teacher_logits is None else teacher_logits.detach().to(logits),
                label_weight=label_weights(y).to(logits) if unlabeled else None,
            )
            entries = loss.metaparameters(logits.shape[1])
            space = MetaparameterSpace(entries)
            values = _values(loss, space, metaparameters)
            taught = teacher_logits is not None
            example = Multilabel(logits.shape[1], "int8").example_targets(unlabeled) if several else None
            check_loss(
                loss,
                values,
                logits.shape[1],
                weighted=False,
                has_teacher=taught,
                unlabeled=unlabeled,
                labels=example,
            )
            values = space.split(torch.as_tensor(space.join(values), device=logits.device))
            found = loss.evaluate(logits, targets, values)
            record.after_forward((x,), logits, found, logits)
            optimizer.zero_grad()
            backward([logits], found.gradients[:1])
            optimizer.step()
            task = Multilabel if several else Classification
            h, _ = record.hypergradient(
                x_val, lambda logits: task.validation_loss(logits, Targets(y_val), val_temperature)
            )
    finally:
        with torch.no_grad():
            for w, (value, grad) in zip(live, kept, strict=True):
                w.copy_(value)
                w.grad = grad
    by_name = space.split(h.cpu().numpy().astype(np.float64))  # the space joins those of a group
    return np.concatenate([np.empty(0), *(by_name[name].ravel() for name in entries)])


def _values(loss: DistillationLoss, space: MetaparameterSpace, given: dict[str, Any]) -> dict[str, Any]:
    """Return the metaparameters by name, checked."""
    unknown = sorted(given.keys() - set(space))
    if unknown:
        raise TypeError(
            f"loss={type(loss).__name__} has no metaparameter {unknown[0]!r}; it has {list(space)}."
        )
    values = _STARTS | space.starts | given
    missing = [name for name in space if isinstance(values.get(name, "random"), str)]
    if missing:
        raise ValueError(f"Metaparameter {missing[0]!r} has no start. Give {missing[0]}=...")
    return space.completed({}, {name: values[name] for name in space})


def _without_past(given: Tensor) -> Tensor:
    """Return a copy that gradients do not pass through and that a backward pass may keep."""
    return given.detach().clone() if given.is_inference() else given.detach()
