"""Parameters that an estimator passes on, given as ``PREFIX__NAME``."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from sklearn_kd._batches import iterator_arguments

if TYPE_CHECKING:
    from typing_extensions import Self


class RoutingEstimator(BaseEstimator):
    """An estimator with parameters for what it builds, beside its own."""

    optimizer: Any

    # What may stand before the double underscore, beside nested estimators.
    _routed_prefixes: tuple[str, ...] = (
        "student",
        "optimizer",
        "meta_optimizer",
        "iterator_train",
        "iterator_valid",
        "callbacks",
    )

    def _routed_names(self) -> list[str]:
        named = self._get_param_names()
        return sorted(
            name
            for name in vars(self)
            if name not in named and not name.startswith("_") and not name.endswith("_")
        )

    def _routed(self, prefix: str) -> dict[str, Any]:
        """The parameters given as ``prefix__NAME``, by NAME."""
        start = prefix + "__"
        names = [name for name in self._routed_names() if name.startswith(start)]
        return {name[len(start) :]: getattr(self, name) for name in names}

    def _passed_on(self, *prefixes: str) -> dict[str, Any]:
        """The parameters of these prefixes by their whole names, as skorch takes them."""
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
            ``teacher__*`` and ``meta__*`` reach into a teacher or a strategy that is an
            estimator; ``student__*``, ``optimizer__*``, ``meta_optimizer__*``,
            ``iterator_train__*``, ``iterator_valid__*`` and ``callbacks__*`` are kept for
            ``fit``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is not known, or reaches into what has no parameters.
        """
        for nested in ("teacher", "meta"):
            value = params.get(nested, getattr(self, nested, None))
            inner = [name for name in params if name.startswith(nested + "__")]
            if inner and not hasattr(value, "set_params"):
                raise ValueError(
                    f"{inner[0]}: {nested}={value!r} has no parameters to set. Give {nested} as an "
                    f"estimator{' from sklearn_kd.meta' if nested == 'meta' else ''} first."
                )
        routed = {
            name: value
            for name, value in params.items()
            if "__" in name and name.partition("__")[0] in self._routed_prefixes
        }
        super().set_params(**{name: v for name, v in params.items() if name not in routed})
        self.__dict__.update(routed)
        return self

    def _check_routed(self, loaded: bool):
        """Raise TypeError, with the nearest names, for a routed parameter nothing takes.

        ``loaded``: X is a Dataset, and the iterators load its rows.
        """
        takers: dict[str, list[str]] = {
            "optimizer": [*_arguments(self.optimizer), "param_groups"],
            "iterator_train": iterator_arguments(loaded),
            "iterator_valid": iterator_arguments(loaded),
        }
        if "meta_optimizer" in self._routed_prefixes:
            takers["meta_optimizer"] = _arguments(self.meta_optimizer)
        for name in self._routed_names():
            prefix, _, rest = name.partition("__")
            if not rest or prefix not in self._routed_prefixes:
                known = [*self._get_param_names(), *(f"{p}__{rest}" for p in self._routed_prefixes)]
                raise TypeError(
                    f"{type(self).__name__} got an unexpected parameter {name!r}.{nearest(name, known)}"
                )
            known = takers.get(prefix, [])
            if known and rest.partition("__")[0] not in known:
                raise TypeError(
                    f"{name!r}: {prefix} takes no {rest!r}."
                    f"{nearest(name, [f'{prefix}__{k}' for k in known])} It takes {known}."
                )


def _arguments(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("params", "dataset")]


def nearest(name: str, known) -> str:
    """Ask whether the nearest known name was meant; an empty string where none is near."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
