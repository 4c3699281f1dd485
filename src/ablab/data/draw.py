"""A picture of a dataset: labelled samples side by side, to look at before training on them."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablab.data.form import Dataset, Sample, read_image
from ablab.data.letterbox import fit
from ablab.errors import UserError

TILE = 400  # px
GAP = 6  # px


def contact_sheet(dataset: Dataset, path: Path, count: int = 16) -> Path:
    """Write a PNG of `count` samples, spread evenly over the dataset, with their boxes and class names;
    returns its path.

    Crowd boxes are grey. UserError if an image cannot be read or `path` cannot be written.
    """
    import cv2

    total = len(dataset.samples)
    chosen = [dataset.samples[i] for i in np.linspace(0, total - 1, min(count, total)).round().astype(int)]
    columns = int(np.ceil(np.sqrt(len(chosen))))
    rows = int(np.ceil(len(chosen) / columns))
    sheet = np.full((rows * (TILE + GAP) + GAP, columns * (TILE + GAP) + GAP, 3), 255, np.uint8)
    for i, sample in enumerate(chosen):
        y, x = (GAP + (TILE + GAP) * place for place in divmod(i, columns))
        sheet[y : y + TILE, x : x + TILE] = _tile(sample, dataset.names)
    whole, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert whole, "OpenCV encodes any 8-bit image as PNG"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _tile(sample: Sample, names: tuple[str, ...]) -> NDArray[np.uint8]:
    import cv2

    image, placement = fit(read_image(sample), TILE, 255)
    image = image.copy()
    boxes = placement.to_network(sample.boxes).round().astype(int).clip(0, TILE - 1).tolist()
    labelled = list(zip(boxes, sample.classes.tolist(), sample.crowd.tolist(), strict=True))
    for (x1, y1, x2, y2), index, crowd in labelled:
        cv2.rectangle(image, (x1, y1), (x2, y2), (128, 128, 128) if crowd else _colour(index, len(names)), 2)
    for (x1, y1, _, _), index, _ in labelled:  # names last: no box may cross them
        _label(image, names[index], x1, y1, _colour(index, len(names)))
    return np.asarray(image, np.uint8)


def _label(image: NDArray[np.uint8], text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Black or white text on the class's colour, above the box's upper left corner or, at the edge, inside it."""
    import cv2

    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    x = max(min(x, TILE - width - 2), 0)
    y = y if y > height + below else y + height + below + 2
    cv2.rectangle(image, (x, y - height - below), (x + width + 2, y), colour, -1)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(image, text, (x + 1, y - below + 1), font, size, ink, 1, cv2.LINE_AA)


def _colour(index: int, classes: int) -> tuple[int, int, int]:
    """Hues spread over the circle by the golden ratio, so that neighbouring classes differ."""
    r, g, b = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.85, 0.95)
    return round(r * 255), round(g * 255), round(b * 255)
