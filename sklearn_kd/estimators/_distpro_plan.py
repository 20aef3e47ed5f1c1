"""The data, networks and settings of a DistPro search and retraining, checked before any training."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from skorch.history import History
from torch import nn

from sklearn_kd.checkpointing._manager import Checkpoints
from sklearn_kd.checkpointing._snapshot import Keeper
from sklearn_kd.distpro._distances import checked_distance
from sklearn_kd.distpro._importance import (
    NORMALIZATIONS,
    ImportanceFactors,
    JointFactors,
    PathwayWeights,
    checked_tau,
)
from sklearn_kd.distpro._net import DistProNet
from sklearn_kd.distpro._pathways import Pathway, find_pathways, named_transforms
from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.estimators._augmentation import checked_augmentation
from sklearn_kd.estimators._base import BaseDistiller, Seeds
from sklearn_kd.estimators._callback_checks import check_callback_names, listed_callbacks
from sklearn_kd.estimators._unused_parameters import beside_own_cycle, beside_process, warn_without_effect
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.meta import Fixed, Strategy
from sklearn_kd.meta._path import Metaparameters
from sklearn_kd.runtime._processes import warn_of_ranks
from sklearn_kd.teachers._class_alignment import checked_teacher_classes
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.training._divergence import check_scale
from sklearn_kd.training._optimizers import optimizer_class
from sklearn_kd.training._sklearn_callbacks import FitReport

# Of a learned logit term, as DistilledClassifier has them.
INITIAL_LAMBDA1 = 0.5
TEMPERATURE_BOUNDS = (1.0, 10.0)


class Phase(NamedTuple):
    """One of the two trainings."""

    data: SplitData
    seeds: Seeds


class SearchOutcome(NamedTuple):
    """Result of a search: the raw factors, and (lambda1, T) or None, by step; the history."""

    raw: np.ndarray
    logit_term: np.ndarray | None
    history: History

    @classmethod
    def of(cls, net: DistProNet) -> SearchOutcome:
        """Read the result from a net in its present state."""
        path = net.metaparameters.path()
        logit_term = path["logit_term"] if net.metaparameters.has_logit_term else None
        return cls(path["raw"], logit_term, net.history)


class Run(NamedTuple):
    """One fit, checked; ``student`` is copied by the net of the retraining and stays as it is."""

    retraining: Phase
    search: Phase | None
    student: nn.Module
    teacher: FeatureTeacher
    pathways: list[Pathway]
    process: DistillationProcess | None
    tau: float | None
    report: FitReport
    checkpoints: Checkpoints
    search_history: History | None = None
    n_steps: int = 0


class BaseDistPro(BaseDistiller):
    """Base of the estimators that distil feature maps; they add ``__init__`` and ``fit``."""

    _routed_prefixes = ("student", "optimizer", "iterator_train", "iterator_valid", "callbacks")

    _strategies = ("gradient", "linear")  # the others choose lambda1 and T before the first step

    def _search_strategy(self) -> Strategy:
        """Return the strategy by which the factors move in the search; refuse one that moves nothing."""
        strategy = self._named_strategy()
        moves = type(strategy).takes_hypergradient is not Strategy.takes_hypergradient
        if not (moves and strategy.learns_from_validation):
            raise ValueError(
                f"meta={self.meta!r} takes no hypergradient: the search would move nothing. Give one of "
                f"{list(self._strategies)}, or a Strategy with learns_from_validation=True that overrides "
                "takes_hypergradient and, to save some of them, predict."
            )
        return strategy

    @property
    def _learns_logit_term(self) -> bool:
        return isinstance(self.logit_weight, str)

    # ----------------------------------------------------------------------------------
    # All that both trainings need, checked

    def _prepared(self, X, y, sample_weight, X_val, y_val) -> Run:
        self._validate_params()
        self._check_routed(self._checked_forms(X, X_val))
        named_transforms(self.transforms)
        distance = checked_distance(self.distance)
        strategy = self._search_strategy()
        process, tau = self._given_process()
        warn_without_effect(beside_own_cycle(self, strategy) + beside_process(self, process))
        warn_of_ranks()
        self._check_logit_term(process)
        teacher = FeatureTeacher(self.teacher, self._device())
        X_given, X, codes, weight = self._checked_rows(X, y, sample_weight)
        stated = checked_teacher_classes(self.teacher_classes, self.classes_)
        given = X, codes, weight, self._checked_validation_rows(X_val, y_val)

        searches = process is None and self.weights != "equal"
        checkpoints = self._checkpoints(given, None, *self._drawn_seeds(searches))
        retraining, search = self._phases(given, [Seeds(*seeds) for seeds in checkpoints.seeds])
        samples = retraining.data.train.samples
        student = self._initial_student(samples, retraining.seeds)
        for train, valid in (phase.data for phase in (retraining, search) if phase is not None):
            self._check_single_rows(student, samples, valid)
            check_scale(student, SplitData(train, valid))
            train.augmentation = checked_augmentation(self.augment, None, samples, student, self.classes_)
        if self.logit_weight:
            teacher.align_logits(samples, self.classes_, stated)
        pathways = find_pathways(
            teacher,
            student,
            samples,
            teacher_layers=self.teacher_layers,
            student_layers=self.student_layers,
            connections=self.connections,
            transforms=self.transforms,
            distance=distance,
        )
        process = None if process is None else process.fitted_to(pathways)
        n_epochs = self.max_epochs + (0 if search is None else self.search_epochs)
        report = FitReport(self, X_given, self.classes_[codes], weight, n_epochs)
        run = Run(retraining, search, student, teacher, pathways, process, tau, report, checkpoints)
        return run._replace(n_steps=self._rehearse(run))

    def _drawn_seeds(self, searches: bool) -> list[Seeds]:
        """Draw the seeds of the retraining and, if there is to be one, of the search."""
        rng = check_random_state(self.random_state)
        seeds = Seeds.draw(rng)
        return [seeds, Seeds.draw(rng)._replace(split=seeds.split)] if searches else [seeds]

    def _phases(self, given, seeds: list[Seeds]) -> tuple[Phase, Phase | None]:
        """The retraining, on all rows, and the search, if there is to be one."""
        strategies = [Fixed(), self._search_strategy()]
        phases = [
            Phase(self._split_data(given, strategy, own)[0], own)
            for strategy, own in zip(strategies, seeds, strict=False)
        ]
        return phases[0], phases[1] if len(phases) > 1 else None

    def _given_process(self) -> tuple[DistillationProcess | None, float | None]:
        """Return the process to follow, if given, and tau, which must suit its normalization."""
        process = self.process
        if process is not None and not isinstance(process, DistillationProcess):
            process = DistillationProcess.load(process)
        return process, checked_tau(self.tau, (self if process is None else process).normalization)

    def _check_logit_term(self, process: DistillationProcess | None) -> None:
        """Check that lambda1 and T can be learned, or are there to be followed, as logit_weight says."""
        if self.weights != "equal" and process is not None:
            _check_followed(process, self.logit_weight, self._learns_logit_term)
        elif self._learns_logit_term and self.weights == "equal":
            raise ValueError(
                "logit_weight='learned' with weights='equal', for which nothing is searched, has no lambda1 "
                "and T to follow. Give logit_weight as a number."
            )
        low, high = TEMPERATURE_BOUNDS
        if self._learns_logit_term and process is None and not low <= self.temperature <= high:
            raise ValueError(
                f"temperature={self.temperature!r} is where a learned T starts; it must be within [{low:g}, "
                f"{high:g}], where T stays."
            )

    def _rehearse(self, run: Run) -> int:
        """Steps of the retraining; what only skorch and torch can judge fails here, before any training."""
        callbacks = (
            listed_callbacks(self.callbacks),
            listed_callbacks(self.search_callbacks, "search_callbacks"),
        )
        phases = (run.retraining, self.max_epochs), (run.search, self.search_epochs)
        n_batches = []
        for (phase, max_epochs), given in zip(phases, callbacks, strict=True):
            if phase is None:
                continue
            net = self._make_net(
                run, phase, self._factors(run), Fixed(), copy.deepcopy(given), max_epochs=max_epochs
            )
            if phase is run.retraining:
                check_callback_names(net, self._routed("callbacks"))
            if phase.data.valid is not None:
                net.get_iterator(phase.data.valid)
            n_batches.append(len(net.get_iterator(phase.data.train, training=True)))
            self._check_callbacks(net, phase.data, n_batches[-1])
        return n_batches[0] * self.max_epochs

    # ----------------------------------------------------------------------------------
    # The nets

    def _keep(self, net: DistProNet, run: Run, stage: str) -> DistProNet:
        """Return the net, set to keep checkpoints if there is a folder for them."""
        if run.checkpoints.active:
            layers = sorted({pathway.teacher_layer for pathway in run.pathways})
            answers = run.teacher.signature(run.retraining.data.train.samples, layers)
            net.keeper_ = Keeper(run.checkpoints, stage, answers)
        return net

    def _factors(self, run: Run) -> ImportanceFactors | JointFactors:
        normalization, device = NORMALIZATIONS[self.normalization](self.g), self._device()
        factors = ImportanceFactors(len(run.pathways), normalization, lr=self.alpha_lr, device=device)
        if not self._learns_logit_term:
            return factors
        logit_term = Metaparameters(
            INITIAL_LAMBDA1,
            self.temperature,
            temperature_bounds=TEMPERATURE_BOUNDS,
            lr=self.meta_lr,
            device=device,
        )
        return JointFactors(factors, logit_term)

    def _make_net(
        self, run: Run, phase: Phase, weights: PathwayWeights, strategy: Strategy, callbacks, **changes
    ) -> DistProNet:
        """Make an initialised net around a student and transforms of the phase's seeds."""
        searching = phase is run.search
        student = copy.deepcopy(run.student)
        if searching:
            student = self._initial_student(phase.data.train.samples, phase.seeds)
        params = {
            "optimizer": optimizer_class(self.optimizer),
            "lr": self.lr,
            "max_epochs": self.max_epochs,
            "batch_size": self.batch_size,
            "verbose": 0,
        }
        routed = self._passed_on("optimizer", "iterator_train", "iterator_valid")
        if not searching:
            routed |= self._passed_on("callbacks")
        return DistProNet(
            student,
            pathways=run.pathways,
            transforms=self.transforms,
            transforms_seed=phase.seeds.strategy,
            distance=checked_distance(self.distance),
            teacher=run.teacher,
            metaparameters=weights,
            strategy=strategy,
            hypergradient=self.hypergradient,
            distill_weight=self.distill_weight,
            logit_weight=0.0 if self._learns_logit_term else self.logit_weight,
            temperature=self.temperature,
            autocast=self.autocast,
            callbacks=callbacks,
            labels=self.classes_,
            device=str(self._device()),
            **(params | routed | changes),
        ).initialize()

    # ----------------------------------------------------------------------------------
    # What differs from the base

    def _continues(self) -> bool:
        return False

    def _shares_teacher(self) -> bool:
        return True  # whatever kind of network it is: a clone of a fitted one would not be fitted

    def _untrained_teacher(self):
        return None

    _needs_no_validation = "a process to follow"

    def _held_out_share(self) -> float:
        return self.search_fraction

    def _who_trains(self) -> str:
        return "the retraining"


def _check_followed(process: DistillationProcess, logit_weight: float | str, learned: bool) -> None:
    """Refuse a process without the lambda1 and T that are asked for, or with some that would be lost."""
    if learned == (process.logit_term is not None):
        return
    has = f"logit_weight={logit_weight!r}, but the given process has"
    if learned:
        raise ValueError(
            f"{has} no path of lambda1 and T. Give logit_weight as a number, or search a process with "
            "logit_weight='learned'."
        )
    raise ValueError(
        f"{has} a path of lambda1 and T. Set logit_weight='learned' to follow them, or make a process "
        "without logit_term of its raw and pathways."
    )
