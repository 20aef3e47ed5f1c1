"""Residual networks: their shape, their weights from a file, and both places in a distillation."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_kd import CIFARResNet, CNNStudent
from sklearn_kd.datasets import fetch_cifar10
from sklearn_kd.students._resnet import ResidualBlock

NORMALISATIONS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def images():
    """(X, y) of 60 random colour images of 8×8."""
    rng = np.random.default_rng(0)
    return rng.random((60, 3, 8, 8), dtype=np.float32), np.arange(60) % 4


@pytest.fixture
def resnet():
    """A ResNet-8 of which no two weights are equal, statistics of the batches included."""
    torch.manual_seed(0)
    network = CIFARResNet(8, n_classes=4)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.1)
    return network.eval()


def n_parameters(network):
    return sum(w.numel() for w in network.parameters())


# --------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_those_of_the_paper(depth, millions):
    """He et al. 2015, Table 6."""
    digits = len(str(millions).partition(".")[2])
    assert round(n_parameters(CIFARResNet(depth)) / 1e6, digits) == millions


@pytest.mark.parametrize(("depth", "n"), [(8, 1), (20, 3)])
def test_names_in_the_state_dict(depth, n):
    expected = {"mean", "std", "conv1.weight", "linear.weight", "linear.bias"}
    expected |= {f"bn1.{name}" for name in NORMALISATIONS}
    for block in (f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(n)):
        for k in (1, 2):
            expected |= {f"{block}.conv{k}.weight"} | {f"{block}.bn{k}.{name}" for name in NORMALISATIONS}
    assert set(CIFARResNet(depth).state_dict()) == expected


def test_wider():
    """Twice the channels are about four times the weights, of images as large."""
    network, wide = CIFARResNet(8), CIFARResNet(8, n_classes=100, width=2)
    shapes = {}
    for name, one in {"network": network, "wide": wide}.items():
        for stage in ("layer1", "layer2", "layer3"):
            keep = lambda _, __, out, at=(name, stage): shapes.update({at: tuple(out.shape[1:])})  # noqa: E731
            getattr(one, stage).register_forward_hook(keep)
        assert one(torch.rand(2, 3, 32, 32)).shape == (2, one.linear.out_features)
    expected = {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}
    for stage, (channels, side) in expected.items():
        assert shapes["network", stage] == (channels, side, side)
        assert shapes["wide", stage] == (2 * channels, side, side)
    assert 3.9 < n_parameters(wide) / n_parameters(network) < 4.2


def test_a_halving_shortcut_has_no_parameters_and_pads_with_zeros():
    block = ResidualBlock(4, 8)
    assert [name for name, _ in block.named_parameters() if "shortcut" in name] == []
    x = torch.randn(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for row in range(3):
        for column in range(3):
            for channel in range(4):
                expected[:, channel + 2, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(block.shortcut(x), expected)
    # Without the convolutions the shortcut is all that the block answers with.
    nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(x), expected.relu())


def test_a_plain_shortcut_is_the_input():
    x = torch.randn(2, 4, 6, 6)
    assert ResidualBlock(4, 4).shortcut(x) is x


def test_every_parameter_gets_a_gradient(images):
    network = CIFARResNet(14, n_classes=4)
    nn.functional.cross_entropy(network(torch.from_numpy(images[0])), torch.from_numpy(images[1])).backward()
    assert [name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()] == []


def test_pixels_are_normalised_inside(resnet, images):
    x = torch.from_numpy(images[0])
    bare = CIFARResNet(8, n_classes=4, mean=(0, 0, 0), std=(1, 1, 1))
    weights = resnet.state_dict()
    bare.load_state_dict({name: weights[name] for name in weights if name not in ("mean", "std")})
    mean, std = (
        torch.tensor(of).reshape(1, 3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    resnet.load_state_dict({**weights, "mean": mean[0], "std": std[0]})
    torch.testing.assert_close(bare.eval()((x - mean) / std), resnet(x))


def test_grey_images():
    network = CIFARResNet(8, mean=(0.286,), std=(0.353,))
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


# --------------------------------------------------------------------------------------
# Weights


def test_weights_from_a_file(resnet, images, tmp_path):
    """With their normalisation, which is not the default here."""
    torch.save(resnet.state_dict(), tmp_path / "resnet.pt")
    again = CIFARResNet.from_file(tmp_path / "resnet.pt")
    assert not again.training
    x = torch.from_numpy(images[0])
    assert torch.equal(again(x), resnet(x))


def test_weights_of_a_wide_network_for_grey_images(tmp_path):
    network = CIFARResNet(14, n_classes=7, width=3, mean=(0.3,), std=(0.4,)).eval()
    torch.save(network.state_dict(), tmp_path / "resnet.pt")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(CIFARResNet.from_file(str(tmp_path / "resnet.pt"))(x), network(x))


def test_published_weights_have_neither_normalisation_nor_counts(resnet, images, tmp_path):
    bare = {
        name: tensor
        for name, tensor in resnet.state_dict().items()
        if name not in ("mean", "std") and not name.endswith("num_batches_tracked")
    }
    torch.save(bare, tmp_path / "resnet.pt")
    mean, std = resnet.mean.flatten().tolist(), resnet.std.flatten().tolist()
    again = CIFARResNet.from_file(tmp_path / "resnet.pt", mean=mean, std=std)
    x = torch.from_numpy(images[0])
    assert torch.equal(again(x), resnet(x))
    assert not torch.equal(CIFARResNet.from_file(tmp_path / "resnet.pt")(x), resnet(x))


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_weights_in_the_layouts_of_checkpoints(key, resnet, images, tmp_path):
    """Idelbayev's own files are of this form."""
    weights = {f"module.{name}": w for name, w in resnet.state_dict().items()}
    torch.save({key: weights, "best_prec1": 91.7, "model_name": "resnet8"}, tmp_path / "resnet.th")
    x = torch.from_numpy(images[0])
    assert torch.equal(CIFARResNet.from_file(tmp_path / "resnet.th")(x), resnet(x))


def projected(weights):
    """As with shortcuts that have weights (He et al.'s option B)."""
    return weights | {"layer2.0.shortcut.weight": torch.zeros(32, 16, 1, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: CNNStudent((3, 8, 8), 4).state_dict(), r"it holds features\.0\.weight"),
        (lambda weights: {}, "it holds nothing"),
        (projected, r"layer2\.0\.shortcut\.weight"),
        (lambda weights: {n: w for n, w in weights.items() if n != "bn1.weight"}, r"Missing.*bn1\.weight"),
        (lambda weights: weights | {"linear.weight": torch.zeros(4, 65)}, "size mismatch"),
        (lambda weights: {"ema": weights, "epoch": 3}, r"keys \['ema', 'epoch'\].*state dict alone"),
        (lambda weights: {"net": weights, "model": weights}, r"several state dicts, under \['model', 'net'\]"),
        (lambda weights: [1, 2], "holds a list"),
    ],
)  # fmt: skip
def test_foreign_weights_are_refused(change, message, resnet, tmp_path):
    torch.save(change(resnet.state_dict()), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message) as error:
        CIFARResNet.from_file(tmp_path / "weights.pt")
    assert "weights.pt" in str(error.value)


def test_files_that_are_no_weights(resnet, tmp_path):
    torch.save(resnet, tmp_path / "module.pt")  # a pickled object, whose loading runs code
    (tmp_path / "text.pt").write_text("accuracy: 91.73\n")
    (tmp_path / "empty.pt").touch()
    for name in ("module.pt", "text.pt", "empty.pt"):
        with pytest.raises(ValueError, match=rf"{re.escape(name)} cannot be read as a state dict"):
            CIFARResNet.from_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        CIFARResNet.from_file(tmp_path / "nowhere.pt")


# --------------------------------------------------------------------------------------
# Wrong input


@pytest.mark.parametrize("depth", [2, 18, 50.0, -4, "20"])
def test_wrong_depth(depth):
    with pytest.raises(ValueError, match=rf"depth={depth!r} is not 6n \+ 2.* 20,"):
        CIFARResNet(depth)


@pytest.mark.parametrize("width", [0, 1.5])
def test_wrong_width(width):
    with pytest.raises(ValueError, match=f"width={width} must be a whole number"):
        CIFARResNet(8, width=width)


@pytest.mark.parametrize("params", [{"mean": (0.5,)}, {"std": (1, 1, 0)}, {"mean": (), "std": ()}])
def test_wrong_normalisation(params):
    with pytest.raises(ValueError, match="one number for each channel"):
        CIFARResNet(8, **params)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 192)])
def test_other_images_are_refused(shape):
    """One channel would be broadcast to three, and nothing would fail."""
    with pytest.raises(ValueError, match=r"shape \(n, 3, height, width\)"):
        CIFARResNet(8)(torch.zeros(shape))


# --------------------------------------------------------------------------------------
# In a distillation


@pytest.mark.parametrize("hypergradient", ["finite_difference", "jvp", "exact"])
def test_as_the_student(hypergradient, make, images):
    X, y = images
    logits = 4 * np.eye(4)[y]
    clf = make(
        student=CIFARResNet, student__depth=8, meta__hypergradient=hypergradient, meta="gradient", lr=0.01
    )
    clf.fit(X, y, teacher_logits=logits)
    assert clf.student_.linear.out_features == 4
    path = clf.metaparameter_path_
    assert np.isfinite(path["val_loss"]).all()
    assert len(np.unique(path["lambda1"])) > 1


def test_as_the_teacher(make, resnet, images):
    """It answers in evaluation mode, and is left as it was."""
    X, y = images
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    resnet.train()
    clf = make(resnet, student=CNNStudent, meta="fixed", keep_teacher=True).fit(X, y)
    assert clf.teacher_ is resnet and resnet.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet.state_dict().items())
    with torch.no_grad():
        logits = resnet.eval()(torch.from_numpy(X))
    told = make(student=CNNStudent, meta="fixed").fit(X, y, teacher_logits=logits)
    np.testing.assert_allclose(clf.predict_proba(X), told.predict_proba(X), atol=1e-5)


def test_exported_student_reloads(make, images, tmp_path):
    """Its normalisation, which is not the default, is in the file."""
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    X, y = images
    sizes = {"student__depth": 8, "student__mean": (0.5,) * 3, "student__std": (0.3,) * 3}
    clf = make(meta="none", student=CIFARResNet, **sizes).fit(X, y)
    clf.export_student(tmp_path / "student.safetensors")
    again = CIFARResNet(8, n_classes=4).eval()
    safetensors.load_model(again, tmp_path / "student.safetensors")
    with torch.no_grad():
        logits = again(torch.from_numpy(X))
    np.testing.assert_allclose(torch.softmax(logits, 1), clf.predict_proba(X), atol=1e-5)


def test_exported_student_for_onnx_runtime(make, images, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    X, y = images
    clf = make(meta="none", student=CIFARResNet, student__depth=8).fit(X, y)
    clf.export_student(tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    for rows in (1, 3, 60):
        (logits,) = session.run(["logits"], {"X": X[:rows]})
        probabilities = torch.softmax(torch.from_numpy(logits), 1)
        np.testing.assert_allclose(probabilities, clf.predict_proba(X[:rows]), atol=1e-5)


# --------------------------------------------------------------------------------------
# Trained weights


@pytest.mark.data
@pytest.mark.parametrize(("depth", "accuracy"), [(20, 0.9173), (56, 0.9339)])
def test_trained_weights(depth, accuracy):
    """On the first 500 test images; on all of them: examples/paper/check_teachers.py."""
    home = Path(os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data")).expanduser()
    weights = Path("teachers", f"resnet{depth}-cifar10.pt")
    for needed in (weights, "cifar-10-batches-py"):
        if not (home / needed).exists():
            pytest.skip(f"{needed} is not in scikit-learn's data folder (SCIKIT_LEARN_DATA)")
    X, y = fetch_cifar10(data_home=home, subset="test", return_X_y=True)
    with torch.no_grad():
        right = CIFARResNet.from_file(home / weights)(torch.tensor(X[:500])).argmax(dim=1).numpy() == y[:500]
    assert abs(right.mean() - accuracy) < 3 * np.sqrt(accuracy * (1 - accuracy) / 500)
