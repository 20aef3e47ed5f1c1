"""DistilledRegressor: train a small network on targets and on a large model's predictions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from sklearn_kd._sklearn_compat import with_callbacks
from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.estimators._classifier_plan import checked_parameters, plan_distillation
from sklearn_kd.estimators._classifier_state import CLASSIFIER_STATE
from sklearn_kd.estimators._distilled_attributes import distilled_attributes
from sklearn_kd.estimators._distilled_parameters import DISTILLED_CONSTRAINTS
from sklearn_kd.estimators._feature_terms import FittedTerm
from sklearn_kd.estimators._parallel import in_ranks
from sklearn_kd.estimators._plan import publish, restore_on_failure, run_plan
from sklearn_kd.estimators._regression_warnings import warn_of_units
from sklearn_kd.estimators._regressor_inputs import make_regression_teacher, validate_regression
from sklearn_kd.estimators._regressor_methods import RegressorMethods
from sklearn_kd.inputs._munge import Munge
from sklearn_kd.inputs._validation import Continued
from sklearn_kd.losses import RegressionLoss
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.teachers._logit_store import LogitStorage
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from skorch.callbacks import Callback
    from skorch.history import History
    from torch import Tensor
    from torch.utils.data import Dataset
    from typing_extensions import Self

    from sklearn_kd.estimators._classifier_net import DistillationPlan


class DistilledRegressor(RegressorMethods, BaseDistiller):  # type: ignore[misc]  # predict has return_std
    """Train a small neural network on numeric targets and on a large model's predictions of them.

    The student minimises lambda1 · L(y, student) + (1 − lambda1) · L(teacher, student), where L is the
    squared error or another ``loss``. y is standardised internally, to a standard deviation of 1, and
    predictions are in its units. A search, for a third of the epochs, chooses lambda1 and the loss's other
    metaparameters on held-out rows; then the student trains on all rows. Rows without targets, given to
    ``fit`` as ``X_unlabeled`` or made by ``synthesize``, teach the student what the teacher predicts for
    them. For images, y may be maps with a number for each pixel, such as its depth.

    Parameters
    ----------
    teacher : estimator, trained object, nn.Module, skorch net, function, path, list or None
        One of: a regressor, a clone of which is fitted on D_train, the rows that the student trains on (twice
        if there is a search: on its D_train, then on all rows); a fitted regressor inside
        :class:`sklearn.frozen.FrozenEstimator`; a trained object with ``predict``, without ``fit``; a trained
        ``nn.Module`` or fitted skorch net with one output per target; a function of X that returns numbers
        (:class:`~sklearn_kd.teachers.FunctionTeacher`); an ONNX file
        (:class:`~sklearn_kd.teachers.OnnxTeacher`); a list of teachers, or a
        :class:`~sklearn_kd.teachers.TeacherEnsemble`, which predicts their (weighted) mean; an object
        of a class registered with :func:`~sklearn_kd.teachers.register_teacher`. All predict in the units of
        y. None if ``fit`` is given ``teacher_predictions``, or with ``meta="none"``. Clones share a trained
        teacher.
    student : nn.Module class or instance, or function that returns a module
        Maps float32 inputs to standardised targets, one output per target (two with
        ``loss="gaussian_nll"``), shape (n_samples, n_outputs); where y has maps, to maps of shape
        (n_samples, n_outputs, h, w), of any size. A class or a function is called with the
        ``student__*`` parameters and, if its signature has them, ``in_features``, ``in_channels``,
        ``input_shape``, and the number of outputs as ``n_classes``, ``out_features``, ``n_outputs`` or
        another usual name. An instance is copied.
    meta : str or Strategy, default="shortlist"
        How the metaparameters are chosen, as for :class:`DistilledClassifier`: ``"shortlist"``, the best of
        three values of lambda1; ``"linear"``, ``"gradient"``, ``"forward"`` and ``"implicit"`` by
        hypergradients; ``"hyperopt"``, ``"twins"`` and ``"halving"`` by comparison; ``"fixed"``, ``"naive"``
        (lambda1 = 0.5) and ``"random"``; ``"none"``, y alone; or an object from :mod:`sklearn_kd.meta`.
        ``meta__*`` set parameters of either.
    e1, e2 : int, default=10
        Gradient and predicted iterations per cycle of ``meta="linear"``.
    lambda1 : float or "random", default=0.5
        Weight of y, in [0, 1]: the start value if it is learned (``meta="linear"``), else the value
        (``meta="fixed"``). "random" draws the start value from U(0, 1).
    loss : str, RegressionLoss or list, default="squared_error"
        L: "squared_error", "absolute_error", "huber", "berhu", "quantile" or "gaussian_nll"; ``loss__*`` set
        its parameters: ``loss__per_output``, a lambda1 for each target; ``loss__teacher_bound``, the error
        beyond which the teacher is not followed; ``loss__quantile``, ``loss__width``. Or an object of
        :mod:`sklearn_kd.losses` or of a class of your own (:class:`~sklearn_kd.losses.RegressionLoss`). A
        list adds feature terms to one of these, as for :class:`DistilledClassifier`.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.Adam
        Trains the student; ``optimizer__*`` are its further arguments.
    lr : float, default=0.003
        Learning rate of the student. The default suits Adam.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together. None: gradients are not clipped.
    max_epochs : int, default=30
        Passes over D_train.
    batch_size : int or "auto", default="auto"
        Rows per batch, of D_train and of D_val. "auto": an eighth of the rows given to ``fit``, rounded to
        the nearest power of two from 32 to 256. ``iterator_train__*`` and ``iterator_valid__*`` are further
        settings of the batches, those of the DataLoader if X is a Dataset.
    validation_fraction : float, default=0.15
        Share of the rows held out as D_val, at random, by the strategies that learn from it, if ``fit`` is
        not given ``X_val``.
    search_epochs : int, float or None, default=1/3
        Epochs of the search, for strategies that learn from held-out rows; a float is a share of
        ``max_epochs``. None: a single training on D_train, in which the metaparameters are learned.
    weights : {"mean", "tail", "final", "process"}, default="mean"
        Metaparameters of the training on all rows: the mean of the search's path, the mean of its second
        half, its end, or the whole path.
    retrain : {"auto", "continue", "average", "fresh"}, default="auto"
        Which student trains on all rows: that of the search, a fresh one whose weights are averaged, or a
        fresh one without averaging. "auto": one of the first two, depending on D_val.
    process : MetaparameterProcess, str, path-like or None, default=None
        A process, or the path of its file, to follow on all rows and without a search.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the search; ``callbacks`` are those of the training on all rows.
    unlabeled_share : float or "auto", default="auto"
        Share of rows without targets in a training batch, in (0, 1). "auto": their share of all rows, at
        most 0.8.
    soft_validation : bool, default=False
        Whether to add the rows of D_val, without their targets, to the rows without targets.
    synthesize : float, Munge or None, default=None
        Number of rows to synthesise for each row of D_train, by mixing neighbouring rows of a table
        (:class:`~sklearn_kd.Munge`), for the teacher to predict. None: no rows are synthesised.
    student_preprocessing : transformer, "auto" or None, default=None
        Converts X to numbers for the student; the teacher gets X as it is. "auto" is
        :class:`TablePreprocessing`. None: X must be numeric.
    standardize : bool, default=True
        Whether the student starts with a fixed layer, fitted to D_train, that standardises the columns of a
        table (:class:`StandardizedStudent`). y is standardised in either case.
    teacher_transform : callable or None, default=None
        Turns the student's batch, a float32 tensor on the device, into a network teacher's input: resizes
        and normalises it, as :class:`~sklearn_kd.teachers.ImageTransform` does. It must not draw random
        numbers.
    augment : callable or None, default=None
        Maps a training batch of inputs to an augmented batch of as many rows; targets stay the same. A
        network teacher is then asked about each augmented batch; other teachers cannot be used.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        ``callbacks__NAME__*`` set their parameters. Scorers see targets in the units of y.
    warm_start : bool, default=False
        Start from the student of the last ``fit``, with its standardisation of y, and from its
        metaparameters if they are learned.
    keep_teacher : bool, default=False
        Whether the fitted estimator, and a pickle of it, keeps the fitted teacher as ``teacher_``.
    checkpoint_dir : str, path-like or None, default=None
        Folder in which ``fit`` writes a checkpoint after each epoch, from which the same ``fit`` resumes
        after a crash.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU.
    execution : str or Execution, default="eager"
        How the student's passes run, as for :class:`DistilledClassifier`.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": the processes that ``torchrun`` or ``accelerate launch`` started; each calls ``fit``
        with the same arguments and ends with the same estimator. A number: start that many processes on
        this machine, each with its own GPU if there are GPUs. ``batch_size`` is the total over processes.
    verbose : int, default=0
        1 prints skorch's table of epochs, or a line for each epoch of each phase.
    random_state : int, RandomState or None, default=None
        Seeds the split, the initialisation, the batches, all draws, and seeds that the teacher leaves open.
    **routed
        ``student__*``, ``meta__*``, ``loss__*``, ``execution__*``, ``optimizer__*``,
        ``iterator_train__*``, ``iterator_valid__*``, ``callbacks__*``, ``teacher__fit__*``.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Mean and standard deviation of y in the rows given to ``fit``, weighted by ``sample_weight``.
    n_outputs_ : int
        Number of targets.
    map_shape_ : tuple of int
        Height and width of the maps in y; missing for other targets.
    metaparameter_path_ : structured array of shape (`n_iter_`,)
        One row per training iteration: ``iteration``, one column for each metaparameter of the loss,
        ``val_loss``, ``predicted`` and ``search``, as for :class:`DistilledClassifier`.
    metaparameters_ : dict of str to float or ndarray
        The metaparameters at the end.
    lambda1_ : float
        One of the metaparameters; missing with ``loss__per_output=True``.
    process_ : MetaparameterProcess or None
        The process that was searched or given. None for a single training.
    terms_ : dict of str to tuple
        Feature terms by name, as for :class:`DistilledClassifier`.
    search_history_ : skorch.history.History or None
        History of the search. None if no student was trained in it.
    student_ : nn.Module
        The trained student, whose outputs are standardised.
    teacher_ : object
        The fitted teacher with ``keep_teacher=True``, else None.
    student_preprocessing_ : transformer or None
        The fitted ``student_preprocessing``.
    strategy_ : Strategy
        The strategy that ran.
    trials_, moves_ : structured array
        What some strategies tried, as for :class:`DistilledClassifier`; missing otherwise.
    net_ : skorch.NeuralNet
        The private net, on tensors and standardised targets.
    history_ : skorch.history.History
        History of the net: losses, callbacks' scores and metaparameters by epoch. For each feature term,
        ``NAME_loss`` before its weight is applied.
    loss_curve_ : list of float
        The training loss of each epoch.
    validation_scores_ : list of float or None
        R² on D_val after each epoch; None without D_val.
    n_features_in_ : int
        Size of the second dimension of X; missing if X has several parts.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, if X has names that are all strings.
    n_iter_ : int
        Number of training iterations in the path, including the search.
    n_unlabeled_ : int
        Number of rows without targets in D_train, including synthesised ones.

    See Also
    --------
    DistilledClassifier : The same for classes; its pages of the guide cover both.
    sklearn_kd.losses.RegressionLoss : The base of all regression losses.
    sklearn_kd.metrics : Errors of maps.

    Notes
    -----
    :class:`DistilledClassifier` describes the shared parameters in full. A regressor has no temperature, no
    ``class_weight`` and no ``teacher_classes``; D_val is not stratified.

    Examples
    --------
    Boosted trees teach a network, also with synthesised rows between those of X:

    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from sklearn_kd import DistilledRegressor, MLPStudent
    >>> X, y = make_friedman1(1200, noise=1.0, random_state=0)
    >>> reg = DistilledRegressor(
    ...     HistGradientBoostingRegressor(), MLPStudent, synthesize=2, random_state=0)
    >>> reg = reg.fit(X[:400], y[:400])
    >>> reg.score(X[400:], y[400:]) > 0.8
    True
    >>> 0 <= reg.lambda1_ <= 1
    True
    """

    _parameter_constraints = DISTILLED_CONSTRAINTS | {"loss": [str, RegressionLoss, FeatureTerm, list, tuple]}

    _state_functions = CLASSIFIER_STATE

    net_: TrainingNet
    strategy_: Strategy
    metaparameter_path_: np.ndarray
    lambda1_: float
    n_unlabeled_: int
    terms_: dict[str, FittedTerm]
    process_: MetaparameterProcess | None
    search_history_: History | None

    def __init__(
        self,
        teacher: Any,
        student: nn.Module | Callable[..., nn.Module],
        *,
        meta: str | Strategy = "shortlist",
        e1: int = 10,
        e2: int = 10,
        lambda1: float | Literal["random"] = 0.5,
        loss: str | RegressionLoss | Sequence[Any] = "squared_error",
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.Adam,
        lr: float = 0.003,
        max_grad_norm: float | None = None,
        max_epochs: int = 30,
        batch_size: int | Literal["auto"] = "auto",
        validation_fraction: float = 0.15,
        search_epochs: int | float | None = 1 / 3,
        weights: Literal["mean", "tail", "final", "process"] = "mean",
        retrain: Literal["auto", "continue", "average", "fresh"] = "auto",
        process: MetaparameterProcess | str | PathLike[str] | None = None,
        search_callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        unlabeled_share: float | Literal["auto"] = "auto",
        soft_validation: bool = False,
        synthesize: float | Munge | None = None,
        student_preprocessing: BaseEstimator | Literal["auto"] | None = None,
        standardize: bool = True,
        teacher_transform: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        warm_start: bool = False,
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
        self.meta = meta
        self.e1 = e1
        self.e2 = e2
        self.lambda1 = lambda1
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.search_epochs = search_epochs
        self.weights = weights
        self.retrain = retrain
        self.process = process
        self.search_callbacks = search_callbacks
        self.unlabeled_share = unlabeled_share
        self.soft_validation = soft_validation
        self.synthesize = synthesize
        self.student_preprocessing = student_preprocessing
        self.standardize = standardize
        self.teacher_transform = teacher_transform
        self.augment = augment
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.keep_teacher = keep_teacher
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.execution = execution
        self.parallel = parallel
        self.verbose = verbose
        self.random_state = random_state
        self._keep_routed(routed)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = tags.input_tags
        inputs.sparse = True
        inputs.allow_nan = inputs.string = inputs.categorical = self.student_preprocessing is not None
        return tags

    # ----------------------------------------------------------------------------------
    # Fitting

    @ordinary_torch()
    @restore_on_failure
    @in_ranks
    @with_callbacks
    def fit(
        self,
        X: ArrayLike | Mapping[str, ArrayLike] | Dataset,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        teacher_predictions: ArrayLike | None = None,
        X_val: ArrayLike | Dataset | None = None,
        y_val: ArrayLike | None = None,
        X_unlabeled: ArrayLike | Dataset | None = None,
        teacher_predictions_unlabeled: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train the student and its metaparameters.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            As in :meth:`DistilledClassifier.fit`. The items of a Dataset are ``(x, target)``; if y is given,
            x or ``(x, anything)``.
        y : array-like of shape (n_samples,), (n_samples, n_outputs) or (n_samples, H, W), default=None
            Finite real numbers; no target may be constant. For images, a map for each, with NaN where a
            pixel has no target. None: the targets are read from the Dataset once.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, scaled to mean 1. Rows of weight 0 are left out. Passed on to the regressors
            in a scikit-learn teacher that take it; a warning names a teacher that does not.
        teacher_predictions : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            The teacher's predictions for the rows of X, in the units of y, used in place of ``teacher``;
            where y has maps, maps of shape (n_samples, h, w). A Series or DataFrame is aligned by its index
            if X has the same index in another order.
        X_val, y_val : array-like, default=None
            D_val, a Dataset if X is one. None: it is held out of X if the strategy needs it.
        X_unlabeled : array-like of shape (n_unlabeled, n_features) or (n_unlabeled, ...), or Dataset, \
                default=None
            Rows without targets, in the same kind of container as X: the student learns the teacher's
            predictions for them.
        teacher_predictions_unlabeled : array-like of shape (n_unlabeled,) or (n_unlabeled, n_outputs), \
                default=None
            The teacher's predictions for the rows of X_unlabeled. Give them together with
            ``teacher_predictions``.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss.
        groups : array-like of shape (n_samples,), default=None
            The group of each row. No group has rows in both D_train and D_val.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If data or parameters cannot be used. Raised before any training where possible.
        TypeError
            If a parameter is misspelt, the teacher or the student is of an unknown kind, the teacher is a
            classifier, or a Dataset has no length or cannot be indexed.
        """
        settings = checked_parameters(self, X, X_val, X_unlabeled, LogitStorage())
        last = Continued(self._task, self._sample_shape) if self._continues() else None
        inputs = validate_regression(
            self,
            X,
            y,
            sample_weight,
            X_val,
            y_val,
            teacher_predictions,
            X_unlabeled,
            teacher_predictions_unlabeled,
            sample_weight_val=sample_weight_val,
            groups=groups,
            continued=last,
        )
        plan = plan_distillation(
            self, settings, inputs, make=make_regression_teacher, warn_of_answers=warn_of_units
        )
        result = run_plan(plan)
        publish(self, result)
        return self

    def _continues(self) -> bool:
        """Return whether this fit continues the last one."""
        return self.warm_start and hasattr(self, "net_")

    def _fitted_attributes(self, net: TrainingNet, plan: DistillationPlan) -> dict[str, Any]:
        """Return the fitted attributes of a fit that ends with this net."""
        return distilled_attributes(self, net, plan)
