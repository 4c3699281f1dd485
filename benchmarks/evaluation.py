"""hotcoco against pycocotools: seconds for one evaluation of the same detections, alternating; and are they equal?

python benchmarks/evaluation.py [images] [detections per image]
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import time
from statistics import median
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ablab.evaluation import ap

ROUNDS = 3


def scene(images: int, per_image: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO-like: 80 classes, 7 truths an image (1 % crowds), detections half of them near a truth."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
        "annotations": [],
    }
    detections = []
    for image in range(images):
        boxes = np.concatenate((rng.uniform(0, 440, (7, 2)), np.exp(rng.uniform(2, 5.5, (7, 2)))), 1)
        kinds = rng.integers(1, 81, 7)
        for box, kind in zip(boxes.tolist(), kinds.tolist(), strict=True):
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": kind, "bbox": box}
            truth["annotations"].append(annotation | {"area": box[2] * box[3], "iscrowd": int(rng.random() < 0.01)})
        for j in range(per_image):
            near = j % 2 == 0
            box = boxes[j % 7] * rng.uniform(0.9, 1.1, 4) if near else rng.uniform(5, 400, 4)
            kind = int(kinds[j % 7]) if near else int(rng.integers(1, 81))
            score = round(float(rng.random()), 5)
            detections.append({"image_id": image, "category_id": kind, "bbox": box.tolist(), "score": score})
    return truth, detections


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = truth
        real.createIndex()
        judge = COCOeval(real, real.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def hotcoco(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    numbers = ap.evaluate(truth, detections)
    return [-1.0 if numbers[name] is None else numbers[name] for name in ap.SUMMARY]


def main() -> None:
    images, per_image = (int(arg) for arg in [*sys.argv[1:], "500", "50"][:2])
    truth, detections = scene(images, per_image)
    times: dict[str, list[float]] = {"pycocotools": [], "hotcoco": []}
    results = {}
    for _ in range(ROUNDS):
        for name, judge in (("pycocotools", pycocotools), ("hotcoco", hotcoco)):
            arguments = copy.deepcopy((truth, detections))
            start = time.perf_counter()
            results[name] = judge(*arguments)
            times[name].append(time.perf_counter() - start)
    seconds = {name: median(values) for name, values in times.items()}
    print(f"{images} images, {len(detections)} detections, loading included (median of {ROUNDS}):")
    for name, value in seconds.items():
        print(f"  {name:12} {value:8.2f} s")
    equal = "equal to the last digit" if results["pycocotools"] == results["hotcoco"] else "NOT equal"
    print(f"  {seconds['pycocotools'] / seconds['hotcoco']:.0f} times faster; the twelve numbers are {equal}")


if __name__ == "__main__":
    main()
