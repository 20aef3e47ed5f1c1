"""Compose scenes of small images, with exact maps of a class or a distance for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state

from sklearn_kd._sklearn_compat import Interval, validate_params

# Number of scenes to draw at once. The result does not depend on it.
_CHUNK = 64
_PARAMETERS: dict[str, list[Any]] = {
    "images": ["array-like"],
    "backgrounds": ["array-like"],
    "n_scenes": [Interval(Integral, 1, None, closed="left")],
    "size": [Interval(Integral, 8, None, closed="left"), tuple],
    "n_objects": [tuple],
    "foreground": [Interval(Real, 0, 1, closed="left")],
    "random_state": ["random_state"],
    "return_X_y": ["boolean"],
}
_SEGMENTATION = """Scenes of {n} objects of {classes} classes on backgrounds. A pixel's class is that of the
object in front, or 0 if there is none.
"""
_DEPTH = """Scenes of {n} objects that stand on a floor before a wall, seen by a pinhole camera. A pixel's
target is the distance of the visible surface, along the camera's axis.
"""


@validate_params(
    _PARAMETERS
    | {"labels": ["array-like"], "scale": [tuple], "rotation": [Interval(Real, 0, 180, closed="both")]},
    prefer_skip_nested_validation=True,
)
def make_segmentation_scenes(
    images: ArrayLike,
    labels: ArrayLike,
    backgrounds: ArrayLike,
    n_scenes: int = 1000,
    *,
    size: int | tuple[int, int] = 64,
    n_objects: tuple[int, int] = (1, 3),
    scale: tuple[float, float] = (0.35, 0.7),
    rotation: float = 15.0,
    foreground: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
    return_X_y: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Compose scenes with a class for each pixel from images of single objects.

    Each scene is a background with some of the objects on it, tinted, mirrored, turned and enlarged at
    random. Later objects hide earlier ones. The map has no error, since it is drawn with the scene.

    Parameters
    ----------
    images : array-like of shape (n_images, height, width) or (n_images, 1, height, width)
        Grey images of single bright objects on black, such as those of
        :func:`fetch_fashion_mnist`: numbers in [0, 1], or uint8.
    labels : array-like of shape (n_images,)
        Classes of the images.
    backgrounds : array-like of shape (n_backgrounds, n_channels, height, width)
        Images in [0, 1], or uint8, such as those of :func:`fetch_cifar10`. The scenes have their channels.
    n_scenes : int, default=1000
        Number of scenes.
    size : int or tuple of (int, int), default=64
        Height and width of the scenes, at least 8.
    n_objects : tuple of (int, int), default=(1, 3)
        Least and largest number of objects in a scene.
    scale : tuple of (float, float), default=(0.35, 0.7)
        Least and largest height of an image, relative to the scene's height.
    rotation : float, default=15.0
        Largest rotation of an object to either side, in degrees.
    foreground : float, default=0.1
        A pixel of an image belongs to its object if it is brighter than this.
    random_state : int, RandomState instance or None, default=None
        Seed of all random draws.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of the Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_scenes, n_channels, height, width), float32
            Pixels in [0, 1].
        target : ndarray of shape (n_scenes, height, width), int64
            Class of each pixel: 0 for the background, k for ``target_names[k]``.
        target_names : list of str
            "background" and the sorted labels.
        DESCR : str
            A short description.
    (data, target) : tuple of ndarray
        If ``return_X_y`` is True.

    Raises
    ------
    ValueError
        If a shape or a range is wrong, images are not in [0, 1], or no pixel of an image is in its
        object. The message names the argument.

    See Also
    --------
    make_depth_scenes : Scenes with a distance for each pixel.
    sklearn_kd.FCNStudent : A network for them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd.datasets import make_segmentation_scenes
    >>> digits = load_digits()
    >>> backgrounds = np.random.default_rng(0).random((50, 3, 8, 8))
    >>> scenes = make_segmentation_scenes(
    ...     digits.images / 16, digits.target, backgrounds, n_scenes=20, size=32, random_state=0)
    >>> scenes.data.shape, scenes.target.shape
    ((20, 3, 32, 32), (20, 32, 32))
    >>> scenes.target_names[:3]
    ['background', '0', '1']
    """
    sprites, (rows, columns) = _check_objects(images, foreground), _check_size(size)
    codes, names = _check_labels(labels, len(sprites))
    paper, (least, most) = _check_backgrounds(backgrounds), _check_objects_per_scene(n_objects)
    low, high = _check_range("scale", scale)
    rng = check_random_state(random_state)
    where, n = {"size": (n_scenes, most)}, n_scenes
    draw = {
        "background": rng.randint(len(paper), size=n),
        "flip": rng.choice([-1.0, 1.0], size=n),
        "shown": np.arange(most) < rng.randint(least, most + 1, size=n)[:, None],
        "image": rng.randint(len(sprites), **where),
        "tint": rng.uniform(0.3, 1.0, size=(n, most, paper.shape[3])),
        "zoom": rng.uniform(low, high, **where) * rows / sprites.shape[1],
        "mirror": rng.choice([-1.0, 1.0], **where),
        "angle": np.radians(rng.uniform(-rotation, rotation, **where)),
        "row": rng.uniform(0.15, 0.85, **where) * rows,
        "column": rng.uniform(0.1, 0.9, **where) * columns,
    }
    row, column = np.mgrid[0.5:rows, 0.5:columns]

    def render(of: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        flipped = columns / 2 + _wide(of["flip"]) * (column - columns / 2)
        stretch = paper.shape[1] / rows, paper.shape[2] / columns
        index = np.broadcast_to(_wide(of["background"]), flipped.shape)
        scene = _sample(paper, index, np.broadcast_to(row * stretch[0], flipped.shape), flipped * stretch[1])
        target = np.zeros(flipped.shape, np.int64)
        for k in range(most):
            down, right = row - _wide(of["row"][:, k]), column - _wide(of["column"][:, k])
            cos, sin = (_wide(f(of["angle"][:, k])) / _wide(of["zoom"][:, k]) for f in (np.cos, np.sin))
            place = cos * down - sin * right, _wide(of["mirror"][:, k]) * (sin * down + cos * right)
            mask = _paste(scene, sprites, of, k, place)
            target[mask] = np.broadcast_to(_wide(codes[of["image"][:, k]] + 1), mask.shape)[mask]
        return scene, target

    data, target = _rendered(render, draw, n_scenes)
    if return_X_y:
        return data, target
    descr = _SEGMENTATION.format(n=f"{least} to {most}", classes=len(names))
    return Bunch(data=data, target=target, target_names=["background", *names], DESCR=descr)


@validate_params(
    _PARAMETERS
    | {
        "heights": ["array-like", Interval(Real, 0, None, closed="neither")],
        "camera_height": [tuple],
        "horizon": [tuple],
        "wall": [tuple],
        "lift": [tuple],
    },
    prefer_skip_nested_validation=True,
)
def make_depth_scenes(
    images: ArrayLike,
    heights: ArrayLike,
    backgrounds: ArrayLike,
    n_scenes: int = 1000,
    *,
    size: int | tuple[int, int] = 64,
    n_objects: tuple[int, int] = (1, 4),
    camera_height: tuple[float, float] = (1.4, 1.6),
    horizon: tuple[float, float] = (0.35, 0.45),
    wall: tuple[float, float] = (5.0, 10.0),
    lift: tuple[float, float] = (0.0, 0.0),
    foreground: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
    return_X_y: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Compose scenes with a distance for each pixel from images of single objects.

    A pinhole camera looks along a floor at a wall. Objects stand upright on the floor, at 2 m or farther.
    Floor and wall are tiled with images of 1 m × 1 m and 2 m × 2 m. The distance of an object follows from
    the position of its foot, from its size, if its kind is known, and from the texture around it.

    Parameters
    ----------
    images : array-like of shape (n_images, height, width) or (n_images, 1, height, width)
        Grey images of single bright objects on black, such as those of
        :func:`fetch_fashion_mnist`: numbers in [0, 1], or uint8.
    heights : float or array-like of shape (n_images,)
        Heights of the objects in metres.
    backgrounds : array-like of shape (n_backgrounds, n_channels, height, width)
        Images in [0, 1], or uint8, of the floor and the wall. The scenes have their channels.
    n_scenes : int, default=1000
        Number of scenes.
    size : int or tuple of (int, int), default=64
        Height and width of the scenes, at least 8. The focal length is the height.
    n_objects : tuple of (int, int), default=(1, 4)
        Least and largest number of objects in a scene.
    camera_height : tuple of (float, float), default=(1.4, 1.6)
        Least and largest height of the camera above the floor, in metres. The wider the range, the less the
        row of a pixel tells about its distance.
    horizon : tuple of (float, float), default=(0.35, 0.45)
        Least and largest distance of the horizon from the top of the scene, relative to its height.
    wall : tuple of (float, float), default=(5.0, 10.0)
        Least and largest distance of the wall, in metres, above 2.2.
    lift : tuple of (float, float), default=(0.0, 0.0)
        Least and largest height of an object's foot above the floor, in metres. The distance of an object
        above the floor follows from its size and its kind alone.
    foreground : float, default=0.1
        A pixel of an image belongs to its object if it is brighter than this.
    random_state : int, RandomState instance or None, default=None
        Seed of all random draws.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of the Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_scenes, n_channels, height, width), float32
            Pixels in [0, 1].
        target : ndarray of shape (n_scenes, height, width), float32
            Distance of each pixel along the camera's axis, in metres.
        DESCR : str
            A short description.
    (data, target) : tuple of ndarray
        If ``return_X_y`` is True.

    Raises
    ------
    ValueError
        If a shape or a range is wrong, images are not in [0, 1], or no pixel of an image is in its
        object. The message names the argument.

    See Also
    --------
    make_segmentation_scenes : Scenes with a class for each pixel.
    sklearn_kd.FCNStudent : A network for them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_kd.datasets import make_depth_scenes
    >>> digits = load_digits().images / 16
    >>> backgrounds = np.random.default_rng(0).random((50, 3, 8, 8))
    >>> X, y = make_depth_scenes(
    ...     digits, 1.0, backgrounds, n_scenes=20, size=32, random_state=0, return_X_y=True)
    >>> X.shape, y.shape
    ((20, 3, 32, 32), (20, 32, 32))
    >>> bool((y[:, -1].mean() < 3) and (y[:, 0].mean() > 5))  # the floor at the feet, the wall
    True
    """
    sprites, (rows, columns) = _check_objects(images, foreground), _check_size(size)
    tall = _check_heights(heights, len(sprites))
    paper, (least, most) = _check_backgrounds(backgrounds), _check_objects_per_scene(n_objects)
    ranges = {"camera_height": camera_height, "horizon": horizon, "wall": wall}
    lowest, highest = _check_range("lift", lift, or_zero=True)
    seen = {name: _check_range(name, values) for name, values in ranges.items()}
    if horizon[1] >= 1 or wall[0] <= 2.2:
        raise ValueError(f"horizon={horizon!r} must be below 1, and wall={wall!r} above 2.2.")
    rng = check_random_state(random_state)
    where, n = {"size": (n_scenes, most)}, n_scenes
    draw = {
        "floor": rng.randint(len(paper), size=n),
        "wall": rng.randint(len(paper), size=n),
        "camera": rng.uniform(*seen["camera_height"], size=n),
        "horizon": rng.uniform(*seen["horizon"], size=n) * rows,
        "far": rng.uniform(*seen["wall"], size=n),
        "shift": rng.uniform(0.0, 2.0, size=(n, 2)),
        "shown": np.arange(most) < rng.randint(least, most + 1, size=n)[:, None],
        "image": rng.randint(len(sprites), **where),
        "tint": rng.uniform(0.3, 1.0, size=(n, most, paper.shape[3])),
        "mirror": rng.choice([-1.0, 1.0], **where),
        "column": rng.uniform(0.05, 0.95, **where) * columns,
    }
    # From 2 m to just before the wall, as many near as far; the farthest first, since nearer ones hide it.
    nearness = rng.uniform(**where)
    draw["lift"] = rng.uniform(lowest, highest, **where)
    draw["distance"] = -np.sort(-2.0 * (0.475 * draw["far"][:, None]) ** nearness)
    first, last, middle = _extents(sprites)
    row, column = np.mgrid[0.5:rows, 0.5:columns]

    def render(of: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        camera, horizon, far = (_wide(of[name]) for name in ("camera", "horizon", "far"))
        below = np.broadcast_to(row - horizon, (len(far), rows, columns))
        foot = camera * rows / far  # of the wall, below the horizon
        on_floor = below > foot
        target = np.where(on_floor, camera * rows / np.maximum(below, foot), far)
        across = (column - columns / 2) * target / rows + _wide(of["shift"][:, 0])
        along = np.where(on_floor, target, below * target / rows) + _wide(of["shift"][:, 1])
        tile = np.where(on_floor, 1.0, 2.0)
        index = np.where(on_floor, _wide(of["floor"]), _wide(of["wall"]))
        scene = _sample(
            paper, index, _mirrored(along / tile) * paper.shape[1], _mirrored(across / tile) * paper.shape[2]
        )
        for k in range(most):
            image, distance = of["image"][:, k], of["distance"][:, k]
            zoom = (
                rows * tall[image] / distance / (last - first)[image]
            )  # scene's pixels for one of the image
            stands = of["horizon"] + rows * (of["camera"] - of["lift"][:, k]) / distance
            center = sprites.shape[1] / 2, sprites.shape[2] / 2
            up = (row - _wide(stands)) / _wide(zoom) + _wide(last[image]) - center[0]
            right = (column - _wide(of["column"][:, k])) / _wide(zoom) * _wide(of["mirror"][:, k])
            place = up, right + _wide(middle[image]) - center[1]
            mask = _paste(scene, sprites, of, k, np.broadcast_arrays(*place))
            target[mask] = np.broadcast_to(_wide(distance), mask.shape)[mask]
        return scene, target.astype(np.float32)

    data, target = _rendered(render, draw, n_scenes)
    if return_X_y:
        return data, target
    return Bunch(data=data, target=target, DESCR=_DEPTH.format(n=f"{least} to {most}"))


# --------------------------------------------------------------------------------------
# Drawing


def _wide(values: np.ndarray) -> np.ndarray:
    """Give one number per scene the axes of pixels."""
    return values[:, None, None]


def _mirrored(at: np.ndarray) -> np.ndarray:
    """Map coordinates of tiles to [0, 1]; mirror every other tile, so that no edges are between them."""
    return 1 - np.abs(at % 2 - 1)


def _rendered(
    render: Callable[[dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]],
    draw: dict[str, np.ndarray],
    n_scenes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Render all scenes, some at a time, and put the channels first."""

    def chunks() -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        for start in range(0, n_scenes, _CHUNK):
            part = slice(start, min(start + _CHUNK, n_scenes))
            yield (part, *render({name: values[part] for name, values in draw.items()}))

    data = target = np.empty(0)
    for part, scene, maps in chunks():
        if part.start == 0:
            data = np.empty((n_scenes, scene.shape[3], *scene.shape[1:3]), np.float32)
            target = np.empty((n_scenes, *maps.shape[1:]), maps.dtype)
        data[part], target[part] = np.moveaxis(scene, 3, 1), maps
    return data, target


def _paste(
    scene: np.ndarray, sprites: np.ndarray, of: dict[str, np.ndarray], k: int, place: Sequence[np.ndarray]
) -> np.ndarray:
    """Draw the k-th object of each scene; return its mask.

    ``place`` has the coordinates of each pixel in the object's image, from its center.
    """
    height, width = sprites.shape[1:3]
    down, right = place[0] + height / 2, place[1] + width / 2
    inside = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    index, rows, columns = np.nonzero(inside & _wide(of["shown"][:, k]))
    at = down[index, rows, columns], right[index, rows, columns]
    values = _sample(sprites, of["image"][index, k], *at)
    solid = values[:, 1] > 0.5
    index, rows, columns = index[solid], rows[solid], columns[solid]
    # Dark parts of an object are visible too.
    brightness = 0.15 + 0.85 * values[solid, :1]
    scene[index, rows, columns] = brightness * of["tint"][index, k]
    mask = np.zeros(inside.shape, bool)
    mask[index, rows, columns] = True
    return mask


def _sample(images: np.ndarray, index: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate images bilinearly at coordinates in pixels; repeat the border beyond the image.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
    index, rows, columns : ndarray of the same shape
        The image, and the position in it; the center of the first pixel is at 0.5.

    Returns
    -------
    ndarray of shape (*index.shape, n_channels)
    """
    _, height, width, channels = images.shape
    flat = images.reshape(-1, channels)
    row, column = (np.clip(at - 0.5, 0, n - 1) for at, n in ((rows, height), (columns, width)))
    top, left = (np.minimum(at.astype(np.int64), max(n - 2, 0)) for at, n in ((row, height), (column, width)))
    down, right = ((at - low)[..., None].astype(np.float32) for at, low in ((row, top), (column, left)))
    corner = (index * height + top) * width + left
    below, beside = width * (height > 1), 1 * (width > 1)
    upper = flat[corner] * (1 - right) + flat[corner + beside] * right
    lower = flat[corner + below] * (1 - right) + flat[corner + below + beside] * right
    return upper * (1 - down) + lower * down


def _extents(sprites: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first and the last row of each object, as edges, and the middle of its columns."""
    solid = sprites[..., 1] > 0
    rows, columns = np.asarray(solid.any(axis=2)), np.asarray(solid.any(axis=1))
    (top, bottom), (left, right) = (
        (seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)) for seen in (rows, columns)
    )
    return top.astype(float), bottom.astype(float), (left + right) / 2


# --------------------------------------------------------------------------------------
# Checks


def _check_pixels(name: str, images: ArrayLike) -> np.ndarray:
    """Return images as float32 in [0, 1]."""
    found = np.asarray(images)
    if found.dtype == np.uint8:
        return found.astype(np.float32) / np.float32(255)
    try:
        found = found.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers in [0, 1] or uint8; got {found.dtype}.") from error
    if found.size and not (found.min() >= 0 and found.max() <= 1):
        raise ValueError(
            f"{name} must be in [0, 1]; got {found.dtype} from {found.min():g} to {found.max():g}. Divide "
            "them by their largest value, or give uint8."
        )
    return found


def _check_objects(images: ArrayLike, foreground: float) -> np.ndarray:
    """Return images of shape (n_images, height, width, 2): the object, and its mask."""
    found = _check_pixels("images", images)
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 3 or not found.size:
        raise ValueError(
            "images must be grey, of shape (n_images, height, width) or (n_images, 1, height, width); got "
            f"{found.shape}."
        )
    solid = found > foreground
    if not (there := solid.any(axis=(1, 2))).all():
        raise ValueError(
            f"image {np.flatnonzero(~there)[0]} has no pixel brighter than foreground={foreground}. Leave it "
            "out or give a smaller foreground."
        )
    return np.stack([found, solid], axis=3).astype(np.float32)


def _check_backgrounds(backgrounds: ArrayLike) -> np.ndarray:
    """Return images with their channels last."""
    found = _check_pixels("backgrounds", backgrounds)
    if found.ndim != 4 or not found.size:
        raise ValueError(
            f"backgrounds must be of shape (n_backgrounds, n_channels, height, width); got {found.shape}."
        )
    return np.ascontiguousarray(np.moveaxis(found, 1, 3))


def _check_labels(labels: ArrayLike, n_images: int) -> tuple[np.ndarray, list[str]]:
    """Return the codes of the labels and the names of the classes."""
    found = np.asarray(labels)
    if found.shape != (n_images,):
        raise ValueError(f"labels must be of shape ({n_images},), one for each image; got {found.shape}.")
    classes, codes = np.unique(found, return_inverse=True)
    return codes, [str(name) for name in classes]


def _check_heights(heights: ArrayLike, n_images: int) -> np.ndarray:
    found = np.asarray(heights, float)
    if found.shape not in ((), (n_images,)):
        raise ValueError(
            f"heights must be one number, or of shape ({n_images},), one for each image; got {found.shape}."
        )
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise ValueError("heights must be finite numbers above 0, in metres.")
    return np.broadcast_to(found, (n_images,))


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    found = size if isinstance(size, tuple) else (size, size)
    if len(found) != 2 or not all(isinstance(n, Integral) and int(n) >= 8 for n in found):
        raise ValueError(f"size={size!r} must be one whole number or two, of 8 or more.")
    return int(found[0]), int(found[1])


def _check_objects_per_scene(n_objects: tuple[int, int]) -> tuple[int, int]:
    if (
        len(n_objects) != 2
        or not all(isinstance(n, Integral) for n in n_objects)
        or not 0 <= n_objects[0] <= n_objects[1]
    ):
        raise ValueError(f"n_objects={n_objects!r} must be two whole numbers, 0 <= least <= largest.")
    return n_objects


def _check_range(name: str, values: tuple[float, float], or_zero: bool = False) -> tuple[float, float]:
    if (
        len(values) != 2
        or not all(isinstance(value, Real) for value in values)
        or not 0 <= values[0] <= values[1]
        or (values[0] == 0 and not or_zero)
    ):
        raise ValueError(
            f"{name}={values!r} must be two numbers, 0 {'<=' if or_zero else '<'} least <= largest."
        )
    return values
