"""Pascal VOC: ImageSets/Main/<set>.txt, Annotations/<name>.xml, JPEGImages/<name>.jpg (or another image suffix).

Coordinates: `xmin ymin xmax ymax` are read as corners in px as they stand, which is what LabelImg and most tools write
and what BCCD's COCO copy assumes. The original PASCAL VOC counts pixels from 1 with the last one inside the box:
`data.one_based: true` reads it so (the corners xmin-1, ymin-1, xmax, ymax).

`difficult` objects are kept as crowd boxes: not trained on, and in evaluation neither hit nor miss, which is how the
VOC development kit treats them. Classes are `data.names`, or else every name in the files of all splits, sorted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ablab.data.form import SPLITS, Dataset, Image, assemble, given_names, read_text, root_of
from ablab.data.images import SUFFIXES
from ablab.errors import UserError, nearest

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def splits(config: dict[str, Any]) -> list[str]:
    return [split for split in SPLITS if config.get(split)]


def load(config: dict[str, Any], split: str) -> Dataset:
    """Read the set that data.<split> names. Image ids count from 1 in the set's order, category ids from 1."""
    root = root_of(config)
    trees, sources = _trees(root, config[split], split)
    given = given_names(config)
    if given is None:
        everything = [trees if other == split else _trees(root, config[other], other)[0] for other in splits(config)]
        given = tuple(
            sorted({_text(o, "name", f) for part in everything for f, t in part for o in t.findall("object")})
        )
    index = {name: i for i, name in enumerate(given)}
    suffixes = _suffixes(root / "JPEGImages")

    found, owner, boxes, classes, difficult, places = [], [], [], [], [], []
    for number, (file, tree) in enumerate(trees, start=1):
        name = file.stem + suffixes.get(file.stem, ".jpg")
        width, height = (_number(tree, f"size/{side}", file) for side in ("width", "height"))
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise UserError(f"{file}: the image is said to be {width:g}x{height:g} px")
        found.append(Image(number, name, int(width), int(height), root / "JPEGImages" / name))
        for nth, item in enumerate(tree.findall("object"), start=1):
            name = _text(item, "name", file)
            if name not in index:
                raise UserError(f"{file}: object {nth} is of class '{name}', not in data.names. {nearest(name, given)}")
            owner.append(number - 1)
            classes.append(index[name])
            boxes.append([_number(item, f"bndbox/{corner}", file) for corner in CORNERS])
            difficult.append(item.findtext("difficult", "0").strip() == "1")
            places.append(f"{file.name}: object {nth}")

    corners = np.array(boxes, np.float64).reshape(-1, 4)
    if config.get("one_based"):
        corners[:, :2] -= 1
    return assemble(
        given,
        tuple(range(1, len(given) + 1)),
        found,
        np.array(owner, np.int64),
        corners,
        np.array(classes, np.int64),
        places.__getitem__,
        sources,
        np.array(difficult, np.bool_),
    )


def _trees(root: Path, name: str, split: str) -> tuple[list[tuple[Path, Element]], list[Path]]:
    """The parsed annotation of every image of a set, and the files and folders that decide it."""
    listing = root / "ImageSets" / "Main" / f"{name}.txt"
    stems = [line.strip() for line in read_text(listing, split).splitlines() if line.strip()]
    if len(set(stems)) != len(stems):
        twice = next(stem for i, stem in enumerate(stems) if stem in stems[:i])
        raise UserError(f"{listing}: names the image {twice} twice")
    files = [root / "Annotations" / f"{stem}.xml" for stem in stems]
    return [(file, _parse(file)) for file in files], [listing, *files, root / "JPEGImages"]


def _parse(file: Path) -> Element:
    try:
        tree: Element = fromstring(file.read_bytes())
    except ParseError as error:
        line, column = error.position
        raise UserError(f"{file}: not valid XML at line {line}, column {column}: {error}; is it cut short?") from None
    except DefusedXmlException as error:
        raise UserError(f"{file}: refused, an annotation needs no document type or entities ({error})") from None
    except OSError:
        raise UserError(f"{file}: the annotation file is missing") from None
    return tree


def _suffixes(folder: Path) -> dict[str, str]:
    """File stem to suffix of the images that are there."""
    there = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path.suffix for path in there if path.suffix.lower() in SUFFIXES}


def _text(element: Element, tag: str, file: Path) -> str:
    text = element.findtext(tag)
    if text is None or not text.strip():
        raise UserError(f"{file}: <{element.tag}> has no <{tag}>")
    return text.strip()


def _number(element: Element, tag: str, file: Path) -> float:
    text = _text(element, tag, file)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{file}: <{tag}> is '{text}', expected a number") from None
