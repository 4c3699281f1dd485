"""Multi-scale training: every batch at a size of its own, on the device (Redmon & Farhadi 2017, YOLO9000)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.nn.functional import interpolate

from ablab.data.loader import Batch

SIZE = 10  # purpose of a generator; the loader's own are smaller numbers


def sides(imgsz: int, scales: list[float], stride: int) -> list[int]:
    """The multiples of `stride` within imgsz × [low, high], in px; with low ≤ 1 ≤ high, `imgsz` is one of them."""
    low, high = (round(share * imgsz / stride, 6) for share in scales)
    return [stride * n for n in range(math.ceil(low), math.floor(high) + 1)]


def resized(batches: Iterable[Batch], every: list[int], device: torch.device, seed: int, epoch: int) -> Iterator[Batch]:
    """Each batch (B, 3, S, S) on the device at one of the sides `every`, its boxes too.

    The side is drawn from (seed, epoch, place of the batch): no other batch and no earlier epoch matters.
    """
    for place, batch in enumerate(batches):
        side = every[np.random.default_rng([seed, SIZE, epoch, place]).integers(len(every))]
        before = batch.images.shape[-1]
        images = batch.images.to(device, non_blocking=True)
        if side != before:
            if device.type != "cpu":  # only there is uint8 enough for it
                images = images.float()
            images = interpolate(images, size=(side, side), mode="bilinear", antialias=side < before)
        targets = batch.targets.clone()
        targets[:, 2:] *= side / before
        yield Batch(images, targets, batch.indices)
