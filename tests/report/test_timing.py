"""Times of models that are called in turn."""

from itertools import pairwise

import numpy as np

from sklearn_kd.report._result import notes_on
from sklearn_kd.report._sizes import Size
from sklearn_kd.report._timing import Latency, latencies


def test_each_model_is_called_after_each():
    # One that always follows the same other would wait for what the system does after that one.
    called = []
    found = latencies(
        {name: lambda rows, name=name: called.append(name) for name in "abc"}, np.zeros((20, 2)), 20
    )
    pairs = set(pairwise(called))
    assert {(one, other) for one in "abc" for other in "abc" if one != other} <= pairs
    assert all(latency.n_single == 300 and latency.n_batch == 30 for latency in found.values())


def test_a_busy_machine_is_noted():
    size = {"student": Size(100, "weights")}
    for processor_share, busy in ((0.5, True), (0.95, False), (1.9, False)):
        latency = {"student": Latency(10, 12, 1, 300, 30, processor_share)}
        assert any("busy" in note for note in notes_on(latency, size, "the CPU (torch: 1 thread)")) is busy
        assert not any("busy" in note for note in notes_on(latency, size, "cuda"))
