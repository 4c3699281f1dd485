"""Which cells answer for which truths: Adaptive Training Sample Selection (Zhang et al. 2020, arXiv:1912.02424).

Notable:
- A cell stands for a square around its centre, (column + 0.5, row + 0.5) × stride, of `scale` strides.
- Every tie has a winner: of equally near cells the first by rows and columns, of truths that meet in a cell with equal
  IoU the first. Boxes in whole px tie often, and what topk leaves to chance differs from device to device.
- All images at once: their truths share the grid, and only rows say whose they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

INSIDE = 0.01  # px by which a centre must lie within the truth


class Matches(NamedTuple):
    """The m cells that answer for a truth, each for one."""

    rows: Tensor  # (m,) the cell: image × N + its place among the N cells of an image, levels one after another
    truths: Tensor  # (m,) its truth, as a row of targets


def centres(size: tuple[int, int], stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x (W,) and y (H,) of the centres of H × W cells, px."""
    height, width = size
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    return x, y


def assign(
    targets: Tensor, sizes: Sequence[tuple[int, int]], strides: Sequence[int], images: int, top_k: int, scale: float
) -> Matches:
    """Pairs cells with the targets (n, 6; n may be 0) of a batch of `images` images.

    sizes: (height, width) of every level in cells. On every level the `top_k` cells whose centres are nearest to the
    truth's (all, where there are fewer) are its candidates. Positive are those candidates whose square's IoU with the
    truth reaches the mean plus the standard deviation (of a sample: n - 1) over all candidates of that truth, and
    whose centre lies inside of it. A cell that is positive for several truths answers for the one of highest IoU.

    With one or two levels, which the paper has not, the best candidate always reaches it: there the rule alone would
    leave every other truth without a cell.
    """
    if not len(targets):  # of nothing there is no standard deviation
        none = torch.zeros(0, dtype=torch.int64, device=targets.device)
        return Matches(none, none)
    x1, y1, x2, y2 = targets[:, 2:].float().unbind(1)
    places, found = [], []
    before = 0
    for (height, width), stride in zip(sizes, strides, strict=True):
        x, y = centres((height, width), stride, targets.device)
        dx, dy = x - ((x1 + x2) / 2)[:, None], y - ((y1 + y2) / 2)[:, None]
        distance = (dy.square()[:, :, None] + dx.square()[:, None]).flatten(1)  # (n, H·W), squared
        place = _least(distance, min(top_k, height * width))
        cx, cy = x[place % width], y[place // width]
        places.append(place + before)
        found.append(torch.stack((cx, cy, torch.full_like(cx, scale * stride / 2))))
        before += height * width
    place = torch.cat(places, 1)  # (n, candidates)
    cx, cy, half = torch.cat(found, 2)
    x1, y1, x2, y2 = x1[:, None], y1[:, None], x2[:, None], y2[:, None]
    w = (torch.minimum(x2, cx + half) - torch.maximum(x1, cx - half)).clamp(min=0)
    h = (torch.minimum(y2, cy + half) - torch.maximum(y1, cy - half)).clamp(min=0)
    iou = w * h / ((x2 - x1) * (y2 - y1) + (2 * half).square() - w * h)
    inside = torch.stack((cx - x1, cy - y1, x2 - cx, y2 - cy)).amin(0) > INSIDE
    threshold = iou.mean(1, keepdim=True)
    if iou.shape[1] > 1:  # one candidate deviates from nothing
        threshold = threshold + iou.std(1, keepdim=True)
    if len(sizes) < 3:  # of two halves, each of like numbers, none is a standard deviation above the mean
        threshold = threshold.minimum(iou.amax(1, keepdim=True))

    truth, candidate = ((iou >= threshold) & inside).nonzero(as_tuple=True)
    rows = targets[truth, 0].long() * before + place[truth, candidate]
    keys = _ordered(iou[truth, candidate], len(targets) - 1 - truth)
    best = torch.zeros(images * before, dtype=torch.int64, device=rows.device).scatter_reduce(0, rows, keys, "amax")
    kept = best[rows] == keys
    return Matches(rows[kept], truth[kept])


def _least(values: Tensor, count: int) -> Tensor:
    """Columns of the `count` least values (≥ 0) of every row of (n, m), of equal ones the first; in no order."""
    keys = _ordered(values, torch.arange(values.shape[1], device=values.device))
    return keys.topk(count, dim=1, largest=False, sorted=False).indices


def _ordered(values: Tensor, then: Tensor) -> Tensor:
    """int64 that order as `values` (float32, ≥ 0: their bits order as they do), equal ones as `then` (int64)."""
    return (values.view(torch.int32).long() << 32) + then
