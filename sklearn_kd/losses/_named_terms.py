"""Feature terms by name."""

from __future__ import annotations

from sklearn_kd.errors._did_you_mean import ByName
from sklearn_kd.losses._attention_transfer import AttentionTransfer
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._hint import Hint
from sklearn_kd.losses._masked_generation import MaskedGeneration
from sklearn_kd.losses._relations import CorrelationCongruence, RelationalKD, SimilarityPreserving
from sklearn_kd.losses._review import ReviewKD

# Names of terms with default parameters in a list of losses, such as ``loss=["kd", "reviewkd"]``.
TERMS: dict[str, type[FeatureTerm]] = ByName(
    {
        term.name: term
        for term in (
            Hint,
            AttentionTransfer,
            ReviewKD,
            MaskedGeneration,
            SimilarityPreserving,
            RelationalKD,
            CorrelationCongruence,
        )
    }
)
