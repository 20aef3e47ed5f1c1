"""Adapters of trained objects with ``predict_proba`` or ``decision_function``, or that can be called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._class_alignment import align_columns
from sklearn_kd.teachers._known_classes import named_classes, named_columns, names_by_column
from sklearn_kd.teachers._logit_checks import checked_probabilities, log_probabilities, thawed
from sklearn_kd.teachers._margins import margins_of, refuse_pairwise_margins
from sklearn_kd.teachers._registry import tell_by_abilities


@tell_by_abilities
class TrainedObjectTeacher(TeacherAdapter):
    """Adapter of an object with ``predict_proba`` or ``decision_function``, frozen or without ``fit``."""

    gives_numbers = False

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        is_frozen = isinstance(teacher, FrozenEstimator)
        if isinstance(teacher, type) or (hasattr(teacher, "fit") and not is_frozen):
            return False
        methods = ("predict_proba", "decision_function")
        return any(callable(getattr(thawed(teacher), name, None)) for name in methods)

    def check(self) -> None:
        if not hasattr(self.teacher, "predict_proba"):
            refuse_pairwise_margins(self.teacher)

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        if hasattr(self.teacher, "predict_proba"):
            probabilities, columns = self._probabilities(X, len(data), classes)
            logits = log_probabilities(probabilities, self._floor)
        else:
            logits, known = margins_of(self.teacher, X, len(data), self._known(classes))
            columns = self._columns(logits, known, classes)
        yield torch.as_tensor(logits[:, columns]).to(data.device)

    def probabilities(self, X: Any, n_samples: int, classes: np.ndarray) -> np.ndarray:
        """Return the answers of ``predict_proba``, with columns in the order of ``classes``."""
        probabilities, columns = self._probabilities(X, n_samples, classes)
        return probabilities[:, columns]

    def _known(self, classes: np.ndarray) -> Any:
        own = named_classes(self.teacher, self.teacher_classes, classes)
        return self.teacher_classes if own is None else own

    def _columns(self, values: np.ndarray, known: Any, classes: np.ndarray) -> np.ndarray:
        return align_columns(
            values.shape[1], own=known, stated=self.teacher_classes, classes=classes, who=self.name
        )

    def _probabilities(self, X: Any, n_samples: int, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the answers of ``predict_proba``, and the column of each class."""
        found = self.teacher.predict_proba(X)
        probabilities = checked_probabilities(from_torch(found, "predict_proba"), self.name)
        if len(probabilities) != n_samples:
            raise ValueError(
                f"{self.name}: predict_proba must return one row for each row of X, shape ({n_samples}, "
                f"n_classes); it returned shape {probabilities.shape}."
            )
        probabilities, known = named_columns(found, probabilities, self._known(classes), self.name)
        return probabilities, self._columns(probabilities, known, classes)


@tell_by_abilities
class TextPipelineTeacher(TeacherAdapter):
    """Adapter of a text-classification pipeline of transformers, which answers with names and scores."""

    gives_numbers = False

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        is_pipeline = callable(teacher) and not isinstance(teacher, type) and hasattr(teacher, "task")
        return is_pipeline and names_by_column(teacher) is not None

    def check(self) -> None:
        if self.teacher.task not in ("text-classification", "sentiment-analysis"):
            raise ValueError(
                f"{self.name} is a pipeline for the task {self.teacher.task!r}. Give a pipeline for "
                "'text-classification', or the pipeline's model, a network that returns logits."
            )

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        names: Any = names_by_column(self.teacher)
        scores = [self._scores(text, names) for text in self._answers(X)]
        own = named_classes(self.teacher, self.teacher_classes, classes)
        columns = align_columns(
            len(names), own=own, stated=self.teacher_classes, classes=classes, who=self.name
        )
        logits = log_probabilities(checked_probabilities(np.array(scores), self.name), self._floor)
        yield torch.as_tensor(logits[:, columns]).to(data.device)

    def _answers(self, X: Any) -> Any:
        texts = np.asarray(X).reshape(len(X), -1)
        if texts.shape[1] != 1 or not all(isinstance(text, str) for text in texts[:, 0].tolist()):
            raise ValueError(
                f"{self.name} reads texts, but X does not have one text per row: its shape is {np.shape(X)}. "
                "Give fit an X with one text per row."
            )
        return self.teacher(texts[:, 0].tolist(), top_k=None)

    @staticmethod
    def _scores(answer: Any, names: list[Any]) -> list[float]:
        by_name = {found["label"]: found["score"] for found in answer}
        return [by_name[name] for name in names]
