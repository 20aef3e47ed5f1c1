"""A stage's checkpoints, for any training that tells its state."""

import pytest
import torch
from skorch.history import History

from sklearn_kd.checkpointing._callback_state import changed_state, helper_state, load_helper_state
from sklearn_kd.checkpointing._checkpointer import Checkpointer, teacher_signature
from sklearn_kd.checkpointing._checkpoints import Checkpoints
from sklearn_kd.checkpointing._trial_cache import TrialCache
from sklearn_kd.inputs._batches import TensorBatches
from sklearn_kd.inputs._data import DistillationData


class CountedEpochs:
    """A training whose state is a number."""

    def __init__(self, start=0.5):
        self.n_epochs, self.initial_values, self.begun = 0, torch.tensor([start]), False
        self.lost = []

    def begin(self):
        self.begun = True

    def state_dict(self):
        return {"n_epochs": self.n_epochs}

    def load_state_dict(self, state):
        self.n_epochs = state["n_epochs"]

    def on_unserializable(self, name, type_name):
        self.lost.append((name, type_name))


def batches():
    return TensorBatches(DistillationData(torch.zeros(6, 2)), batch_size=2, shuffle=True)


@pytest.fixture
def opened(tmp_path):
    """f(training, teacher=None): a checkpointer of the same fit, each time as by a new process."""
    held = []

    def opened(training, teacher=None):
        for checkpoints in held:
            checkpoints.release()
        held[:] = [Checkpoints(tmp_path, "fit", [[1]], False)]
        return Checkpointer(held[0], "training", training, teacher)

    return opened


def test_a_training_goes_on(opened):
    training, iterator = CountedEpochs(), batches()
    checkpointer = opened(training)
    assert checkpointer.restore() == 0 and training.begun
    checkpointer.save()  # nothing has been trained
    checkpointer.track("train", iterator)
    list(iterator)
    training.n_epochs = 2
    checkpointer.save()
    expected = iterator.order.draw().tolist()
    resumed, iterator = CountedEpochs(), batches()
    checkpointer = opened(resumed)
    assert checkpointer.restore() == resumed.n_epochs == 2
    checkpointer.track("train", iterator)
    assert iterator.order.draw().tolist() == expected
    checkpointer.track("train", iterator)  # it is not set back when it is seen again
    assert iterator.order.draw().tolist() != expected


def test_other_trainings_are_refused(opened):
    training, teacher = CountedEpochs(), torch.ones(3)
    checkpointer = opened(training, teacher)
    training.n_epochs = 1
    checkpointer.save()
    for other, signature, reason in [
        (CountedEpochs(0.6), teacher, "other metaparameters"),
        (CountedEpochs(), None, "has a teacher"),
        (CountedEpochs(), teacher + 1e-3, "outputs differ"),
    ]:
        with pytest.raises(ValueError, match=reason):
            opened(other, signature).restore()
    assert opened(CountedEpochs(), teacher + 1e-5).restore() == 1


def test_the_result_of_a_stage(opened):
    training, history = CountedEpochs(), History([{"epoch": 1, "batches": [], "loss": 0.5, "file": object()}])
    checkpointer = opened(training)
    assert checkpointer.stage_result(lambda result: None) is None
    training.n_epochs = 1
    checkpointer.finish_stage({"weights": torch.ones(2), "history": history})
    assert training.lost == [("column 'file' of the history", "object")]
    seen = []
    result = opened(CountedEpochs()).stage_result(seen.append)
    assert result["history"].to_list() == [{"epoch": 1, "batches": [], "loss": 0.5}]
    assert result["weights"].tolist() == [1, 1] and len(seen) == 1

    def refuses(result):
        raise ValueError("no such process")

    with pytest.raises(ValueError, match="no such process"):
        opened(CountedEpochs()).stage_result(refuses)


def test_without_a_folder_nothing_is_written():
    training = CountedEpochs()
    checkpointer = Checkpointer(Checkpoints(None, "", [[1]], False), "training", training)
    training.n_epochs = 3
    checkpointer.save()
    assert checkpointer.restore() == 0 and checkpointer.stage_result(print) is None


def test_signatures_of_teachers():
    logits = torch.arange(300.0).reshape(100, 3)
    whole = teacher_signature([logits], 100)
    assert whole.shape == (65, 3) and torch.equal(teacher_signature(logits.split(7), 100), whole)
    assert teacher_signature([logits[:2]], 2).tolist() == [[0, 1, 2], [3, 4, 5], [1.5, 2.5, 3.5]]


class Remembers:
    """A foreign helper, without state_dict."""

    def __init__(self, given=1):
        self.given, self.same, self.moved = given, [1], 0
        self.schedule = torch.optim.SGD([torch.zeros(1)], lr=0.1)

    def method(self):
        pass


def test_the_state_of_a_foreign_helper_is_read_from_its_attributes():
    helper, again, lost = Remembers(), Remembers(given=5), []

    def on_unserializable(*found):
        lost.append(found)

    at_start = helper_state(helper, "it", on_unserializable)
    helper.moved, helper.schedule.param_groups[0]["lr"], helper.file = 3, 0.5, object()
    state = changed_state(helper_state(helper, "it", on_unserializable), at_start)
    assert set(state["attributes"]) == {"moved"} and set(state["nested"]) == {"schedule"}
    assert lost == [("attribute 'file' of it", "object")]
    load_helper_state(again, state)
    assert (again.given, again.moved, again.schedule.param_groups[0]["lr"]) == (5, 3, 0.5)
    with pytest.raises(ValueError, match="has a method"):
        load_helper_state(again, {"attributes": {"method": 3}})


def test_trials_are_looked_up(tmp_path):
    settings, later = [(0.5, 1.0), (0.5, 2.0)], [(0.1, 1.0)]

    def opened():
        return Checkpoints(tmp_path, "fit", [[1]], False)

    checkpoints = opened()
    cache = TrialCache(checkpoints)
    known, record = cache.lookup(settings)
    assert known == {}
    best = {
        "setting": [0.5, 2.0],
        "loss": 0.25,
        "averaged": True,
        "weights": {"w": torch.ones(2)},
        "beside": {},
    }
    record({1: 0.25}, False, best)
    _, record_later = cache.lookup(later)
    record_later({0: 0.75}, False, best)
    checkpoints.release()

    cache = TrialCache(opened_again := opened())
    assert repr(cache.best) == repr(best)
    assert [cache.lookup(given)[0] for given in (settings, later)] == [{1: 0.25}, {0: 0.75}]
    opened_again.release()
    cache = TrialCache(opened_again := opened())
    known, record = cache.lookup([(0.5, 1.0), (0.5, 3.0)])  # other settings, and all that followed them
    assert known == cache.lookup(later)[0] == {} and cache.best is None
    record({0: 0.5}, True, None)  # cut short by a user: not written
    cache = TrialCache(opened())
    assert cache.lookup(settings)[0] == {1: 0.25}
