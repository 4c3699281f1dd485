"""Shared, kept or made anew: the same images, to the bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch

from ablab import machine
from ablab.data import dataset, scenes, shared
from ablab.data import fitted as module
from ablab.data.fitted import fitted
from ablab.data.form import Dataset, read_image
from ablab.data.letterbox import RESIZES, fit
from ablab.data.loader import Loader, eval_batches
from ablab.errors import UserError

from .augmentations import ON
from .test_loader import PREPROCESS, same

SIZE = 416  # px: three images are 1.5 MB


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on nothing can be shared."""

    def never(*_: object) -> None:
        return None

    return lambda: monkeypatch.setattr(shared, "shared", never)


def once_more(data: Dataset) -> Dataset:
    """The same data as another process would have it: nothing is opened for it yet."""
    return replace(data)


@pytest.mark.parametrize("resize", RESIZES)
def test_shared_images_are_those_that_are_decoded_and_fitted(coco_config: dict[str, Any], resize: str) -> None:
    data = dataset.load(coco_config, "train")
    found = fitted(data, SIZE, {**PREPROCESS, "resize": resize})
    assert len(list(shared.folder().glob("*.u8"))) == 1
    for index, sample in enumerate(data.samples):
        expected, placement = fit(read_image(sample), SIZE, 114, resize)
        image, where = found[index]
        np.testing.assert_array_equal(image, expected)
        assert where == placement


def test_nothing_is_decoded_twice(coco_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.load(coco_config, "train")
    first = [fitted(data, SIZE, PREPROCESS)[index][0] for index in range(3)]
    monkeypatch.setattr(module, "read_image", lambda _: pytest.fail("decoded again"))
    second = fitted(once_more(data), SIZE, PREPROCESS)
    assert all(np.array_equal(image, second[index][0]) for index, image in enumerate(first))


@pytest.mark.parametrize("what", ["size", "pad", "resize", "interpolation"])
def test_what_changes_the_images_makes_another_file(coco_config: dict[str, Any], what: str) -> None:
    data = dataset.load(coco_config, "train")
    fitted(data, SIZE, PREPROCESS)
    changes = {"pad": 0, "resize": "stretch", "interpolation": "linear"}
    size = 448 if what == "size" else SIZE
    preprocess = PREPROCESS | ({what: changes[what]} if what in changes else {})
    image, _ = fitted(data, size, preprocess)[0]
    keys = preprocess["pad"], preprocess["resize"], preprocess["interpolation"]
    np.testing.assert_array_equal(image, fit(read_image(data.samples[0]), size, *keys)[0])
    assert len(list(shared.folder().glob("*.u8"))) == 2


def test_a_changed_image_is_seen(coco_config: dict[str, Any]) -> None:
    data = dataset.load(coco_config, "train")
    fitted(data, SIZE, PREPROCESS)
    path, sample = data.samples[1].path, data.samples[1]
    assert path is not None
    status = path.stat()
    cv2.imwrite(str(path), np.full((sample.height, sample.width, 3), 77, np.uint8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    image, placement = fitted(once_more(data), SIZE, PREPROCESS)[1]
    assert (image[placement.top + 5, placement.left + 5] == 77).all()


def test_training_and_evaluation_batches_are_the_same_shared_kept_and_made_anew(
    coco_config: dict[str, Any], refuse: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset.load(coco_config, "train")

    def batches() -> tuple[list[Any], list[Any]]:
        mine = once_more(data)
        loader = Loader(mine, imgsz=SIZE, batch=2, preprocess=PREPROCESS, augment=ON, seed=3)
        evaluation = eval_batches(mine, imgsz=SIZE, batch=2, preprocess=PREPROCESS)
        return [batch for n in range(2) for batch in loader.epoch(n)], list(evaluation)

    there = batches()
    assert list(shared.folder().glob("*.u8"))
    refuse()
    kept = batches()
    monkeypatch.setattr(machine, "free_memory", lambda: 4.0 * (3 * SIZE * SIZE * 3 - 1))
    anew = batches()
    for train, evaluation in (kept, anew):
        assert same(train, there[0])
        for (images, _, placements), (expected, _, where) in zip(evaluation, there[1], strict=True):
            assert torch.equal(images, expected)
            assert placements == where


@pytest.mark.parametrize("fits", [True, False])
def test_unshared_images_are_kept_if_all_of_them_fit(
    squares: Dataset, refuse: Callable[[], None], monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    refuse()
    read: list[int] = []
    monkeypatch.setattr(module, "read_image", lambda sample: read.append(sample.id) or read_image(sample))
    monkeypatch.setattr(machine, "free_memory", lambda: 4.0 * 7 * 64 * 64 * 3 - (not fits))
    loader = Loader(squares, imgsz=64, batch=3, preprocess=PREPROCESS, augment=ON, seed=0)
    for n in range(2):
        list(loader.epoch(n))
    assert len(read) == (7 if fits else 14)


def test_a_corrupt_image_is_named(coco_config: dict[str, Any]) -> None:
    data = dataset.load(coco_config, "train")
    path = data.samples[2].path
    assert path is not None
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"c\.png: cannot be read as an image"):
        fitted(data, SIZE, PREPROCESS)
    path.unlink()
    with pytest.raises(UserError, match=r"c\.png: the image file is missing"):
        fitted(data, SIZE, PREPROCESS)


def test_scenes_are_drawn_once_and_the_same(refuse: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config("data.size=160", "data.train=16")["data"]
    first = scenes.load(config, "train")
    draw = scenes._draw
    monkeypatch.setattr(scenes, "_draw", lambda *_: pytest.fail("drawn again"))
    second = scenes.load(config, "train")
    monkeypatch.setattr(scenes, "_draw", draw)
    monkeypatch.setattr(scenes, "shared", lambda *_: None)
    alone = scenes.load(config, "train")
    for a, b, c in zip(first.samples, second.samples, alone.samples, strict=True):
        for other in (a, b):
            np.testing.assert_array_equal(other.pixels, c.pixels)
            np.testing.assert_array_equal(other.boxes, c.boxes)
            np.testing.assert_array_equal(other.classes, c.classes)
    assert first.samples[0].pixels is not None
    assert first.samples[0].pixels.base is not None  # a view of the file
    loader = Loader(second, imgsz=160, batch=4, preprocess=PREPROCESS, augment=ON, seed=0)
    other = Loader(alone, imgsz=160, batch=4, preprocess=PREPROCESS, augment=ON, seed=0)
    assert same(list(loader.epoch(0)), list(other.epoch(0)))
