"""The losses of logits that have names: values, derivatives, hypergradients, fits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from helpers.logit_losses import REFERENCES, values_of
from sklearn_kd import DistilledClassifier, MLPStudent, hypergradient
from sklearn_kd.losses import LOSSES, LogitDistillation
from sklearn_kd.losses._distillation_loss import AutogradEvaluation, StackedAutogradEvaluation, check_loss
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.tasks._targets import Targets, label_weights

NAMES = list(REFERENCES)
B, K = 7, 5


def draw(seed=0):
    rng = np.random.default_rng(seed)
    z, f = 2 * rng.normal(size=(2, B, K))
    return z, f, rng.integers(0, K, B)


def impossible(f, y, kind):
    """Teacher's logits where some classes, or all but one, have a probability of 0."""
    f = f.copy()
    if kind == "one class":
        f[np.arange(B), (y + 1) % K] = -np.inf
    elif kind == "label":
        f[np.arange(B), y] = -np.inf
    elif kind == "all but the label":
        f[np.arange(K) != y[:, None]] = -np.inf
    return f


def mean_of_reference(name, z, f, y, values, weight=None):
    if weight is None:
        return REFERENCES[name](z, f, y, **values).mean()
    given = {"weight": weight} if name == "dist" else {}
    return (weight * REFERENCES[name](z, f, y, **values, **given)).mean()


def evaluation(name, z, f, y, values, weight=None):
    loss = LOSSES[name]()
    targets = Targets(torch.tensor(y), torch.tensor(f), None if weight is None else torch.tensor(weight))
    return loss.evaluate(torch.tensor(z), targets, values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["possible", "one class", "label", "all but the label"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_equal_those_of_numpy(name, kind, weighted):
    z, f, y = draw()
    f, weight = impossible(f, y, kind), np.linspace(0.5, 1.5, B) if weighted else None
    values = values_of(LOSSES[name](), K)
    found = evaluation(name, z, f, y, values, weight).value
    assert float(found) == pytest.approx(mean_of_reference(name, z, f, y, values, weight), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["possible", "one class", "all but the label"])
def test_derivatives_equal_differences_of_the_numpy_values(name, kind):
    """∂L/∂z along u, and its derivative by each metaparameter: nothing of torch is in what is wanted."""
    z, f, y = draw(1)
    f, u = impossible(f, y, kind), np.random.default_rng(2).normal(size=(B, K))
    values, weight = values_of(LOSSES[name](), K), np.linspace(0.5, 1.5, B)

    def along(values, h=1e-3):
        """Fourth-order central difference of the loss along u."""
        L = [mean_of_reference(name, z + k * h * u, f, y, values, weight) for k in (-2, -1, 1, 2)]
        return (L[0] - 8 * L[1] + 8 * L[2] - L[3]) / (12 * h)

    found = evaluation(name, z, f, y, values, weight)
    assert float((found.gradients[0] * torch.tensor(u)).sum()) == pytest.approx(along(values), rel=1e-6)
    contracted = found.contract(torch.tensor(u))
    for (key, value), own in zip(values.items(), contracted.tolist(), strict=True):
        wanted = (along(values | {key: value + 1e-3}) - along(values | {key: value - 1e-3})) / 2e-3
        assert own == pytest.approx(wanted, rel=1e-4, abs=1e-7), key


# The mean loss of two rows at the values above, from the reference, so that no later change moves both.
GOLDEN = {
    "dkd": [0.183038508, 1.2042228],
    "nkd": [5.37249198, 6.81057726],
    "dist": [0.404100561, 17.4918314],
    "standardized_kd": [0.133311604, 1.6408514],
    "mkd": [3.32772021, 4.84248484],
    "smoothed_kd": [4.52040585, 5.87802772],
}


@pytest.mark.parametrize("name", NAMES)
def test_golden_values(name):
    z, f = torch.tensor([[[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], [[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]])
    loss, y = LOSSES[name](), torch.tensor([0, 2])
    rows = loss.loss(z, f, y, **values_of(loss, 3))
    np.testing.assert_allclose(rows.double(), GOLDEN[name], rtol=1e-5)


def batches():
    torch.manual_seed(0)
    X, X_val = torch.randn(2, 12, 4).double()
    y, y_val = torch.randint(0, K, (2, 12))
    return (X, y), (X_val, y_val), 2 * torch.randn(12, K).double()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "tolerance"), [("exact", 1e-9), ("finite_difference", 1e-3)])
def test_hypergradient_equals_autograd_through_the_step(name, method, tolerance):
    (X, y), (X_val, y_val), f = batches()
    torch.manual_seed(1)
    student, loss = MLPStudent(4, K, hidden=6).double(), LOSSES[name]()
    given = values_of(loss, K)
    values = {
        key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in given.items()
    }
    weights = dict(student.named_parameters())
    train = loss.loss(functional_call(student, weights, (X,)), f, y, **values).mean()
    gradients = torch.autograd.grad(train, list(weights.values()), create_graph=True)
    stepped = {n: w - 0.3 * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    val = cross_entropy(functional_call(student, stepped, (X_val,)), y_val)
    wanted = torch.stack(torch.autograd.grad(val, list(values.values()))).numpy()
    found = hypergradient(student, (X, y), (X_val, y_val), f, loss=name, lr=0.3, method=method, **given)
    assert np.abs(wanted).min() > 1e-6
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_special_cases_are_kd():
    z, f, y = map(torch.tensor, draw())
    at = {"lambda1": 0.3, "temperature": 2.5}
    kd = LogitDistillation().loss(z, f, y, **at)
    smoothed = LOSSES["smoothed_kd"]().loss(z, f, y, **at, smoothing=0.0)
    both = {"student_temperature": 2.5, "teacher_temperature": 2.5}
    torch.testing.assert_close(smoothed, kd)
    torch.testing.assert_close(LOSSES["mkd"]().loss(z, f, y, lambda1=0.3, **both), kd)
    # Eq. 6 of Zhao et al.: KL = TCKD + (1 − t) NCKD.
    t = (f / 2.5).softmax(1)
    wanted = 2.5**2 * (t * (t.log() - (z / 2.5).log_softmax(1))).sum(1)
    found = LOSSES["dkd"]().loss(
        z, f, y, lambda1=0.0, temperature=2.5, alpha=1.0, beta=1 - t.gather(1, y[:, None])[:, 0]
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_labels_follow_the_teacher_alone(name):
    z, f, y = map(torch.tensor, draw())
    loss, values = LOSSES[name](), values_of(LOSSES[name](), K)
    unknown = y.clone()
    unknown[:2] = -1
    found = loss.loss(z, f, unknown, **values)
    of_teacher = loss.loss(z, f, torch.where(unknown < 0, f.argmax(1), y), **values | {"lambda1": 0.0})
    torch.testing.assert_close(found[:2], 0.7 * of_teacher[:2])
    of_labels = loss.loss(z, f, y, **values | {"lambda1": 1.0})
    wanted = 0.3 * label_weights(unknown) * of_labels + 0.7 * of_teacher
    torch.testing.assert_close(found[2:], wanted[2:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1e3])
def test_float32_and_autocast_stay_finite(name, dtype, size):
    z, f, y = (torch.tensor(part) for part in draw())
    z, f = size * z.float(), 30 * f.float()
    f[0] = -torch.inf
    f[0, 2] = 0.0
    loss, values = LOSSES[name](), values_of(LOSSES[name](), K)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = AutogradEvaluation(loss, z.to(dtype), Targets(y, f), values, differentiable=True)
        derivatives = found.derivatives()
    assert found.gradients[0].dtype is dtype
    assert all(bool(part.isfinite().all()) for part in (found.value, found.gradients[0], derivatives))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_stacked_students_are_evaluated_as_one_by_one(name, weighted):
    torch.manual_seed(0)
    S, loss = 3, LOSSES[name]()
    z, f, u = torch.randn(3, S, B, K).double()
    y, weight = torch.randint(0, K, (S, B)), torch.rand(S, B).double() if weighted else None
    factors = torch.tensor([0.8, 1.0, 1.2]).double().reshape(S, 1, 1)
    values = {key: factors * value for key, value in values_of(loss, K).items()}
    found = loss.evaluate(z, Targets(y, f, weight), values)
    assert type(found) is StackedAutogradEvaluation
    for s in range(S):
        targets = Targets(y[s], f[s], None if weight is None else weight[s])
        own = loss.evaluate(z[s], targets, {key: value[s, 0, 0] for key, value in values.items()})
        torch.testing.assert_close(found.value[s], own.value)
        torch.testing.assert_close(found.gradients[0][s], own.gradients[0])
        torch.testing.assert_close(found.contract(u)[:, s], own.contract(u[s]))
        torch.testing.assert_close(found.derivatives()[:, s], own.derivatives())


def test_only_declared_losses_are_stacked():
    class Changed(LOSSES["dkd"]):
        def loss(self, *args, **values):
            return super().loss(*args, **values)

    class Evaluated(LOSSES["dkd"]):
        def evaluate(self, *args, **values):
            return super().evaluate(*args, **values)

    assert all(LogitObjective(own()).batch_key() is None for own in (Changed, Evaluated))
    keys = {LogitObjective(LOSSES[name]()).batch_key() for name in NAMES}
    assert len(keys) == len(NAMES) and None not in keys
    assert LogitObjective(LOSSES["dkd"](beta=2.0)).batch_key() not in keys


def test_weights_of_rows_count_like_repeated_rows():
    z, f, y = draw()
    counts = np.array([1, 2, 1, 1, 3, 1, 1])
    weight, values = counts * B / counts.sum(), values_of(LOSSES["dist"](), K)
    weighted = evaluation("dist", z, f, y, values, weight)
    repeated = evaluation("dist", *(np.repeat(part, counts, axis=0) for part in (z, f, y)), values)
    torch.testing.assert_close(weighted.value, repeated.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_by_name_moves_all_metaparameters(name):
    X, y = load_iris(return_X_y=True)
    start = {"temperature": 2.0}
    if name == "mkd":
        start = {"loss__student_temperature": 2.0, "loss__teacher_temperature": 2.0}
    clf = DistilledClassifier(
        LogisticRegression(max_iter=1000), MLPStudent, loss=name, meta="linear", lr=0.03, **start,
        max_epochs=3, batch_size=30, search_epochs=None, random_state=0,
    )  # fmt: skip
    clf.fit(X, y, sample_weight=np.linspace(0.5, 1.5, len(X)))
    assert list(clf.metaparameters_) == list(LOSSES[name]().metaparameters(3))
    path = clf.metaparameter_path_
    assert all(np.ptp(path[key]) > 0 for key in clf.metaparameters_), clf.metaparameters_
    assert clf.score(X, y) > 0.6


def test_shortlist_stacks_its_candidates_without_a_warning(recwarn, caplog):
    caplog.set_level("INFO", "sklearn_kd")
    (X, y), f = load_iris(return_X_y=True), np.random.default_rng(0).normal(size=(150, 3))
    for name in NAMES:
        clf = DistilledClassifier(
            None, MLPStudent, loss=name, max_epochs=1, search_epochs=1, random_state=0
        ).fit(X, y, teacher_logits=f)
        assert len(clf.trials_) == 3
    assert not [str(w.message) for w in recwarn if "Without effect" in str(w.message)]
    assert "3 students are trained together." in caplog.text and "one by one" not in caplog.text


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dkd", {"beta": 30}, r"beta: start=30 must lie within bounds=\(0.1, 20\)"),
        ("dkd", {"alpha": [1.0, 2.0]}, r"alpha=\[1.0, 2.0\] must be one number"),
        ("mkd", {"student_temperature": 0.5}, "student_temperature: start=0.5 must lie within bounds"),
        ("smoothed_kd", {"smoothing": 1.0}, "smoothing: start=1.0 must lie within bounds"),
        ("dist", {"temperature_bounds": (0, 1)}, "temperature_bounds"),
    ],
)
def test_wrong_parameters_are_refused(name, parameters, message):
    given = {f"loss__{key}": value for key, value in parameters.items()}
    clf = DistilledClassifier(LogisticRegression(), MLPStudent, loss=name, **given)
    with pytest.raises(ValueError, match=message):
        clf.fit(*load_iris(return_X_y=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_teacher_and_several_labels_are_refused(name):
    X, y = load_iris(return_X_y=True)
    clf = DistilledClassifier(None, MLPStudent, loss=name)
    with pytest.raises(ValueError, match="teacher=None leaves nothing to distil"):
        clf.fit(X, y)
    clf.set_params(teacher=LogisticRegression())
    with pytest.raises(ValueError, match="is for one label per row, and y has several"):
        clf.fit(X, (np.eye(3, dtype=int)[y] + [1, 0, 0]).clip(max=1))


def test_a_parameter_of_another_loss_beside_the_default_is_said_to_be_unused():
    X, y = load_iris(return_X_y=True)
    clf = DistilledClassifier(None, MLPStudent, loss__beta=2.0, meta="fixed", max_epochs=1)
    with pytest.warns(UserWarning, match=r"loss__beta=2.0 with loss='kd'.*one of \['dkd', 'dist'\]"):
        clf.fit(X, y, teacher_logits=np.zeros((len(y), 3)))


def test_z_scores_of_two_classes_are_refused():
    X, y = load_iris(return_X_y=True)
    clf = DistilledClassifier(LogisticRegression(), MLPStudent, loss="standardized_kd")
    with pytest.raises(ValueError, match="those of 2 classes are then −1 and 1"):
        clf.fit(X[:100], y[:100])


def test_weights_of_rows_reach_a_loss_that_takes_them():
    class Counting(LOSSES["dist"]):
        takes_row_weight = True

        def loss(self, logits, teacher_logits, labels, *, row_weight=None, **values):
            assert row_weight is not None
            return logits.sum(dim=1)

    check_loss(Counting(), values_of(Counting(), 3), 3, weighted=True)
