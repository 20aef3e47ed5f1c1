"""Constraints of the parameters shared by the estimators without pathways."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike
from typing import Any

import torch

from sklearn_kd._sklearn_compat import Interval, StrOptions
from sklearn_kd.estimators._callback_checks import CALLBACK_KINDS
from sklearn_kd.estimators._classifier_search import WAYS_TO_RETRAIN
from sklearn_kd.inputs._munge import Munge
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._process import FOLLOWED, MetaparameterProcess
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import OPTIMIZER_KINDS

DISTILLED_CONSTRAINTS: dict[str, Any] = {
    "meta": [str, Strategy],
    "e1": [Interval(Integral, 1, None, closed="left")],
    "e2": [Interval(Integral, 0, None, closed="left")],
    "lambda1": [Interval(Real, 0, 1, closed="both"), StrOptions({"random"})],
    "optimizer": OPTIMIZER_KINDS,
    "lr": [Interval(Real, 0, 1e30, closed="both")],  # a step with a larger one overflows float32
    "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    "max_epochs": [Interval(Integral, 1, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "unlabeled_share": [Interval(Real, 0, 1, closed="neither"), StrOptions({"auto"})],
    "search_epochs": [
        Interval(Integral, 1, None, closed="left"),
        Interval(Real, 0, 1, closed="right"),
        None,
    ],
    "weights": [StrOptions(set(FOLLOWED))],
    "retrain": [StrOptions(set(WAYS_TO_RETRAIN))],
    "process": [MetaparameterProcess, str, PathLike, None],
    "search_callbacks": CALLBACK_KINDS,
    "soft_validation": ["boolean"],
    "synthesize": [Interval(Real, 0, None, closed="neither"), Munge, None],
    "student_preprocessing": "no_validation",  # check_preprocessing says more
    "standardize": ["boolean"],
    "teacher_transform": [callable, None],
    "augment": [callable, None],
    "callbacks": CALLBACK_KINDS,
    "warm_start": ["boolean"],
    "keep_teacher": ["boolean"],
    "checkpoint_dir": [str, PathLike, None],
    "device": [str, torch.device, Integral],
    "execution": [str, Execution],
    "parallel": "no_validation",  # check_parallel says more
    "verbose": ["verbose"],
    "random_state": ["random_state"],
}
