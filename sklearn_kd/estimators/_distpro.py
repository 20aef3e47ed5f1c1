"""DistProClassifier: search how the weights of pathways should change, then retrain along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_kd._sklearn_compat import Interval, StrOptions, with_callbacks
from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._pathways import Pathway
from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.estimators._base import BaseDistiller, ClassifierMethods
from sklearn_kd.estimators._distpro_parameters import DISTPRO_CONSTRAINTS, TERM_WEIGHT
from sklearn_kd.estimators._distpro_plan import (
    DistProPlan,
    checked_parameters,
    fitted_attributes,
    plan_distpro,
)
from sklearn_kd.estimators._distpro_state import DISTPRO_STATE
from sklearn_kd.estimators._distpro_terms import LogitTerm
from sklearn_kd.estimators._parallel import in_ranks
from sklearn_kd.estimators._plan import publish, restore_on_failure, run_plan
from sklearn_kd.estimators._stream_inputs import validate_rows_or_stream
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.tasks._label_kinds import SingleLabels
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from skorch.callbacks import Callback
    from skorch.history import History
    from torch import Tensor
    from torch.utils.data import Dataset
    from typing_extensions import Self

    from sklearn_kd.distpro._transforms import TransformFactory
    from sklearn_kd.inputs._streams import Stream


class DistProClassifier(ClassifierMethods, BaseDistiller):
    """Train a small network on a large one's feature maps, with weights along a searched schedule.

    Many pathways connect the layers of the student with those of the teacher. The student minimises
    CE(labels) + distill_weight · Σ_p α_p(t) · loss_p. The weights α_p(t) of all pathways p at all steps t
    are a *distillation process*. A search finds it first, with a hypergradient of the loss on held-out rows
    in every step; then a fresh student trains on all rows along it, for any number of steps, without the
    pathways that have become unimportant. A process can be saved and followed on another task [1]_. Where y
    has a map of labels for each image, all losses except those of the pathways are computed per pixel.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
        A trained network. If it is a fitted :class:`DistilledClassifier` or :class:`DistProClassifier`, its
        student is the teacher. Other classifiers have no feature maps and cannot teach here. Clones share
        it.
    student : nn.Module class or instance, or function that returns a module
        As for :class:`DistilledClassifier`, with layers that give feature maps of shape (n, channels,
        height, width). The search trains a separate student. Where y has maps, the student returns maps of
        logits of shape (n, n_classes, h, w), of any size.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Paths of modules: ``"layer2"`` is the module's output, ``"layer2:input"`` its input, before anything
        writes into it, ``"relu#2"`` the output of its second call in a forward pass. The suffix ``":nhwc"``
        says that channels come last, ``":tokens"`` that tokens (n, N, C) are a grid of patches. "auto": the
        feature maps after each down-sampling stage (for each spatial size, the output of the last module
        that completes before the size changes); where y has maps, without the layer that gives the predicted
        map; for a transformer whose blocks have one size, evenly spaced blocks. :func:`layer_table` lists
        the layers.
    connections : "all", "lower" or list of (int, int), default="all"
        Pairs of (teacher stage, student stage), counted from 0 in the order of the layers.
        "lower": the pairs whose teacher stage is not above the student stage.
    transforms : list of str or callable, default=("conv1", "conv2", "conv3")
        Each connection has one pathway per transform. A callable takes the numbers of channels of the
        student's and of the teacher's map and returns a module, which takes the student's map and the
        teacher's size, (height, width).
    distance : {"hcl", "mse", "l1"} or callable, default="hcl"
        Distance between the transformed student map and the teacher map, both of shape (B, C, H, W). "hcl"
        is the hierarchical context loss of ReviewKD [2]_.
    normalization : {"biased_softmax", "softmax", "biased_l1", "l1", "sigmoid"}, \
            default="biased_softmax"
        How raw importance factors become weights ([1]_, Table 7). A given process has its own.
    softmax_bias : float, default=1.0
        g of "biased_softmax", exp(α̃_p)/(Σ exp(α̃) + exp(g)).
    distill_weight : float, default=1.0
        Factor on the sum over pathways.
    logit_weight : float or "learned", default=0.0
        Weight of the soft loss T² · CE(teacher at T, student at T) added to the pathways. With 0, the teacher
        need not know the classes. "learned": the labels have weight lambda1 and the soft loss 1 − lambda1,
        as in :class:`DistilledClassifier`. The hypergradient that moves the pathways then also learns
        lambda1, starting at 0.5, and T. The process records both; a given process must have them.
    temperature : float, default=4.0
        T, or its start value within [1, 10] if it is learned.
    process : DistillationProcess, str, path-like or None, default=None
        None: search, then retrain. A process, or the path of its file: retrain along it. Its
        pathways must match by teacher stage, student stage and transform.
    weights : {"process", "equal", "final", "mean", "reversed"}, default="process"
        Weights of the retraining. "process": the process. "equal": 1/L for each of L pathways, without a
        search. "final": the process's last weights throughout. "mean": each pathway's mean over time, with
        the same total as the process. "reversed": the process backwards.
    search_epochs : int, default=40
        Passes over D_train in the search.
    validation_fraction : float, default=0.2
        Share of the rows held out as D_val in the search, stratified, if ``fit`` is not given ``X_val``.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the search, such as a learning rate schedule.
    meta : {"gradient", "linear"} or Strategy, default="gradient"
        How the search moves the factors. "gradient": by a hypergradient in every step, as in [1]_.
        "linear": by a hypergradient in e1 steps, then along a line fitted to them in e2 steps, which cost
        no more than plain steps, in turn. Or an object from :mod:`sklearn_kd.meta` that takes
        hypergradients. ``meta__*`` set parameters of either, such as ``meta__hypergradient="exact"``. A
        predicted raw factor stays within [−10, 10], or within what hypergradients have reached.
    e1, e2 : int, default=10
        Steps with a hypergradient and predicted steps per cycle of ``meta="linear"``.
    importance_lr : float, default=0.05
        Learning rate of the raw factors, which Adam with betas (0.5, 0.999) moves. If lambda1 and log T are
        learned, their rate is ``meta__lr``.
    pathway_threshold : float, "auto" or None, default="auto"
        The retraining skips a pathway in the steps in which its raw factor is at most this; the other
        weights are not renormalised. None: all pathways are computed. "auto": 0.5 with "biased_softmax",
        else None.
    teacher_classes : array-like of shape (n_columns,) or None, default=None
        The class of each column of the teacher's logits, if it has no ``classes_``; only used with
        ``logit_weight``. None: the labels must be exactly 0 … K−1, and column j is class j. There may be
        more classes than y has.
    ignore_index : int or None, default=None
        The label of unknown pixels, where y has a map of labels for each image. These pixels count neither
        in the losses of the labels nor in scores; the student still follows the teacher there. None: every
        label is a class.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class; 1 for classes that a dict leaves out. It multiplies ``sample_weight`` in the
        loss of the labels and in the loss on D_val, so that the factors optimise the same objective.
        "balanced": n_samples / (n_classes · rows of the class), so that all classes count alike. Rows of
        weight 0 are left out.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Trains student and transforms; ``optimizer__*`` are its further arguments. The
        hypergradient follows SGD, Adam and AdamW exactly.
    lr : float, default=0.1
        Learning rate of student and transforms.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together, including those of the transforms, in
        the search and in the retraining; as for :class:`DistilledClassifier`. None: gradients are not
        clipped.
    max_epochs : int, default=200
        Passes over the rows in the retraining.
    batch_size : int, default=128
        Rows per batch; ``iterator_train__*`` and ``iterator_valid__*`` as for
        :class:`DistilledClassifier`.
    standardize : bool, default=True
        Whether the student starts with a fixed layer, fitted to D_train, that centres and scales each
        column of a table and limits it to ±5. ``student_`` is then a :class:`StandardizedStudent`. No layer
        is added for an X of more dimensions, nor for a student that turns its inputs into whole numbers, for
        example to look them up in an embedding. Set False for a module that was trained on X as it is.
    teacher_transform : callable or None, default=None
        Turns the student's batch, a float32 tensor on the device, into a network teacher's input: resizes
        and normalises it, as :class:`~sklearn_kd.teachers.ImageTransform` does. It must not draw random
        numbers.
    augment : callable or None, default=None
        Maps a training batch of inputs to an augmented one, which the teacher sees too. Where y has maps, it
        takes and returns images and maps. D_val and prediction are not augmented.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the retraining. ``callbacks__NAME__*`` set their parameters.
    keep_teacher : bool, default=False
        Whether the fitted estimator, and a pickle of it, keeps the teacher as ``teacher_``. The estimator
        itself and its clones can be fitted again in either case.
    checkpoint_dir : str, path-like or None, default=None
        Folder in which ``fit`` writes a checkpoint after each epoch of the search and of the
        retraining, and the searched process, as for :class:`DistilledClassifier`.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU. A number is the index of a CUDA device.
    execution : str or Execution, default="eager"
        How the passes run: "eager"; in "bfloat16", except where a hypergradient is taken; or an
        :class:`~sklearn_kd.Execution` with micro-batches, which need less memory.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": the processes that ``torchrun`` or ``accelerate launch`` started; each calls ``fit``
        with the same arguments and ends with the same estimator. A number: start that many processes on
        this machine, each with its own GPU if there are GPUs. ``batch_size`` is the total over processes.
    verbose : int, default=0
        1 prints a line for each epoch of both phases, with an estimate of the time left.
    random_state : int, RandomState or None, default=None
        Seeds the split, the initialisation and the batches. With the same number, the retrained student has
        the initial weights and the batches of a :class:`DistilledClassifier` with ``meta="none"``.
    **routed
        ``student__*``, ``meta__*``, ``execution__*``, ``optimizer__*``, ``iterator_train__*``,
        ``iterator_valid__*``, ``callbacks__*``.

    Attributes
    ----------
    process_ : DistillationProcess or None
        The process that was searched or given; None with ``weights="equal"`` and no given process.
    pathways_ : list of Pathway
        Named tuples: ``teacher_layer``, ``student_layer``, ``transform``, the stages and the
        channels.
    search_history_ : skorch.history.History or None
        History of the search: losses by epoch, and ``skipped_hypergradients``, the number of hypergradients
        that were not finite or had no direction. None if nothing was searched.
    history_ : skorch.history.History
        History of the retraining: losses by epoch; ``pathways``, how many ran per iteration;
        ``pathways_loss``, the sum of their losses weighted by importance, before ``distill_weight``; with a
        learned logit term, ``lambda1`` and ``temperature`` after the epoch.
    loss_curve_ : list of float
        The training loss of each epoch of the retraining, from ``history_``.
    validation_scores_ : list of float or None
        The accuracy on a given ``X_val`` after each epoch of the retraining; None without ``X_val``.
    student_ : nn.Module
        The trained student, inside a :class:`StandardizedStudent` if its inputs are scaled. Prediction runs
        neither the teacher nor the transforms.
    transforms_ : nn.ModuleList
        The trained transforms, one for each pathway. To load their ``state_dict()`` elsewhere, build fresh
        ones from ``pathways_`` with :func:`build_transforms`.
    teacher_ : object
        The teacher as given with ``keep_teacher=True``, else None.
    net_ : skorch.NeuralNetClassifier
        The private net of the retraining.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the student's outputs.
    map_shape_ : tuple of int
        Height and width of the maps in y; missing for other labels.
    n_features_in_ : int
        Size of the second dimension of X.
    n_iter_ : int
        Number of iterations of the retraining.

    See Also
    --------
    DistillationProcess : The result of a search.
    ProcessDisplay : Draws it.
    DistProRegressor : For numbers.
    DistilledClassifier : Learns how far to trust the labels, and the temperature.

    Notes
    -----
    Differences from [1]_:

    - The real step serves as the virtual one, so that a hypergradient moves the factors for the next step,
      and a search step has 3 forward and 2 backward passes of the student.
    - The weights sum to what the formula says. The code released with the paper multiplies them by L, as
      ``distill_weight`` can.
    - The teacher is in evaluation mode.
    - D_val is not augmented.
    - The student is that of the last epoch.

    ``sample_weight`` weights the rows only in the loss of the labels.

    References
    ----------
    .. [1] Deng, Sun, Newsam, Wang. "DistPro: Searching a fast knowledge distillation process
       via meta optimization", ECCV 2022: Eq. 2 and 5, Algorithm 1, Fig. 4, Table 7.
    .. [2] Chen, Liu, Zhao, Jia. "Distilling knowledge via knowledge review", CVPR 2021.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd import CNNStudent, DistProClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X, y = X[:200].reshape(-1, 1, 8, 8) / 16, y[:200]
    >>> teacher = CNNStudent((1, 8, 8), n_classes=10, channels=(8, 8, 8))  # a trained one is better
    >>> clf = DistProClassifier(
    ...     teacher, CNNStudent, student__channels=(4, 4, 4), transforms=["conv1"], search_epochs=1,
    ...     max_epochs=2, batch_size=50, random_state=0, device="cpu")
    >>> clf = clf.fit(X, y)
    >>> clf.process_
    DistillationProcess(4 steps, 9 pathways, normalization='biased_softmax')
    >>> clf.predict(X).shape
    (200,)
    """

    _parameter_constraints = DISTPRO_CONSTRAINTS | {
        "logit_weight": TERM_WEIGHT,
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "teacher_classes": ["array-like", None],
        "ignore_index": [Integral, None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    _executions = ("eager", "bfloat16")  # the others hide the layers
    _takes_parts = False
    _state_functions = DISTPRO_STATE
    _routed_prefixes = (
        "student", "meta", "execution", "optimizer", "iterator_train", "iterator_valid", "callbacks",
    )  # fmt: skip
    _strategies = ("gradient", "linear")  # the others choose lambda1 and T before the first step
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
        logit_weight: float | Literal["learned"] = 0.0,
        temperature: float = 4.0,
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
        teacher_classes: ArrayLike | None = None,
        ignore_index: int | None = None,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        lr: float = 0.1,
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
        self.logit_weight = logit_weight
        self.temperature = temperature
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
        self.teacher_classes = teacher_classes
        self.ignore_index = ignore_index
        self.class_weight = class_weight
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
        X: ArrayLike | Dataset | Stream,
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
        X : array-like of shape (n_samples, channels, height, width), Dataset or Stream
            Converted to float32. A map-style :class:`torch.utils.data.Dataset` is read batch by batch, and a
            :class:`~sklearn_kd.Stream` in its order; for a Stream, give D_val as X_val. The teacher sees the
            same batches as the student.
        y : array-like of shape (n_samples,) or (n_samples, H, W), default=None
            Labels of at least two classes; for a class per pixel, a map of integers for each image. None:
            the labels are read from the Dataset once.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss of the labels, scaled to mean 1. Rows of weight 0 are left out.
        X_val, y_val : array-like, default=None
            D_val of the search. None: it is held out of X. The retraining uses it only for skorch's
            ``valid_loss`` and ``valid_acc``.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss, and so in ``valid_loss``; ``valid_acc``
            counts each row once. Rows of weight 0 are left out.
        groups : array-like of shape (n_samples,), default=None
            The group of each row, such as the person it was measured on. D_val of the search is drawn so that
            no group has rows in both D_train and D_val, with shares of rows and of classes as near to
            ``validation_fraction`` as the groups allow. Without effect where no D_val is held out.

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
        inputs = validate_rows_or_stream(
            self, X, y, sample_weight, X_val, y_val, sample_weight_val=sample_weight_val, groups=groups
        )
        plan = plan_distpro(self, settings, inputs)
        result = run_plan(plan)
        publish(self, result)
        return self

    # ----------------------------------------------------------------------------------
    # Fitted attributes

    @property
    def _task_type(self) -> SingleLabels:
        """Maker of a fit's task from y."""
        return SingleLabels(self.ignore_index)

    def _teacher_term(self) -> LogitTerm:
        """Return the term of the teacher's logits beside the pathways."""
        return LogitTerm(self.logit_weight, self.temperature)

    def _fitted_attributes(self, net: TrainingNet, plan: DistProPlan) -> dict[str, Any]:
        return fitted_attributes(self, net, plan)

    @property
    def transforms_(self) -> nn.ModuleList:
        """The trained transforms."""
        check_is_fitted(self, "net_")
        return self.net_.transforms_
