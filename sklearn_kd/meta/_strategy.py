"""The base of strategies: where the metaparameters start and how they move."""

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
    """The context in which a strategy chooses where the metaparameters start.

    Attributes
    ----------
    start : dict of str to float or ndarray
        The start of each metaparameter that the estimator and its loss give.
    space : mapping of str to Metaparameter
        Bounds, shapes and coordinates by name.
    rng : numpy.random.Generator
        The only source of randomness to use.
    evaluate_all : callable(list of dict, n_jobs=None) -> list of float
        :meth:`evaluate` for each of several settings that do not wait for each other. Students
        that are small enough are trained in one batched run, the others in ``n_jobs`` processes,
        as joblib reads that number.
    verbose : int
        The estimator's.
    signature : callable() -> str
        A digest of what the losses depend on beside the setting: parameters, seeds and data. Equal in
        all processes, for trials that are kept somewhere.
    ranks : Ranks
        The processes that train one student together (``parallel``), in which all settings must be equal.
        ``ranks.broadcast(value)`` returns the value of the first process, ``ranks.is_first``.

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
        """Return L_val on D_val of a fresh student trained on D_train with these values fixed.

        Parameters
        ----------
        **values : float or ndarray
            By the metaparameters' names; others have their start.
        """
        return self.evaluate_all([values])[0]


class Strategy(BaseEstimator):
    """Base class: the metaparameters start where the estimator says and stay there.

    A strategy holds its own settings and no state of a run, so one object can serve any
    number of fits. To write one, subclass, state what it needs in the two class attributes,
    and override what differs. The shortest is :class:`Naive`, a single method.

    Parameters
    ----------
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss CE(softmax(z / T_val), y). "auto" keeps it at its optimum on
        D_val, refitted after every epoch, so that calibration is not rewarded. Strategies that learn
        nothing from D_val have the loss, at T_val, in the history alone.

    Attributes
    ----------
    needs_teacher : bool, default=True
        False: the student learns from the labels alone.
    learns_from_validation : bool, default=False
        True: D_val is held out, and ``takes_hypergradient`` or ``start`` may use it. False:
        the student trains on all of D.
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
    trains_population = False  # of a PopulationStrategy
    val_temperature: float | Literal["auto"] = 1.0  # of subclasses that do not take it
    # How hypergradients are taken and followed; HypergradientStrategy makes parameters of them.
    coordinates: Literal["own", "raw"] = "own"
    hypergradient: str = "finite_difference"
    hypergradient_rows: int | None = None

    def __init__(self, *, val_temperature: float | Literal["auto"] = 1.0):
        self.val_temperature = val_temperature

    def steps(self) -> MetaOptimizer:
        """Return how the metaparameters take their steps."""
        return MetaOptimizer()

    def check(self, space: MetaparameterSpace) -> None:
        """Raise ValueError if the strategy's own parameters, or these metaparameters, cannot be used."""
        check_val_temperature(self.val_temperature)

    def start(self, context: StartContext) -> Values:
        """Return values before the first iteration, by name; a missing one has its start."""
        return {}

    def takes_hypergradient(self, iteration: int) -> bool:
        """Return whether this iteration (0, 1, …) moves the metaparameters by the hypergradient.

        Adam and AdamW take ten steps before a hypergradient can be taken. As long as a strategy
        asks for one and has to wait for it, nothing moves and its count of iterations stands
        still, so that a cycle begins with the first hypergradient.
        """
        return False

    def takes_next_hypergradient(self, metaparameters: MetaparameterPath) -> bool:
        """Return whether the next iteration takes a hypergradient, by the path so far.

        For strategies whose cycles depend on where the metaparameters have been, beside
        :meth:`takes_hypergradient` for cycles as they usually are. Others override that alone.
        """
        return self.takes_hypergradient(metaparameters.iteration)

    def predict(self, metaparameters: MetaparameterPath) -> Tensor | None:
        """Return θ after an iteration without hypergradient; None: stay.

        θ has the m components of all metaparameters, in the order of ``metaparameters.space`` and in
        their coordinates: (lambda1, log T) for the loss "kd". In the search of
        :class:`~sklearn_kd.DistProClassifier` it is the L raw factors, and behind them lambda1 and log T
        where they are learned.

        ``metaparameters.iteration`` says which it is, counted as in :meth:`takes_hypergradient`, and
        ``metaparameters.trajectory(...)`` where they have been. Return shape (m,) for this
        iteration alone, or (k, m) for it and the k − 1 that follow, before the strategy is asked
        again. Returned values are projected onto the bounds; a value that is not finite stays.
        """
        return None


class HypergradientStrategy(Strategy):
    """Base of strategies that descend the hypergradient: how it is computed and followed.

    Parameters
    ----------
    lr : float, default=1.0
        Learning rate of the metaparameters, in their coordinates.
    clip : float or None, default=None
        No component of their hypergradient is larger than this.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Takes their steps.
    optimizer_params : dict or None, default=None
        Further arguments of ``optimizer``, such as ``{"momentum": 0.9}``.
    coordinates : {"own", "raw"}, default="own"
        "own": each metaparameter's own coordinate, such as log T. "raw": the values themselves.
    hypergradient : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
        How the hypergradient is computed: with one more forward pass, with two, by forward-mode
        differentiation, or by one vector-Jacobian product for each component. The latter two are
        exact. Where forward mode does not exist, as for LSTMs and attention kernels,
        "central_difference" takes the place of "jvp", with a warning.
    hypergradient_rows : int or None, default=None
        Rows of each training batch that the directional derivative is taken on; None: all. Fewer
        are faster and noisier. Not for students whose rows see each other while they train, as with
        batch normalisation.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, as in :class:`Strategy`.

    Examples
    --------
    Learn the metaparameters in the first hundred iterations, and keep them from then on:

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
        """Return how the metaparameters take their steps.

        Raises
        ------
        TypeError
            If ``optimizer_params`` are no dict, or the optimizer does not take them.
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
    """Return whether the strategy may move the metaparameters, as far as is known before."""
    kind = type(strategy)
    return strategy.trains_population or (
        kind.takes_hypergradient is not Strategy.takes_hypergradient or kind.predict is not Strategy.predict
    )


def check_has_metaparameters(strategy: Strategy, space: MetaparameterSpace) -> None:
    """Raise ValueError if there is nothing that a strategy could learn."""
    if not space.size:
        raise ValueError(
            f"{type(strategy).__name__} has no metaparameter to learn: the loss has none. Set meta='fixed', "
            "or give a loss whose metaparameters(n_classes) returns some. Terms of features have none where "
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
