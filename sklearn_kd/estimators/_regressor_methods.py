"""Methods shared by the regressors: prediction in the units of y, score, export, and the targets in files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.estimators._classifier_net import loss_of
from sklearn_kd.estimators._predicted_numbers import predicted_numbers
from sklearn_kd.estimators._regressor_targets import target_attributes, targets_content, write_regressor
from sklearn_kd.losses import REGRESSION_LOSSES, DistillationLoss
from sklearn_kd.losses._named import OWN_REGRESSION_LOSS
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.tasks._number_kinds import Numbers, fitted_numbers
from sklearn_kd.tasks._regression import Regression

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch.utils.data import Dataset


class RegressorMethods(RegressorMixin):
    """Methods of regressors, a mixin to list before the base class."""

    _losses: Mapping[str, type[DistillationLoss]] = REGRESSION_LOSSES
    _answers = "teacher_predictions"
    _own_loss = OWN_REGRESSION_LOSS

    target_mean_: np.ndarray
    target_scale_: np.ndarray
    n_outputs_: int
    student_: Any
    _sample_shape: tuple[Any, ...]
    _by_epoch: Any
    _continues: Any
    _logits: Any
    _score: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def _task_type(self) -> Numbers:
        """The maker of a fit's task from y."""
        return Numbers(loss_of(self).criterion(), self._task if self._continues() else None)

    @property
    def _task(self) -> Regression:
        """Kind of target that y was."""
        return fitted_numbers(self)

    def _targets_content(self) -> dict[str, Any]:
        return targets_content(self._task)

    @classmethod
    def _targets_of_content(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        return target_attributes(about)

    @property
    def validation_scores_(self) -> list[float] | None:
        """R² on D_val after each epoch, each row counted once; None without D_val."""
        return self._by_epoch("valid_r2") or None

    @ordinary_torch()
    def export_student(self, path: str | PathLike[str]) -> None:
        """Write the student alone to a file, in the format that the suffix names.

        ``.onnx`` holds the whole network: input ``X``, float32 of shape (n_samples, ...) with any number of
        rows; output ``predictions``, float64 of shape (n_samples, n_outputs), or (n_samples, H, W) for maps,
        in the units of y; with ``loss="gaussian_nll"``, the means. ``.safetensors`` holds the weights of the
        student, whose outputs are standardised. To undo that, both files have ``target_mean`` and
        ``target_scale`` in their metadata, as JSON.

        If the estimator has a ``student_preprocessing_``, both take its output as their input.

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

        Examples
        --------
        >>> import json, tempfile
        >>> from safetensors import safe_open
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_kd import DistilledRegressor, MLPStudent
        >>> X, y = load_diabetes(return_X_y=True)
        >>> reg = DistilledRegressor(None, MLPStudent, meta="none", max_epochs=2).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     reg.export_student(f"{folder}/diabetes.safetensors")
        ...     with safe_open(f"{folder}/diabetes.safetensors", framework="pt") as file:
        ...         mean = json.loads(file.metadata()["target_mean"])
        >>> round(mean[0]) == round(y.mean())
        True
        """
        check_is_fitted(self, "net_")
        write_regressor(self.student_, path, self._task, self._sample_shape)

    # ----------------------------------------------------------------------------------
    # Prediction

    @ordinary_torch()
    def predict(
        self,
        X: ArrayLike | Dataset,
        return_std: bool = False,
        tile: int | tuple[int, int] | None = None,
        overlap: int | tuple[int, int] | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predict the targets, in the units of y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            Rows in the form that ``fit`` was given.
        return_std : bool, default=False
            Whether to return the standard deviation of each target too, which ``loss="gaussian_nll"`` learns.
        tile, overlap : int, tuple of (height, width) or None, default=None
            Size and overlap of tiles for large images, as in :meth:`DistilledClassifier.predict`.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,), (n_samples, n_outputs) or (n_samples, H, W), float64
            In the shape of y; the maps of larger images are larger by the same factor.
        y_std : ndarray of the same shape
            Only with ``return_std=True``.

        Raises
        ------
        ValueError
            If ``return_std=True`` and the loss has no variance, rows of X are so large that the outputs
            overflow, or ``tile`` is given and y had no maps.

        Examples
        --------
        Noise that grows with x:

        >>> import numpy as np
        >>> from sklearn_kd import DistilledRegressor, MLPStudent
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(0, 1, size=(1000, 1))
        >>> y = X[:, 0] + X[:, 0] * rng.normal(size=1000)
        >>> reg = DistilledRegressor(
        ...     None, MLPStudent, meta="none", loss="gaussian_nll", random_state=0).fit(X, y)
        >>> _, std = reg.predict([[0.1], [0.9]], return_std=True)
        >>> bool(std[0] < std[1] / 2)
        True
        """
        return predicted_numbers(self, X, return_std, tile, overlap)

    def score(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return R²: with several targets, the mean of R² over them; for maps, R² over all pixels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
        y : array-like of shape (n_samples,), (n_samples, n_outputs) or (n_samples, H, W), default=None
            Targets; pixels with NaN are left out. None: those of a Dataset of ``(x, target)``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. None: all rows count alike.

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)
