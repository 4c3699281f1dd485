"""The evaluate stage: COCO AP of a training's weights at one input size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.compute import check_size, memory_explained
from ablab.data import dataset, form
from ablab.evaluation import ap
from ablab.evaluation.predict import predict, results
from ablab.models.detector import build
from ablab.stages.train import check_classes
from ablab.training import weights


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Write detections.json (COCO results, the file's category ids) and curves.json (precision over recall).

    Numbers: those of ablab.evaluation.ap.evaluate, with imgsz, images and detections (how many). Raises
    UserError for weights, classes or sizes that do not fit, OutOfMemoryError.
    """
    imgsz = config["imgsz"]
    with memory_explained(f"eval.batch={config['eval']['batch']} at imgsz={imgsz}"):
        data = dataset.load(config["data"], config["split"])
        detector = build(config)
    check_size(imgsz, detector.max_stride)
    check_classes(detector, data)
    weights.load(detector, config, inputs["weights"])
    found = predict(
        detector,
        data,
        imgsz=imgsz,
        preprocess=config["preprocess"],
        eval_config=config["eval"],
        engine=config["engine"],
        emit=emit,
    )
    detections = results(found, data)
    (out / "detections.json").write_text(json.dumps(detections, separators=(",", ":")))
    emit(
        {
            "message": f"{len(detections)} detections on {len(data.samples)} images",
            "detections": len(detections),
        }
    )
    truth = form.coco_truth(data)
    (out / "curves.json").write_text(json.dumps(ap.curves(truth, detections), separators=(",", ":")))
    numbers = ap.evaluate(truth, detections)
    return {"imgsz": imgsz, "images": len(data.samples), "detections": len(detections)} | numbers
