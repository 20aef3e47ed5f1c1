"""The state of a training: taken, loaded, and undone where it cannot be loaded."""

import copy

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_kd.files._values import STATE_VALUES, ContentError
from sklearn_kd.training._nonfinite import GOOD, NO_HYPERGRADIENT, SKIPPED, Skips
from sklearn_kd.training._trainer_state import TrainerState


def weights(net):
    return torch.cat([w.detach().flatten() for w in net.module_.parameters()])


@pytest.mark.parametrize("wrong", [None, "history", "skips", "random_state"])
def test_a_state_is_loaded_whole_or_not_at_all(wrong, make, digits, logits):
    taken, n_loaded = [], []

    class Takes(Callback):
        """Takes the state at the end of each epoch, and draws; loads one in the last."""

        def on_epoch_end(self, net, **kwargs):
            taken.append((TrainerState(net).state_dict(), torch.rand(1).item(), net.metaparameters.iteration))
            if len(taken) == 3:
                self.load(net)

        def load(self, net):
            state, drawn, iteration = copy.deepcopy(taken[1])
            own, before, last = TrainerState(net), weights(net), net.metaparameters.iteration
            n_loaded.append(1)
            if wrong is None:
                own.load_state_dict(state)
                assert torch.rand(1).item() == drawn and own.n_epochs == 2
                assert not torch.equal(weights(net), before)
                assert net.metaparameters.iteration == iteration < last
                return
            broken = state["parts"] if wrong == "skips" else state
            broken[wrong] = STATE_VALUES.encode({}) if wrong == "skips" else ["no", "state"]
            with pytest.raises((TypeError, KeyError, ContentError)):
                own.load_state_dict(state)
            assert torch.equal(weights(net), before)
            assert net.metaparameters.iteration == last and own.n_epochs == 3

    make(max_epochs=3, callbacks=[Takes()]).fit(*digits, teacher_logits=logits)
    assert n_loaded == [1]


def test_skips_tell_their_counts():
    skips = Skips()
    for outcome in (GOOD, SKIPPED, NO_HYPERGRADIENT, SKIPPED, SKIPPED):
        skips.note(outcome)
    optimizer = torch.optim.SGD([torch.zeros(1)])
    assert skips.end_epoch(optimizer) == (3, 1)
    again = Skips()
    again.load_state_dict(skips.state_dict())
    for one in (skips, again):
        one.note(SKIPPED)
        one.end_epoch(optimizer)
    assert vars(again) == vars(skips)
    assert (again.in_a_row, again.run, again.first) == (3, 3, 1)
    assert np.array_equal(again.counts, [1, 0, 1, 4])
