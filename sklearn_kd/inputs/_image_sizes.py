"""Sizes of maps that belong to images of other sizes."""

from __future__ import annotations

from collections.abc import Sequence


def scaled(size: int, given: int, wanted: int) -> int:
    """Return the length of a map for an image of this length, as ``wanted`` is for one of ``given``."""
    return size if given == wanted else max(1, (2 * size * wanted + given) // (2 * given))


def scaled_size(size: Sequence[int], image_size: Sequence[int], map_size: Sequence[int]) -> list[int]:
    """Return height and width of the map of an image, at the ratio of other maps to other images."""
    return [scaled(int(own), *sizes) for own, *sizes in zip(size, image_size, map_size, strict=True)]
