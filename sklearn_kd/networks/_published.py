"""Networks by their published names, and a loader of their trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from os import PathLike

import torch
from torch import Tensor, nn

from sklearn_kd.errors._did_you_mean import ByName, did_you_mean
from sklearn_kd.files._state_dict import check_finite, read_state_dict
from sklearn_kd.networks._mobilenet import MobileNetV2
from sklearn_kd.networks._resnet import ResNet
from sklearn_kd.networks._shufflenet import ShuffleNetV1, ShuffleNetV2
from sklearn_kd.networks._vgg import VGG
from sklearn_kd.networks._wide_resnet import WideResNet

_TIMES_4 = (32, 64, 128, 256)

NETWORKS: dict[str, Callable[..., nn.Module]] = ByName(
    {
        **{
            f"wrn_{depth}_{width}": partial(WideResNet, depth=depth, width=width)
            for depth, width in (
                (16, 1),
                (16, 2),
                (16, 4),
                (28, 2),
                (28, 4),
                (28, 10),
                (40, 1),
                (40, 2),
                (40, 4),
            )
        },
        **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
        **{f"resnet{depth}x4": partial(ResNet, depth=depth, channels=_TIMES_4) for depth in (8, 32)},
        **{f"vgg{depth}": partial(VGG, depth=depth) for depth in (8, 11, 13, 16, 19)},
        "MobileNetV2": MobileNetV2,
        "ShuffleV1": ShuffleNetV1,
        "ShuffleV2": ShuffleNetV2,
    }
)

# Names that a file may lack: counts of batches and the normalisation of pixels.
_OWN = ("num_batches_tracked", "mean", "std")
_MOST_NAMES = 4
_N_CLASSES = 100  # of the networks that weights are compared with, if the weights do not show it


def load_published(network: nn.Module | str, path: str | PathLike[str]) -> nn.Module:
    """Load published weights into a network.

    The file is one written by :func:`torch.save`: a state dict, or a checkpoint with the state dict under
    "model", "state_dict", "model_state_dict" or "net". The prefixes "module." of a parallel network and
    "_orig_mod." of a compiled one are removed. No code in the file is run.

    Parameters
    ----------
    network : nn.Module or str
        The network whose weights are replaced, or a name in ``NETWORKS``. For a name, the number of classes
        is inferred from the weights, and pixels are normalised with CIFAR-100's mean and standard deviation.
    path : str or path-like
        Path of the file.

    Returns
    -------
    nn.Module
        The network, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If there is no network with this name, if the file does not hold weights or holds those of another
        network, or if weights are NaN or infinite. The message names the tensors.
    TypeError
        If ``network`` is neither a network nor a name.

    Notes
    -----
    The networks take pixels in [0, 1] and normalise them themselves. For weights trained with another mean
    and standard deviation, build the network with these:
    ``load_published(WideResNet(40, 2, n_classes=10, mean=..., std=...), path)``.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sklearn_kd.networks import WideResNet, load_published
    >>> trained = WideResNet(16, 1, n_classes=20)
    >>> weights = {f"module.{name}": w for name, w in trained.state_dict().items()}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 240, "state_dict": weights}, f"{folder}/wrn.pth")
    ...     teacher = load_published("wrn_16_1", f"{folder}/wrn.pth")
    >>> teacher.fc
    Linear(in_features=64, out_features=20, bias=True)
    """
    if isinstance(network, str):
        return _load_by_name(network, path)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network={network!r} must be an instance of torch.nn.Module, or the name of a network: "
            f"{', '.join(NETWORKS)}."
        )
    weights = read_state_dict(path)
    _check_fits(network, weights, path)
    check_finite(network, weights, path)
    network.load_state_dict(weights)
    return network.eval()


def _load_by_name(name: str, path: str | PathLike[str]) -> nn.Module:
    if name not in NETWORKS:
        raise ValueError(
            f"network={name!r} is not the name of a network.{did_you_mean(name, NETWORKS)} Give one of "
            f"{', '.join(NETWORKS)}."
        )
    weights = read_state_dict(path)
    # Check the shapes without memory first: a small file may name large layers.
    _check_fits(_without_memory(name, _n_classes(weights)), weights, path)
    network = NETWORKS[name](n_classes=_n_classes(weights))
    check_finite(network, weights, path)
    network.load_state_dict(weights)
    return network.eval()


@cache
def _without_memory(name: str, n_classes: int) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name](n_classes=n_classes)


def _n_classes(weights: Mapping[str, Tensor]) -> int:
    """Return the width of the linear layer, the only one whose weight has two dimensions in all networks."""
    widths = [len(weight) for weight in weights.values() if weight.ndim == 2]
    return widths[0] if len(widths) == 1 and widths[0] else _N_CLASSES


def _misfits(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the weights that do not fit, grouped by what is wrong with them."""
    own = network.state_dict()
    found = {
        "It lacks": [name for name in own if name not in weights and name.split(".")[-1] not in _OWN],
        "The network has no": [name for name in weights if name not in own],
        "Of another shape are": [
            f"{name} {tuple(weight.shape)}, not {tuple(own[name].shape)}"
            for name, weight in weights.items()
            if name in own and weight.shape != own[name].shape
        ],
    }
    return {what: names for what, names in found.items() if names}


def _check_fits(network: nn.Module, weights: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Raise ValueError unless the weights fit, saying which do not and which network they fit."""
    found = _misfits(network, weights)
    if not found:
        return
    n_classes = _n_classes(weights)
    others = [name for name in NETWORKS if not _misfits(_without_memory(name, n_classes), weights)]
    remedy = "Give the network in which they were trained."
    if others:
        remedy = f"They fit {others[0]!r}: load_published({others[0]!r}, path)."
    said = " ".join(f"{what} {_list(names)}." for what, names in found.items())
    raise ValueError(f"{path} has no weights that fit {type(network).__name__}. {said} {remedy}")


def _list(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
