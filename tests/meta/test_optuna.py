"""The strategy that asks Optuna: its draws are Optuna's, its trials this library's, its studies shared."""

import dataclasses
import multiprocessing
import os
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods, meta
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Metaparameter, MetaparameterSpace
from sklearn_kd.runtime._ranks import Ranks

optuna = pytest.importorskip("optuna")

SPACE = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=10))
COLUMNS = ["lambda1", "temperature", "val_loss"]


def surrogate(lambda1, temperature):
    """A bowl around lambda1 = 0.3, T = 2.5, that is not finite at large lambda1."""
    return np.nan if lambda1 > 0.95 else (lambda1 - 0.3) ** 2 + (np.log10(temperature) - 0.4) ** 2


def losses(settings, n_jobs=None):
    return [surrogate(**setting) for setting in settings]


def made_context(seed=0, evaluate_all=losses, signature="", space=SPACE):
    start = {"lambda1": 0.5, "temperature": 1.0}
    rng = np.random.default_rng(seed)
    return meta.StartContext(start, space, rng, evaluate_all, signature=lambda: signature)


def in_file(path, **params):
    return meta.Optuna(storage=f"sqlite:///{path}/trials.db", study_name="it", **params)


def sampler(seed=0):
    return optuna.samplers.TPESampler(n_startup_trials=4, seed=seed)


# --------------------------------------------------------------------------------------
# What is tried


def test_draw_by_draw_what_optuna_itself_tries():
    def objective(trial):
        return surrogate(
            trial.suggest_float("lambda1", 0, 1), trial.suggest_float("temperature", 0.1, 10, log=True)
        )

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=20)
    strategy = meta.Optuna(20, sampler())
    best = strategy.start(made_context())
    for name in ("lambda1", "temperature"):
        np.testing.assert_array_equal(strategy.trials_[name], [t.params[name] for t in study.trials])
    assert best == study.best_params


def test_no_worse_than_random_search_on_a_known_surface():
    def found(strategy, seed):
        return surrogate(**strategy.start(made_context(seed)))

    by_optuna, by_random = (
        np.mean([found(strategy, seed) for seed in range(8)])
        for strategy in (meta.Optuna(50), meta.Random(n_trials=50))
    )
    assert by_optuna < by_random / 2


def test_components_are_drawn_one_by_one_and_within_their_bounds():
    space = MetaparameterSpace(
        {
            "weights": Metaparameter(1.0, shape=(3,), bounds=(0.5, 8.0), coordinate="log"),
            "lambda1": Metaparameter(bounds=(0.2, 0.4)),
        }
    )
    strategy = meta.Optuna(12)
    context = made_context(
        space=space, evaluate_all=lambda settings, n_jobs: [s["weights"].sum() for s in settings]
    )
    best = strategy.start(context)
    weights, lambda1 = strategy.trials_["weights"], strategy.trials_["lambda1"]
    assert weights.shape == (12, 3) and len(np.unique(weights)) == 36
    assert (
        (weights >= 0.5).all() and (weights <= 8).all() and (lambda1 >= 0.2).all() and (lambda1 <= 0.4).all()
    )
    np.testing.assert_array_equal(best["weights"], weights[weights.sum(axis=1).argmin()])


def test_trials_asked_for_at_once_are_evaluated_at_once():
    sizes = []

    def evaluate_all(settings, n_jobs=None):
        sizes.append((len(settings), n_jobs))
        return losses(settings)

    meta.Optuna(7, n_at_once=3, n_jobs=2).start(made_context(evaluate_all=evaluate_all))
    assert sizes == [(3, 2), (3, 2), (1, 2)]


def test_a_fit_repeats_to_the_bit_and_takes_the_best(make, digits, logits):
    strategy = meta.Optuna(4, sampler=optuna.samplers.TPESampler(n_startup_trials=2, seed=3))
    level = optuna.logging.get_verbosity()
    one, two = (make(meta=strategy).fit(*digits, teacher_logits=logits) for _ in range(2))
    for name in COLUMNS:
        np.testing.assert_array_equal(one.trials_[name], two.trials_[name])
    np.testing.assert_array_equal(one.predict_proba(digits[0]), two.predict_proba(digits[0]))
    best = one.trials_[one.trials_["val_loss"].argmin()]
    assert (one.lambda1_, one.temperature_) == (best["lambda1"], best["temperature"])
    assert not hasattr(strategy, "trials_") and optuna.logging.get_verbosity() == level
    seeds = [make(meta=meta.Optuna(1), random_state=k).fit(*digits, teacher_logits=logits) for k in (0, 0, 1)]
    assert seeds[0].lambda1_ == seeds[1].lambda1_ != seeds[2].lambda1_


def test_by_name_in_a_search_and_in_a_comparison(make, digits, logits, tmp_path):
    params = {"search_epochs": 1, "retrain": "auto", "meta": "optuna", "meta__n_trials": 3}
    clf = make(**params).fit(*digits, teacher_logits=logits)
    best = clf.trials_[clf.trials_["val_loss"].argmin()]
    assert clf.lambda1_ == best["lambda1"] and clf.process_.settings["meta"] == "Optuna(n_trials=3)"
    methods = {"naive": {"meta": "naive"}, "optuna": {"meta": meta.Optuna(2)}}
    found = compare_methods(
        make(), *digits, methods=methods, cv=2, teacher_logits=logits, random_state=0, n_jobs=1
    )
    assert (found.results_["method"] == "optuna").sum() == 2
    clf.save(tmp_path / "it.safetensors")
    again = DistilledClassifier.load(tmp_path / "it.safetensors")
    np.testing.assert_array_equal(again.trials_["val_loss"], clf.trials_["val_loss"])
    assert again.meta == "optuna" and again.get_params()["meta__n_trials"] == 3


# --------------------------------------------------------------------------------------
# Studies that are kept


def shares(path, k, meet, queue):
    tried = []

    def evaluate_all(settings, n_jobs=None):
        if not tried:
            meet.wait(60)  # so that both take part
        tried.extend(setting["lambda1"] for setting in settings)
        return losses(settings)

    strategy = in_file(path, n_trials=8)
    best = strategy.start(made_context(evaluate_all=evaluate_all))
    queue.put((k, tried, best, strategy.trials_))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_share_a_study(tmp_path):
    before = in_file(tmp_path, n_trials=2, sampler=sampler())  # unseeded, both trials could be lost
    before.start(made_context())
    context = multiprocessing.get_context("fork")
    meet, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=shares, args=(tmp_path, k, meet, queue)) for k in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    whole = in_file(tmp_path, n_trials=8)
    whole.start(made_context(evaluate_all=None))
    tried = [lambda1 for _, of_one, *_ in found for lambda1 in of_one]
    assert all(of_one for _, of_one, *_ in found) and len(tried) in (6, 7)  # nor does each try all
    assert sorted([*before.trials_["lambda1"], *tried]) == sorted(whole.trials_["lambda1"])
    assert len(set(whole.trials_["lambda1"])) == len(whole.trials_)  # nor what the other has tried
    for _, _, best, seen in found:  # the best of both, of those that were finished
        assert len(seen) >= 8 and set(seen["lambda1"]) <= set(whole.trials_["lambda1"])
        assert surrogate(**best) == np.nanmin(seen["val_loss"])


def test_a_study_is_continued_and_a_whole_one_trains_nothing(make, digits, logits, tmp_path, monkeypatch):
    def fit(n_trials, **params):
        return make(meta=in_file(tmp_path, n_trials=n_trials), **params).fit(*digits, teacher_logits=logits)

    few, more = fit(2), fit(3)
    assert more.trials_[:2].tolist() == few.trials_.tolist() and len(more.trials_) == 3
    asked = []
    ask = optuna.study.Study.ask
    monkeypatch.setattr(optuna.study.Study, "ask", lambda *given: asked.append(1) or ask(*given))
    again = fit(3)
    assert not asked and again.trials_.tolist() == more.trials_.tolist()
    assert (again.lambda1_, again.temperature_) == (more.lambda1_, more.temperature_)
    np.testing.assert_array_equal(again.predict_proba(digits[0]), more.predict_proba(digits[0]))


def test_a_seeded_sampler_does_not_draw_the_first_trials_of_a_study_again(tmp_path):
    for n_trials in (3, 6):
        strategy = in_file(tmp_path, n_trials=n_trials, sampler=sampler())
        strategy.start(made_context())
    assert len(set(strategy.trials_["lambda1"])) == 6


def test_a_trial_that_was_killed_as_it_was_asked_for_is_passed_over(tmp_path):
    strategy = in_file(tmp_path, n_trials=2, sampler=sampler())
    strategy.start(made_context())
    study = optuna.load_study(storage=strategy.storage, study_name="it")
    study.ask()  # still running
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)  # as a storage does that misses its heartbeat
    more = in_file(tmp_path, n_trials=4)
    more.start(made_context())
    assert len(more.trials_) == 4


def test_a_storage_whose_tables_another_process_makes_is_opened_again(tmp_path, monkeypatch):
    opened, errors = optuna.storages.get_storage, [RuntimeError("table trials already exists")]

    def get_storage(storage):
        if errors:
            raise errors.pop()
        return opened(storage)

    monkeypatch.setattr(optuna.storages, "get_storage", get_storage)
    strategy = in_file(tmp_path, n_trials=1)
    strategy.check(SPACE)
    assert not errors


class Second(Ranks):
    """The second of two processes, which is sent what the first one has."""

    def __init__(self, sent):
        super().__init__()
        self.rank, self.sent = 1, sent

    def broadcast(self, value):
        return self.sent.pop(0)


class First(Ranks):
    def __init__(self):
        super().__init__()
        self.sent = []

    def broadcast(self, value):
        self.sent.append(value)
        return value


def test_the_first_of_the_processes_that_train_one_student_asks_the_study(tmp_path):
    strategies = [in_file(tmp_path, n_trials=3, sampler=sampler()) for _ in range(2)]
    first = First()
    contexts = [dataclasses.replace(made_context(), ranks=ranks) for ranks in (first, Second(first.sent))]
    best = [strategy.start(context) for strategy, context in zip(strategies, contexts, strict=True)]
    assert best[0] == best[1] and not first.sent
    for name in (*COLUMNS, "seconds"):  # column by column, as a lost trial's loss is NaN
        np.testing.assert_array_equal(strategies[0].trials_[name], strategies[1].trials_[name])


@pytest.mark.parametrize(
    "change", ["random_state", "lr", "teacher", "rows", "labels", "X", "val_temperature"]
)
def test_losses_of_another_fit_are_not_taken_for_ones_own(change, make, digits, logits, tmp_path):
    X, y = digits
    make(meta=in_file(tmp_path, n_trials=1)).fit(X, y, teacher_logits=logits)
    params, strategy, rows = {}, in_file(tmp_path, n_trials=2), slice(None)
    if change == "random_state":
        params = {"random_state": 1}
    elif change == "lr":
        params = {"lr": 0.11}
    elif change == "teacher":
        logits = logits + np.eye(400, 10, dtype=np.float32)
    elif change == "rows":
        rows = slice(0, 390)
    elif change == "labels":
        y = np.roll(y, 1)
    elif change == "X":
        X = X * 2
    else:
        strategy.val_temperature = 2.0
    with pytest.raises(ValueError, match=r"study_name='it' is in storage=.* with trials of another fit"):
        make(meta=strategy, **params).fit(X[rows], y[rows], teacher_logits=logits[rows])


# --------------------------------------------------------------------------------------
# What is refused


def test_without_optuna(make, digits, logits, no_training, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"needs the package optuna.*pip install 'sklearn-kd\[optuna\]'"):
        make(meta="optuna").fit(*digits, teacher_logits=logits)


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ({"sampler": "tpe"}, TypeError, "sampler='tpe' must be a sampler of optuna"),
        ({"sampler": optuna.samplers.TPESampler}, TypeError, "an instance and not its class"),
        ({"storage": 3, "study_name": "a"}, TypeError, "storage=3 must be the address of a database"),
        (
            {"storage": "a.db", "study_name": "a"},
            ValueError,
            "storage='a.db' is not the address of a database",
        ),
        ({"storage": "sqlite://", "study_name": 3}, TypeError, "study_name=3 must be a str or None"),
        ({"storage": "sqlite://"}, ValueError, "storage='sqlite://' without study_name"),
        ({"study_name": "a"}, ValueError, "study_name='a' without storage"),
        ({"sampler": optuna.samplers.GridSampler({"lambda1": [0.1]})}, TypeError, "ends a study by itself"),
        (
            {"storage": "sqlite:////no/a.db", "study_name": "a"},
            ValueError,
            r"cannot be opened[\s\S]*folder exists",
        ),
        ({"n_trials": 0}, ValueError, "n_trials=0 must be an integer of at least 1"),
        ({"log10_temperature": (1, 0)}, ValueError, "must be two finite numbers, low <= high"),
    ],
)
def test_parameters_that_cannot_be_used(params, kind, message, make, digits, no_training):
    with pytest.raises(kind, match=message):
        make(LogisticRegression(), meta=meta.Optuna(**params)).fit(*digits)


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
def test_a_study_that_does_not_minimise_one_loss(directions, make, digits, tmp_path, no_training):
    strategy = in_file(tmp_path)
    optuna.create_study(storage=strategy.storage, study_name="it", directions=directions)
    with pytest.raises(ValueError, match=rf"study of \['{directions[0]}'.* has to be minimised"):
        make(LogisticRegression(), meta=strategy).fit(*digits)


def test_other_bounds_of_the_temperature_are_said_to_be_without_effect(digits, logits):
    clf = DistilledClassifier(
        None,
        MLPStudent,
        loss__temperature_bounds=(1.0, 5.0),
        max_epochs=1,
        **(SINGLE_RUN | {"meta": meta.Optuna(1)}),
    )
    with pytest.warns(UserWarning, match=r"set meta=Optuna\(log10_temperature=\(0, 0.699\)\)"):
        clf.fit(*digits, teacher_logits=logits)
