"""A memory budget (`optim.memory`) made micro-batches, from what the smoke stage measured of the network.

A training takes at its peak about

    process + 5 × parameters in fp32 + 1.5 × what autograd saves for the images of a micro-batch

(weights, gradients, EMA and two states of an optimiser; the half more is for gradients of maps and copies that are not
saved: 1.2 to 1.5 measured with the shipped recipes on a CPU, bf16 and fp32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ablab.errors import UserError

PROCESS = {"cpu": 1.2e9, "cuda": 0.6e9}  # bytes, before there is a network: libraries and driver; a GPU's context
STATES = 5
OVER_SAVED = 1.5


def micro_batch(
    budget: float, config: Mapping[str, Any], phase: Mapping[str, Any], built: Mapping[str, Any]
) -> int | None:
    """The largest divisor of `optim.batch` (not above `optim.micro_batch`) that fits in `budget` GB; None: all of it.

    With `engine.ranks` the batch is a rank's share; on a CPU the ranks share the budget, on GPUs each has its own.
    built: numbers of the network's smoke stage. Raises UserError if a single image does not fit, with the largest
    input size that would.
    """
    optim, stride = config["optim"], built["max_stride"]
    fixed, for_px = _fixed(config, built), OVER_SAVED * built["bytes_per_px"]
    px = (stride * math.floor(round(phase["imgsz"] * _largest_share(phase) / stride, 6))) ** 2
    ranks = config["engine"].get("ranks", 1)
    given = min(optim["micro_batch"] or optim["batch"], math.ceil(optim["batch"] / ranks))
    if config["engine"]["device"] == "cpu":
        budget /= ranks
    for size in range(given, 0, -1):
        images = size + 1 if size > 1 else 1  # a rest of one image joins the part before it
        if (size == given or optim["batch"] % size == 0) and fixed + for_px * px * images <= budget * 1e9:
            return optim["micro_batch"] if size == given else size
    needs = f"optim.memory={budget:g} GB: one image of {math.isqrt(px)} px at a time needs {_gb(fixed + for_px * px)}"
    if size := largest_size(budget, config, phase, built):
        raise UserError(f"{needs}; the largest input size that would fit is {size} px")
    raise UserError(f"{needs}, and no input size would fit: process and network alone take {_gb(fixed)}")


def largest_size(budget: float, config: Mapping[str, Any], phase: Mapping[str, Any], built: Mapping[str, Any]) -> int:
    """The largest `imgsz`, px, at which `budget` GB suffice to train one image at a time; 0 if none does."""
    left = max(budget * 1e9 - _fixed(config, built), 0.0)
    most = math.sqrt(left / (OVER_SAVED * built["bytes_per_px"])) / _largest_share(phase)
    stride: int = built["max_stride"]
    return stride * int(most // stride)


def _fixed(config: Mapping[str, Any], built: Mapping[str, Any]) -> float:
    return PROCESS.get(config["engine"]["device"], PROCESS["cpu"]) + STATES * 4 * float(built["params"])


def _largest_share(phase: Mapping[str, Any]) -> float:
    """Of multi-scale's sides, the largest as a share of imgsz."""
    share: float = (phase.get("scales") or [1.0, 1.0])[1]
    return share


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
