"""Read a dataset, whatever its format, to the one form of form.py."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ablab.data import coco, images, scenes, voc, yolo
from ablab.data.form import SPLITS, Dataset
from ablab.errors import UserError, nearest

READERS = {"coco": coco, "scenes": scenes, "voc": voc, "yolo": yolo}


def load(config: dict[str, Any], split: str) -> Dataset:
    """Read one split ("train", "val" or "test") of the dataset that `config` (a conf/data file) describes.

    Raises UserError for everything wrong with the files, naming the file and the place in it.
    """
    there = splits(config)
    if split not in there:
        hint = f"It has: {', '.join(there)}." if split in SPLITS else nearest(split, there)
        raise UserError(f"data.{split}: this dataset has no split '{split}'. {hint}")
    dataset: Dataset = _reader(config).load(config, split)
    if not dataset.samples:
        raise UserError(f"data.{split}: the split is empty, expected at least one image")
    images.require([sample.path for sample in dataset.samples if sample.path])
    return dataset


def splits(config: dict[str, Any]) -> tuple[str, ...]:
    """The splits that a dataset has, in the order train, val, test."""
    there = set(_reader(config).splits(config))
    return tuple(split for split in SPLITS if split in there)


def _reader(config: dict[str, Any]) -> ModuleType:
    kind = config.get("format")
    if kind not in READERS:
        raise UserError(f"data.format: unknown format '{kind}'. {nearest(kind, READERS)}")
    return READERS[kind]
