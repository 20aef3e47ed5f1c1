"""Pass on parameters given as ``PREFIX__NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from sklearn_kd.errors._did_you_mean import closest, did_you_mean
from sklearn_kd.estimators._named_terms import FEATURE_TERMS
from sklearn_kd.inputs._batches import iterator_arguments, rows_per_batch
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._loss_list import entry_params, is_listed, with_entry_params
from sklearn_kd.losses._named import OWN_LOSS
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.meta._strategy import check_positive_ints
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import optimizer_class

if TYPE_CHECKING:
    from typing_extensions import Self

# Parameter names in other libraries, and their names here.
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
    "solver": "optimizer",
    "class_weights": "class_weight",
    "max_norm": "max_grad_norm",
    "clip_norm": "max_grad_norm",
    "gradient_clip_value": "max_grad_norm",
    "gradient_clip_val": "max_grad_norm",
    "scale": "standardize",
    "scaler": "standardize",
    "normalize": "standardize",
}
_EARLY_STOPPING = "Give callbacks=[skorch.callbacks.EarlyStopping()]."
_REMEDIES = {
    "sample_weight": "Give it to fit.",
    "sample_weight_val": "Give it to fit.",
    "groups": "Give them to fit.",
    "X_val": "Give X_val and y_val to fit.",
    "y_val": "Give X_val and y_val to fit.",
    "eval_set": "Give X_val and y_val to fit.",
    "train_split": "Set validation_fraction, or give X_val and y_val to fit.",
    "module": "Give the network as student.",
    "hidden_layer_sizes": "Give the student's own as student__NAME, such as student__hidden of MLPStudent.",
    "activation": "It is part of the student: give a module of your own, or a function that returns one.",
    "dropout": "It is part of the student: give a module of your own, or a function that returns one.",
    "early_stopping": _EARLY_STOPPING,
    "patience": _EARLY_STOPPING,
    "n_iter_no_change": _EARLY_STOPPING,
    "tol": _EARLY_STOPPING,
    "teacher_logits": "Give them to fit.",
    "X_unlabeled": "Give it to fit.",
}
# How to get an object with parameters to set, by prefix.
_REACHABLE = {
    "teacher": " Give teacher as an estimator first.",
    "student_preprocessing": " Give student_preprocessing=sklearn_kd.TablePreprocessing() first.",
}
# Prefix of arguments of the teacher's own ``fit``; teacher__NAME sets a parameter of the teacher.
_TEACHER_FIT = "teacher__fit__"
# Parameters that may be a name, or an object with its own parameters.
_NAMES_OR_OBJECTS = ("meta", "loss", "execution")


class RoutedParameters(BaseEstimator):
    """Base of estimators that take, besides their own parameters, those of the objects they build."""

    optimizer: Any
    student: Any
    loss: Any
    batch_size: int | str
    _strategies: tuple[str, ...]
    _losses: Mapping[str, type[DistillationLoss]]
    _own_loss = OWN_LOSS  # what messages advise instead of a loss of torch
    _teacher_is_trained = False  # True: the teacher, of any kind, comes trained

    # Prefixes of the double underscore, besides those of nested estimators.
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
        """Return the parameters of these prefixes by their full names, as skorch takes them."""
        return {
            f"{prefix}__{name}": value for prefix in prefixes for name, value in self._routed(prefix).items()
        }

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters, including those given as ``PREFIX__NAME``.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of a teacher or a strategy that is an estimator.

        Returns
        -------
        dict
            Parameter names mapped to their values.
        """
        found = super().get_params(deep) | {n: getattr(self, n) for n in self._routed_names()}
        if deep and is_listed(found.get("loss")):
            found |= {f"loss__{name}": value for name, value in entry_params(found["loss"]).items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters, including those of nested objects as ``PREFIX__NAME``.

        Parameters
        ----------
        **params : dict
            ``teacher__*``, ``meta__*``, ``loss__*`` and ``execution__*`` set parameters of objects. If the
            parameter is a name instead, such as ``meta="linear"``, the last three are kept for ``fit``, as
            are ``teacher__fit__*``, ``student__*``, ``optimizer__*``, ``iterator_train__*``,
            ``iterator_valid__*`` and ``callbacks__*``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is unknown, or its prefix names something without parameters.
        """
        routed = {
            name: v
            for name, v in params.items()
            if self._is_routed(name) and not self._nests(name, params) and not self._is_of_list(name, params)
        }
        known = {*self._get_param_names(), *self._routed_names()}  # fit checks what the constructor took
        for name in params:
            if name not in routed and not {name, name.partition("__")[0]} & known:
                raise ValueError(f"Invalid parameter {name!r} for {type(self).__name__}.{self._meant(name)}")
            if name not in routed and not self._is_of_list(name, params):
                self._check_reaches(name, params)
        of_list = {name: v for name, v in params.items() if self._is_of_list(name, params)}
        others = {name: v for name, v in params.items() if name not in routed and name not in of_list}
        super().set_params(**others)
        if of_list:
            self._set_in_list({name.partition("__")[2]: value for name, value in of_list.items()})
        self._forget_replaced(params)
        self.__dict__.update(routed)
        return self

    def _set_in_list(self, entries: dict[str, Any]) -> None:
        """Set entries of the list of losses and their parameters; keep those for entries given by name."""
        kept = {key: v for key, v in self._routed("loss").items() if key.partition("__")[0] not in entries}
        self.loss = with_entry_params(self.loss, kept | entries, {**self._losses, **FEATURE_TERMS})
        for name in [name for name in self._routed_names() if name.startswith("loss__")]:
            del self.__dict__[name]

    def _is_of_list(self, name: str, params: dict[str, Any]) -> bool:
        """Return whether a parameter belongs to a list of losses that this estimator has or is given."""
        prefix, _, rest = name.partition("__")
        return bool(rest) and prefix == "loss" and is_listed(params.get("loss", getattr(self, "loss", None)))

    def _check_reaches(self, name: str, params: dict[str, Any]) -> None:
        """Raise ValueError for a nested parameter of something without parameters."""
        prefix, _, rest = name.partition("__")
        value = params.get(prefix, getattr(self, prefix, None))
        if rest and not _has_parameters(value):
            mend = _REACHABLE.get(prefix, "")
            if prefix == "teacher" and isinstance(value, (list, tuple)):
                mend = " Give teacher=sklearn_kd.teachers.TeacherEnsemble([...]), which reaches its teachers."
            raise ValueError(f"{name}: {prefix}={value!r} has no parameters to set.{mend}")

    def _nests(self, name: str, params: dict[str, Any]) -> bool:
        """Return whether a parameter belongs to an object that this estimator has or is given."""
        prefix = name.partition("__")[0]
        value = params.get(prefix, getattr(self, prefix, None))
        return prefix in _NAMES_OR_OBJECTS and _has_parameters(value)

    def _forget_replaced(self, params: dict[str, Any]) -> None:
        """Forget parameters kept for a name if ``params`` replace the name by an object."""
        for name in self._routed_names():
            given = None if name.startswith(_TEACHER_FIT) else params.get(name.partition("__")[0])
            own = name.startswith("loss__") and is_listed(given)
            if own or _has_parameters(given) or (name in params and self._nests(name, params)):
                del self.__dict__[name]

    def _validate_params(self) -> None:
        """Refuse classes given instead of objects, then check the parameters as scikit-learn does."""
        _refuse_criterion(getattr(self, "loss", "kd"), self._own_loss)
        for name in ("meta", "loss", "execution"):
            value = getattr(self, name, None)
            if isinstance(value, type):
                raise TypeError(f"{name}={value.__name__} is a class. Give an object: {value.__name__}().")
        super()._validate_params()

    def _keep_routed(self, routed: dict[str, Any]) -> None:
        """Keep the constructor's extra arguments for ``fit`` to check.

        Raises
        ------
        TypeError
            If a name is that of a method or of a fitted attribute, which it would replace.
        """
        for name in routed:
            if name.startswith("_") or name.endswith("_") or hasattr(type(self), name):
                raise TypeError(
                    f"{type(self).__name__} got an unexpected parameter {name!r}, which is the name of one "
                    f"of its other attributes.{self._meant(name)}"
                )
        self.__dict__.update(routed)

    @classmethod
    def _is_routed(cls, name: str) -> bool:
        prefix, _, rest = name.partition("__")
        if name.startswith(_TEACHER_FIT):
            return name != _TEACHER_FIT and not cls._teacher_is_trained
        return bool(rest) and prefix in cls._routed_prefixes

    def _meant(self, name: str) -> str:
        """Suggest what to give instead of an unknown parameter, after a space; "" if nothing is similar."""
        known = self._get_param_names()
        prefix, _, rest = name.partition("__")
        for other in ("teacher__fit_", "teacher_fit__", "teacher_fit_"):
            if name.startswith(other) and not name.startswith(_TEACHER_FIT) and not self._teacher_is_trained:
                return f" Did you mean {_TEACHER_FIT + name.removeprefix(other).lstrip('_')!r}?"
        if rest and prefix in known and _has_parameters(getattr(self, prefix)):
            return f" Set it on the {prefix} itself, or by set_params({name}=...)."
        if "loss" in known and (prefix == "criterion" or name == "label_smoothing"):
            return f" {self._own_loss}"
        if name in _REMEDIES:
            return f" {_REMEDIES[name]}"
        if _OTHER_NAMES.get(name) in known:
            return f" Did you mean {_OTHER_NAMES[name]!r}?"
        for taker, arguments in self._arguments_of_takers().items():
            if name in arguments:
                return f" Did you mean '{taker}__{name}'?"
        return did_you_mean(name, [*known, *self._written_otherwise(name)])

    def _arguments_of_takers(self) -> dict[str, set[str]]:
        """Return, by prefix, the known arguments of whatever takes parameters."""
        takers: dict[str, list[Any]] = {
            "student": [self.student],
            "optimizer": [self.optimizer],
            "meta": [STRATEGIES[name] for name in self._strategies],
            "loss": [*self._losses.values()],
            "execution": [Execution],
        }
        return {
            prefix: {argument for taker in takers[prefix] for argument in _arguments_known(taker)}
            for prefix in takers
            if prefix in self._routed_prefixes
        }

    def _written_otherwise(self, name: str) -> list[str]:
        """Return names like an unknown one with another prefix, or with two underscores for one."""
        prefix, _, rest = name.partition("__")
        near = closest(prefix, self._routed_prefixes) if rest else None
        written = [] if near is None else [f"{near}__{rest}"]
        for known in self._routed_prefixes:
            behind = name.removeprefix(f"{known}_")
            if behind != name and behind.strip("_"):
                written.append(f"{known}__{behind}")
        return written

    def _check_routed(self, loaded: bool) -> None:
        """Raise TypeError, with the most similar names, for a routed parameter that nothing takes.

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
                    f"{_meant_argument(prefix, rest, known)} It takes {known}."
                )
            # -1 stands for all rows, as in skorch. A DataLoader checks its own.
            if rest == "batch_size" and getattr(self, name) != -1 and not loaded:
                check_positive_ints(**{name: getattr(self, name)})


@cache
def _named_parameters(estimator_class: Any) -> frozenset[str]:
    """Return the parameters of the constructor; cached, since inspecting a signature is slow."""
    return frozenset(estimator_class._get_param_names())


def loader_settings(estimator: RoutedParameters, part: str, n_rows: int | None = None) -> dict[str, Any]:
    """Return the DataLoader's settings of an estimator for "iterator_train" or "iterator_valid".

    ``n_rows`` is the number of rows given to ``fit``; None outside a fit.
    """
    return {"batch_size": rows_per_batch(estimator.batch_size, n_rows)} | estimator._routed(part)


def _refuse_criterion(loss: Any, mend: str) -> None:
    """Raise TypeError, with advice, for a loss of torch or a function instead of a DistillationLoss."""
    if isinstance(loss, (DistillationLoss, FeatureTerm)) or not callable(loss):
        return
    kind = loss if isinstance(loss, type) else type(loss)
    if issubclass(kind, (DistillationLoss, FeatureTerm)):
        return  # refused as a class
    raise TypeError(
        f"loss={loss!r:.200} is not a DistillationLoss: it has neither a teacher nor lambda1. {mend}"
    )


def _has_parameters(value: Any) -> bool:
    return hasattr(value, "get_params") and not isinstance(value, type)


def _meant_argument(prefix: str, name: str, known: list[str]) -> str:
    """Suggest the argument most similar to an unknown one, by its full name."""
    match = closest(name, known)
    return "" if match is None else f" Did you mean {f'{prefix}__{match}'!r}?"


def _arguments(function: Callable) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("params", "dataset")]


def _arguments_known(function: Callable | str) -> list[str]:
    """List the arguments of a class, a function or a named optimizer; none if they are not known."""
    try:
        return _arguments(optimizer_class(function) if isinstance(function, str) else function)
    except (TypeError, ValueError):
        return []
