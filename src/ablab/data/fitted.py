"""The images of a dataset as a network of one input size sees them: decoded and fitted once.

All processes of a machine share them (shared.py). Where that cannot be, each process keeps those it has asked for, if
all of them fit in a quarter of the free memory, and else makes them anew every time.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ablab import machine
from ablab.data import shared
from ablab.data.form import Dataset, Sample, read_image
from ablab.data.letterbox import Placement, fit, place

Image = tuple[NDArray[np.uint8], Placement]  # (S, S, 3) RGB, not to be written to, and where the image lies in it

# Opened once for a dataset in memory, however often it is trained or evaluated on.
_opened: WeakKeyDictionary[Dataset, dict[str, Fitted]] = WeakKeyDictionary()


class Fitted:
    """`fitted[i]`: image i of the dataset, fitted, and its placement.

    Raises UserError naming the first image that cannot be decoded, when it is made or asked for.
    """

    def __init__(self, samples: tuple[Sample, ...], imgsz: int, preprocess: dict[str, Any]) -> None:
        self._samples, self._imgsz, self._preprocess = samples, imgsz, preprocess
        shape = (len(samples), imgsz, imgsz, 3)
        source = [imgsz, *self._keys(), [_source(sample) for sample in samples]]
        self._shared = shared.shared(source, shape, lambda index: self._fit(index)[0])
        self._kept: dict[int, Image] | None = None
        if self._shared is None and np.prod(shape, dtype=np.float64) <= machine.free_memory() / 4:
            self._kept = {}

    def __getitem__(self, index: int) -> Image:
        if self._shared is not None:
            sample = self._samples[index]
            return self._shared[index], place(sample.width, sample.height, self._imgsz, self._preprocess["resize"])
        if self._kept is None:
            return self._fit(index)
        if index not in self._kept:
            self._kept[index] = self._fit(index)
        return self._kept[index]

    def _keys(self) -> tuple[int, str, str]:
        preprocess = self._preprocess
        return preprocess["pad"], preprocess["resize"], preprocess.get("interpolation", "area")

    def _fit(self, index: int) -> Image:
        return fit(read_image(self._samples[index]), self._imgsz, *self._keys())


def fitted(dataset: Dataset, imgsz: int, preprocess: dict[str, Any]) -> Fitted:
    """The dataset's images in a square of `imgsz` px, as the keys of conf/preprocess say; channels are RGB."""
    mine = _opened.setdefault(dataset, {})
    key = json.dumps([imgsz, preprocess], sort_keys=True)
    if key not in mine:
        mine[key] = Fitted(dataset.samples, imgsz, preprocess)
    return mine[key]


def _source(sample: Sample) -> list[Any]:
    """What tells an image from any other, as cheaply as can be: a file by size and time of change, pixels by value."""
    if sample.pixels is not None:
        return [hashlib.sha256(np.ascontiguousarray(sample.pixels).data).hexdigest(), *sample.pixels.shape]
    path = Path(os.path.abspath(str(sample.path)))
    try:
        status = path.stat()
    except OSError:
        return [str(path)]  # decoding it will tell
    return [str(path), status.st_size, status.st_mtime_ns, sample.width, sample.height]
