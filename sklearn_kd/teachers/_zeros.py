"""Find the number that replaces a probability of 0, whose logarithm is infinite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_kd.inputs._large_arrays import parts_of

# A probability of 0 is replaced by half the smallest probability that the teacher gives (the usual
# replacement of rounded zeros in compositional data), within these bounds. A 0 from a forest of 100 trees
# means "less than one vote", 0.005; with a far smaller number, noise would dominate its logits at high T.
FLOOR_BOUNDS = (1e-7, 1e-2)
# The largest replacement in a row that is looked at alone. Many rows of a forest have only 0 and 1, which
# do not show how many trees vote; this is half a vote of 100.
_MOST_IN_A_ROW = 5e-3

# Returns the replacement for each row of probabilities of shape (n, K, ...), in a shape that broadcasts with
# theirs.
Floor = Callable[[Tensor], Tensor]


def floor_of_all_rows(probabilities: Tensor) -> Tensor:
    """Return half the smallest positive probability in all rows, within ``FLOOR_BOUNDS``.

    Use it only if the teacher is asked about all rows at once: a row's replacement depends on the others.
    """
    smallest = torch.stack(
        [_positive(part).amin() for part in parts_of(probabilities)] or [_one(probabilities)]
    )
    floor = (smallest.amin() / 2).clamp(*FLOOR_BOUNDS)
    return floor.expand(len(probabilities), *[1] * (probabilities.ndim - 1))


def floor_of_each_row(probabilities: Tensor) -> Tensor:
    """Return half the smallest positive probability in each row, at least 1e-7 and at most 0.005.

    A row has the same replacement whichever rows are asked about with it. In maps, each pixel is a row.
    """
    parts = [_positive(part).amin(dim=1, keepdim=True) for part in parts_of(probabilities)]
    smallest = torch.cat(parts or [probabilities[:, :1]])
    return (smallest / 2).clamp(FLOOR_BOUNDS[0], _MOST_IN_A_ROW)


def _positive(probabilities: Tensor) -> Tensor:
    return torch.where(probabilities > 0, probabilities, torch.inf)


def _one(like: Tensor) -> Tensor:
    return like.new_tensor(1)
