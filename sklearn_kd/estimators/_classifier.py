"""The estimator: a scikit-learn classifier around a private skorch net."""

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
    """A small neural network trained on labels and a big model's answers together.

    The student minimises lambda1 · CE(labels) + (1 − lambda1) · s(T) · CE(teacher at T,
    student at T). The two metaparameters, lambda1 and the temperature T, are chosen on held-out rows in
    a search of a third of the epochs; then the student trains on all rows. They are the best of a few
    settings; or learned by the hypergradient of the loss on held-out rows, and predicted along a line in
    between (``meta="linear"``) [1]_; or fixed. Rows without labels, given to ``fit`` as ``X_unlabeled``,
    teach the student what the teacher knows beyond the labels.

    Parameters
    ----------
    teacher : estimator, trained object, nn.Module, skorch net, function, path, list or None
        One of: a classifier with ``fit``, of which a clone is fitted on D_train, the rows that the
        student trains on (with a search twice: on its D_train, then on all rows); a fitted one inside
        :class:`sklearn.frozen.FrozenEstimator`; a trained object with ``predict_proba`` or
        ``decision_function``, without ``fit``; a trained ``nn.Module`` that returns logits; a fitted
        skorch net; a function of X that returns logits or probabilities
        (:class:`~sklearn_kd.teachers.FunctionTeacher`); an ONNX file
        (:class:`~sklearn_kd.teachers.OnnxTeacher`); a list of teachers
        (:class:`~sklearn_kd.teachers.TeacherEnsemble`); an object of a class that
        :func:`~sklearn_kd.teachers.register_teacher` was given. None where ``fit`` is given
        ``teacher_logits``, or with ``meta="none"``. Clones share a teacher that comes trained.
    student : nn.Module class or instance, or function that returns a module
        Maps float32 inputs to one logit per class, or per label of several, no softmax; to maps of logits,
        of any height and width, where y has maps. A class or a
        function is called with the ``student__*`` parameters and, where its signature has them,
        ``in_features``, ``in_channels``, ``input_shape`` and ``n_classes``, or ``num_classes`` and other
        usual names of these. An instance is copied, and made float32 where it cannot take float32.
    meta : str or Strategy, default="shortlist"
        How the metaparameters are chosen:

        - ``"shortlist"``: the best of three settings, which trust the teacher, both, or the labels (for
          a loss with other metaparameters, give a :class:`~sklearn_kd.meta.Shortlist` of your own);
        - ``"linear"``: e1 gradient iterations, then e2 predicted by a line, and so on;
        - ``"gradient"``: a hypergradient in every iteration;
        - ``"fixed"``: ``lambda1`` and ``temperature`` as given;
        - ``"naive"``: (0.5, 1); ``"random"``: a random draw; ``"none"``: labels alone;
        - ``"forward"``, ``"implicit"``: hypergradients that look further ahead than one iteration;
        - ``"hyperopt"``: the best of 5 trials of the tree-structured Parzen estimator;
        - ``"optuna"``: the best of 20 trials of a sampler of Optuna, which processes may share;
        - ``"twins"``: two students at values moved up and down, of which the better one goes on;
        - ``"halving"``: four students at fixed values, of which the worse are dropped;

        or an object from :mod:`sklearn_kd.meta`. ``meta__*`` set parameters of either, such as
        ``meta__lr=0.1``, the learning rate of the metaparameters of "linear". Strategies that learn from
        held-out rows (all but "fixed", "naive", "random", "none") search on D_train before the student
        trains on all rows (``search_epochs``); the others train on all rows.
    e1, e2 : int, default=10
        Gradient and predicted iterations per cycle of ``meta="linear"``.
    lambda1 : float or "random", default=0.5
        Weight of the labels, in [0, 1]: where it starts (``meta="linear"``), or stays (``meta="fixed"``).
        "random" draws the start from U(0, 1).
    temperature : float or "random", default=1.0
        T: where it starts, or stays. "random" draws log T uniformly within the bounds.
    loss : str, DistillationLoss or list, default="kd"
        The training loss. "kd" is :class:`~sklearn_kd.losses.LogitDistillation`, for several labels
        :class:`~sklearn_kd.losses.MultilabelDistillation`; ``loss__temperature_bounds`` and
        ``loss__temperature_scaling`` are its parameters. Other names: "dkd", "nkd", "dist", "mkd",
        "standardized_kd" and "smoothed_kd", whose classes :mod:`sklearn_kd.losses` has. Or an object, also of
        a class of your own (:class:`~sklearn_kd.losses.DistillationLoss`), whose metaparameters are learned.
        A list has terms of features beside one of these, or beside the labels alone:
        ``["kd", ReviewKD(weight=5)]``. Their weights are metaparameters; the teacher is a trained network.
    teacher_classes : array-like of shape (n_columns,) or None, default=None
        The class of each column of a network's answers, or of ``teacher_logits``, where they do not say
        so themselves (by ``classes_``, or the columns of a DataFrame). None: the labels must be exactly
        0 … K−1, and column j is class j. There may be more classes than y has.
    ignore_index : int or None, default=None
        The label of unknown pixels, where y has a map of labels for each image: they have no part in the
        losses of labels nor in scores; the teacher is followed there too. None: every label is a class.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, 1 for those that a dict leaves out. It is multiplied with ``sample_weight``: in
        the terms of labels and of the teacher alike, and in the loss on D_val, so that the metaparameters
        serve the same end. "balanced": every class counts alike, by n_samples / (n_classes · rows of the
        class). Rows of weight 0 are left out. The teacher is fitted with ``sample_weight`` alone; where it
        has a ``class_weight`` of its own, set that.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.Adam
        Trains the student ("SGD", "AdamW", ...); ``optimizer__*`` are its further arguments. The
        hypergradient follows SGD (momentum and Nesterov too), Adam and AdamW exactly; others are
        treated as plain SGD, with a warning.
    lr : float, default=0.003
        Learning rate of the student. It suits Adam; SGD needs another, often 0.1.
    max_grad_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights together: a longer gradient is shortened to it
        before each step. The hypergradient follows the clipping. 1 keeps steps from growing with T where a
        sharp teacher is softened. None: gradients are not clipped.
    max_epochs : int, default=30
        Passes over D_train. With rows without labels a pass ends when every row has been seen, and the kind
        that is run through first begins again.
    batch_size : int or "auto", default="auto"
        Rows per batch, of D_train and of D_val. "auto": an eighth of the rows given to ``fit``, those
        without labels included, as the nearest power of two from 32 to 256. ``iterator_train__*`` and
        ``iterator_valid__*`` take ``batch_size``, ``shuffle`` and ``drop_last`` apart, and
        where X is a Dataset also the DataLoader's ``num_workers``, ``collate_fn``,
        ``pin_memory`` and so on. A Dataset is predicted for as ``iterator_valid__*`` say.
    validation_fraction : float, default=0.15
        Share of the rows held out as D_val, stratified, by the strategies that learn from
        it when ``fit`` is not given ``X_val``.
    search_epochs : int, float or None, default=1/3
        Epochs in which a strategy that learns from held-out rows searches the metaparameters: a student of
        its own trains on D_train, and the strategy learns against D_val. Then a student (``retrain``) trains
        on all rows along what was found, for ``max_epochs``. A float in (0, 1] is a share of these, rounded
        up. None: a single training on D_train, in which the metaparameters are learned, as in the paper.
        Without effect on strategies that learn nothing from D_val, such as "fixed". A strategy that chooses
        by trials, such as "shortlist" or "hyperopt", gives each trial so many epochs.
    weights : {"mean", "tail", "final", "process"}, default="mean"
        What the training on all rows follows: the mean of the path of the search, in the coordinates in which
        it was learned, geometric for T; the mean of the path's second half; the path's end; or the path
        itself, stretched to the iterations of this training.
    retrain : {"auto", "continue", "average", "fresh"}, default="auto"
        Which student trains on all rows. "continue": that of the search trains on, and its weights are
        averaged over about the last tenth of the epochs. "average": a fresh one, whose weights are averaged
        over about the last half; so is that of a single training. "fresh": a fresh one, with its last
        weights. "auto": "continue" where the student of the search still learns, its last weights being
        better on D_val than their average; else "average"; "fresh" after "twins" and other populations.
    process : MetaparameterProcess, str, path-like or None, default=None
        A process, or the file of one, to follow as ``weights`` say, on all rows and without a search. Its
        metaparameters must be those of the loss.
    search_callbacks : list of skorch callbacks, one alone, or None, default=None
        For the search, such as a schedule of the learning rate; ``callbacks`` are for the training on all
        rows.
    unlabeled_share : float or "auto", default="auto"
        Share of rows without labels in a training batch, in (0, 1), where there are such rows
        (``X_unlabeled``). "auto": their share of all rows, at most 0.8.
    soft_validation : bool, default=False
        Whether the rows of D_val, without their labels, are added to those without labels, so that the
        student learns the teacher's answers to them.
    synthesize : float, Munge or None, default=None
        How many rows to make up for each row of D_train, as mixtures of near rows of a table
        (:class:`~sklearn_kd.Munge` has more settings). They are rows without labels: the teacher is asked
        about them once. None: no rows are made up.
    student_preprocessing : transformer, "auto" or None, default=None
        Makes numbers of X for the student; the teacher gets X as it is, such as a DataFrame with words and
        missing values. A clone of it is fitted on the rows of D_train and their labels (with
        ``search_epochs`` once, on D_train of the search), and is part of ``predict``. "auto" is
        :class:`TablePreprocessing` with its defaults. A transformer inside
        :class:`sklearn.frozen.FrozenEstimator` stays as it was fitted; ``warm_start=True`` keeps that of the
        first fit. None: X must be numbers.
    standardize : bool, default=True
        Whether the student starts with a fixed layer, fitted to D_train, that centres and scales each column
        of a table and limits it to ±5. ``student_`` is a :class:`StandardizedStudent` then. X of more
        dimensions is left alone, and so is a student that makes whole numbers of its inputs, as to look them
        up in an embedding. Set False for a module that has learned from X as it is.
    teacher_transform : callable or None, default=None
        Makes a network teacher's input of the student's batch, as ``teachers.ImageTransform`` does.
    augment : callable or None, default=None
        Maps a training batch, a float32 tensor on the device, to an augmented one of as many rows; labels
        stay. Of an X with several parts it maps the dict or tuple. A network teacher is then asked about each
        augmented batch; other teachers and ``teacher_logits`` cannot be used with it. D_val and prediction
        are not augmented. Draws repeat with ``random_state``. Where y has maps, it is given images and maps,
        and returns both: maps as in y, int64, with ``ignore_index`` (else −1) in pixels without a label.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        ``callbacks__NAME__*`` set their parameters.
    warm_start : bool, default=False
        Start from the student of the last ``fit``, and from its metaparameters where they are learned; the
        path and terms of features go on. A search has a fresh student: the last may have trained on D_val.
    keep_teacher : bool, default=False
        Whether the fitted estimator keeps the fitted teacher, as ``teacher_``, which a pickle of it
        then holds too. False: ``teacher_`` is None, and pickles and copies hold no trained teacher:
        ``teacher`` is an unfitted clone in them, or None where it was given trained. Then they need
        ``set_params(teacher=...)`` to be fitted again, unlike the estimator itself and its clones.
    teacher_logits_dtype : {"float32", "float16"}, default="float32"
        Type of the teacher's logits of D_train, which are computed once and stored: 4 or 2 bytes for each
        row and class. float16 keeps three digits: a logit between 8 and 16 moves by at most 0.004.
    teacher_logits_dir : str, path-like or None, default=None
        A folder, in which these logits are stored in a file while ``fit`` runs; batches read what they
        need. None: in memory.
    checkpoint_dir : str, path-like or None, default=None
        A folder in which ``fit`` keeps a checkpoint after each epoch, so that after a crash the same
        ``fit`` goes on from the last one; made if it is missing. Fits on other data or with other
        parameters may share it. When ``fit`` returns its checkpoints are removed, but for Ctrl-C.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU. A number is a CUDA device's.
    execution : str or Execution, default="eager"
        How the student's passes are executed: "eager"; "compiled" by ``torch.compile``; in "bfloat16"
        where no hypergradient is taken; each iteration as one "cuda_graph"; or an
        :class:`~sklearn_kd.Execution` with several of these.
    parallel : None, "ddp" or int, default=None
        Processes that train one student together, each on its share of every batch. None: this process
        alone. "ddp": those that ``torchrun`` or ``accelerate launch`` has started; each calls ``fit`` with
        the same arguments, and has the same estimator afterwards. A number: so many new processes on this
        machine, with a GPU each where there are GPUs. ``batch_size`` is that of all together.
    verbose : int, default=0
        1 prints skorch's table of epochs; with ``search_epochs`` or ``process`` a line for each epoch of each
        phase but of trials, with an estimate of the time left.
    random_state : int, RandomState or None, default=None
        Split, initialisation, batches, draws, and the seeds that the teacher leaves open.
        The global generators are left as they were; None draws from NumPy's.
    **routed
        ``student__*``, ``meta__*``, ``loss__*``, ``execution__*``, ``optimizer__*``,
        ``iterator_train__*``, ``iterator_valid__*``, ``callbacks__*``; and ``teacher__fit__*``, arguments
        of the teacher's own ``fit``, such as ``teacher__fit__eval_set``.

    Attributes
    ----------
    metaparameter_path_ : structured array of shape (`n_iter_`,)
        One row per training iteration, as things stood after it: ``iteration``, one column for each
        metaparameter of the loss (``lambda1`` and ``temperature`` of "kd"), ``val_loss`` (NaN where it was
        not computed), ``predicted`` (by the line) and ``search`` (True in the search of ``search_epochs``;
        the rows behind it are of the training on all rows). ``pandas.DataFrame(path)`` works where all
        metaparameters are numbers.
    metaparameters_ : dict of str to float or ndarray
        The metaparameters at the end: the last row of the path.
    lambda1_, temperature_ : float
        Two of them, where the loss has them.
    val_temperature_ : float
        T_val at the end; of the search, where the training on all rows has no D_val.
    process_ : MetaparameterProcess or None
        What was searched, or given. ``settings["retrain"]`` says how the retraining after the search went.
    terms_ : dict of str to tuple
        Terms of features by name: ``teacher_layers``, ``student_layers``, and whether the student
        ``is_trained`` on it; False where its weight vanished in the search. Empty without terms.
    search_history_ : skorch.history.History or None
        Of the search: losses and metaparameters by epoch. None where none was trained.
    student_ : nn.Module
        The trained student, behind its scaling if it has one (:class:`StandardizedStudent`), before the
        resizing of its maps if they need one (:class:`ResizedStudent`), else plain.
    teacher_ : object
        The fitted teacher, with ``keep_teacher=True``; else None. None, too, where
        ``teacher_logits`` were given or no teacher was needed.
    student_preprocessing_ : transformer or None
        The fitted ``student_preprocessing``.
    strategy_ : Strategy
        The strategy that ran.
    trials_ : structured array
        What ``meta="shortlist"``, ``"hyperopt"`` or ``"halving"``, or :class:`~sklearn_kd.meta.Random` of
        several trials, tried; there only then.
    moves_ : structured array
        The comparisons of ``meta="twins"``; there only then.
    net_ : skorch.NeuralNetClassifier
        The private net, on tensors and class codes.
    history_ : skorch.history.History
        Of the net: losses, callbacks' scores and metaparameters by epoch; after a search, of the retraining.
        Of each term of features ``NAME_loss``, before its weight; of :class:`Pathways` the sum by their
        importance, and ``pathways``, how many ran.
    loss_curve_ : list of float
        The training loss of each epoch.
    validation_scores_ : list of float or None
        The accuracy on D_val after each epoch; None without D_val.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the outputs; of several labels 0 … k−1.
    label_dtype_ : dtype
        Of several labels the type of y, which ``predict`` returns; there only then.
    map_shape_ : tuple of int
        Height and width of the maps in y; there only where y had maps.
    n_features_in_ : int
        Size of the second dimension of X; not there where X has several parts.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, where X has names that are all strings.
    n_iter_ : int
        Training iterations in the path, those of a search included.
    n_unlabeled_ : int
        Rows without labels in D_train, made-up ones included.

    See Also
    --------
    MetaparameterProcess : What is searched with ``search_epochs``.
    hypergradient : The quantity that is descended, for one step of plain SGD.
    MetaparameterPathDisplay : Draws ``metaparameter_path_``.
    distillation_report : What the student costs, and whether the teacher was worth it.
    export_student : A fitted Pipeline or classifier as one file of ONNX.

    Notes
    -----
    A teacher given prefitted sees the X that ``fit`` is given: inside a Pipeline that is the
    transformed X. Where it was fitted on the raw X, give the steps as ``student_preprocessing``. A
    network sees the student's rows, or what ``teacher_transform`` makes of them.

    With scikit-learn 1.9 or later, ``set_callbacks`` takes its callbacks, such as
    ``sklearn.callback.ProgressBar()``, beside skorch's in ``callbacks``. The sub-tasks of a fit are the
    teacher, where one is to be asked, and each epoch of the student. A callback may end the training after
    any epoch, and predict with the student as it is. They are passed on to neither teacher nor trials.

    References
    ----------
    .. [1] Gorpinich, Bakhteev, Strijov. "Metaparameter optimization in knowledge
       distillation", Eq. 3 (hypergradient), Eq. 4 and Algorithm 1 (prediction).
    .. [2] Hinton, Vinyals, Dean. "Distilling the knowledge in a neural network", 2015.

    Examples
    --------
    A forest that was fitted on 1,200 labels teaches a student that has 150, and other rows without labels:

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
        """Train the student, and the metaparameters with it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or (n_samples, ...), Dataset, or \
                Stream
            Made float32 for the student; a scikit-learn teacher sees it as given. A sparse matrix stays
            sparse, and each batch of it is made dense. With ``student_preprocessing`` X may be a DataFrame of
            pandas or polars, an array of objects, or a list of texts.

            Or a mapping or a tuple of arrays with the same rows, or a ``datasets.Dataset``: the student is
            called with its parts as arguments, floats as float32, integers as int64. Integers alone stay
            int64 for a student that looks them up.

            A map-style :class:`torch.utils.data.Dataset` is read batch by batch by a DataLoader.
            Its items are ``(x, label)``; where y is given, x or ``(x, anything)``. That its
            numbers are finite is not checked. Random augmentation does not belong into it but
            into ``augment``, since the teacher is asked once about each row. Only networks can be
            teachers then.

            A :class:`~sklearn_kd.Stream` is read in its order, epoch by epoch, and its teacher asked about
            each batch. D_val is given as X_val.
        y : array-like of shape (n_samples,), array-like or sparse matrix of shape (n_samples, k), or \
                array-like of shape (n_samples, height, width), default=None
            Labels: at least two classes. A matrix of 0 and 1 for several labels, of which a row may have any
            number. Maps of integers for a class for each pixel, of an X of shape (n_samples, channels,
            height, width). None: a Dataset is read once for its labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Scaled to mean 1. Rows of weight 0 are left out. Passed to the classifiers in
            a scikit-learn teacher that take it; a warning names those that do not.
        teacher_logits : array-like of shape (n_samples, n_classes), default=None
            Of shape (n_samples, n_classes, h, w), with any h and w, where y has maps. The teacher's logits
            for the rows of X, columns in sorted order of the labels (of several in that
            of y's columns), or as ``teacher_classes`` say. A DataFrame whose columns are the labels is
            aligned by them, and by its index where X has the same in another order. They take the place of
            ``teacher``.
        X_val, y_val : array-like, default=None
            D_val, where it is not to be held out of X; a Dataset if X is one, with its labels in
            it or in y_val. Strategies that do not learn from it use it for skorch's
            ``valid_loss`` and ``valid_acc`` alone.
        X_unlabeled : array-like of shape (n_unlabeled, n_features) or (n_unlabeled, ...), or Dataset, \
                default=None
            Rows without labels, in the container of X. The teacher is trained without them and asked about
            them too; the student learns its answers. A Dataset's items are x or ``(x, anything)``; a
            ``collate_fn`` is given them as they are. Of as many rows as X, a cross-validation would take a
            part of them for each fold: give one fewer.
        teacher_logits_unlabeled : array-like of shape (n_unlabeled, n_classes), default=None
            The teacher's logits for the rows of X_unlabeled, as ``teacher_logits``, beside which they must
            be given.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the rows of X_val in the validation loss, and so in ``valid_loss``; ``valid_acc``
            counts each row once. Rows of weight 0 are left out.
        groups : array-like of shape (n_samples,), default=None
            The group of each row, such as the person it was measured on. D_val is drawn so that
            no group has rows in D_train and in D_val, with shares of rows and of classes as near to
            ``validation_fraction`` as the groups allow. Without effect where no D_val is held out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If data or parameters cannot be used; before any training where that can be
            known without it.
        TypeError
            If a parameter is misspelt, the teacher or the student is of no known kind, or a
            Dataset cannot be counted and indexed.
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
        """The maker of a fit's task from y."""
        return Labels(self.ignore_index)

    # ----------------------------------------------------------------------------------
    # What is fitted

    def _fitted_attributes(self, net: TrainingNet, plan: DistillationPlan) -> dict[str, Any]:
        """Return the fitted attributes of a fit that ends with this net."""
        return distilled_attributes(self, net, plan)
