"""One tiny labelled dataset, written out as COCO JSON, YOLO folders and Pascal VOC, and samples made in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ablab.data.form import Dataset, Sample

NAMES = ["cat", "dog", "bird"]
# name: (width, height, [(class, x1, y1, x2, y2)])
TRUTH: dict[str, dict[str, tuple[int, int, list[tuple[int, int, int, int, int]]]]] = {
    "train": {
        "a": (64, 48, [(0, 2, 3, 20, 30), (2, 30, 8, 64, 48)]),
        "b": (40, 60, [(1, 0, 0, 40, 60)]),
        "c": (32, 32, []),
    },
    "val": {"d": (50, 20, [(1, 10, 5, 30, 15), (0, 1, 1, 9, 19), (1, 40, 2, 49, 12)])},
}


@pytest.fixture
def coco_config(tmp_path: Path) -> dict[str, Any]:
    return _coco(tmp_path / "coco")


@pytest.fixture
def yolo_config(tmp_path: Path) -> dict[str, Any]:
    return _yolo(tmp_path / "yolo")


@pytest.fixture
def voc_config(tmp_path: Path) -> dict[str, Any]:
    return _voc(tmp_path / "voc")


@pytest.fixture
def edit_json() -> Callable[[dict[str, Any], Callable[[dict[str, Any]], object]], None]:
    """Change the training annotations of a COCO dataset in place."""

    def edit(config: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
        file = Path(config["root"]) / config["train"]
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


@pytest.fixture
def squares() -> Dataset:
    """Seven 64 px images of noise, each with a bright square or two that are its boxes; one has a crowd box."""
    rng = np.random.default_rng(5)
    samples = []
    for i in range(7):
        pixels = rng.integers(0, 90, (64, 64, 3)).astype(np.uint8)
        corners = np.array([[8, 10, 28, 30], [34, 30, 60, 56]], np.float32)[: 1 + i % 2]
        for x1, y1, x2, y2 in corners.astype(int):
            pixels[y1:y2, x1:x2] = 220
        samples.append(
            Sample(
                id=i + 1,
                name=f"square{i}",
                width=64,
                height=64,
                boxes=corners,
                classes=np.arange(len(corners)),
                crowd=np.array([False, i == 3][: len(corners)]),
                area=(corners[:, 2:] - corners[:, :2]).prod(1).astype(np.float64),
                pixels=pixels,
            )
        )
    return Dataset(("left", "right"), (1, 2), tuple(samples), ())


def _image(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem)).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)


def _coco(root: Path) -> dict[str, Any]:
    config: dict[str, Any] = {"format": "coco", "root": str(root), "names": None, "test": None, "test_images": None}
    for split, entries in TRUTH.items():
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(NAMES)],
        }
        for number, (name, (width, height, boxes)) in enumerate(entries.items(), start=1):
            _image(root / "images" / f"{name}.png", width, height)
            content["images"].append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
            for index, x1, y1, x2, y2 in boxes:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": 10 * (index + 1),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(content))
        config |= {split: f"{split}.json", f"{split}_images": "images"}
    return config


def _yolo(root: Path) -> dict[str, Any]:
    for split, entries in TRUTH.items():
        for name, (width, height, boxes) in entries.items():
            _image(root / "images" / split / f"{name}.png", width, height)
            lines = [
                f"{i} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} "
                f"{(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}\n"
                for i, x1, y1, x2, y2 in boxes
            ]
            labels = root / "labels" / split / f"{name}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            if lines:  # an image without objects has no label file
                labels.write_text("".join(lines))
    content = {"train": "images/train", "val": "images/val", "nc": len(NAMES), "names": NAMES}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return {"format": "yolo", "root": str(root), "file": "data.yaml", "names": None}


def _voc(root: Path) -> dict[str, Any]:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split, entries in TRUTH.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in entries))
        for name, (width, height, boxes) in entries.items():
            _image(root / "JPEGImages" / f"{name}.png", width, height)
            objects = "".join(
                f"<object><name>{NAMES[i]}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for i, x1, y1, x2, y2 in boxes
            )
            (root / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.png</filename><size><width>{width}</width><height>{height}</height>"
                f"<depth>3</depth></size>{objects}</annotation>"
            )
    config = {"format": "voc", "root": str(root), "names": NAMES, "one_based": False}
    return {**config, "train": "train", "val": "val", "test": None}
