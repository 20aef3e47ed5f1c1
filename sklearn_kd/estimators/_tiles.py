"""Predict images in overlapping tiles, and blend their maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sklearn_kd.inputs._image_sizes import scaled

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller

# Share of a tile that overlaps the next one by default.
_OVERLAP = 4


class Axis(NamedTuple):
    """Tiles along the height or the width of images.

    Attributes
    ----------
    tile, overlap : int
        Pixels of the image in a tile, and in the overlap of two neighbours.
    image, map : int
        Pixels of the images and of the maps given to ``fit``, which define their ratio.
    """

    tile: int
    overlap: int
    image: int
    map: int

    @property
    def unit(self) -> int:
        """Smallest number of image pixels that is a whole number of map pixels."""
        return self.image // math.gcd(self.image, self.map)

    def mapped(self, size: int) -> int:
        """Convert a length in the image to one in the map."""
        return scaled(size, self.image, self.map)

    def starts(self, size: int) -> list[int]:
        """Return where tiles start in an image of this length; the last one may extend beyond its end."""
        if size <= self.tile:
            return [0]
        stride = self.tile - self.overlap
        starts = list(range(0, size - self.tile, stride))
        last = -(-(size - self.tile) // self.unit) * self.unit
        return [*starts, last]

    def weights(self) -> Tensor:
        """Return the weight of each pixel of a tile's map; it falls towards ends that overlap."""
        length, shared = self.mapped(self.tile), self.mapped(self.overlap) if self.overlap else 0
        if not shared:
            return torch.ones(length)
        places = torch.arange(length) + 0.5
        return (torch.minimum(places, length - places) / shared).clamp(max=1.0)


class Tiling(NamedTuple):
    """Tiles of images, along their height and their width."""

    rows: Axis
    columns: Axis


def checked_tiling(estimator: BaseDistiller, tile: Any, overlap: Any) -> Tiling | None:
    """Return the tiling that ``predict`` was asked for; None for whole images.

    Raises
    ------
    ValueError
        If y had no maps, ``overlap`` is given alone, or a size cannot be used.
    """
    if tile is None:
        if overlap is not None:
            raise ValueError(f"overlap={overlap!r} needs tiles. Give tile, the size of one, too.")
        return None
    map_shape = estimator._task.map_shape
    if not map_shape:
        raise ValueError(
            f"tile={tile!r} cuts images into parts, but y had no maps in fit. Leave tile out: the prediction "
            "for a part is not that for the whole image."
        )
    image_shape = estimator._sample_shape[1:]
    tiles, overlaps = (
        _pair(tile, "tile", 1),
        (None, None) if overlap is None else _pair(overlap, "overlap", 0),
    )
    axes = [_axis(*of_axis) for of_axis in zip(tiles, overlaps, image_shape, map_shape, strict=True)]
    return Tiling(*axes)


def _pair(given: Any, name: str, least: int) -> tuple[int, int]:
    """Return height and width."""
    sizes = (given, given) if isinstance(given, Integral) else given
    fine = isinstance(sizes, (tuple, list)) and len(sizes) == 2
    if not fine or not all(isinstance(size, Integral) and int(size) >= least for size in sizes):
        raise ValueError(
            f"{name}={given!r} must be a number of pixels of at least {least}, or a pair of them, height and "
            "width."
        )
    return int(sizes[0]), int(sizes[1])


def _axis(tile: int, overlap: int | None, image: int, map_size: int) -> Axis:
    axis = Axis(tile, 0, image, map_size)
    unit = axis.unit
    if overlap is None:
        overlap = tile // _OVERLAP // unit * unit
    if tile % unit or overlap % unit:
        raise ValueError(
            f"tile={tile} and overlap={overlap} must be multiples of {unit}, because maps of {map_size} "
            f"pixels belong to images of {image}."
        )
    if overlap > tile // 2:
        raise ValueError(f"overlap={overlap} must be at most half of tile={tile}.")
    return axis._replace(overlap=overlap)


def tiled(run: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling) -> Tensor:
    """Blend the maps of tiles into maps of images: their mean, weighted by the distance to the tiles' ends.

    Parameters
    ----------
    run : callable(Tensor) -> Tensor
        Returns the maps of a batch on the CPU.
    x : Tensor of shape (B, channels, height, width)
    tiling : Tiling
    """
    rows, columns = tiling
    height, width = (int(size) for size in x.shape[2:])
    tops, lefts = rows.starts(height), columns.starts(width)
    if len(tops) == len(lefts) == 1:
        return run(x)
    # A dimension shorter than a tile is not cut; any other is padded up to the last tile's end.
    tile_height, tile_width = min(rows.tile, height), min(columns.tile, width)
    below, right = tops[-1] + tile_height - height, lefts[-1] + tile_width - width
    if below or right:
        x = pad(x.float(), (0, right, 0, below), mode="replicate")
    shape = rows.mapped(height + below), columns.mapped(width + right)
    weights = torch.outer(
        rows._replace(tile=tile_height).weights(), columns._replace(tile=tile_width).weights()
    )
    total: Tensor | None = None
    weight = torch.zeros(shape)
    for top in tops:
        for left in lefts:
            maps = run(x[:, :, top : top + tile_height, left : left + tile_width])
            if total is None:
                total = torch.zeros(*maps.shape[:2], *shape)
            first, second = rows.mapped(top) if top else 0, columns.mapped(left) if left else 0
            part = slice(first, first + maps.shape[2]), slice(second, second + maps.shape[3])
            total[:, :, part[0], part[1]] += weights * maps
            weight[part] += weights
    assert total is not None
    return (total / weight)[:, :, : rows.mapped(height), : columns.mapped(width)]
