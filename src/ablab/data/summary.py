"""What a split holds, in numbers a person reads before training on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ablab.data.form import Dataset

SMALL, MEDIUM = 32**2, 96**2  # px²; COCO's limits of small and medium objects
SHOWN = 10  # flaws named one by one


def summary(dataset: Dataset) -> tuple[list[str], list[list[Any]], list[str]]:
    """A table of the classes (headers and rows) and lines about the dirt.

    Sizes are COCO's, by the area in px² of the annotation: small under 32², large over 96². Crowd boxes are counted
    in their own column only.
    """
    classes = np.concatenate([s.classes for s in dataset.samples])
    crowd = np.concatenate([s.crowd for s in dataset.samples])
    area = np.concatenate([s.area for s in dataset.samples])
    images = Counter(index for s in dataset.samples for index in set(s.classes[~s.crowd].tolist()))
    rows: list[list[Any]] = []
    for index, name in enumerate(dataset.names):
        sizes = area[(classes == index) & ~crowd]
        small, large = int((sizes < SMALL).sum()), int((sizes > MEDIUM).sum())
        crowds = int((crowd & (classes == index)).sum())
        rows.append([name, images[index], len(sizes), small, len(sizes) - small - large, large, crowds])
    total = ["all", len(dataset.samples), *(sum(row[column] for row in rows) for column in range(2, 7))]
    lines = [f"{flaw.where}: {flaw.what}: {flaw.action}" for flaw in dataset.dirt[:SHOWN]]
    if len(dataset.dirt) > SHOWN:
        rest = Counter(flaw.action for flaw in dataset.dirt[SHOWN:])
        lines.append("and " + ", ".join(f"{count} more {action}" for action, count in rest.items()))
    return ["class", "images", "boxes", "small", "medium", "large", "crowd"], [*rows, total], lines
