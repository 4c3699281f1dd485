"""COCO JSON: what is kept, dropped and refused; the way back judged by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ablab.data.dataset import load
from ablab.data.form import coco_truth
from ablab.errors import UserError

Edit = Callable[[dict[str, Any], Callable[[dict[str, Any]], object]], None]


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 77, "image_id": 1, "category_id": 10, "bbox": [1, 2, 10, 12], **changes}


@pytest.mark.parametrize(
    ("bbox", "what"),
    [
        ([5, 5, 0, 10], "no area"),
        ([5, 5, 10, 0], "no area"),
        ([5, 5, -3, 10], "no area"),
        ([5, 5, float("nan"), 10], "no area"),
        ([float("inf"), 5, 10, 10], "no area"),
        ([5, 5, 1e-9, 10], "no area"),
        ([64, 5, 10, 10], "outside"),
        ([-20, 5, 10, 10], "outside"),
        ([5, 48.5, 10, 10], "outside"),
    ],
)
def test_useless_boxes_are_dropped_and_named(
    coco_config: dict[str, Any], edit_json: Edit, bbox: list[float], what: str
) -> None:
    clean = load(coco_config, "train")
    edit_json(coco_config, lambda c: c["annotations"].insert(0, annotation(bbox=bbox)))
    dataset = load(coco_config, "train")
    (flaw,) = dataset.dirt
    assert flaw.where == "train.json: annotation 77 of a.png"
    assert what in flaw.what
    assert flaw.action == "dropped"
    for before, after in zip(clean.samples, dataset.samples, strict=True):
        np.testing.assert_array_equal(before.boxes, after.boxes)


def test_a_box_that_reaches_out_is_clipped_and_named(coco_config: dict[str, Any], edit_json: Edit) -> None:
    edit_json(coco_config, lambda c: c["annotations"].append(annotation(bbox=[-4, 40, 10, 20], area=55.5)))
    dataset = load(coco_config, "train")
    assert dataset.samples[0].boxes[-1].tolist() == [0, 40, 6, 48]
    assert dataset.samples[0].area[-1] == 55.5
    (flaw,) = dataset.dirt
    assert flaw.action == "clipped"
    assert "(-4 40 6 60) reaches out of its image of 64x48" in flaw.what


def test_overshoot_by_rounding_is_no_dirt(coco_config: dict[str, Any], edit_json: Edit) -> None:
    edit_json(coco_config, lambda c: c["annotations"].append(annotation(bbox=[-0.01, 0, 64.02, 48.01])))
    dataset = load(coco_config, "train")
    assert dataset.samples[0].boxes[-1].tolist() == [0, 0, 64, 48]
    assert dataset.dirt == ()


def test_crowd_and_area_are_kept(coco_config: dict[str, Any], edit_json: Edit) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"iscrowd": 1, "area": 123.25}
        content["annotations"][1] |= {"area": None}

    edit_json(coco_config, change)
    sample = load(coco_config, "train").samples[0]
    assert sample.crowd.tolist() == [True, False]
    assert sample.area.tolist() == [123.25, 34 * 40]


def test_annotations_in_any_order_find_their_image(coco_config: dict[str, Any], edit_json: Edit) -> None:
    before = load(coco_config, "train")
    edit_json(coco_config, lambda c: c["annotations"].append(c["annotations"].pop(0)))
    after = load(coco_config, "train")
    assert sorted(map(tuple, before.samples[0].boxes.tolist())) == sorted(map(tuple, after.samples[0].boxes.tolist()))
    np.testing.assert_array_equal(before.samples[1].boxes, after.samples[1].boxes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (annotation(image_id=99), "annotation 77 names image 99, which the file does not have"),
        (annotation(category_id=11), "annotation 77 names category 11.*category ids: 10, 20, 30"),
        (annotation(image_id=[1]), r"annotation 77 names image \[1\]"),
        (annotation(bbox=[1, 2, 3]), r"annotation 77 has bbox \[1, 2, 3\], expected"),
        (annotation(bbox=5), "annotation 77 has bbox 5, expected"),
        (annotation(bbox=None), "annotation 77 has bbox None"),
        (annotation(bbox=[1, 2, "wide", 4]), "annotation 77 holds something that is no number"),
        (annotation(area="big"), "annotation 77 holds something that is no number"),
        ({"image_id": 1, "category_id": 10}, "annotation number 4 has bbox None"),
        ("hello", "annotation number 4 is 'hello'"),
    ],
)
def test_ambiguous_annotations_are_refused(
    coco_config: dict[str, Any], edit_json: Edit, change: Any, told: str
) -> None:
    edit_json(coco_config, lambda c: c["annotations"].append(change))
    with pytest.raises(UserError, match=f"train.json: {told}"):
        load(coco_config, "train")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["images"][1].update(id=1), "image id 1 is given twice, the second time to b.png"),
        (lambda c: c["images"][1].update(width=0), "b.png is said to be 0x60 px"),
        (lambda c: c["images"][1].update(id="7"), "b.png: id, width and height must be whole numbers"),
        (lambda c: c["images"][1].pop("file_name"), "image number 2 .* lacks 'file_name'"),
        (lambda c: c["categories"][1].update(id=10), "category names and ids must be there and differ"),
        (lambda c: c["categories"][1].update(name="cat"), "category names and ids must be there and differ"),
        (lambda c: c["categories"].clear(), "category names and ids must be there"),
        (lambda c: c.pop("annotations"), "no list 'annotations'"),
    ],
)
def test_broken_tables_are_refused(
    coco_config: dict[str, Any], edit_json: Edit, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit_json(coco_config, change)
    with pytest.raises(UserError, match=told):
        load(coco_config, "train")


def test_a_file_cut_short_is_told_with_its_position(coco_config: dict[str, Any]) -> None:
    file = Path(coco_config["root"]) / "train.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(UserError, match=r"train\.json: not valid JSON at line 1, column \d+ \(byte \d+\)"):
        load(coco_config, "train")


def test_a_binary_file_is_told(coco_config: dict[str, Any]) -> None:
    (Path(coco_config["root"]) / "train.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load(coco_config, "train")


def test_names_choose_the_order_and_must_be_the_files(coco_config: dict[str, Any]) -> None:
    turned = load({**coco_config, "names": ["bird", "cat", "dog"]}, "train")
    assert turned.category_ids == (30, 10, 20)
    assert turned.samples[0].classes.tolist() == [1, 0]
    with pytest.raises(UserError, match=r"no category 'brid'\. Did you mean 'bird'"):
        load({**coco_config, "names": ["cat", "dog", "brid"]}, "train")
    with pytest.raises(UserError, match="has a category 'bird' that is not listed"):
        load({**coco_config, "names": ["cat", "dog"]}, "train")


def _stats(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def test_the_way_back_scores_as_the_original(shared_data: Path, tmp_path: Path) -> None:
    """pycocotools gives random detections the same twelve numbers on the file and on what was read and written."""
    source = shared_data / "coco-val128"
    original = json.loads((source / "instances.json").read_text())
    for crowded in original["annotations"][5:400:40]:
        crowded["iscrowd"] = 1
    (tmp_path / "instances.json").write_text(json.dumps(original))
    config = {"format": "coco", "root": str(tmp_path), "val": "instances.json", "val_images": str(source / "images")}
    dataset = load(config, "val")
    assert dataset.category_ids[-1] == 90
    truth = coco_truth(dataset)
    rng = np.random.default_rng(0)
    detections = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": (np.array(a["bbox"]) * rng.uniform(0.92, 1.08, 4)).tolist(),
            "score": float(rng.uniform()),
        }
        for a in original["annotations"]
    ]
    expected = _stats(original, detections)
    assert 0.2 < expected[0] < 0.9
    np.testing.assert_allclose(_stats(truth, detections), expected, atol=1e-12)
    for annotation in truth["annotations"]:  # the comparison would notice crowds that got lost
        annotation["iscrowd"] = 0
    assert _stats(truth, detections) != expected
