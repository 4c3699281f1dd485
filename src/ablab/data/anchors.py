"""Anchors against the boxes of a data set: how many boxes they can answer for at best, and better ones by k-means.

Best possible recall is YOLOv5's term: the share of boxes for which some anchor is a match, which is when no side is
`anchor_t` times the other or more. A box without such an anchor is never trained on. Sizes are those of the annotated
boxes, before any augmentation, in px of the network input. Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ablab.data.letterbox import place

if TYPE_CHECKING:
    from ablab.data.form import Dataset

REFERENCE = 4096  # px, the network input that described sizes refer to
MOST = 5000  # boxes that are described, spread evenly over the split: recall to less than a percent
RESTARTS = 10  # of k-means


def box_sizes(dataset: Dataset, resize: str, imgsz: int) -> NDArray[np.float64]:
    """(n, 2) width and height of every box but the crowds', px of a square network input of `imgsz`.

    resize: as in conf/preprocess.
    """
    found = [np.zeros((0, 2))]
    for sample in dataset.samples:
        put = place(sample.width, sample.height, imgsz, resize)
        boxes = sample.boxes[~sample.crowd].astype(np.float64)
        found.append((boxes[:, 2:] - boxes[:, :2]) * (put.scale_x, put.scale_y))
    return np.concatenate(found)


def described(sizes: NDArray[np.float64]) -> str:
    """(n, 2) sizes at REFERENCE px as text, whole px, at most MOST of them; `sizes_of` reads it."""
    if len(sizes) > MOST:
        sizes = sizes[np.linspace(0, len(sizes) - 1, MOST).round().astype(int)]
    return " ".join(map(str, sizes.round().clip(1).astype(int).ravel().tolist()))


def sizes_of(text: str, imgsz: int) -> NDArray[np.float64]:
    """(n, 2) described sizes in px of a network input of `imgsz`."""
    return np.array(text.split(), np.float64).reshape(-1, 2) * (imgsz / REFERENCE)


def recall(anchors: Any, sizes: NDArray[np.float64], anchor_t: float) -> float:
    """Best possible recall in [0, 1] of `anchors`, (..., 2) width and height, on (n, 2) `sizes`, n at least 1.

    >>> round(recall([[10, 10], [40, 20]], np.array([[12, 9], [40, 9], [400, 20], [2, 2]]), 4.0), 2)
    0.5
    """
    ratios = sizes[:, None] / np.asarray(anchors, np.float64).reshape(1, -1, 2)
    worst = np.maximum(ratios, 1 / ratios).max(2)
    return float((worst.min(1) < anchor_t).mean())


def fit(sizes: NDArray[np.float64], levels: int, per_level: int) -> list[list[list[float]]] | None:
    """Anchors (levels, per_level, 2) in tenths of a px: centres of k-means, by area, the smallest on the first level.

    The distance is Euclidean between logarithms of width and height, since anchors match by ratios of sides. Seeded;
    the best of RESTARTS. None where there are fewer different sizes than anchors.
    """
    from scipy.cluster.vq import ClusterError, kmeans2, vq  # here: it takes as long to import as all of a plan

    count, logs = levels * per_level, np.log(sizes)
    if len(np.unique(sizes, axis=0)) < count:
        return None
    found = []
    for seed in range(RESTARTS):
        try:
            centres, _ = kmeans2(logs, count, iter=50, minit="++", missing="raise", seed=seed)
        except ClusterError:  # a cluster lost its last box
            continue
        found.append((float((vq(logs, centres)[1] ** 2).sum()), centres))
    if not found:
        return None
    sides = np.exp(min(found, key=lambda one: one[0])[1])
    ordered = sides[np.argsort(sides.prod(1), kind="stable")]
    rounded: list[list[list[float]]] = ordered.round(1).clip(0.1).reshape(levels, per_level, 2).tolist()
    return rounded


def told(settled: dict[str, Any], written: dict[str, Any], train: Dataset) -> str | None:
    """A line on the anchors that a configuration settled for; None for a head that has none. written: before that."""
    head, imgsz, resize = settled["head"], settled["schedule"]["phases"][0]["imgsz"], settled["preprocess"]["resize"]
    sizes = box_sizes(train, resize, imgsz)
    if not {"anchors", "anchor_t"} <= head.keys() or not len(sizes):
        return None
    try:
        np.asarray(head["anchors"], np.float64)
    except (TypeError, ValueError):  # the head refuses them by name when it is built
        return None
    found = f"best possible recall of the head's anchors at {imgsz} px: {_share(head, sizes)}"
    if head["anchors"] == written["head"]["anchors"]:
        return found
    return f"{found}, fitted to this data (those given: {_share(written['head'], sizes)}): {head['anchors']}"


def _share(head: dict[str, Any], sizes: NDArray[np.float64]) -> str:
    return f"{recall(head['anchors'], sizes, head['anchor_t']):.3f}".removeprefix("0")
