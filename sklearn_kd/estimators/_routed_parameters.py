"""Parameters that an estimator passes on, given as ``PREFIX__NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.inputs._batches import iterator_arguments
from sklearn_kd.losses._named import LOSSES
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import optimizer_class

if TYPE_CHECKING:
    from typing_extensions import Self

# Parameter names of other libraries, and the names here.
_OTHER_NAMES = {
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "max_iter": "max_epochs",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "seed": "random_state",
    "validation_split": "validation_fraction",
    "alpha": "lambda1",
    "T": "temperature",
    "tau": "temperature",
}
_REMEDIES = {
    "class_weight": (
        "Give fit sample_weight, such as sklearn.utils.class_weight.compute_sample_weight('balanced', y)."
    ),
    "sample_weight": "Give it to fit.",
    "teacher_logits": "Give them to fit.",
}


# Objects that a name may stand for, whose parameters are given as ``PREFIX__NAME``.
_MAKERS: dict[str, tuple[Callable[[], BaseEstimator], ...]] = {
    "meta": tuple(STRATEGIES.values()),
    "loss": tuple(LOSSES.values()),
    "execution": (Execution,),
}


class RoutedParameters(BaseEstimator):
    """An estimator with parameters for what it builds, beside its own."""

    optimizer: Any
    student: Any
    batch_size: int

    # What may stand before the double underscore, beside nested estimators.
    _routed_prefixes: tuple[str, ...] = (
        "student",
        "meta",
        "loss",
        "execution",
        "optimizer",
        "iterator_train",
        "iterator_valid",
        "callbacks",
    )

    def _routed_names(self) -> list[str]:
        own_class: Any = type(self)
        named = _named_parameters(own_class)
        return sorted(
            name
            for name in vars(self)
            if name not in named and not name.startswith("_") and not name.endswith("_")
        )

    def _routed(self, prefix: str) -> dict[str, Any]:
        """Return the parameters given as ``prefix__NAME``, by NAME."""
        start = prefix + "__"
        names = [name for name in self._routed_names() if name.startswith(start)]
        return {name[len(start) :]: getattr(self, name) for name in names}

    def _passed_on(self, *prefixes: str) -> dict[str, Any]:
        """Return the parameters of these prefixes by their whole names, as skorch takes them."""
        return {
            f"{prefix}__{name}": value for prefix in prefixes for name, value in self._routed(prefix).items()
        }

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters, those given as ``PREFIX__NAME`` included.

        Parameters
        ----------
        deep : bool, default=True
            Include the parameters of a teacher or a strategy that is an estimator.

        Returns
        -------
        dict
            Parameter names mapped to their values.
        """
        return super().get_params(deep) | {n: getattr(self, n) for n in self._routed_names()}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also of nested objects as ``PREFIX__NAME``.

        Parameters
        ----------
        **params : dict
            ``teacher__*``, ``meta__*``, ``loss__*`` and ``execution__*`` reach into objects; beside a
            name, such as ``meta="linear"``, the latter three are kept for ``fit``, as are
            ``student__*``, ``optimizer__*``, ``iterator_train__*``, ``iterator_valid__*`` and
            ``callbacks__*``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is not known, or reaches into what has no parameters.
        """
        teacher = params.get("teacher", getattr(self, "teacher", None))
        inner = [name for name in params if name.startswith("teacher__")]
        if inner and not hasattr(teacher, "set_params"):
            raise ValueError(
                f"{inner[0]}: teacher={teacher!r} has no parameters to set. Give teacher as an estimator "
                "first."
            )
        routed = {
            name: v for name, v in params.items() if self._is_routed(name) and not self._nests(name, params)
        }
        known = {*self._get_param_names(), *self._routed_names()}  # fit judges what the constructor took
        for name in params:
            if name not in routed and not {name, name.partition("__")[0]} & known:
                raise ValueError(f"Invalid parameter {name!r} for {type(self).__name__}.{self._meant(name)}")
        super().set_params(**{name: v for name, v in params.items() if name not in routed})
        self.__dict__.update(routed)
        return self

    def _nests(self, name: str, params: dict[str, Any]) -> bool:
        """Return whether a parameter reaches into an object that this estimator has or is given."""
        prefix = name.partition("__")[0]
        return hasattr(params.get(prefix, getattr(self, prefix, None)), "get_params") and prefix in (
            "meta", "loss", "execution",
        )  # fmt: skip

    def _keep_routed(self, routed: dict[str, Any]) -> None:
        """Keep what the constructor was given beside its own parameters, for ``fit`` to judge.

        Raises
        ------
        TypeError
            For a name that is not a parameter's: it would take the place of a method or of something
            fitted.
        """
        for name in routed:
            if name.startswith("_") or name.endswith("_") or hasattr(type(self), name):
                raise TypeError(
                    f"{type(self).__name__} got an unexpected parameter {name!r}, which is the name of "
                    f"something else that it has.{self._meant(name)}"
                )
        self.__dict__.update(routed)

    @classmethod
    def _is_routed(cls, name: str) -> bool:
        prefix, _, rest = name.partition("__")
        return bool(rest) and prefix in cls._routed_prefixes

    def _meant(self, name: str) -> str:
        """Suggest what to give in place of an unknown parameter, after a space; "" if nothing is near."""
        known = self._get_param_names()
        prefix, _, rest = name.partition("__")
        if rest and prefix in known:
            return f" Set it on the {prefix} itself, or by set_params({name}=...)."
        if name in _REMEDIES:
            return f" {_REMEDIES[name]}"
        if _OTHER_NAMES.get(name) in known:
            return f" Did you mean {_OTHER_NAMES[name]!r}?"
        for prefix, taker in {"student": self.student, "optimizer": self.optimizer}.items():
            if name in _arguments_known(taker):
                return f" Did you mean '{prefix}__{name}'?"
        for prefix, makers in _MAKERS.items():
            takers = [getattr(self, prefix, None), *(make() for make in makers)]
            if prefix in self._routed_prefixes and any(name in _parameters(taker) for taker in takers):
                return f" Did you mean '{prefix}__{name}'?"
        written_otherwise = [f"{p}__{rest}" for p in self._routed_prefixes if rest]
        written_otherwise += [
            f"{p}__{name[len(p) + 1 :]}" for p in self._routed_prefixes if name.startswith(f"{p}_")
        ]
        return did_you_mean(name, [*known, *written_otherwise])

    def _check_routed(self, loaded: bool) -> None:
        """Raise TypeError, with the nearest names, for a routed parameter nothing takes.

        ``loaded``: X is a Dataset, and the iterators load its rows.
        """
        takers: dict[str, list[str]] = {
            "optimizer": [*_arguments(optimizer_class(self.optimizer)), "param_groups"],
            "iterator_train": iterator_arguments(loaded),
            "iterator_valid": iterator_arguments(loaded),
        }
        for name in self._routed_names():
            prefix, _, rest = name.partition("__")
            if not self._is_routed(name):
                raise TypeError(
                    f"{type(self).__name__} got an unexpected parameter {name!r}.{self._meant(name)}"
                )
            known = takers.get(prefix, [])
            if known and rest.partition("__")[0] not in known:
                raise TypeError(
                    f"{name!r}: {prefix} takes no {rest!r}."
                    f"{did_you_mean(name, [f'{prefix}__{k}' for k in known])} It takes {known}."
                )


def _parameters(taker: Any) -> dict[str, Any]:
    """Return the parameters of an object by their names; none of what has no parameters."""
    return taker.get_params(deep=False) if isinstance(taker, BaseEstimator) else {}


@cache
def _named_parameters(estimator_class: Any) -> frozenset[str]:
    """Return the parameters of the constructor, whose signature takes long to read."""
    return frozenset(estimator_class._get_param_names())


def loader_settings(estimator: RoutedParameters, part: str) -> dict[str, Any]:
    """Return the DataLoader's settings of an estimator for "iterator_train" or "iterator_valid"."""
    return {"batch_size": estimator.batch_size} | estimator._routed(part)


def _arguments(function: Callable) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("params", "dataset")]


def _arguments_known(function: Callable | str) -> list[str]:
    """List the arguments of a class, a function or a named optimizer; none where they are not known."""
    try:
        return _arguments(optimizer_class(function) if isinstance(function, str) else function)
    except (TypeError, ValueError):
        return []
