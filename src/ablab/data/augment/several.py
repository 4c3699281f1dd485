"""Augmentations that make one picture of several images; the others are drawn uniformly from the dataset.

- mosaic (Bochkovskiy et al. 2020, YOLOv4): four images meet at a point, uniform in the middle half of a canvas of twice
  the input's side; what reaches out of the canvas is cut off. The affine map then shows the middle of the canvas.
- copy_paste (after Ghiasi et al. 2021, with boxes for masks): the boxes of another image, pixels and all, each at a
  place uniform over the picture. One that would cover over 30 % of any box there, pasted ones included, is left out,
  and so is one larger than the picture.
- mixup (Zhang et al. 2018; for detection Zhang et al. 2019): another picture, made by all the other augmentations, is
  blended in with a weight of Beta(8, 8), mostly near a half; the boxes of both are kept, whole.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ablab.data.augment.geometry import LEAST_SIDE, area, clip

Content = tuple[NDArray[np.uint8], NDArray[np.float32]]  # an image (H, W, 3) and its rows (geometry.py)

MOST_COVERED = 0.3  # share of a box that a pasted one may cover
BETA = 8.0  # both shape parameters of mixup's distribution


def mosaic(images: list[Content], size: int, centre: tuple[float, float], pad: int) -> Content:
    """Four images (upper left, upper right, lower left, lower right) around `centre`, on a canvas of 2 x `size`.

    centre: x and y of the point, each in [0, 1] of the canvas's middle half. Boxes are cut with their images.
    """
    canvas = np.full((2 * size, 2 * size, 3), pad, np.uint8)
    cx, cy = (round(size / 2 + share * size) for share in centre)
    rows = []
    for place, (image, own) in enumerate(images):
        height, width = image.shape[:2]
        x, y = (cx if place % 2 else cx - width), (cy if place // 2 else cy - height)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, 2 * size), min(y + height, 2 * size)
        canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
        moved = own + np.array([0, x, y, x, y, 0], np.float32)
        cut = clip(moved, left, top, right, bottom)
        rows.append(cut[cut[:, 5] > 0])
    return canvas, np.concatenate(rows)


def copy_paste(content: Content, other: Content, rng: np.random.Generator) -> Content:
    """The boxes of `other` pasted into a copy of the image; each takes two draws of `rng`, pasted or not."""
    image, rows = content[0].copy(), content[1]
    height, width = image.shape[:2]
    source = other[0]
    for row, (u, v) in zip(other[1], rng.random((len(other[1]), 2)).tolist(), strict=True):
        x1, y1 = (max(int(edge), 0) for edge in np.floor(row[1:3]))
        x2, y2 = min(int(np.ceil(row[3])), source.shape[1]), min(int(np.ceil(row[4])), source.shape[0])
        w, h = x2 - x1, y2 - y1
        if w > width or h > height or min(w, h) < LEAST_SIDE:
            continue
        x, y = int(u * (width - w + 1)), int(v * (height - h + 1))
        pasted = row + np.array([0, x - x1, y - y1, x - x1, y - y1, 0], np.float32)
        sides = np.minimum(rows[:, 3:5], (x + w, y + h)) - np.maximum(rows[:, 1:3], (x, y))
        if (sides.clip(0).prod(1) > MOST_COVERED * area(rows)).any():
            continue
        image[y : y + h, x : x + w] = source[y1:y2, x1:x2]
        rows = np.concatenate((rows, pasted[None]))
    return image, rows


def weight(u: float) -> float:
    """Mixup's weight of the first image, Beta(8, 8), from a uniform number in [0, 1)."""
    from scipy.special import betaincinv

    return float(betaincinv(BETA, BETA, u))


def mixup(out: NDArray[np.uint8], other: NDArray[np.uint8], share: float) -> None:
    """Blend `other` into `out`, in place; `share` is the weight of `out`."""
    cv2.addWeighted(out, share, other, 1 - share, 0, dst=out)
