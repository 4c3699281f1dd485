"""Which anchors answer for which truths, and the loss they pay: darknet's (YOLOv3 and the fork that made YOLOv4).

Darknet writes gradients down, not losses. These losses have those gradients, as sums over an image's predictions:

- objectness and classes: binary cross-entropy with logits, whose gradient is darknet's σ - target;
- `mse`: for x and y a cross-entropy too, since darknet takes target - x for the gradient of the logit; for w and h half
  the squared error of the logarithms; both × (2 - the truth's share of the image's area);
- `ciou`: 1 - CIoU of boxes in shares of the image, whose gradient passes to the logits of x and y as it is, and to w
  and h as that of exp(w), exp(h): darknet leaves σ', the grid and the anchor out. The balance against objectness that
  its gains have rests on this: with the true gradient small boxes would hardly move.

Everything is computed in fp32 whatever autocast made of the predictions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ablab.models.heads.boxes import complete_iou

SURE = 0.25  # a prediction is ignored only if one of its class probabilities is above (before objectness)


class Matches(NamedTuple):
    """The m pairs of prediction and truth on one level."""

    rows: Tensor  # (m,) the prediction, as a row of raw in the order (B·H·W·A, 5 + classes)
    slots: Tensor  # (m,) which of the level's anchors it has
    cells: Tensor  # (m, 2) column and row of its cell
    targets: Tensor  # (m,) index of the truth


def assign(
    targets: Tensor, anchors: Tensor, mask: list[int], stride: int, height: int, width: int, iou_thresh: float
) -> Matches:
    """Pairs the targets (n, 6) of a batch with the anchors (N, 2; px) that one level of height × width cells has.

    Anchor and truth are compared at a common centre. The best of all N anchors answers for a truth, the first of
    equals, if it is in the level's `mask`; so does every other one of the mask whose IoU is above `iou_thresh`
    (1: none). They do so in the cell that holds the truth's centre.
    """
    sizes = targets[:, 4:6] - targets[:, 2:4]
    shared = torch.minimum(sizes[:, None], anchors).prod(2)
    iou = shared / (sizes.prod(1)[:, None] + anchors.prod(1) - shared)  # (n, N)
    answers = iou > iou_thresh
    answers |= torch.arange(len(anchors), device=iou.device) == iou.argmax(1, keepdim=True)
    target, slot = answers[:, mask].nonzero(as_tuple=True)

    grid = targets.new_tensor([width, height])
    centre = (targets[:, 2:4] + targets[:, 4:6]) / (2 * stride)
    cell = centre.floor().clamp(min=0).minimum(grid - 1)[target]
    x, y = cell.long().unbind(1)
    image = targets[target, 0].long()
    return Matches(((image * height + y) * width + x) * len(mask) + slot, slot, cell, target)


def best_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """The largest IoU of each box with a truth of its image, 0 without one.

    boxes (B, N, 4) as centre x, y, width, height; targets (n, 6); both in px. → (B, N)
    """
    images = targets[:, 0].long()
    counts = torch.bincount(images, minlength=len(boxes))
    order = images.argsort(stable=True)
    ranks = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[images[order]]
    truths = boxes.new_zeros(len(boxes), max(int(counts.max()), 1), 4)  # beyond an image's own: empty boxes
    truths[images[order], ranks] = targets[order, 2:6].to(boxes.dtype)

    low, high = boxes[..., None, :2] - boxes[..., None, 2:] / 2, boxes[..., None, :2] + boxes[..., None, 2:] / 2
    near, far = truths[:, None, :, :2], truths[:, None, :, 2:]
    shared = (torch.minimum(high, far) - torch.maximum(low, near)).clamp(min=0).prod(3)
    return (shared / (boxes[..., None, 2:].prod(3) + (far - near).prod(3) - shared)).amax(2)


def centred_boxes(out: Tensor, anchors: Tensor, stride: int, scale_x_y: float) -> Tensor:
    """One level's (B, A, H, W, 5 + classes), float → boxes (B, A, H, W, 4): centre x, y, width, height in px.

    anchors (A, 2) px. A centre may lie (scale_x_y - 1) / 2 cells beyond its cell's borders.
    """
    _, _, h, w, _ = out.shape
    y = torch.arange(h, device=out.device).view(1, h, 1, 1)
    x = torch.arange(w, device=out.device).view(1, 1, w, 1)
    centre = out[..., 0:2].sigmoid() * scale_x_y - (scale_x_y - 1) / 2
    cx, cy = (centre[..., 0:1] + x) * stride, (centre[..., 1:2] + y) * stride
    return torch.cat((cx, cy, out[..., 2:4].exp() * anchors.view(-1, 1, 1, 2)), -1)


def darknet_loss(
    raw: list[Tensor],
    targets: Tensor,
    anchors: Tensor,
    masks: list[list[int]],
    strides: list[int],
    *,
    scale_x_y: float,
    ignore_thresh: float,
    iou_thresh: float,
    box_loss: str,
) -> dict[str, Tensor]:
    """{"box", "obj", "cls"}: fp32 scalars without gains, each the sum over an image's predictions, mean over images.

    - obj: target 1 for a prediction that answers for a truth, else 0; one that does not, but whose box has an IoU above
      `ignore_thresh` with a truth and a class probability above SURE, pays nothing;
    - cls: of those that answer, targets 1 for the classes of their truths;
    - box: of every pair of prediction and truth. Where a prediction answers for several truths and iou_thresh is below
      1, their mean.

    raw: per level (B, A, H, W, 5 + classes); targets (n, 6); anchors (N, 2) px; masks: each level's anchors.
    """
    images = len(raw[0])
    losses = dict.fromkeys(("box", "obj", "cls"), raw[0].new_zeros((), dtype=torch.float32))
    for out, mask, stride in zip(raw, masks, strides, strict=True):
        out = out.float()
        _, _, height, width, outputs = out.shape
        predictions = out.permute(0, 2, 3, 1, 4).reshape(-1, outputs)
        match = assign(targets, anchors, mask, stride, height, width, iou_thresh)
        rows, place, count = match.rows.unique(return_inverse=True, return_counts=True)

        with torch.no_grad():
            boxes = centred_boxes(out, anchors[mask], stride, scale_x_y).permute(0, 2, 3, 1, 4)
            known = best_iou(boxes.reshape(images, -1, 4), targets).flatten() > ignore_thresh
            ignored = known & (predictions[:, 5:].amax(1).sigmoid() > SURE)
            paying = (~ignored).float().index_fill(0, rows, 1.0)
            wanted = torch.zeros_like(paying).index_fill(0, rows, 1.0)
            classes = predictions.new_zeros(len(rows), outputs - 5)
            classes[place, targets[match.targets, 1].long()] = 1.0
        obj = binary_cross_entropy_with_logits(predictions[:, 4], wanted, paying, reduction="sum")
        # index_select, not indexing: its gradient is summed in a fixed order on any number of CPU threads.
        answering = predictions.index_select(0, rows)
        cls = binary_cross_entropy_with_logits(answering[:, 5:], classes, reduction="sum")

        truth = targets[match.targets, 2:6] / targets.new_tensor([width, height, width, height]) / stride
        truth = torch.cat(((truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]), 1)  # shares of the image
        logits = answering[:, :4].index_select(0, place)
        grid = truth.new_tensor([width, height])
        anchor = anchors[mask][match.slots] / (grid * stride)
        error = _by_ciou if box_loss == "ciou" else _by_squares
        box = error(logits, truth, match.cells, anchor, grid, scale_x_y)
        share = 1 / count[place] if iou_thresh < 1 else 1.0
        for name, value in (("box", (box * share).sum()), ("obj", obj), ("cls", cls)):
            losses[name] = losses[name] + value / images
    return losses


def _by_ciou(logits: Tensor, truth: Tensor, cells: Tensor, anchor: Tensor, grid: Tensor, scale_x_y: float) -> Tensor:
    """(m,) 1 - CIoU; logits and truth (m, 4), anchor (m, 2), the truth and the anchor in shares of the image."""
    free_xy, free_wh = logits[:, :2], logits[:, 2:].exp()
    xy = (free_xy.sigmoid() * scale_x_y - (scale_x_y - 1) / 2 + cells) / grid
    # The value of the one, the gradient of the other.
    xy = xy.detach() + (free_xy - free_xy.detach())
    wh = (free_wh * anchor).detach() + (free_wh - free_wh.detach())
    return 1 - complete_iou(torch.cat((xy, wh), 1), truth)


def _by_squares(logits: Tensor, truth: Tensor, cells: Tensor, anchor: Tensor, grid: Tensor, scale_x_y: float) -> Tensor:
    """(m,) errors of tx, ty, tw, th; arguments as for `_by_ciou`."""
    inside = (truth[:, :2] * grid - cells + (scale_x_y - 1) / 2) / scale_x_y  # what σ should be
    xy = scale_x_y * binary_cross_entropy_with_logits(logits[:, :2], inside, reduction="none")
    wh = (logits[:, 2:] - (truth[:, 2:] / anchor).log()) ** 2 / 2
    return (2 - truth[:, 2:].prod(1)) * (xy + wh).sum(1)
