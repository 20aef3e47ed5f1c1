"""Members of a population are what plain fits at their metaparameters are."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import TensorDataset

from sklearn_kd import meta
from sklearn_kd.training import _population, _stackable

VALUES = [{"lambda1": 0.2, "temperature": 2.0}, {"lambda1": 0.7, "temperature": 5.0}, {"lambda1": 0.4}]


class HeldOut(meta.Fixed):
    """Fixed values, with D_val held out."""

    learns_from_validation = True


class Scripted(meta.PopulationStrategy):
    """Runs a function of the population."""

    def __init__(self, script=None, val_temperature="auto"):
        self.script = script
        self.val_temperature = val_temperature

    def search(self, population):
        self.script(population)


class Noisy(nn.Sequential):
    """A student with dropout and batch normalisation."""

    def __init__(self, in_features, n_classes):
        body = nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)
        super().__init__(*body, nn.Linear(16, n_classes))


def population_and_plain(make, given, keep, **params):
    """Fit three members, of which one is kept after two of three epochs; and plainly at its values."""

    def script(population):
        population.select([0, 0, 0])
        population.train(VALUES, 2)
        population.select([keep])

    of_population = make(meta=Scripted(script), max_epochs=3, **params).fit(**given)
    start = {"temperature": 1.0} | VALUES[keep]
    plain = make(meta=HeldOut(val_temperature="auto"), max_epochs=3, **start, **params).fit(**given)
    return of_population, plain


def rows_of(kind, digits, logits):
    X, y = digits
    if kind == "unlabeled":
        return {"X": X[:300], "y": y[:300], "X_unlabeled": X[300:], "teacher_logits": logits[:300],
                "teacher_logits_unlabeled": logits[300:]}  # fmt: skip
    if kind == "dataset":
        return {"X": TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), "teacher_logits": logits}
    return {"X": X, "y": y, "teacher_logits": logits}


ADAM = {"optimizer": torch.optim.Adam, "lr": 0.01}
CONFIGURATIONS = {
    "dropout, batch normalisation, Adam": ("arrays", {"student": Noisy} | ADAM),
    "momentum, a schedule of the rate": (
        "arrays",
        {"optimizer__momentum": 0.9, "callbacks": [LRScheduler(CosineAnnealingLR, T_max=3)]},
    ),
    "augmentation": ("arrays", {"augment": lambda x: x + 0.1 * torch.randn_like(x)}),
    "unlabeled rows": ("unlabeled", {}),
    "D_val shuffled, without its last batch": (
        "arrays",
        {"iterator_valid__shuffle": True, "iterator_valid__drop_last": True},
    ),
    "a Dataset": ("dataset", {}),
}


@pytest.mark.filterwarnings("ignore:You set iterator_valid__shuffle")
@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_one_after_another_members_equal_plain_fits_to_the_bit(what, make, digits, logits, monkeypatch):
    monkeypatch.setattr(_stackable, "FEWEST", 99)
    kind, params = CONFIGURATIONS[what]
    given = rows_of(kind, digits, logits)
    if "augment" in params:
        del given["teacher_logits"]
        params = params | {"teacher": nn.Linear(64, 10)}
    member, plain = population_and_plain(make, given, 1, **params)
    for (name, w), v in zip(
        member.student_.state_dict().items(), plain.student_.state_dict().values(), strict=True
    ):
        assert torch.equal(w, v), name
    assert member.metaparameter_path_.tobytes() == plain.metaparameter_path_.tobytes()
    for column in ("train_loss", "valid_loss", "lambda1", "skipped_steps"):
        assert member.history_[:, column] == plain.history_[:, column]
    assert member.val_temperature_ == plain.val_temperature_
    assert member.loss_curve_ == plain.loss_curve_


@pytest.mark.parametrize("params", [{"optimizer__momentum": 0.9}, ADAM], ids=["momentum", "Adam"])
@pytest.mark.parametrize("keep", [0, 2])
def test_in_one_batched_run_they_equal_them_within_rounding(params, keep, make, digits, logits):
    given = rows_of("arrays", digits, logits)
    member, plain = population_and_plain(make, given, keep, **params)
    for w, v in zip(member.student_.parameters(), plain.student_.parameters(), strict=True):
        torch.testing.assert_close(w, v, rtol=1e-4, atol=2e-6)
    assert member.metaparameter_path_.tobytes() == plain.metaparameter_path_.tobytes()
    np.testing.assert_allclose(member.history_[:, "valid_loss"], plain.history_[:, "valid_loss"], rtol=1e-4)


@pytest.mark.parametrize("fewest", [2, 99], ids=["batched", "one by one"])
def test_selected_members_go_on_from_their_sources(fewest, make, digits, logits, monkeypatch):
    """Two members that change places twice are what they were; their losses are those of the rows."""
    monkeypatch.setattr(_stackable, "FEWEST", fewest)
    found = []

    def script(exchanged, population):
        population.select([0, 0])
        population.train(VALUES[:2], 1)
        if exchanged:
            population.select([1, 0])
            population.train(VALUES[1::-1], 1)
            population.select([1, 0])
        else:
            population.train(VALUES[:2], 1)
        found.append(population.val_losses())

    for exchanged in (False, True):
        strategy = Scripted(lambda population, exchanged=exchanged: script(exchanged, population))
        make(meta=strategy, max_epochs=2, optimizer__momentum=0.9).fit(*digits, teacher_logits=logits)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert found[0].shape == (2, 40)
    assert not np.allclose(*found[0])


def test_row_losses_are_weighted_and_calibrated(make, digits, logits):
    X, y = digits
    weight = np.random.default_rng(0).uniform(0.5, 2, 100)
    found = []

    def script(population):
        population.train([{}], population.n_epochs)
        found.append(population.val_losses()[0])

    clf = make(meta=Scripted(script)).fit(
        X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:], sample_weight_val=weight
    )
    z = clf.decision_function(X[300:]) / clf.val_temperature_
    log_p = torch.log_softmax(torch.as_tensor(z), dim=1).numpy()
    rows = -log_p[np.arange(100), y[300:]] * weight / weight.mean()
    np.testing.assert_allclose(found[0], rows, rtol=1e-4, atol=1e-6)


def test_a_member_that_diverges_loses_in_silence(make, digits, logits, monkeypatch):
    given = rows_of("arrays", digits, logits)
    values = [{"lambda1": 0.5}, {"lambda1": 0.0, "temperature": 1e25}]
    found = []

    def script(population):
        population.select([0, 0])
        population.train(values, 1)
        found.append(population.val_losses())
        population.select([0, 0])
        population.train([values[0]] * 2, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        clf = make(meta=Scripted(script), lr=0.02).fit(**given)
    assert np.isfinite(found[0][0]).all() and np.isinf(found[0][1]).all()
    assert len(clf.history_) == 2 and not clf.net_.diverged_


def test_where_all_diverge_the_fit_ends_and_says_so(make, digits, logits):
    def script(population):
        population.select([0, 0])
        population.train([{"lambda1": 0.0, "temperature": 1e25}] * 2, 3)

    with pytest.warns(ConvergenceWarning, match="Training diverged: .*lambda1=0, temperature=1e"):
        clf = make(meta=Scripted(script), max_epochs=3).fit(*digits, teacher_logits=logits)
    assert np.isfinite(clf.predict_proba(digits[0])).all()


def test_callbacks_hear_of_the_first_member_and_may_end_the_search(make, digits, logits):
    class Ends(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    strategy = meta.Twins()
    clf = make(meta=strategy, max_epochs=5, callbacks=[Ends()]).fit(*digits, teacher_logits=logits)
    assert len(clf.history_) == 2 and clf.n_iter_ == len(clf.metaparameter_path_) == 24
    assert not clf.net_.interrupted_ and len(clf.moves_) == 1
    assert (clf.lambda1_, clf.temperature_) == tuple(clf.metaparameter_path_[["lambda1", "temperature"]][-1])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda p: p.train([{}], p.n_epochs + 1), "n_epochs=3 must be an integer from 1 to the 2 epochs"),
        (lambda p: p.train([{}, {}]), "2 values for 1 members"),
        (lambda p: p.train([{}], True), "n_epochs=True must be an integer"),
        (lambda p: p.select([1]), r"sources=\[1\] must be a non-empty list of indices of the 1 members"),
        (lambda p: p.select(0), "sources=0 must be a non-empty list of indices"),
        (lambda p: p.select([0.7]), r"sources=\[0\.7\] must be a non-empty list of indices"),
        (lambda p: p.train([{"alpha": 1.0}]), "'alpha' is not a metaparameter"),
    ],
)
def test_wrong_calls_are_refused(script, message, make, digits, logits):
    with pytest.raises(ValueError, match=message):
        make(meta=Scripted(script)).fit(*digits, teacher_logits=logits)


def test_what_a_killed_fit_had_done_is_not_done_again(make, digits, logits, tmp_path, monkeypatch):
    """A killed search of twins goes on after its last epoch, and ends as it would have."""
    strategy = meta.Twins(epochs_per_move=2, z=0.5)
    params = {"student": Noisy, "meta": strategy, "max_epochs": 7} | ADAM
    whole = make(**params).fit(*digits, teacher_logits=logits)
    epoch, n_epochs = _population.StudentPopulation._epoch, []

    def counted(population):
        n_epochs.append(1)
        if len(n_epochs) == 6:
            raise MemoryError
        epoch(population)

    monkeypatch.setattr(_population.StudentPopulation, "_epoch", counted)
    with pytest.raises(MemoryError):
        make(checkpoint_dir=tmp_path, **params).fit(*digits, teacher_logits=logits)
    resumed = make(checkpoint_dir=tmp_path, **params).fit(*digits, teacher_logits=logits)
    assert len(n_epochs) == 6 + 2
    assert resumed.moves_.tobytes() == whole.moves_.tobytes()
    assert resumed.metaparameter_path_.tobytes() == whole.metaparameter_path_.tobytes()
    for w, v in zip(
        resumed.student_.state_dict().values(), whole.student_.state_dict().values(), strict=True
    ):
        assert torch.equal(w, v)
