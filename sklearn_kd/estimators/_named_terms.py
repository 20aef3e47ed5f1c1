"""Names of feature terms in a list of losses."""

from __future__ import annotations

from typing import Any

from sklearn_kd.distpro._term import Pathways
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._loss_list import is_listed
from sklearn_kd.losses._named_terms import TERMS

FEATURE_TERMS: dict[str, type[FeatureTerm]] = {**TERMS, Pathways.name: Pathways}


def has_terms(loss: Any) -> bool:
    """Return whether a loss, valid or not, is a list with feature terms in it."""
    if not is_listed(loss):
        return False
    items = [item[-1] if isinstance(item, tuple) and item else item for item in loss]
    return any(
        isinstance(item, FeatureTerm) or (isinstance(item, str) and item in FEATURE_TERMS) for item in items
    )
