"""The cut stage: of a trained detector's head, what `head_prune.ratio` leaves, by importance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ablab.compute import as_float, memory_explained, prepare, workers
from ablab.data import dataset
from ablab.data.loader import Loader
from ablab.models import prune
from ablab.models.detector import Detector, build
from ablab.stages.train import check_classes
from ablab.training import weights

IMAGES, BATCH = 512, 8  # of the train split, as they are: by how the loss depends on them channels are judged


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Write weights.safetensors of the narrow network, from which training goes on as from those of a phase.

    `uncut` holds the parts in which the network of the weights in `inputs` differs. Numbers: those of
    ablab.models.prune.cut. Raises UserError for weights or classes that do not fit and parts that cannot be cut,
    OutOfMemoryError.
    """
    uncut, imgsz = config | config["uncut"], config["imgsz"]
    wide = build(uncut)
    weights.load(wide, uncut, inputs["weights"])
    with memory_explained(f"a cut at imgsz={imgsz}"):
        _add_gradients(wide, config)
        narrow = build(config)
        numbers = prune.cut(wide, narrow)
    says = weights.description(inputs["weights"] / "weights.safetensors") or {}
    beside = {key: says[key] for key in weights.BESIDE if key in says}
    weights.save(narrow, config | beside, out / "weights.safetensors")
    of_all = f"{numbers['channels_kept']} of {numbers['channels']} channels"
    emit({"message": f"the head keeps {of_all}, {numbers['importance_kept']:.0%} of their importance"})
    return numbers


def _add_gradients(detector: Detector, config: dict[str, Any]) -> None:
    """Gradients of the loss over images of the train split, in eval mode and fp32."""
    compute = prepare(config["engine"] | {"precision": "fp32"})
    compute.place(detector.eval())
    train = dataset.load(config["data"], "train")
    check_classes(detector, train)
    loader = Loader(
        train,
        imgsz=config["imgsz"],
        batch=BATCH,
        preprocess=config["preprocess"],
        augment=None,
        seed=0,
        workers=workers(config["engine"]),
    )
    for batch in islice(loader.epoch(0), IMAGES // BATCH):
        raw = as_float(detector(compute.network_input(batch.images, config["preprocess"])))
        losses = detector.loss(raw, batch.targets.to(compute.device), 1.0)
        sum(losses.values(), start=torch.zeros((), device=compute.device)).backward()
