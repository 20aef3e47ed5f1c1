"""Transforms, distances, importance factors, and the pass that computes only some pathways."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.networks import ConvNet
from helpers.pathway_passes import pathway_pass
from sklearn_kd import build_transforms
from sklearn_kd.distpro._distances import DISTANCES, hcl
from sklearn_kd.distpro._importance import (
    IMPORTANCE,
    PATHWAY_WEIGHTS,
    GivenWeights,
    LearnedWeights,
    importance_factors,
    importance_steps,
)
from sklearn_kd.distpro._normalization import NORMALIZATIONS, checked_threshold
from sklearn_kd.distpro._pathways import PathwayLosses, connect, named_transforms
from sklearn_kd.distpro._transforms import TRANSFORMS, Conv2, Gate
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import Metaparameter
from sklearn_kd.meta import Linear
from sklearn_kd.meta._path import MetaparameterPath, MetaparameterSchedule
from sklearn_kd.meta._space import MetaparameterSpace

TEACHER = {"stage1": (6, 8, 8), "stage2": (12, 4, 4)}
STUDENT = {"stage1": (4, 8, 8), "stage2": (8, 4, 4)}


# --------------------------------------------------------------------------------------
# Distances


def plain_hcl(student, teacher):
    """As ReviewKD's paper has it, by loops over the pixels of pooled maps."""
    size, weight, total = student.shape[2], 1.0, 1.0
    loss = ((student - teacher) ** 2).mean()
    for k in (4, 2, 1):
        if k < size:
            weight /= 2
            blocks = [np.array_split(np.arange(size), k) for _ in range(2)]
            difference = (student - teacher).numpy()
            pooled = [[difference[:, :, rows][..., columns].mean(axis=(2, 3)) for columns in blocks[1]]
                      for rows in blocks[0]]  # fmt: skip
            loss, total = loss + weight * float((np.array(pooled) ** 2).mean()), total + weight
    return float(loss) / total


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_hcl_against_a_plain_implementation(size):
    maps = torch.randn(2, 3, 5, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(hcl(*maps)) == pytest.approx(plain_hcl(*maps), rel=1e-12)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1.0), (2, (1 + 0.5) / 1.5), (8, 1.0)],
)
def test_hcl_of_a_constant_difference(size, expected):
    """All scales see the same, so the weights must add up to one."""
    assert float(hcl(torch.zeros(2, 3, size, size), torch.ones(2, 3, size, size))) == pytest.approx(expected)


def test_hcl_sees_what_averages_out_on_the_finest_scale_alone():
    """A chessboard of ±1 vanishes when pooled: 1/(1 + 1/2 + 1/4 + 1/8) is left of its 1."""
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1).expand(1, 1, 8, 8)
    assert float(hcl(board, torch.zeros(1, 1, 8, 8))) == pytest.approx(1 / 1.875)


def test_mse_and_l1():
    a, b = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)
    assert float(DISTANCES["mse"](a, b)) == 9 and float(DISTANCES["l1"](a, b)) == 3


# --------------------------------------------------------------------------------------
# Normalisations and factors

GOLDEN = {  # of the raw factors 1, 2, −0.5 with g = 1
    "biased_softmax": [0.20525, 0.55793, 0.04580],
    "softmax": [0.24311, 0.66084, 0.05425],
    "biased_l1": [1 / 4.5, 2 / 4.5, -0.5 / 4.5],
    "l1": [1 / 3.5, 2 / 3.5, -0.5 / 3.5],
    "sigmoid": [0.73106, 0.88080, 0.37754],
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_golden_weights(name):
    raw = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    e = np.exp([1, 2, -0.5])
    expected = {"biased_softmax": e / (e.sum() + np.e), "softmax": e / e.sum()}.get(name, GOLDEN[name])
    found = NORMALIZATIONS[name](1.0)(raw)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    several = NORMALIZATIONS[name](1.0)(torch.stack([raw, 2 * raw]))
    torch.testing.assert_close(several[0], found)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_jacobian_is_that_of_autograd(name):
    raw = torch.tensor([1.0, 2.0, -0.5, 0.3], dtype=torch.float64)
    normalize = NORMALIZATIONS[name](0.7)
    torch.testing.assert_close(normalize.jacobian(raw), torch.autograd.functional.jacobian(normalize, raw))


def make_factors(n=2, lr=0.05):
    space = MetaparameterSpace(importance_factors(n))
    return MetaparameterPath(space, space.starts, {IMPORTANCE: importance_steps(lr)})


def alpha(factors, normalization="softmax"):
    """The weights of the pathways now."""
    weights, values = LearnedWeights(NORMALIZATIONS[normalization](1.0)), factors.named()
    assert weights.active(values) == list(range(factors.space.size))
    return weights.alpha(values, torch.empty(0, dtype=torch.float64))


def test_27_pathways_start_at_a_28th():
    found = alpha(make_factors(27), "biased_softmax")
    torch.testing.assert_close(found, torch.full((27,), 1 / 28, dtype=torch.float64))


def test_large_factors_do_not_overflow():
    found = NORMALIZATIONS["biased_softmax"](1.0)(torch.tensor([1000.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(
    ("tau", "name", "expected"),
    [("auto", "biased_softmax", 0.5), ("auto", "l1", None), ("auto", "sigmoid", None), (None, "softmax", None),
     (2, "sigmoid", 2.0), (0.1, "biased_l1", 0.1)],
)  # fmt: skip
def test_tau(tau, name, expected):
    assert checked_threshold(tau, name) == expected


def test_factors_follow_adam():
    factors, w = make_factors(lr=0.3), torch.ones(2, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([w], lr=0.3, betas=(0.5, 0.999))
    for gradient in torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.1]]):
        factors.record(factors.descend(gradient), torch.tensor(0.1))
        w.grad = gradient.double()
        reference.step()
        torch.testing.assert_close(alpha(factors), torch.softmax(w.detach(), 0))
    assert len(factors.table()) == 3


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_steps_without_direction_are_skipped(wrong):
    factors = make_factors()
    factors.descend(torch.tensor([1.0, -1.0]))
    before = alpha(factors).clone()
    value = factors.descend(torch.tensor([1.0, wrong]))
    torch.testing.assert_close(alpha(factors), before)  # Adam's momentum would have moved it
    torch.testing.assert_close(torch.softmax(value, 0), before)


def test_path_has_what_each_iteration_trained_with():
    factors = make_factors()
    values = [factors.descend(torch.tensor([1.0, -1.0])) for _ in range(1)]
    factors.record(values[0], torch.tensor(0.25))
    factors.schedule(torch.tensor([[0.3, 0.4], [0.5, 0.6]]))
    assert factors.has_schedule
    factors.apply_scheduled()
    factors.apply_scheduled()
    factors.record_unchanged()
    path = factors.table(before=True)
    np.testing.assert_allclose(
        path[IMPORTANCE], [[1, 1], values[0].tolist(), [0.3, 0.4], [0.5, 0.6]], rtol=1e-6
    )
    assert path["predicted"].tolist() == [False, True, True, False]
    assert path["val_loss"][0] == 0.25 and np.isnan(path["val_loss"][1:]).all()
    factors.forget_path()
    assert len(factors.table()) == 0
    torch.testing.assert_close(alpha(factors), torch.softmax(torch.tensor([0.5, 0.6]).double(), 0))


def test_a_line_can_be_fitted_to_them():
    """What the strategies of the first system ask for, the factors have."""
    factors = make_factors(lr=0.1)
    for _ in range(3):
        factors.record(factors.descend(torch.tensor([1.0, -1.0])), torch.tensor(0.0))
    ahead = Linear(e1=3, e2=2).predict(factors)
    np.testing.assert_allclose(ahead, [[0.6, 1.4], [0.5, 1.5]], atol=1e-6)


def test_scheduled_weights():
    rows = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.0]], dtype=np.float32)
    space = MetaparameterSpace({PATHWAY_WEIGHTS: Metaparameter(shape=(3,))})
    schedule, weights = MetaparameterSchedule(space, {PATHWAY_WEIGHTS: rows}), GivenWeights()

    def now():
        values = schedule.named()
        return weights.active(values), weights.alpha(values, torch.empty(0)).tolist()

    assert now() == ([0, 1], [0.5, 0.5]) and not schedule.has_schedule
    schedule.record_unchanged()
    assert now() == ([1], [0.25]) and schedule.iteration == 1
    schedule.record_unchanged()
    assert now() == ([1], [0.25])  # the last row stays
    schedule.forget_path()
    assert now() == ([1], [0.25]) and schedule.iteration == 2


# --------------------------------------------------------------------------------------
# Transforms


@pytest.mark.parametrize(("name", "convolutions"), [("conv1", 1), ("conv2", 3), ("conv3", 4)])
@pytest.mark.parametrize("size", [(8, 8), (4, 2), (3, 5)])
def test_transforms(name, convolutions, size):
    transform = TRANSFORMS[name](7, 5)
    assert transform(torch.rand(2, 7, 4, 4), size).shape == (2, 5, *size)
    assert sum(isinstance(part, nn.Conv2d) for part in transform.modules()) == convolutions  # gate included


def test_the_middle_is_at_most_512_wide():
    shapes = [part.weight.shape for part in Conv2(600, 700).modules() if isinstance(part, nn.Conv2d)]
    assert shapes[0] == (512, 600, 1, 1) and shapes[-1] == (700, 512, 3, 3)


def test_gate_has_no_sigmoid():
    gate = Gate(3)
    with torch.no_grad():
        gate.conv.weight.fill_(1.0), gate.conv.bias.zero_()
    x = torch.full((1, 3, 2, 2), 2.0)
    torch.testing.assert_close(gate(x), torch.full((1, 3, 2, 2), 12.0))


def test_resize_takes_the_nearest():
    transform = TRANSFORMS["conv1"](1, 1).eval()
    with torch.no_grad():
        transform.match[0].weight.fill_(1.0)
        x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
        found = transform(x, (4, 4))
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([1.0, 1.0, 3.0, 3.0]), rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------
# Pathways


def test_all_connections_in_order():
    pathways = connect(TEACHER, STUDENT, "all", ["conv1", "conv2"])
    assert [p.key for p in pathways] == [
        (i, j, c) for i in (0, 1) for j in (0, 1) for c in ("conv1", "conv2")
    ]
    assert pathways[2][:3] == ("stage1", "stage2", "conv1")
    assert (pathways[2].teacher_channels, pathways[2].student_channels) == (6, 8)


@pytest.mark.parametrize(
    ("connections", "expected"),
    [("lower", [(0, 0), (0, 1), (1, 1)]), ([(1, 0)], [(1, 0)]), ([[1, 0], [0, 0]], [(1, 0), (0, 0)])],
)
def test_some_connections(connections, expected):
    assert [p.key[:2] for p in connect(TEACHER, STUDENT, connections, ["conv1"])] == expected


@pytest.mark.parametrize(
    ("connections", "match"),
    [
        ("upper", "must be 'all', 'lower' or a list"),
        (
            [(0, 2)],
            r"has \[\(0, 2\)\], which are out of range: .*teacher stages 0 to 1 and student stages 0 to 1",
        ),
        ([(-1, 0)], "out of range"),
        ([(0, 0), (0, 0)], "each pair once"),
        ([], "at least one"),
        ([1, 2], "list of pairs"),
    ],
)
def test_connections_that_cannot_be(connections, match):
    with pytest.raises(ValueError, match=match):
        connect(TEACHER, STUDENT, connections, ["conv1"])


def test_lower_needs_as_many_layers():
    with pytest.raises(ValueError, match=r"\['stage1', 'stage2'\] \(2\), student_layers \['a'\] \(1\)"):
        connect(TEACHER, {"a": (1, 2, 2)}, "lower", ["conv1"])
    assert len(connect(TEACHER, {"a": (1, 2, 2)}, "all", ["conv1"])) == 2


def own(c_in, c_out):
    return TRANSFORMS["conv1"](c_in, c_out)


@pytest.mark.parametrize(
    ("transforms", "error", "match"),
    [
        (["conv4"], ValueError, "Did you mean 'conv3'"),
        ([], ValueError, "at least one"),
        ("conv1", ValueError, "must be a list"),
        ([3], TypeError, "neither a name nor a callable"),
        (["conv1", "conv1"], ValueError, "two are named 'conv1'"),
        ([lambda a, b: None, lambda a, b: None], ValueError, "two are named '<lambda>'"),
    ],
)
def test_transforms_that_cannot_be(transforms, error, match):
    with pytest.raises(error, match=match):
        named_transforms(transforms)


def test_transforms_are_built_from_pathways_alone():
    pathways = connect(TEACHER, STUDENT, "all", ["conv2", "own"])
    built = build_transforms(pathways, ["conv2", own])
    assert [type(t).__name__ for t in built[:2]] == ["Conv2", "Conv1"]
    assert built[3].match[0].weight.shape == (6, 8, 1, 1)
    with pytest.raises(
        ValueError, match=r"use the transforms \['own'\], which are not in transforms=\['conv1', "
    ):
        build_transforms(pathways)


def test_only_active_pathways_are_computed(conv_teacher):
    student = ConvNet()
    pathways = connect(TEACHER, STUDENT, "all", ["conv1"])
    transforms = build_transforms(pathways)
    calls = []
    for p, transform in enumerate(transforms):
        transform.register_forward_hook(lambda *_, p=p: calls.append(p))
    run = PathwayLosses(pathways, F.mse_loss)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad(), feature_hooks(conv_teacher, ["stage1", "stage2"]) as maps:
        conv_teacher(x)
    logits, some = pathway_pass(
        run, student, transforms, x, {"stage1": maps["stage1"]}, [1]
    )  # what is not asked for need not be there
    assert calls == [1] and logits.shape == (4, 10) and some.shape == (1,)
    assert run.teacher_layers([1]) == ["stage1"] and run.teacher_layers([3, 1]) == ["stage2", "stage1"]
    torch.testing.assert_close(pathway_pass(run, student, transforms, x, maps)[1][1], some[0])
    logits, none = pathway_pass(run, student, transforms, x, {}, [])
    assert none.shape == (0,) and len(calls) == 5
