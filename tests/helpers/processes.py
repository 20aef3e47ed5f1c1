"""A distillation process of three pathways and three steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_kd import DistillationProcess
from sklearn_kd.distpro._pathways import Pathway


def pathway(
    i: int, j: int, transform: str = "conv1", channels: tuple[int, int] = (8, 4), names: str = "layer"
) -> Pathway:
    """Pathway from the teacher's layer i to the student's layer j."""
    return Pathway(f"{names}{i}", f"{names}{j}", transform, i, j, *channels)


PATHWAYS = [pathway(0, 0), pathway(0, 1), pathway(1, 1, "conv2")]
RAW = np.array([[1.0, 1.0, 1.0], [2.0, 0.8, 1.0], [3.0, 0.2, 1.0]])


def make_process(
    raw: np.ndarray = RAW, pathways: Sequence[Pathway] = PATHWAYS, **params: Any
) -> DistillationProcess:
    """A process with these raw factors, normalised by the biased softmax."""
    return DistillationProcess(raw, pathways, **({"normalization": "biased_softmax"} | params))
