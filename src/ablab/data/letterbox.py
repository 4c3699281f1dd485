"""Fitting an image into the network's square input, and where it was put.

Letterbox: the longer side becomes the input's side (small images grow), the rest is padded evenly, the odd pixel at
the right or the bottom (the convention of YOLOv5). Letterbox top left: the same, all padding to the right or below
(YOLOX). Stretch: both sides become the input's side (darknet).

Interpolation `area` averages when shrinking, which does not alias, and is bilinear when growing; `linear` is bilinear
always, as in darknet and OpenCV's network input, whose published scores can only be met with it.

Boxes are in edge coordinates (0 to width), as everywhere here, so a resize multiplies them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError, nearest

RESIZES = ("letterbox", "letterbox_top_left", "stretch")  # choices of preprocess.resize


@dataclass(frozen=True)
class Placement:
    """How an image lies in the network's input: scaled (input px per image px), then moved (input px)."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_network(self, boxes: NDArray[Any]) -> NDArray[np.float32]:
        """(n, 4) x1 y1 x2 y2 from px of the image to px of the network input."""
        scale, offset = self._xyxy()
        return (np.asarray(boxes, np.float64) * scale + offset).astype(np.float32)

    def to_image(self, boxes: NDArray[Any]) -> NDArray[np.float32]:
        """(n, 4) x1 y1 x2 y2 from px of the network input to px of the image; not clipped to it."""
        scale, offset = self._xyxy()
        return ((np.asarray(boxes, np.float64) - offset) / scale).astype(np.float32)

    def _xyxy(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float64)
        return scale, np.array([self.left, self.top] * 2, np.float64)


def fit(
    image: NDArray[np.uint8], size: int, pad: int = 114, resize: str = "letterbox", interpolation: str = "area"
) -> tuple[NDArray[np.uint8], Placement]:
    """Fit an (H, W, 3) image into (size, size, 3). The keyword arguments are keys of conf/preprocess.

    UserError for an unknown `resize` or `interpolation`.
    """
    import cv2  # here: `plan` imports this package and needs no pixels

    for key, value, choices in (
        ("resize", resize, RESIZES),
        ("interpolation", interpolation, ("area", "linear")),
    ):
        if value not in choices:
            raise UserError(f"preprocess.{key}: '{value}'. {nearest(value, choices)}")
    height, width = image.shape[:2]
    w, h = _sides(width, height, size, resize)
    if (w, h) != (width, height):
        averaged = interpolation == "area" and w <= width and h <= height
        resized = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if averaged else cv2.INTER_LINEAR)
        image = np.asarray(resized, np.uint8)
    placement = place(width, height, size, resize)
    if (w, h) == (size, size):
        return image, placement
    canvas = np.full((size, size, 3), pad, np.uint8)
    canvas[placement.top : placement.top + h, placement.left : placement.left + w] = image
    return canvas, placement


def place(width: int, height: int, size: int, resize: str) -> Placement:
    """Where `fit` puts an image of width x height px."""
    w, h = _sides(width, height, size, resize)
    left, top = ((size - w) // 2, (size - h) // 2) if resize == "letterbox" else (0, 0)
    return Placement(w / width, h / height, left, top)


def _sides(width: int, height: int, size: int, resize: str) -> tuple[int, int]:
    """Width and height of the image in the network's input, px."""
    if resize == "stretch":
        return size, size
    ratio = size / max(height, width)
    return max(round(width * ratio), 1), max(round(height * ratio), 1)
