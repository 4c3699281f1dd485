"""A detector's boxes on a dataset, in COCO results form."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ablab.compute import as_float, memory_explained, prepare
from ablab.data.form import Dataset, Sample
from ablab.data.loader import eval_batches

TELL_EVERY = 2.0  # seconds between two events


@torch.inference_mode()
def predict(
    detector: Any,
    dataset: Dataset,
    *,
    imgsz: int,
    preprocess: dict[str, Any],
    eval_config: dict[str, Any],
    engine: dict[str, Any],
    emit: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Detections of every image: image_id, category_id (the file's own), bbox (x, y, w, h in px of the
    original image, clipped to it, to a thousandth), score (in [0, 1], to a millionth), best first within an
    image.

    eval_config: conf (lowest score), iou (of NMS within a class), max_nms (candidates of an image that enter
    NMS, a box once for every class above conf), max_det (kept), batch. Emits images (done) and total every TELL_EVERY
    seconds. Raises OutOfMemoryError.
    """
    compute = prepare(engine)
    compute.place(detector)
    detector.eval()
    batch = eval_config["batch"]
    results: list[dict[str, Any]] = []
    done, told = 0, time.monotonic()
    with memory_explained(f"eval.batch={batch} at imgsz={imgsz}"):
        for images, samples, placements in eval_batches(dataset, imgsz=imgsz, batch=batch, preprocess=preprocess):
            x = compute.network_input(images, preprocess)
            with compute.autocast():
                raw = detector(x)
            every_box, every_score = detector.decode(as_float(raw))
            for boxes, scores, sample, placement in zip(every_box, every_score, samples, placements, strict=True):
                kept, values, classes = suppress(boxes, scores, eval_config)
                results += _results(placement.to_image(kept.cpu().numpy()), values, classes, sample, dataset)
            done += len(samples)
            if (now := time.monotonic()) - told >= TELL_EVERY:
                told = now
                emit({"images": done, "total": len(dataset.samples)})
    return results


def suppress(boxes: Tensor, scores: Tensor, eval_config: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-label NMS of one image: boxes (N, 4) xyxy, scores (N, C) → kept boxes (M, 4), scores (M,),
    classes (M,).

    Best first; M ≤ max_det. Boxes that are not finite are no candidates.
    """
    flat = scores.masked_fill(~boxes.isfinite().all(1, keepdim=True), 0.0).flatten()
    candidates = (flat > eval_config["conf"]).nonzero().squeeze(1)
    values = flat[candidates]
    if len(values) > eval_config["max_nms"]:
        # The cut comes before NMS, whose time grows with the square: early in training all boxes are
        # candidates.
        values, order = values.topk(eval_config["max_nms"])
        candidates = candidates[order]
    rows = candidates // scores.shape[1]
    classes = candidates % scores.shape[1]
    kept = batched_nms(boxes[rows], values, classes, eval_config["iou"])[: eval_config["max_det"]]
    return boxes[rows[kept]], values[kept], classes[kept]


def _results(
    boxes: np.ndarray, scores: Tensor, classes: Tensor, sample: Sample, dataset: Dataset
) -> list[dict[str, Any]]:
    corners = np.clip(boxes.astype(np.float64).reshape(-1, 2, 2), 0, (sample.width, sample.height))
    xywh = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1).round(3)
    return [
        {"image_id": sample.id, "category_id": dataset.category_ids[k], "bbox": box, "score": round(score, 6)}
        for box, score, k in zip(xywh.tolist(), scores.tolist(), classes.tolist(), strict=True)
    ]
