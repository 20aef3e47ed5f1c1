"""Base class of the estimators: copies, device, student, prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from skorch.history import History
from torch import Tensor

from sklearn_kd._sklearn_compat import CallbackSupportMixin, VisualBlock, clone_by_parameters
from sklearn_kd.estimators._html import parts_block
from sklearn_kd.estimators._named_terms import has_terms
from sklearn_kd.estimators._prediction import iter_logits, iter_maps, student_logits
from sklearn_kd.estimators._routed_parameters import RoutedParameters, loader_settings
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.estimators._tiles import checked_tiling
from sklearn_kd.files._compression import CompressedArray
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.losses import LOSSES, DistillationLoss
from sklearn_kd.meta import STRATEGIES, Strategy
from sklearn_kd.persistence._codecs import encode_labels, label_attributes, labels_content
from sklearn_kd.persistence._export import write_student
from sklearn_kd.persistence._save_load import (
    StateFunctions,
    load_estimator,
    restored_net,
    save_estimator,
    skops_content,
)
from sklearn_kd.persistence._skops_form import NetForm
from sklearn_kd.runtime._devices import checked_device
from sklearn_kd.runtime._execution import EXECUTIONS, Execution
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.students._structured import without_structure
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.teachers._registry import (
    carry_registration,
    registrations_of,
    shared_copy,
    without_training,
)
from sklearn_kd.teachers._scattered import fetched
from sklearn_kd.teachers._transformed import with_transform

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch.utils.data import Dataset
    from typing_extensions import Self

    from sklearn_kd.training._net import TrainingNet


class BaseDistiller(CallbackSupportMixin, RoutedParameters):
    """Base class of the estimators, which add ``__init__``, ``fit`` and the methods of their task."""

    teacher: Any
    teacher_transform: Any = None
    meta: str | Strategy
    e1: int
    e2: int
    teacher_classes: Any
    student_preprocessing: Any = None
    class_weight: Any
    checkpoint_dir: Any
    keep_teacher: bool
    execution: str | Execution
    device: Any
    random_state: Any

    net_: TrainingNet
    teacher_: Any
    student_preprocessing_: Any
    n_iter_: int
    n_features_in_: int
    feature_names_in_: np.ndarray
    classes_: np.ndarray
    _sample_shape: tuple[Any, ...]

    _state_functions: StateFunctions  # for save and load
    _task_type: Any = Classification  # what kind of target y is
    _strategies = tuple(STRATEGIES)  # the names that ``meta`` may have
    _losses: Mapping[str, type[DistillationLoss]] = LOSSES  # the names that ``loss`` may have
    _answers = "teacher_logits"  # the argument of fit with a teacher's answers
    _executions = tuple(EXECUTIONS)  # the names that ``execution`` may have
    _codes: Mapping[str, Any] = MappingProxyType({})  # what the student was told of student_preprocessing_
    _takes_parts = True  # False: X is one array, or a Dataset of tensors

    def _fitted_attributes(self, net: Any, plan: Any) -> dict[str, Any]:
        """Return the fitted attributes of a fit that ends with this net."""
        raise NotImplementedError

    @property
    def _task(self) -> Any:
        """Kind of target that y was."""
        return self._task_type.of_fitted(self)

    def _targets_content(self) -> dict[str, Any]:
        """Return what a file stores about the task."""
        return labels_content(self.classes_, *map(vars(self).get, ("label_dtype_", "map_shape_")))

    @classmethod
    def _targets_of_content(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fitted attributes of the task from a file."""
        return label_attributes(about)

    def _continues(self) -> bool:
        """Return whether this fit continues the last one."""
        return False

    def _student_params(self) -> dict[str, Any]:
        """Return ``student__*``, and the columns of codes that the fitted preprocessing makes."""
        return {**self._codes, **self._routed("student")}

    def _device(self) -> torch.device:
        """Return ``device``, where "auto" is CUDA, then MPS, then the CPU."""
        return checked_device(self.device)

    # ----------------------------------------------------------------------------------
    # Copies

    def __sklearn_clone__(self) -> BaseDistiller:
        # Clones share a trained teacher: a copy would cost memory in every fold, and cloning a skorch net
        # would return an unfitted one.
        without_teacher = copy.copy(self)
        without_teacher.teacher = None
        clone = clone_by_parameters(without_teacher)
        clone.teacher = self.teacher if self._uses_trained_teacher() else shared_copy(self.teacher)
        return clone

    def _uses_trained_teacher(self) -> bool:
        """Return whether the teacher, of any kind, must come trained because its features are compared."""
        return self._teacher_is_trained or has_terms(getattr(self, "loss", None))

    def _asked_teacher(self) -> Any:
        """Return the teacher, with ``teacher_transform`` before it if there is one."""
        return with_transform(fetched(self.teacher), self.teacher_transform)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        path = state.get("metaparameter_path_")
        if isinstance(path, np.ndarray):
            state = state | {"metaparameter_path_": CompressedArray(path)}
        # Only if fitted: a search sends unfitted clones, which need the teacher, to its workers.
        if "net_" in state:  # first, so that skops learns what it cannot write before it tries
            form = NetForm(b"", state["net_"], lambda: skops_content(self, self._state_functions))
            state = {"net_": form} | {name: value for name, value in state.items() if name != "net_"}
        if not self.keep_teacher and hasattr(self, "net_"):
            teacher = None if self._teacher_is_trained else without_training(self.teacher)
            return state | {"teacher": teacher}
        registrations = [] if hasattr(self, "net_") else registrations_of(self.teacher)
        return state | {"_registrations": registrations} if registrations else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for registration in state.pop("_registrations", ()):  # this may be another process
            carry_registration(*registration)
        path = state.get("metaparameter_path_")
        if isinstance(path, CompressedArray):
            state = state | {"metaparameter_path_": path.array()}
        form = state.get("net_")
        if isinstance(form, NetForm):
            state = state | {"net_": form.net}
        super().__setstate__(state)
        if isinstance(form, NetForm) and form.net is None:  # of skops
            self.net_ = restored_net(self, form.data, self._state_functions)

    def _sk_visual_block_(self) -> VisualBlock:
        # A fitted part shows more than the parameter that it was made from.
        fitted = getattr(self, "teacher_", None)
        student = self.student_ if hasattr(self, "net_") else self.student
        return parts_block(self.teacher if fitted is None else fitted, student, self._routed("student"))

    # ----------------------------------------------------------------------------------
    # Fitted attributes and prediction

    @property
    def student_(self) -> torch.nn.Module:
        """The trained student."""
        check_is_fitted(self, "net_")
        return without_structure(self.net_.module_)

    @property
    def history_(self) -> History:
        """skorch's history of the net."""
        check_is_fitted(self, "net_")
        return self.net_.history

    @property
    def loss_curve_(self) -> list[float]:
        """Training loss of each epoch, as in scikit-learn's ``MLPClassifier``."""
        return self._by_epoch("train_loss")

    @property
    def validation_scores_(self) -> list[float] | None:
        """Accuracy on D_val after each epoch, each row counted once; None without D_val."""
        return self._by_epoch("valid_acc") or None

    def _by_epoch(self, name: str) -> list[float]:
        """Return a column of the history, skipping epochs without it."""
        return [row[name] for row in self.history_ if name in row]

    def save(self, path: str | PathLike[str], *, history: bool = True) -> None:
        """Write the fitted estimator to a file of tensors and JSON, which holds no code.

        The file holds the student's weights, the labels, the names of the features, the path, the history
        and the parameters, and the state of a fitted :class:`TablePreprocessing`. It does not hold another
        transformer given as ``student_preprocessing`` (a warning says that ``load`` needs the fitted one),
        the teacher, the optimizer's state, parameters that are objects or functions, such as ``augment`` and
        ``callbacks``, or parameters that belong to the machine: ``checkpoint_dir``, ``parallel`` and
        ``num_workers``. A warning names the parameters that were set and are not saved.

        The new file is loaded as a check before it replaces an older one.

        Parameters
        ----------
        path : str or path-like
            Must end in ``.safetensors``. An existing file is replaced atomically.
        history : bool, default=True
            Whether the file holds the records of the training, compressed. False: ``history_`` and
            ``metaparameter_path_`` are empty in the loaded estimator, and a DistilledClassifier has no
            ``process_``; the file of a small student is then about as large as its weights.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        ValueError
            If the path has another suffix, ``history`` is neither True nor False, or the file could not be
            loaded again, for example because ``student`` has been changed since the fit.
        TypeError
            If the labels cannot be written as JSON, such as dates, or a part of the student's state is not
            a tensor.
        OSError
            If the file cannot be written. An older file is kept.
        ImportError
            If safetensors is not installed; ``pip install sklearn-kd[export]`` installs it.

        See Also
        --------
        export_student : Writes the student alone, for other programs.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_kd import DistilledClassifier, MLPStudent
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=5, device="cpu").fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(f"{folder}/iris.safetensors")
        ...     again = DistilledClassifier.load(f"{folder}/iris.safetensors")
        >>> bool((again.predict_proba(X) == clf.predict_proba(X)).all())
        True
        """
        save_estimator(self, path, self._state_functions, history=history)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        student: torch.nn.Module | Callable[..., torch.nn.Module] | None = None,
        **params: Any,
    ) -> Self:
        """Load an estimator from a file that :meth:`save` wrote, without running or importing code from it.

        The loaded estimator predicts as the saved one did, bit for bit on the same device with the same
        versions. It has no teacher: ``teacher_`` is None. To fit it again, or to continue with
        ``warm_start=True``, pass one as ``teacher``. ``checkpoint_dir``, ``parallel``, ``num_workers`` and
        ``n_jobs`` are never taken from a file, so that no file decides where a later fit writes or how many
        processes it starts.

        Parameters
        ----------
        path : str or path-like
            A file that :meth:`save` wrote.
        student : nn.Module class or instance, function, or None, default=None
            None: the class of this library that the file names. Give any other student as you gave it to
            the constructor: a class or a function is called with the ``student__*`` in the file, an
            instance is copied. The weights come from the file.
        **params
            Parameters that replace those in the file, such as ``device="cpu"``, and those that the file
            does not hold: ``teacher``, ``augment``, ``callbacks``. Give a ``student_preprocessing`` that is
            not in the file fitted.

        Returns
        -------
        estimator
            A fitted instance of this class.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is of another kind, is damaged, has a later format or holds another estimator, or
            if the student is missing or does not fit the weights. The message says what was found.
        TypeError
            If a parameter is unknown, or ``student`` is not of a kind that can be a student.
        ImportError
            If safetensors is not installed; ``pip install sklearn-kd[export]`` installs it.

        See Also
        --------
        save : Writes the file, with an example.
        """
        return load_estimator(cls, path, cls._state_functions, student=student, params=params)

    @ordinary_torch()
    def export_student(self, path: str | PathLike[str]) -> None:
        """Write the student alone to a file, in the format that the suffix names.

        ``.safetensors`` holds the weights: ``safetensors.torch.load_model(module, path)`` loads them into a
        fresh module of the same architecture; for a table, wrap the module in a
        :class:`StandardizedStudent` as in the example. ``.onnx`` holds the whole network, for ONNX Runtime
        and the like: input ``X``, float32 of shape (n_samples, ...) with any number of rows, output
        ``logits`` of shape (n_samples, n_classes).

        If the estimator has a ``student_preprocessing_``, both take its output as their input.

        Both return logits. The labels are ``classes_[logits.argmax(1)]``, and the probabilities are the
        softmax of the logits. The file's metadata holds, as JSON, ``classes``, ``input_shape`` (the shape of
        a sample) and ``sklearn_kd_version``; for maps also ``map_shape``, their height and width. Logits of
        maps have shape (n_samples, n_classes, height, width).

        Parameters
        ----------
        path : str or path-like
            Must end in ``.safetensors`` or ``.onnx``. An existing file is replaced.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        ValueError
            If the path has another suffix.
        ImportError
            If a package is missing; ``pip install sklearn-kd[export]`` installs all of them.
        TypeError
            If the labels cannot be written as JSON, such as dates.

        See Also
        --------
        sklearn_kd.export_student : A function that writes a whole Pipeline, with labels and probabilities.

        Notes
        -----
        Unlike a pickle, neither file can run code when it is read.

        Examples
        --------
        >>> import json, tempfile
        >>> import numpy as np, torch
        >>> from safetensors import safe_open
        >>> from safetensors.torch import load_model
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_kd import DistilledClassifier, MLPStudent, StandardizedStudent
        >>> X, y = load_iris(return_X_y=True, as_frame=True)
        >>> names = np.array(["setosa", "versicolor", "virginica"])
        >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=5, device="cpu")
        >>> clf = clf.fit(X, names[y])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.export_student(f"{folder}/iris.safetensors")
        ...     student = StandardizedStudent(MLPStudent(in_features=4, n_classes=3), n_features=4).eval()
        ...     _ = load_model(student, f"{folder}/iris.safetensors")
        ...     with safe_open(f"{folder}/iris.safetensors", framework="pt") as file:
        ...         classes = np.array(json.loads(file.metadata()["classes"]))
        >>> logits = student(torch.tensor(X.to_numpy(), dtype=torch.float32))
        >>> bool((classes[logits.argmax(1)] == clf.predict(X)).all())
        True
        """
        check_is_fitted(self, "net_")
        about = {"classes": encode_labels(self.classes_)["values"]}
        about |= {"map_shape": list(self._task.map_shape)} if self._task.map_shape else {}
        write_student(self.student_, path, about, self._sample_shape)

    def _require_fit(self) -> None:
        if "net_" not in self.__dict__:  # check_is_fitted alone takes as long as a small student
            check_is_fitted(self, "net_")

    def _logits(self, X: Any) -> Tensor:
        """Return the student's logits of all rows, on the CPU."""
        self._require_fit()
        return student_logits(self, X)

    @ordinary_torch()
    def predict(
        self,
        X: ArrayLike | Dataset,
        tile: int | tuple[int, int] | None = None,
        overlap: int | tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Predict the label of the largest logit; with several labels, those with a probability above 1/2.

        Where y had maps, images may have any height and width; the predicted maps keep the ratio to the
        images that the maps in ``fit`` had.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            Rows in the form that ``fit`` was given.
        tile : int, tuple of (height, width) or None, default=None
            Size in pixels of the tiles into which larger images are cut, where y had maps. None: whole
            images.
        overlap : int, tuple of (height, width) or None, default=None
            Pixels that neighbouring tiles share. The logits there are the tiles' mean, weighted by the
            distance to the border of each tile. None: a quarter of the tile.

        Returns
        -------
        ndarray of shape (n_samples,), (n_samples, k) for several labels, or (n_samples, height, width)

        Raises
        ------
        ValueError
            If X has another form than in ``fit``, or ``tile`` is given and y had no maps.
        """
        self._require_fit()
        task, tiling = self._task, checked_tiling(self, tile, overlap)
        if task.map_shape:
            return np.concatenate([task.predictions(maps) for maps in iter_maps(self, X, tiling)])
        return task.predictions(self._logits(X))

    @ordinary_torch()
    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        """Score the predictions for X; if y is None, read the targets from X, a Dataset."""
        y, sample_weight = from_torch(y, "y"), from_torch(sample_weight, "sample_weight")
        if y is None and not is_dataset(X):
            raise ValueError("score needs y, unless X is a Dataset of pairs (x, target). Give y.")
        if y is not None:
            return self._task.score(y, self.predict(X), sample_weight)
        check_is_fitted(self, "net_")
        task, loader = self._task, loader_settings(self, "iterator_valid")
        answers = [
            (task.predictions(logits), np.asarray(from_torch(labels, "The labels in X")))
            for logits, labels in iter_logits(self, X, loader, labeled=True)  # read once for both
        ]
        predicted, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return task.score(labels, predicted, sample_weight)


class ClassifierMethods(ClassifierMixin):
    """Methods of classifiers, a mixin to list before the base class."""

    _logits: Any
    _task: Any
    _score: Any

    @ordinary_torch()
    def decision_function(self, X: ArrayLike | Dataset) -> np.ndarray:
        """Return the student's logits, in the shape that scikit-learn's classifiers return.

        The largest logit (with two classes, the sign) agrees with :meth:`predict`, except where float32
        rounds the difference away in the probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            As in :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,), float32
            For maps, of shape (n_samples, n_classes, height, width) or (n_samples, height, width). Columns
            are in the order of ``classes_``. With two classes, the logit of ``classes_[1]`` minus that of
            ``classes_[0]``, which is the log odds of ``classes_[1]``. With several labels, a column of log
            odds for each label, also if there are two.

        Examples
        --------
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.metrics import roc_auc_score
        >>> from sklearn_kd import DistilledClassifier, MLPStudent
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> clf = DistilledClassifier(
        ...     None, MLPStudent, meta="none", max_epochs=10, random_state=0, device="cpu").fit(X, y)
        >>> decision = clf.decision_function(X)
        >>> decision.shape
        (569,)
        >>> bool(((decision > 0) == (clf.predict(X) == 1)).all())
        True
        >>> roc_auc_score(y, decision) > 0.98
        True
        """
        logits = self._logits(X).numpy()
        if logits.shape[1] != 2 or has_several_labels(self._task):
            return logits
        return logits[:, 1] - logits[:, 0]

    @ordinary_torch()
    def predict_proba(self, X: ArrayLike | Dataset) -> np.ndarray:
        """Predict class probabilities: the softmax of the student's logits at temperature 1.

        With several labels, each has its own probability, the sigmoid of its logit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            A Dataset's items are x or ``(x, anything)``; it is read with the settings ``iterator_valid__*``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns are in the order of ``classes_``. For maps, shape (n_samples, n_classes, height, width).
        """
        logits = self._logits(X)
        return self._task.probabilities(logits).numpy()

    @ordinary_torch()
    def predict_log_proba(self, X: ArrayLike | Dataset) -> np.ndarray:
        """Predict log probabilities, which stay finite where a probability rounds to zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            As in :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns are in the order of ``classes_``. For maps, shape (n_samples, n_classes, height, width).
        """
        logits = self._logits(X)
        return self._task.log_probabilities(logits).numpy()

    def score(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the accuracy; with several labels, the share of rows with all right; for maps, the mIoU.

        The mIoU is the intersection over union over the known pixels of all images, averaged over the
        classes that occur in y or in the predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
        y : array-like of shape (n_samples,), (n_samples, k) or (n_samples, height, width), default=None
            Labels. None: those of a Dataset with items ``(x, label)``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. None: all rows count alike.

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)
