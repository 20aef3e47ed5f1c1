"""The base class of strategies: where the metaparameters start and how they move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_kd.bilevel._hypergradient import METHODS
from sklearn_kd.meta._path import MetaOptimizer, MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._eager_optimizers import make_optimizer
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.runtime._ranks import ALONE, Ranks

Values = Mapping[str, Any]


@dataclass(frozen=True)
class StartContext:
    """The context in which a strategy chooses the initial values of the metaparameters.

    Attributes
    ----------
    start : dict of str to float or ndarray
        Initial values of the metaparameters, as set by the estimator and its loss.
    space : mapping of str to Metaparameter
        Bounds, shapes and coordinates by name.
    rng : numpy.random.Generator
        Use no other source of randomness.
    evaluate_all : callable(list of dict, n_jobs=None) -> list of float
        Calls :meth:`evaluate` for each of several independent settings. Small students are trained in one
        batched run, the others in ``n_jobs`` processes, as in joblib.
    verbose : int
        Verbosity of the estimator.
    signature : callable() -> str
        Returns a digest of everything but the setting on which the losses depend: parameters, seeds and
        data. It is equal in all processes, and identifies stored trials.
    ranks : Ranks
        The processes that train one student together (``parallel``). All must use the same settings:
        ``ranks.broadcast(value)`` returns the value of the first process, for which ``ranks.is_first`` is
        true.

    Examples
    --------
    A strategy that takes the better of two temperatures:

    >>> from sklearn_kd import meta
    >>> class Better(meta.Strategy):
    ...     learns_from_validation = True
    ...
    ...     def start(self, context):
    ...         tried = [{"temperature": 1.0}, {"temperature": 4.0}]
    ...         losses = context.evaluate_all(tried)
    ...         return tried[losses.index(min(losses))]
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta=Better(), max_epochs=3)
    >>> clf.fit(*load_iris(return_X_y=True)).temperature_ in (1.0, 4.0)
    True
    """

    start: dict[str, Any]
    space: MetaparameterSpace
    rng: np.random.Generator
    evaluate_all: Callable[..., list[float]]
    verbose: int = 0
    signature: Callable[[], str] = str
    ranks: Ranks = ALONE

    def evaluate(self, **values: Any) -> float:
        """Train a new student on D_train with these values fixed, and return its L_val on D_val.

        Parameters
        ----------
        **values : float or ndarray
            Values by metaparameter name; a missing one has its initial value.

        Returns
        -------
        float
            L_val.
        """
        return self.evaluate_all([values])[0]


class Strategy(BaseEstimator):
    """Base class of strategies: keep the metaparameters at the initial values that the estimator sets.

    A strategy holds its own settings but no state of a run, so that one object can serve any number of fits.
    To write a strategy, subclass this class, state its needs in the two class attributes, and override the
    methods that differ. The shortest example is :class:`Naive`, a single method.

    Parameters
    ----------
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss CE(softmax(z / T_val), y). "auto" keeps it at its optimum on D_val,
        refitted after every epoch, so that calibration is not rewarded. Strategies that learn nothing from
        D_val only record this loss in the history.

    Attributes
    ----------
    needs_teacher : bool, default=True
        False: the student learns from the labels alone.
    learns_from_validation : bool, default=False
        True: D_val is held out, and ``takes_hypergradient`` or ``start`` may use it. False: the student
        trains on all of D.
    trials_ : structured array
        Set by strategies that try several settings in ``start``.

    Examples
    --------
    Trust the teacher more in the second half of the training:

    >>> import math, torch
    >>> from sklearn_kd import meta
    >>> class TeacherLater(meta.Strategy):
    ...     def start(self, context):
    ...         return {"lambda1": 0.9, "temperature": 2.0}
    ...
    ...     def predict(self, metaparameters):
    ...         if metaparameters.iteration == 20:
    ...             return torch.tensor([0.1, math.log(2.0)], dtype=torch.float64)
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta=TeacherLater(), search_epochs=None,
    ...     max_epochs=10)
    >>> clf.fit(*load_iris(return_X_y=True)).metaparameter_path_["lambda1"][[0, -1]]
    array([0.9, 0.1])
    """

    needs_teacher = True
    learns_from_validation = False
    trains_population = False  # True for a PopulationStrategy
    val_temperature: float | Literal["auto"] = 1.0  # for subclasses without this parameter
    # How hypergradients are taken and followed; parameters of HypergradientStrategy.
    coordinates: Literal["own", "raw"] = "own"
    hypergradient: str = "finite_difference"
    hypergradient_rows: int | None = None

    def __init__(self, *, val_temperature: float | Literal["auto"] = 1.0):
        self.val_temperature = val_temperature

    def steps(self) -> MetaOptimizer:
        """Return the optimizer that moves the metaparameters."""
        return MetaOptimizer()

    def check(self, space: MetaparameterSpace) -> None:
        """Raise ValueError if the strategy's parameters or these metaparameters cannot be used.

        Parameters
        ----------
        space : MetaparameterSpace
            The metaparameters of the loss.
        """
        check_val_temperature(self.val_temperature)

    def start(self, context: StartContext) -> Values:
        """Return the values before the first iteration.

        Parameters
        ----------
        context : StartContext
            Initial values, bounds, and ways to evaluate settings.

        Returns
        -------
        mapping of str to float or ndarray
            Values by name; a missing one has its initial value.
        """
        return {}

    def takes_hypergradient(self, iteration: int) -> bool:
        """Return whether this iteration moves the metaparameters by the hypergradient.

        With Adam and AdamW the first hypergradient is taken after ten steps. While a strategy that asks for
        one has to wait, nothing moves and its iterations are not counted, so that a cycle begins with the
        first hypergradient.

        Parameters
        ----------
        iteration : int
            Number of the iteration, from 0.
        """
        return False

    def takes_next_hypergradient(self, metaparameters: MetaparameterPath) -> bool:
        """Return whether the next iteration takes a hypergradient, given the path so far.

        Override it if the cycles depend on the path; :meth:`takes_hypergradient` then returns the usual
        cycles. Otherwise override only that.

        Parameters
        ----------
        metaparameters : MetaparameterPath
            The path so far.
        """
        return self.takes_hypergradient(metaparameters.iteration)

    def predict(self, metaparameters: MetaparameterPath) -> Tensor | None:
        """Return θ after an iteration without hypergradient, or None to keep the values.

        θ has the m components of all metaparameters, in the order of ``metaparameters.space`` and in their
        coordinates: (lambda1, log T) for the loss "kd". In the search of
        :class:`~sklearn_kd.DistProClassifier` θ consists of the L raw factors, followed by lambda1 and log T
        if they are learned.

        Parameters
        ----------
        metaparameters : MetaparameterPath
            The path so far. ``metaparameters.iteration`` is the iteration, counted as in
            :meth:`takes_hypergradient`; ``metaparameters.trajectory(...)`` returns earlier θ.

        Returns
        -------
        Tensor of shape (m,) or (k, m), or None
            θ for this iteration, or for this and the k − 1 following ones, after which the strategy is asked
            again. Values are projected onto the bounds; where θ is not finite, the value is kept.
        """
        return None


class HypergradientStrategy(Strategy):
    """Base class of strategies that descend the hypergradient.

    Parameters
    ----------
    lr : float, default=1.0
        Learning rate of the metaparameters, in their coordinates.
    clip : float or None, default=None
        Largest absolute value of a hypergradient component. None: no limit.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Optimizer of the metaparameters.
    optimizer_params : dict or None, default=None
        Further arguments of ``optimizer``, such as ``{"momentum": 0.9}``.
    coordinates : {"own", "raw"}, default="own"
        "own": each metaparameter's own coordinate, such as log T. "raw": the values themselves.
    hypergradient : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
        How the hypergradient is computed: with one more forward pass, with two, by forward-mode
        differentiation, or by one vector-Jacobian product for each component. The latter two are exact. If
        torch has no forward mode, as for LSTMs and attention kernels, "central_difference" replaces "jvp",
        with a warning.
    hypergradient_rows : int or None, default=None
        Number of rows of each training batch for the directional derivative. None: all. Fewer are faster and
        noisier. Do not use it for students whose rows affect each other in training, as with batch
        normalisation.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Examples
    --------
    Learn the metaparameters in the first hundred iterations, then keep them:

    >>> from sklearn_kd.meta import HypergradientStrategy
    >>> class FirstHundred(HypergradientStrategy):
    ...     def takes_hypergradient(self, iteration):
    ...         return iteration < 100
    >>> [FirstHundred(lr=0.5).takes_hypergradient(i) for i in (0, 99, 100)]
    [True, True, False]
    """

    learns_from_validation = True

    def __init__(
        self,
        *,
        lr: float = 1.0,
        clip: float | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        optimizer_params: dict[str, Any] | None = None,
        coordinates: Literal["own", "raw"] = "own",
        hypergradient: Literal[
            "finite_difference", "central_difference", "jvp", "exact"
        ] = "finite_difference",
        hypergradient_rows: int | None = None,
        val_temperature: float | Literal["auto"] = 1.0,
    ):
        self.lr = lr
        self.clip = clip
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.coordinates = coordinates
        self.hypergradient = hypergradient
        self.hypergradient_rows = hypergradient_rows
        self.val_temperature = val_temperature

    def check(self, space: MetaparameterSpace) -> None:
        super().check(space)
        check_has_metaparameters(self, space)
        check_real("lr", self.lr, least=0.0)
        if self.clip is not None:
            check_real("clip", self.clip, above=0.0)
        for name, known in (("coordinates", ("own", "raw")), ("hypergradient", METHODS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {list(known)}.")
        if self.hypergradient_rows is not None:
            check_positive_ints(hypergradient_rows=self.hypergradient_rows)
        if self.hypergradient_rows is not None and self.hypergradient == "exact":
            raise ValueError(
                "hypergradient_rows saves part of an extra forward pass, but hypergradient='exact' has "
                "none. Set hypergradient_rows=None, or another hypergradient."
            )
        self.steps()

    def steps(self) -> MetaOptimizer:
        """Return the optimizer that moves the metaparameters.

        Raises
        ------
        TypeError
            If ``optimizer_params`` is not a dict, or the optimizer does not take them.
        """
        if not isinstance(self.optimizer_params, (Mapping, type(None))):
            raise TypeError(
                f"optimizer_params={self.optimizer_params!r} must be a dict of further arguments of the "
                "optimizer, such as {'momentum': 0.9}, or None."
            )
        how = MetaOptimizer(
            optimizer_class(self.optimizer, of_metaparameters=True),
            {"lr": self.lr} | dict(self.optimizer_params or {}),
            self.clip,
        )
        try:
            make_optimizer(how.make, [torch.nn.Parameter(torch.zeros(1))], **how.params)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"optimizer={self.optimizer!r} of the metaparameters cannot be made with {dict(how.params)}: "
                f"{error}"
            ) from error
        return how

    def takes_hypergradient(self, iteration: int) -> bool:
        return True


def updates_metaparameters(strategy: Strategy) -> bool:
    """Return whether the strategy may move the metaparameters, judged by its class."""
    kind = type(strategy)
    return strategy.trains_population or (
        kind.takes_hypergradient is not Strategy.takes_hypergradient or kind.predict is not Strategy.predict
    )


def check_has_metaparameters(strategy: Strategy, space: MetaparameterSpace) -> None:
    """Raise ValueError if there is nothing for a strategy to learn."""
    if not space.size:
        raise ValueError(
            f"{type(strategy).__name__} has no metaparameter to learn: the loss has none. Set meta='fixed', "
            "or give a loss whose metaparameters(n_classes) returns some. Feature terms have none if "
            "weight_bounds='fixed'."
        )


def check_has_validation(strategy: Strategy, has_validation: bool) -> None:
    """Raise ValueError if a strategy that takes a hypergradient has no D_val."""
    if not has_validation:
        raise ValueError(
            f"{type(strategy).__name__} takes a hypergradient, but there is no D_val. Set "
            "learns_from_validation = True in its class, or give fit X_val and y_val."
        )


def check_positive_ints(**counts: Any) -> None:
    """Raise ValueError unless each is an integer of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")


def check_val_temperature(value: Any) -> None:
    """Raise ValueError unless T_val is a number above 0 or "auto"."""
    if not (isinstance(value, str) and value == "auto"):
        check_real("val_temperature", value, above=0.0, otherwise=", or 'auto'")


def check_real(
    name: str, value: Any, least: float | None = None, above: float | None = None, otherwise: str = ""
) -> None:
    """Raise ValueError unless a value is a finite number; ``otherwise`` is added to the message."""
    right = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    right = right and (least is None or value >= least) and (above is None or value > above)
    if not right:
        bound = f"of at least {least:g}" if above is None else f"above {above:g}"
        raise ValueError(f"{name}={value!r} must be a finite number {bound}{otherwise}.")
