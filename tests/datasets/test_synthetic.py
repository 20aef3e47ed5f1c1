import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sklearn_kd.datasets import make_metaparameter_synthetic


def test_sizes_and_columns_of_the_synthetic_set():
    data = make_metaparameter_synthetic(random_state=0)
    assert data.X_teacher.shape == (200, 3) and data.y_teacher.shape == (200,)
    for part, n in (("train", 15), ("valid", 15), ("test", 200)):
        x, seen = data[f"X_{part}"], data[f"X_{part}_teacher"]
        assert x.shape == seen.shape == (n, 3) and data[f"y_{part}"].shape == (n,)
        np.testing.assert_array_equal(x[:, :2], seen[:, :2])
        signs = np.sign(x[:, 0]) + np.sign(x[:, 1])
        np.testing.assert_array_equal(x[:, 2], signs > 0)  # as the paper's text writes both
        np.testing.assert_array_equal(seen[:, 2], signs + 0.1 > 0)
    assert make_metaparameter_synthetic(7, 8, 9, 10).X_valid.shape == (9, 3)


def test_the_rows_are_those_of_the_notebook():
    rng = np.random.RandomState(42)
    x, noise = rng.randn(430, 2), rng.randn(430)
    y = (np.sign(x[:, 0] * x[:, 1] + 0.5 * noise) + 1) // 2
    data = make_metaparameter_synthetic(
        student_feature="product", teacher_feature="and", random_state=42)  # fmt: skip
    np.testing.assert_array_equal(data.X_teacher[:, :2], x[:200])
    np.testing.assert_array_equal(data.X_train[:, :2], x[200:215])
    np.testing.assert_array_equal(data.X_test, np.c_[x, np.sign(x[:, 0] * x[:, 1])][-200:])
    np.testing.assert_array_equal(data.y_test, y[-200:])


def test_the_notebook_s_accuracy_without_distillation():
    data = make_metaparameter_synthetic(
        student_feature="product", teacher_feature="and", random_state=42)  # fmt: skip
    torch.manual_seed(0)
    student = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    X, y = torch.tensor(data.X_train, dtype=torch.float32), torch.tensor(data.y_train)
    for _ in range(2000):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(student(X), y).backward()
        optimizer.step()
    said = student(torch.tensor(data.X_test, dtype=torch.float32)).argmax(1).numpy()
    assert np.mean(said == data.y_test) == pytest.approx(0.63)


def test_seeds_and_features():
    one, same, other = (make_metaparameter_synthetic(random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.X_test, same.X_test)
    assert not np.array_equal(one.X_test, other.X_test)
    equal = make_metaparameter_synthetic(student_feature="or", random_state=0)
    np.testing.assert_array_equal(one.X_test[:, :2], equal.X_test[:, :2])
    np.testing.assert_array_equal(one.y_test, equal.y_test)
    np.testing.assert_array_equal(equal.X_test, equal.X_test_teacher)


def test_classes_are_balanced_and_the_noise_is_that_of_the_paper():
    data = make_metaparameter_synthetic(n_test=50_000, student_feature="product", random_state=0)
    assert data.y_test.mean() == pytest.approx(0.5, abs=0.01)
    # E[Phi(|x1 x2| / 0.5)]; it would be 0.728 were 0.5 the variance
    assert np.mean((data.X_test[:, 2] > 0) == data.y_test) == pytest.approx(0.7689, abs=0.006)


def test_only_the_noise_free_feature_makes_it_trivial():
    def accuracy(feature, columns):
        data = make_metaparameter_synthetic(
            n_train=200, n_test=5_000, delta=0, student_feature=feature, random_state=0)  # fmt: skip
        model = LogisticRegression(C=100).fit(data.X_train[:, columns], data.y_train)
        return model.score(data.X_test[:, columns], data.y_test)

    assert accuracy("product", [0, 1, 2]) == 1
    assert accuracy("and", [0, 1, 2]) < 0.9 and accuracy("or", [0, 1, 2]) < 0.9
    assert accuracy("product", [0, 1]) < 0.6


@pytest.mark.parametrize(
    ("name", "value"), [("n_train", 0), ("delta", -1), ("student_feature", "xor"), ("n_test", 2.5)]
)
def test_wrong_parameters_of_the_synthetic_set_are_refused(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of make_metaparameter_synthetic must be"):
        make_metaparameter_synthetic(**{name: value})
