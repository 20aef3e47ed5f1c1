"""Pickle a net without duplicates or parts that are made on demand, and with a compressed history."""

from __future__ import annotations

from typing import Any

from skorch.history import History

from sklearn_kd.files._columns import CompressedHistory

# Attributes made on demand: none belongs in a pickle, and some cannot be pickled.
_MADE_WHEN_NEEDED: dict[str, Any] = {
    "captured_": None,
    "compiled_forward_": None,
    "listeners_": {},
    "validation_batches_": None,
    "checkpointer_": None,
    "hypergradient_estimator_": None,
    "guard_": None,
    "far_": None,
    "average_": None,
    "ending_": None,
    "watch_": None,
    "shared_": None,
}


def state_to_pickle(attributes: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return skorch's state of a net's attributes in the form for a pickle."""
    state = state | _MADE_WHEN_NEEDED
    if type(attributes["history_"]) is History:
        state["history_"] = CompressedHistory(attributes["history_"])
    if attributes.get("module_") is attributes["module"]:  # otherwise the pickle would hold the student twice
        state["module"] = None
    return state


def state_to_send(net: Any) -> dict[str, Any]:
    """Return the state of a net for another process; unlike in a pickle, objects may be sent by value.

    skorch pickles the student by the names of its classes, which another process may not have.
    """
    return state_to_pickle(net.__dict__, dict(net.__dict__))


def net_of_sent(kind: Any, state: dict[str, Any]) -> Any:
    """Return the net for a state from :func:`state_to_send`."""
    net = kind.__new__(kind)
    net.__dict__.update(state)
    complete_unpickled(net.__dict__)
    return net


def complete_unpickled(attributes: dict[str, Any]) -> None:
    """Undo the changes of :func:`state_to_pickle` in the attributes of an unpickled net."""
    if isinstance(attributes["history_"], CompressedHistory):
        attributes["history_"] = attributes["history_"].history()
    if attributes["module"] is None:
        attributes["module"] = attributes["module_"]
