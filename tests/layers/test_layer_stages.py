"""The stages that "auto" finds in small replicas of well-known networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.layered_networks import (
    Bottleneck,
    Shared,
    Swin,
    TupleBlock,
    Tuples,
    conv,
)
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks


class BasicBlock(nn.Module):
    """torchvision's: one ReLU, the shortcut after the convolutions."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1), nn.BatchNorm2d(fan_out)
        self.downsample = conv(fan_in, fan_out, 1, stride, relu=False)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """torchvision's, three stages of two blocks."""

    def __init__(self, block=BasicBlock, out=lambda width: width, **settings):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        fan_in = 4
        for k, width in enumerate((4, 8, 16)):
            first = block(fan_in, width, 1 if k == 0 else 2, **settings)
            fan_in = out(width)
            self.add_module(f"layer{k + 1}", nn.Sequential(first, block(fan_in, width, 1, **settings)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(fan_in, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


RESNET = {"relu": (4, 32, 32), "layer1": (4, 16, 16), "layer2": (8, 8, 8), "layer3": (16, 4, 4)}
BOTTLENECKS = {"relu": (4, 32, 32), "layer1": (8, 16, 16), "layer2": (16, 8, 8), "layer3": (32, 4, 4)}


class InvertedResidual(nn.Module):
    """MobileNetV2's: expand by 1×1, depthwise, project by 1×1."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        wide = 2 * fan_in
        self.residual = stride == 1 and fan_in == fan_out
        self.conv = nn.Sequential(
            conv(fan_in, wide, 1),
            conv(wide, wide, 3, stride, groups=wide),
            conv(wide, fan_out, 1, relu=False),
        )

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet():
    features = nn.Sequential(
        conv(3, 4, 3, 2), InvertedResidual(4, 4, 1), InvertedResidual(4, 6, 2), InvertedResidual(6, 6, 1),
        InvertedResidual(6, 8, 2), InvertedResidual(8, 8, 1), conv(8, 32, 1),
    )  # fmt: skip
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class EfficientNet(nn.Module):
    """timm's: a stem, then stages of blocks in one Sequential."""

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(
            nn.Sequential(InvertedResidual(4, 4, 1)),
            nn.Sequential(InvertedResidual(4, 6, 2), InvertedResidual(6, 6, 1)),
            nn.Sequential(InvertedResidual(6, 8, 2), InvertedResidual(8, 8, 1)),
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.bn1(self.conv_stem(x))).mean((2, 3)))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's: two branches, joined and shuffled outside of modules."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        half, self.stride = fan_out // 2, stride
        inner = fan_in if stride > 1 else half
        self.branch1 = nn.Sequential(
            conv(fan_in, fan_in, 3, stride, fan_in, relu=False), conv(fan_in, half, 1)
        )
        self.branch2 = nn.Sequential(
            conv(inner, half, 1), conv(half, half, 3, stride, half, relu=False), conv(half, half, 1)
        )

    def forward(self, x):
        left, right = (self.branch1(x), x) if self.stride > 1 else x.chunk(2, dim=1)
        joined = torch.cat([left, self.branch2(right)], dim=1)
        return joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.maxpool = conv(3, 4, 3, 2), nn.MaxPool2d(3, 2, 1)
        self.stage2 = nn.Sequential(ShuffleUnit(4, 8, 2), ShuffleUnit(8, 8, 1))
        self.stage3 = nn.Sequential(ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1))
        self.conv5, self.fc = conv(16, 32, 1), nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.conv5(self.stage3(self.stage2(self.maxpool(self.conv1(x))))).mean((2, 3)))


class DenseBlock(nn.Module):
    def __init__(self, fan_in):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(fan_in + 4 * k), nn.ReLU(), nn.Conv2d(fan_in + 4 * k, 4, 3, 1, 1))
            for k in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Transition(nn.Sequential):
    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True)
        self.conv, self.pool = nn.Conv2d(fan_in, fan_out, 1), nn.AvgPool2d(2)


def densenet():
    features = nn.Sequential()
    for name, part in {
        "conv0": nn.Conv2d(3, 8, 3, 1, 1), "denseblock1": DenseBlock(8), "transition1": Transition(16, 8),
        "denseblock2": DenseBlock(8), "transition2": Transition(16, 8), "denseblock3": DenseBlock(8),
        "norm5": nn.BatchNorm2d(16),
    }.items():  # fmt: skip
        features.add_module(name, part)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class FunctionalPools(nn.Module):
    """Pools and activations between the stages that are no modules."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 1, 1), nn.Linear(8, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).mean((2, 3)))


class PooledBlock(nn.Module):
    """Ends with its pooling, as hand-written VGGs have it."""

    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.conv, self.pool = conv(fan_in, fan_out), nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(self.conv(x))


class WithFeatures(nn.Module):
    """Returns its maps beside the logits, as mdistiller's networks do."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer1, self.layer2 = conv(3, 4), TupleBlock(4, 8, 1), TupleBlock(8, 16, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        f0 = self.stem(x)
        f1 = self.layer1(f0)[0]
        f2 = self.layer2(f1)[0]
        return self.fc(f2.mean((2, 3))), {"feats": [f0, f1, f2]}


class WithGate(TupleBlock):
    """Returns a map, and a gate of half its size that was computed outside of modules."""

    def forward(self, x):
        out = super().forward(x)[0]
        return out, F.avg_pool2d(out, 2).mean(1, keepdim=True)


class Gated(Tuples):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = WithGate(3, 8, 1), WithGate(8, 16, 2), WithGate(16, 32, 2)


class Normalised(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.normalise, self.network = nn.InstanceNorm2d(3), network

    def forward(self, x):
        return self.network(self.normalise(x))


class Reduction(nn.Module):
    """InceptionV3's: parallel branches halve the image, one of them after work at the old size."""

    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.short = conv(fan_in, fan_out // 2, 3, 2)
        self.first, self.second = conv(fan_in, 4, 1), conv(4, 4)
        self.third = conv(4, fan_out // 2, 3, 2)

    def forward(self, x):
        return torch.cat([self.short(x), self.third(self.second(self.first(x)))], dim=1)


class Repeated(nn.Module):
    """One block that runs three times, then a smaller one that runs twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.down, self.small = conv(3, 4), conv(4, 4), conv(4, 8, 3, 2), conv(8, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.down(self.block(self.block(self.block(self.stem(x)))))
        return self.fc(self.small(self.small(x)).mean((2, 3)))


class PreActBlock(nn.Module):
    """A stage's first block has BN and ReLU at the old size, before its strided convolution."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(fan_in), nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv1, self.conv2 = (
            nn.Conv2d(fan_in, fan_out, 3, stride, 1),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1),
        )
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride)

    def forward(self, x):
        out = self.relu(self.bn1(x))
        return self.conv2(self.relu(self.bn2(self.conv1(out)))) + self.shortcut(out)


class Attention(nn.Module):
    """Weighs a map by what it sees at half the size: the size changes inside, and not outside."""

    def __init__(self, channels):
        super().__init__()
        self.pool, self.conv = nn.AvgPool2d(2), nn.Conv2d(channels, channels, 3, 1, 1)
        self.up, self.gate = nn.Upsample(scale_factor=2), nn.Sigmoid()

    def forward(self, x):
        return x * self.gate(self.up(self.conv(self.pool(x))))


class ConvNeXtBlock(nn.Module):
    """Channels first outside, last inside."""

    def __init__(self, channels):
        super().__init__()
        self.dwconv, self.norm = (
            nn.Conv2d(channels, channels, 7, 1, 3, groups=channels),
            nn.LayerNorm(channels),
        )
        self.wide, self.act, self.narrow = nn.Linear(channels, 32), nn.GELU(), nn.Linear(32, channels)

    def forward(self, x):
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.narrow(self.act(self.wide(out))).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), LayerNorm2d(8)),
        nn.Sequential(ConvNeXtBlock(8), ConvNeXtBlock(8)),
        nn.Sequential(LayerNorm2d(8), nn.Conv2d(8, 16, 2, 2)),
        nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


VGG = [nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(),
       nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 64, 10)]  # fmt: skip

STAGES = {
    "BasicBlock": (ResNet(), 64, RESNET),
    "Bottleneck": (ResNet(Bottleneck, lambda width: 2 * width), 64, BOTTLENECKS),
    "Bottleneck, pool": (ResNet(Bottleneck, lambda width: 2 * width, pool=True), 64, BOTTLENECKS),
    "shortcut first": (ResNet(Bottleneck, lambda width: 2 * width, shortcut_first=True), 64, BOTTLENECKS),
    "PreActBlock": (ResNet(PreActBlock), 64, RESNET),
    "VGG": (nn.Sequential(*VGG), 32, {"1": (4, 32, 32), "4": (8, 16, 16), "5": (8, 8, 8)}),
    "VGG of blocks": (
        nn.Sequential(PooledBlock(3, 4), PooledBlock(4, 8), PooledBlock(8, 8), nn.Flatten(), nn.Linear(128, 10)), 32,
        {"0.conv": (4, 32, 32), "1.conv": (8, 16, 16), "2.conv": (8, 8, 8), "2": (8, 4, 4)}),
    "MobileNetV2": (mobilenet(), 32, {"0.1": (4, 16, 16), "0.3": (6, 8, 8), "0": (32, 4, 4)}),
    "EfficientNet": (EfficientNet(), 32, {"blocks.0": (4, 16, 16), "blocks.1": (6, 8, 8), "blocks": (8, 4, 4)}),
    "ShuffleNetV2": (
        ShuffleNet(), 32, {"conv1": (4, 16, 16), "maxpool": (4, 8, 8), "stage2": (8, 4, 4), "conv5": (32, 2, 2)}),
    "DenseNet": (
        densenet(), 32, {"0.denseblock1": (16, 32, 32), "0.denseblock2": (16, 16, 16), "0": (16, 8, 8)}),
    "functional pools": (FunctionalPools(), 32, {"conv1": (4, 32, 32), "conv2": (8, 16, 16)}),
    "Shared": (
        Shared(), 32, {"relu#1": (4, 32, 32), "relu#2": (8, 16, 16), "relu#3": (8, 8, 8), "pool#3": (8, 4, 4)}),
    "Tuples": (Tuples(), 32, {"layer1": (8, 32, 32), "layer2": (16, 16, 16), "layer3": (32, 8, 8)}),
    "maps and gates": (Gated(), 16, {"layer1": (8, 16, 16), "layer2": (16, 8, 8), "layer3": (32, 4, 4)}),
    "features beside logits": (
        Normalised(WithFeatures()), 16, {"network.layer1": (8, 16, 16), "network.layer2": (16, 8, 8)}),
    "Inception": (
        nn.Sequential(conv(3, 4), Reduction(4, 8), conv(8, 8), Reduction(8, 16), nn.Flatten(), nn.Linear(256, 10)), 16,
        {"0": (4, 16, 16), "2": (8, 8, 8), "3": (16, 4, 4)}),
    "Repeated": (Repeated(), 16, {"block#3": (4, 16, 16), "small#2": (8, 8, 8)}),
    "Attention": (
        nn.Sequential(conv(3, 4), Attention(4), conv(4, 8, 3, 2), Attention(8), nn.Flatten(), nn.Linear(512, 10)), 16,
        {"1": (4, 16, 16), "3": (8, 8, 8)}),
    "body after a stem": (
        nn.Sequential(conv(3, 4), nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 8, 2), BasicBlock(8, 8, 1)),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)), 16,
        {"1.0": (4, 16, 16), "1": (8, 8, 8)}),
    "Bottleneck to 1×1": (
        ResNet(Bottleneck, lambda width: 2 * width), 16,
        {"relu": (4, 8, 8), "layer1": (8, 4, 4), "layer2": (16, 2, 2)}),
    "PreActBlock to 1×1": (
        ResNet(PreActBlock), 16, {"relu": (4, 8, 8), "layer1": (4, 4, 4), "layer2": (8, 2, 2)}),
    "MobileNetV2 to 1×1": (mobilenet(), 8, {"0.1": (4, 4, 4), "0.3": (6, 2, 2)}),
    "ShuffleNetV2 to 1×1": (
        ShuffleNet(), 16, {"conv1": (4, 8, 8), "maxpool": (4, 4, 4), "stage2": (8, 2, 2)}),
    "DenseNet to 1×1": (densenet(), 4, {"0.denseblock1": (16, 4, 4), "0.denseblock2": (16, 2, 2)}),
    "ConvNeXt": (convnext(), 32, {"1": (8, 8, 8), "3": (16, 4, 4)}),
    "Swin": (Swin(), 32, {"features.1:nhwc": (8, 8, 8), "permute": (16, 4, 4)}),
    "Swin of other width": (Swin(12), 32, {"features.1:nhwc": (12, 8, 8), "permute": (24, 4, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    network, side, expected = STAGES[name]
    assert layer_shapes(find_layers(network, "auto", torch.rand(2, 3, side, side), name="layers")) == expected


@pytest.mark.parametrize("name", STAGES)
@torch.no_grad()
def test_what_is_captured_has_the_shape_that_was_found(name):
    network, side, expected = STAGES[name]
    with feature_hooks(network.eval(), list(expected)) as maps:
        network(torch.rand(3, 3, side, side))
    assert {layer: tuple(found.shape) for layer, found in maps.items()} == {
        layer: (3, *shape) for layer, shape in expected.items()
    }


class VisionTransformer(nn.Module):
    """Attention weights of shape (n, heads, 16, 16) behind maps of 16×16 and patches of 4×4."""

    def __init__(self, fixed=False):
        super().__init__()
        self.fixed, self.stem, self.patches = fixed, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 4, 4)
        self.norm, self.drop, self.head = nn.LayerNorm(8), nn.Dropout(0.1), nn.Linear(8, 10)

    def forward(self, x):
        if self.fixed and x.shape[2] != 32:
            raise AssertionError("Input height doesn't match")
        tokens = self.norm(self.patches(self.stem(x)).flatten(2).mT)
        heads = tokens.unflatten(-1, (2, 4)).transpose(1, 2)
        weights = self.drop(torch.softmax(heads @ heads.mT, dim=-1))
        return self.head((weights @ heads).transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("side", [32, 48])
def test_attention_weights_are_no_stage(side):
    expected = {"stem": (4, side // 2, side // 2), "norm:tokens": (8, side // 8, side // 8)}
    found = find_layers(VisionTransformer(), "auto", torch.rand(2, 3, side, side), name="layers")
    assert layer_shapes(found) == expected


class Enlarged(nn.Module):
    """A map for each image, from the smaller of two sizes, and enlarged in one of two ways."""

    def __init__(self, by_module):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)
        self.enlarge = nn.Upsample(scale_factor=2) if by_module else lambda x: x

    def forward(self, x):
        return self.enlarge(self.head(self.b(self.a(x))))


@pytest.mark.parametrize("by_module", [True, False])
def test_a_map_that_is_the_prediction_is_no_stage(by_module):
    x = torch.rand(2, 3, 8, 8)
    found = find_layers(Enlarged(by_module), "auto", x, name="layers", of_maps=True)
    assert layer_shapes(found) == {"a": (4, 8, 8), "b": (8, 4, 4)}
    of_features = find_layers(Enlarged(False), "auto", x, name="layers")  # where y has no maps
    assert layer_shapes(of_features) == {"a": (4, 8, 8), "head": (2, 4, 4)}


class Decoder(nn.Module):
    """Goes back to the first size, by way of maps that are made of each stage after the last."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.of_a, self.of_b, self.head = nn.Conv2d(4, 5, 1), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        return self.head(self.of_a(a) + nn.functional.interpolate(self.of_b(b), scale_factor=2))


def test_what_comes_after_the_smallest_map_is_no_stage():
    found = find_layers(Decoder(), "auto", torch.rand(2, 3, 8, 8), name="layers", of_maps=True)
    assert layer_shapes(found) == {"a": (4, 8, 8), "b": (8, 4, 4)}
