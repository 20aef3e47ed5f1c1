"""The fully convolutional student: shapes, sizes that are refused, and what each pixel depends on."""

import numpy as np
import pytest
import torch

from sklearn_kd import DistilledClassifier, DistProClassifier, FCNStudent
from sklearn_kd.layers._hooks import feature_hooks


def pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 48), (33, 50)])
def test_the_output_has_the_size_of_the_first_stage(stride, size):
    network = FCNStudent(3, 5, channels=(4, 6, 9), blocks=2, output_stride=stride).eval()
    stages = [f"layer{i}" for i in (1, 2, 3)]
    with feature_hooks(network, stages) as maps:
        out = network(pixels(2, 3, *size))
    first = tuple(-(-n // stride) for n in size)
    assert out.shape == (2, 5, *first)
    halved = [tuple(-(-n // 2**k) for n in first) for k in range(3)]
    assert [tuple(maps[stage].shape[1:]) for stage in stages] == [
        (c, *at) for c, at in zip((4, 6, 9), halved, strict=True)
    ]


def test_every_stage_reaches_the_output():
    network = FCNStudent(1, 2, channels=(4, 8, 8)).eval()
    out = network(pixels(1, 1, 16, 16))
    out.square().sum().backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in network.parameters())


def test_a_pixel_does_not_depend_on_the_size_of_the_image():
    """Far from the borders, a crop has the same output."""
    network = FCNStudent(1, 2, channels=(4, 8)).eval()
    x = pixels(1, 1, 96, 96)
    whole, part = network(x), network(x[:, :, 16:80, 16:80])
    torch.testing.assert_close(whole[:, :, 20:28, 20:28], part[:, :, 12:20, 12:20])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"channels": ()}, r"channels=\(\) must have one number for each stage"),
        ({"channels": (8, 4)}, r"channels=\(8, 4\) .* none smaller than the one before"),
        ({"channels": (0, 4)}, "must be a sequence of whole numbers"),
        ({"blocks": 1.5}, "blocks=1.5 must be a whole number"),
        ({"head_channels": 0}, "head_channels=0 must be a whole number"),
        ({"channels": 8}, "channels=8 must be a sequence"),
        ({"output_stride": 3}, r"output_stride=3 must be one of \(1, 2, 4\)"),
        ({"output_stride": 2.0}, r"output_stride=2.0 must be one of \(1, 2, 4\)"),
    ],
)
def test_wrong_sizes_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        FCNStudent(3, 5, **params)


def test_images_without_channel_are_refused():
    with pytest.raises(ValueError, match=r"FCNStudent takes images .* got \(2, 16, 16\). .* X\[:, None\]"):
        FCNStudent(1, 5)(torch.zeros(2, 16, 16))


def test_numpy_sizes_are_taken():
    assert FCNStudent(3, 5, channels=np.array([4, 8])).layer2[0].conv1.out_channels == 8


@pytest.fixture
def maps():
    """(X, y) of 12 random images of 8×8, the class of a pixel being its brightest channel."""
    X = np.random.default_rng(0).random((12, 3, 8, 8), dtype=np.float32)
    return X, X.argmax(axis=1)


def test_a_fitted_one_is_kept_in_files(maps, tmp_path):
    X, y = maps
    clf = DistilledClassifier(
        None, FCNStudent, meta="none", student__channels=(4, 6), max_epochs=1, device="cpu"
    )
    clf.fit(X, y).save(tmp_path / "maps.safetensors")
    again = DistilledClassifier.load(tmp_path / "maps.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert isinstance(again.student_.student, FCNStudent)


def test_its_stages_are_found_for_pathways(maps):
    teacher = FCNStudent(3, 3, channels=(6, 8), blocks=2)
    clf = DistProClassifier(
        teacher, FCNStudent, student__channels=(4, 6), transforms=["conv1"], search_epochs=1, max_epochs=1,
        device="cpu",
    )  # fmt: skip
    found = {(p.teacher_layer, p.student_layer) for p in clf.fit(*maps).pathways_}
    stages = ("layer1", "layer2")
    assert found == {(one, other) for one in stages for other in stages}
