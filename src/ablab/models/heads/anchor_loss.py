"""Which anchors answer for which truths, and the loss they pay: YOLOv5's assignment, CIoU and objectness.

Notable:
- A truth may have several anchors, on several levels, each in up to three cells; there is no ignore region.
- Where two truths meet in one cell and anchor, its objectness target is the larger of their CIoUs. YOLOv5
  lets the last write win, which is a race on parallel hardware; a maximum has no order.
- Everything is computed in fp32 whatever autocast made of the predictions.
- Predictions are numbered as a channels-last convolution leaves them, so that nothing is copied, and what matches is
  judged for all levels at once: hundreds of pairs cost no more than one, a call on each level does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from ablab.models.heads.boxes import complete_iou


class Matches(NamedTuple):
    """The m pairs of prediction and truth on one level."""

    rows: Tensor  # (m,) the prediction, as a row of raw in the order (B·H·W·A, 5 + classes)
    anchors: Tensor  # (m,) index of its anchor
    boxes: Tensor  # (m, 4) the truth: centre relative to the cell's corner, width, height; in cells
    classes: Tensor  # (m,) int64


def assign(targets: Tensor, anchors: Tensor, stride: int, height: int, width: int, anchor_t: float) -> Matches:
    """Pairs the targets (n, 6) of a batch with the anchors (A, 2; px) of one level of height × width cells.

    An anchor answers for a truth when neither side is `anchor_t` times the other or more. It does so in the
    cell that holds the truth's centre, and in the neighbours whose border lies within half a cell of it,
    unless they are off the grid. A centre exactly on a border is half a cell from nothing new on its far
    side: there the same cell is counted again, as in YOLOv5.
    """
    low, high = targets[:, 2:4] / stride, targets[:, 4:6] / stride
    size, centre = high - low, (low + high) / 2
    ratio = size / (anchors / stride)[:, None]  # (A, n, 2)
    anchor, target = (torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t).nonzero(as_tuple=True)
    centre = centre[target]

    grid = centre.new_tensor([width, height])
    near_low = (centre % 1 < 0.5) & (centre > 1)
    near_high = ((grid - centre) % 1 < 0.5) & (grid - centre > 1)
    shifts = centre.new_tensor([[0, 0], [-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]])
    taken = torch.cat((torch.ones_like(near_low[:, :1]), near_low, near_high), 1)  # (m, 5), as in shifts
    match, shift = taken.nonzero(as_tuple=True)
    anchor, target, centre = anchor[match], target[match], centre[match]

    cell = (centre + shifts[shift]).floor().clamp(min=0).minimum(grid - 1)
    x, y = cell.long().unbind(1)
    image = targets[target, 0].long()
    return Matches(
        rows=((image * height + y) * width + x) * len(anchors) + anchor,
        anchors=anchor,
        boxes=torch.cat((centre - cell, size[target]), 1),
        classes=targets[target, 1].long(),
    )


def anchor_loss(
    raw: list[Tensor],
    targets: Tensor,
    anchors: Tensor,
    strides: list[int],
    anchor_t: float,
    balance: list[float],
) -> dict[str, Tensor]:
    """{"box", "obj", "cls"}: fp32 scalars without gains, sums over the levels of

    - box: mean of 1 - CIoU over the matches;
    - obj: binary cross-entropy, mean over all predictions, × balance; the target of a match is its CIoU
      (at least 0, without gradient), of all others 0;
    - cls: binary cross-entropy, mean over matches and classes; 0 with a single class.

    raw: per level (B, A, H, W, 5 + classes); targets (n, 6); anchors (levels, A, 2) px. A level without
    matches adds nothing to box and cls.
    """
    outputs = raw[0].shape[-1]
    classes = outputs - 5
    predictions = [out.permute(0, 2, 3, 1, 4).reshape(-1, outputs) for out in raw]
    levels = list(zip(raw, anchors, strides, strict=True))
    matches = [assign(targets, a, s, out.shape[2], out.shape[3], anchor_t) for out, a, s in levels]
    # index_select, not indexing: its gradient is summed in a fixed order on any number of CPU threads.
    matched = torch.cat([p.index_select(0, m.rows) for p, m in zip(predictions, matches, strict=True)]).float()
    sizes = torch.cat([(a / s).index_select(0, m.anchors) for (_, a, s), m in zip(levels, matches, strict=True)])
    counts = [len(m.rows) for m in matches]
    share = torch.cat([matched.new_full((n,), 1 / max(n, 1)) for n in counts])  # of a match in its level's mean

    xy = matched[:, 0:2].sigmoid() * 2 - 0.5
    wh = (matched[:, 2:4].sigmoid() * 2) ** 2 * sizes
    iou = complete_iou(torch.cat((xy, wh), 1), torch.cat([m.boxes for m in matches]))
    box = ((1 - iou) * share).sum()

    obj = matched.new_zeros(())
    for level, match, wanted, weight in zip(predictions, matches, iou.detach().split(counts), balance, strict=True):
        logits = level[:, 4].float()
        truth = torch.zeros_like(logits)  # the least a match can want, too: CIoU may be negative
        truth = truth.scatter_reduce(0, match.rows, wanted, "amax")
        obj = obj + weight * binary_cross_entropy_with_logits(logits, truth)

    cls = matched.new_zeros(())
    if classes > 1:
        truth = one_hot(torch.cat([m.classes for m in matches]), classes).float()
        errors = binary_cross_entropy_with_logits(matched[:, 5:], truth, reduction="none")
        cls = (errors.mean(1) * share).sum()
    return {"box": box, "obj": obj, "cls": cls}
