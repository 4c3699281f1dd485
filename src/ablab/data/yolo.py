"""YOLO folders: one text file of labels beside each image, `class x y width height` a line, centre and size as shares
of the image.

With `data.file` (usually data.yaml) its keys are used: `names` (a list, or a mapping from index), `path` (relative to
the file; may be absent) and `train`, `val`, `test`, each a folder (searched in depth), a .txt list of images, or a
list of such. Without a file: images/<split> under `data.root`, and the classes must be given as `data.names`. The
labels of .../images/x.jpg are .../labels/x.txt, or x.txt beside it where no folder is called images. An image without
a label file has no objects. Refused, with file and line: a class index out of range, a line that is not five numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ablab.data.form import SPLITS, Dataset, Image, assemble, given_names, read_text, root_of
from ablab.data.images import SUFFIXES, require, size
from ablab.errors import UserError


def splits(config: dict[str, Any]) -> list[str]:
    base, content = _layout(config)
    if content is None:
        return [split for split in SPLITS if (base / "images" / split).is_dir()]
    return [split for split in SPLITS if content.get(split)]


def load(config: dict[str, Any], split: str) -> Dataset:
    """Read one split. Image ids count from 1 in the order of the paths, category ids are the class indices."""
    base, content = _layout(config)
    names = _names(config, content)
    paths, sources = _find(base, f"images/{split}" if content is None else content[split], split)
    # What says which splits and classes there are.
    sources.append(base / "images" if content is None else root_of(config) / config["file"])
    require(paths)
    found, owner, boxes, classes, places = [], [], [], [], []
    for i, path in enumerate(paths):
        width, height = size(path)
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        found.append(Image(i + 1, name, width, height, path))
        file = _labels(path)
        sources.append(file)
        for number, (index, x, y, w, h) in _lines(file, len(names)):
            owner.append(i)
            classes.append(index)
            boxes.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
            places.append(f"{file.name}:{number}")
    return assemble(
        names,
        tuple(range(len(names))),
        found,
        np.array(owner, np.int64),
        np.array(boxes, np.float64),
        np.array(classes, np.int64),
        places.__getitem__,
        sources + sorted({source.parent for source in sources}),
    )


def _layout(config: dict[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """The folder that paths are relative to, and what data.file says (None without one)."""
    import yaml

    root = root_of(config)
    if not config.get("file"):
        if not (root / "images").is_dir():
            raise UserError(f"data.root: {root} has no folder 'images'; name its data.yaml as data.file, if it has one")
        return root, None
    file = root / config["file"]
    if not file.exists() and (root / "images").is_dir():
        raise UserError(f"{file}: no such file (from data.file); for plain images/ and labels/ folders: data.file=null")
    try:
        content = yaml.safe_load(read_text(file, "file"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected keys such as names, train and val")
    stated = file.parent / (content.get("path") or "")
    # `path` is often left over from the machine that wrote it: what lies beside the file is then the dataset.
    return (stated if stated.is_dir() else file.parent), content


def _names(config: dict[str, Any], content: dict[str, Any] | None) -> tuple[str, ...]:
    given = given_names(config)
    named = None if content is None else content.get("names")
    if isinstance(named, dict):
        if sorted(named) != list(range(len(named))):
            raise UserError(f"{config['file']}: names must be numbered 0 to {len(named) - 1}, got {sorted(named)}")
        named = [named[i] for i in range(len(named))]
    if named is None and given is None:
        raise UserError("data.names: YOLO label files hold no class names; give them, or a data.yaml as data.file")
    if named is None:
        assert given is not None
        return given
    listed = given_names({"names": named})
    assert listed is not None
    if given is not None and given != listed:
        raise UserError(f"data.names: {list(given)}, but {config['file']} says {list(listed)}")
    return listed


def _find(base: Path, entry: Any, split: str) -> tuple[list[Path], list[Path]]:
    """The images of a split, and the lists and folders that decide which they are."""
    if isinstance(entry, list):
        parts = [_find(base, one, split) for one in entry]
        return [p for paths, _ in parts for p in paths], [s for _, sources in parts for s in sources]
    place = base / str(entry)
    if not place.exists() and str(entry).startswith("../"):
        place = base / str(entry)[3:]  # exports of some tools write ../train/images beside train/
    if place.is_dir():
        paths = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        return paths, [place, *sorted({p.parent for p in paths})]
    if place.suffix != ".txt":
        raise UserError(f"{place}: no such folder or list of images (split '{split}' of data.root)")
    lines = [line.strip() for line in read_text(place, split).splitlines() if line.strip()]
    beside = [place.parent / line for line in lines]
    return [p if p.exists() else base / line for p, line in zip(beside, lines, strict=True)], [place]


def _labels(image: Path) -> Path:
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path, classes: int) -> list[tuple[int, tuple[int, float, float, float, float]]]:
    """(line number, (class, x, y, width, height)) of every label in a file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    labels = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 5:
            raise UserError(
                f"{file}:{number}: {len(fields)} fields, expected 'class x y width height'"
                + (" (this looks like a polygon, boxes are needed)" if len(fields) > 6 else "")
            )
        try:
            index, x, y, w, h = (float(field) for field in fields)
        except ValueError:
            raise UserError(f"{file}:{number}: '{line.strip()}', expected five numbers") from None
        if index != int(index) if np.isfinite(index) else True:
            raise UserError(f"{file}:{number}: class '{fields[0]}', expected a whole number")
        if not 0 <= index < classes:
            raise UserError(f"{file}:{number}: class {int(index)}, expected 0 to {classes - 1}")
        labels.append((number, (int(index), x, y, w, h)))
    return labels
