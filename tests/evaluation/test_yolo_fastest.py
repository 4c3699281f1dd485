"""Yolo-Fastest with its authors' weights, held to what an independent runtime (OpenCV's) makes of them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torchvision.ops import box_iou

from ablab.config import compose
from ablab.stages import evaluate
from ablab.stages.declare import KINDS

SURE, SAME_BOX, SAME_SCORE = 0.3, 0.95, 0.02


@pytest.fixture
def reference(shared_data: Path) -> Path:
    folder = shared_data / "darknet"
    if not folder.is_dir() or not (shared_data / "coco-val128").is_dir():
        pytest.skip(f"no Yolo-Fastest weights or no coco-val128 in {shared_data}")
    return folder


def matched(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> float:
    """The share of the expected detections that have a found one each: of their image and class, the same box and
    score."""
    there = defaultdict(list)
    for one in found:
        there[one["image_id"], one["category_id"]].append(one)
    count = 0
    for one in sorted(expected, key=lambda one: -one["score"]):
        others = there[one["image_id"], one["category_id"]]
        if not others:
            continue
        boxes = torch.tensor([one["bbox"], *(other["bbox"] for other in others)])
        boxes[:, 2:] += boxes[:, :2]
        iou, place = box_iou(boxes[:1], boxes[1:])[0].max(0)
        if iou > SAME_BOX and abs(others[int(place)]["score"] - one["score"]) < SAME_SCORE:
            others.pop(int(place))
            count += 1
    return count / len(expected)


@pytest.mark.parametrize(
    ("model", "file"),
    [("yolo_fastest_1_1", "yolo-fastest-1.1"), ("yolo_fastest_1_1_xl", "yolo-fastest-1.1-xl")],
)
def test_ap_and_detections_are_those_of_another_runtime(model: str, file: str, reference: Path, tmp_path: Path) -> None:
    root = f"data.root={reference.parent / 'coco-val128'}"
    resolved = compose([f"model={model}", "model.classes=80", "data=coco_val128", root]).resolved
    config = resolved | {"engine": tiny.ENGINE | {"precision": "fp32"}, "imgsz": 320, "split": "val"}
    reads = {key.partition(".")[0] for key in KINDS["evaluate"].reads}
    weights = {"weights": reference / f"{file}.weights"}
    numbers = evaluate.run({key: config[key] for key in reads}, weights, tmp_path, tmp_path, lambda _: None)

    expected = json.loads((reference / f"{file}.reference-ap.json").read_text())
    assert numbers["map"] == pytest.approx(expected["AP"], abs=0.001)
    assert numbers["map50"] == pytest.approx(expected["AP50"], abs=0.001)

    theirs = json.loads((reference / f"{file}.reference-detections.json").read_text())
    ours = json.loads((tmp_path / "detections.json").read_text())
    assert matched([one for one in theirs if one["score"] > SURE], ours) >= 0.99
    # and the other way round: no more detections than theirs
    assert matched([one for one in ours if one["score"] > SURE], theirs) >= 0.99
