"""Batches for training and evaluation.

- An epoch is a pure function of (seed, epoch, progress): the order is drawn from a generator of (seed, epoch), the
  augmentations of an image from what augment/draws.py says. Nothing depends on what was loaded before, or by whom.
- Images come decoded and fitted from a file that all processes of this machine share (fitted.py), and are augmented
  straight into their place in the batch.
- Images leave as they lie in memory, height by width by channel: the tensors are (B, 3, S, S) in torch's channels_last
  format, at no cost. They stay uint8; mean and std are applied on the device.
- Without workers all work is done in the calling thread; with them in threads, since OpenCV and numpy let others run
  meanwhile. OpenCV's own threads are the caller's to limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablab.data.augment.draws import Draws
from ablab.data.augment.geometry import clip, kept
from ablab.data.augment.pipeline import augmented
from ablab.data.augment.several import Content
from ablab.data.fitted import fitted
from ablab.data.form import Dataset, Sample
from ablab.data.letterbox import Placement, place
from ablab.errors import UserError, nearest

ORDER = 0  # purpose of a generator: without it image 0's augmentation would repeat the shuffle's draws


class Batch(NamedTuple):
    images: Tensor  # uint8 (B, 3, S, S), channels_last in memory
    targets: Tensor  # float32 (n, 6): place in the batch, class, x1, y1, x2, y2 in px of the network input
    indices: list[int]  # places in the dataset


class Loader:
    """Training batches of one dataset at one input size.

    dataset: its crowd boxes are not trained on. imgsz: side of the input, px. batch: images a step. preprocess and
    augment: conf/preprocess and conf/augment (None: no augmentation). seed: the replicate seed, at least 0. workers:
    threads that make batches ahead, as many batches as there are threads, the same ones as without.
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
        workers: int = 0,
    ) -> None:
        if batch < 1:
            raise UserError(f"optim.batch: {batch}, expected at least 1")
        self.dataset, self.imgsz, self.batch, self.seed = dataset, imgsz, batch, seed
        self.preprocess, self.augment, self.workers = preprocess, augment, workers
        self._fitted = fitted(dataset, imgsz, preprocess)
        self._rows: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(cuts(len(self.dataset.samples), self.batch)) - 1

    def epoch(self, n: int, augment: bool = True, progress: float = 0.0) -> Iterator[Batch]:
        """The batches of epoch `n`, each image once, in this epoch's order; the last batch may be smaller.

        progress: share of the phase's epochs that are done, in [0, 1]; augmentations end by it.
        """
        draws = self.draws(n, progress) if augment else None
        order = np.random.default_rng([self.seed, ORDER, n]).permutation(len(self.dataset.samples)).tolist()
        batches = (order[start:stop] for start, stop in pairwise(cuts(len(order), self.batch)))
        if not self.workers:
            for indices in batches:
                yield self._make(indices, draws)
            return
        with ThreadPoolExecutor(self.workers, "loader") as threads:
            waiting: deque[Future[Batch]] = deque()
            try:
                for indices in islice(batches, self.workers):
                    waiting.append(threads.submit(self._make, indices, draws))
                while waiting:
                    made = waiting.popleft().result()
                    for indices in islice(batches, 1):
                        waiting.append(threads.submit(self._make, indices, draws))
                    yield made
            finally:  # whoever asks for no more waits for what is being made, not for what is not begun
                threads.shutdown(cancel_futures=True)

    def draws(self, n: int, progress: float = 0.0) -> Draws | None:
        """What chance decides in epoch `n`; None without augmentation."""
        if self.augment is None:
            return None
        return Draws(self.augment, self.seed, n, progress, len(self.dataset.samples))

    def sample(self, index: int, draws: Draws | None, out: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Write image `index` as the network sees it, but RGB, into `out` (S, S, 3); returns its boxes (m, 5): class,
        x1, y1, x2, y2 in px of `out`."""
        if draws is None:
            out[:] = self._fitted[index][0]
            rows = self._in_network(index)
        else:
            top_left = self.preprocess["resize"] == "letterbox_top_left"
            rows = augmented(index, draws, self._content, self.preprocess["pad"], out, top_left=top_left)
        rows = clip(rows, 0, 0, self.imgsz, self.imgsz)
        return rows[kept(rows, self.imgsz), :5]

    def _make(self, indices: list[int], draws: Draws | None) -> Batch:
        images = np.empty((len(indices), self.imgsz, self.imgsz, 3), np.uint8)
        rows = [self.sample(index, draws, image) for index, image in zip(indices, images, strict=True)]
        places = np.repeat(np.arange(len(rows), dtype=np.float32), [len(own) for own in rows])
        targets = np.column_stack((places, np.concatenate(rows)))
        return Batch(as_tensor(images, self.preprocess), torch.from_numpy(targets), indices)

    def _in_network(self, index: int) -> NDArray[np.float32]:
        """The rows (augment/geometry.py) of an image in px of the network's input; not to be written to."""
        if index not in self._rows:
            sample = self.dataset.samples[index]
            there = ~sample.crowd
            placement = place(sample.width, sample.height, self.imgsz, self.preprocess["resize"])
            boxes = placement.to_network(sample.boxes[there])
            whole = np.ones(len(boxes), np.float32)
            self._rows[index] = np.column_stack((sample.classes[there].astype(np.float32), boxes, whole))
        return self._rows[index]

    def _content(self, index: int) -> Content:
        sample = self.dataset.samples[index]
        image, placement = self._fitted[index]
        left, top = placement.left, placement.top
        width, height = round(sample.width * placement.scale_x), round(sample.height * placement.scale_y)
        rows = self._in_network(index) - np.array([0, left, top, left, top, 0], np.float32)
        return image[top : top + height, left : left + width], rows


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
        yield as_tensor(np.stack([image for image, _ in images]), preprocess), samples, [where for _, where in images]


def as_tensor(images: NDArray[np.uint8], preprocess: dict[str, Any]) -> Tensor:
    """(B, 3, S, S) of RGB images (B, S, S, 3), in the recipe's channel order."""
    if preprocess["channels"] == "bgr":
        images = np.ascontiguousarray(images[..., ::-1])
    elif preprocess["channels"] != "rgb":
        raise UserError(f"preprocess.channels: {nearest(preprocess['channels'], ('rgb', 'bgr'))}")
    return torch.from_numpy(images).permute(0, 3, 1, 2)
