"""scikit-learn's callbacks, which came with version 1.9, hear of teacher and epochs."""

import gc
import pickle
import weakref

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring
from skorch.utils import noop
from torch import nn

from helpers.callbacks import Recorder

try:
    from sklearn.callback import ProgressBar, ScoringMonitor
except ImportError:
    ScoringMonitor = None

needs_callbacks = pytest.mark.skipif(
    ScoringMonitor is None, reason="scikit-learn before 1.9 has no callbacks"
)


class Auto(Recorder):
    """Passed on by meta-estimators."""

    max_propagation_depth = None


@pytest.mark.skipif(ScoringMonitor is not None, reason="this scikit-learn has callbacks")
def test_older_scikit_learn_has_none(make):
    assert not hasattr(make(), "set_callbacks")


@needs_callbacks
def test_teacher_and_epochs_are_the_tasks_of_fit(make, digits):
    heard = Recorder()
    X, y = digits[0], digits[1].astype(str)
    make(LogisticRegression(max_iter=500)).set_callbacks(heard).fit(X, y)
    assert heard.heard == [
        "setup",
        ("begin", "fit", 0),
        ("begin", "teacher", 0),
        ("end", "teacher", 0),
        ("begin", "epoch", 1),
        ("end", "epoch", 1),
        ("begin", "epoch", 2),
        ("end", "epoch", 2),
        ("end", "fit", 0),
        "teardown",
    ]
    np.testing.assert_array_equal(heard.rows[0], X)
    np.testing.assert_array_equal(heard.rows[1], y)


@needs_callbacks
@pytest.mark.parametrize("meta", ["none", "linear"])
def test_fitted_estimator_is_what_a_shorter_fit_gives(meta, make, digits, logits):
    """Kept from the end of an epoch, it does not change as training goes on."""
    given = {} if meta == "none" else {"teacher_logits": logits}
    student = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 10))
    heard = Recorder()
    make(None, student, meta=meta, max_epochs=4).set_callbacks(heard).fit(*digits, **given)
    for epochs, then in enumerate(heard.students, start=1):
        shorter = make(None, student, meta=meta, max_epochs=epochs).fit(*digits, **given)
        np.testing.assert_array_equal(then.predict_proba(digits[0]), shorter.predict_proba(digits[0]))
        assert (then.lambda1_, then.n_iter_) == (shorter.lambda1_, shorter.n_iter_)
        assert len(then.history_) == epochs
    assert len(heard.students) == 4


@needs_callbacks
def test_callback_can_end_the_fit(make, digits, logits):
    heard = Recorder(stop_after=3)
    clf = make(max_epochs=20).set_callbacks(heard).fit(*digits, teacher_logits=logits)
    assert len(clf.history_) == 3 and clf.n_iter_ == len(clf.metaparameter_path_) == 3 * 12
    assert heard.heard[-2:] == [("end", "fit", 0), "teardown"]


@needs_callbacks
def test_beside_skorch_callbacks(make, digits, logits, tmp_path):
    """An epoch that another callback breaks off is ended too; a checkpoint can be pickled."""
    heard = Recorder()
    skorch = [
        EpochScoring("accuracy", name="train_acc", on_train=True),
        Checkpoint(dirname=tmp_path, monitor=None, f_pickle="net.pkl"),
        EarlyStopping(patience=2, threshold=10.0, sink=noop),
    ]
    clf = make(callbacks=skorch, max_epochs=20).set_callbacks(heard).fit(*digits, teacher_logits=logits)
    assert len(clf.history_) == 3 and "train_acc" in clf.history_[-1]
    begun, ended = ([h[1:] for h in heard.heard if h[0] == what] for what in ("begin", "end"))
    assert sorted(begun) == sorted(ended) == [("epoch", i) for i in range(3)] + [("fit", 0)]
    again = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert len(again.history) == 3


@needs_callbacks
@pytest.mark.parametrize("meta", ["naive", "gradient", "hyperopt"])
def test_listening_changes_nothing(meta, make, digits):
    teacher = LogisticRegression(max_iter=500)
    alone = make(teacher, meta=meta).fit(*digits)
    heard = make(teacher, meta=meta).set_callbacks(ScoringMonitor(scoring="neg_log_loss")).fit(*digits)
    np.testing.assert_array_equal(alone.predict_proba(digits[0]), heard.predict_proba(digits[0]))


@needs_callbacks
def test_scoring_monitor(make, digits, logits):
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    weight = np.linspace(0.1, 2, 400)
    clf = make(max_epochs=8, optimizer__momentum=0.9).set_callbacks(monitor)
    clf.fit(*digits, teacher_logits=logits, sample_weight=weight)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in epochs] == list(range(8))
    assert epochs[-1]["accuracy"] == pytest.approx(clf.score(*digits, sample_weight=weight))
    assert epochs[-1]["accuracy"] > epochs[0]["accuracy"] and epochs[-1]["accuracy"] > 0.7


@needs_callbacks
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_under_a_search(n_jobs, make, digits, logits):
    """Set on the classifier, it hears the epochs of every fold, and of the refit."""
    monitor = ScoringMonitor(scoring="accuracy")
    search = GridSearchCV(make().set_callbacks(monitor), {"lr": [0.01, 0.1]}, cv=2, n_jobs=n_jobs)
    search.fit(*digits, teacher_logits=logits)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == (2 * 2 + 1) * 2
    assert len({row["parent_task_id_path"] for row in epochs}) == 2 * 2 + 1
    assert epochs[-1]["accuracy"] > 0.1


@needs_callbacks
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bar_nested_under_a_search(n_jobs, make, digits, logits, capsys):
    pytest.importorskip("rich", reason="scikit-learn's ProgressBar needs rich")
    pipeline = make_pipeline(StandardScaler(), make())
    search = GridSearchCV(pipeline, {"distilledclassifier__lr": [0.01]}, cv=2, n_jobs=n_jobs)
    search.set_callbacks(ProgressBar(max_propagation_depth=None))
    search.fit(*digits, distilledclassifier__teacher_logits=logits)
    shown = capsys.readouterr().out
    assert shown.count("DistilledClassifier - fit") == 3 and "GridSearchCV - fit" in shown
    assert "100%" in shown


@needs_callbacks
def test_propagated_callbacks_are_taken_away_again(make, digits, logits):
    heard = Auto()
    pipeline = make_pipeline(StandardScaler(), make()).set_callbacks(heard)
    pipeline.fit(*digits, distilledclassifier__teacher_logits=logits)
    assert heard.heard.count("setup") == heard.heard.count("teardown") == 1
    assert [h[1] for h in heard.heard if h[0] == "end"].count("epoch") == 2
    own = pipeline[-1].get_params(deep=False)
    assert not [name for name in vars(pipeline[-1]) if "callback" in name and name not in own]


@needs_callbacks
@pytest.mark.parametrize("teacher", [LogisticRegression(), nn.Linear(64, 10)], ids=["estimator", "module"])
def test_clones_carry_the_callbacks(teacher, make, digits):
    heard = Recorder()
    copied = clone(make(teacher).set_callbacks(heard))
    copied.fit(*digits)
    assert ("end", "epoch", 2) in heard.heard
    heard.heard.clear()
    clone(copied.set_callbacks()).fit(*digits)
    assert heard.heard == []


@needs_callbacks
def test_refused_input_leaves_nothing_set_up(make, digits, logits):
    heard = Recorder()
    clf = make().set_callbacks(heard)
    with pytest.raises(ValueError, match="teacher_logits"):
        clf.fit(*digits, teacher_logits=logits[:-1])
    assert heard.heard == []

    class Failing(nn.Linear):
        def forward(self, x):
            if self.training and len(x) > 2:  # the two rows that a student is tried on pass
                raise RuntimeError("out of order")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="out of order"):
        make(student=Failing(64, 10)).set_callbacks(heard).fit(*digits, teacher_logits=logits)
    assert heard.heard == ["setup", ("begin", "fit", 0), ("begin", "epoch", 0), "teardown"]


@needs_callbacks
def test_fitted_estimator_keeps_neither_data_nor_report(make, digits, logits):
    heard, X = Recorder(), digits[0].copy()
    listening = make().set_callbacks(heard).fit(X, digits[1], teacher_logits=logits)
    alone = make().fit(*digits, teacher_logits=logits)
    assert len(pickle.dumps(listening.net_)) - len(pickle.dumps(alone.net_)) < 1000
    data, heard.rows = weakref.ref(X), None
    heard.students.clear()
    del X
    gc.collect()
    assert data() is None
    again = pickle.loads(pickle.dumps(listening))
    np.testing.assert_array_equal(again.predict_proba(digits[0]), alone.predict_proba(digits[0]))
