"""Constraints of the parameters shared by the estimators with pathways."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike
from typing import Any

import torch

from sklearn_kd._sklearn_compat import Interval, StrOptions
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.distpro._process import WEIGHTS, DistillationProcess
from sklearn_kd.estimators._callback_checks import CALLBACK_KINDS
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import OPTIMIZER_KINDS

# The weight of the teacher's outputs beside the pathways.
TERM_WEIGHT = [Interval(Real, 0, None, closed="left"), StrOptions({"learned"})]

DISTPRO_CONSTRAINTS: dict[str, Any] = {
    "teacher_layers": [str, list, tuple],
    "student_layers": [str, list, tuple],
    "connections": [str, list, tuple],
    "transforms": [str, list, tuple],
    "distance": [str, callable],
    "normalization": [StrOptions(set(NORMALIZATIONS))],
    "softmax_bias": [Interval(Real, None, None, closed="neither")],
    "distill_weight": [Interval(Real, 0, None, closed="left")],
    "process": [DistillationProcess, str, PathLike, None],
    "weights": [StrOptions(set(WEIGHTS))],
    "search_epochs": [Interval(Integral, 1, None, closed="left")],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "search_callbacks": CALLBACK_KINDS,
    "meta": [str, Strategy],
    "e1": [Interval(Integral, 1, None, closed="left")],
    "e2": [Interval(Integral, 0, None, closed="left")],
    "importance_lr": [Interval(Real, 0, None, closed="left")],
    "pathway_threshold": [Interval(Real, None, None, closed="neither"), StrOptions({"auto"}), None],
    "optimizer": OPTIMIZER_KINDS,
    "lr": [Interval(Real, 0, 1e30, closed="both")],  # a step with a larger one overflows float32
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "max_epochs": [Interval(Integral, 1, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "standardize": ["boolean"],
    "teacher_transform": [callable, None],
    "augment": [callable, None],
    "callbacks": CALLBACK_KINDS,
    "keep_teacher": ["boolean"],
    "checkpoint_dir": [str, PathLike, None],
    "device": [str, torch.device, Integral],
    "execution": [str, Execution],
    "parallel": "no_validation",  # check_parallel says more
    "verbose": ["verbose"],
    "random_state": ["random_state"],
}
