"""What an evaluation costs beside the network's own forward, and hotcoco's AP beside pycocotools'.

    python benchmarks/evaluation.py forward [overrides]       e.g. data=bccd data.root=PATH weights=FILE
    python benchmarks/evaluation.py ap [images] [detections per image]      5000 100 is as large as COCO's val2017

forward: processor seconds of predict, results and AP on the val split, as training evaluates it, over those of the bare
forward: the detector as it is trained, in inference mode under autocast, on the same input tensors, which lie ready.
Alternating; one thread. Of three networks: as a training starts it; one that finds all boxes equally good, all above
conf (the worst case); and the weights that were given, if any.

ap: evaluate and accumulate of both, apart from loading; and are the twelve numbers equal?
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ablab.compute import prepare
from ablab.config import compose, parse
from ablab.data import dataset, form
from ablab.data.loader import Loader, eval_batches
from ablab.evaluation import ap
from ablab.evaluation.predict import numbered, predict, results_array
from ablab.machine import settle
from ablab.models.detector import Detector, build
from ablab.stages.train import start_from_prior
from ablab.stages.validation import VALIDATION
from ablab.training import weights

ROUNDS = 11


def forward(words: list[str]) -> None:
    asked = parse(words)
    file = next((str(o.value) for o in asked if o.key == "weights"), None)
    base = parse(["data=bccd", "schedule.imgsz=320", "model.classes=3"])
    config = compose([*base, *(o for o in asked if o.key != "weights")]).resolved
    config["engine"] = settle(config["engine"] | {"threads": 1})
    compute, imgsz, preprocess = (
        prepare(config["engine"]),
        config["schedule"]["phases"][0]["imgsz"],
        config["preprocess"],
    )
    train, val = (dataset.load(config["data"], split) for split in ("train", "val"))
    judged = numbered(val)
    truth = form.coco_truth(judged)
    torch.manual_seed(0)
    detectors = {name: build(config) for name in ("as it starts", "all boxes equal")}
    loader = Loader(train, imgsz=imgsz, batch=16, preprocess=preprocess, augment=None, seed=0)
    start_from_prior(detectors["as it starts"], loader, imgsz)
    for bias in detectors["all boxes equal"].head._biases():
        bias[:, 4:] = 0.0
    if file:
        detectors["trained"] = build(config)
        weights.load(detectors["trained"], config, Path(file))
    batches = [
        compute.network_input(images, preprocess)
        for images, _, _ in eval_batches(val, imgsz=imgsz, batch=VALIDATION["batch"], preprocess=preprocess)
    ]

    def evaluation(detector: Detector) -> int:
        found = predict(
            detector, val, imgsz=imgsz, preprocess=preprocess, eval_config=VALIDATION, engine=config["engine"]
        )
        detections = results_array(found, judged)
        ap.evaluate(truth, detections)
        return len(detections)

    @torch.inference_mode()
    def bare(detector: Detector) -> None:
        detector.eval()
        with compute.autocast():
            for x in batches:
                detector(x)

    print(f"{config['model']['name']}, {imgsz} px, {len(val.samples)} images, {config['engine']['precision']}:")
    for name, detector in detectors.items():
        compute.place(detector)
        found = evaluation(detector)
        seconds = alternate({"evaluation": lambda d=detector: evaluation(d), "forward": lambda d=detector: bare(d)})
        ratios = np.array(seconds["evaluation"]) / np.array(seconds["forward"])
        print(
            f"  {name:15} {found} detections: evaluation {median(seconds['evaluation']):.3f} s, bare forward "
            f"{median(seconds['forward']):.3f} s: {told(ratios)}"
        )


def alternate(functions: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Processor seconds of each, one after the other ROUNDS times: other programs on the machine count less so."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return seconds


def told(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"ratio {middle:.2f} (quartiles {low:.2f} to {high:.2f} of {len(ratios)})"


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


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    real = COCO()
    real.dataset = truth
    real.createIndex()
    return COCOeval(real, real.loadRes(detections), "bbox")


def average_precision(words: list[str]) -> None:
    images, per_image = (int(word) for word in [*words, "500", "50"][:2]) if len(words) != 1 else (int(words[0]), 50)
    truth, detections = scene(images, per_image)
    seconds: dict[str, tuple[float, float]] = {}
    numbers: dict[str, list[float]] = {}
    for name, load in (("hotcoco", ap.load), ("pycocotools", pycocotools)):
        loading, judging = [], []
        for _ in range(5 if name == "hotcoco" else 1):
            arguments = copy.deepcopy((truth, detections))
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                judge = load(*arguments)
                loaded = time.perf_counter()
                judge.evaluate()
                judge.accumulate()
                judged = time.perf_counter()
                judge.summarize()
            loading.append(loaded - start)
            judging.append(judged - loaded)
            numbers[name] = [float(value) for value in judge.stats]
        seconds[name] = median(loading), median(judging)
    print(f"{images} images, {len(detections)} detections, {torch.get_num_threads()} threads:")
    for name, (loading, judging) in seconds.items():
        print(f"  {name:12} loading {loading:6.2f} s, evaluate and accumulate {judging:7.3f} s")
    faster = [slow / fast for slow, fast in zip(seconds["pycocotools"], seconds["hotcoco"], strict=True)]
    difference = max(abs(a - b) for a, b in zip(numbers["pycocotools"], numbers["hotcoco"], strict=True))
    print(f"  {faster[1]:.0f} times faster, loading {faster[0]:.1f} times; the twelve numbers differ by {difference:g}")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["ap"]
    {"forward": forward, "ap": average_precision}[what](rest)
