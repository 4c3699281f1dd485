"""Augmentations that move pixels and boxes.

Boxes are rows (n, 6) float32: class, x1, y1, x2, y2 in px, and the share of the object's box that is still in the
picture, since an augmentation may cut what another one cuts again.

- affine: scale s, translate t, degrees d, shear h: one map about the image's centre, factor uniform in [1-s, 1+s], the
  centre moved by uniform [-t, t] of the input's side in x and in y, turned by uniform [-d, d] and sheared in x and in y
  by uniform [-h, h] degrees; new area has the padding's grey. Of a turned or sheared box remains the upright one around
  its four corners.
- flip_lr, flip_ud: mirrored.
- At the end a box is clipped to the input; it is dropped if a side is then under 2 px, or if under a tenth of its area
  is left of what it was before anything cut it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ablab.data.augment.colour import Colour, hsv

LEAST_SIDE = 2.0  # px
LEAST_AREA = 0.1  # share of the box's area before it was cut


class Map(NamedTuple):
    """An affine map about the image's centre, and the mirrorings behind it."""

    factor: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # px of the input, right and down
    turn: float = 0.0  # radians, clockwise as one sees it
    shear: tuple[float, float] = (0.0, 0.0)  # tangents: how far x moves for a px of y, and y for a px of x
    left_right: bool = False
    up_down: bool = False


def put(
    image: NDArray[np.uint8],
    rows: NDArray[np.float32],
    how: Map,
    colour: Colour | None,
    pad: int,
    out: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Write an image of any size into the square `out` (S, S, 3), centre on centre: mapped, coloured, mirrored.

    colour: None leaves it. pad: grey of the area that the image does not cover; it is not coloured. Returns the rows
    in px of `out`, not clipped: they follow what was really done to the pixels.
    """
    size = out.shape[0]
    mirrored = how.left_right or how.up_down
    canvas = np.empty_like(out) if mirrored else out
    if how.turn or how.shear != (0.0, 0.0):
        rows = _warped(image, rows, how, colour, pad, canvas)
    else:
        rows = _resized(image, rows, how, colour, pad, canvas)
    if mirrored:
        # One pass for both; -1 is OpenCV's word for both axes.
        cv2.flip(canvas, -1 if how.left_right and how.up_down else int(how.left_right), dst=out)
        rows = rows.copy()
        if how.left_right:
            rows[:, [1, 3]] = size - rows[:, [3, 1]]
        if how.up_down:
            rows[:, [2, 4]] = size - rows[:, [4, 2]]
    return rows


def _resized(
    image: NDArray[np.uint8],
    rows: NDArray[np.float32],
    how: Map,
    colour: Colour | None,
    pad: int,
    canvas: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """An upright map: the visible part, cut at whole pixels of the image and of `canvas`, is resized into its place.

    As cv2.warpAffine would, bilinear, in a fifth of its time; averaging (INTER_AREA) takes longer than both. Colours
    are changed on whichever side of the resize has fewer pixels.
    """
    size = canvas.shape[0]
    x = _span(image.shape[1], size, how.factor, how.shift[0])
    y = _span(image.shape[0], size, how.factor, how.shift[1])
    if x is None or y is None:  # moved out of sight
        canvas[:] = pad
        return rows[:0]
    if (x.width, y.width) != (size, size):
        canvas[:] = pad
    seen = image[y.start : y.stop, x.start : x.stop]
    view = canvas[y.at : y.at + y.width, x.at : x.at + x.width]
    same = view.shape == seen.shape
    grows = view.size > seen.size
    if colour is None:
        _resize(seen, view)
    elif same:
        hsv(seen, colour, view)
    elif grows:
        _resize(hsv(seen, colour), view)
    else:
        _resize(seen, view)
        hsv(view, colour, view)
    scale = np.array([x.width / (x.stop - x.start), y.width / (y.stop - y.start)] * 2)
    offset = np.array([x.at, y.at] * 2) - scale * ([x.start, y.start] * 2)
    moved = rows.copy()
    moved[:, 1:5] = rows[:, 1:5] * scale + offset
    return moved


class Span(NamedTuple):
    """What of an image's axis is seen, and where: its px start to stop become `width` px of the canvas from `at` on."""

    start: int
    stop: int
    at: int
    width: int


def _span(length: int, size: int, factor: float, shift: float) -> Span | None:
    """Cut at the whole px of both that are nearest; None if nothing is seen."""
    grown = max(round(length * factor), 1)
    at = (size - grown) // 2 + round(shift)
    low, high = max(at, 0), min(at + grown, size)
    if low >= high:
        return None
    start = round((low - at) * length / grown)
    stop = max(round((high - at) * length / grown), start + 1)
    return Span(start, stop, low, high - low) if stop <= length else None


def _resize(image: NDArray[np.uint8], view: NDArray[np.uint8]) -> None:
    if image.shape == view.shape:
        view[:] = image
    else:
        cv2.resize(image, view.shape[1::-1], dst=view, interpolation=cv2.INTER_LINEAR)


def _warped(
    image: NDArray[np.uint8],
    rows: NDArray[np.float32],
    how: Map,
    colour: Colour | None,
    pad: int,
    canvas: NDArray[np.uint8],
) -> NDArray[np.float32]:
    size = canvas.shape[0]
    cos, sin = np.cos(how.turn), np.sin(how.turn)
    shear = np.array([[1, how.shear[0]], [how.shear[1], 1]])
    linear = shear @ np.array([[cos, -sin], [sin, cos]]) * how.factor
    offset = size / 2 + np.array(how.shift) - linear @ (np.array(image.shape[1::-1]) / 2)
    # OpenCV counts from the first pixel's centre, boxes from its edge.
    matrix = np.column_stack([linear, offset + linear @ [0.5, 0.5] - 0.5])
    changed = image if colour is None else hsv(image, colour)
    cv2.warpAffine(changed, matrix, (size, size), dst=canvas, flags=cv2.INTER_LINEAR, borderValue=(pad,) * 3)
    corners = rows[:, [[1, 2], [3, 2], [3, 4], [1, 4]]] @ linear.T + offset  # (n, 4, 2)
    moved = rows.copy()
    moved[:, 1:3], moved[:, 3:5] = corners.min(1), corners.max(1)
    return moved


def clip(rows: NDArray[np.float32], left: int, top: int, right: int, bottom: int) -> NDArray[np.float32]:
    """Rows clipped to a rectangle (px); their last column becomes the share that is left. Nothing is dropped."""
    clipped = rows.copy()
    clipped[:, 1:5:2] = rows[:, 1:5:2].clip(left, right)
    clipped[:, 2:5:2] = rows[:, 2:5:2].clip(top, bottom)
    whole = area(rows)
    clipped[:, 5] *= np.divide(area(clipped), whole, out=np.zeros_like(whole), where=whole > 0)
    return clipped


def area(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """px² of the boxes."""
    return np.asarray((rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2]), np.float32)


def kept(rows: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Which of the rows that were clipped to a square of `size` px are not too small: (n,)."""
    sides = rows[:, 3:5] - rows[:, 1:3]
    return np.asarray((sides >= LEAST_SIDE).all(1) & (rows[:, 5] >= LEAST_AREA))
