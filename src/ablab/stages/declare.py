"""Every kind of stage as data, readable without torch.

To add a kind: one entry here, and one module with

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
    """

    name: str
    reads: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def module(self) -> str:
        return f"ablab.stages.{self.name}"


PARTS = ("stem", "backbone", "neck", "head")
ENGINE = ("engine.device", "engine.precision", "engine.threads")
EVAL = ("eval.conf", "eval.iou", "eval.max_nms", "eval.max_det", "eval.batch")
NUMERICS = ("torch", "torchvision", "numpy", "opencv-python-headless", "hotcoco", "scikit-learn")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("data", ("data",), ("opencv-python-headless", "scikit-learn")),
        Kind("smoke", (*PARTS, "preprocess", "optim", *ENGINE, "sizes"), ("torch",)),
        Kind("profile", (*PARTS, "imgsz"), ("torch", "thop")),
        Kind(
            "train",
            (*PARTS, "preprocess", "augment", "optim", "data", *EVAL, "eval.every", *ENGINE, "phase", "seed"),
            NUMERICS,
        ),
        Kind("evaluate", (*PARTS, "preprocess", "data", *EVAL, *ENGINE, "imgsz", "split"), NUMERICS),
    )
}

# Where things lie does not change what they are: these keys reach the stage but not its fingerprint.
LOCATIONS = ("data.root",)
