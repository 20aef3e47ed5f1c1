"""Small replicas of networks of tokens, (n, N, C)."""

from collections.abc import Sequence

import torch
from torch import nn


class AttentionBlock(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=True)[0]
        return x + self.mlp(self.norm2(x))


class LinearPatches(nn.Module):
    """Patches of an image by a linear layer, without a convolution."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch, self.linear = patch, nn.Linear(channels * patch**2, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.unfold(x, self.patch, stride=self.patch).mT)


class ConvPatches(nn.Module):
    """Patches of an image by a convolution."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(x).flatten(2).mT


class SmallViT(nn.Module):
    """A vision transformer with ``n_others`` tokens (class, distillation, registers) before the patches.

    ``keep`` drops patches in training, as a patch dropout does.
    """

    def __init__(
        self,
        n_classes: int = 10,
        *,
        channels: int = 3,
        image: Sequence[int] = (16, 16),
        patch: int = 4,
        width: int = 12,
        depth: int = 6,
        n_others: int = 1,
        by_conv: bool = True,
        keep: float = 1.0,
    ) -> None:
        super().__init__()
        n_patches, self.keep = image[0] // patch * (image[1] // patch), keep
        self.patches = (ConvPatches if by_conv else LinearPatches)(channels, width, patch)
        self.others = nn.Parameter(torch.randn(1, n_others, width))
        self.positions = nn.Parameter(torch.randn(1, n_patches + n_others, width))
        self.blocks = nn.Sequential(*[AttentionBlock(width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.others.expand(len(x), -1, -1), self.patches(x)], dim=1) + self.positions
        if self.training:
            x = x[:, : max(1, int(self.keep * x.shape[1]))]
        return self.head(self.norm(self.blocks(x))[:, 0])


class MergedTokens(nn.Module):
    """Half the height and width of a grid, twice the channels, as a Swin of transformers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, n_tokens, c = x.shape
        side = int(n_tokens**0.5)
        x = x.reshape(n, side // 2, 2, side // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        return self.reduction(self.norm(x.reshape(n, n_tokens // 4, 4 * c)))


class TokenSwin(nn.Module):
    """Stages of tokens, each with half the height and width; ``window`` is cut to small images for good."""

    def __init__(self, n_classes: int = 10, *, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.window = 8
        self.patches = ConvPatches(channels, width, 2)
        self.stage1, self.merge = (
            nn.Sequential(AttentionBlock(width), AttentionBlock(width)),
            MergedTokens(width),
        )
        self.stage2 = nn.Sequential(AttentionBlock(2 * width))
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.window = min(self.window, x.shape[2])
        return self.head(self.norm(self.stage2(self.merge(self.stage1(self.patches(x))))).mean(1))


class MixerBlock(nn.Module):
    """Mixes tokens by linear layers on the transposed (n, C, N)."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.norm, self.transposed = nn.LayerNorm(width), nn.Identity()
        self.tokens, self.channels = nn.Linear(n_tokens, n_tokens), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.transposed(self.norm(x).mT)).mT
        return x + self.channels(x)


class Mixer(nn.Module):
    """6×6 patches of 9 channels: the transposed shape, (n, 9, 36), could be merged patches of 36 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = ConvPatches(3, 9, 4)
        self.blocks, self.head = nn.Sequential(MixerBlock(36, 9), MixerBlock(36, 9)), nn.Linear(9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.patches(x)).mean(1))
