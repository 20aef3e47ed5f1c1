"""Small replicas of well-known networks, and networks whose layers cannot be used."""

import warnings
from collections.abc import Callable

import torch
from torch import nn

from helpers.networks import ConvNet
from helpers.token_networks import SmallViT


def conv(
    fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU, as torchvision's Conv2dNormActivation."""
    layers = [nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, groups=groups), nn.BatchNorm2d(fan_out)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """torchvision's: one ReLU for all, the stride in the 3×3; ``pool`` as timm's aa_layer."""

    def __init__(
        self, fan_in: int, middle: int, stride: int, pool: bool = False, shortcut_first: bool = False
    ) -> None:
        super().__init__()
        fan_out = 2 * middle
        self.conv1, self.conv3 = nn.Conv2d(fan_in, middle, 1), nn.Conv2d(middle, fan_out, 1)
        self.conv2 = nn.Conv2d(middle, middle, 3, 1 if pool else stride, 1)
        self.pool = nn.AvgPool2d(stride) if pool else nn.Identity()
        self.relu, self.downsample = nn.ReLU(inplace=True), conv(fan_in, fan_out, 1, stride, relu=False)
        self.shortcut_first = shortcut_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shortcut_first:
            shortcut = self.downsample(x)
        out = self.conv3(self.pool(self.relu(self.conv2(self.relu(self.conv1(x))))))
        return self.relu(out + (shortcut if self.shortcut_first else self.downsample(x)))


class Shared(nn.Module):
    """One ReLU and one pool for all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.a, self.b, self.c):
            x = self.pool(self.relu(layer(x)))
        return self.fc(x.flatten(1))


class TupleBlock(nn.Module):
    """Returns (after ReLU, before it), as the last blocks of RepDistiller's and mdistiller's stages."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.BatchNorm2d(fan_out)
        self.downsample = nn.Conv2d(fan_in, fan_out, 1, stride)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.bn(self.conv(x)) + self.downsample(x)
        return torch.relu(before), before


class Tuples(nn.Module):
    """Three stages that return (after ReLU, before it)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            TupleBlock(3, 8, 1),
            TupleBlock(8, 16, 2),
            TupleBlock(16, 32, 2),
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x)[0])[0])[0].mean((2, 3)))


class Permute(nn.Module):
    """Axes in another order, as torchvision's."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.order)


class SwinBlock(nn.Module):
    """(n, h, w, c); attention within windows of 2×2, whose maps and weights are 4-D too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qk, self.v = nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.Identity()
        self.drop, self.mlp = nn.Dropout(0.1), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        windows = self.norm(x).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k = self.qk(windows).chunk(2, dim=-1)
        weights = self.drop(torch.softmax(q @ k.mT, dim=-1)[:, None])
        out = self.v(weights[:, 0] @ windows).reshape(n, h // 2, w // 2, 2, 2, c).transpose(2, 3)
        return x + self.mlp(out.reshape(n, h, w, c))


class PatchMerging(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class Swin(nn.Module):
    """torchvision's; ``fixed`` refuses images of another size, as timm's does."""

    def __init__(self, width: int = 8, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 4, 4), Permute(0, 2, 3, 1), nn.LayerNorm(width)),
            nn.Sequential(SwinBlock(width), SwinBlock(width)),
            PatchMerging(width),
            nn.Sequential(SwinBlock(2 * width), SwinBlock(2 * width)),
        )
        self.norm, self.permute, self.head = (
            nn.LayerNorm(2 * width),
            Permute(0, 3, 1, 2),
            nn.Linear(2 * width, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fixed and x.shape[2:] != (32, 32):
            raise AssertionError("Input size does not match")
        return self.head(self.permute(self.norm(self.features(x))).mean((2, 3)))


def pixels(channels: int = 3, side: int = 32) -> torch.Tensor:
    """Two images."""
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


class ChannelsLast(nn.Module):
    """(n, h, w, c) at ``sa`` and ``sb``, of modules that do not tell the order; ``strict`` takes one size."""

    def __init__(self, strict: bool = False, channels: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, channels, 3, 1, 1), nn.Conv2d(channels, 16, 3, 2, 1)
        self.sa, self.sb, self.fc = nn.Identity(), nn.Identity(), nn.Linear(16, 10)
        self.strict = strict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strict and x.shape[2] != 8:
            raise ValueError("one size")
        h = self.sa(self.a(x).movedim(1, 3))
        return self.fc(self.sb(self.b(h.movedim(3, 1)).movedim(1, 3)).mean((1, 2)))


class WithSpare(ConvNet):
    """Has a layer that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(1, 1, 1)


def compiled_in_place(network: ConvNet) -> ConvNet:
    """Compile the network and its first stage."""
    network.stage1.compile(backend="eager")
    network.compile(backend="eager")
    return network


def scripted(part: nn.Module) -> nn.Module:
    """Compile to TorchScript, without torch's warning that it is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(part)


def with_a_scripted_part() -> ConvNet:
    """A network whose first stage is TorchScript."""
    network = ConvNet()
    network.stage1 = scripted(network.stage1)
    return network


# Row of docs/guide/failures.rst → (network, samples, layers) that give its message.
UNUSABLE_LAYERS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, list[str] | str]]] = {
    "a missing layer": lambda: (ConvNet(), pixels(1, 8), ["stage3"]),
    "a layer that does not run": lambda: (WithSpare(), pixels(1, 8), ["spare"]),
    "a layer without a feature map": lambda: (ConvNet(), pixels(1, 8), ["linear"]),
    "a missing call": lambda: (Shared(), pixels(), ["relu#4"]),
    "a second name of one module": lambda: (nn.Sequential(*[nn.ReLU()] * 2), pixels(), ["1"]),
    "a compiled network": lambda: (compiled_in_place(ConvNet()), pixels(1, 8), "auto"),
    "channels of unknown order": lambda: (ChannelsLast(strict=True), pixels(1, 8), ["sb"]),
    "tokens of an unknown grid": lambda: (SmallViT(by_conv=False), pixels(3, 16), ["blocks.0"]),
    "tokens that are not a square grid": lambda: (
        SmallViT(image=(8, 136), n_others=5, depth=1),
        torch.rand(2, 3, 8, 136),
        ["blocks.0:tokens"],
    ),
    "too few tokens": lambda: (SmallViT(), pixels(3, 16), ["blocks.0:tokens=5x4"]),
    "too few stages": lambda: (nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1)), pixels(1, 8), "auto"),
    "a TorchScript network": lambda: (scripted(ConvNet()), pixels(1, 8), "auto"),
    "a TorchScript layer": lambda: (with_a_scripted_part(), pixels(1, 8), ["stage1.0"]),
}
