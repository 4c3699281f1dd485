"""AP against pycocotools, to the last digit."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ablab.data import dataset, form
from ablab.evaluation import ap

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def reference(truth: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    """ap.evaluate's dictionary, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        real, found = COCO(), COCO()
        real.dataset = copy.deepcopy(truth)
        real.createIndex()
        if detections:
            found = real.loadRes(copy.deepcopy(detections))
        else:
            found.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
            found.createIndex()
        judge = COCOeval(real, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    numbers: dict[str, Any] = {
        name: None if value == -1 else value for name, value in zip(ap.SUMMARY, judge.stats, strict=True)
    }
    names = {c["id"]: c["name"] for c in truth["categories"]}
    precision = judge.eval["precision"][:, :, :, 0, 2]
    numbers["per_class"] = {}
    for k, category in enumerate(judge.params.catIds):
        parts = {"map": precision[:, :, k], "map50": precision[0, :, k]}
        numbers["per_class"][names[category]] = {
            key: float(np.mean(p[p > -1])) if (p > -1).any() else None for key, p in parts.items()
        }
    return numbers


def scene(seed: int, *, ties: bool = False, grid: int = 0) -> Case:
    """Random truths and detections near and far from them: crowds, empty images, a class without truth, another
    only of crowds, areas of masks; `ties`: six different scores; `grid`: integer boxes, where IoUs tie too."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 1, "width": 640, "height": 480} for i in range(18)]
    categories = [{"id": 9 - 2 * k, "name": f"class {k}"} for k in range(5)]
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def box(near: list[float] | None = None) -> list[float]:
        if near is None:
            values = [*rng.uniform((0, 0), (600, 440)), *np.exp(rng.uniform(1, 5.5, 2))]
        else:
            slack = rng.choice([0, 0.02, 0.1, 0.3])
            values = [v + rng.normal() * slack * near[2 + i % 2] for i, v in enumerate(near)]
        values[2:] = [max(v, 0.5) for v in values[2:]]
        if grid:
            values = [round(v / grid) * grid + grid * (i > 1) for i, v in enumerate(values)]
        return [float(v) for v in values]

    for image in images:
        truths = []
        for _ in range(0 if rng.random() < 0.2 else int(rng.integers(1, 12))):
            k, b = int(rng.integers(4)), box()
            truths.append((k, b))
            crowd = int(k == 3 or rng.random() < 0.1)
            area = b[2] * b[3] * float(rng.choice([1, 0.7]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": categories[k]["id"],
                    "bbox": b,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
        for _ in range(int(rng.integers(0, 300 if rng.random() < 0.1 else 40))):
            k, b = truths[rng.integers(len(truths))] if truths and rng.random() < 0.7 else (int(rng.integers(5)), None)
            score = float(rng.integers(0, 6) / 5) if ties else float(rng.random())
            detections.append(
                {
                    "image_id": image["id"],
                    "category_id": categories[k]["id"],
                    "bbox": box(b),
                    "score": score,
                }
            )
    return {"images": images, "categories": categories, "annotations": annotations}, detections


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("grid", [0, 16])
def test_random_scenes_equal_pycocotools(ties: bool, grid: int) -> None:
    for seed in range(6):
        truth, detections = scene(seed, ties=ties, grid=grid)
        assert ap.evaluate(truth, detections) == reference(truth, detections)


def test_scenes_are_as_hard_as_they_say() -> None:
    truth, detections = scene(0)
    per_class = ap.evaluate(truth, detections)["per_class"]
    assert per_class["class 4"] == {"map": None, "map50": None}  # without truth
    assert per_class["class 3"] == {"map": None, "map50": None}  # only crowds
    assert 0 < per_class["class 0"]["map"] < 1


@pytest.mark.parametrize("kind", ["nothing found", "nothing there", "neither", "one of each", "wrong class only"])
def test_edges_equal_pycocotools(kind: str) -> None:
    truth, detections = scene(1)
    if kind in ("nothing there", "neither"):
        truth["annotations"] = []
    if kind in ("nothing found", "neither"):
        detections = []
    if kind == "one of each":
        truth["annotations"], detections = truth["annotations"][:1], detections[:1]
    if kind == "wrong class only":
        detections = [d for d in detections if d["category_id"] == truth["categories"][4]["id"]]
    assert ap.evaluate(truth, detections) == reference(truth, detections)


@pytest.mark.parametrize("net", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_real_detections_equal_pycocotools(shared_data: Path, net: str) -> None:
    truth = json.loads((shared_data / "coco-val128" / "instances.json").read_text())
    detections = json.loads((shared_data / "darknet" / f"{net}.reference-detections.json").read_text())
    numbers = ap.evaluate(truth, detections)
    assert numbers == reference(truth, detections)
    assert 0.1 < numbers["map"] < 0.3


def test_real_cells_equal_pycocotools(shared_data: Path) -> None:
    """BCCD's val split through our reader; detections are its truths, jittered, some with another class."""
    truth = form.coco_truth(dataset.load(tiny.bccd(shared_data), "val"))
    rng = np.random.default_rng(0)
    detections = []
    for annotation in truth["annotations"]:
        for _ in range(2):
            noise = rng.normal(size=4) * 0.05 * np.tile(annotation["bbox"][2:], 2)
            category = annotation["category_id"] if rng.random() < 0.9 else truth["categories"][0]["id"]
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": (annotation["bbox"] + noise).tolist(),
                    "score": round(float(rng.random()), 2),
                }
            )
    numbers = ap.evaluate(truth, detections)
    assert numbers == reference(truth, detections)
    assert set(numbers["per_class"]) == {"Platelets", "RBC", "WBC"}


def test_evaluation_leaves_its_arguments_and_the_terminal_alone(capfd: pytest.CaptureFixture[str]) -> None:
    truth, detections = scene(2)
    before = copy.deepcopy((truth, detections))
    ap.evaluate(truth, detections)
    ap.evaluate(truth, [])
    assert (truth, detections) == before
    assert capfd.readouterr() == ("", "")


def test_curves_average_to_ap50() -> None:
    truth, detections = scene(3)
    curves = ap.curves(truth, detections)
    assert curves["recall"] == [i / 100 for i in range(101)]
    per_class = ap.evaluate(truth, detections)["per_class"]
    assert set(curves["precision"]) == {"class 0", "class 1", "class 2"}
    for name, precision in curves["precision"].items():
        assert np.mean(precision) == pytest.approx(per_class[name]["map50"])
