"""Make strategies, losses and executions of what users give: a name and its parameters, or an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sklearn.base import BaseEstimator, clone

from sklearn_kd.errors._did_you_mean import did_you_mean


def named_object(
    parameter: str,
    value: Any,
    makers: Mapping[str, Callable[[], BaseEstimator]],
    given: Mapping[str, Any],
    otherwise: str,
) -> Any:
    """Return the object that a name stands for, with the given parameters, or a copy of a given object.

    Parameters
    ----------
    parameter : str
        Name of the estimator's parameter, such as "meta".
    value : str or BaseEstimator
    makers : mapping of str to callable
        Makes the object for each name.
    given : mapping of str to object
        Values of ``PARAMETER__NAME``, by NAME. A parameter that only other names take is ignored, since a
        grid search over several names gives it.
    otherwise : str
        What may be given instead of a name, for the message.

    Raises
    ------
    ValueError
        If no object has this name.
    TypeError
        If a parameter is unknown, or is given with an object, which has its own.
    """
    if not isinstance(value, str):
        if given:
            name, own = next(iter(given)), sorted(value.get_params(deep=False))
            if name not in own:
                raise TypeError(
                    f"{parameter}__{name}: {parameter}={value!r} takes no {name!r}.{did_you_mean(name, own)} "
                    f"It takes {own}."
                )
            raise TypeError(
                f"{parameter}__{name} with {parameter}={value!r}, which has its own parameters. Set it "
                f"there: {type(value).__name__}({name}=...), or set_params({parameter}__{name}=...)."
            )
        return clone(value)
    if value not in makers:
        raise ValueError(
            f"{parameter}={value!r} is not known.{did_you_mean(value, tuple(makers))} It is one of "
            f"{list(makers)}, or {otherwise}."
        )
    made = makers[value]()
    if not given:
        return made
    own = made.get_params(deep=False)
    known = {name for make in makers.values() for name in make().get_params(deep=False)}
    for name in given:
        if name not in known:
            raise TypeError(
                f"{parameter}__{name!s}: {parameter}={value!r} takes no {name!r}."
                f"{_meant(parameter, name, known)} It takes {sorted(own)}."
            )
    return made.set_params(**{name: setting for name, setting in given.items() if name in own})


def _meant(parameter: str, name: str, known: set[str]) -> str:
    """Suggest what to give in place of an unknown name, after a space; "" if nothing is near."""
    head, _, rest = name.partition("__")
    if rest and f"{head}_params" in known:  # as skorch writes it
        return f" Did you mean {parameter}__{head}_params={{{rest!r}: ...}}?"
    return did_you_mean(name, sorted(known))
