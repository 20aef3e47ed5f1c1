"""Lists of losses: what they mean, and their parameters."""

import pytest
import torch
from sklearn.base import clone

from sklearn_kd import DistilledClassifier, DistilledRegressor, MLPStudent, Pathways
from sklearn_kd.estimators._classifier_net import losses_of
from sklearn_kd.losses import DecoupledDistillation, FeatureTerm, LogitDistillation
from sklearn_kd.losses._labels_alone import LabelLoss


class Mean(FeatureTerm):
    name = "mean"

    def loss(self, student, teacher, module):
        return (student[0].mean() - teacher[0].mean()) ** 2


class Nameless(FeatureTerm):
    def loss(self, student, teacher, module):
        return student[0].mean()


def classifier(loss, **params):
    return DistilledClassifier(None, MLPStudent, loss=loss, **params)


def test_names_objects_and_pairs():
    found = losses_of(classifier(["dkd", Mean(2.0), ("other", Mean(3.0)), "pathways"]))
    assert type(found.of_outputs) is DecoupledDistillation
    assert {name: type(term) for name, term in found.terms.items()} == {
        "mean": Mean, "other": Mean, "pathways": Pathways
    }  # fmt: skip
    assert found.terms["other"].weight == 3.0


def test_terms_alone_stand_beside_the_loss_of_the_labels():
    assert type(losses_of(classifier([Mean()])).of_outputs) is LabelLoss
    with pytest.raises(ValueError, match=r"no loss of the outputs\. Add one of"):
        losses_of(DistilledRegressor(None, MLPStudent, loss=[Mean()]))


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ([], ValueError, "has no entry"),
        (["kd", LogitDistillation()], ValueError, r"several losses of the outputs, \['kd', 'logit_dist"),
        (["kdd"], ValueError, "'kdd' is not known. Did you mean 'kd'"),
        ([Mean(), Mean()], ValueError, r"\[\('mean_1', ...\), \('mean_2', ...\)\]"),
        ([("a__b", Mean())], ValueError, "without two underscores"),
        ([Nameless()], ValueError, "Nameless has no name"),
        ([Mean], TypeError, r"Give an object: Mean\(\)"),
        ([3], TypeError, "not an entry of a list of losses"),
        ([("a", 3)], TypeError, "neither a loss of the outputs nor a term"),
        (Mean(), TypeError, r"Give a list.*\['kd', Mean\(\)\]"),
        ("hint", TypeError, r"Give a list.*\['kd', 'hint'\]"),
        (["kd", ("hint", 100)], TypeError, r"100 is neither .* Give a term its weight"),
        (["squared_error"], ValueError, "'squared_error' is not known"),
    ],
)
def test_refused(loss, error, message):
    with pytest.raises(error, match=message):
        losses_of(classifier(loss))


def test_a_loss_of_numbers_is_not_for_classes():
    from sklearn_kd.losses import SquaredError

    with pytest.raises(TypeError, match="not for DistilledClassifier"):
        losses_of(classifier([SquaredError()]))


def test_parameters_of_entries():
    clf = classifier(["kd", Mean(2.0), ("other", Mean())])
    assert clf.get_params()["loss__mean__weight"] == 2.0
    assert clf.get_params()["loss__other"] is clf.loss[2][1]
    assert not any(name.startswith("loss__") for name in clf.get_params(deep=False))
    other = clone(clf).set_params(loss__mean__weight=5.0, loss__other=Mean(7.0))
    assert other.loss[1].weight == 5.0 and other.loss[2][1].weight == 7.0 and other.loss[2][0] == "other"
    assert clf.loss[1].weight == 2.0
    both = clone(clf).set_params(loss=[Mean()], loss__mean__weight=9.0)
    assert both.loss[0].weight == 9.0


def test_an_entry_keeps_its_name():
    clf = classifier(["kd", Mean()]).set_params(loss__kd="dkd")
    assert clf.loss[0] == ("kd", "dkd")
    assert type(losses_of(clf).of_outputs) is DecoupledDistillation


def test_parameters_that_are_refused():
    clf = classifier(["kd", Mean()])
    with pytest.raises(ValueError, match=r"no entry 'maen'\. Did you mean 'mean'"):
        clf.set_params(loss__maen__weight=1.0)
    with pytest.raises(
        ValueError, match=r"LogitDistillation\(\) has no parameter 'temperature'\. Its initial value is"
    ):
        clf.set_params(loss__kd__temperature=2)
    with pytest.raises(ValueError, match=r"has no parameter 'wieght'\. Did you mean 'weight'"):
        clf.set_params(loss__mean__wieght=1.0)
    for params, error, message in (
        (
            {"loss__mean__weight": 1.0},
            TypeError,
            r"in which 'mean' is Mean\(\)\. Set it there, or by set_params",
        ),
        ({"loss__kd": "dkd"}, TypeError, "in which 'kd' is 'kd'"),
        ({"loss__maen__alpha": 1.0}, ValueError, r"no entry 'maen'\. Did you mean 'mean'"),
        ({"loss__alpha": 1.0}, ValueError, r"no entry 'alpha'.*an entry: loss__kd__alpha, loss__mean__alpha"),
    ):
        with pytest.raises(error, match=message):
            losses_of(classifier(["kd", Mean()], **params))


def test_parameters_of_names():
    """Kept by the constructor until fit; set_params puts the object in the place of its name."""
    kept = {"loss__kd__temperature_bounds": (2.0, 3.0), "loss__rkd__distance_weight": 7.0}
    clf = clone(classifier(["kd", "rkd"], **kept))
    assert clf.loss == ["kd", "rkd"] and clf.get_params()["loss__rkd__distance_weight"] == 7.0
    found = losses_of(clf)
    assert found.of_outputs.temperature_bounds == (2.0, 3.0) and found.given == "kd"
    assert found.terms["rkd"].distance_weight == 7.0
    clf.set_params(loss__rkd__angle_weight=9.0)
    assert clf.loss[1].get_params()["angle_weight"] == 9.0 and clf.loss[1].distance_weight == 7.0
    assert clf.loss[0][0] == "kd" and clf.loss[0][1].temperature_bounds == (2.0, 3.0)
    assert not clf._routed("loss") and losses_of(clone(clf)).terms["rkd"].distance_weight == 7.0


def test_kept_parameters_of_a_name_are_forgotten_with_it():
    clf = classifier("kd", loss__temperature_bounds=(1, 2)).set_params(loss=["kd", Mean()])
    assert not hasattr(clf, "loss__temperature_bounds")


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"weight": 0.0}, ValueError, "must be finite and above 0"),
        ({"weight": float("nan")}, ValueError, "must be finite and above 0"),
        ({"weight": "5"}, TypeError, "must be a number"),
        ({"weight": 1.0, "weight_bounds": (2.0, 3.0)}, ValueError, "must lie within bounds"),
        ({"weight": 1.0, "weight_bounds": (0.0, 3.0)}, ValueError, r"must be above 0: .* such as 0\.01"),
        ({"weight_bounds": "free"}, ValueError, "'auto', 'fixed' or two numbers"),
    ],
)
def test_weights_that_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        Mean(**params).metaparameters()


def test_bounds_of_a_weight():
    (entry,) = Mean(3.0).metaparameters().values()
    assert entry.bounds == pytest.approx((0.03, 30.0)) and entry.coordinate == "log"
    assert Mean(3.0, weight_bounds=(1.0, 4.0)).metaparameters()["weight"].bounds == (1.0, 4.0)
    assert Mean(3.0, weight_bounds="fixed").metaparameters() == {}


def test_loss_of_the_labels_against_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    rows = LabelLoss().loss(logits, None, labels)
    torch.testing.assert_close(
        rows, torch.nn.functional.cross_entropy(logits, labels, reduction="none"), rtol=1e-12, atol=0
    )
    several = (torch.rand(6, 3) > 0.5).to(torch.int8)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, several.double(), reduction="none"
    ).mean(dim=1)
    torch.testing.assert_close(LabelLoss().loss(logits, None, several), wanted, rtol=1e-12, atol=0)
