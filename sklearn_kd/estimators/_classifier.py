"""DistilledClassifier: a scikit-learn classifier around a private skorch net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from sklearn_kd._sklearn_compat import Interval, StrOptions, with_callbacks
from sklearn_kd.estimators._base import BaseDistiller, ClassifierMethods
from sklearn_kd.estimators._classifier_plan import checked_parameters, plan_distillation
from sklearn_kd.estimators._classifier_state import CLASSIFIER_STATE
from sklearn_kd.estimators._distilled_attributes import distilled_attributes
from sklearn_kd.estimators._distilled_parameters import DISTILLED_CONSTRAINTS
from sklearn_kd.estimators._feature_terms import FittedTerm
from sklearn_kd.estimators._parallel import in_ranks
from sklearn_kd.estimators._plan import publish, restore_on_failure, run_plan
from sklearn_kd.estimators._stream_inputs import validate_rows_or_stream
from sklearn_kd.inputs._munge import Munge
from sklearn_kd.inputs._validation import Continued
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.tasks._label_kinds import Labels
from sklearn_kd.teachers._label_teachers import takes_several_labels
from sklearn_kd.teachers._logit_store import LOGIT_DTYPES
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from skorch.callbacks import Callback
    from skorch.history import History
    from torch.utils.data import Dataset
    from typing_extensions import Self

    from sklearn_kd.estimators._classifier_net import DistillationPlan
    from sklearn_kd.inputs._streams import Stream


class DistilledClassifier(ClassifierMethods, BaseDistiller):
    """Train a small neural network on labels and on a large model's answers.

    The student minimises lambda1 · CE(labels) + (1 − lambda1) · s(T) · CE(teacher at T,
    student at T). A search, for a third of the epochs, chooses the two metaparameters, lambda1 and the
    temperature T, on held-out rows; then the student trains on all rows. By default they are the best of a
    few settings. They can also be learned by the hypergradient of the loss on held-out rows, and predicted
    along a line in between (``meta="linear"``) [1]_, or be fixed. Unlabeled rows, given to ``fit`` as
    ``X_unlabeled``, teach the student what the teacher knows beyond the labels.

    Parameters
    ----------
    teacher : estimator, trained object, nn.Module, skorch net, function, path, list or None
        One of: a classifier with ``fit``, a clone of which is fitted on D_train, the rows that the
        student trains on (twice if there is a search: on its D_train, then on all rows); a fitted
        classifier inside :class:`sklearn.frozen.FrozenEstimator`; a trained object with ``predict_proba`` or
        ``decision_function``, without ``fit``; a trained ``nn.Module`` that returns logits; a fitted
        skorch net; a function of X that returns logits or probabilities
        (:class:`~sklearn_kd.teachers.FunctionTeacher`); an ONNX file
        (:class:`~sklearn_kd.teachers.OnnxTeacher`); a list of teachers
        (:class:`~sklearn_kd.teachers.TeacherEnsemble`); an object of a class registered with
        :func:`~sklearn_kd.teachers.register_teacher`. None if ``fit`` is given ``teacher_logits``, or
        with ``meta="none"``. Clones share a trained teacher.
    student : nn.Module class or instance, or function that returns a module
        Maps float32 inputs to logits, without a softmax: one per class, or one per label where y has several
        labels; where y has maps, to maps of logits of any height and width. A class or a function is called
        with the ``student__*`` parameters and, if its signature has them, ``in_features``,
        ``in_channels``, ``input_shape`` and ``n_classes``, or other usual names such as ``num_classes``. An
        instance is copied, and converted to float32 if it cannot take float32.
    meta : str or Strategy, default="shortlist"
        How the metaparameters are chosen:

        - ``"shortlist"``: the best of three settings, which trust the teacher, both, or the labels (for
          a loss with other metaparameters, give a :class:`~sklearn_kd.meta.Shortlist` of your own);
        - ``"linear"``: e1 iterations with a hypergradient, then e2 predicted along a line, in turn;
        - ``"gradient"``: a hypergradient in every iteration;
        - ``"fixed"``: ``lambda1`` and ``temperature`` as given;
        - ``"naive"``: (0.5, 1); ``"random"``: a random draw; ``"none"``: labels alone;
        - ``"forward"``, ``"implicit"``: hypergradients that look further ahead than one iteration;
        - ``"hyperopt"``: the best of 5 trials of the tree-structured Parzen estimator;
        - ``"optuna"``: the best of 20 trials of an Optuna sampler, which processes may share;
        - ``"twins"``: two students, one at raised and one at lowered values; the better one goes on;
        - ``"halving"``: four students at fixed values; the worse ones are dropped;

        or an object from :mod:`sklearn_kd.meta`. ``meta__*`` set parameters of either, such as
        ``meta__lr=0.1``, the learning rate of the metaparameters of "linear". Strategies that learn from
        held-out rows (all but "fixed", "naive", "random", "none") search on D_train before the student
        trains on all rows (``search_epochs``); the others train on all rows from the start.
    e1, e2 : int, default=10
        Gradient and predicted iterations per cycle of ``meta="linear"``.
    lambda1 : float or "random", default=0.5
        Weight of the labels, in [0, 1]: the start value if it is learned (``meta="linear"``), else the value
        (``meta="fixed"``). "random" draws the start value from U(0, 1).
    temperature : float or "random", default=1.0
        T: the start value, or the value. "random" draws log T uniformly within the bounds.
    loss : str, DistillationLoss or list, default="kd"
        The training loss. "kd" is :class:`~sklearn_kd.losses.LogitDistillation`, for several labels
        :class:`~sklearn_kd.losses.MultilabelDistillation`; ``loss__temperature_bounds`` and
        ``loss__temperature_scaling`` are its parameters. Other names: "dkd", "nkd", "dist", "mkd",
        "standardized_kd" and "smoothed_kd" (see :mod:`sklearn_kd.losses`). Or an object, possibly of a class
        of your own (:class:`~sklearn_kd.losses.DistillationLoss`), whose metaparameters are learned.
        A list adds feature terms to one of these, or to the loss of the labels alone:
        ``["kd", ReviewKD(weight=5)]``. Their weights are metaparameters; the teacher must be a trained
        network.
    teacher_classes : array-like of shape (n_columns,) or None, default=None
        The class of each column of a network's outputs, or of ``teacher_logits``, where neither ``classes_``
        nor the columns of a DataFrame tell. None: the labels must be exactly 0 … K−1, and column j is
        class j. There may be more classes than y has.
    ignore_index : int or None, default=None
        The label of unknown pixels, where y has a map of labels for each image. These pixels count neither
        in the losses of the labels nor in scores; the student still follows the teacher there. None: every
        label is a class.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class; 1 for classes that a dict leaves out. It multiplies ``sample_weight`` in the
        terms of the labels and of the teacher, and in the loss on D_val, so that the metaparameters optimise
        the same objective. "balanced": n_samples / (n_classes · rows of the class), so that all classes
        count alike. Rows of weight 0 are left out. The teacher is fitted with ``sample_weight`` alone; set
        its own ``class_weight`` if it has one.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.Adam
        Trains the student ("SGD", "AdamW", ...); ``optimizer__*`` are its further arguments. The
        hypergradient follows SGD (momentum and Nesterov too), Adam and AdamW exactly; others are
        treated as plain SGD, with a warning.
    lr : float, default=0.003
        Learning rate of the student. The default suits Adam; SGD needs another, often 0.1.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together: a longer gradient is scaled down to
        it before each step. The hypergradient takes the clipping into account. 1 keeps steps from growing
        with T when a sharp teacher is softened. None: gradients are not clipped.
    max_epochs : int, default=30
        Passes over D_train. With unlabeled rows, a pass ends when every row has been seen; the kind
        that runs out first starts again.
    batch_size : int or "auto", default="auto"
        Rows per batch, of D_train and of D_val. "auto": an eighth of the rows given to ``fit``, including
        those without labels, rounded to the nearest power of two from 32 to 256. ``iterator_train__*`` and
        ``iterator_valid__*`` set ``batch_size``, ``shuffle`` and ``drop_last`` separately and, if X is a
        Dataset, the DataLoader's ``num_workers``, ``collate_fn``, ``pin_memory`` and so on. Prediction reads
        a Dataset with the settings of ``iterator_valid__*``.
    validation_fraction : float, default=0.15
        Share of the rows held out as D_val, stratified, by the strategies that learn from
        it when ``fit`` is not given ``X_val``.
    search_epochs : int, float or None, default=1/3
        Epochs of the search, for strategies that learn from held-out rows: a separate student trains on
        D_train while the strategy learns from D_val. Then a student (see ``retrain``) trains on all rows for
        ``max_epochs``, with the metaparameters that were found. A float in (0, 1] is a share of
        ``max_epochs``, rounded up. None: a single training on D_train, in which the metaparameters are
        learned, as in the paper. Without effect on strategies that learn nothing from D_val, such as "fixed".
        For a strategy that chooses by trials, such as "shortlist" or "hyperopt", the epochs of each trial.
    weights : {"mean", "tail", "final", "process"}, default="mean"
        Metaparameters of the training on all rows. "mean": the mean of the path of the search, in the
        coordinates in which it was learned (geometric for T). "tail": the mean of the path's second half.
        "final": the path's end. "process": the path itself, stretched to the iterations of this training.
    retrain : {"auto", "continue", "average", "fresh"}, default="auto"
        Which student trains on all rows. "continue": the student of the search goes on, and its weights are
        averaged over about the last tenth of the epochs. "average": a fresh student, whose weights are
        averaged over about the last half of the epochs, as they are in a single training. "fresh": a fresh
        student, without averaging. "auto": "fresh" after "twins" and other populations; "continue" if the
        student of the search was still learning (its last weights are better on D_val than their average);
        else "average".
    process : MetaparameterProcess, str, path-like or None, default=None
        A process, or the path of its file, to follow as ``weights`` says, on all rows and without a search.
        Its metaparameters must be those of the loss.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        Callbacks of the search, such as a learning rate schedule; ``callbacks`` are those of the training on
        all rows.
    unlabeled_share : float or "auto", default="auto"
        Share of unlabeled rows (``X_unlabeled``) in a training batch, in (0, 1). "auto": their share
        of all rows, at most 0.8.
    soft_validation : bool, default=False
        Whether to add the rows of D_val, without their labels, to the unlabeled rows, so that the
        student learns the teacher's answers to them.
    synthesize : float, Munge or None, default=None
        Number of rows to synthesise for each row of D_train, by mixing neighbouring rows of a table
        (:class:`~sklearn_kd.Munge` has more settings). They are unlabeled rows: the teacher is asked
        about them once. None: no rows are synthesised.
    student_preprocessing : transformer, "auto" or None, default=None
        Converts X to numbers for the student; the teacher gets X as it is, such as a DataFrame with words
        and missing values. A clone is fitted on the rows of D_train and their labels (with
        ``search_epochs`` once, on D_train of the search), and ``predict`` applies it. "auto" is
        :class:`TablePreprocessing` with its defaults. A transformer inside
        :class:`sklearn.frozen.FrozenEstimator` is used as fitted; ``warm_start=True`` keeps the one from the
        first fit. None: X must be numeric.
    standardize : bool, default=True
        Whether the student starts with a fixed layer, fitted to D_train, that centres and scales each column
        of a table and limits it to ±5. ``student_`` is then a :class:`StandardizedStudent`. No layer is added
        for an X of more dimensions, nor for a student that turns its inputs into whole numbers, for example
        to look them up in an embedding. Set False for a module that was trained on X as it is.
    teacher_transform : callable or None, default=None
        Turns the student's batch into a network teacher's input, as ``teachers.ImageTransform`` does.
    augment : callable or None, default=None
        Maps a training batch, a float32 tensor on the device, to an augmented batch of as many rows; labels
        stay the same. If X has several parts, it maps the dict or tuple. A network teacher is then asked
        about each augmented batch; other teachers and ``teacher_logits`` cannot be used. D_val and prediction
        are not augmented. ``random_state`` makes its draws reproducible. Where y has maps, it takes and
        returns images and maps: maps as in y, int64, with ``ignore_index`` (else −1) in unlabeled pixels.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        ``callbacks__NAME__*`` set their parameters.
    warm_start : bool, default=False
        Start from the student of the last ``fit``, and from its metaparameters if they are learned; the
        path and the feature terms continue. A search uses a fresh student, since the last one may have
        trained on D_val.
    keep_teacher : bool, default=False
        Whether the fitted estimator, and a pickle of it, keeps the fitted teacher as ``teacher_``. False:
        ``teacher_`` is None, and pickles and copies hold no trained teacher: their ``teacher`` is an unfitted
        clone, or None if it was given trained. To fit those again, call ``set_params(teacher=...)`` first;
        the estimator itself and its clones do not need that.
    teacher_logits_dtype : {"float32", "float16"}, default="float32"
        Type of the teacher's logits of D_train, which are computed once and stored: 4 or 2 bytes per row
        and class. float16 keeps three digits: a logit between 8 and 16 changes by at most 0.004.
    teacher_logits_dir : str, path-like or None, default=None
        Folder for a file that stores these logits while ``fit`` runs; each batch reads its part. None: the
        logits are kept in memory.
    checkpoint_dir : str, path-like or None, default=None
        Folder in which ``fit`` writes a checkpoint after each epoch, so that after a crash the same
        ``fit`` resumes from the last one; created if missing. Fits on other data or with other
        parameters may share it. ``fit`` removes its checkpoints when it returns, except after Ctrl-C.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU. A number is the index of a CUDA device.
    execution : str or Execution, default="eager"
        How the student's passes run: "eager"; "compiled" by ``torch.compile``; in "bfloat16", except where
        a hypergradient is taken; each iteration as one "cuda_graph"; or an :class:`~sklearn_kd.Execution`
        that combines several of these, or uses micro-batches, which need less memory.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": the processes that ``torchrun`` or ``accelerate launch`` started; each calls ``fit``
        with the same arguments and ends with the same estimator. A number: start that many processes on
        this machine, each with its own GPU if there are GPUs. ``batch_size`` is the total over processes.
    verbose : int, default=0
        1 prints skorch's table of epochs; with ``search_epochs`` or ``process``, a line for each epoch of
        each phase, except trials, with an estimate of the time left.
    random_state : int, RandomState or None, default=None
        Seeds the split, the initialisation, the batches, all draws, and seeds that the teacher leaves open.
        The states of the global generators are restored; None draws from NumPy's.
    **routed
        ``student__*``, ``meta__*``, ``loss__*``, ``execution__*``, ``optimizer__*``,
        ``iterator_train__*``, ``iterator_valid__*``, ``callbacks__*``; and ``teacher__fit__*``, arguments
        of the teacher's own ``fit``, such as ``teacher__fit__eval_set``.

    Attributes
    ----------
    metaparameter_path_ : structured array of shape (`n_iter_`,)
        One row per training iteration, with the state after it: ``iteration``, one column for each
        metaparameter of the loss (``lambda1`` and ``temperature`` of "kd"), ``val_loss`` (NaN where it was
        not computed), ``predicted`` (by the line) and ``search`` (True in the search of ``search_epochs``,
        False in the training on all rows). ``pandas.DataFrame(path)`` works if all metaparameters are
        numbers.
    metaparameters_ : dict of str to float or ndarray
        The metaparameters at the end: the last row of the path.
    lambda1_, temperature_ : float
        Two of the metaparameters, if the loss has them.
    val_temperature_ : float
        T_val at the end; at the end of the search if the training on all rows has no D_val.
    process_ : MetaparameterProcess or None
        The process that was searched or given. ``settings["retrain"]`` is the ``retrain`` that was used.
    terms_ : dict of str to tuple
        Feature terms by name: ``teacher_layers``, ``student_layers``, and whether the student
        ``is_trained`` on it; False if its weight vanished in the search. Empty without terms.
    search_history_ : skorch.history.History or None
        History of the search: losses and metaparameters by epoch. None if no student was trained in it.
    student_ : nn.Module
        The trained student, inside a :class:`StandardizedStudent` if its inputs are scaled, or a
        :class:`ResizedStudent` if its maps are resized.
    teacher_ : object
        The fitted teacher with ``keep_teacher=True``, else None. Also None if ``teacher_logits`` were given
        or no teacher was needed.
    student_preprocessing_ : transformer or None
        The fitted ``student_preprocessing``.
    strategy_ : Strategy
        The strategy that ran.
    trials_ : structured array
        The trials of ``meta="shortlist"``, ``"hyperopt"`` or ``"halving"``, or of
        :class:`~sklearn_kd.meta.Random` with several trials; missing otherwise.
    moves_ : structured array
        The comparisons of ``meta="twins"``; missing otherwise.
    net_ : skorch.NeuralNetClassifier
        The private net, on tensors and class codes.
    history_ : skorch.history.History
        History of the net (after a search, of the retraining): losses, callbacks' scores and metaparameters
        by epoch. For each feature term, ``NAME_loss`` before its weight is applied; for :class:`Pathways`,
        the sum weighted by importance, and ``pathways``, how many ran.
    loss_curve_ : list of float
        The training loss of each epoch.
    validation_scores_ : list of float or None
        The accuracy on D_val after each epoch; None without D_val.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the outputs; 0 … k−1 if y has several labels.
    label_dtype_ : dtype
        The type of y, which ``predict`` returns, if y has several labels; missing otherwise.
    map_shape_ : tuple of int
        Height and width of the maps in y; missing for other labels.
    n_features_in_ : int
        Size of the second dimension of X; missing if X has several parts.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, if X has names that are all strings.
    n_iter_ : int
        Number of training iterations in the path, including the search.
    n_unlabeled_ : int
        Number of unlabeled rows in D_train, including synthesised ones.

    See Also
    --------
    MetaparameterProcess : The result of a search.
    hypergradient : The gradient that moves the metaparameters, for one step of plain SGD.
    MetaparameterPathDisplay : Draws ``metaparameter_path_``.
    distillation_report : Measures what the student costs, and whether the teacher was worth it.
    export_student : Writes a fitted Pipeline or classifier as one ONNX file.

    Notes
    -----
    A prefitted teacher sees the X that ``fit`` is given: inside a Pipeline, the transformed X. If it was
    fitted on the raw X, give the steps as ``student_preprocessing``. A network sees the student's rows, or
    the output of ``teacher_transform``.

    With scikit-learn 1.9 or later, ``set_callbacks`` takes scikit-learn's callbacks, such as
    ``sklearn.callback.ProgressBar()``; skorch's go into ``callbacks``. The sub-tasks of a fit are the
    teacher, if one is asked, and each epoch of the student. A callback may end the training after any
    epoch, and predict with the student at that point. Neither the teacher nor trials receive them.

    References
    ----------
    .. [1] Gorpinich, Bakhteev, Strijov. "Metaparameter optimization in knowledge
       distillation", Eq. 3 (hypergradient), Eq. 4 and Algorithm 1 (prediction).
    .. [2] Hinton, Vinyals, Dean. "Distilling the knowledge in a neural network", 2015.

    Examples
    --------
    A forest fitted on 1,200 labels teaches a student that has 150 of them, and the other rows unlabeled:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import ExtraTreesClassifier
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = ExtraTreesClassifier(100, random_state=0).fit(X[:1200], y[:1200])
    >>> clf = DistilledClassifier(FrozenEstimator(forest), MLPStudent, max_epochs=15, random_state=0)
    >>> clf = clf.fit(X[:150], y[:150], X_unlabeled=X[150:1200])
    >>> alone = DistilledClassifier(None, MLPStudent, meta="none", random_state=0).fit(X[:150], y[:150])
    >>> clf.score(X[1200:], y[1200:]) > alone.score(X[1200:], y[1200:]) + 0.03
    True
    >>> clf.trials_["lambda1"].tolist(), clf.lambda1_ in clf.trials_["lambda1"]
    ([0.05, 0.6, 0.95], True)
    """

    _parameter_constraints = DISTILLED_CONSTRAINTS | {
        "temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"random"})],
        "loss": [str, DistillationLoss, FeatureTerm, list, tuple],
        "teacher_classes": ["array-like", None],
        "ignore_index": [Integral, None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "teacher_logits_dtype": [StrOptions(set(LOGIT_DTYPES))],
        "teacher_logits_dir": [str, PathLike, None],
    }

    _state_functions = CLASSIFIER_STATE

    net_: TrainingNet
    strategy_: Strategy
    metaparameter_path_: np.ndarray
    lambda1_: float
    temperature_: float
    val_temperature_: float
    trials_: np.ndarray
    moves_: np.ndarray
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
        temperature: float | Literal["random"] = 1.0,
        loss: str | DistillationLoss | Sequence[Any] = "kd",
        teacher_classes: ArrayLike | None = None,
        ignore_index: int | None = None,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
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
        teacher_transform: Callable[..., Any] | None = None,
        augment: Callable[..., Any] | None = None,
        callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        warm_start: bool = False,
        keep_teacher: bool = False,
        teacher_logits_dtype: Literal["float32", "float16"] = "float32",
        teacher_logits_dir: str | PathLike[str] | None = None,
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
        self.temperature = temperature
        self.loss = loss
        self.teacher_classes = teacher_classes
        self.ignore_index = ignore_index
        self.class_weight = class_weight
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
        self.teacher_logits_dtype = teacher_logits_dtype
        self.teacher_logits_dir = teacher_logits_dir
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.execution = execution
        self.parallel = parallel
        self.verbose = verbose
        self.random_state = random_state
        self._keep_routed(routed)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs, tags.classifier_tags.multi_label = tags.input_tags, takes_several_labels(self.teacher)
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
        X: ArrayLike | Mapping[str, ArrayLike] | Dataset | Stream,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        teacher_logits: ArrayLike | None = None,
        X_val: ArrayLike | Dataset | None = None,
        y_val: ArrayLike | None = None,
        X_unlabeled: ArrayLike | Dataset | None = None,
        teacher_logits_unlabeled: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train the student and its metaparameters.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or (n_samples, ...), Dataset, or \
                Stream
            Converted to float32 for the student; a scikit-learn teacher sees it as given. A sparse matrix
            stays sparse; each batch is made dense. With ``student_preprocessing``, X may be a DataFrame of
            pandas or polars, an array of objects, or a list of texts.

            Or a mapping or a tuple of arrays with the same rows, or a ``datasets.Dataset``: the student is
            called with its parts as arguments, floats as float32, integers as int64. A single array of
            integers stays int64 if the student looks them up.

            A map-style :class:`torch.utils.data.Dataset` is read batch by batch by a DataLoader.
            Its items are ``(x, label)``; if y is given, x or ``(x, anything)``. Its values are not checked
            to be finite. Put random augmentation into ``augment``, not into the Dataset, since the teacher is
            asked once about each row. The teacher must be a network.

            A :class:`~sklearn_kd.Stream` is read in its order, epoch by epoch, and the teacher is asked about
            each batch. Give D_val as X_val.
        y : array-like of shape (n_samples,), array-like or sparse matrix of shape (n_samples, k), or \
                array-like of shape (n_samples, height, width), default=None
            Labels of at least two classes. For several labels per row, a matrix of 0 and 1. For a class per
            pixel, maps of integers, with an X of shape (n_samples, channels, height, width). None: the labels
            are read from the Dataset once.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, scaled to mean 1. Rows of weight 0 are left out. Passed on to the
            classifiers in a scikit-learn teacher that take it; a warning names those that do not.
        teacher_logits : array-like of shape (n_samples, n_classes), default=None
            The teacher's logits for the rows of X, used in place of ``teacher``; where y has maps, of shape
            (n_samples, n_classes, h, w), with any h and w. Columns are in sorted order of the labels (for
            several labels, in the order of y's columns), or as ``teacher_classes`` says. A DataFrame whose
            columns are the labels is aligned by them, and by its index if X has the same index in another
            order.
        X_val, y_val : array-like, default=None
            D_val. None: it is held out of X if the strategy needs it. A Dataset if X is one, with its labels
            in it or in y_val. Strategies that do not learn from it use it only for skorch's ``valid_loss``
            and ``valid_acc``.
        X_unlabeled : array-like of shape (n_unlabeled, n_features) or (n_unlabeled, ...), or Dataset, \
                default=None
            Unlabeled rows, in the same kind of container as X. The teacher is not trained on them, but
            is asked about them, and the student learns its answers. A Dataset's items are x or
            ``(x, anything)``; a ``collate_fn`` gets them as they are. In a cross-validation, give a number
            of rows other than X has: scikit-learn would split X_unlabeled too.
        teacher_logits_unlabeled : array-like of shape (n_unlabeled, n_classes), default=None
            The teacher's logits for the rows of X_unlabeled, in the form of ``teacher_logits``. With
            X_unlabeled, give both or neither.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss, and so in ``valid_loss``; ``valid_acc``
            counts each row once. Rows of weight 0 are left out.
        groups : array-like of shape (n_samples,), default=None
            The group of each row, such as the person it was measured on. D_val is drawn so that
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
            If a parameter is misspelt, the teacher or the student is of an unknown kind, or a Dataset has no
            length or cannot be indexed.
        """
        settings = checked_parameters(self, X, X_val, X_unlabeled)
        last = Continued(self._task, self._sample_shape) if self._continues() else None
        data = X, y, sample_weight, X_val, y_val, teacher_logits, X_unlabeled, teacher_logits_unlabeled
        further = {"sample_weight_val": sample_weight_val, "groups": groups}
        inputs = validate_rows_or_stream(self, *data, **further, continued=last)
        plan = plan_distillation(self, settings, inputs)
        result = run_plan(plan)
        publish(self, result)
        return self

    def _continues(self) -> bool:
        """Return whether this fit continues the last one."""
        return self.warm_start and hasattr(self, "net_")

    @property
    def _task_type(self) -> Labels:
        """Maker of a fit's task from y."""
        return Labels(self.ignore_index)

    # ----------------------------------------------------------------------------------
    # Fitted attributes

    def _fitted_attributes(self, net: TrainingNet, plan: DistillationPlan) -> dict[str, Any]:
        """Return the fitted attributes of a fit that ends with this net."""
        return distilled_attributes(self, net, plan)
