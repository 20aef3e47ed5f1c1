"""The second system: search how the weights of pathways should change, retrain along that."""

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
    """A small network taught by a big one's feature maps, along a schedule that is searched.

    Between the layers of student and teacher there are many pathways for knowledge to take.
    The student minimises CE(labels) + distill_weight · Σ_p α_p(t) · loss_p, and what each
    pathway weighs at each step t is a *distillation process*. It is searched first, by a
    hypergradient of the loss on held-out rows in every step; then a fresh student is trained
    on all rows along it, for as many steps as wanted, without the pathways that have become
    unimportant. A process can be saved and followed on another task [1]_. Where y has a map of labels for
    each image, all losses but those of the pathways go by pixel.

    Parameters
    ----------
    teacher : nn.Module, skorch net or estimator of this library
        Trained. Of a fitted :class:`DistilledClassifier` or :class:`DistProClassifier` the
        student is the teacher. Only networks have feature maps: no other classifier can teach
        here. Shared by clones, not copied.
    student : nn.Module class or instance, or function that returns a module
        As for :class:`DistilledClassifier`; with layers that give feature maps of shape (n, channels,
        height, width). The search trains a student of its own. Where y has maps, it returns maps of logits,
        shape (n, n_classes, h, w), of any size.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Paths of modules: ``"layer2"`` is what the module returns, ``"layer2:input"`` what it is
        given, before anything writes into it, ``"relu#2"`` what its second call in a forward pass
        returns. ``":nhwc"`` at the end says that channels come last, ``":tokens"`` that tokens (n, N, C)
        are a grid of patches. "auto": for each spatial size the last module completed before the size
        changes, the feature maps after each down-sampling stage; where y has maps, without the layer that
        gives the map of the prediction; of a transformer whose blocks have one size, blocks evenly spaced.
        :func:`layer_table` lists the layers.
    connections : "all", "lower" or list of (int, int), default="all"
        Pairs of (teacher stage, student stage), counted from 0 in the order of the layers.
        "lower": the pairs whose teacher stage is not above the student stage.
    transforms : list of str or callable, default=("conv1", "conv2", "conv3")
        Each connection has one pathway for each. Callables are called with the channels of
        the student's and of the teacher's map and return a module, which is called with the
        student's map and the teacher's size, (height, width).
    distance : {"hcl", "mse", "l1"} or callable, default="hcl"
        Of the transformed student map and the teacher map, shape (B, C, H, W) both. "hcl" is
        the hierarchical context loss of ReviewKD [2]_.
    normalization : {"biased_softmax", "softmax", "biased_l1", "l1", "sigmoid"}, \
            default="biased_softmax"
        From raw importance factors to weights ([1]_, Table 7). A given process has its own.
    softmax_bias : float, default=1.0
        g of "biased_softmax", exp(α̃_p)/(Σ exp(α̃) + exp(g)).
    distill_weight : float, default=1.0
        Factor on the sum over pathways.
    logit_weight : float or "learned", default=0.0
        Of the soft loss T² · CE(teacher at T, student at T) beside the pathways. With 0 the
        teacher need not know the classes. "learned": the labels weigh lambda1 and the soft loss
        1 − lambda1, as in :class:`DistilledClassifier`, and lambda1, from 0.5, and T are learned
        with the pathways by the same hypergradient; the process has them, and a given one must.
    temperature : float, default=4.0
        T; where it is learned, its start, within [1, 10].
    process : DistillationProcess, str, path-like or None, default=None
        None: search, then retrain. A process, or the file of one: retrain along it. Its
        pathways must match by teacher stage, student stage and transform.
    weights : {"process", "equal", "final", "mean", "reversed"}, default="process"
        What the retraining follows: the process; 1/L for each of L pathways, for which nothing
        is searched; the process's last weights throughout; each pathway's mean over time, of
        the same strength as the process; the process backwards.
    search_epochs : int, default=40
        Passes over D_train in the search.
    validation_fraction : float, default=0.2
        Share of the rows held out as D_val in the search, stratified, when ``fit`` is not
        given ``X_val``.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        For the search, such as a schedule of the learning rate.
    meta : {"gradient", "linear"} or Strategy, default="gradient"
        How the search moves the factors. "gradient": by a hypergradient in every step, as in [1]_.
        "linear": in e1 steps, then along a line fitted to them for e2 steps, at the price of plain
        steps, and so on. Or an object from :mod:`sklearn_kd.meta` that takes hypergradients.
        ``meta__*`` set parameters of either, such as ``meta__hypergradient="exact"``. A predicted raw
        factor stays within [−10, 10], or where hypergradients have led it.
    e1, e2 : int, default=10
        Steps with a hypergradient and predicted steps per cycle of ``meta="linear"``.
    importance_lr : float, default=0.05
        Learning rate of the raw factors, whose optimizer is Adam with betas (0.5, 0.999). lambda1 and
        log T, where they are learned, have ``meta__lr``.
    pathway_threshold : float, "auto" or None, default="auto"
        In the retraining a pathway is not computed in the steps in which its raw factor is at
        most this; the others are not renormalised. None: all are computed. "auto": 0.5 with
        "biased_softmax", else None.
    teacher_classes : array-like of shape (n_columns,) or None, default=None
        The class of each column of the teacher's logits, where it has no ``classes_``; of use with
        ``logit_weight`` alone. None: the labels must be exactly 0 … K−1, and column j is class j. There
        may be more classes than y has.
    ignore_index : int or None, default=None
        The label of unknown pixels, where y has a map of labels for each image: they have no part in the
        losses of labels nor in scores; the teacher is followed there too. None: every label is a class.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, 1 for those that a dict leaves out. It is multiplied with ``sample_weight``: in
        the loss of the labels, and in the loss on D_val, so that the factors serve the same end. "balanced":
        every class counts alike, by n_samples / (n_classes · rows of the class). Rows of weight 0 are left
        out.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Trains student and transforms; ``optimizer__*`` are its further arguments. The
        hypergradient follows SGD, Adam and AdamW exactly.
    lr : float, default=0.1
        Learning rate.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together, those of the transforms included, in
        the search and in the retraining; as for :class:`DistilledClassifier`. None: gradients are not
        clipped.
    max_epochs : int, default=200
        Passes over the rows in the retraining.
    batch_size : int, default=128
        Rows per batch; ``iterator_train__*`` and ``iterator_valid__*`` as for
        :class:`DistilledClassifier`.
    standardize : bool, default=True
        Whether the student starts with a fixed layer, fitted to D_train, that centres and scales each
        column of a table and limits it to ±5, so that it takes columns as they come. ``student_`` is a
        :class:`StandardizedStudent` then. X of more dimensions is left alone, and so is a student that
        makes whole numbers of its inputs, as to look them up in an embedding. Set False for a module
        that has learned from X as it is.
    teacher_transform : callable or None, default=None
        Makes a network teacher's input of the student's batch, a float32 tensor on the device: resizes
        and normalises, as :class:`~sklearn_kd.teachers.ImageTransform`. It must not draw random numbers.
    augment : callable or None, default=None
        Maps a training batch of inputs to an augmented one; the teacher sees that too. Where y has maps, it
        is given images and maps, and returns both. D_val and prediction are not augmented.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        For the retraining. ``callbacks__NAME__*`` set their parameters.
    keep_teacher : bool, default=False
        Whether the fitted estimator has the teacher as ``teacher_``, and a pickle of it holds the
        teacher. The estimator itself, and its clones, can be fitted again in either case.
    checkpoint_dir : str, path-like or None, default=None
        A folder in which ``fit`` keeps a checkpoint after each epoch of the search and of the
        retraining, and what was searched, as for :class:`DistilledClassifier`.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU. A number is that of a CUDA device.
    execution : str or Execution, default="eager"
        How the passes are executed: "eager"; in "bfloat16" where no hypergradient is taken; or an
        :class:`~sklearn_kd.Execution` with micro-batches, which need less memory.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": those that ``torchrun`` or ``accelerate launch`` has started; each calls ``fit`` with
        the same arguments, and has the same estimator afterwards. A number: so many new processes on this
        machine, with a GPU each where there are GPUs. ``batch_size`` is that of all together.
    verbose : int, default=0
        1 prints a line for each epoch of both phases, with an estimate of the time left.
    random_state : int, RandomState or None, default=None
        Split, initialisation and batches. Under one number the retrained student starts, and
        sees its batches, as that of :class:`DistilledClassifier` with ``meta="none"`` does.
    **routed
        ``student__*``, ``meta__*``, ``execution__*``, ``optimizer__*``, ``iterator_train__*``,
        ``iterator_valid__*``, ``callbacks__*``.

    Attributes
    ----------
    process_ : DistillationProcess or None
        What was searched, or was given; None with ``weights="equal"`` and none given.
    pathways_ : list of Pathway
        Named tuples: ``teacher_layer``, ``student_layer``, ``transform``, the stages and the
        channels.
    search_history_ : skorch.history.History or None
        Of the search: losses by epoch, and how many ``skipped_hypergradients`` each had, which
        were not finite or had no direction. None where nothing was searched.
    history_ : skorch.history.History
        Of the retraining: losses by epoch, how many ``pathways`` ran per iteration, ``pathways_loss``, the
        sum of their losses by their importance before ``distill_weight``, and with a
        learned logit term ``lambda1`` and ``temperature`` after the epoch.
    loss_curve_ : list of float
        The training loss of each epoch of the retraining, out of ``history_``.
    validation_scores_ : list of float or None
        The accuracy on a given ``X_val`` after each of these epochs; None where none was given.
    student_ : nn.Module
        The trained student, behind its scaling if it has one (:class:`StandardizedStudent`), else plain:
        prediction runs neither the teacher nor the transforms.
    transforms_ : nn.ModuleList
        The trained transforms, one for each pathway. :func:`build_transforms` makes fresh ones
        of ``pathways_`` to load their ``state_dict()`` into.
    teacher_ : object
        As given, with ``keep_teacher=True``; else None.
    net_ : skorch.NeuralNetClassifier
        The private net of the retraining.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the student's outputs.
    map_shape_ : tuple of int
        Height and width of the maps in y. Not there for other labels.
    n_features_in_ : int
        Size of the second dimension of X.
    n_iter_ : int
        Training iterations of the retraining.

    See Also
    --------
    DistillationProcess : What is searched.
    ProcessDisplay : Draws it.
    DistProRegressor : For numbers.
    DistilledClassifier : Learns how far to trust the labels, and the temperature.

    Notes
    -----
    Where this differs from [1]_: the real step serves as the virtual one, so that a
    hypergradient moves the factors for the next step, and a search step has 3 forward and 2
    backward passes of the student; weights sum up to what the formula says, while the code
    released with the paper multiplies them by L (``distill_weight`` does that); the teacher is
    in evaluation mode; D_val is not augmented; the student is the last epoch's.

    ``sample_weight`` weighs the rows in the loss of the labels alone.

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

    _executions = ("eager", "bfloat16")  # the others are not made for layers that are looked into
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
        """Search a process where none is given, then train the student along it.

        Parameters
        ----------
        X : array-like of shape (n_samples, channels, height, width), Dataset or Stream
            Made float32. A map-style :class:`torch.utils.data.Dataset` is read batch by batch, and a
            :class:`~sklearn_kd.Stream` in its order, of which D_val is given as X_val. The teacher sees
            each batch as the student does.
        y : array-like of shape (n_samples,) or (n_samples, H, W), default=None
            Labels: at least two classes. Of pixels a map of integers for each image. None: a Dataset is read
            once for its labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Of the rows in the loss of the labels, scaled to mean 1. Rows of weight 0 are left
            out.
        X_val, y_val : array-like, default=None
            D_val of the search, where it is not to be held out of X. The retraining uses it
            for skorch's ``valid_loss`` and ``valid_acc`` alone.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss, and so in ``valid_loss``; ``valid_acc``
            counts each row once. Rows of weight 0 are left out.
        groups : array-like of shape (n_samples,), default=None
            The group of each row, such as the person it was measured on. The search's D_val is drawn so that
            no group has rows in D_train and in D_val, with shares of rows and of classes as near to
            ``validation_fraction`` as the groups allow. Without effect where no D_val is held out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If data or parameters cannot be used; before any training where that can be known
            without it.
        TypeError
            If the teacher is no network, or a parameter is misspelt.
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
    # What is fitted

    @property
    def _task_type(self) -> SingleLabels:
        """The maker of a fit's task from y."""
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
