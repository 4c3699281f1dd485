"""The one in-memory form of labelled images, whatever they were read from: COCO's.

Boxes are x1 y1 x2 y2 in px, corners of the continuous plane with (0, 0) at the image's upper left corner and
(width, height) at its lower right. Class indices are contiguous from 0 inside; the file's own category ids are kept
for the border (`coco_truth`, detections). What becomes of dirty boxes is stated in dirt.py, of odd images in images.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablab.data import images
from ablab.data.dirt import Dirt, clean
from ablab.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled image. The image is at `path`, or in `pixels` when it was generated."""

    id: int  # the file's own image id
    name: str  # its file name as the annotations call it
    width: int
    height: int
    boxes: NDArray[np.float32]  # (n, 4) x1 y1 x2 y2, px
    classes: NDArray[np.int64]  # (n,) contiguous index
    crowd: NDArray[np.bool_]  # (n,) not trained on; a detection there is neither hit nor miss
    area: NDArray[np.float64]  # (n,) px², the file's own (a mask's, for COCO) or else the box's
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None  # (height, width, 3) RGB


@dataclass(frozen=True, eq=False)
class Dataset:
    """The samples of one split, the classes, and what was wrong with the annotations."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the file's own id of each class
    samples: tuple[Sample, ...]
    dirt: tuple[Dirt, ...]
    sources: tuple[Path, ...] = ()  # annotation files and folders it was read from, the images aside


class Image(NamedTuple):
    """An image as a reader found it: what a Sample holds but the boxes."""

    id: int
    name: str
    width: int
    height: int
    path: Path


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """The pixels of a sample: (height, width, 3) RGB.

    Raises UserError naming the file if it is missing, corrupt, or of another size than its annotation says.
    """
    if sample.path is None:
        assert sample.pixels is not None, "a sample has a path or pixels"
        return sample.pixels
    pixels = images.decode(sample.path)
    height, width = pixels.shape[:2]
    if (width, height) != (sample.width, sample.height):
        turned = " (as its EXIF orientation turns it)" if (height, width) == (sample.width, sample.height) else ""
        raise UserError(
            f"{sample.path}: the image is {width}x{height} px{turned}, "
            f"its annotation says {sample.width}x{sample.height}"
        )
    return pixels


def coco_truth(dataset: Dataset) -> dict[str, Any]:
    """The dataset as COCO ground truth: the file's own image and category ids, crowd boxes kept."""
    annotations: list[dict[str, Any]] = []
    for sample in dataset.samples:
        corners = sample.boxes.astype(np.float64)
        for (x1, y1, x2, y2), index, crowd, area in zip(
            corners.tolist(), sample.classes.tolist(), sample.crowd.tolist(), sample.area.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample.id,
                    "category_id": dataset.category_ids[index],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "images": [{"id": s.id, "file_name": s.name, "width": s.width, "height": s.height} for s in dataset.samples],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(dataset.category_ids, dataset.names, strict=True)],
    }


def root_of(config: dict[str, Any]) -> Path:
    """The dataset's folder, `data.root`; UserError if it is not given, not there or empty."""
    root = config.get("root")
    if not root:
        raise UserError("data.root: not given, expected the dataset's folder, as in data.root=/data/mine")
    if not isinstance(root, str):
        raise UserError(f"data.root: expected the path of the dataset's folder, found {root!r}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "not a folder" if folder.exists() else "not there"
        raise UserError(f"data.root: {folder} is {found}, expected the dataset's folder")
    if next(folder.iterdir(), None) is None:
        raise UserError(f"data.root: {folder} is empty, expected the dataset")
    return folder


def read_text(path: Path, key: str) -> str:
    """An annotation file's text (UTF-8); UserError naming the configuration key that led to it if it is not there."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such file (from data.{key} and data.root)") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file, byte {error.start} is no UTF-8") from None


def given_names(config: dict[str, Any]) -> tuple[str, ...] | None:
    """`data.names`, None if they are to be taken from the files."""
    names = config.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not names or len({str(n) for n in names}) != len(names):
        raise UserError(f"data.names: {names!r}, expected a list of different class names")
    return tuple(map(str, names))


def assemble(
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    found: list[Image],
    owner: NDArray[np.int64],
    boxes: NDArray[np.float64],
    classes: NDArray[np.int64],
    where: Callable[[int], str],
    sources: list[Path],
    crowd: NDArray[np.bool_] | None = None,
    area: NDArray[np.float64] | None = None,
) -> Dataset:
    """A Dataset from columns of boxes in any order; `owner` is each box's place in `found`. Cleans the boxes.

    An `area` of NaN stands for the box's own.
    """
    if not found:
        return Dataset(names, category_ids, (), (), tuple(sources))
    limits = np.array([(image.width, image.height) for image in found], np.float64).reshape(-1, 2)[owner]
    kept, clipped, dirt = clean(boxes.reshape(-1, 4), limits, where)
    order = np.argsort(owner[kept], kind="stable")
    kept, clipped = kept[order], clipped[order]
    sides = clipped[:, 2:].astype(np.float64) - clipped[:, :2]
    areas = sides.prod(1)
    if area is not None:
        areas = np.where(np.isnan(area[kept]), areas, area[kept])
    crowds = np.zeros(len(kept), np.bool_) if crowd is None else crowd[kept]
    cuts = np.searchsorted(owner[kept], np.arange(1, len(found)))
    by_image = zip(found, *(np.split(c, cuts) for c in (clipped, classes[kept], crowds, areas)), strict=True)
    samples = tuple(
        Sample(image.id, image.name, image.width, image.height, b, c, g, a, image.path)
        for image, b, c, g, a in by_image
    )
    return Dataset(names, category_ids, samples, tuple(dirt), tuple(sources))
