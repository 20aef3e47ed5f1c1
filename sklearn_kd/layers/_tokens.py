"""Convert tokens to maps: sequences (n, N, C) whose last h · w tokens are a grid of h × w patches."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import ceil, isqrt

from torch import Tensor

Grid = tuple[int, int]

# Most class, distillation and register tokens before the patches.
MOST_OTHERS = 8


def square_grid(n_tokens: int) -> Grid | None:
    """Return the grid of a square image after at most MOST_OTHERS other tokens, or None."""
    side = isqrt(n_tokens)
    return (side, side) if side and n_tokens - side * side <= MOST_OTHERS else None


def tokens_as_map(tokens: Tensor, grid: Grid | None) -> Tensor:
    """Return the patches as a map, without the tokens before them.

    Parameters
    ----------
    tokens : Tensor of shape (n, N, C)
    grid : tuple of (int, int) or None
        Height and width in patches. None: those of :func:`square_grid`.

    Returns
    -------
    Tensor of shape (n, C, height, width)

    Raises
    ------
    ValueError
        If there are too few tokens for the grid, or no square grid fits.
    """
    height, width = grid or square_grid(tokens.shape[1]) or (0, 0)
    n_patches = height * width
    if not 0 < n_patches <= tokens.shape[1]:
        raise ValueError(
            f"Tokens of shape {tuple(tokens.shape)} are not a grid"
            f"{'' if grid is None else f' of {height}×{width}'} in this forward pass, though they were when "
            "the network was tried. Give images of one size, and name a layer that drops no token."
        )
    return tokens[:, -n_patches:].transpose(1, 2).unflatten(2, (height, width))


def possible_grids(n_tokens: int, sizes: Collection[Grid]) -> set[Grid]:
    """Return the grids that are consistent with a number of tokens.

    Parameters
    ----------
    n_tokens : int
    sizes : collection of (int, int)
        Sizes of the maps of convolutions. A convolution makes the patches, and other tokens may be prepended
        to them. Patches that are merged later, as in Swin, form grids of half this size, a quarter, and so
        on.
    """
    own = {size for size in sizes if 0 <= n_tokens - size[0] * size[1] <= MOST_OTHERS}
    merged = {size for size in with_halves(sizes) if n_tokens == size[0] * size[1]}
    return {size for size in own | merged if max(size) > 1}


def with_halves(sizes: Iterable[Grid]) -> set[Grid]:
    """Return sizes, with the half, quarter, ... of each, as merged patches have."""
    found = set()
    for height, width in sizes:
        found.add((height, width))
        while max(height, width) > 1:
            height, width = ceil(height / 2), ceil(width / 2)
            found.add((height, width))
    return found
