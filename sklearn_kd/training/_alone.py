"""Train one student by itself."""

from __future__ import annotations

from sklearn_kd.inputs._data import SplitData
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._work import threads_of_training


def train_alone(net: TrainingNet, data: SplitData, seed: int) -> TrainingNet:
    """Train one initialised net with a seed; restore torch's generators afterwards."""
    # Processes that train one student have their own rows, and draw their own dropout and augmentation.
    own = seed + net.ranks.rank
    with threads_of_training([net], data), preserved_random_state(data.train.device, own):
        return net.partial_fit(data)
