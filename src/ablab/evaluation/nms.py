"""Non-maximum suppression: of the boxes that a network proposes, those that are kept.

Whether greedy NMS keeps a box depends on better boxes alone, so it is done with the best candidates first, and with
more only until enough are kept: the same as with all at once. Early in training every box is a candidate and hardly
any suppresses another; later there are some ten for every box that is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

FIRST, MORE = 128, 4  # candidates, and how many times as many come next; on BCCD the fastest, trained or not


def suppress(boxes: Tensor, scores: Tensor, eval_config: dict[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Multi-label NMS of each image: boxes (B, N, 4) xyxy, scores (B, N, C) → for each image, on the CPU, the kept
    boxes (M, 4), scores (M,) and classes (M,).

    Best first, of equal scores the one that comes first in (N, C); M ≤ max_det. Candidates are the max_nms best pairs
    of box and class whose score is above conf; a box suppresses worse ones of its class with which its IoU is above
    iou, in float32. Boxes and scores that are not finite are no candidates.
    """
    if not boxes.sum().isfinite():  # cheaper than to ask of each; a sum that overflows only costs time
        scores = scores.masked_fill(~boxes.isfinite().all(2, keepdim=True), 0.0)
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        flat = image_scores.flatten()
        best = _best(flat, eval_config["conf"], eval_config["max_nms"])
        candidates, classes = image_boxes[best // scores.shape[2]].cpu(), (best % scores.shape[2]).cpu()
        kept = _greedy(candidates, classes, eval_config["iou"], eval_config["max_det"])
        found.append((candidates[kept], flat[best].cpu()[kept], classes[kept]))
    return found


def _best(scores: Tensor, above: float, most: int) -> Tensor:
    """Places of the best `most` scores (n,) above a limit of at least 0, best first, of equal ones the first first."""
    places = ((scores > above) & (scores < torch.inf)).nonzero().squeeze(1)
    # Bits of positive floats order as the floats do. With the place behind them no two are equal, so that nothing is
    # left to how topk breaks ties.
    bits = scores[places].view(torch.int32).long()
    keys = (bits << 32) + torch.arange(len(places) - 1, -1, -1, device=places.device)
    return places[keys.topk(min(most, len(places))).indices]


def _greedy(boxes: Tensor, classes: Tensor, iou: float, most: int) -> Tensor:
    """Places of the first `most` boxes (n, 4), best first, that no better kept one of their class suppresses."""
    kept = torch.zeros(0, dtype=torch.int64)
    start, count = 0, FIRST
    while start < len(boxes) and len(kept) < most:
        pool = torch.cat((kept, torch.arange(start, min(start + count, len(boxes)))))
        kept = pool[_within_classes(boxes[pool], classes[pool], iou)]
        start, count = start + count, count * MORE
    return kept[:most]


def _within_classes(boxes: Tensor, classes: Tensor, iou: float) -> Tensor:
    """Greedy NMS within each class, boxes best first; the kept places in order.

    Class by class: moving the classes apart, as torchvision's batched_nms does with few boxes, rounds the boxes.
    """
    ranks = torch.arange(len(boxes), 0, -1, dtype=torch.float32)
    by_class = classes.argsort(stable=True)
    sizes = classes[by_class].unique_consecutive(return_counts=True)[1].tolist()
    kept = [members[nms(boxes[members], ranks[members], iou)] for members in by_class.split(sizes)]
    return torch.cat(kept).sort().values
