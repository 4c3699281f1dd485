"""Batches for training and evaluation.

- An epoch is a pure function of (seed, epoch): the order is drawn from a generator of (seed, epoch), each image's
  augmentation from one of (seed, epoch, place in the dataset). Nothing depends on what was loaded before.
- Images come decoded and fitted from a file that all processes of this machine share (fitted.py).
- Images leave as they lie in memory, height by width by channel: the tensors are (B, 3, S, S) in torch's channels_last
  format, at no cost. They stay uint8; mean and std are applied on the device.
- All work is done in the calling thread; OpenCV's own threads are the caller's to limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablab.data.augment import augment as augmented
from ablab.data.augment import clip
from ablab.data.fitted import fitted
from ablab.data.form import Dataset, Sample
from ablab.data.letterbox import Placement
from ablab.errors import UserError, nearest

ORDER, AUGMENT = 0, 1  # purposes of a generator: without them image 0's augmentation would repeat the shuffle's draws


class Batch(NamedTuple):
    images: Tensor  # uint8 (B, 3, S, S), channels_last in memory
    targets: Tensor  # float32 (n, 6): place in the batch, class, x1, y1, x2, y2 in px of the network input
    indices: list[int]  # places in the dataset


class Loader:
    """Training batches of one dataset at one input size.

    dataset: its crowd boxes are not trained on. imgsz: side of the input, px. batch: images a step. preprocess and
    augment: conf/preprocess and conf/augment (None: no augmentation). seed: the replicate seed, at least 0.
    `len(loader)` is the number of steps in an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        imgsz: int,
        batch: int,
        preprocess: dict[str, Any],
        augment: dict[str, Any] | None,
        seed: int,
    ) -> None:
        if batch < 1:
            raise UserError(f"optim.batch: {batch}, expected at least 1")
        self.dataset, self.imgsz, self.batch, self.seed = dataset, imgsz, batch, seed
        self.preprocess, self.augment = preprocess, augment
        self._fitted = fitted(dataset, imgsz, preprocess)

    def __len__(self) -> int:
        return len(cuts(len(self.dataset.samples), self.batch)) - 1

    def epoch(self, n: int, augment: bool = True) -> Iterator[Batch]:
        """The batches of epoch `n`, each image once, in this epoch's order; the last batch may be smaller."""
        order = np.random.default_rng([self.seed, ORDER, n]).permutation(len(self.dataset.samples)).tolist()
        for start, stop in pairwise(cuts(len(order), self.batch)):
            indices = order[start:stop]
            made = [self._make(index, n, augment) for index in indices]
            targets = [np.insert(rows, 0, place, axis=1) for place, (_, rows) in enumerate(made)]
            images = _tensor([image for image, _ in made], self.preprocess)
            yield Batch(images, torch.from_numpy(np.concatenate(targets)), indices)

    def _make(self, index: int, n: int, augment: bool) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """One image and its rows (m, 5): class, x1, y1, x2, y2."""
        sample = self.dataset.samples[index]
        image, placement = self._fitted[index]
        boxes = placement.to_network(sample.boxes[~sample.crowd])
        classes = sample.classes[~sample.crowd]
        if augment and self.augment is not None:
            rng = np.random.default_rng([self.seed, AUGMENT, n, index])
            image, boxes, kept = augmented(image, boxes, self.augment, self.preprocess["pad"], rng)
        else:
            boxes, kept = clip(boxes, self.imgsz)
        return image, np.concatenate((classes[kept, None].astype(np.float32), boxes), axis=1)


def cuts(n: int, size: int) -> list[int]:
    """Where n images are cut into batches of `size`: the places 0 to n at which one ends and the next begins."""
    places = [*range(0, n, size), n]
    if n > 1 and n % size == 1:  # BatchNorm has no variance of one image at 1x1: join it to the one before
        del places[-2]
    return places


def eval_batches(
    dataset: Dataset, *, imgsz: int, batch: int, preprocess: dict[str, Any]
) -> Iterator[tuple[Tensor, list[Sample], list[Placement]]]:
    """Every image once, in the dataset's order: uint8 (B, 3, S, S), the samples, and where each image was put."""
    every = fitted(dataset, imgsz, preprocess)
    for start in range(0, len(dataset.samples), batch):
        samples = list(dataset.samples[start : start + batch])
        images = [every[start + place] for place in range(len(samples))]
        yield _tensor([image for image, _ in images], preprocess), samples, [placement for _, placement in images]


def _tensor(images: list[NDArray[np.uint8]], preprocess: dict[str, Any]) -> Tensor:
    """(B, 3, S, S) of RGB images (S, S, 3), in the recipe's channel order."""
    stacked = np.stack(images)
    if preprocess["channels"] == "bgr":
        stacked = np.ascontiguousarray(stacked[..., ::-1])
    elif preprocess["channels"] != "rgb":
        raise UserError(f"preprocess.channels: {nearest(preprocess['channels'], ('rgb', 'bgr'))}")
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)
