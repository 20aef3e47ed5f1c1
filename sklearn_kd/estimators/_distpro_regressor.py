"""DistProRegressor: train a small network for regression on a large one's feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_kd._sklearn_compat import with_callbacks
from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._pathways import Pathway
from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.estimators._classifier_net import loss_of
from sklearn_kd.estimators._distpro_parameters import DISTPRO_CONSTRAINTS, TERM_WEIGHT
from sklearn_kd.estimators._distpro_plan import (
    DistProPlan,
    checked_parameters,
    fitted_attributes,
    plan_distpro,
)
from sklearn_kd.estimators._distpro_state import DISTPRO_STATE
from sklearn_kd.estimators._distpro_terms import PredictionTerm
from sklearn_kd.estimators._parallel import in_ranks
from sklearn_kd.estimators._plan import publish, restore_on_failure, run_plan
from sklearn_kd.estimators._regressor_inputs import validate_regression
from sklearn_kd.estimators._regressor_methods import RegressorMethods
from sklearn_kd.losses import RegressionLoss
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from skorch.callbacks import Callback
    from skorch.history import History
    from torch import Tensor
    from torch.utils.data import Dataset
    from typing_extensions import Self

    from sklearn_kd.distpro._transforms import TransformFactory


class DistProRegressor(RegressorMethods, BaseDistiller):  # type: ignore[misc]  # predict has return_std
    """Train a small regression network on a large one's feature maps, with weights along a searched schedule.

    The regression counterpart of :class:`DistProClassifier`: the student minimises
    L(y) + distill_weight · Σ_p α_p(t) · loss_p, where L is the squared error or another ``loss``. A search
    finds the weight of each pathway p between layers of student and teacher at each step t; then a fresh
    student trains along these weights [1]_. y is standardised internally, and predictions are in its units.
    For images, y may be maps with a number for each pixel, such as its depth; L is then computed per pixel.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
        A network trained for any task: with ``output_weight=0``, only its feature maps count. If it is a
        fitted :class:`DistilledRegressor` or :class:`DistProRegressor`, its student is the teacher.
    student : nn.Module class or instance, or function that returns a module
        As for :class:`DistilledRegressor`, with one output per target (two with ``loss="gaussian_nll"``),
        and with layers that give feature maps of shape (n, channels, height, width). Where y has maps, it
        returns maps of shape (n, n_outputs, h, w), of any size.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        The layers that pathways connect, as for :class:`DistProClassifier`.
    connections : "all", "lower" or list of (int, int), default="all"
        Pairs of (teacher stage, student stage), as for :class:`DistProClassifier`.
    transforms : list of str or callable, default=("conv1", "conv2", "conv3")
        Each connection has one pathway per transform, as for :class:`DistProClassifier`.
    distance : {"hcl", "mse", "l1"} or callable, default="hcl"
        Distance between the transformed student map and the teacher map.
    normalization : {"biased_softmax", "softmax", "biased_l1", "l1", "sigmoid"}, \
            default="biased_softmax"
        How raw importance factors become weights ([1]_, Table 7).
    softmax_bias : float, default=1.0
        g of "biased_softmax", exp(α̃_p)/(Σ exp(α̃) + exp(g)).
    distill_weight : float, default=1.0
        Factor on the sum over pathways.
    output_weight : float or "learned", default=0.0
        Weight of L(teacher's predictions) added to the pathways, the counterpart of ``logit_weight`` of
        :class:`DistProClassifier`. Unless it is 0, the teacher must predict y, in its units. "learned": y has
        weight lambda1 and the teacher's predictions 1 − lambda1, as in :class:`DistilledRegressor`. The
        hypergradient that moves the pathways then also learns lambda1, starting at 0.5, and the loss's other
        metaparameters. The process records them; a given process must have them.
    loss : str or RegressionLoss, default="squared_error"
        L, on y and against the teacher: "squared_error", "absolute_error", "huber", "berhu", "quantile" or
        "gaussian_nll", with its parameters as ``loss__*``, or an object, as for
        :class:`DistilledRegressor`. Its metaparameters, such as Huber's width, keep their start values unless
        ``output_weight="learned"``.
    process : DistillationProcess, str, path-like or None, default=None
        None: search, then retrain. A process, or the path of its file: retrain along it. It may come from a
        :class:`DistProClassifier`.
    weights : {"process", "equal", "final", "mean", "reversed"}, default="process"
        Weights of the retraining, as for :class:`DistProClassifier`.
    search_epochs : int, default=40
        Passes over D_train in the search.
    validation_fraction : float, default=0.2
        Share of the rows held out as D_val in the search, at random, if ``fit`` is not given ``X_val``.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the search, such as a learning rate schedule.
    meta : {"gradient", "linear"} or Strategy, default="gradient"
        How the search moves the factors, as for :class:`DistProClassifier`.
    e1, e2 : int, default=10
        Steps with a hypergradient and predicted steps per cycle of ``meta="linear"``.
    importance_lr : float, default=0.05
        Learning rate of the raw factors. If metaparameters of the loss are learned, their rate is
        ``meta__lr``.
    pathway_threshold : float, "auto" or None, default="auto"
        Raw factor at or below which a pathway is skipped, as for :class:`DistProClassifier`.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.Adam
        Trains student and transforms; ``optimizer__*`` are its further arguments.
    lr : float, default=0.003
        Learning rate. The default suits Adam.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together. None: gradients are not clipped.
    max_epochs : int, default=200
        Passes over the rows in the retraining.
    batch_size : int, default=128
        Rows per batch; ``iterator_train__*`` and ``iterator_valid__*`` as for
        :class:`DistilledRegressor`.
    standardize : bool, default=True
        Whether the student starts with a fixed layer that standardises the columns of a table, as for
        :class:`DistilledRegressor`. y is standardised in either case.
    teacher_transform : callable or None, default=None
        Turns the student's batch, a float32 tensor on the device, into a network teacher's input: resizes
        and normalises it, as :class:`~sklearn_kd.teachers.ImageTransform` does. It must not draw random
        numbers.
    augment : callable or None, default=None
        Maps a training batch of inputs to an augmented batch of as many rows, which the teacher sees too;
        targets stay the same. Where y has maps, it takes and returns images and maps.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the retraining. Scorers see targets in the units of y.
    keep_teacher : bool, default=False
        Whether the fitted estimator, and a pickle of it, keeps the teacher as ``teacher_``.
    checkpoint_dir : str, path-like or None, default=None
        Folder in which ``fit`` writes a checkpoint after each epoch, from which the same ``fit`` resumes
        after a crash.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU.
    execution : str or Execution, default="eager"
        How the passes run, as for :class:`DistProClassifier`.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": the processes that ``torchrun`` or ``accelerate launch`` started; each calls ``fit``
        with the same arguments and ends with the same estimator. A number: start that many processes on
        this machine, each with its own GPU if there are GPUs. ``batch_size`` is the total over processes.
    verbose : int, default=0
        1 prints a line for each epoch of both phases, with an estimate of the time left.
    random_state : int, RandomState or None, default=None
        Seeds the split, the initialisation and the batches.
    **routed
        ``student__*``, ``meta__*``, ``loss__*``, ``execution__*``, ``optimizer__*``,
        ``iterator_train__*``, ``iterator_valid__*``, ``callbacks__*``.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Mean and standard deviation of y in the rows given to ``fit``, weighted by ``sample_weight``.
    n_outputs_ : int
        Number of targets.
    map_shape_ : tuple of int
        Height and width of the maps in y; missing for other targets.
    process_ : DistillationProcess or None
        The process that was searched or given; None with ``weights="equal"`` and no given process.
    pathways_ : list of Pathway
        Named tuples: ``teacher_layer``, ``student_layer``, ``transform``, the stages and the channels.
    search_history_ : skorch.history.History or None
        History of the search. None if nothing was searched.
    history_ : skorch.history.History
        History of the retraining: losses by epoch; ``pathways``, how many ran per iteration;
        ``pathways_loss``, the sum of their losses weighted by importance, before ``distill_weight``; with
        ``output_weight="learned"``, the metaparameters after the epoch.
    loss_curve_ : list of float
        The training loss of each epoch of the retraining.
    validation_scores_ : list of float or None
        R² on a given ``X_val`` after each epoch of the retraining; None without ``X_val``.
    student_ : nn.Module
        The trained student, whose outputs are standardised.
    transforms_ : nn.ModuleList
        The trained transforms, one for each pathway.
    teacher_ : object
        The teacher as given with ``keep_teacher=True``, else None.
    net_ : skorch.NeuralNet
        The private net of the retraining, on tensors and standardised targets.
    n_features_in_ : int
        Size of the second dimension of X.
    n_iter_ : int
        Number of iterations of the retraining.

    See Also
    --------
    DistProClassifier : The same for classes; its page of the guide covers both.
    DistilledRegressor : Learns from the predictions of any regressor.
    DistillationProcess : The result of a search.

    Notes
    -----
    :class:`DistProClassifier` describes the shared parameters in full. A regressor has no temperature, no
    ``class_weight`` and no ``teacher_classes``; D_val is not stratified.

    ``sample_weight`` weights the rows in the loss on the outputs, not in those of the pathways.

    References
    ----------
    .. [1] Deng, Sun, Newsam, Wang. "DistPro: Searching a fast knowledge distillation process via meta
       optimization", ECCV 2022.

    Examples
    --------
    Predict how much ink the image of a digit has, with a network trained for that as the teacher:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd import CIFARResNet, DistilledRegressor, DistProRegressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> X = X[:200].reshape(-1, 1, 8, 8) / 16
    >>> y = X.mean(axis=(1, 2, 3))
    >>> settings = {"student__mean": [0.3], "student__std": [0.4], "student__depth": 8, "batch_size": 32,
    ...             "random_state": 0, "device": "cpu"}
    >>> teacher = DistilledRegressor(None, CIFARResNet, meta="none", max_epochs=8, **settings).fit(X, y)
    >>> reg = DistProRegressor(
    ...     teacher, CIFARResNet, transforms=["conv1"], connections="lower", output_weight=1.0,
    ...     search_epochs=3, max_epochs=8, **settings).fit(X, y)
    >>> reg.process_
    DistillationProcess(15 steps, 6 pathways, normalization='biased_softmax')
    >>> reg.score(X, y) > 0.8
    True
    """

    _parameter_constraints = DISTPRO_CONSTRAINTS | {
        "output_weight": TERM_WEIGHT,
        "loss": [str, RegressionLoss],
    }

    _executions = ("eager", "bfloat16")  # the others hide the layers
    _takes_parts = False
    _state_functions = DISTPRO_STATE
    _strategies = ("gradient", "linear")  # the others choose lambda1 before the first step
    _teacher_is_trained = True

    process_: DistillationProcess | None
    pathways_: list[Pathway]
    search_history_: History | None

    def __init__(
        self,
        teacher: Any,
        student: nn.Module | Callable[..., nn.Module],
        *,
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
        connections: str | Sequence[tuple[int, int]] = "all",
        transforms: Sequence[str | TransformFactory] = ("conv1", "conv2", "conv3"),
        distance: str | Distance = "hcl",
        normalization: str = "biased_softmax",
        softmax_bias: float = 1.0,
        distill_weight: float = 1.0,
        output_weight: float | Literal["learned"] = 0.0,
        loss: str | RegressionLoss = "squared_error",
        process: DistillationProcess | str | PathLike[str] | None = None,
        weights: Literal["process", "equal", "final", "mean", "reversed"] = "process",
        search_epochs: int = 40,
        validation_fraction: float = 0.2,
        search_callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        meta: str | Strategy = "gradient",
        e1: int = 10,
        e2: int = 10,
        importance_lr: float = 0.05,
        pathway_threshold: float | Literal["auto"] | None = "auto",
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.Adam,
        lr: float = 0.003,
        max_grad_norm: float | None = None,
        max_epochs: int = 200,
        batch_size: int = 128,
        standardize: bool = True,
        teacher_transform: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        keep_teacher: bool = False,
        checkpoint_dir: str | PathLike[str] | None = None,
        device: str | torch.device | int = "auto",
        execution: str | Execution = "eager",
        parallel: Literal["ddp"] | int | None = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        **routed: Any,
    ):
        self.teacher = teacher
        self.student = student
        self.teacher_layers = teacher_layers
        self.student_layers = student_layers
        self.connections = connections
        self.transforms = transforms
        self.distance = distance
        self.normalization = normalization
        self.softmax_bias = softmax_bias
        self.distill_weight = distill_weight
        self.output_weight = output_weight
        self.loss = loss
        self.process = process
        self.weights = weights
        self.search_epochs = search_epochs
        self.validation_fraction = validation_fraction
        self.search_callbacks = search_callbacks
        self.meta = meta
        self.e1 = e1
        self.e2 = e2
        self.importance_lr = importance_lr
        self.pathway_threshold = pathway_threshold
        self.optimizer = optimizer
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.standardize = standardize
        self.teacher_transform = teacher_transform
        self.augment = augment
        self.callbacks = callbacks
        self.keep_teacher = keep_teacher
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.execution = execution
        self.parallel = parallel
        self.verbose = verbose
        self.random_state = random_state
        self._keep_routed(routed)

    # ----------------------------------------------------------------------------------
    # Fitting

    @ordinary_torch()
    @restore_on_failure
    @in_ranks
    @with_callbacks
    def fit(
        self,
        X: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        X_val: ArrayLike | Dataset | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Search a process, unless one is given, and train the student along it.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), or Dataset
            Converted to float32. A map-style :class:`torch.utils.data.Dataset` is read batch by batch; its
            items are ``(x, target)`` or, if y is given, x or ``(x, anything)``.
        y : array-like of shape (n_samples,), (n_samples, n_outputs) or (n_samples, H, W), default=None
            Finite real numbers; no target may be constant. For a number per pixel, a map for each image,
            with NaN where there is no target. None: the targets are read from the Dataset once.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss on the outputs, scaled to mean 1. Rows of weight 0 are left out.
        X_val, y_val : array-like, default=None
            D_val of the search. None: it is held out of X. The retraining uses it only for skorch's
            ``valid_loss`` and ``valid_r2``.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss; ``valid_r2`` counts each row once.
        groups : array-like of shape (n_samples,), default=None
            The group of each row. In the search, no group has rows in both D_train and D_val.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If data or parameters cannot be used. Raised before any training where possible.
        TypeError
            If the teacher is not a network, or a parameter is misspelt.
        """
        settings = checked_parameters(self, X, X_val)
        inputs = validate_regression(
            self, X, y, sample_weight, X_val, y_val, sample_weight_val=sample_weight_val, groups=groups
        )
        plan = plan_distpro(self, settings, inputs)
        result = run_plan(plan)
        publish(self, result)
        return self

    # ----------------------------------------------------------------------------------
    # Fitted attributes

    def _teacher_term(self) -> PredictionTerm:
        """Return the term of the teacher's predictions beside the pathways."""
        return PredictionTerm(self.output_weight, loss_of(self))

    def _fitted_attributes(self, net: TrainingNet, plan: DistProPlan) -> dict[str, Any]:
        return fitted_attributes(self, net, plan)

    @property
    def transforms_(self) -> nn.ModuleList:
        """The trained transforms."""
        check_is_fitted(self, "net_")
        return self.net_.transforms_
