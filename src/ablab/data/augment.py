"""Augmentation of one fitted image and its boxes: scale and translation, colour, flips.

Every draw comes from the generator passed in, always the same number of them in the same order, so that switching one
augmentation off leaves the draws of the others as they were.

- scale s, translate t: one map about the image's centre, factor uniform in [1-s, 1+s], the centre moved by
  uniform [-t, t] of the side in x and in y; new area has the padding's grey.
- hsv_h, hsv_s, hsv_v: hue turned by uniform [-h, h] of the full circle, saturation and value multiplied by factors
  uniform in [1-s, 1+s] and [1-v, 1+v].
- flip_lr, flip_ud: the probability of each mirroring.

A box is clipped to the image; it is dropped if a side is then under 2 px or under a tenth of its area is left.
With all keys at 0 the image comes back untouched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_SIDE = 2.0  # px
LEAST_AREA = 0.1  # share of the box's area before clipping


def augment(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    config: dict[str, Any],
    pad: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """One draw of every augmentation of `config` (conf/augment).

    image: (S, S, 3) RGB, left as it is. boxes: (n, 4) x1 y1 x2 y2 in its px. pad: grey of the new area.
    Returns the image, the kept boxes (m, 4), and which were kept (n,).
    """
    draw = rng.uniform(-1, 1, 6)
    flip_lr, flip_ud = rng.uniform(0, 1, 2) < (config["flip_lr"], config["flip_ud"])
    factor = 1 + draw[0] * config["scale"]
    shift = draw[1:3] * config["translate"] * image.shape[0]
    image, boxes = affine(image, boxes, factor, shift, pad)
    image = hsv(image, draw[3] * config["hsv_h"], 1 + draw[4] * config["hsv_s"], 1 + draw[5] * config["hsv_v"])
    image, boxes = flip(image, boxes, left_right=bool(flip_lr), up_down=bool(flip_ud))
    boxes, kept = clip(boxes, image.shape[0])
    return image, boxes, kept


def affine(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    factor: float,
    shift: NDArray[np.float64],
    pad: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scale by `factor` about the image's centre, then move by `shift` px (x, y), both to the nearest whole pixel.

    Boxes move by what was really done to the image; they are not clipped.
    """
    import cv2

    size = image.shape[0]
    n = max(round(size * factor), 1)
    x, y = ((size - n) / 2 + shift).round().astype(int).tolist()
    if n == size and x == 0 and y == 0:
        return image, boxes
    if n != size:
        # As cv2.warpAffine would, bilinear, in a quarter of its time; averaging (INTER_AREA) takes longer than both.
        image = np.asarray(cv2.resize(image, (n, n), interpolation=cv2.INTER_LINEAR), np.uint8)
    moved = np.full((size, size, 3), pad, np.uint8)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + n, size), min(x + n, size)
    if top < bottom and left < right:
        moved[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
    return moved, (boxes * (n / size) + (x, y, x, y)).astype(np.float32)


def hsv(image: NDArray[np.uint8], turn: float, saturation: float, value: float) -> NDArray[np.uint8]:
    """Turn the hue by a share of the circle and multiply saturation and value, through OpenCV's 8-bit HSV."""
    import cv2

    if turn == 0 and saturation == 1 and value == 1:
        return image
    level = np.arange(256)
    tables = (
        np.round(level + turn * 256) % 256,
        np.clip(np.round(level * saturation), 0, 255),
        np.clip(np.round(level * value), 0, 255),
    )
    table = np.stack(tables, axis=1).astype(np.uint8).reshape(1, 256, 3)
    full = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps instead of 180
    return np.asarray(cv2.cvtColor(cv2.LUT(full, table), cv2.COLOR_HSV2RGB_FULL), np.uint8)


def flip(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], *, left_right: bool, up_down: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Mirror the image and its boxes."""
    import cv2

    height, width = image.shape[:2]
    if left_right:
        image = np.asarray(cv2.flip(image, 1), np.uint8)
        boxes = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
    if up_down:
        image = np.asarray(cv2.flip(image, 0), np.uint8)
        boxes = np.stack((boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]), 1)
    return image, boxes


def clip(boxes: NDArray[np.float32], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip to a square of `size` px and drop what is left too small: the kept boxes, and which (n,) they are."""
    clipped = boxes.clip(0, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= LEAST_AREA * area)
    return clipped[kept], kept
