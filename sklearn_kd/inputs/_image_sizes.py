"""Compute the sizes of maps for images of any size."""

from __future__ import annotations

from collections.abc import Sequence


def scaled(size: int, given: int, wanted: int) -> int:
    """Scale a length by the ratio of ``wanted`` to ``given``, rounded, at least 1."""
    return size if given == wanted else max(1, (2 * size * wanted + given) // (2 * given))


def scaled_size(size: Sequence[int], image_size: Sequence[int], map_size: Sequence[int]) -> list[int]:
    """Return the height and width of an image's map, at the ratio of ``map_size`` to ``image_size``."""
    return [scaled(int(own), *sizes) for own, *sizes in zip(size, image_size, map_size, strict=True)]
