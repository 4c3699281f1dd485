"""Darknet's .weights through the command line: evaluated, trained from, drawn with; and refused with exit code 2."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import darknet_networks
import numpy as np
import pytest
import torch
from working_folder import SCENES, Folder

from ablab.config import compose
from ablab.data.images import decode
from ablab.models.detector import build

TINY = ["model=yolo_fastest_1_1", "schedule.imgsz=64", "schedule.epochs=1", "optim.batch=4", "eval.resolutions=[64]"]
TINY += ["engine.threads=1", "engine.precision=fp32", "engine=inline", "eval.every=0"]
EVAL = ["eval", *TINY, *SCENES]
CLASSES = 10  # of the scenes


def file_for(classes: int) -> bytes:
    data, _ = darknet_networks.file_of_noise(darknet_networks.yolo_fastest(3 * (5 + classes)), torch.rand(1, 3, 32, 32))
    return data


@pytest.fixture(scope="module")
def good() -> bytes:
    return file_for(CLASSES)


def test_a_file_is_evaluated_and_drawn_with(folder: Folder, good: bytes) -> None:
    folder.write("mine.weights", good)
    result = folder.run(*EVAL, "weights=mine.weights")
    assert result.code == 0, result.err
    assert "mAP50" in result.out
    import cv2

    cv2.imwrite(str(folder.path / "one.png"), np.random.default_rng(0).integers(256, size=(80, 100, 3), dtype=np.uint8))
    words = ["predict", "model=yolo_fastest_1_1", "weights=mine.weights", "source=one.png", "imgsz=64", "conf=0.01"]
    result = folder.run(*words, "model.classes=10")
    assert result.code == 0, result.err
    found = json.loads((folder.path / "reports/predict/predictions.json").read_text())
    assert found
    assert {one["class"] for one in found} <= set(map(str, range(10)))
    corners = np.array([one["box"] for one in found]).reshape(-1, 2)
    assert (corners >= 0).all()
    assert (corners <= (100, 80)).all()  # within the image, though this recipe's evaluation leaves boxes as they are
    assert decode(folder.path / "reports/predict/one.png").shape == (80, 100, 3)
    folder.refused(*[w for w in words if "model" not in w], says=["name it with model=NAME"])


@pytest.mark.parametrize("classes", [CLASSES, 80])
def test_a_training_starts_from_what_fits(folder: Folder, classes: int) -> None:
    folder.write("theirs.weights", file_for(classes))
    result = folder.run("train", *TINY, *SCENES, "start.weights=theirs.weights")
    assert result.code == 0, result.err
    records = [json.loads(file.read_text()) for file in (folder.path / ".ablab/store/stages").glob("*/*/stage.json")]
    (numbers,) = [record["numbers"] for record in records if record["kind"] == "train"]
    fresh = [f"head.convs.{level}.{what}" for level in (0, 1) for what in ("bias", "weight")]
    assert numbers["fresh"] == ([] if classes == CLASSES else fresh)
    state = build(compose(["model=yolo_fastest_1_1", f"model.classes={CLASSES}"]).resolved).state_dict()
    counted = [name for name in state if not name.endswith("num_batches_tracked")]
    assert numbers["tensors_loaded"] == len(counted) - len(numbers["fresh"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-4000], ["4,000 bytes are missing", "84 convolutions", "cut short"]),
        (lambda data: data[:7], ["no darknet .weights file", "7 bytes"]),
        (lambda data: data + bytes(12), ["12 bytes are left over"]),
        (lambda data: data + b"1", ["1 bytes are left over"]),
        (lambda data: struct.pack("<3i", 7, 7, 7) + data[12:], ["no darknet .weights file", "version 7.7.7"]),
        (lambda data: file_for(3), ["a network with 3 classes, this one has 10"]),
        (lambda data: None, ["there is no file"]),
    ],
)
def test_files_that_are_refused(folder: Folder, good: bytes, change: object, says: list[str]) -> None:
    data = change(good)  # type: ignore[operator]
    if data is not None:
        folder.write("bad.weights", data)
    folder.refused(*EVAL, "weights=bad.weights", says=["bad.weights", *says])


def test_networks_that_are_refused(folder: Folder, good: bytes) -> None:
    file = folder.write("mine.weights", good)
    assert file.is_file()
    folder.refused(
        *EVAL, "model=yolo_fastest_1_1_xl", "weights=mine.weights", says=["mine.weights", "bytes are missing"]
    )
    folder.refused(*EVAL, "model=yolov5n", "weights=mine.weights", says=["no network with the part PAN"])
    start = ["train", *TINY, *SCENES, "start.weights=mine.weights"]
    folder.refused(*start, "backbone.repeats=[1,2,2,4,4,6]", says=["mine.weights", "bytes are missing"])
    Path(file).write_bytes(good + bytes(4))
    folder.refused(*start, says=["mine.weights", "4 bytes are left over"])
