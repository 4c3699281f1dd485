"""A detector's boxes on a dataset, in COCO results form."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablab.compute import Compute, as_float, memory_explained, prepare
from ablab.data.form import Dataset
from ablab.data.letterbox import Placement
from ablab.data.loader import eval_batches
from ablab.evaluation.nms import suppress
from ablab.models.detector import fuse

TELL_EVERY = 2.0  # seconds between two events

# Of one image: boxes (M, 4) x1 y1 x2 y2 in px of the original image, scores (M,), class indices (M,).
Found = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def engine_of(eval_config: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    """The `engine` group for an evaluation: in fp32 where `eval.precision` says so, else as training has it."""
    return engine | ({"precision": "fp32"} if eval_config.get("precision") == "fp32" else {})


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
) -> list[Found]:
    """Detections of every image of the dataset in its order, best first within an image.

    eval_config: conf (lowest score), iou (of NMS within a class), max_nms (candidates of an image that enter
    NMS, a box once for every class above conf), max_det (kept), clip (boxes to the image; true if not given), precision
    (see `engine_of`), batch. Emits images (done) and total every TELL_EVERY seconds. Raises OutOfMemoryError.
    """
    compute = prepare(engine_of(eval_config, engine))
    detector = fuse(detector)  # a sixth faster on a CPU; the caller's stays as it is
    compute.place(detector)
    batch = eval_config["batch"]
    found: list[Found] = []
    told = time.monotonic()
    with memory_explained(f"eval.batch={batch} at imgsz={imgsz}"):
        for images, samples, placements in eval_batches(dataset, imgsz=imgsz, batch=batch, preprocess=preprocess):
            sizes = [(sample.width, sample.height) for sample in samples]
            found += detect(detector, images, sizes, placements, compute, preprocess, eval_config)
            if (now := time.monotonic()) - told >= TELL_EVERY:
                told = now
                emit({"images": len(found), "total": len(dataset.samples)})
    return found


@torch.inference_mode()
def detect(
    detector: Any,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    placements: Sequence[Placement],
    compute: Compute,
    preprocess: dict[str, Any],
    eval_config: dict[str, Any],
) -> list[Found]:
    """Detections on one batch by a detector in eval mode: uint8 images (B, 3, S, S), where each lies in its square, and
    the originals' (width, height)."""
    x = compute.network_input(images, preprocess)
    with compute.autocast():
        raw = detector(x)
    every_box, every_score = detector.decode(as_float(raw))
    every = suppress(every_box, every_score, eval_config)
    found = []
    for (boxes, scores, classes), (width, height), placement in zip(every, sizes, placements, strict=True):
        corners = placement.to_image(boxes.numpy()).astype(np.float64).reshape(-1, 2, 2)
        if eval_config.get("clip", True):
            corners = corners.clip(0, (width, height))
        found.append((corners.reshape(-1, 4), scores.numpy().astype(np.float64), classes.numpy()))
    return found


def results(found: Sequence[Found], dataset: Dataset) -> list[dict[str, Any]]:
    """COCO results: image_id and category_id (the file's own), bbox (x, y, width, height, to a thousandth of a px) and
    score (to a millionth)."""
    ids, categories = [sample.id for sample in dataset.samples], dataset.category_ids
    return [
        {"image_id": ids[int(image)], "category_id": categories[int(k)], "bbox": [x, y, w, h], "score": score}
        for image, x, y, w, h, score, k in _rows(found).tolist()
    ]


def numbered(dataset: Dataset) -> Dataset:
    """The same images and classes, whose ids are 1, 2, 3 ... in the order of the file's own.

    Ids of any size fit a float so, and where scores tie the evaluator meets images in the same order.
    """
    ids = sorted(sample.id for sample in dataset.samples)
    ranks = {known: rank for rank, known in enumerate(ids, 1)}
    categories = {known: rank for rank, known in enumerate(sorted(dataset.category_ids), 1)}
    samples = tuple(replace(sample, id=ranks[sample.id]) for sample in dataset.samples)
    return replace(dataset, samples=samples, category_ids=tuple(categories[known] for known in dataset.category_ids))


def results_array(found: Sequence[Found], dataset: Dataset) -> NDArray[np.float64]:
    """COCO results of a `numbered` dataset as the array that pycocotools and hotcoco take: rows of image id, x, y,
    width, height, score, category id.

    Thousands of dictionaries cost more than NMS does: they set off Python's garbage collector.
    """
    rows = _rows(found)
    rows[:, 0] = np.array([sample.id for sample in dataset.samples])[rows[:, 0].astype(int)]
    rows[:, 6] = np.array(dataset.category_ids)[rows[:, 6].astype(int)]
    return rows


def _rows(found: Sequence[Found]) -> NDArray[np.float64]:
    """All detections: place of the image, x, y, width, height, score, class index."""
    boxes, scores, classes = (np.concatenate(columns) for columns in zip(*found, strict=True))
    places = np.repeat(np.arange(len(found)), [len(scores) for _, scores, _ in found])
    # Scores come from float32, whose product with 10^6 is exact in float64: rounded as Python's round does.
    columns = (places, boxes[:, :2].round(3), (boxes[:, 2:] - boxes[:, :2]).round(3), scores.round(6), classes)
    return np.column_stack(columns).astype(np.float64)
