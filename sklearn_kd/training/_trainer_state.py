"""Save and load the state of a training between two epochs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from skorch.callbacks import EpochTimer, PrintLog, ProgressBar
from torch import Tensor

from sklearn_kd.checkpointing._callback_state import changed_state, helper_state, load_helper_state
from sklearn_kd.checkpointing._modules import load_module_state, module_state
from sklearn_kd.files._history import decode_history, encode_history
from sklearn_kd.files._values import STATE_VALUES, Unserializable
from sklearn_kd.runtime._eager_optimizers import eager_method
from sklearn_kd.runtime._random_state import (
    host_random_state,
    random_state,
    set_host_random_state,
    set_random_state,
)
from sklearn_kd.training._progress import Progress
from sklearn_kd.training._sklearn_callbacks import ReportEpochs

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# Callbacks that only show the progress of the training and have no state.
_OBSERVERS = (PrintLog, ProgressBar, EpochTimer, Progress, ReportEpochs)

# State that differs between the processes that train one student together: each draws for its own rows.
_OF_EACH_RANK = ("host_random_state", "random_state")


class TrainerState:
    """Take the state of a net in training, and load it into one with the same parameters.

    A part that cannot be serialised is left out, with one warning.

    Parameters
    ----------
    net : TrainingNet
        Initialised.
    """

    def __init__(self, net: TrainingNet) -> None:
        self._net = net
        self._helpers_at_start: dict[str, dict[str, Any]] = {}
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Record the initial state of callbacks and strategy; only attributes that change are written."""
        self._helpers_at_start = self._helper_states()

    @property
    def n_epochs(self) -> int:
        """Number of epochs trained."""
        return len(self._net.history)

    @property
    def initial_values(self) -> Tensor:
        """The metaparameters' values before the first iteration, on the CPU."""
        return self._net.metaparameters.initial_values()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, in plain values and tensors."""
        helpers = {
            name: changed_state(state, self._helpers_at_start.get(name, {}))
            for name, state in self._helper_states().items()
        }
        state = self._state_with(helpers)
        if self._net.ranks.size > 1:
            state["of_ranks"] = self._net.ranks.gather([state[name] for name in _OF_EACH_RANK])
        return state

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Load a state from :meth:`state_dict`; if that fails, restore the net and raise the error."""
        before = self._state_with(self._helper_states())
        try:
            self._load(state)
        except Exception:
            self._load(before)
            raise

    def on_unserializable(self, name: str, type_name: str) -> None:
        """Warn once that a part of the state cannot be written."""
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"checkpoint_dir: {name} holds {type_name}, which cannot be written to a checkpoint. A "
                "resumed fit uses its initial value. Give the callback or strategy the methods state_dict "
                "and load_state_dict, or keep only numbers, strings, tensors, arrays, and lists and dicts of "
                "these in it.",
                UserWarning,
                stacklevel=2,
            )

    def _state_with(self, helpers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        net = self._net
        try:
            optimizer = STATE_VALUES.encode(eager_method(net.optimizer_, "state_dict")())
        except Unserializable as error:
            optimizer = None
            self.on_unserializable(f"optimizer {type(net.optimizer_).__name__}", error.type_name)
        return {
            "modules": [module_state(module) for module in net.trained_modules()],
            "optimizer": optimizer,
            "parts": {
                name: STATE_VALUES.encode(part.state_dict()) for name, part in net.stateful_parts().items()
            },
            "helpers": helpers,
            "history": encode_history(net.history, STATE_VALUES, self.on_unserializable),
            "val_temperature": net.val_temperature_,
            "host_random_state": STATE_VALUES.encode(host_random_state()),
            "random_state": random_state(torch.device(net.device)),
        }

    def _load(self, state: dict[str, Any]) -> None:
        net = self._net
        for module, saved in zip(net.trained_modules(), state["modules"], strict=True):
            load_module_state(module, saved)
        if state["optimizer"] is not None:
            eager_method(net.optimizer_, "load_state_dict")(STATE_VALUES.decode(state["optimizer"]))
        for name, part in net.stateful_parts().items():
            part.load_state_dict(STATE_VALUES.decode(state["parts"][name]))
        for name, helper in self._helpers():
            if name in state["helpers"]:
                load_helper_state(helper, state["helpers"][name])
        net.history_ = decode_history(state["history"], STATE_VALUES)
        net.val_temperature_ = state["val_temperature"]
        if "of_ranks" in state:
            state = state | dict(zip(_OF_EACH_RANK, state["of_ranks"][net.ranks.rank], strict=True))
        set_host_random_state(STATE_VALUES.decode(state["host_random_state"]))
        # Do this last, because the objects above may draw random numbers while they load their states.
        set_random_state(state["random_state"], torch.device(net.device))

    def _helper_states(self) -> dict[str, dict[str, Any]]:
        return {name: helper_state(helper, name, self.on_unserializable) for name, helper in self._helpers()}

    def _helpers(self) -> list[tuple[str, Any]]:
        """List the strategy and the callbacks with a state, with their names in messages."""
        net = self._net
        callbacks = [(f"callback {name!r}", c) for name, c in net.callbacks_ if not isinstance(c, _OBSERVERS)]
        return [(f"strategy {type(net.strategy).__name__}", net.strategy), *callbacks]
