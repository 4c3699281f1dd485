"""Pictures of a dataset, to look at before training on it: labelled samples, and what augmentation makes of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab.data.form import Dataset, read_image
from ablab.data.letterbox import fit
from ablab.errors import UserError

TILE = 400  # px
GAP = 6  # px


def contact_sheet(dataset: Dataset, path: Path, count: int = 16) -> Path:
    """Write a PNG of `count` samples, spread evenly over the dataset, with their boxes and class names;
    returns its path.

    Crowd boxes are grey. UserError if an image cannot be read or `path` cannot be written.
    """
    chosen = [dataset.samples[index] for index in _spread(len(dataset.samples), count)]
    tiles = [_tile(read_image(one), one.boxes, one.classes, one.crowd, dataset.names) for one in chosen]
    return _write(tiles, None, path)


def augmented_sheet(dataset: Dataset, config: dict[str, Any], path: Path, count: int = 4, epochs: int = 4) -> Path:
    """Write a PNG of `count` samples as they are trained on, with the boxes that the network is told; returns its path.

    A row is one image in the first `epochs` epochs of the first phase. config: a resolved configuration; its seed,
    augment, preprocess and first phase's imgsz count. UserError as `contact_sheet`.
    """
    from ablab.data.loader import Loader  # here: it imports torch, which takes seconds

    imgsz = config["schedule"]["phases"][0]["imgsz"]
    given = {key: config[key] for key in ("preprocess", "augment", "seed")}
    loader = Loader(dataset, imgsz=imgsz, batch=1, **given)
    draws = [loader.draws(epoch) for epoch in range(epochs)]
    tiles = []
    for index in _spread(len(dataset.samples), count):
        for drawn in draws:
            image = np.empty((imgsz, imgsz, 3), np.uint8)
            rows = loader.sample(index, drawn, image)
            tiles.append(
                _tile(image, rows[:, 1:], rows[:, 0].astype(int), np.zeros(len(rows), np.bool_), dataset.names)
            )
    return _write(tiles, epochs, path)


def _spread(total: int, count: int) -> list[int]:
    """`count` places spread evenly over `total`, all of them if there are fewer."""
    places: list[int] = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return places


def _write(tiles: list[NDArray[np.uint8]], columns: int | None, path: Path) -> Path:
    import cv2

    sheet = side_by_side(tiles, columns)
    whole, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert whole, "OpenCV encodes any 8-bit image as PNG"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def predictions(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    names: Sequence[str],
) -> NDArray[np.uint8]:
    """A copy of an RGB image (H, W, 3) with predicted boxes (n, 4) x1 y1 x2 y2, px, best first, each with its class
    name and its score in per cent."""
    import cv2

    image = image.copy()
    height, width = image.shape[:2]
    size = max(height, width) / 800  # of lines and letters
    corners = boxes.round().astype(int).clip(0, (width - 1, height - 1) * 2).tolist()
    found = list(zip(corners, scores.tolist(), classes.tolist(), strict=True))[::-1]  # the best lie on top
    for (x1, y1, x2, y2), _, index in found:
        cv2.rectangle(image, (x1, y1), (x2, y2), _colour(index, len(names)), max(round(2 * size), 1))
    for (x1, y1, _, _), score, index in found:
        text = f"{names[index]} {100 * score:.0f}"
        _label(image, text, x1, y1, _colour(index, len(names)), max(0.55 * size, 0.35), max(round(size), 1))
    return image


def side_by_side(tiles: Sequence[NDArray[np.uint8]], columns: int | None = None) -> NDArray[np.uint8]:
    """Square tiles of one size on white; without `columns` in a square as far as that goes."""
    tile = tiles[0].shape[0]
    columns = columns or int(np.ceil(np.sqrt(len(tiles))))
    rows = int(np.ceil(len(tiles) / columns))
    sheet = np.full((rows * (tile + GAP) + GAP, columns * (tile + GAP) + GAP, 3), 255, np.uint8)
    for i, image in enumerate(tiles):
        y, x = (GAP + (tile + GAP) * place for place in divmod(i, columns))
        sheet[y : y + tile, x : x + tile] = image
    return sheet


def _tile(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    classes: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    names: tuple[str, ...],
) -> NDArray[np.uint8]:
    import cv2

    image, placement = fit(image, TILE, 255)
    image = image.copy()
    drawn = placement.to_network(boxes).round().astype(int).clip(0, TILE - 1).tolist()
    labelled = list(zip(drawn, classes.tolist(), crowd.tolist(), strict=True))
    for (x1, y1, x2, y2), index, grey in labelled:
        cv2.rectangle(image, (x1, y1), (x2, y2), (128, 128, 128) if grey else _colour(index, len(names)), 2)
    for (x1, y1, _, _), index, _ in labelled:  # names last: no box may cross them
        _label(image, names[index], x1, y1, _colour(index, len(names)))
    return np.asarray(image, np.uint8)


def _label(
    image: NDArray[np.uint8],
    text: str,
    x: int,
    y: int,
    colour: tuple[int, int, int],
    size: float = 0.45,
    weight: int = 1,
) -> None:
    """Black or white text on the class's colour, above the box's upper left corner or, at the edge, inside it."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), below = cv2.getTextSize(text, font, size, weight)
    x = max(min(x, image.shape[1] - width - 2), 0)
    y = y if y > height + below else y + height + below + 2
    cv2.rectangle(image, (x, y - height - below), (x + width + 2, y), colour, -1)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) > 140
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(image, text, (x + 1, y - below + 1), font, size, ink, weight, cv2.LINE_AA)


def _colour(index: int, classes: int) -> tuple[int, int, int]:
    """Hues spread over the circle by the golden ratio, so that neighbouring classes differ."""
    r, g, b = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.85, 0.95)
    return round(r * 255), round(g * 255), round(b * 255)
