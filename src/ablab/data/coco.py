"""COCO JSON: https://cocodataset.org/#format-data (the keys images, annotations, categories).

Refused: repeated image or category ids, an annotation of an unknown image or category, a box that is not four numbers.
Classes are the file's categories by ascending id, or in the order of `data.names` if given. `iscrowd` is kept; a
missing `area` is the box's.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ablab.data.form import SPLITS, Dataset, Image, assemble, given_names, read_text, root_of
from ablab.errors import UserError, nearest


def splits(config: dict[str, Any]) -> list[str]:
    return [split for split in SPLITS if config.get(split)]


def load(config: dict[str, Any], split: str) -> Dataset:
    """Read data.root/data.<split> (the JSON file); the images are in data.root/data.<split>_images."""
    root = root_of(config)
    file = root / config[split]
    content = _parse(file, split)
    found = _images(file, content["images"], root / (config.get(f"{split}_images") or ""))
    names, ids = _categories(file, content["categories"], given_names(config))
    place = {image.id: i for i, image in enumerate(found)}
    index = {category: i for i, category in enumerate(ids)}

    annotations = content["annotations"]
    owner, classes, boxes, area, crowd = [], [], [], [], []
    for i, annotation in enumerate(annotations):
        try:
            owner.append(place[annotation["image_id"]])
            classes.append(index[annotation["category_id"]])
            x, y, w, h = map(float, annotation["bbox"])
            boxes.append((x, y, x + w, y + h))
            stated = annotation.get("area")
            area.append(math.nan if stated is None else float(stated))
            crowd.append(bool(int(annotation.get("iscrowd") or 0)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise _refusal(file, i, annotation, place, index) from None

    def where(i: int) -> str:
        return f"{config[split]}: annotation {annotations[i].get('id', f'number {i + 1}')} of {found[owner[i]].name}"

    return assemble(
        names,
        ids,
        found,
        np.array(owner, np.int64),
        np.array(boxes, np.float64),
        np.array(classes, np.int64),
        where,
        [file],
        np.array(crowd, np.bool_),
        np.array(area, np.float64),
    )


def _parse(file: Path, split: str) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(file, split))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: not valid JSON at line {error.lineno}, column {error.colno} (byte {error.pos}): {error.msg}; "
            f"is the file cut short?"
        ) from None
    except RecursionError:
        raise UserError(f"{file}: lists within lists without end, expected COCO JSON") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{file}: no list '{key}', expected COCO JSON with images, annotations and categories")
    return dict(content)


def _images(file: Path, entries: list[Any], folder: Path) -> list[Image]:
    found, seen = [], set()
    for i, entry in enumerate(entries):
        try:
            name = str(entry["file_name"])
            image = Image(entry["id"], name, entry["width"], entry["height"], folder / name)
        except (KeyError, TypeError) as error:
            raise UserError(f"{file}: image number {i + 1} ({entry!r:.200}) lacks {error}") from None
        if not all(isinstance(v, int) for v in (image.id, image.width, image.height)):
            raise UserError(
                f"{file}: image {image.name}: id, width and height must be whole numbers, got {entry!r:.200}"
            )
        if image.width <= 0 or image.height <= 0:
            raise UserError(f"{file}: image {image.name} is said to be {image.width}x{image.height} px")
        if image.id in seen:
            raise UserError(f"{file}: image id {image.id} is given twice, the second time to {image.name}")
        seen.add(image.id)
        found.append(image)
    return found


def _categories(
    file: Path, entries: list[Any], wanted: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    try:
        by_name = {str(entry["name"]): int(entry["id"]) for entry in entries}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: every category needs a name and a whole id, got {entries!r:.200}") from None
    if not entries or len(by_name) != len(entries) or len(set(by_name.values())) != len(entries):
        raise UserError(f"{file}: category names and ids must be there and differ, got {entries!r:.200}")
    if wanted is None:
        wanted = tuple(sorted(by_name, key=lambda name: by_name[name]))
    for name in wanted:
        if name not in by_name:
            raise UserError(f"data.names: {file} has no category '{name}'. {nearest(name, by_name)}")
    for name in by_name:
        if name not in wanted:
            raise UserError(f"data.names: {file} has a category '{name}' that is not listed. {nearest(name, wanted)}")
    return wanted, tuple(by_name[name] for name in wanted)


def _refusal(file: Path, i: int, entry: Any, place: dict[int, int], index: dict[int, int]) -> UserError:
    """The message about an annotation that could not be taken."""
    if not isinstance(entry, dict):
        return UserError(f"{file}: annotation number {i + 1} is {entry!r:.100}, expected an object")
    which = f"{file}: annotation {entry.get('id', f'number {i + 1}')}"
    for key, known, kind in (("image_id", place, "image"), ("category_id", index, "category")):
        value = entry.get(key)
        if not isinstance(value, int) or value not in known:
            some = ", ".join(map(str, sorted(known)[:10])) + (", ..." if len(known) > 10 else "")
            return UserError(f"{which} names {kind} {value!r}, which the file does not have ({kind} ids: {some})")
    if not isinstance(entry.get("bbox"), list) or len(entry["bbox"]) != 4:
        return UserError(f"{which} has bbox {entry.get('bbox')!r:.100}, expected [x, y, width, height] in px")
    return UserError(f"{which} holds something that is no number: {entry!r:.300}")
