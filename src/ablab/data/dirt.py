"""The stated rules for dirty boxes: nothing is changed silently.

- A box without area (zero or negative size, NaN, infinity) is dropped.
- A box wholly outside its image is dropped.
- A box partly outside its image is clipped to it. An overshoot of up to 0.02 px is the rounding of the file format
  (COCO writes two decimals, YOLO six of the normalised value): it is clipped without a word.

Everything dropped or clipped is one `Dirt`. What would make the truth ambiguous (an unknown image or category, a
repeated image id, a malformed line) is no dirt: the readers refuse it with a `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 0.02  # px


@dataclass(frozen=True)
class Dirt:
    """One flaw of an annotation file: where it is, what was found, what was done about it."""

    where: str
    what: str
    action: str  # "dropped" or "clipped"


def clean(
    boxes: NDArray[np.float64], limits: NDArray[np.float64], where: Callable[[int], str]
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[Dirt]]:
    """Apply the rules to boxes as they were written in a file.

    boxes: (n, 4) x1 y1 x2 y2 in px. limits: (n, 2) width and height of each box's image. where: names box i.
    Returns the indices of the kept boxes (m,), those boxes clipped (m, 4), and the dirt in order of the boxes.
    """
    clipped64 = np.clip(boxes, 0, np.tile(limits, 2))
    clipped = clipped64.astype(np.float32)
    narrow = boxes.astype(np.float32)  # judged in the precision that is kept: a box of 1e-6 px is no box
    with np.errstate(invalid="ignore"):
        sized = np.asarray(np.isfinite(boxes).all(1) & (narrow[:, 2:] > narrow[:, :2]).all(1))
        inside = np.asarray((clipped[:, 2:] > clipped[:, :2]).all(1))
        overshoot = np.abs(clipped64 - boxes).max(1, initial=0)
    keep = sized & inside
    dirt = []
    for i in np.flatnonzero(~keep | (overshoot > ROUNDING)).tolist():
        corners = " ".join(f"{v:.6g}" for v in boxes[i])
        size = "x".join(f"{v:g}" for v in limits[i])
        if not sized[i]:
            dirt.append(Dirt(where(i), f"box ({corners}) has no area", "dropped"))
        elif not inside[i]:
            dirt.append(Dirt(where(i), f"box ({corners}) lies outside its image of {size} px", "dropped"))
        else:
            dirt.append(Dirt(where(i), f"box ({corners}) reaches out of its image of {size} px", "clipped"))
    kept = np.flatnonzero(keep)
    return kept, clipped[kept], dirt
