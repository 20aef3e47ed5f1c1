"""The task says what y is; estimators and plans ask nothing else about it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.tasks._classification import Classification

WORDS = np.array(["pear", "fig", "apple", "fig", "pear", "fig"])


def test_labels_there_and_back():
    task, codes = Classification.from_targets(WORDS)
    assert task.n_outputs == 3 and task.output_labels.tolist() == ["apple", "fig", "pear"]
    assert codes.tolist() == [2, 1, 0, 1, 2, 1]
    np.testing.assert_array_equal(task.decode(codes), WORDS)
    np.testing.assert_array_equal(task.encode(WORDS[:2]), codes[:2])
    assert task.fitted_attributes()["classes_"] is task.classes
    with pytest.raises(ValueError, match=r"y_val has labels that y lacks: \['plum'\]"):
        task.encode(np.array(["fig", "plum"]), "y_val")


def test_logits_become_labels_probabilities_and_a_score():
    task, _ = Classification.from_targets(WORDS)
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    predicted = task.predictions(logits)
    assert predicted.tolist() == ["fig", "apple"]
    torch.testing.assert_close(task.probabilities(logits).sum(dim=1), torch.ones(2))
    torch.testing.assert_close(task.log_probabilities(logits).exp(), task.probabilities(logits))
    assert task.score(np.array(["fig", "pear"]), predicted) == 0.5
    assert task.score(np.array(["fig", "pear"]), predicted, np.array([3.0, 1.0])) == 0.75


def test_one_class_is_refused_by_rows_of_positive_weight():
    task, codes = Classification.from_targets(WORDS)
    task.check_learnable(codes, None)
    with pytest.raises(ValueError, match=r"y has 1 class .* of positive weight"):
        task.check_learnable(codes, np.array([0, 1, 0, 1, 0, 1.0]))


class Backwards(Classification):
    """Encodes the labels from the last to the first."""

    @classmethod
    def from_targets(cls, targets, weight=None):
        task, codes = super().from_targets(targets, weight)
        return cls(task.classes[::-1].copy()), task.n_outputs - 1 - codes

    def encode(self, targets, name="y"):
        return self.n_outputs - 1 - Classification(self.classes[::-1]).encode(targets, name)


class BackwardsClassifier(DistilledClassifier):
    _task_type = Backwards


def test_an_estimator_takes_another_task(digits):
    """Outputs in another order: teacher, D_val, prediction and score follow."""
    X, y = digits
    clf = BackwardsClassifier(
        LogisticRegression(), MLPStudent, max_epochs=12, batch_size=32, random_state=0, device="cpu"
    )
    clf.fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    assert clf.classes_.tolist() == list(range(9, -1, -1))
    assert clf.score(X, y) > 0.6
    np.testing.assert_array_equal(clf.classes_[clf.predict_proba(X).argmax(axis=1)], clf.predict(X))
