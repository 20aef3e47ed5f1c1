"""The estimator: a scikit-learn classifier around a private skorch net."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.base import clone
from torch import nn

from sklearn_kd._sklearn_compat import Interval, StrOptions, safe_indexing, with_callbacks
from sklearn_kd.bilevel._hypergradient import METHODS
from sklearn_kd.checkpointing._manager import Journal
from sklearn_kd.estimators._augmentation import checked_augmentation
from sklearn_kd.estimators._base import Seeds, at, unharmed_by_failure
from sklearn_kd.estimators._callback_checks import CALLBACK_KINDS, check_callback_names, listed_callbacks
from sklearn_kd.estimators._learned_nothing import convergence_message, warn_of_convergence, warn_of_scales
from sklearn_kd.estimators._plan import Run
from sklearn_kd.estimators._unused_parameters import beside_strategy, warn_without_effect
from sklearn_kd.inputs._data import SplitData, as_tensor
from sklearn_kd.losses._logits import TEMPERATURE_SCALINGS
from sklearn_kd.meta import Fixed, Setting, Strategy
from sklearn_kd.meta._path import LAMBDA1_BOUNDS, Metaparameters, check_bounds
from sklearn_kd.persistence._save_load import DistilledFiles
from sklearn_kd.runtime._processes import warn_of_ranks
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.teachers._class_alignment import checked_teacher_classes, warn_if_out_of_order
from sklearn_kd.teachers._given_logits import checked_logits
from sklearn_kd.teachers._logit_checks import name_of, naming_rows
from sklearn_kd.training._distillation_net import DistillationNet
from sklearn_kd.training._divergence import check_scale
from sklearn_kd.training._interrupts import end_interrupted
from sklearn_kd.training._optimizers import OPTIMIZER_KINDS, optimizer_class
from sklearn_kd.training._sklearn_callbacks import FitReport
from sklearn_kd.training._stacked import moves
from sklearn_kd.training._trials import Trials, TrialsInterrupted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from skorch.callbacks import Callback
    from torch import Tensor
    from torch.utils.data import Dataset
    from typing_extensions import Self


class DistilledClassifier(DistilledFiles):
    """A small neural network trained on labels and a big model's answers together.

    The student minimises lambda1 · CE(labels) + (1 − lambda1) · s(T) · CE(teacher at T,
    student at T). The two metaparameters, lambda1 and the temperature T, are learned
    while it trains, by the hypergradient of the loss on held-out rows, and predicted along
    a line in between (``meta="linear"``) [1]_; or they are fixed, as usual.

    Parameters
    ----------
    teacher : estimator, nn.Module, skorch net or None
        One of: a scikit-learn classifier with ``predict_proba``, of which a clone is fitted
        on D_train, the rows that the student trains on; a fitted one inside
        :class:`sklearn.frozen.FrozenEstimator`; a trained ``nn.Module`` that returns
        logits; a fitted skorch net; an object of a class that
        :func:`~sklearn_kd.teachers.register_teacher` was given. None where ``fit`` is given
        ``teacher_logits``, or with ``meta="none"``. Clones share a teacher that comes trained.
    student : nn.Module class or instance, or function that returns a module
        Maps float32 inputs to one logit per class, no softmax. A class or a function is called with
        the ``student__*`` parameters and, where its signature has them, ``in_features``,
        ``in_channels``, ``input_shape`` and ``n_classes``, or ``num_classes`` and other usual names
        of these. An instance is copied, and made float32 where its weights are of another type and
        it cannot take float32.
    meta : str or Strategy, default="linear"
        How the metaparameters are chosen:

        - ``"linear"``: e1 gradient iterations, then e2 predicted by a line, and so on;
        - ``"gradient"``: a hypergradient in every iteration;
        - ``"fixed"``: ``lambda1`` and ``temperature`` as given;
        - ``"naive"``: (0.5, 1); ``"random"``: a random draw; ``"none"``: labels alone;
        - ``"hyperopt"``: the best of 5 trials of the tree-structured Parzen estimator;

        or an object from :mod:`sklearn_kd.meta`, whose parameters are ``meta__*``. Those
        that learn from held-out rows ("linear", "gradient", "hyperopt") train on D_train,
        the others on all rows, as in the paper.
    e1, e2 : int, default=10
        Gradient and predicted iterations per cycle of ``meta="linear"``.
    lambda1 : float or "random", default=0.5
        Weight of the labels, in [0, 1]: where it starts, or stays (``meta="fixed"``).
        "random" draws the start from U(0, 1).
    temperature : float or "random", default=1.0
        T: where it starts, or stays. "random" draws log T uniformly within the bounds.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        T is kept between them. The paper's are (0.1, 10), whose lower end is unstable
        without ``temperature_scaling="hinton"``.
    temperature_scaling : {"hinton", "none"}, default="hinton"
        s(T): T², which keeps the soft gradients' size as T grows [2]_, or 1, as in [1]_.
    meta_coordinates : {"log", "raw"}, default="log"
        Whether (lambda1, log T) is learned, or (lambda1, T), as in [1]_.
    meta_lr : float, default=1.0
        Learning rate of the metaparameters.
    meta_clip : float or None, default=None
        No component of their hypergradient is larger than this. [1]_ has 0.01.
    meta_optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Takes their steps; ``meta_optimizer__*`` are its further arguments.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss CE(softmax(z / T_val), y). "auto" keeps it at its
        optimum on D_val, refitted after every epoch, so that calibration is not rewarded.
    hypergradient : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
        How the hypergradient is computed: with one more forward pass, with two, by
        forward-mode differentiation, or by two vector-Jacobian products. The latter two are
        exact. Where forward mode does not exist, as for LSTMs and attention kernels,
        "central_difference" takes the place of "jvp", with a warning.
    hypergradient_rows : int or None, default=None
        Rows of each training batch that the directional derivative is taken on; None: all.
        Fewer are faster and noisier. Not for students whose rows see each other while they
        train, as with batch normalisation.
    teacher_classes : array-like of shape (n_columns,) or None, default=None
        The class of each column of a network's answers, or of ``teacher_logits``, where they do not say
        so themselves (by ``classes_``, or the columns of a DataFrame). None: the labels must be exactly
        0 … K−1, and column j is class j. There may be more classes than y has.
    optimizer : class of torch.optim.Optimizer or its name, default=torch.optim.SGD
        Trains the student ("adam", "AdamW", ...); ``optimizer__*`` are its further arguments. The
        hypergradient follows SGD (momentum and Nesterov too), Adam and AdamW exactly; others are
        treated as plain SGD, with a warning.
    lr : float, default=0.1
        Learning rate of the student.
    max_epochs : int, default=200
        Passes over D_train.
    batch_size : int, default=128
        Rows per batch, of D_train and of D_val. ``iterator_train__*`` and
        ``iterator_valid__*`` take ``batch_size``, ``shuffle`` and ``drop_last`` apart, and
        where X is a Dataset also the DataLoader's ``num_workers``, ``collate_fn``,
        ``pin_memory`` and so on. A Dataset is predicted for as ``iterator_valid__*`` say.
    validation_fraction : float, default=0.1
        Share of the rows held out as D_val, stratified, by the strategies that learn from
        it when ``fit`` is not given ``X_val``.
    augment : callable or None, default=None
        Maps a training batch of inputs, a float32 tensor on the device, to an augmented one of
        as many rows; labels stay. A network teacher is then asked about each augmented batch;
        other teachers and ``teacher_logits`` cannot be used with it. D_val and prediction are
        not augmented. Draws from torch's, NumPy's and Python's generators repeat with ``random_state``.
    callbacks : list of skorch callbacks, one alone, or None, default=None
        ``callbacks__NAME__*`` set their parameters.
    warm_start : bool, default=False
        Start from the student of the last ``fit``, and from its metaparameters where they
        are learned; the path goes on.
    keep_teacher : bool, default=True
        Whether the fitted estimator keeps the teacher. False: ``teacher_`` is None, and
        pickles and copies of the fitted estimator hold no trained teacher: ``teacher`` is an
        unfitted clone in them, or None where it was given trained. They predict; to be
        fitted again they need ``set_params(teacher=...)`` in the latter case. The estimator
        itself, and its clones, can be fitted again as they are.
    checkpoint_dir : str, path-like or None, default=None
        A folder in which ``fit`` keeps a checkpoint after each epoch, so that after a crash the same
        ``fit`` goes on from the last one; made if it is missing. Fits on other data or with other
        parameters may share it. When ``fit`` returns its checkpoints are removed, but for Ctrl-C.
    device : str, torch.device or int, default="auto"
        "auto": CUDA, then MPS, then the CPU. A number is that of a CUDA device.
    compile : bool, default=False
        ``torch.compile`` the student's forward pass.
    autocast : bool, default=False
        The student's ordinary passes in bfloat16. Iterations with a hypergradient, D_val's
        part in them, and predictions stay in float32.
    cuda_graph : bool, default=False
        Launch each training iteration as one CUDA graph, for students so small that the GPU
        waits for its operations to be launched. Adam and AdamW need
        ``optimizer__capturable=True`` for it. Where it cannot be done, such as on a CPU or with
        dropout, the fit goes on as usual and the logger "sklearn_kd" says why, at level INFO.
    verbose : int, default=0
        1 prints skorch's table of epochs.
    random_state : int, RandomState or None, default=None
        Split, initialisation, batches, draws, and the seeds that the teacher leaves open.
        The global generators are left as they were; None draws from NumPy's.
    **routed
        ``student__*``, ``optimizer__*``, ``meta_optimizer__*``, ``iterator_train__*``,
        ``iterator_valid__*``, ``callbacks__*``.

    Attributes
    ----------
    metaparameter_path_ : structured array of shape (`n_iter_`,)
        One row per training iteration, as things stood after it: ``iteration``,
        ``lambda1``, ``temperature``, ``val_loss`` (NaN where it was not computed) and
        ``predicted`` (by the line). ``pandas.DataFrame(path)`` works.
    lambda1_, temperature_ : float
        The metaparameters at the end: the last row of the path.
    val_temperature_ : float
        T_val at the end.
    student_ : nn.Module
        The trained student, plain.
    teacher_ : object
        The fitted teacher; None where ``teacher_logits`` were given or it was not
        needed, and with ``keep_teacher=False``.
    strategy_ : Strategy
        The strategy that ran.
    trials_ : structured array
        What ``meta="hyperopt"``, or :class:`~sklearn_kd.meta.Random` of several trials,
        tried; there only then.
    net_ : skorch.NeuralNetClassifier
        The private net, on tensors and class codes.
    history_ : skorch.history.History
        Of the net: losses, callbacks' scores and metaparameters by epoch.
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the student's outputs.
    n_features_in_ : int
        Size of the second dimension of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, where X has names that are all strings.
    n_iter_ : int
        Training iterations in the path.

    See Also
    --------
    hypergradient : The quantity that is descended, for one step of plain SGD.
    MetaparameterPathDisplay : Draws ``metaparameter_path_``.

    Notes
    -----
    A teacher given prefitted sees what the student sees: inside a Pipeline that is the
    transformed X. Where it was fitted on the raw X, give its answers as ``teacher_logits``.

    With scikit-learn 1.9 or later, ``set_callbacks`` takes its callbacks, such as
    ``sklearn.callback.ProgressBar()``, beside skorch's in ``callbacks``. The sub-tasks of a
    fit are the teacher, where one is to be asked, and each epoch of the student. A callback
    may end the training after any epoch, and predict with the student as it is then. They are
    not passed on to the teacher, and hear nothing of the trials of ``meta="hyperopt"``.

    References
    ----------
    .. [1] Gorpinich, Bakhteev, Strijov. "Metaparameter optimization in knowledge
       distillation", Eq. 3 (hypergradient), Eq. 4 and Algorithm 1 (prediction).
    .. [2] Hinton, Vinyals, Dean. "Distilling the knowledge in a neural network", 2015.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(), MLPStudent, student__hidden=16, max_epochs=40,
    ...     batch_size=32, random_state=0)
    >>> clf.fit(X, y).score(X, y) > 0.9
    True
    >>> clf.metaparameter_path_.shape == (clf.n_iter_,)
    True
    """

    _parameter_constraints = {
        "meta": [str, Strategy],
        "e1": [Interval(Integral, 1, None, closed="left")],
        "e2": [Interval(Integral, 0, None, closed="left")],
        "lambda1": [Interval(Real, 0, 1, closed="both"), StrOptions({"random"})],
        "temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"random"})],
        "temperature_bounds": [tuple, list],
        "temperature_scaling": [StrOptions(set(TEMPERATURE_SCALINGS))],
        "meta_coordinates": [StrOptions({"log", "raw"})],
        "meta_lr": [Interval(Real, 0, None, closed="left")],
        "meta_clip": [Interval(Real, 0, None, closed="neither"), None],
        "meta_optimizer": OPTIMIZER_KINDS,
        "val_temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "hypergradient": [StrOptions(set(METHODS))],
        "hypergradient_rows": [Interval(Integral, 1, None, closed="left"), None],
        "teacher_classes": ["array-like", None],
        "optimizer": OPTIMIZER_KINDS,
        "lr": [Interval(Real, 0, 1e30, closed="both")],  # beyond, a step overflows float32
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "augment": [callable, None],
        "callbacks": CALLBACK_KINDS,
        "warm_start": ["boolean"],
        "keep_teacher": ["boolean"],
        "checkpoint_dir": [str, PathLike, None],
        "device": [str, torch.device, Integral],
        "compile": ["boolean"],
        "autocast": ["boolean"],
        "cuda_graph": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    net_: DistillationNet
    strategy_: Strategy
    metaparameter_path_: np.ndarray
    lambda1_: float
    temperature_: float
    val_temperature_: float
    trials_: np.ndarray

    def __init__(
        self,
        teacher: Any,
        student: nn.Module | Callable[..., nn.Module],
        *,
        meta: str | Strategy = "linear",
        e1: int = 10,
        e2: int = 10,
        lambda1: float | Literal["random"] = 0.5,
        temperature: float | Literal["random"] = 1.0,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
        temperature_scaling: Literal["hinton", "none"] = "hinton",
        meta_coordinates: Literal["log", "raw"] = "log",
        meta_lr: float = 1.0,
        meta_clip: float | None = None,
        meta_optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        val_temperature: float | Literal["auto"] = 1.0,
        hypergradient: Literal[
            "finite_difference", "central_difference", "jvp", "exact"
        ] = "finite_difference",
        hypergradient_rows: int | None = None,
        teacher_classes: ArrayLike | None = None,
        optimizer: type[torch.optim.Optimizer] | str = torch.optim.SGD,
        lr: float = 0.1,
        max_epochs: int = 200,
        batch_size: int = 128,
        validation_fraction: float = 0.1,
        augment: Callable[[Tensor], Tensor] | None = None,
        callbacks: Sequence[Callback | tuple[str, Callback]] | Callback | None = None,
        warm_start: bool = False,
        keep_teacher: bool = True,
        checkpoint_dir: str | PathLike[str] | None = None,
        device: str | torch.device | int = "auto",
        compile: bool = False,
        autocast: bool = False,
        cuda_graph: bool = False,
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
        self.temperature_bounds = temperature_bounds
        self.temperature_scaling = temperature_scaling
        self.meta_coordinates = meta_coordinates
        self.meta_lr = meta_lr
        self.meta_clip = meta_clip
        self.meta_optimizer = meta_optimizer
        self.val_temperature = val_temperature
        self.hypergradient = hypergradient
        self.hypergradient_rows = hypergradient_rows
        self.teacher_classes = teacher_classes
        self.optimizer = optimizer
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.augment = augment
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.keep_teacher = keep_teacher
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.compile = compile
        self.autocast = autocast
        self.cuda_graph = cuda_graph
        self.verbose = verbose
        self.random_state = random_state
        self._keep_routed(routed)

    # ----------------------------------------------------------------------------------
    # Fitting

    @ordinary_torch()
    @unharmed_by_failure
    @with_callbacks
    def fit(
        self,
        X: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        teacher_logits: ArrayLike | None = None,
        X_val: ArrayLike | Dataset | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Train the student, and the metaparameters with it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            Made float32 for the student; a scikit-learn teacher sees it as given.

            A map-style :class:`torch.utils.data.Dataset` is read batch by batch by a DataLoader.
            Its items are ``(x, label)``; where y is given, x or ``(x, anything)``. That its
            numbers are finite is not checked. Random augmentation does not belong into it but
            into ``augment``, since the teacher is asked once about each row. Only networks can be
            teachers then.
        y : array-like of shape (n_samples,), default=None
            Labels: at least two classes. None: a Dataset is read once for its labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Scaled to mean 1. Rows of weight 0 are left out. Passed to the classifiers in
            a scikit-learn teacher that take it; a warning names those that do not.
        teacher_logits : array-like of shape (n_samples, n_classes), default=None
            The teacher's logits for the rows of X, columns in sorted order of the labels, or as
            ``teacher_classes`` say. A DataFrame whose columns are the labels is aligned by them, and by
            its index where X has the same in another order. They take the place of ``teacher``.
        X_val, y_val : array-like, default=None
            D_val, where it is not to be held out of X; a Dataset if X is one, with its labels in
            it or in y_val. Strategies that do not learn from it use it for skorch's
            ``valid_loss`` and ``valid_acc`` alone.

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
        run = self._prepared(X, y, sample_weight, teacher_logits, X_val, y_val)
        try:
            net = run.train(self._ready_net(run))
        except TrialsInterrupted as interrupted:
            net, interrupted.net.interrupted_ = interrupted.net, True
        self._publish(net, run)
        run.report.finish()
        run.checkpoints.end(net.interrupted_)
        end_interrupted(net.interrupted_, len(net.history), self.max_epochs, self.n_iter_)
        return self

    def _prepared(self, X, y, sample_weight, teacher_logits, X_val, y_val) -> Run:
        """Check and prepare all that a training needs; ask the teacher."""
        loaded = self._checked_forms(X, X_val)
        strategy = self._checked_strategy(loaded)
        warn_without_effect(beside_strategy(self, strategy))
        warn_of_ranks()
        named_rows = X if hasattr(X, "index") else y
        X_given, X, codes, weight = self._checked_rows(X, y, sample_weight)
        valid_rows = self._checked_validation_rows(X_val, y_val)
        stated = checked_teacher_classes(self.teacher_classes, self.classes_)
        logits = checked_logits(teacher_logits, len(X), self.classes_, stated=stated, names=named_rows)
        teacher = self._checked_teacher(strategy, logits, loaded, stated)

        given = X, codes, weight, valid_rows
        checkpoints = self._checkpoints(given, logits, Seeds.draw(self.random_state))
        seeds = Seeds(*checkpoints.seeds[0])
        (train, valid), rows = self._split_data(given, strategy, seeds)
        student = self._initial_student(train.samples, seeds)
        self._check_single_rows(student, train.samples, valid)
        check_scale(student, SplitData(train, valid))
        warn_of_scales(train.X, student, getattr(self, "feature_names_in_", None))
        self._check_rows_alone(student, train.samples)
        with naming_rows(rows):
            train.augmentation = checked_augmentation(
                self.augment, teacher, train.samples, student, self.classes_
            )
        # A rehearsal: what only skorch and torch can judge fails here, before the teacher is trained.
        rehearsal = self._make_net(student, Fixed(), 0.5, 1.0, listed_callbacks(self.callbacks))
        if valid is not None:
            rehearsal.get_iterator(valid)
        n_batches = len(rehearsal.get_iterator(train, training=True))
        check_callback_names(rehearsal, self._routed("callbacks"))
        self._check_callbacks(rehearsal, SplitData(train, valid), n_batches)

        asks = teacher is not None and self.augment is None  # else while it trains, or not at all
        report = FitReport(self, X_given, self.classes_[codes], weight, asks + self.max_epochs)
        if asks:
            X_rows = X[rows] if loaded else safe_indexing(X_given, rows)
            known = self.classes_[codes[rows]], at(weight, rows), seeds.teacher
            with report.teacher():
                train.set_teacher_logits(self._cached_answers(teacher, train, rows, X_rows, *known))
        elif logits is not None:
            train.set_teacher_logits(as_tensor(logits[rows]))
        if train.targets.teacher_logits is not None:
            who = "teacher_logits" if logits is not None else name_of(self.teacher)
            warn_if_out_of_order(train.targets, self.classes_, who)
        return Run(SplitData(train, valid), student, strategy, teacher, seeds, report, checkpoints)

    def _ready_net(self, run):
        """Return the net about to be trained, its metaparameters where the strategy starts them."""
        journal = Journal(run.checkpoints)
        trials = Trials(partial(self._trial_net, run), run.data, run.seeds.training, journal)
        rng = np.random.default_rng(run.seeds.strategy)
        lambda1, temperature = self._where_to_start(run.strategy, rng)
        setting = Setting(lambda1, temperature, rng, trials.losses, self.verbose)
        lambda1, temperature = run.strategy.start(setting)
        report_epochs = run.report.epochs(lambda net: self._fitted_attributes(net, run))
        callbacks = [*listed_callbacks(self.callbacks), *report_epochs]
        return self._make_net(run.student, run.strategy, lambda1, temperature, callbacks)

    def _trial_net(self, run, lambda1, temperature):
        """Return the net of a trial, of which only L_val at the end is kept."""
        changes: dict[str, Any] = {"verbose": 0}
        if not self.callbacks and not self._routed("callbacks"):
            changes["callbacks__valid_acc"] = None  # which nobody reads
        callbacks = clone(listed_callbacks(self.callbacks), safe=False)
        return self._make_net(run.student, Fixed(), lambda1, temperature, callbacks, **changes)

    def _make_net(self, student, strategy, lambda1, temperature, callbacks, **changes):
        """Make an initialised net around a copy of ``student``."""
        device = self._device()
        metaparameters = Metaparameters(
            lambda1,
            temperature,
            temperature_bounds=self.temperature_bounds,
            optimizer=optimizer_class(self.meta_optimizer, "meta_optimizer"),
            lr=self.meta_lr,
            coordinates=self.meta_coordinates,
            clip=self.meta_clip,
            device=device,
            **self._routed("meta_optimizer"),
        )
        routed = self._passed_on("optimizer", "iterator_train", "iterator_valid", "callbacks")
        params = {
            "optimizer": optimizer_class(self.optimizer),
            "lr": self.lr,
            "max_epochs": self.max_epochs,
            "batch_size": self.batch_size,
            "compile": self.compile,
            "verbose": self.verbose,
        }
        return DistillationNet(
            copy.deepcopy(student),
            metaparameters=metaparameters,
            strategy=strategy,
            temperature_scaling=self.temperature_scaling,
            val_temperature=self.val_temperature,
            hypergradient=self.hypergradient,
            hypergradient_rows=self.hypergradient_rows,
            autocast=self.autocast,
            cuda_graph=self.cuda_graph,
            callbacks=callbacks,
            labels=self.classes_,
            device=str(device),
            **(params | routed | changes),
        ).initialize()

    # ----------------------------------------------------------------------------------
    # What is fitted

    def _fitted_attributes(self, net, run) -> dict:
        """Return the fitted attributes of a fit that ends with this net."""
        strategy, teacher = run.strategy, run.teacher
        path = net.metaparameters.path()
        if self._continues():
            path["iteration"] += self.n_iter_
            path = np.concatenate([self.metaparameter_path_, path])
        return {
            "net_": net,
            "strategy_": strategy,
            "teacher_": teacher.fitted if teacher is not None and self.keep_teacher else None,
            "metaparameter_path_": path,
            "n_iter_": len(path),
            "lambda1_": float(net.metaparameters.lambda1),
            "temperature_": float(net.metaparameters.temperature),
            "val_temperature_": float(net.val_temperature_),
        } | ({"trials_": strategy.trials_} if hasattr(strategy, "trials_") else {})

    def _publish(self, net, run):
        """Set the fitted attributes."""
        fitted = self._fitted_attributes(net, run)
        self.__dict__.pop("trials_", None)
        self.__dict__.update(fitted)
        net.metaparameters.forget_path()  # or every pickle would hold it twice
        monitor = "valid_loss" if moves(run.strategy) else "train_loss"  # it depends on lambda1, T
        warn_of_convergence(convergence_message(net, run.data.train, self.classes_, monitor))

    # ----------------------------------------------------------------------------------
    # Where the run starts

    def _where_to_start(self, strategy, rng):
        """Return (lambda1, T) as given, as drawn, or where the last fit ended if warm."""
        if self._continues() and strategy.takes_hypergradient(0):
            return self.lambda1_, self.temperature_
        lambda1, temperature = self.lambda1, self.temperature
        if lambda1 == "random":
            lambda1 = rng.uniform(*LAMBDA1_BOUNDS)
        if temperature == "random":
            temperature = math.exp(rng.uniform(*np.log(self.temperature_bounds)))
        return float(lambda1), float(temperature)

    # ----------------------------------------------------------------------------------
    # Checks, all before any training

    def _checked_strategy(self, loaded: bool = False) -> Strategy:
        """The strategy of this fit, after the parameters have been checked."""
        self._validate_params()
        self._check_routed(loaded)
        check_bounds(self.temperature_bounds, self.temperature)
        return self._named_strategy()
