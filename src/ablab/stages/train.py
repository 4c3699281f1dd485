"""The train stage: one phase of a schedule, from scratch, from a file, or from the EMA weights of the phase before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch

from ablab.compute import check_size, memory_explained, workers
from ablab.config import flatten
from ablab.data import anchors, dataset, form
from ablab.data.loader import Loader, cuts
from ablab.errors import UserError
from ablab.models.detector import Detector, build
from ablab.stages.ranks import together
from ablab.stages.validation import PICTURES, validation
from ablab.training import checkpoint, loop, multi_scale, start, weights

PRIOR_IMAGES = 2000  # so many suffice to know how often an anchor is positive


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """`train_phase`, on as many processes as `engine.ranks` says: this one is the first of them."""
    with together(config, inputs, work):
        return train_phase(config, inputs, out, work, emit)


def train_phase(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train and write weights.safetensors, the EMA weights; those of the epoch with the best validated mAP as
    best.safetensors, if one was validated; for a part of an open-ended phase also checkpoint.pt, with which its next
    part, or its decay, goes on; and of every look at val a picture, val_epoch_*.jpg.

    Numbers: those of ablab.training.loop.train and, if it starts from a file, of ablab.training.start.take_over; images
    (of the train split), batch, micro_batch, and best_possible_recall of the head's anchors, if it has some. Raises
    UserError for data, weights or sizes that do not fit, OutOfMemoryError.
    """
    phase, seed, preprocess = config["phase"], config["seed"], config["preprocess"]
    imgsz, batch = phase["imgsz"], config["optim"]["batch"]
    with memory_explained(f"optim.batch={batch} at imgsz={imgsz}"):
        train = dataset.load(config["data"], "train")
        config = config | {"names": list(train.names), "imgsz": imgsz}  # for the weights file
        torch.manual_seed(seed)
        detector = build(config)
        check_size(imgsz, detector.max_stride)
        check_classes(detector, train)
        loader = Loader(
            train,
            imgsz=imgsz,
            batch=batch,
            preprocess=preprocess,
            augment=config["augment"],
            seed=seed,
            workers=workers(config["engine"]),
        )
        smallest = min([imgsz, *(multi_scale.sides(imgsz, phase.get("scales") or [1, 1], detector.max_stride))])
        if smallest == detector.max_stride and _fewest(config, len(train.samples)) == 1:
            raise UserError(
                f"imgsz={smallest}: one image at a time leaves BatchNorm a single number a channel (images: "
                f"{len(train.samples)}, optim.batch: {batch}), expected imgsz of {2 * detector.max_stride} at least, "
                "or two images"
            )
        begun: dict[str, Any] = {}
        if "previous" in inputs:
            weights.load(detector, config, inputs["previous"])
        else:
            start_from_prior(detector, loader, imgsz)
        if "weights" in inputs:
            begun = start.take_over(detector, inputs["weights"], config, config["start"].get("sha256"))
            emit({"message": start.told(begun), "epoch": 0})
        elif config["start"]["freeze"] and "previous" not in inputs:
            emit({"message": "start.freeze without start.weights: what is frozen stays random", "epoch": 0})
        detector.freeze(config["start"]["freeze"])
    if parts := config["optim"].get("micro_batch"):
        emit({"message": f"batches of {batch} in micro-batches of {parts}, which BatchNorm sees", "epoch": 0})
    numbers = loop.train(
        detector,
        loader,
        validation(config, imgsz, work),
        phase=phase,
        optim_config=config["optim"],
        preprocess=preprocess,
        engine=config["engine"],
        seed=seed,
        work=work,
        emit=emit,
        previous=inputs.get("previous"),
        rates=flatten(config["start"]["rates"]),
    )
    weights.save(detector, config, out / "weights.safetensors")
    if numbers["best_epoch"]:
        detector.load_state_dict(checkpoint.load_best(numbers["best_epoch"], work))
        weights.save(detector, config, out / "best.safetensors")
    if "part" in phase and not numbers["diverged"]:
        shutil.copyfile(work / "checkpoint.pt", out / "checkpoint.pt")
    for picture in work.glob(PICTURES):
        shutil.copyfile(picture, out / picture.name)
    used = {"images": len(train.samples), "batch": batch, "micro_batch": config["optim"].get("micro_batch")}
    if (processes := config["engine"].get("ranks", 1)) > 1:
        used["ranks"] = processes
    return numbers | used | begun | _best_possible_recall(detector, train, preprocess["resize"], imgsz)


def _fewest(config: dict[str, Any], images: int) -> int:
    """How many images BatchNorm sees at once in the smallest part of an epoch's batches."""
    ranks, parts = config["engine"].get("ranks", 1), config["optim"].get("micro_batch")
    shares = [max((stop - start) // ranks, 1) for start, stop in pairwise(cuts(images, config["optim"]["batch"]))]
    return min(stop - start for share in shares for start, stop in pairwise(cuts(share, parts or share)))


def _best_possible_recall(detector: Detector, data: form.Dataset, resize: str, imgsz: int) -> dict[str, float]:
    """What the head's anchors can answer for at best, as a number of the stage; nothing for a head without anchors."""
    found, anchor_t = getattr(detector.head, "anchors", None), getattr(detector.head, "anchor_t", None)
    sizes = anchors.box_sizes(data, resize, imgsz)
    if not isinstance(found, torch.Tensor) or not isinstance(anchor_t, float | int) or not len(sizes):
        return {}
    return {"best_possible_recall": anchors.recall(found.cpu().numpy(), sizes, anchor_t)}


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
