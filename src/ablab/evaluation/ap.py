"""COCO average precision, by hotcoco: pycocotools' numbers to the last digit, some hundred times faster."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

# COCO results, or an array of rows of image id, x, y, width, height, score and category id.
Detections = list[dict[str, Any]] | NDArray[np.float64]

SUMMARY = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def evaluate(truth: dict[str, Any], detections: Detections) -> dict[str, Any]:
    """AP and AR of COCO results against a COCO ground truth, both with the file's category ids.

    Returns the twelve numbers of SUMMARY and per_class {name: {"map", "map50"}}, in [0, 1], None where there
    is no truth; AP is over IoU .50:.05:.95 and 100 detections an image. Crowd boxes and areas count as COCO
    defines.
    """
    judge = _judge(truth, detections)
    precision = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]  # IoU × recall × class; all areas, 100 detections
    numbers: dict[str, Any] = {name: _share(value) for name, value in zip(SUMMARY, judge.stats, strict=True)}
    numbers["per_class"] = {
        name: {"map": _mean(precision[:, :, k]), "map50": _mean(precision[0, :, k])}
        for k, name in enumerate(_names(truth))
    }
    return numbers


def curves(truth: dict[str, Any], detections: Detections) -> dict[str, Any]:
    """Precision over recall at IoU .50: {"recall": 101 levels, "precision": {class with truth: 101
    values}}."""
    judge = _judge(truth, detections)
    precision = np.asarray(judge.eval["precision"])[0, :, :, 0, -1]
    named = {name: precision[:, k] for k, name in enumerate(_names(truth))}
    return {
        "recall": [round(level, 2) for level in judge.params.rec_thrs],
        "precision": {name: row.tolist() for name, row in named.items() if (row > -1).any()},
    }


def load(truth: dict[str, Any], detections: Detections) -> Any:
    """hotcoco's evaluator of both, before it has evaluated anything."""
    real = COCO()
    real.dataset = truth
    found = COCO()
    if len(detections):
        found = real.load_res(detections)
    else:  # load_res takes the kind of result from the first one
        found.dataset = {key: truth[key] for key in ("images", "categories")} | {"annotations": []}
    return COCOeval(real, found, "bbox")


def _judge(truth: dict[str, Any], detections: Detections) -> Any:
    judge = load(truth, detections)
    judge.evaluate()
    judge.accumulate()
    judge.summary_lines()  # fills stats and, unlike summarize(), prints nothing
    return judge


def _names(truth: dict[str, Any]) -> list[str]:
    """Class names in the evaluator's order: by category id."""
    return [c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])]


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None


def _share(value: float) -> float | None:
    return None if value == -1 else float(value)
