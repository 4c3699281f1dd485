"""What every format has in common: the root, the splits, missing images, and reading pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablab.data.dataset import load, splits
from ablab.data.form import read_image
from ablab.data.summary import summary
from ablab.errors import UserError

from .test_coco import Edit, annotation


@pytest.mark.parametrize("fmt", ["coco", "yolo", "voc"])
def test_a_bad_root_names_the_key_and_the_path(fmt: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"{fmt}_config")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for root, told in (
        (None, r"data\.root: not given"),
        (str(tmp_path / "nowhere"), r"data\.root: .*nowhere is not there"),
        (str(tmp_path / "file"), r"data\.root: .*file is not a folder"),
        (str(tmp_path / "empty"), r"data\.root: .*empty is empty"),
    ):
        with pytest.raises(UserError, match=told):
            load({**config, "root": root}, "train")


@pytest.mark.parametrize("fmt", ["coco", "voc"])
def test_missing_images_are_counted_when_read(fmt: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"{fmt}_config")
    samples = load(config, "train").samples
    for sample in samples[1:]:
        assert sample.path is not None
        sample.path.unlink()
    with pytest.raises(UserError, match=r"/b\.(png|jpg): the image file is missing \(2 of the 3 images are\)"):
        load(config, "train")


def test_unknown_formats_and_splits_are_told(coco_config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.format: unknown format 'coko'. Did you mean 'coco'"):
        load({**coco_config, "format": "coko"}, "train")
    with pytest.raises(UserError, match=r"no split 'trian'\. Did you mean 'train'"):
        load(coco_config, "trian")
    assert splits({**coco_config, "train": None}) == ("val",)


def test_an_empty_split_is_refused(coco_config: dict[str, Any], edit_json: Edit) -> None:
    def empty(content: dict[str, Any]) -> None:
        content["images"].clear()
        content["annotations"].clear()

    edit_json(coco_config, empty)
    with pytest.raises(UserError, match=r"data\.train: the split is empty"):
        load(coco_config, "train")


def test_a_split_without_any_box_reads(coco_config: dict[str, Any], edit_json: Edit) -> None:
    edit_json(coco_config, lambda c: c["annotations"].clear())
    assert [s.boxes.shape for s in load(coco_config, "train").samples] == [(0, 4)] * 3


def test_an_image_of_another_size_than_annotated_is_refused(coco_config: dict[str, Any]) -> None:
    sample = load(coco_config, "train").samples[0]
    with pytest.raises(UserError, match=r"a\.png: the image is 64x48 px, its annotation says 64x47"):
        read_image(replace(sample, height=47))


def test_generated_pixels_are_handed_out() -> None:
    from ablab.data.form import Sample

    pixels = np.zeros((4, 5, 3), np.uint8)
    none = np.zeros(0)
    sample = Sample(1, "x", 5, 4, none.reshape(0, 4).astype(np.float32), none.astype(int), none > 0, none, None, pixels)
    assert read_image(sample) is pixels


def test_summary_counts_by_hand(coco_config: dict[str, Any], edit_json: Edit) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][2] |= {"area": 96.5**2}
        content["annotations"].append(annotation(iscrowd=1))
        content["annotations"] += [annotation(bbox=[0, 0, 0, 0])] * 12

    edit_json(coco_config, change)
    headers, rows, dirt = summary(load(coco_config, "train"))
    assert headers == ["class", "images", "boxes", "small", "medium", "large", "crowd"]
    assert rows == [
        ["cat", 1, 1, 1, 0, 0, 1],
        ["dog", 1, 1, 0, 0, 1, 0],
        ["bird", 1, 1, 0, 1, 0, 0],
        ["all", 3, 3, 1, 1, 1, 1],
    ]
    assert len(dirt) == 11
    assert dirt[-1] == "and 2 more dropped"
