"""Compress logits: to float16, or to the largest of a row and the mass of the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# The smallest log-probability of all other classes together. float16 can hold it, and no softmax shows
# anything smaller.
_LEAST = -1e4


class LogitCodec(NamedTuple):
    """How a row of logits is stored.

    In float16 the largest logit of a row is stored as 0, where float16 is finest; this changes no softmax.
    With ``top``, log-probabilities are stored: those of the ``top`` classes, and one for all others
    together. When restored, the others share that mass equally.

    Attributes
    ----------
    n_columns : int
        Number of logits in a row.
    dtype : {"float16", "float32"}
    top : int or None
        None: all logits are stored.
    """

    n_columns: int
    dtype: str = "float16"
    top: int | None = None

    @property
    def record(self) -> np.dtype:
        """Dtype of a stored row."""
        if self.top is None:
            return np.dtype([("values", self.dtype, (self.n_columns,))])
        place = "uint16" if self.n_columns <= 2**16 else "uint32"
        return np.dtype(
            [("values", self.dtype, (self.top,)), ("places", place, (self.top,)), ("rest", self.dtype)]
        )

    def packed(self, logits: Tensor) -> np.ndarray:
        """Return logits of shape (n, n_columns) as n records."""
        logits = logits.detach().float().cpu()
        rows = np.empty(len(logits), dtype=self.record)
        if self.top is None:
            largest = logits.amax(dim=1, keepdim=True) if self.dtype == "float16" else 0.0
            rows["values"] = (logits - largest).clamp(min=_lowest(self.dtype)).numpy()
            return rows
        log_p = logits.double().log_softmax(dim=1)
        largest, places = log_p.topk(self.top, dim=1)
        others = log_p.scatter(1, places, -math.inf).logsumexp(dim=1)
        rows["values"], rows["places"] = largest.clamp(min=_LEAST).numpy(), places.numpy()
        rows["rest"] = others.clamp(min=_LEAST).numpy()
        return rows

    def restored(self, rows: np.ndarray) -> Tensor:
        """Return records as float32 logits of shape (n, n_columns)."""
        values = torch.from_numpy(rows["values"].astype(np.float32))
        if self.top is None:
            return values
        rest = torch.from_numpy(rows["rest"].astype(np.float32))
        each = (rest - math.log(self.n_columns - self.top))[:, None].expand(-1, self.n_columns)
        return each.scatter(1, torch.from_numpy(rows["places"].astype(np.int64)), values)

    def agree(self, rows: np.ndarray, logits: Tensor) -> bool:
        """Return True if the records are these logits, up to rounding."""
        fresh = logits.detach().float().cpu().log_softmax(dim=1)
        stored = self.restored(rows)
        if self.top is not None:  # rounding decides whether a class at the border is in
            places = torch.from_numpy(rows["places"].astype(np.int64))
            fresh, stored = fresh.gather(1, places), stored.gather(1, places)
        else:
            stored = stored.log_softmax(dim=1)
        known = fresh > _LEAST / 2
        return bool(torch.allclose(stored[known], fresh[known], rtol=5e-3, atol=2e-2))


def _lowest(dtype: str) -> float:
    return float(np.finfo(dtype).min)
