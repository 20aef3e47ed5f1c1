"""Make the estimator of one-step hypergradients for a net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.tasks._pixels import pixel_rows

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet


def greedy_estimator(net: TrainingNet) -> HypergradientEstimator:
    """Make the estimator of one-step hypergradients for a net's steps."""
    return HypergradientEstimator(
        net.module_,
        net.optimizer_,
        method=net.strategy.hypergradient,
        rows=net.strategy.hypergradient_rows,
        forward=lambda x: pixel_rows(net._forward(x)),
        others=list(net.others.values()),
        outputs=net.objective.outputs(net.module_, net._forward, net.others),
        logit_change=net.objective.logit_change,
        ranks=net.ranks,
    )
