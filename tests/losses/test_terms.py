"""The feature terms: values, derivatives, what must not break them, and how users give them."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.autograd import forward_ad

from helpers.feature_terms import REFERENCES
from sklearn_kd.losses import (
    TERMS,
    AttentionTransfer,
    CorrelationCongruence,
    MaskedGeneration,
    RelationalKD,
)

NAMES = list(TERMS)
OF_RELATIONS = [name for name in NAMES if "rows" in TERMS[name].kinds]
LEARNING = ["hint", "reviewkd", "mgd"]
B = 4
# Maps of two layers by student and teacher: of the same sizes, and of others in either direction.
MAPS = {
    "same sizes": ([(3, 6, 6), (5, 3, 3)], [(4, 6, 6), (5, 3, 3)]),
    "other sizes": ([(3, 8, 6), (5, 4, 3)], [(4, 5, 8), (5, 2, 6)]),
}
ROWS = ([(5,)], [(7,)])


def draw(shapes, seed=0, rows=B):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=(rows, *shape)) for shape in side] for side in shapes]


def build(term, shapes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = term.build(*shapes).double().train()
        for weight in module.parameters():  # batch normalisation begins at 1 and 0, which would hide it
            weight.data += 0.1 * torch.randn(weight.shape, dtype=weight.dtype)
    return module


def tensors(side):
    return [torch.tensor(own) for own in side]


def computed(term, student, teacher, module):
    torch.manual_seed(3)
    return term.loss(tensors(student), tensors(teacher), module)


def reference(term, student, teacher, module):
    weights = {name: own.detach().double().numpy() for name, own in module.named_parameters()}
    more = {}
    if term.name == "mgd":
        torch.manual_seed(3)
        masks = [
            (B, t.shape[1], 1, 1) if term.masked == "channels" else (B, 1, *t.shape[2:]) for t in teacher
        ]
        more = {"uniform": [torch.rand(mask).numpy() for mask in masks], "ratio": term.mask_ratio}
    if term.name == "correlation":
        more = {"gamma": term.gamma, "order": term.order}
    return REFERENCES[term.name](student, teacher, weights, **more)


CASES = [(TERMS[name](), MAPS[sizes], f"{name}, {sizes}") for name in NAMES for sizes in MAPS]
CASES += [(TERMS[name](), ROWS, f"{name}, rows") for name in OF_RELATIONS]
CASES += [
    (MaskedGeneration(masked="pixels", mask_ratio=0.5), MAPS["other sizes"], "mgd of pixels"),
    (CorrelationCongruence(gamma=1.2, order=5, embedding_size=6), ROWS, "correlation of embeddings"),
]
each_case = pytest.mark.parametrize(
    ("term", "shapes"), [case[:2] for case in CASES], ids=[c[2] for c in CASES]
)


@each_case
def test_values_equal_those_of_numpy(term, shapes):
    student, teacher = draw(shapes)
    module = build(term, shapes)
    term.check()
    term.check_shapes(*shapes)
    found = computed(term, student, teacher, module)
    assert found.shape == (() if len(term.weight_names) == 1 else (len(term.weight_names),))
    np.testing.assert_allclose(found.detach(), reference(term, student, teacher, module), rtol=1e-9)


@each_case
def test_derivatives_equal_differences_of_the_numpy_values(term, shapes):
    """By the student's features and by what the term learns, along a random direction."""
    student, teacher = draw(shapes, seed=4)
    module, rng = build(term, shapes), np.random.default_rng(2)
    along = [rng.normal(size=own.shape) for own in student]
    moves = {name: rng.normal(size=own.shape) for name, own in module.named_parameters()}

    def at(h):
        moved = {
            name: own.detach() + torch.tensor(h * moves[name]) for name, own in module.named_parameters()
        }
        other = build(term, shapes)
        other.load_state_dict({**module.state_dict(), **moved})
        return reference(term, [s + h * a for s, a in zip(student, along, strict=True)], teacher, other)

    h = 1e-7  # no ReLU changes sides within it
    wanted = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h)
    features = [own.requires_grad_() for own in tensors(student)]
    torch.manual_seed(3)
    losses = term.loss(features, tensors(teacher), module).reshape(-1)
    for own, number in zip(losses, np.reshape(wanted, -1), strict=True):
        weights = [*module.parameters()]
        found = torch.autograd.grad(own, [*features, *weights], retain_graph=True)
        by = sum(
            float((g * torch.tensor(a)).sum()) for g, a in zip(found, [*along, *moves.values()], strict=True)
        )
        assert by == pytest.approx(number, rel=1e-5, abs=1e-7)


# From the references, of the inputs in test_golden_values, so that no later change moves both.
GOLDEN = {
    "hint": 3.3179404397402634,
    "attention": 0.1351947007025814,
    "reviewkd": 2.6398359966959144,
    "mgd": 32.19137980106008,
    "similarity": 0.06776981041915076,
    "rkd": [0.007127032518799326, 0.0037353281130913297],
    "correlation": 0.01086742464542181,
}


@pytest.mark.parametrize("name", NAMES)
def test_golden_values(name):
    shapes = ([(2, 4, 4), (3, 2, 2)], [(3, 4, 4), (3, 2, 2)])
    numbers = [
        [np.cos(1.0 + k + np.arange(3 * np.prod(own)) ** 1.5) for own in side]
        for k, side in enumerate(shapes)
    ]
    student, teacher = ([own.reshape(3, *shape) for own, shape in zip(*both, strict=True)]
                        for both in zip(numbers, shapes, strict=True))  # fmt: skip
    term = TERMS[name]()
    module = term.build(*shapes).double()
    for k, weight in enumerate(module.parameters()):
        weight.data = torch.tensor(np.sin(k + np.arange(weight.numel()) ** 1.5)).reshape(weight.shape)
    found = computed(term, student, teacher, module)
    np.testing.assert_allclose(found.detach(), GOLDEN[name], rtol=1e-7)


HARD = {
    "zeros": lambda x: 0 * x,
    "one row of zeros": lambda x: torch.cat([0 * x[:1], x[1:]]),
    "equal rows": lambda x: x[:1].expand_as(x).clone(),
    "two equal rows": lambda x: torch.cat([x[1:2], x[1:]]),
    "tiny": lambda x: 1e-18 * x,
    "large": lambda x: 1e4 * x,
    "constant": torch.ones_like,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", HARD)
def test_derivatives_are_finite(name, what):
    """And those of second order and in forward mode, which hypergradients take."""
    term, shapes = TERMS[name](), ROWS if name in OF_RELATIONS else MAPS["same sizes"]
    given = [[torch.tensor(own).float() for own in side] for side in draw(shapes)]
    student, teacher = ([HARD[what](own) for own in side] for side in given)
    module = build(term, shapes).float()
    for both in ((student, given[1]), (given[0], teacher), (student, teacher)):
        check_finite(term, *both, module)


def check_finite(term, student, teacher, module):
    """The gradient, its derivative, and the loss's derivative in forward mode, which "jvp" takes."""
    features = [own.clone().requires_grad_() for own in student]
    torch.manual_seed(3)
    loss = term.loss(features, teacher, module).sum()
    inputs = [*features, *module.parameters()]
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    second = torch.autograd.grad(sum(own.sum() for own in gradients), inputs, allow_unused=True)
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(own, torch.ones_like(own)) for own in student]
        torch.manual_seed(3)
        along = forward_ad.unpack_dual(term.loss(dual, teacher, module).sum()).tangent
    found = [loss, *gradients, *(own for own in second if own is not None), along]
    assert all(bool(own.isfinite().all()) for own in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_row(name):
    term, shapes = TERMS[name](), ROWS if name in OF_RELATIONS else MAPS["same sizes"]
    student, teacher = ([torch.tensor(own).float() for own in side] for side in draw(shapes, rows=1))
    check_finite(term, student, teacher, build(term, shapes).float())
    if name in OF_RELATIONS:
        assert float(term.loss(student, teacher, term.build(*shapes)).abs().max()) < 1e-12


@pytest.mark.parametrize("name", OF_RELATIONS)
def test_rows_of_zeros_and_equal_rows_have_small_gradients(name):
    term, (student, teacher) = TERMS[name](), (tensors(side) for side in draw(ROWS))
    student[0][1] = 0.0 if name != "rkd" else student[0][0]
    student[0].requires_grad_()
    term.loss(student, teacher, term.build(*ROWS).double()).sum().backward()
    assert float(student[0].grad.abs().max()) < 10


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_autocast(name):
    """Relations are computed in full precision; convolutions may be rounded, their loss is float32."""
    term, shapes = TERMS[name](), MAPS["same sizes"]
    student, teacher = draw(shapes)
    module = build(term, shapes)
    exact = computed(term, student, teacher, module).detach()
    module, sides = (
        module.float(),
        [[torch.tensor(own).float() for own in side] for side in (student, teacher)],
    )
    torch.manual_seed(3)
    plain = term.loss(*sides, module)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = term.loss(*sides, module)
    assert plain.dtype is cast.dtype is torch.float32
    torch.testing.assert_close(plain.double(), exact, rtol=1e-4, atol=1e-7)
    if name in LEARNING:
        torch.testing.assert_close(cast, plain, rtol=0.03, atol=1e-3)
    else:
        assert torch.equal(cast, plain)


def test_distances_of_near_rows_are_exact():
    """Rows around a far point: a difference of squares in float32 would be noise."""
    rng = np.random.default_rng(0)
    student, teacher = 100 + 1e-2 * rng.normal(size=(6, 8)), rng.normal(size=(6, 8))
    sides = [own.astype(np.float32) for own in (student, teacher)]
    found = RelationalKD().loss(*([torch.tensor(own)] for own in sides), nn.Module())
    wanted = REFERENCES["rkd"](*([own.astype(float)] for own in sides), {})
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_not_written_to_and_only_the_student_is_differentiated(name):
    term, shapes = TERMS[name](), MAPS["same sizes"]
    sides = [[own.requires_grad_() for own in tensors(side)] for side in draw(shapes)]
    before = [own.detach().clone() for side in sides for own in side]
    module, teacher = build(term, shapes), [own.detach() for own in sides[1]]
    first, second = (computed_again(term, sides[0], teacher, module) for _ in range(2))
    assert torch.equal(first, second)
    first.sum().backward()
    assert all(bool((own.grad != 0).any()) for own in (*sides[0], *module.parameters()))
    assert all(
        torch.equal(a, b) for a, b in zip(before, [own.detach() for s in sides for own in s], strict=True)
    )


def computed_again(term, student, teacher, module):
    torch.manual_seed(5)
    return term.loss(student, teacher, module)


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_estimators_of_scikit_learn(name):
    term = TERMS[name]()
    weights = dict.fromkeys(term.weight_names, 0.25)
    term.set_params(**weights, weight_bounds=(0.1, 0.5), student_layers=["a"], teacher_layers=["b"])
    for own in (clone(term), pickle.loads(pickle.dumps(term))):
        assert own.get_params() == term.get_params()
        entries = own.metaparameters()
        assert list(entries) == list(weights)
        assert all(entry.start == 0.25 and tuple(entry.bounds) == (0.1, 0.5) for entry in entries.values())
    assert term.set_params(weight_bounds="fixed").metaparameters() == {}
    assert term.name == name and {*term.kinds} <= {"maps", "rows"}


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (
            MaskedGeneration(masked="rows"),
            ValueError,
            r"masked='rows' must be one of \['channels', 'pixels'\]",
        ),
        (MaskedGeneration(mask_ratio=1.0), ValueError, "mask_ratio=1.0 must be below 1"),
        (
            MaskedGeneration(mask_ratio="half"),
            ValueError,
            "mask_ratio='half' must be a finite number above 0, below 1",
        ),
        (CorrelationCongruence(gamma=0), ValueError, "gamma=0 must be a finite number above 0"),
        (CorrelationCongruence(order=2.5), ValueError, "order=2.5 must be an integer of at least 1"),
        (
            CorrelationCongruence(embedding_size=0),
            ValueError,
            "embedding_size=0 must be an integer of at least 1",
        ),
    ],
)
def test_wrong_parameters_are_refused(term, error, message):
    with pytest.raises(error, match=message):
        term.check()


def test_attention_of_a_single_pixel_is_refused():
    AttentionTransfer().check_shapes([(3, 2, 1)], [(4, 4, 4)])
    with pytest.raises(
        ValueError, match=r"\(3, 1, 1\) or the teacher's of shape \(4, 4, 4\) has a single pixel"
    ):
        AttentionTransfer().check_shapes([(3, 1, 1)], [(4, 4, 4)])


OF_ROWS = ["hint", "attention", "reviewkd", "mgd"]


def test_terms_that_are_means_over_rows_take_weights():
    assert [name for name in NAMES if TERMS[name].takes_row_weight] == OF_ROWS


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_row_of_weight_two_counts_like_two_rows(name):
    term = MaskedGeneration(mask_ratio=1e-9) if name == "mgd" else TERMS[name]()
    module = build(term, MAPS["other sizes"]).eval()  # statistics of a batch are those of its rows
    student, teacher = (tensors(side) for side in draw(MAPS["other sizes"]))
    times = torch.tensor([2, 1, 3, 1])
    twice = [[own.repeat_interleave(times, dim=0) for own in side] for side in (student, teacher)]
    weight = times / times.double().mean()
    found = term.loss(student, teacher, module, row_weight=weight)
    torch.testing.assert_close(found, term.loss(*twice, module))
    assert abs(found - term.loss(student, teacher, module)) > 1e-4
    torch.testing.assert_close(
        term.loss(student, teacher, module, row_weight=torch.ones(B).double()),
        term.loss(student, teacher, module),
    )
