"""The smallest real configuration: generated 64 px scenes and a YOLOv5 an eighth as wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ablab.config import compose
from ablab.data.form import Dataset, Sample

ENGINE = {"device": "cpu", "precision": "fp32", "threads": 1, "compile": False, "ranks": 1}


def config(*overrides: str) -> dict[str, Any]:
    """What a stage would be handed: everything resolved, one phase, 16 scenes for training and 6 for val."""
    base = ["model=yolov5n", "model.width=0.125", "model.depth=0.1", "model.classes=10", "data=scenes"]
    base += ["data.size=64", "data.train=16", "data.val=6", "data.test=0", "data.objects=[1,3]"]
    base += ["optim.batch=4", "schedule.imgsz=64", "schedule.epochs=2", "eval.every=0", "data.scale=[0.2,0.5]"]
    resolved = compose([*base, *overrides]).resolved
    return resolved | {
        "engine": ENGINE,
        "phase": resolved["schedule"]["phases"][0] | {"start_epoch": 0},
        "imgsz": 64,
        "split": "val",
        "uncut": {},
    }


def squares(count: int, side: int = 64, seed: int = 0) -> Dataset:
    """Black images, each with one white square of class 0 or one grey square of class 1, category ids 7 and 3."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        pixels = np.zeros((side, side, 3), np.uint8)
        size = int(rng.integers(16, 40))
        x, y = (int(v) for v in rng.integers(0, side - size, 2))
        kind = i % 2
        pixels[y : y + size, x : x + size] = (255, 128)[kind]
        box = np.array([[x, y, x + size, y + size]], np.float32)
        area, crowd = np.array([float(size**2)]), np.zeros(1, np.bool_)
        classes = np.array([kind], np.int64)
        samples.append(Sample(10 * i + 5, f"{i}.png", side, side, box, classes, crowd, area, None, pixels))
    return Dataset(("white", "grey"), (7, 3), tuple(samples), ())


def bccd(shared_data: Path) -> dict[str, Any]:
    """The `data` group for the real blood cells."""
    resolved = compose(["data=bccd"]).resolved["data"]
    return resolved | {"root": str(shared_data / "bccd")}
