"""Every kind of stage as data, readable without torch.

To add a kind: one entry here, its place in a replicate's chain (`study/plan.py: _chain`), and one module with

    run(config, inputs, out, work, emit) -> numbers

which is handed only the configuration keys declared here, its parents' folders by role, a folder to write
files in, a work folder that survives a crash, and a function for progress events.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a kind of stage may read, and what counts for its fingerprint.

    reads: configuration keys it is handed, dotted where only a part of a group counts.
    libraries: distributions whose version may change its numbers.
    check: runs before everything else, and a user's mistake that it finds refuses the study there.
    """

    name: str
    reads: tuple[str, ...]
    libraries: tuple[str, ...]
    check: bool = False

    @property
    def module(self) -> str:
        return f"ablab.stages.{self.name}"


PARTS = ("stem", "backbone", "neck", "head")
ENGINE = ("engine.device", "engine.precision", "engine.threads")
TRAINING = ("engine.compile", "engine.ranks")
EVAL = ("eval.conf", "eval.iou", "eval.max_nms", "eval.max_det", "eval.clip", "eval.precision", "eval.batch")
NUMERICS = ("torch", "torchvision", "numpy", "opencv-python-headless", "hotcoco", "scikit-learn", "scipy")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("smoke", (*PARTS, "uncut", "preprocess", "optim", "start", *ENGINE, "sizes"), ("torch",), check=True),
        Kind("data", ("data",), ("opencv-python-headless", "scikit-learn"), check=True),
        Kind("profile", (*PARTS, "imgsz"), ("torch", "thop"), check=True),
        Kind(
            "train",
            (
                *PARTS,
                "preprocess",
                "augment",
                "optim",
                "start",
                "data",
                "eval.every",
                *ENGINE,
                *TRAINING,
                "phase",
                "seed",
            ),
            NUMERICS,
        ),
        Kind(
            "cut",
            (*PARTS, "uncut", "preprocess", "data", "engine.device", "engine.threads", "imgsz"),
            (*NUMERICS, "torch-pruning"),
        ),
        Kind("evaluate", (*PARTS, "preprocess", "data", *EVAL, *ENGINE, "imgsz", "split"), NUMERICS),
        Kind("command", ("command", "data", "engine.threads"), ()),  # libraries: those that its code imports
    )
}

# What counts by its content, or not at all, and so enters a fingerprint otherwise or never.
BY_CONTENT = ("data.", "start.weights", "command.code.", "command.measure")
# Where things lie reaches the stage but is part of no fingerprint and no record.
LOCATIONS = ("data.root", "start.weights")
