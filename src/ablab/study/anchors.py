"""The head's anchors, settled before any fingerprint is taken (`model.anchors`), so that every stage sees the same.

given: as the head's YAML has them. fitted: k-means on the train split's boxes at the input size of the first phase.
auto: fitted where the given ones' best possible recall is below LEAST and the fitted ones' higher (YOLOv5's rule);
given else. A file of weights brings its own, which are what it was trained with: under `auto` and `fitted` where it is
evaluated, and under `auto`, in place of the given ones, where a training starts from it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.study.described import described_by

CHOICES = ("auto", "given", "fitted")
LEAST = 0.98  # best possible recall under which `auto` fits


def settle(config: dict[str, Any], description: dict[str, Any], weights: Path | None = None) -> dict[str, Any]:
    """The configuration's `head` with the anchors that `model.anchors` asks for.

    description: the data's (ablab.data.identity). weights: a file that is evaluated rather than trained; the one that
    a training starts from is the configuration's `start.weights`. A head
    without `anchors` and `anchor_t`, or with values that it will refuse, stays as it is, and so does one whose data
    has no train split. Raises UserError if anchors are to be fitted for a head that has none to fit, or to fewer
    different sizes of boxes than there are anchors.
    """
    head, knob = config["head"], config["model"]["anchors"]
    if knob == "fitted" and not {"anchors", "anchor_t"} <= head.keys():
        name = str(head.get("_target_")).rpartition(".")[2]
        raise UserError(
            f"model.anchors=fitted: head {name} has no anchors that could be fitted (keys anchors and anchor_t, as "
            "head=anchor has them); expected auto or given"
        )
    shape = _shape(head.get("anchors"))
    if knob == "given" or shape is None or not _is_number(head.get("anchor_t")) or head["anchor_t"] <= 1:
        return dict(head)
    begins = config["start"]["weights"] if knob == "auto" else None
    file = weights or (Path(begins) if begins else None)
    if file and _shape(theirs := (described_by(file).get("head") or {}).get("anchors")) == shape:
        head = head | {"anchors": theirs}
        if weights:
            return dict(head)
    sizes = description.get("sizes", {}).get(config["preprocess"]["resize"])
    if not sizes:
        return dict(head)
    imgsz = config["schedule"]["phases"][0]["imgsz"]
    return head | {"anchors": json.loads(_resolved(knob, json.dumps(head["anchors"]), head["anchor_t"], imgsz, sizes))}


@lru_cache(maxsize=1024)  # a study asks the same for nearly all of its variants
def _resolved(knob: str, given: str, anchor_t: float, imgsz: int, described: str) -> str:
    from ablab.data.anchors import fit, recall, sizes_of

    sizes, anchors = sizes_of(described, imgsz), json.loads(given)
    found = recall(anchors, sizes, anchor_t)
    if knob == "auto" and found >= LEAST:
        return given
    levels, per_level = len(anchors), len(anchors[0])
    fitted = fit(sizes, levels, per_level)
    if fitted is None and knob == "fitted":
        raise UserError(
            f"model.anchors=fitted: k-means finds no {levels * per_level} different anchors in the sizes of the train "
            "split's boxes; expected model.anchors=given"
        )
    if fitted is None or (knob == "auto" and recall(fitted, sizes, anchor_t) <= found):
        return given
    return json.dumps(fitted)


def _shape(anchors: Any) -> tuple[int, int] | None:
    """Levels and anchors a level; None for what no head would take."""
    try:
        pairs = [pair for level in anchors for pair in level]
        counts = {len(level) for level in anchors}
        whole = all(len(pair) == 2 and all(_is_number(side) and side > 0 for side in pair) for pair in pairs)
    except TypeError:
        return None
    return (len(anchors), counts.pop()) if whole and len(counts) == 1 and pairs else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
