"""Teachers that are refused, by what the page on failures calls them."""

from types import SimpleNamespace

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sklearn_kd.teachers import FunctionTeacher, OnnxTeacher, TeacherEnsemble


class Uncloneable:
    def fit(self, X, y): ...

    def predict_proba(self, X): ...


class Evaluated(ClassifierMixin, BaseEstimator):
    """Takes an eval_set, and labels 0 … K−1 alone, as XGBoost does."""

    def fit(self, X, y, eval_set=None):
        if np.asarray(y).dtype.kind not in "iu":
            raise ValueError("codes")

    def predict_proba(self, X): ...


class Booster(Evaluated):
    """Stops early, as the module says that it is XGBoost's."""

    def __init__(self, early_stopping_rounds=5):
        self.early_stopping_rounds = early_stopping_rounds


Booster.__module__ = "xgboost.sklearn"


class Pipe:
    def __init__(self, task):
        self.task, self.model = (
            task,
            SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate("0123456789")))),
        )

    def __call__(self, texts, top_k): ...


def short(X):
    return np.zeros((len(X) - 1, 10))


# By name, as f(X, y) -> the parameters of the estimator and the arguments of fit.
UNUSABLE_TEACHERS = {
    "margins of pairs of classes": lambda X, y: ({"teacher": SVC(decision_function_shape="ovo")}, {}),
    "margins of another shape": lambda X, y: ({"teacher": SimpleNamespace(decision_function=short)}, {}),
    "a trained object that predicts other rows": lambda X, y: (
        {"teacher": SimpleNamespace(predict_proba=lambda X: short(X) + 0.1)},
        {},
    ),
    "an object with a fit that cannot be cloned": lambda X, y: ({"teacher": Uncloneable()}, {}),
    "a function that returns no logits": lambda X, y: ({"teacher": len}, {}),
    "a FunctionTeacher of something else": lambda X, y: ({"teacher": FunctionTeacher(3)}, {}),
    "a FunctionTeacher with an unknown takes": lambda X, y: (
        {"teacher": FunctionTeacher(len, takes="list")},
        {},
    ),
    "a pipeline of transformers of another task": lambda X, y: ({"teacher": Pipe("fill-mask")}, {}),
    "a pipeline of transformers without texts": lambda X, y: ({"teacher": Pipe("text-classification")}, {}),
    "an ensemble without teachers": lambda X, y: ({"teacher": TeacherEnsemble([])}, {}),
    "an ensemble with wrong weights": lambda X, y: ({"teacher": TeacherEnsemble([len], [0])}, {}),
    "a file that is missing": lambda X, y: ({"teacher": "missing.onnx"}, {}),
    "an OnnxTeacher of something else": lambda X, y: ({"teacher": OnnxTeacher(3)}, {}),
    "a fit parameter that the teacher does not take": lambda X, y: (
        {"teacher": GaussianNB(), "teacher__fit__eval_set": []},
        {},
    ),
    "a fit parameter that is passed on anyway": lambda X, y: (
        {"teacher": GaussianNB(), "teacher__fit__sample_weight": y},
        {},
    ),
    "a fit parameter of a trained teacher": lambda X, y: (
        {"teacher": FrozenEstimator(GaussianNB().fit(X, y)), "teacher__fit__eval_set": []},
        {},
    ),
    "a fit parameter of a list of teachers": lambda X, y: (
        {"teacher": [Evaluated()], "teacher__fit__eval_set": []},
        {},
    ),
    "a fit parameter for a step": lambda X, y: (
        {"teacher": make_pipeline(Evaluated()), "teacher__fit__eval_set": []},
        {},
    ),
    "a booster with early stopping and no rows for it": lambda X, y: ({"teacher": Booster()}, {}),
    "early-stopping rows with labels that D_train lacks": lambda X, y: (
        {"teacher": Evaluated(), "teacher__fit__eval_set": [(X[:2], ["x", "y"])]},
        {"y": np.array(list("abcdefghij"))[y]},
    ),
    "a teacher_transform without teacher": lambda X, y: (
        {"teacher": None, "teacher_transform": torch.neg},
        {},
    ),
    "a teacher_transform without a network": lambda X, y: (
        {"teacher": FrozenEstimator(GaussianNB().fit(X, y)), "teacher_transform": torch.neg},
        {},
    ),
    "a teacher_transform that fails": lambda X, y: (
        {"teacher": torch.nn.Linear(X.shape[1], 10), "teacher_transform": lambda x: x @ x},
        {},
    ),
    "a teacher_transform that makes no batch": lambda X, y: (
        {"teacher": torch.nn.Linear(X.shape[1], 10), "teacher_transform": torch.mean},
        {},
    ),
}
