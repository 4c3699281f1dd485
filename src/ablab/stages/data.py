"""The data stage: every annotation read and every image decoded once, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablab.data import dataset, form

REPORT_EVERY = 2000  # images


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Numbers: splits {name: {"images", "boxes"}}, their sums images and boxes, and dirt [{"where", "what",
    "action"}].

    Raises UserError naming the first image that is missing, corrupt or of another size than annotated.
    """
    splits: dict[str, dict[str, int]] = {}
    dirt: list[dict[str, Any]] = []
    for split in dataset.splits(config["data"]):
        data = dataset.load(config["data"], split)
        for done, sample in enumerate(data.samples, 1):
            form.read_image(sample)
            if done % REPORT_EVERY == 0 or done == len(data.samples):
                emit({"message": f"{split}: {done} of {len(data.samples)} images decoded", "images": done})
        splits[split] = {"images": len(data.samples), "boxes": sum(len(s.boxes) for s in data.samples)}
        dirt += [asdict(entry) for entry in data.dirt]
    return {
        "images": sum(split["images"] for split in splits.values()),
        "boxes": sum(split["boxes"] for split in splits.values()),
        "splits": splits,
        "dirt": dirt,
    }
