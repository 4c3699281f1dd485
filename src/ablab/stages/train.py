"""The train stage: one phase of a schedule, from scratch or from the EMA weights of the phase before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablab.compute import check_size, memory_explained
from ablab.data import dataset, form
from ablab.data.loader import Loader
from ablab.errors import UserError
from ablab.evaluation import ap
from ablab.evaluation.predict import predict
from ablab.models.detector import Detector, build
from ablab.training import loop, weights

PRIOR_IMAGES = 2000  # so many suffice to know how often an anchor is positive
# Of the curve's AP. Fixed, so that another evaluation of the same weights does not train them again.
VALIDATION = {"conf": 0.001, "iou": 0.6, "max_nms": 1500, "max_det": 100, "batch": 16}


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train and write weights.safetensors, the EMA weights; for a part of an open-ended phase also checkpoint.pt, with
    which its next part goes on.

    Numbers: those of ablab.training.loop.train, with images (of the train split), batch and micro_batch. Raises
    UserError for data, weights or sizes that do not fit, OutOfMemoryError.
    """
    phase, seed, preprocess = config["phase"], config["seed"], config["preprocess"]
    imgsz, batch = phase["imgsz"], config["optim"]["batch"]
    with memory_explained(f"optim.batch={batch} at imgsz={imgsz}"):
        train = dataset.load(config["data"], "train")
        torch.manual_seed(seed)
        detector = build(config)
        check_size(imgsz, detector.max_stride)
        check_classes(detector, train)
        loader = Loader(train, imgsz=imgsz, batch=batch, preprocess=preprocess, augment=config["augment"], seed=seed)
        if "previous" in inputs:
            weights.load(detector, config, inputs["previous"])
        else:
            start_from_prior(detector, loader, imgsz)
    numbers = loop.train(
        detector,
        loader,
        _validation(config, imgsz),
        phase=phase,
        optim_config=config["optim"],
        preprocess=preprocess,
        engine=config["engine"],
        seed=seed,
        work=work,
        emit=emit,
        previous=inputs.get("previous"),
    )
    weights.save(detector, config, out / "weights.safetensors")
    if "part" in phase and not numbers["diverged"]:
        shutil.copyfile(work / "checkpoint.pt", out / "checkpoint.pt")
    used = {"images": len(train.samples), "batch": batch, "micro_batch": config["optim"].get("micro_batch")}
    return numbers | used


def check_classes(detector: Detector, data: form.Dataset) -> None:
    """Raises UserError unless the detector knows as many classes as the data names."""
    if detector.classes != len(data.names):
        raise UserError(
            f"model.classes={detector.classes}: the data has {len(data.names)} classes ({', '.join(data.names[:5])}"
            f"{', ...' if len(data.names) > 5 else ''})"
        )


def start_from_prior(detector: Detector, loader: Loader, imgsz: int) -> None:
    """Let the head start from the data's own box statistics, if it has a way to."""
    set_prior = getattr(detector.head, "set_prior", None)
    if set_prior is None:
        return
    targets, images = [], 0
    for batch in islice(loader.epoch(0, augment=False), max(PRIOR_IMAGES // loader.batch, 1)):
        targets.append(batch.targets)
        images += len(batch.images)
    set_prior(targets, images, imgsz)


def _validation(config: dict[str, Any], imgsz: int) -> loop.Validate:
    """AP on val every `eval.every` epochs and after the last one; never, if that is 0 or there is no val."""
    every, epochs = config["eval"]["every"], config["phase"]["epochs"]
    if not every or "val" not in dataset.splits(config["data"]):
        return lambda detector, epoch: {}
    data = dataset.load(config["data"], "val")
    truth = form.coco_truth(data)

    def validate(detector: nn.Module, epoch: int) -> dict[str, Any]:
        if epoch % every and epoch != epochs:
            return {}
        detections = predict(
            detector,
            data,
            imgsz=imgsz,
            preprocess=config["preprocess"],
            eval_config=VALIDATION,
            engine=config["engine"],
        )
        numbers = ap.evaluate(truth, detections)
        return {"map": numbers["map"], "map50": numbers["map50"]}

    return validate
