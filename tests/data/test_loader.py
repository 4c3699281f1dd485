"""Batches: a pure function of seed and epoch, every image once, targets where the pixels are."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ablab.data.form import Dataset
from ablab.data.letterbox import RESIZES, fit
from ablab.data.loader import Batch, Loader, eval_batches
from ablab.errors import UserError

from .augmentations import ALL, OFF, ON, config

PREPROCESS: dict[str, Any] = {
    "resize": "letterbox",
    "interpolation": "area",
    "pad": 114,
    "channels": "rgb",
    "mean": [0, 0, 0],
    "std": [255, 255, 255],
}


def make(dataset: Dataset, **changes: Any) -> Loader:
    keys: dict[str, Any] = {"imgsz": 64, "batch": 3, "preprocess": PREPROCESS, "augment": ON, "seed": 0}
    return Loader(dataset, **(keys | changes))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.indices == y.indices and torch.equal(x.images, y.images) and torch.equal(x.targets, y.targets)
        for x, y in zip(a, b, strict=True)
    )


def test_an_epoch_depends_on_seed_and_number_alone(squares: Dataset) -> None:
    first = make(squares)
    for n in range(3):
        list(first.epoch(n))
    third = list(first.epoch(3))
    assert same(third, list(make(squares).epoch(3)))
    assert not same(third, list(first.epoch(2)))
    assert not same(third, list(make(squares, seed=1).epoch(3)))


def test_order_and_augmentation_both_change_with_seed_and_epoch(squares: Dataset) -> None:
    def order(seed: int, n: int) -> list[int]:
        return [i for b in make(squares, seed=seed).epoch(n) for i in b.indices]

    def first_image(seed: int, n: int) -> torch.Tensor:
        return next(b.images[b.indices.index(0)] for b in make(squares, seed=seed).epoch(n) if 0 in b.indices)

    runs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({tuple(order(*run)) for run in runs}) == 4
    assert len({first_image(*run).numpy().tobytes() for run in runs}) == 4


def test_an_images_augmentation_does_not_depend_on_the_batch_size(squares: Dataset) -> None:
    small = {i: b.images[k] for b in make(squares, batch=2).epoch(5) for k, i in enumerate(b.indices)}
    large = {i: b.images[k] for b in make(squares, batch=7).epoch(5) for k, i in enumerate(b.indices)}
    assert small.keys() == large.keys() == set(range(7))
    assert all(torch.equal(small[i], large[i]) for i in small)


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [
        (7, 3, [3, 4]),  # the last image joins the batch before it
        (7, 2, [2, 2, 3]),
        (7, 4, [4, 3]),
        (6, 3, [3, 3]),
        (7, 7, [7]),
        (7, 6, [7]),
        (3, 8, [3]),
        (1, 8, [1]),
        (4, 1, [1, 1, 1, 1]),
    ],
)
def test_steps_and_batch_sizes(squares: Dataset, images: int, batch: int, sizes: list[int]) -> None:
    loader = make(replace(squares, samples=squares.samples[:images]), batch=batch)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches)
    assert [len(b.indices) for b in batches] == sizes
    assert sorted(i for b in batches for i in b.indices) == list(range(images))


def test_what_a_batch_is(squares: Dataset) -> None:
    for batch in make(squares, imgsz=96).epoch(0):
        n = len(batch.indices)
        assert batch.images.shape == (n, 3, 96, 96)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.float32
        assert batch.targets.shape[1] == 6
        assert (batch.targets[:, 0].diff() >= 0).all()
        assert batch.targets[:, 0].max() < n
        assert (batch.targets[:, 2:] >= 0).all()
        assert (batch.targets[:, 2:] <= 96).all()
        assert (batch.targets[:, 4:] - batch.targets[:, 2:4] >= 2).all()


def test_without_augmentation_images_and_boxes_are_the_fitted_ones(squares: Dataset) -> None:
    for batch in (*make(squares).epoch(0, augment=False), *make(squares, augment=None).epoch(0)):
        for place, index in enumerate(batch.indices):
            sample = squares.samples[index]
            assert sample.pixels is not None
            np.testing.assert_array_equal(batch.images[place].permute(1, 2, 0), sample.pixels)
            mine = batch.targets[batch.targets[:, 0] == place]
            expected = sample.boxes[~sample.crowd]  # crowd boxes are not trained on
            np.testing.assert_array_equal(mine[:, 2:], expected)
            np.testing.assert_array_equal(mine[:, 1], sample.classes[~sample.crowd])
    assert same(list(make(squares, augment=OFF).epoch(0)), list(make(squares, augment=None).epoch(0)))


def test_the_order_is_the_same_with_and_without_augmentation(squares: Dataset) -> None:
    loader = make(squares)
    assert [b.indices for b in loader.epoch(4)] == [b.indices for b in loader.epoch(4, augment=False)]


def test_targets_lie_on_the_squares(squares: Dataset) -> None:
    """Inside every augmented box the bright square, whatever was done to it."""
    seen = 0
    for n in range(4):
        for batch in make(squares, augment={**ON, "hsv": {**ON["hsv"], "v": 0.1}}).epoch(n):
            for place, _, x1, y1, x2, y2 in batch.targets.round().int().tolist():
                assert batch.images[place, :, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().mean() > 185
                seen += 1
    assert seen > 20


def test_bgr_swaps_the_channels(squares: Dataset) -> None:
    rgb = next(make(squares).epoch(0)).images
    bgr = next(make(squares, preprocess={**PREPROCESS, "channels": "bgr"}).epoch(0)).images
    assert torch.equal(bgr, rgb[:, [2, 1, 0]])
    with pytest.raises(UserError, match=r"preprocess\.channels: .*Did you mean 'rgb'"):
        next(make(squares, preprocess={**PREPROCESS, "channels": "rgba"}).epoch(0))


def test_images_without_boxes_make_empty_targets(squares: Dataset) -> None:
    none = replace(
        squares.samples[0],
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int64),
        crowd=np.zeros(0, np.bool_),
        area=np.zeros(0),
    )
    (batch,) = make(replace(squares, samples=(none, none))).epoch(0)
    assert batch.targets.shape == (0, 6)


def test_a_bad_batch_size_is_told(squares: Dataset) -> None:
    with pytest.raises(UserError, match=r"optim\.batch: 0"):
        make(squares, batch=0)


@pytest.mark.parametrize("resize", RESIZES)
def test_evaluation_sees_every_image_once_in_order(coco_config: dict[str, Any], resize: str) -> None:
    from ablab.data.dataset import load
    from ablab.data.form import read_image

    dataset = load(coco_config, "train")
    preprocess = {**PREPROCESS, "resize": resize}
    batches = list(eval_batches(dataset, imgsz=64, batch=2, preprocess=preprocess))
    assert [len(samples) for _, samples, _ in batches] == [2, 1]
    assert [s for _, samples, _ in batches for s in samples] == list(dataset.samples)
    for images, samples, placements in batches:
        assert images.shape == (len(samples), 3, 64, 64)
        for image, sample, placement in zip(images, samples, placements, strict=True):
            expected, where = fit(read_image(sample), 64, 114, resize)
            np.testing.assert_array_equal(image.permute(1, 2, 0), expected)
            assert placement == where


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_same_batches(squares: Dataset, workers: int) -> None:
    alone, several = make(squares, augment=ALL, batch=2), make(squares, augment=ALL, batch=2, workers=workers)
    list(several.epoch(7))
    for n in range(3):
        assert same(list(alone.epoch(n)), list(several.epoch(n)))
        assert same(list(alone.epoch(n, augment=False)), list(several.epoch(n, augment=False)))


def test_who_stops_asking_leaves_no_thread_behind(squares: Dataset) -> None:
    before = threading.active_count()
    batches = make(squares, batch=1, workers=2).epoch(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_a_worker_is_raised_where_the_batch_is_asked_for(coco_config: dict[str, Any]) -> None:
    from ablab.data.dataset import load

    loader = make(load(coco_config, "train"), preprocess={**PREPROCESS, "channels": "rgba"}, workers=2)
    with pytest.raises(UserError, match=r"preprocess\.channels"):
        list(loader.epoch(0))


def test_progress_ends_an_augmentation(squares: Dataset) -> None:
    loader = make(squares, augment=config(flip_ud={"until": 0.5}))
    (early, late, off) = (
        torch.cat([b.images for b in batches])
        for batches in (loader.epoch(2, progress=0.4), loader.epoch(2, progress=0.5), loader.epoch(2, augment=False))
    )
    assert torch.equal(late, off)
    assert torch.equal(early, off.flip(2))


@pytest.mark.parametrize("resize", RESIZES)
def test_augmented_images_keep_their_letterbox(coco_config: dict[str, Any], resize: str) -> None:
    """With every augmentation on offer but none drawn, an image lies where evaluation sees it."""
    from ablab.data.dataset import load

    loader = make(load(coco_config, "train"), augment=OFF, preprocess={**PREPROCESS, "resize": resize})
    for plain, other in zip(loader.epoch(0), loader.epoch(0, augment=False), strict=True):
        assert torch.equal(plain.images, other.images)
        assert torch.equal(plain.targets, other.targets)


@pytest.mark.parametrize("flips", [("flip_lr",), ("flip_ud",), ("flip_lr", "flip_ud")])
def test_a_mirrored_image_stays_in_the_corner(coco_config: dict[str, Any], flips: tuple[str, ...]) -> None:
    """As if it had been mirrored before it was fitted into the corner: pixels and boxes."""
    from ablab.data.dataset import load
    from ablab.data.form import read_image

    data = load(coco_config, "train")
    preprocess = {**PREPROCESS, "resize": "letterbox_top_left"}
    mirrored = make(data, augment=config(**{flip: {} for flip in flips}), preprocess=preprocess)
    axes = [{"flip_lr": 1, "flip_ud": 0}[flip] for flip in flips]
    for batch in mirrored.epoch(0):
        for place, index in enumerate(batch.indices):
            sample = data.samples[index]
            fitted, placement = fit(read_image(sample), 64, 114, "letterbox_top_left")
            height, width = round(sample.height * placement.scale_y), round(sample.width * placement.scale_x)
            expected = fitted.copy()
            expected[:height, :width] = np.flip(fitted[:height, :width], axes)
            np.testing.assert_array_equal(batch.images[place].permute(1, 2, 0), expected)
            boxes = placement.to_network(sample.boxes[~sample.crowd])
            if "flip_lr" in flips:
                boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            if "flip_ud" in flips:
                boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
            mine = batch.targets[batch.targets[:, 0] == place][:, 2:]
            np.testing.assert_allclose(mine, boxes, atol=1e-4)
