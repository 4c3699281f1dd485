"""The same tiny dataset in three formats, and BCCD as published in two, read to the same boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablab.data.dataset import load, splits
from ablab.data.form import coco_truth, read_image
from ablab.data.identity import describe

from .conftest import NAMES, TRUTH


@pytest.mark.parametrize("fmt", ["coco", "yolo", "voc"])
def test_each_format_reads_the_truth(fmt: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"{fmt}_config")
    assert splits(config) == ("train", "val")
    for split, entries in TRUTH.items():
        dataset = load(config, split)
        assert dataset.names == tuple(NAMES)
        assert dataset.dirt == ()
        assert [Path(s.name).name for s in dataset.samples] == [f"{name}.png" for name in entries]
        for sample, (width, height, truth) in zip(dataset.samples, entries.values(), strict=True):
            assert (sample.width, sample.height) == (width, height)
            assert sample.classes.tolist() == [row[0] for row in truth]
            expected = np.array([row[1:] for row in truth], np.float32).reshape(-1, 4)
            np.testing.assert_allclose(sample.boxes, expected, atol=1e-4)
            np.testing.assert_allclose(sample.area, [(c - a) * (d - b) for _, a, b, c, d in truth], rtol=1e-4)
            assert (sample.boxes.dtype, sample.classes.dtype) == (np.float32, np.int64)
            assert not sample.crowd.any()
            assert read_image(sample).shape == (height, width, 3)


def test_category_ids_are_the_files_own(
    coco_config: dict[str, Any], yolo_config: dict[str, Any], voc_config: dict[str, Any]
) -> None:
    assert load(coco_config, "train").category_ids == (10, 20, 30)
    assert load(yolo_config, "train").category_ids == (0, 1, 2)
    assert load(voc_config, "train").category_ids == (1, 2, 3)
    truth = coco_truth(load(coco_config, "train"))
    assert [a["category_id"] for a in truth["annotations"]] == [10, 30, 20]


def bccd(root: Path, fmt: str) -> dict[str, Any]:
    if fmt == "voc":
        names = ["RBC", "WBC", "Platelets"]
        sets: dict[str, Any] = {split: split for split in ("train", "val", "test")}
        return {"format": "voc", "root": str(root), "names": names, "one_based": False, **sets}
    files = {split: f"instances_{split}.json" for split in ("train", "val", "test")}
    folders = {f"{split}_images": "JPEGImages" for split in files}
    return {"format": "coco", "root": str(root), "names": None, **files, **folders}


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
def test_bccd_voc_equals_its_coco_copy_box_by_box(shared_data: Path, split: str, images: int, boxes: int) -> None:
    coco = load(bccd(shared_data / "bccd", "coco"), split)
    voc = load(bccd(shared_data / "bccd", "voc"), split)
    assert len(coco.samples) == len(voc.samples) == images
    assert sum(len(s.boxes) for s in coco.samples) == boxes
    assert (coco.names, coco.category_ids) == (voc.names, voc.category_ids)
    for a, b in zip(coco.samples, voc.samples, strict=True):
        assert (a.id, a.name, a.width, a.height) == (b.id, b.name, b.width, b.height)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_array_equal(a.area, b.area)


def test_bccd_known_dirt_is_found(shared_data: Path) -> None:
    config = bccd(shared_data / "bccd", "voc")
    for split, image in (("train", "BloodImage_00343"), ("val", "BloodImage_00338")):
        (flaw,) = load(config, split).dirt
        assert flaw.where.startswith(f"{image}.xml: object ")
        assert "no area" in flaw.what
        assert flaw.action == "dropped"
    assert load(config, "test").dirt == ()


def test_bccd_copies_have_one_digest(shared_data: Path) -> None:
    coco, voc = (describe(bccd(shared_data / "bccd", fmt), None) for fmt in ("coco", "voc"))
    assert coco == voc
    train = coco["splits"]["train"]
    assert (train["images"], train["boxes"]) == (205, 2804)
