"""Tokens (n, N, C) as maps: found, named, captured, and chosen by "auto"."""

import numpy as np
import pytest
import torch

from helpers.layered_networks import pixels
from helpers.networks import ConvNet
from helpers.token_networks import Mixer, SmallViT, TokenSwin
from sklearn_kd import CNNStudent, DistProClassifier, layer_table
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.layers._names import LayerName
from sklearn_kd.layers._tokens import possible_grids, square_grid, tokens_as_map
from sklearn_kd.layers._training_mode import check_training_mode
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.teachers._paired_layers import find_layers_of_both


def shapes(network, layers, x, **settings):
    return layer_shapes(find_layers(network, layers, x, name="layers", **settings))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a:tokens", LayerName("a", order="tokens")),
        ("a#2:input:tokens=7x14", LayerName("a", 2, True, "tokens", (7, 14))),
        ("a:nhwc=7x14", LayerName("a:nhwc=7x14")),
        ("a:tokens=0x4", LayerName("a:tokens=0x4")),
    ],
)
def test_names(name, expected):
    assert LayerName.parse(name, {"a"}) == expected


@pytest.mark.parametrize(
    ("n_tokens", "sizes", "square", "possible"),
    [
        (64, [(8, 8)], (8, 8), {(8, 8)}),
        (65, [(8, 8)], (8, 8), {(8, 8)}),
        (69, [(8, 8)], (8, 8), {(8, 8)}),  # class and four registers
        (16, [(8, 8)], (4, 4), {(4, 4)}),  # merged, as Swin's
        (17, [(8, 8)], (4, 4), set()),  # no token comes before patches that have been merged
        (73, [(8, 8)], None, set()),
        (98, [(7, 14)], None, {(7, 14)}),
        (17, [(4, 4), (3, 5)], (4, 4), {(4, 4), (3, 5)}),
    ],
)
def test_grids(n_tokens, sizes, square, possible):
    assert square_grid(n_tokens) == square
    assert possible_grids(n_tokens, sizes) == possible


def test_tokens_are_turned_into_a_map():
    tokens = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    found = tokens_as_map(tokens, (2, 3))
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(found[1, 2, 1, 0], tokens[1, 1 + 3, 2])
    np.testing.assert_array_equal(tokens_as_map(tokens, None), tokens[:, 3:].mT.reshape(2, 3, 2, 2))
    for n_tokens, grid in [(7, (2, 4)), (34, None), (0, None)]:
        with pytest.raises(ValueError, match=r"are not a grid.*in this forward pass"):
            tokens_as_map(torch.zeros(2, n_tokens, 3), grid)


@pytest.mark.parametrize("n_others", [0, 1, 2, 5])
@torch.no_grad()
def test_a_vision_transformer(n_others):
    network, x = SmallViT(n_others=n_others).eval(), pixels(3, 16)
    found = shapes(network, "auto", x)
    assert found == {f"blocks.{block}:tokens": (12, 4, 4) for block in (0, 2, 3, 5)}
    assert list(shapes(network, "auto", x, n_stages=3)) == [f"blocks.{block}:tokens" for block in (1, 3, 5)]
    assert len(shapes(network, "auto", x, n_stages=9)) == 6
    assert shapes(network, "auto", x, auto="last stage") == {"blocks.5:tokens": (12, 4, 4)}
    assert shapes(network, ["blocks.1"], x) == {"blocks.1:tokens": (12, 4, 4)}
    if n_others:
        rows = shapes(network, "auto", x, kinds=("rows",), auto="embedding")
        assert rows == {"head:input:rows": (12,)}
    with feature_hooks(network, ["blocks.5:tokens"]) as maps:
        network(x)
    tokens = torch.cat([network.others.expand(2, -1, -1), network.patches(x)], 1) + network.positions
    expected = network.blocks(tokens)[:, n_others:].mT.reshape(2, 12, 4, 4)
    torch.testing.assert_close(maps["blocks.5:tokens"], expected)


def test_images_that_are_not_square_name_their_grid():
    network, x = SmallViT(image=(8, 16), depth=2), torch.rand(2, 3, 8, 16)
    assert shapes(network, "auto", x) == {f"blocks.{block}:tokens=2x4": (12, 2, 4) for block in (0, 1)}


def test_a_swin_of_tokens_has_stages_and_keeps_its_attributes():
    network = TokenSwin()
    found = shapes(network, "auto", pixels(3, 16))
    assert found == {"stage1:tokens": (8, 8, 8), "norm:tokens": (16, 4, 4)}
    assert network.window == 8


def test_without_a_convolution_it_is_not_certain_and_can_be_said():
    network, x = SmallViT(by_conv=False, depth=2), pixels(3, 16)
    with pytest.raises(ValueError, match=r"'blocks.0' .*\(2, 17, 12\).*\['blocks.0:tokens', ...\].*=7x14"):
        shapes(network, ["blocks.0"], x)
    with pytest.raises(ValueError, match=r"0 stage\(s\).*if their tokens are a grid.*'blocks.1:tokens'"):
        shapes(network, "auto", x)
    assert shapes(network, ["blocks.0:tokens"], x) == {"blocks.0:tokens": (12, 4, 4)}
    assert shapes(network, ["blocks.0:tokens=2x8"], x) == {"blocks.0:tokens=2x8": (12, 2, 8)}
    with pytest.raises(ValueError, match="17 tokens, too few for a grid of 5×4"):
        shapes(network, ["blocks.0:tokens=5x4"], x)
    long = SmallViT(by_conv=False, depth=1, image=(8, 136), n_others=5)
    with pytest.raises(ValueError, match="73 tokens, which are not a square grid after at most 8 others"):
        shapes(long, ["blocks.0:tokens"], torch.rand(2, 3, 8, 136))


def test_transposed_tokens_are_no_map():
    table = layer_table(Mixer(), (3, 24, 24))
    assert {row.shape for row in table if row.order == "tokens"} == {(9, 6, 6)}
    assert [row.layer for row in table if row.stage is not None] == ["blocks.0:tokens", "blocks.1:tokens"]


def test_patches_that_are_dropped_in_training_are_refused():
    network, x = SmallViT(keep=0.5), pixels(3, 16)
    with pytest.raises(ValueError, match=r"has 17 tokens in evaluation mode and 8 in training mode"):
        check_training_mode(
            network, {"patches:tokens": (12, 4, 4), "blocks.1:tokens": (12, 4, 4)}, x, name="a"
        )


def test_the_table_shows_tokens():
    table = layer_table(SmallViT(depth=2), (3, 16, 16))
    rows = {row.layer: row for row in table}
    assert rows["blocks.1:tokens"].shape == (12, 4, 4) and rows["blocks.1:tokens"].order == "tokens"
    assert [row.layer for row in table if row.stage is not None] == ["blocks.0:tokens", "blocks.1:tokens"]


@pytest.mark.parametrize(("depth", "expected"), [(2, 2), (6, 2)])
def test_a_network_of_one_size_follows_the_other(depth, expected):
    teacher, x = (
        FeatureTeacher(SmallViT(channels=1, image=(8, 8), patch=2, depth=depth), torch.device("cpu")),
        pixels(1, 8),
    )
    of_teacher, of_student = find_layers_of_both(
        teacher, ConvNet(), x, teacher_layers="auto", student_layers="auto"
    )
    assert len(of_teacher) == len(of_student) == expected
    student = SmallViT(channels=1, image=(8, 8), patch=2, depth=depth)
    of_teacher, of_student = find_layers_of_both(
        FeatureTeacher(ConvNet(), torch.device("cpu")),
        student,
        x,
        teacher_layers="auto",
        student_layers="auto",
    )
    assert len(of_teacher) == len(of_student) == expected


@pytest.mark.parametrize(("auto", "block"), [("middle stage", 2), ("last stage", 3)])
def test_one_stage_is_at_the_same_depth_in_two_networks_of_one_size(auto, block):
    teacher = FeatureTeacher(SmallViT(depth=4), torch.device("cpu"))
    found = find_layers_of_both(
        teacher, SmallViT(depth=4), pixels(3, 16), teacher_layers="auto", student_layers="auto", auto=auto
    )
    assert [list(of_one) for of_one in found] == [[f"blocks.{block}:tokens"]] * 2


def small_vit(n_classes):
    return SmallViT(n_classes, channels=1, image=(8, 8), patch=2, depth=3)


@pytest.mark.parametrize(
    ("teacher", "student", "layers"),
    [
        (small_vit(10), CNNStudent, {}),
        (ConvNet(), small_vit, {}),
        (
            ConvNet(),
            small_vit,
            {"teacher_layers": ["stage1", "stage2"], "student_layers": ["blocks.0", "blocks.2"]},
        ),
        (
            small_vit(10),
            small_vit,
            {"teacher_layers": ["blocks.1:tokens"], "student_layers": ["blocks.1:input"]},
        ),
    ],
)
def test_fits_between_transformers_and_convolutions(teacher, student, layers):
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 10
    fitted = DistProClassifier(
        teacher,
        student,
        **layers,
        search_epochs=1,
        max_epochs=1,
        transforms=["conv1"],
        device="cpu",
        random_state=0,
    ).fit(X, y)
    found = {(p.teacher_layer, p.student_layer) for p in fitted.pathways_}
    assert any(layer.endswith(":tokens") for pair in found for layer in pair)
    assert len(fitted.predict(X)) == 40
