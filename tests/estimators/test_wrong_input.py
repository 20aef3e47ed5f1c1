"""Wrong input is refused before any training, with a word on how to mend it."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import EarlyStopping, LRScheduler
from torch import nn

from helpers.parameter_ids import in_words
from sklearn_kd import CNNStudent, MLPStudent, meta
from sklearn_kd.losses import LogitDistillation

pytestmark = pytest.mark.usefixtures("no_training")


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"e1": 0}, ValueError, "'e1' parameter"),
        ({"e1": 2.5}, ValueError, "'e1' parameter"),
        ({"e2": -1}, ValueError, "'e2' parameter"),
        ({"e1": 1}, ValueError, "a line needs at least two points"),
        ({"meta": meta.Linear(e1=1)}, ValueError, "a line needs at least two points"),
        ({"meta": meta.Linear(form="quadratic")}, ValueError, "is not one of"),
        ({"meta": meta.Hyperopt(n_trials=0)}, ValueError, "at least 1"),
        ({"meta": meta.Hyperopt(n_jobs=0)}, ValueError, "^meta: n_jobs=0 must be None or an integer"),
        ({"meta": meta.Random(log10_temperature=(2, 1))}, ValueError, "must be two finite numbers"),
        ({"meta": meta.Random(log10_temperature=3)}, ValueError, "must be two finite numbers"),
        ({"meta": "gradeint"}, ValueError, "Did you mean 'gradient'"),
        ({"meta": 3}, ValueError, "'meta' parameter"),
        ({"lambda1": 1.2}, ValueError, "'lambda1' parameter"),
        ({"lambda1": "rnd"}, ValueError, "'lambda1' parameter"),
        ({"temperature": 0.0}, ValueError, "'temperature' parameter"),
        (
            {"temperature": 20.0},
            ValueError,
            "temperature=20.0 lies outside its bounds.*widen loss__temperature_bounds",
        ),
        ({"temperature": 0.5}, ValueError, "widen loss__temperature_bounds"),
        ({"loss__temperature_bounds": (3, 1)}, ValueError, "0 < low <= high"),
        ({"loss__temperature_bounds": (1, 2, 3)}, ValueError, "two numbers"),
        (
            {"loss__temperature_scaling": "hintn"},
            ValueError,
            "^loss: temperature_scaling='hintn' is not one",
        ),
        ({"meta__hypergradient": "exakt"}, ValueError, "^meta: hypergradient='exakt' is not one of"),
        (
            {"meta__val_temperature": -1},
            ValueError,
            "^meta: val_temperature=-1 must be a finite number above 0",
        ),
        ({"validation_fraction": 0.0}, ValueError, "'validation_fraction' parameter"),
        ({"max_epochs": 0}, ValueError, "'max_epochs' parameter"),
        ({"device": "gpu0"}, ValueError, "is not known. Did you mean 'cuda'"),
        (
            {"device": "gpu"},
            ValueError,
            "is not known. Did you mean 'cuda'.* Set device='auto'",
        ),
        ({"device": "cpuu"}, ValueError, "is not known. Did you mean 'cpu'"),
        ({"device": "cuda:99"}, ValueError, r"torch sees .* The devices present are \['cpu'"),
        ({"device": 99}, ValueError, r"device=99, but torch sees"),
        ({"device": "meta"}, ValueError, "holds shapes but no numbers"),
        ({"device": "vulkan"}, ValueError, "cannot be used"),
        ({"optimizer": "adm"}, ValueError, "optimizer='adm' is not known. Did you mean 'adam'"),
        ({"meta__optimizer": "sdg"}, ValueError, "^meta: optimizer='sdg' is not known. Did you mean 'sgd'"),
        ({"optimizer": nn.Linear}, TypeError, "must be an optimizer class or its name"),
        (
            {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
            TypeError,
            "its arguments as optimizer__NAME",
        ),
        ({"optimizer": torch.optim.Adam([torch.zeros(1)])}, TypeError, r"Give optimizer=torch\.optim\.Adam"),
        ({"optimizer": "adam", "optimizer__betta": 1}, TypeError, "optimizer takes no 'betta'"),
        ({"hidden": 3}, TypeError, "Did you mean 'student__hidden'"),
        (
            {"meta__optimizer__momentum": 0.9},
            TypeError,
            r"Did you mean meta__optimizer_params=\{'momentum': ...\}",
        ),
        ({"meta__optimizer_params": 3}, TypeError, "^meta: optimizer_params=3 must be a dict"),
        ({"meta__val_temperature": None}, ValueError, "must be a finite number above 0, or 'auto'"),
        ({"iterator_valid__batch_size": 0}, ValueError, "^iterator_valid__batch_size=0 must be an integer"),
        ({"execution__compile": 3}, ValueError, "^execution: compile=3 must be True or False"),
        ({"momentum": 0.9}, TypeError, "Did you mean 'optimizer__momentum'"),
        (
            {"class_weight": {3: 2.0, "4": 1.0}},
            ValueError,
            r"class_weight has '4', which is not a class of y\. The",
        ),
        ({"class_weight": {11: 1.0}}, ValueError, r"class_weight has 11, which is not a class of y\. The"),
        ({"class_weight": {3: -1.0}}, ValueError, r"class_weight\[3\]=-1.0 must be a finite number"),
        ({"class_weight": {3: "2"}}, ValueError, r"class_weight\[3\]='2' must be a finite number"),
        ({"class_weight": dict.fromkeys(range(9), 0)}, ValueError, "y has 1 class .* of positive weight"),
        ({"class_weight": "balance"}, ValueError, "'class_weight' parameter"),
        ({"class_weights": "balanced"}, TypeError, "Did you mean 'class_weight'"),
        (
            {"criterion": nn.CrossEntropyLoss},
            TypeError,
            "'criterion'. Write a subclass of .*DistillationLoss",
        ),
        ({"criterion__label_smoothing": 0.1}, TypeError, "page 'Your own loss' has label smoothing"),
        (
            {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
            TypeError,
            "not a DistillationLoss.* Write a subclass",
        ),
        ({"loss": nn.CrossEntropyLoss}, TypeError, "is not a DistillationLoss"),
        ({"loss": nn.functional.cross_entropy}, TypeError, "is not a DistillationLoss"),
        ({"loss": LogitDistillation}, TypeError, r"Give an object: LogitDistillation\(\)"),
        ({"dropout": 0.1}, TypeError, "'dropout'. It is part of the student"),
        ({"tol": 1e-4}, TypeError, "EarlyStopping"),
        ({"epochs": 3}, TypeError, "Did you mean 'max_epochs'"),
        ({"learning_rate": 3}, TypeError, "Did you mean 'lr'"),
        ({"teacher__fit_eval_set": 3}, TypeError, "Did you mean 'teacher__fit__eval_set'"),
        ({"teacher_fit__eval_set": 3}, TypeError, "Did you mean 'teacher__fit__eval_set'"),
        ({"teacher__C": 3}, TypeError, r"Set it on the teacher itself, or by set_params\(teacher__C=...\)"),
        ({"callbacks": [3]}, TypeError, "callbacks has 3, which is not a callback"),
        (
            {"callbacks": EarlyStopping, "meta": "naive"},
            ValueError,
            "monitors 'valid_loss', but meta='naive' trains on all",
        ),
        ({"callbacks": nn.ReLU()}, ValueError, "'callbacks' parameter"),
        ({"callbacks": nn.ReLU}, TypeError, "which is not a callback"),
        ({"student__hiden": 3}, TypeError, "Did you mean 'student__hidden'"),
        (
            {"callbacks": LRScheduler("StepLR", stepsize=3)},
            TypeError,
            r"StepLR cannot be made with \['stepsize'\]",
        ),
        ({"studnet__hidden": 3}, TypeError, "Did you mean 'student__hidden'"),
        ({"optimizer__momentun": 0.9}, TypeError, "Did you mean 'optimizer__momentum'"),
        (
            {"meta__optimizer_params": {"bogus": 0.9}},
            TypeError,
            "^meta: optimizer=.*cannot be made with.*bogus",
        ),
        ({"meta__e1": 3}, TypeError, "Give e1=3 instead"),
        ({"meta__bogus": 0.9}, TypeError, "meta='linear' takes no 'bogus'"),
        ({"loss__bogus": 0.9}, TypeError, "loss='kd' takes no 'bogus'"),
        (
            {"loss": "kl"},
            ValueError,
            "loss='kl' is not known. It is one of \\['kd', 'dkd', 'nkd', ",
        ),
        ({"execution": "compile"}, ValueError, "Did you mean 'compiled'"),
        ({"meta_lr": 0.1}, TypeError, "Did you mean 'meta__lr'"),
        ({"iterator_train__num_workers": 2}, TypeError, "takes no 'num_workers'"),
        ({"callbacks__stop__patience": 2}, TypeError, "no such callback"),
        ({"lambda_1": 0.3}, TypeError, "Did you mean 'lambda1'"),
        ({"student": MLPStudent(64, 3)}, ValueError, "one logit per class"),
        ({"student": MLPStudent(63, 10)}, ValueError, "cannot take samples"),
        ({"student": MLPStudent(64, 10), "student__hidden": 3}, TypeError, "whose sizes are fixed"),
        ({"student": nn.Bilinear}, TypeError, "give the rest as student__"),
        ({"student": CNNStudent}, ValueError, "takes images"),
        ({"student": "mlp"}, TypeError, "nn.Module"),
    ],
    ids=in_words,
)
def test_parameters(params, error, match, make, digits):
    clf = clone(make(LogisticRegression(), **params))  # a misspelt name survives clone
    with pytest.raises(error, match=match):
        clf.fit(*digits)


def weird(X, value):
    X = X.copy()
    X[3, 4] = value
    return X


def val(X, y, **given):
    return {"X_val": X[:5], "y_val": y[:5]} | given


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda X, y: {"X": weird(X, np.nan)}, "NaN"),
        (lambda X, y: {"X": weird(X.astype(float), 1e300)}, "too large|infinity"),
        (lambda X, y: {"y": np.zeros(400)}, "1 class"),
        (lambda X, y: {"y": y + 0.5}, "continuous"),
        (lambda X, y: {"y": y[:-1]}, "inconsistent"),
        (lambda X, y: {"X": X[:0], "y": y[:0]}, "0 sample"),
        (lambda X, y: {"X": X[0]}, "1D array"),
        (lambda X, y: {"teacher_logits": np.zeros((399, 10))}, r"got \(399, 10\)"),
        (lambda X, y: {"teacher_logits": np.zeros((400, 9))}, r"got \(400, 9\)"),
        (lambda X, y: {"teacher_logits": y}, r"^teacher_logits must have shape .* got \(400,\)"),
        (lambda X, y: {"teacher_logits": np.zeros((400, 10, 1))}, r"got \(400, 10, 1\)"),
        (lambda X, y: {"teacher_logits": np.full((400, 10), np.nan)}, "NaN"),
        (lambda X, y: {"sample_weight": -np.ones(400)}, "negative"),
        (lambda X, y: {"sample_weight": np.zeros(400)}, "non-zero"),
        (lambda X, y: {"sample_weight": np.ones(399)}, "sample_weight"),
        (lambda X, y: {"sample_weight": np.where(y == 1, 1.0, 0.0)}, "1 class"),
        (lambda X, y: {"sample_weight_val": np.ones(5)}, "weights of X_val, which is missing"),
        (lambda X, y: val(X, y, sample_weight_val=np.ones(4)), "sample_weight_val"),
        (lambda X, y: val(X, y, sample_weight_val=-np.ones(5)), "^sample_weight_val must not be negative"),
        (lambda X, y: val(X, y, sample_weight_val=np.zeros(5)), "^sample_weight_val.* non-zero"),
        (lambda X, y: val(X, y, sample_weight_val=np.full(5, np.nan)), "^sample_weight_val: .* NaN"),
        (lambda X, y: {"groups": np.zeros(399)}, "groups has 399 entries and X 400 rows"),
        (lambda X, y: {"groups": np.zeros((400, 2))}, "^groups must have one entry for each row"),
        (lambda X, y: {"groups": np.full(400, np.nan)}, "groups contains NaN"),
        (lambda X, y: {"groups": np.zeros(400)}, "none of the 1 groups can be held out"),
        (lambda X, y: {"groups": y}, "none of the 10 groups can be held out"),
        (lambda X, y: {"X_val": X[:5]}, "y_val is missing"),
        (lambda X, y: {"y_val": y[:5]}, "X_val is missing"),
        (lambda X, y: {"X_val": X[:0], "y_val": y[:0]}, "D_val is empty"),
        (lambda X, y: {"X_val": X[:5], "y_val": y[:4]}, "both must be equal"),
        (lambda X, y: {"X_val": X[:5, :9], "y_val": y[:5]}, "features"),
        (lambda X, y: {"X_val": X[:5], "y_val": y[:5] + 20}, "labels that y lacks"),
        (lambda X, y: {"X": X[:10], "y": np.arange(10)}, "D_val is empty"),
    ],
)
def test_data(change, match, make, digits):
    data = {"X": digits[0], "y": digits[1]} | change(*digits)
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression()).fit(**data)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("hidden", "Did you mean 'student__hidden'"),
        ("hidn", "Invalid parameter 'hidn'"),
        ("weight_decay", "Did you mean 'optimizer__weight_decay'"),
        ("groups", "Give them to fit"),
        ("eval_set", "Give X_val and y_val to fit"),
        ("lambda_1", "Did you mean 'lambda1'"),
        ("studnet__hidden", "Did you mean 'student__hidden'"),
        ("seed", "Did you mean 'random_state'"),
        ("scaler", "Did you mean 'standardize'"),
        ("hidden_layer_sizes", "such as student__hidden of MLPStudent"),
        ("early_stopping", "EarlyStopping"),
        ("hypergradient", "Did you mean 'meta__hypergradient'"),
        ("val_temperature", "Did you mean 'meta__val_temperature'"),
        ("n_trials", "Did you mean 'meta__n_trials'"),
        ("temperature_bounds", "Did you mean 'loss__temperature_bounds'"),
        ("autocast", "Did you mean 'execution__autocast'"),
        ("meta_clip", "Did you mean 'meta__clip'"),
        ("log10_temperature", "Did you mean 'meta__log10_temperature'"),
        ("cuda_graph", "Did you mean 'execution__cuda_graph'"),
    ],
)
def test_set_params_names_the_nearest(name, mend, make):
    with pytest.raises(ValueError, match=mend):
        make().set_params(**{name: 3})


def test_constructor_takes_what_fit_refuses(make, digits):
    """As scikit-learn's convention has it; nothing that was given is hidden."""
    clf = make(LogisticRegression(), hidden=3, patience=2)
    params = clone(clf).get_params()
    assert params["hidden"] == 3 and params["patience"] == 2
    with pytest.raises(TypeError, match="unexpected parameter 'hidden'"):
        clf.fit(*digits)


@pytest.mark.parametrize("name", ["lambda1_", "fit", "_sample_shape", "student_"])
def test_constructor_refuses_names_of_other_things(name, make, make_distpro):
    for made in (make, make_distpro):
        with pytest.raises(TypeError, match=f"got an unexpected parameter '{name}'"):
            made(**{name: 3})


def test_nested_parameter_of_what_has_none(make):
    with pytest.raises(ValueError, match="has no parameters to set"):
        make(nn.Linear(64, 10)).set_params(teacher__max_depth=3)
    with pytest.raises(ValueError, match="verbose=0 has no parameters to set"):
        make().set_params(verbose__bogus=3)


def test_a_nested_parameter_beside_a_name_is_judged_by_fit(make, digits):
    """Another name, set later, may take it."""
    clf = make(nn.Linear(64, 10), meta="linear").set_params(meta__bogus=3)
    with pytest.raises(TypeError, match="meta='linear' takes no 'bogus'"):
        clf.fit(*digits)


def test_a_nested_parameter_beside_an_object_is_set_on_it(make, digits):
    clf = make(nn.Linear(64, 10), meta=meta.Linear()).set_params(meta__e1=1)
    assert clf.meta.e1 == 1
    with pytest.raises(TypeError, match=r"with meta=Linear\(\), which has its own parameters"):
        make(nn.Linear(64, 10), meta=meta.Linear(), meta__lr=0.1).fit(*digits)
    with pytest.raises(TypeError, match=r"meta=Linear\(\) takes no 'bogus'. It takes \['clip', "):
        make(nn.Linear(64, 10), meta=meta.Linear(), meta__bogus=0.1).fit(*digits)


def test_an_object_takes_the_place_of_a_name_and_its_parameters(make):
    clf = make(nn.Linear(64, 10), meta="linear", meta__lr=0.1, meta__clip=0.5)
    clf.set_params(meta=meta.Gradient(), meta__lr=0.3)
    assert "meta__clip" not in clf.get_params(deep=False)
    assert clf.get_params()["meta__lr"] == clf.meta.lr == 0.3


def test_a_parameter_left_beside_an_object_can_be_set_on_it(make, digits):
    clf = make(nn.Linear(64, 10), meta=meta.Linear(), meta__lr=0.1)
    clf.set_params(meta__lr=0.1)
    assert clf.get_params(deep=False).keys() & {"meta__lr"} == set() and clf.meta.lr == 0.1


def test_a_prefix_like_no_other_is_not_replaced(make_distpro, images):
    with pytest.raises(TypeError, match="'loss__temperature_bounds'") as error:
        make_distpro(loss__temperature_bounds=(1, 5)).fit(*images)
    assert "__" not in str(error.value).partition("Did you mean")[2]


@pytest.mark.parametrize(("name", "value"), [("meta", meta.Linear), ("loss", LogitDistillation)])
def test_a_class_in_place_of_an_object(name, value, make, digits):
    with pytest.raises(
        TypeError, match=rf"{name}={value.__name__} is a class. Give an object: {value.__name__}\("
    ):
        make(nn.Linear(64, 10), **{name: value}).fit(*digits)


def test_nothing_to_predict_with(make, digits):
    from sklearn.exceptions import NotFittedError

    clf = make(LogisticRegression())
    for use in (clf.predict, clf.predict_proba, lambda X: clf.student_, lambda X: clf.history_):
        with pytest.raises(NotFittedError):
            use(digits[0])


def test_student_with_a_logit_too_few_for_two_classes(make, digits):
    X, y = digits
    with pytest.raises(ValueError, match="two for two classes"):
        make(LogisticRegression(), nn.Linear(64, 1)).fit(X, y < 5)


@pytest.mark.parametrize(
    ("params", "n_val", "match"), [({"batch_size": 1}, 9, "batch_size=1"), ({}, 1, "D_val has 1 row")]
)
def test_single_rows_under_batch_normalisation(params, n_val, match, make, digits):
    X, y = digits
    student = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression(), student, **params).fit(X, y, X_val=X[:n_val], y_val=y[:n_val])


@pytest.mark.parametrize("n", [33, 65, 37])
def test_last_batch_of_one_row_under_batch_normalisation(n, make, digits, monkeypatch):
    """It joins the batch before it, in training and in D_val."""
    monkeypatch.undo()
    X, y = digits[0][: n + 33], digits[1][: n + 33]
    student = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
    clf = make(None, student, meta="gradient")
    clf.fit(X[:n], y[:n], teacher_logits=5 * np.eye(10)[y[:n]], X_val=X[n:], y_val=y[n:])
    assert clf.n_iter_ == 2 * (n // 32 + (n % 32 > 1)) and np.isfinite(clf.predict_proba(X)).all()


def test_cuda_where_there_is_none(make, digits):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="no CUDA device"):
        make(LogisticRegression(), device="cuda").fit(*digits)
