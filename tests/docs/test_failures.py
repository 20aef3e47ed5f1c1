"""The page on failures has the messages that are given."""

import json
import pickle
import signal
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

from helpers.layered_networks import UNUSABLE_LAYERS
from helpers.networks import lucky_student
from helpers.own_losses import Decoupled
from helpers.pages import FAILURES, ROOT, messages
from helpers.pixels import images_with_maps
from helpers.refused_losses import REFUSED_LOSSES
from helpers.refused_maps import refused_maps
from helpers.refused_number_maps import refused_number_maps
from helpers.refused_numbers import N_ROWS, refused_numbers
from helpers.unusable_teachers import UNUSABLE_TEACHERS
from helpers.warned_maps import warned_maps
from sklearn_kd import (
    DistilledClassifier,
    DistProClassifier,
    MetaparameterProcess,
    MLPStudent,
    Munge,
    TablePreprocessing,
    TabularStudent,
)
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.checkpointing._file import read, write
from sklearn_kd.inputs import _splitting
from sklearn_kd.layers._find import find_layers
from sklearn_kd.losses import LogitDistillation, MultilabelDistillation
from sklearn_kd.meta import Linear, PredictedPath, Random
from sklearn_kd.persistence import _container
from sklearn_kd.persistence._compressed_tensors import compress_tensors
from sklearn_kd.persistence._container import Content, packed, unpacked
from sklearn_kd.teachers import FunctionTeacher, TeacherAdapter, register_teacher
from sklearn_kd.training._stacked import BatchedRun

DIGITS = load_digits()


class WithMask(nn.Linear):
    """A network with a constant that is no buffer, on another device than X."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.mask = torch.ones(in_features, dtype=torch.bool, device="meta")

    def forward(self, x):
        return super().forward(torch.where(self.mask, x, 0.0))


class Fills(Callback):
    """From the fifth batch on: ``n`` batches with NaN, or all weights with a number."""

    def __init__(self, n=0, weights=None):
        self.n, self.weights = n, weights

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training and 5 <= net.metaparameters.iteration < 5 + self.n:
            batch[0].fill_(torch.nan)
        if not training and self.weights is not None:
            with torch.no_grad():
                for w in net.module_.parameters():
                    w.fill_(self.weights)


def broken_student():
    student = nn.Linear(64, 10)
    with torch.no_grad():
        student.bias[0] = torch.nan
    return student


def wrapped():
    """As DistributedDataParallel wraps one, without a group of processes."""
    student = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(student)
    return student


def taking(of_inputs):
    """The parameters of a student of ``of_inputs(x)``."""

    class Takes(MLPStudent):
        def forward(self, x):
            return super().forward(of_inputs(x))

    return {"student": Takes}


def returning(answer):
    """The parameters of a student that returns ``answer(logits, training)``."""

    class Student(nn.Linear):
        def forward(self, x):
            return answer(super().forward(x), self.training)

    return {"student": Student(64, 10)}


def steep_student():
    """Its logits of 1e37 overflow."""
    student = nn.Linear(64, 10)
    with torch.no_grad():
        student.weight *= 1000
    return student


def changed(X, value):
    X = X.astype(object)
    X[3, 4] = value
    return X


def transforming(function):
    """A student_preprocessing of ``function(X)``."""
    return {"student_preprocessing": FunctionTransformer(function)}, {}


def in_column(X, *values):
    """A table with one more column, of some objects in turn, for student_preprocessing="auto"."""
    column = pd.Series([values[j % len(values)] for j in range(len(X))])
    return {"student_preprocessing": "auto"}, {"X": pd.DataFrame(X).add_prefix("p").assign(more=column)}


class Percent(DecisionTreeClassifier):
    def predict_proba(self, X):
        return 100 * super().predict_proba(X)


class Odd(ClassifierMixin, BaseEstimator):
    """A classifier with classes and answers of another kind."""

    def __init__(self, form=np.asarray, classes=tuple(range(10))):
        self.form, self.classes = form, classes

    def fit(self, X, y):
        self.model_ = GaussianNB().fit(X, y)
        if self.classes is not None:
            self.classes_ = np.asarray(self.classes)
        return self

    def predict_proba(self, X):
        return self.form(self.model_.predict_proba(X))


class Mute:
    """A teacher of a registered kind."""


@register_teacher(Mute)
class MuteTeacher(TeacherAdapter):
    def predict_logits(self, X):
        return []


def unlabeled(rows):
    """The arguments of fit for these unlabeled rows."""
    return {"X_unlabeled": rows, "teacher_logits_unlabeled": np.zeros((len(rows), 10))}


def several(y):
    """Ten labels for each row."""
    return np.stack([(y + k) % 3 == 0 for k in range(10)], axis=1).astype(int)


def asked(teacher, **given):
    return {"teacher": teacher}, {"teacher_logits": None} | given


class TwoParts(nn.Linear):
    """Takes the parts a and b."""

    def __init__(self, n_classes):
        super().__init__(64, n_classes)

    def forward(self, a, b):
        return super().forward(a + b)


class Rounding(TwoParts):
    """Looks codes up in one column and multiplies all of them."""

    def forward(self, x):
        return super().forward(x, x[:, :1].long())


class Lookup(nn.Module):
    """Looks codes up in an embedding that is too small."""

    def __init__(self, n_classes):
        super().__init__()
        self.embedding = nn.Embedding(40, n_classes)

    def forward(self, x):
        return self.embedding(x).mean(dim=1)


def in_parts(X, /, **given):
    return {"student": TwoParts}, {"X": {"a": X, "b": X}} | given


# What is done, as f(X, y) -> (parameters, arguments of fit).
def following(bounds=None, **values):
    """A process of these values to follow, by a loss with other bounds of T where they are given."""
    entries = LogitDistillation().metaparameters(10)
    process = MetaparameterProcess(values, {name: entries[name] for name in values})
    return (
        {"process": process} if bounds is None else {"process": process, "loss__temperature_bounds": bounds}
    ), {}


REFUSED = {
    "a process of other metaparameters": lambda X, y: following(temperature=[2.0]),
    "a process beyond the bounds of the loss": lambda X, y: following(
        (1.0, 3.0), lambda1=[0.5], temperature=[4.0]
    ),
    "a file that holds no process of metaparameters": lambda X, y: ({"process": __file__}, {}),
    "``search_epochs=True``": lambda X, y: ({"search_epochs": True}, {}),
    "a process in a file that does not exist": lambda X, y: ({"process": "missing.npz"}, {}),
    "a callback of the retraining that watches D_val": lambda X, y: (
        {"search_epochs": 1, "callbacks": [EarlyStopping()]},
        {},
    ),
    "a loss of other metaparameters beside the shortlist": lambda X, y: (
        {"meta": "shortlist", "loss": Decoupled()},
        {},
    ),
    "a student that needs X as it is": lambda X, y: (taking(torch.log1p), {}),
    "a student that fails on standardised rows": lambda X, y: (
        taking(lambda x: x / torch.bincount(torch.tensor([round(n) for n in x[0].tolist()])).sum()),
        {},
    ),
    "values too large for the student": lambda X, y: (
        {"student": steep_student(), "standardize": False},
        {"X": X * 1e38},
    ),
    "values too large for float32": lambda X, y: ({}, {"X": X.astype(float) * 1e100}),
    "missing values": lambda X, y: ({}, {"X": np.where(X > 0.5, np.nan, X)}),
    "strings in X": lambda X, y: ({}, {"X": changed(X, "many")}),
    "texts as X": lambda X, y: ({}, {"X": [f"text {label}" for label in y]}),
    "parts of different lengths": lambda X, y: in_parts(X, X={"a": X, "b": X[1:]}),
    "strings in a part": lambda X, y: in_parts(X, X={"a": X, "b": ["few"] * len(X)}),
    "a part with rows of differing lengths": lambda X, y: in_parts(X, X={"a": X, "b": [[1], [1, 2]]}),
    "a part with missing values": lambda X, y: in_parts(X, X={"a": X, "b": np.full(len(X), np.nan)}),
    "names of parts that are no strings": lambda X, y: in_parts(X, X={"a": X, 1: X}),
    "a student that cannot take the parts": lambda X, y: in_parts(X, X={"a": X, "c": X}),
    "a part that X_val lacks": lambda X, y: in_parts(X, X_val={"a": X}, y_val=y),
    "a part that X did not have": lambda X, y: in_parts(X, X_val={"a": X, "b": X, "c": X}, y_val=y),
    "a part of another shape": lambda X, y: in_parts(X, X_val={"a": X, "b": X[:, :9]}, y_val=y),
    "a part of another type": lambda X, y: in_parts(
        X, X={"a": X, "b": X.astype(int)}, X_val={"a": X, "b": X}, y_val=y
    ),
    "rows where X has parts": lambda X, y: in_parts(X, X_val=X, y_val=y),
    "codes that float32 rounds": lambda X, y: ({"student": Rounding}, {"X": X.astype(int) + 2**24 + 1}),
    "codes outside an embedding": lambda X, y: (
        {"student": Lookup},
        {"X": 99 * (np.arange(len(X)) == 50)[:, None] * [1, 1]},
    ),
    "floats for an embedding": lambda X, y: ({"student": Lookup}, {}),
    "a wrong column of codes": lambda X, y: (
        {"student": TabularStudent, "student__categorical": {64: 2}},
        {},
    ),
    "complex numbers": lambda X, y: ({}, {"X": X + 1j}),
    "an unknown student_preprocessing": lambda X, y: ({"student_preprocessing": "autos"}, {}),
    "a class as student_preprocessing": lambda X, y: ({"student_preprocessing": StandardScaler}, {}),
    "a student_preprocessing that is no transformer": lambda X, y: (
        {"student_preprocessing": GaussianNB()},
        {},
    ),
    "parts with student_preprocessing": lambda X, y: ({"student_preprocessing": "auto"}, {"X": {"x": X}}),
    "a Dataset with student_preprocessing": lambda X, y: (
        {"student_preprocessing": "auto"},
        {"X": TensorDataset(torch.tensor(X))},
    ),
    "codes other than those of student_preprocessing": lambda X, y: (
        {
            "student": TabularStudent,
            "student__categorical": {0: 3},
            "student_preprocessing": TablePreprocessing(categories="ordinal"),
        },
        {"X": pd.DataFrame({"number": X[:, 20], "word": np.where(y > 4, "a", "b")})},
    ),
    "a student_preprocessing that fails": lambda X, y: transforming(lambda X: X["job"]),
    "a student_preprocessing that loses rows": lambda X, y: transforming(lambda X: X[1:]),
    "a student_preprocessing that loses all columns": lambda X, y: transforming(lambda X: X[:, :0]),
    "a student_preprocessing that leaves missing values": lambda X, y: transforming(lambda X: X * np.nan),
    "a student_preprocessing that leaves words": lambda X, y: transforming(lambda X: X.astype(str)),
    "dates in a column": lambda X, y: in_column(X, pd.Timestamp("2020-01-01")),
    "strings beside numbers in a column": lambda X, y: in_column(X, *[3, "b"]),
    "other objects in a column": lambda X, y: in_column(X, {3}),
    "infinite numbers in a column": lambda X, y: in_column(X, np.inf),
    "no informative column": lambda X, y: ({"student_preprocessing": "auto"}, {"X": 0 * X}),
    "strings in D_val's column of numbers": lambda X, y: (
        {"student_preprocessing": "auto"},
        {"X": X[:, 2:8], "X_val": X[:, 2:8].astype(str), "y_val": y},
    ),
    'a sparse matrix with student_preprocessing="auto"': lambda X, y: (
        {"student_preprocessing": "auto"},
        {"X": sparse.csr_matrix(X)},
    ),
    "D_val of other columns": lambda X, y: (
        {"student_preprocessing": "auto"},
        {"X": pd.DataFrame(X).add_prefix("p"), "X_val": pd.DataFrame(X).add_prefix("q"), "y_val": y},
    ),
    "a sparse tensor": lambda X, y: ({}, {"X": torch.tensor(X).to_sparse()}),
    "a tensor on the meta device": lambda X, y: ({}, {"X": torch.empty(X.shape, device="meta")}),
    "a Dataset of complex numbers": lambda X, y: ({}, {"X": TensorDataset(torch.tensor(X + 0j))}),
    "a Dataset on the meta device": lambda X, y: (
        {},
        {"X": TensorDataset(torch.empty(X.shape, device="meta"))},
    ),
    "empty samples": lambda X, y: ({}, {"X": X.reshape(-1, 8, 8)[:, :0]}),
    "continuous labels": lambda X, y: ({}, {"y": y + 0.5}),
    "missing labels": lambda X, y: ({}, {"y": np.where(y == 3, np.nan, y)}),
    "one-hot labels": lambda X, y: ({}, {"y": np.eye(10)[y]}),
    "probabilities as labels": lambda X, y: ({}, {"y": np.full((len(y), 10), 0.1)}),
    "several labels for a row": lambda X, y: ({}, {"y": np.c_[y, y]}),
    "sets of labels": lambda X, y: ({}, {"y": [{label} for label in y.tolist()]}),
    "some of several labels missing": lambda X, y: ({}, {"y": np.where(several(y) == 1, np.nan, 0.0)}),
    "four dimensions of labels": lambda X, y: ({}, {"y": several(y)[:, :, None, None]}),
    "a sparse matrix of one-hot labels": lambda X, y: ({}, {"y": sparse.csr_matrix(np.eye(10)[y])}),
    "several labels that are the same in all rows": lambda X, y: ({}, {"y": 0 * several(y)}),
    "D_val with another number of labels": lambda X, y: (
        {},
        {"y": several(y), "X_val": X, "y_val": several(y)[:, 1:]},
    ),
    "one label per row in D_val, several in X": lambda X, y: (
        {},
        {"y": several(y), "X_val": X, "y_val": y},
    ),
    "logits of other labels": lambda X, y: ({}, {"y": several(y)[:, 1:]}),
    "the list of a forest's probabilities as logits of several labels": lambda X, y: (
        {"teacher": None},
        {"y": several(y), "teacher_logits": np.zeros((10, len(y), 2))},
    ),
    "infinite logits of several labels": lambda X, y: (
        {"teacher": None},
        {"y": several(y), "teacher_logits": np.full((len(y), 10), np.inf)},
    ),
    "logits of several labels whose columns have names": lambda X, y: (
        {},
        {"y": several(y), "teacher_logits": pd.DataFrame(np.zeros((len(y), 10))).add_prefix("tag ")},
    ),
    "``class_weight`` beside several labels": lambda X, y: ({"class_weight": "balanced"}, {"y": several(y)}),
    "``teacher_classes`` beside several labels": lambda X, y: (
        {"teacher_classes": range(10)},
        {"y": several(y)},
    ),
    "z-scores of the logits of two classes": lambda X, y: (
        {"loss": "standardized_kd"},
        {"y": y % 2, "teacher_logits": np.zeros((len(y), 2))},
    ),
    "a loss of one label beside several": lambda X, y: ({"loss": LogitDistillation()}, {"y": several(y)}),
    "a loss of several labels beside one": lambda X, y: ({"loss": MultilabelDistillation()}, {}),
    "a student of several labels that ends in a sigmoid": lambda X, y: (
        {"student": nn.Sequential(nn.Linear(64, 10), nn.Sigmoid())},
        {"y": several(y)},
    ),
    "a teacher of other labels": lambda X, y: asked(nn.Linear(64, 9), y=several(y)),
    "a teacher of one label per row beside several": lambda X, y: asked(
        FrozenEstimator(GaussianNB().fit(X, y)), y=several(y)
    ),
    "a teacher that learns one label per row, to be fitted on several": lambda X, y: asked(
        GaussianNB(), y=several(y)
    ),
    "a list of teachers beside several labels": lambda X, y: asked([nn.Linear(64, 10)] * 2, y=several(y)),
    "classes of the columns of a function beside several labels": lambda X, y: asked(
        FunctionTeacher(lambda X: X[:, :10], classes=list("abcdefghij")), y=several(y)
    ),
    "fewer labels than rows": lambda X, y: ({}, {"y": y[1:]}),
    "labels of differing lengths": lambda X, y: ({}, {"y": [[1], [1, 2]] + [[1]] * (len(y) - 2)}),
    "no labels": lambda X, y: ({}, {"y": None}),
    "labels of several types": lambda X, y: (
        {},
        {"y": np.array([c or "none" for c in y.tolist()], dtype=object)},
    ),
    "one class": lambda X, y: ({}, {"y": 0 * y}),
    "no row to hold out": lambda X, y: ({}, {"X": X[:5], "y": np.arange(5), "teacher_logits": -np.eye(5)}),
    "classes of D_val that y lacks": lambda X, y: ({}, {"X_val": X[:3], "y_val": [0, 1, 99]}),
    "weights below zero": lambda X, y: ({}, {"sample_weight": -np.ones(len(y))}),
    "weights of a missing X_val": lambda X, y: ({}, {"sample_weight_val": np.ones(5)}),
    "a class_weight of an unknown class": lambda X, y: ({"class_weight": {10: 2}}, {}),
    "an invalid class_weight": lambda X, y: ({"class_weight": {9: -2}}, {}),
    "a class_weight that leaves D_val empty": lambda X, y: (
        {"class_weight": {0: 0}},
        {"X_val": X[y == 0], "y_val": y[y == 0]},
    ),
    "more or fewer groups than rows": lambda X, y: ({}, {"groups": y[1:]}),
    "rows without a group": lambda X, y: ({}, {"groups": np.where(y == 0, np.nan, y)}),
    "groups of several types": lambda X, y: (
        {},
        {"groups": np.array(["a", *y[1:].tolist()], dtype=object)},
    ),
    "no group to hold out": lambda X, y: ({}, {"groups": y}),
    "weights that are not numbers": lambda X, y: ({}, {"sample_weight": np.array(["a"] * len(y))}),
    "logits of another shape": lambda X, y: ({}, {"teacher_logits": np.zeros((len(y), 9))}),
    "logits that are not finite": lambda X, y: ({}, {"teacher_logits": np.full((len(y), 10), np.nan)}),
    "logits with other column names": lambda X, y: (
        {},
        {"teacher_logits": pd.DataFrame(np.zeros((len(y), 10)), columns=list("abcdefghij"))},
    ),
    "logits with another index": lambda X, y: (
        {},
        {"X": pd.DataFrame(X), "teacher_logits": pd.DataFrame(np.zeros((len(y), 10)), index=y)},
    ),
    "unlabeled rows that have other columns": lambda X, y: ({}, unlabeled(X[:, :9])),
    "no unlabeled rows": lambda X, y: ({}, unlabeled(X[:0])),
    "unlabeled rows in another form": lambda X, y: ({}, unlabeled(TensorDataset(torch.tensor(X)))),
    "logits only for the rows with labels": lambda X, y: (
        {},
        unlabeled(X) | {"teacher_logits_unlabeled": None},
    ),
    "logits only for the unlabeled rows": lambda X, y: ({}, unlabeled(X) | {"teacher_logits": None}),
    "logits without their rows": lambda X, y: ({}, unlabeled(X) | {"X_unlabeled": None}),
    "missing logits of the rows of X_val": lambda X, y: (
        {"soft_validation": True},
        {"X_val": X[:9], "y_val": y[:9]},
    ),
    "a loss that does not accept unlabeled rows": lambda X, y: ({"loss": Decoupled()}, unlabeled(X)),
    "batches of one row beside unlabeled rows": lambda X, y: ({"batch_size": 1}, unlabeled(X)),
    "made-up rows beside teacher_logits": lambda X, y: ({"synthesize": 1.0}, {}),
    "made-up rows of parts": lambda X, y: ({"synthesize": 1.0}, {"X": {"x": X}}),
    "made-up rows of images": lambda X, y: (
        {"synthesize": 1.0, "teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))},
        {"X": X.reshape(-1, 8, 8), "teacher_logits": None},
    ),
    "a probability of made-up rows above 1": lambda X, y: ({"synthesize": Munge(p=2)}, {}),
    "a teacher with unnamed columns": lambda X, y: (
        {"teacher": nn.Linear(64, 10)},
        {"y": y + 1, "teacher_logits": None},
    ),
    "a teacher of fewer classes": lambda X, y: ({"teacher": nn.Linear(64, 9)}, {"teacher_logits": None}),
    "classes of columns that lack some of y": lambda X, y: ({"teacher_classes": np.arange(9)}, {}),
    "classes of columns that contradict the teacher": lambda X, y: (
        {
            "teacher": FrozenEstimator(LogisticRegression(max_iter=200).fit(X, y)),
            "teacher_classes": np.arange(11),
        },
        {"teacher_logits": None},
    ),
    "a teacher with NaN": lambda X, y: ({"teacher": broken_student()}, {"teacher_logits": None}),
    "parts for a teacher of tables": lambda X, y: (
        {"teacher": GaussianNB(), "student": TwoParts},
        {"X": {"a": X, "b": X}, "teacher_logits": None},
    ),
    "images for a teacher of tables": lambda X, y: asked(GaussianNB(), X=X.reshape(-1, 8, 8)),
    "a teacher of other samples": lambda X, y: ({"teacher": nn.Linear(9, 10)}, {"teacher_logits": None}),
    "a teacher with a tensor that stays on its device": lambda X, y: asked(WithMask(64, 10)),
    "a teacher of no known kind": lambda X, y: asked(object()),
    "an adapter that returns no logits": lambda X, y: asked(Mute()),
    "a teacher that returns no logits": lambda X, y: ({"teacher": nn.Flatten(0)}, {"teacher_logits": None}),
    "invalid probabilities": lambda X, y: ({"teacher": Percent()}, {"teacher_logits": None}),
    "a teacher without probabilities and margins": lambda X, y: asked(
        make_pipeline(StandardScaler(), OutputCodeClassifier(GaussianNB()))
    ),
    "words for a teacher that takes numbers": lambda X, y: (
        {"teacher": GaussianNB(), "student_preprocessing": "auto"},
        {
            "X": pd.DataFrame({"a": X[:, 10], "b": np.where(X[:, 2] > 0.5, "many", "few")}),
            "teacher_logits": None,
        },
    ),
    "a vote without probabilities": lambda X, y: asked(VotingClassifier([("a", GaussianNB())])),
    "a search that keeps no best teacher": lambda X, y: asked(GridSearchCV(GaussianNB(), {}, refit=False)),
    "a frozen teacher that was fitted on codes": lambda X, y: (
        {"teacher": FrozenEstimator(GaussianNB().fit(X, y))},
        {"y": np.array(list("abcdefghij"))[y], "teacher_logits": None},
    ),
    "a teacher that does not name its classes": lambda X, y: asked(Odd(classes=None)),
    "a teacher whose classes_ are not its labels": lambda X, y: asked(Odd(classes=np.arange(10) + 5)),
    "predictions of another shape": lambda X, y: asked(Odd(form=lambda P: [P, P])),
    "a teacher with prefitted parts": lambda X, y: asked(
        StackingClassifier([("a", GaussianNB())], cv="prefit")
    ),
    "predictions with other column names": lambda X, y: asked(
        Odd(form=lambda P: pd.DataFrame(P).add_prefix("p"))
    ),
    "a student on the meta device": lambda X, y: ({"student": nn.Linear(64, 10, device="meta")}, {}),
    "a student with NaN": lambda X, y: ({"student": broken_student()}, {}),
    "a student of another width": lambda X, y: ({"student": nn.Linear(64, 9)}, {}),
    "a student with an auxiliary output": lambda X, y: (
        returning(lambda z, training: (z, z) if training else z),
        {},
    ),
    "a student that returns a dictionary": lambda X, y: (returning(lambda z, training: {"out": z}), {}),
    "a student that returns feature maps": lambda X, y: (
        returning(lambda z, training: z[..., None].repeat(1, 1, 2)),
        {},
    ),
    "a student that returns classes": lambda X, y: (returning(lambda z, training: z.long()), {}),
    "a student that ends in a softmax": lambda X, y: (returning(lambda z, training: z.softmax(1)), {}),
    "a student without gradient": lambda X, y: (returning(lambda z, training: z.detach()), {}),
    "a frozen student": lambda X, y: ({"student": nn.Linear(64, 10).requires_grad_(False)}, {}),
    "a student without weights": lambda X, y: ({"student": nn.AdaptiveAvgPool1d(10)}, {}),
    "a student that fails": lambda X, y: (returning(lambda z, training: z.logits), {}),
    "a student with a tensor that stays on its device": lambda X, y: ({"student": WithMask(64, 10)}, {}),
    "a student that is no network": lambda X, y: ({"student": GaussianNB()}, {}),
    "a frozen teacher of other columns": lambda X, y: (
        {"teacher": FrozenEstimator(GaussianNB().fit(X[:, 1:], y))},
        {"teacher_logits": None},
    ),
    "a function that returns no student": lambda X, y: ({"student": lambda: 3}, {}),
    "missing arguments of a student": lambda X, y: ({"student": nn.Bilinear}, {}),
    "an unknown parameter": lambda X, y: ({"hidden": 3}, {}),
    "an unknown optimizer": lambda X, y: ({"optimizer": "adm"}, {}),
    "an optimizer that cannot take steps here": lambda X, y: ({"optimizer": "SparseAdam"}, {}),
    "an optimizer that forward mode does not know": lambda X, y: (
        {"meta": "forward", "optimizer": "RMSprop"},
        {},
    ),
    "a CUDA graph with a strategy that looks far ahead": lambda X, y: (
        {"meta": "implicit", "execution": "cuda_graph"},
        {},
    ),
    "micro-batches in forward mode": lambda X, y: (
        {"meta": "forward", "execution__micro_batches": 2},
        {},
    ),
    "an optimizer instance": lambda X, y: ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, {}),
    "an unknown device": lambda X, y: ({"device": "gpu"}, {}),
    "a missing device": lambda X, y: ({"device": "cuda:99"}, {}),
    "the meta device": lambda X, y: ({"device": "meta"}, {}),
    "a device that cannot be used": lambda X, y: ({"device": "vulkan"}, {}),
    "an object that is not a callback": lambda X, y: ({"callbacks": [3]}, {}),
    "a callback that monitors a missing D_val": lambda X, y: (
        {"callbacks": [EarlyStopping()], "meta": "naive"},
        {},
    ),
    "an unknown monitor": lambda X, y: ({"callbacks": [EarlyStopping("valid_los")]}, {}),
    "a schedule of too few steps": lambda X, y: (
        {"callbacks": [LRScheduler(OneCycleLR, max_lr=0.1, total_steps=1)], "optimizer__momentum": 0.9},
        {},
    ),
    "a regressor that needs more points than a cycle has": lambda X, y: (
        {"meta": PredictedPath(KNeighborsRegressor(12), e1=10)},
        {},
    ),
    "gradients clipped twice": lambda X, y: (
        {"callbacks": [GradientNormClipping(1.0)], "max_grad_norm": 1.0},
        {},
    ),
    "a schedule that cannot be made": lambda X, y: ({"callbacks": [LRScheduler("StepLR", steps=1)]}, {}),
    "a loss of torch": lambda X, y: ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, {}),
    "batches of one row under batch normalisation": lambda X, y: (
        {"student": nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10)), "batch_size": 1},
        {},
    ),
    "a student that is wrapped for several processes": lambda X, y: ({"student": wrapped()}, {}),
    "a learning rate that is too large": lambda X, y: ({"lr": 1e31}, {}),
    "a file as the folder of checkpoints": lambda X, y: ({"checkpoint_dir": __file__}, {}),
    "a missing folder for the teacher's logits": lambda X, y: ({"teacher_logits_dir": "missing"}, {}),
}


class Own(MLPStudent):
    """A student that is no class of this library."""


def signed(clf, path, about=None, **tensors):
    """A file that only its content is wrong with."""
    clf.save(path)
    content = unpacked(path.read_bytes(), "it")
    (about or (lambda about: None))(content.about)
    path.write_bytes(packed(Content(content.about, content.tensors | tensors)))


def edited(clf, path, edit):
    clf.save(path)
    path.write_bytes(edit(path.read_bytes()))


def later(data):
    """As of another format: the header is as long as before."""
    return data.replace(b'"format_version":"2"', b'"format_version":"3"')


def shorter_history(data):
    """The stated length of a compressed column, one number less; the digest of the new text."""

    def short(tensors):
        written, compressed = compress_tensors(tensors)
        compressed["history"][1][0] -= 1
        return written, compressed

    about, tensors = unpacked(data, "it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_container, "compress_tensors", short)
        return packed(Content(about, tensors))


def weights_alone(clf, path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, path)


def own_student(clf, path):
    DistilledClassifier(None, Own, meta="none", max_epochs=1).fit(np.eye(64), np.arange(64) % 2).save(path)


# What is loaded, as f(a fitted estimator, path) that writes it.
LOADED = {
    "a pickle": lambda clf, path: path.write_bytes(pickle.dumps(clf)),
    "a file of torch.save": lambda clf, path: torch.save(clf.student_.state_dict(), path),
    "a student of export_student": lambda clf, path: clf.export_student(path),
    "weights of another program": weights_alone,
    "a truncated file": lambda clf, path: edited(clf, path, lambda data: data[:-1]),
    "a file with a changed byte": lambda clf, path: edited(clf, path, lambda data: data[:-1] + b"!"),
    "a file of a later version": lambda clf, path: edited(clf, path, later),
    "a file of the other estimator": lambda clf, path: clf.save(path),
    "a student class of your own": own_student,
    "another student": lambda clf, path: clf.save(path),
    "a file with an additional tensor": lambda clf, path: signed(clf, path, more=torch.zeros(2)),
    "a file with compressed bytes of another length": lambda clf, path: edited(clf, path, shorter_history),
    "a file with weights that are NaN": lambda clf, path: signed(
        clf, path, **{"student.student.layers.3.bias": torch.full((10,), torch.nan)}
    ),
    "a file with wrong sizes": lambda clf, path: signed(
        clf, path, lambda about: about["params"].update(student__hidden=10**9)
    ),
    "a file with additional layers": lambda clf, path: signed(
        clf, path, lambda about: about["params"].update(student__hidden=[1] * 20_000)
    ),
    "a file without its student_preprocessing": lambda clf, path: signed(
        clf, path, lambda about: about.update(student_preprocessing_class="own.Transformer", n_features=64)
    ),
    "a file with a student_preprocessing of other columns": lambda clf, path: signed(
        clf,
        path,
        lambda about: about.update(
            student_preprocessing_state={"params": TablePreprocessing().get_params(), "columns": []}
        ),
    ),
    "a file with metaparameters out of bounds": lambda clf, path: signed(
        clf, path, lambda about: about["metaparameters"].update(lambda1=7)
    ),
    "a file with a class as a function": lambda clf, path: signed(
        clf, path, lambda about: about["params"].update(augment={"student": "MLPStudent"})
    ),
}
GIVEN = {"another student": {"student": nn.Linear(64, 10)}}
REPORTED = {
    "some steps are not finite": Fills(n=3),
    "ten steps in a row are not finite": Fills(n=1000),
    "weights become too large": Fills(weights=1e37),
}


def constant():
    student = nn.Linear(64, 10)
    with torch.no_grad():
        student.weight.zero_()
    return student


class Interrupts(Callback):
    """A user in the fifth batch."""

    def on_batch_begin(self, net, training=False, **kwargs):
        if training and net.metaparameters.iteration == 4:
            signal.raise_signal(signal.SIGINT)


def processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)


# What is said of a fit that goes on: parameters, and what is made of X, with a student taught by the labels.
SAID = {
    "a search without a hypergradient": (
        {
            "meta": "gradient",
            "optimizer": "Adam",
            "lr": 0.003,
            "batch_size": 64,
            "max_epochs": 1,
            "search_epochs": 1,
        },
        None,
    ),
    "the student predicts one class": ({"student": constant(), "lr": 0.0, "max_epochs": 5}, None),
    "the student is no better than chance": (
        {"lr": 1e-6, "max_epochs": 5},
        lambda X: np.random.default_rng(0).normal(size=X.shape),
    ),
    "the loss does not fall": (
        {
            "student": lucky_student(DIGITS.data / 16, DIGITS.target),
            "lr": 0.0,
            "max_epochs": 5,
            "standardize": False,
        },
        None,
    ),
    "training ends while the loss falls steeply": ({"lr": 0.001, "max_epochs": 15}, None),
    "features of very different scales": (
        {"standardize": False},
        lambda X: X * np.where(np.arange(64) == 20, 1e4, 1),
    ),
    "parameters without effect": ({"e1": 20, "meta": Linear(e1=3)}, None),
    "several processes that were launched": ({}, None),
    "Ctrl-C": ({"callbacks": [Interrupts()]}, None),
}


class Full(nn.Linear):
    """Where ``kind`` of pass is made with more than two rows, there is no memory."""

    kind = ""

    def forward(self, x):
        if len(x) > 2 and self.kind == ("training" if self.training else "evaluation"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return super().forward(x)


def full(kind):
    network = Full(64, 10)
    network.kind = kind
    return network


def no_memory(*args, **kwargs):
    raise MemoryError


# What is done, as f(clf, monkeypatch, X, y), with a classifier that is to be taught by ``logits``.
def in_prediction(clf, monkeypatch, X, y, **logits):
    clf.set_params(student=nn.Linear(64, 10), meta="none").fit(X, y)
    monkeypatch.setattr(nn.Linear, "forward", no_memory)
    clf.predict(X)


def patched(where, name, **params):
    def fit(clf, monkeypatch, X, y, **logits):
        monkeypatch.setattr(where, name, no_memory)
        clf.set_params(**params).fit(X, y, **logits)

    return fit


OUT_OF_MEMORY = {
    "copying the data": patched(_splitting, "make_data"),
    "asking the teacher": lambda clf, monkeypatch, X, y, **logits: clf.set_params(
        teacher=full("evaluation")
    ).fit(X, y),
    "training": lambda clf, monkeypatch, X, y, **logits: clf.set_params(
        student=full("training"), meta="none"
    ).fit(X, y),
    "hypergradients": patched(HypergradientEstimator, "hypergradient", meta="gradient"),
    "several students at once": patched(BatchedRun, "step", meta=Random(n_trials=4)),
    "prediction": in_prediction,
}


class Ends(Callback):
    """Breaks the fit off in its fourth epoch, as often as it is told to."""

    n_times = 0

    def __init__(self):
        pass

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 4 and Ends.n_times:
            Ends.n_times -= 1
            raise MemoryError


def rewrite(change):
    """Do something with what is in a file."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


# What is done to the last checkpoint of a fit that was broken off.
DAMAGED = {
    "a truncated checkpoint": rewrite(lambda content: content[:-1]),
    "an altered checkpoint": rewrite(lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "an empty checkpoint": rewrite(lambda content: b""),
    "a file that is no checkpoint": rewrite(lambda content: b"PK" + content),
    "a checkpoint of another fit": lambda path: write(path, read(path) | {"fit": "0" * 24}),
    "a checkpoint of other code": lambda path: write(
        path, read(path) | {"versions": {"sklearn_kd's code": "0" * 16}}
    ),
    "a checkpoint of wrong content": lambda path: write(path, read(path) | {"state": {}}),
    "a checkpoint that asks for more memory than it has": lambda path: write(
        path, read(path) | {"more": torch.zeros(1).expand(10**11)}
    ),
}


# Tried in tests/export, the last one in tests/persistence.
EXPORTED = {
    "a model that ends in another estimator",
    "a student of maps in a file",
    "columns of unknown types",
    "a step without a converter",
    "a student that depends on values",
    "a graph whose predictions differ",
    "a column of mixed types",
    "labels without a form in ONNX",
    "weights of a Pipeline",
    "no ONNX Runtime",
    "a module as student, in skops",
}


def test_the_page_has_all_that_is_tried_here():
    headings = {
        "In training",
        "While memory is used for",
        "Input",
        "File",
        "Problem",
        "Model",
        "Layer",
        "Argument",
        "Regressor",
        "Maps",
        "Terms",
    }
    tried = REFUSED.keys() | REPORTED.keys() | OUT_OF_MEMORY.keys() | LOADED.keys() | DAMAGED.keys()
    tried |= UNUSABLE_LAYERS.keys() | UNUSABLE_TEACHERS.keys() | SAID.keys()
    apart = {"several calls of one module", "a student's layer that training skips"}
    apart |= {
        "weights that the teacher cannot take",
        "rows to predict overflow",
        "no checkpoint that can be used",
        "another teacher",
        "unlabeled rows that may have been split",  # in test_unlabeled
        "unlabeled rows that were not scaled with X",  # in test_unlabeled
        "the same fit in another thread",  # in test_threads_at_one_fit
        "a folder for the teacher's logits that cannot be written to",  # in test_large_arrays
        "a full disk of the teacher's logits",  # in test_large_arrays
        "a teacher with margins instead of probabilities",  # in test_margins
        "a callback that prunes the student of the search (known when the search is over)",  # in test_weight_average
        "a file that is no ONNX model",  # these in test_onnx_teachers
        "an ONNX file of other samples",
        "an ONNX file with an input for each column",
        "an ONNX file without logits or probabilities",
    }
    apart |= {  # in test_report
        "no labels for the report",
        "no rows for the report",
        "a student alone without training data",
        "training data that is not used",
        "a student alone of no known kind",
        "a misspelt student alone",
        "a student alone of other classes",
        "a teacher and its logits",
        "a teacher that is not fitted",
        "a student alone of another y",  # these in test_report_kinds
        "a regressor's student alone that is a classifier",
        "a teacher's answers of the other kind",
        "a y_test of one number",
        "peers of no known kind",
        "peers without training data",
        "peers of rows that are no table",
        "peers of a quantile",
        "weights for peers",
        "a peer of other targets",  # in test_report_kinds
        "a peer with the name of another row",
        "a student of maps in a report",  # in test_maps_and_pathways
        "folds of one row",  # in test_compare_kinds
    }
    apart |= refused_numbers(np.empty((N_ROWS, 10)), np.arange(N_ROWS)).keys()  # in test_regressor
    apart |= refused_maps(*images_with_maps()).keys()  # in test_pixel_classes
    apart |= warned_maps(*images_with_maps()).keys()  # in test_pixel_classes
    apart |= {"a label that is often unknown, which a teacher does not know"}  # in test_pixel_classes
    apart |= {"a label that is often unknown, in a score"}  # in test_dense_metrics
    apart |= {
        "whole numbers in pixels without a target",
        "a teacher in other units",
    }  # in test_pixel_regressor
    apart |= refused_number_maps(np.empty((9, 2, 4, 4)), np.ones((9, 4, 4))).keys()  # in test_pixel_regressor
    apart |= REFUSED_LOSSES.keys()  # in test_mixtures
    apart |= EXPORTED
    assert messages().keys() - headings == tried | apart | {"a callback with an open file", "a full disk"}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, make, digits, logits):
    params, given = REFUSED[what](*digits)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=messages()[what]):
        make(**params).fit(**({"X": digits[0], "y": digits[1], "teacher_logits": logits} | given))


@pytest.mark.parametrize("what", UNUSABLE_TEACHERS)
def test_teachers(what, make, digits):
    params, given = UNUSABLE_TEACHERS[what](*digits)
    with pytest.raises((ValueError, TypeError, OSError), match=messages()[what]):
        make(**params).fit(**({"X": digits[0], "y": digits[1]} | given))


@pytest.mark.parametrize("what", UNUSABLE_LAYERS)
def test_layers(what):
    network, samples, layers = UNUSABLE_LAYERS[what]()
    with pytest.raises(ValueError, match=messages()[what]):
        find_layers(network, layers, samples, name="teacher_layers")


def test_weights_that_the_teacher_cannot_take(make, digits):
    teacher = make_pipeline(StandardScaler(), KNeighborsClassifier())
    with pytest.warns(UserWarning, match=messages()["weights that the teacher cannot take"]):
        make(teacher).fit(*digits, sample_weight=1.0 + digits[1])


@pytest.mark.parametrize("what", REPORTED)
def test_reported(what, make, digits, logits):
    clf = make(meta="linear", callbacks=[REPORTED[what]], max_epochs=4)
    with pytest.warns(ConvergenceWarning, match=messages()[what]):
        clf.fit(*digits, teacher_logits=logits)
    assert np.isfinite(clf.predict_proba(digits[0])).all()


@pytest.mark.usefixtures("sigint_heard")
@pytest.mark.parametrize("what", SAID)
def test_said(what, make, digits, monkeypatch):
    params, change = SAID[what]
    X, y = digits
    if what.startswith("several"):
        processes(monkeypatch)
    clf = make(**{"meta": "none"} | params)
    with pytest.warns(UserWarning, match=messages()[what]) as found:
        clf.fit(
            X if change is None else change(X),
            y,
            **({} if clf.meta == "none" else {"teacher_logits": 5 * np.eye(10)[y]}),
        )
    assert len(found) == 1 and np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize("what", LOADED)
def test_loaded(what, make, digits, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    clf, path = make(meta="none", max_epochs=1).fit(*digits), tmp_path / "saved.safetensors"
    LOADED[what](clf, path)
    estimator = DistProClassifier if what == "a file of the other estimator" else DistilledClassifier
    with pytest.raises(ValueError, match=messages()[what]):
        estimator.load(path, **GIVEN.get(what, {}))


@pytest.mark.parametrize("what", OUT_OF_MEMORY)
def test_out_of_memory(what, make, digits, logits, monkeypatch):
    with pytest.raises(MemoryError, match=messages()[what]):
        OUT_OF_MEMORY[what](make(student=nn.Linear(64, 10)), monkeypatch, *digits, teacher_logits=logits)


def test_rows_that_overflow(make, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = make(meta="none", student=steep_student(), standardize=False).fit(*digits)
    for predict in (clf.predict, clf.predict_proba, clf.predict_log_proba):
        with pytest.raises(ValueError, match=messages()["rows to predict overflow"]):
            predict(digits[0] * 1e38)


def test_the_fits_that_were_tried_are_those_of_the_script():
    record = json.loads((ROOT / "examples" / "evidence" / "divergence.json").read_text())
    total = {name: sum(found[name] for found in record["by lr"].values()) for name in record["by lr"]["1"]}
    page = FAILURES.read_text(encoding="utf-8")
    assert f"{total['fits']} fits" in page and f"{total['given up']} were given up" in page
    assert total["not finite"] == total["unreported"] == total["false alarms"] == 0


@pytest.fixture
def broken_off(make, digits, logits, tmp_path):
    """f(**params), which fits again what was broken off, and its checkpoints."""

    def fit(teacher_logits=logits, **params):
        clf = make(max_epochs=5, checkpoint_dir=tmp_path, **{"callbacks": [Ends()]} | params)
        return clf.fit(*digits, teacher_logits=teacher_logits)

    Ends.n_times = 1
    with pytest.raises(MemoryError):
        fit()
    return fit, sorted(tmp_path.glob("*/*.checkpoint"))


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_checkpoint(what, broken_off):
    fit, (_, newest) = broken_off
    DAMAGED[what](newest)
    with pytest.warns(UserWarning, match=messages()[what]):
        fit()


def test_no_checkpoint_that_can_be_used(broken_off):
    fit, paths = broken_off
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=messages()["no checkpoint that can be used"]):
        fit()


def test_another_teacher(make, digits, tmp_path):
    X, y = digits
    teachers = [FrozenEstimator(LogisticRegression(C=0.1).fit(X[:n], y[:n])) for n in (200, 300)]
    clf = make(max_epochs=5, checkpoint_dir=tmp_path, callbacks=[Ends()])
    Ends.n_times = 1
    with pytest.raises(MemoryError):
        clf.set_params(teacher=teachers[0]).fit(X, y)
    with pytest.raises(ValueError, match=messages()["another teacher"]):
        clf.set_params(teacher=teachers[1]).fit(X, y)


class Logs(Callback):
    def on_train_begin(self, net, **kwargs):
        self.file = open(FAILURES, "rb")  # noqa: SIM115

    def on_train_end(self, net, **kwargs):
        self.file.close()


def test_callback_with_an_open_file(make, digits, logits, tmp_path):
    clf = make(callbacks=[Logs()], checkpoint_dir=tmp_path)
    with pytest.warns(UserWarning, match=messages()["a callback with an open file"]):
        clf.fit(*digits, teacher_logits=logits)


def test_full_disk(make, digits, logits, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sklearn_kd.files._atomic.os.replace", full)
    with pytest.warns(UserWarning, match=messages()["a full disk"]):
        make(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits)
