"""All augmentations of an image in their order: mosaic, copy-paste, affine with colour and flips, then mixup."""

from __future__ import annotations

from collections.abc import Callable
from math import radians, tan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab.data.augment.colour import Colour
from ablab.data.augment.draws import Draws
from ablab.data.augment.geometry import Map, put
from ablab.data.augment.several import Content, copy_paste, mixup, mosaic, weight


def augmented(
    index: int,
    draws: Draws,
    content: Callable[[int], Content],
    pad: int,
    out: NDArray[np.uint8],
    *,
    top_left: bool = False,
) -> NDArray[np.float32]:
    """Write the augmented image `index` into the square `out` (S, S, 3) RGB.

    content: an image of the dataset as it lies in the network's input, without padding, and its rows in its own px.
    pad: grey of the new area. top_left: where an image lies that nothing moves; else in the middle. Returns its rows
    (geometry.py) in px of `out`, not clipped to it.
    """
    rows = _one(index, draws, content, pad, out, top_left, second=False)
    mixed = draws.of("mixup", index)
    if mixed:
        other = np.empty_like(out)
        more = _one(_partner(mixed[0], draws), draws, content, pad, other, top_left, second=True)
        mixup(out, other, weight(mixed[1]))
        rows = np.concatenate((rows, more))
    return rows


def _one(
    index: int,
    draws: Draws,
    content: Callable[[int], Content],
    pad: int,
    out: NDArray[np.uint8],
    top_left: bool,
    *,
    second: bool,
) -> NDArray[np.float32]:
    """Everything but mixup; `second`: by the second of two independent draws of each."""
    size = out.shape[0]
    picture = content(index)
    together = draws.of("mosaic", index, second)
    if together:
        others = [content(_partner(u, draws)) for u in together[2:]]
        picture = mosaic([picture, *others], size, (together[0], together[1]), pad)
    pasted = draws.of("copy_paste", index, second)
    if pasted:
        rng = np.random.default_rng(int(pasted[1] * 2**24))  # so many values has a float32 in [0, 1)
        picture = copy_paste(picture, content(_partner(pasted[0], draws)), rng)
    how = _affine(draws.config["affine"], draws.of("affine", index, second), size)._replace(
        left_right=draws.of("flip_lr", index, second) is not None,
        up_down=draws.of("flip_ud", index, second) is not None,
    )
    if top_left and not together:
        height, width = picture[0].shape[:2]
        right, down = _to_corner(width, size, how.left_right), _to_corner(height, size, how.up_down)
        how = how._replace(shift=(how.shift[0] + right, how.shift[1] + down))
    return put(*picture, how, _colour(draws.config["hsv"], draws.of("hsv", index, second)), pad, out)


def _to_corner(length: int, size: int, mirrored: bool) -> int:
    """How far an axis of `length` px in the middle of `size` has to move to begin at 0, or at the end if it is mirrored
    afterwards."""
    before = (size - length) // 2
    return size - length - before if mirrored else -before


def _partner(u: float, draws: Draws) -> int:
    return int(u * draws.images)


def _affine(config: dict[str, Any], drawn: list[float] | None, size: int) -> Map:
    if drawn is None:
        return Map()
    scale, x, y, turn, shear_x, shear_y = (2 * u - 1 for u in drawn)
    return Map(
        1 + scale * config["scale"],
        (x * config["translate"] * size, y * config["translate"] * size),
        radians(turn * config["degrees"]),
        (tan(radians(shear_x * config["shear"])), tan(radians(shear_y * config["shear"]))),
    )


def _colour(config: dict[str, Any], drawn: list[float] | None) -> Colour | None:
    if drawn is None:
        return None
    turn, saturation, value = (2 * u - 1 for u in drawn)
    return Colour(turn * config["h"], 1 + saturation * config["s"], 1 + value * config["v"])
