"""Take and load the state of callbacks and strategies: by ``state_dict``, or from their attributes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from skorch.callbacks import EpochScoring

from sklearn_kd.files._values import STATE_VALUES, Unserializable, is_same

# Attributes of EpochScoring that hold the last epoch's predictions, and are computed anew.
_CACHES = {"y_trues_", "y_preds_"}
# Attributes of these types cannot be serialised and need not be, since the code makes them again.
_MADE_AGAIN = (type, ModuleType, logging.Logger)

OnUnserializable = Callable[[str, str], None]


def helper_state(helper: Any, name: str, on_unserializable: OnUnserializable) -> dict[str, Any]:
    """Return the state of a callback or a strategy, in forms of ``STATE_VALUES``.

    Parameters
    ----------
    helper : object
        If it lacks ``state_dict`` or ``load_state_dict``, its attributes are read.
    name : str
        Name of the helper in messages.
    on_unserializable : callable(name, type_name)
        Called for each part that cannot be serialised and is left out.
    """
    if not has_state_dict(helper):
        return reflected_state(helper, name, on_unserializable)
    try:
        return {"state_dict": STATE_VALUES.encode(helper.state_dict())}
    except Unserializable as error:
        on_unserializable(f"state_dict of {name}", error.type_name)
        return {}


def load_helper_state(helper: Any, state: dict[str, Any]) -> None:
    """Load a state from :func:`helper_state`.

    Raises
    ------
    ValueError
        If the state would replace a method.
    """
    if "state_dict" in state:
        helper.load_state_dict(STATE_VALUES.decode(state["state_dict"]))
    for name, nested in state.get("nested", {}).items():
        own: Any = getattr(helper, name, None)
        if has_state_dict(own):
            nested = STATE_VALUES.decode(nested)
            own.load_state_dict(own.state_dict() | nested if type(nested) is dict else nested)
    for name, value in state.get("attributes", {}).items():
        if hasattr(type(helper), name) and callable(getattr(type(helper), name)):
            raise ValueError(f"{type(helper).__name__} has a method {name}, which is not state")
        setattr(helper, name, STATE_VALUES.decode(value))


def changed_state(state: dict[str, Any], at_start: dict[str, Any]) -> dict[str, Any]:
    """Return a state with only the attributes that differ from ``at_start``; the user sets the others."""
    before = at_start.get("attributes", {})
    attributes = {
        name: value
        for name, value in state.get("attributes", {}).items()
        if name not in before or not is_same(value, before[name])
    }
    return state | {"attributes": attributes}


def has_state_dict(value: Any) -> bool:
    """Return whether an object has ``state_dict`` and ``load_state_dict``."""
    is_class = isinstance(value, type)
    return not is_class and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def reflected_state(helper: Any, name: str, on_unserializable: OnUnserializable) -> dict[str, Any]:
    """Read the state of a foreign helper, which has no ``state_dict``, from its attributes.

    Parameters of the constructor are left out. For an attribute with its own ``state_dict``, such as a
    learning rate schedule, that is used. An attribute that cannot be serialised is reported if a user's
    class holds it; skorch's callbacks make such attributes again.
    """
    given = set(inspect.signature(type(helper)).parameters)
    if isinstance(helper, EpochScoring):
        given |= _CACHES
    is_users = not type(helper).__module__.startswith(("skorch.", "sklearn_kd."))
    attributes: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, value in vars(helper).items():
        if key in given:
            continue
        is_nested = has_state_dict(value)
        try:
            if is_nested:
                nested[key] = STATE_VALUES.encode(_without_functions(value.state_dict()))
            else:
                attributes[key] = STATE_VALUES.encode(value)
        except Unserializable as error:
            if is_nested or (is_users and not callable(value) and not isinstance(value, _MADE_AGAIN)):
                on_unserializable(f"attribute {key!r} of {name}", error.type_name)
    return {"attributes": attributes, "nested": nested}


def _without_functions(state: Any) -> Any:
    """Drop functions from the state of a learning rate schedule, where older versions of torch hold them."""
    if type(state) is not dict:
        return state
    return {name: value for name, value in state.items() if not callable(value)}
