"""What YOLOX's predictions mean, and the loss they pay (Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from ablab.models.heads.boxes import iou
from ablab.models.heads.simota import assign


def flatten(raw: list[Tensor], strides: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Per level (B, H, W, 5 + classes) → all levels' predictions (B, N, 5 + classes) in fp32, and of their cells column
    and row (N, 2) and stride (N, 1) px. N runs over levels, rows, columns."""
    cells, sides = [], []
    for out, stride in zip(raw, strides, strict=True):
        y, x = (torch.arange(n, device=out.device, dtype=torch.float32) for n in out.shape[1:3])
        cells.append(torch.cartesian_prod(y, x).flip(1))
        sides.append(torch.full((len(cells[-1]), 1), float(stride), device=out.device))
    return torch.cat([out.flatten(1, 2).float() for out in raw], 1), torch.cat(cells), torch.cat(sides)


def boxes_of(out: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Boxes (B, N, 4) xyxy px of predictions (B, N, 4 or more): centre in strides from the cell's corner, logarithms of
    width and height in strides."""
    centre, half = (out[..., :2] + cells) * strides, out[..., 2:4].exp() * strides / 2
    return torch.cat((centre - half, centre + half), -1)


def yolox_loss(
    raw: list[Tensor], targets: Tensor, strides: list[int], radius: float, most: int, l1: bool
) -> dict[str, Tensor]:
    """{"box", "obj", "cls", "l1"}: fp32 scalars without gains, each a sum over the batch ÷ the number of matches (at
    least 1):

    - box: 1 - IoU² of the matches;
    - obj: binary cross-entropy of all predictions, wanted is 1 of the matches;
    - cls: binary cross-entropy of the matches, wanted is the IoU (without gradient) for their class;
    - l1: |t - the truth's t| of the matches' four box outputs, or 0 unless `l1`.

    raw: per level (B, H, W, 5 + classes): tx, ty, tw, th, objectness, classes; targets (n, 6). radius and most:
    simota.assign's.
    """
    out, cells, sides = flatten(raw, strides)
    every_box = boxes_of(out, cells, sides)
    match = assign(every_box.detach(), out.detach()[..., 4:], (cells + 0.5) * sides, sides[:, 0], targets, radius, most)
    # index_select, not indexing: its gradient is summed in a fixed order on any number of CPU threads.
    predicted = out.flatten(0, 1).index_select(0, match.rows)
    boxes = every_box.flatten(0, 1).index_select(0, match.rows)
    truth = targets.index_select(0, match.truths)
    matches = max(len(match.rows), 1)

    overlap = iou(boxes, truth[:, 2:6])
    objects = torch.zeros_like(out[..., 4]).flatten().index_fill(0, match.rows, 1.0).view_as(out[..., 4])
    classes = one_hot(truth[:, 1].long(), out.shape[2] - 5) * overlap.detach()[:, None]
    losses = {
        "box": (1 - overlap**2).sum(),
        "obj": binary_cross_entropy_with_logits(out[..., 4], objects, reduction="sum"),
        "cls": binary_cross_entropy_with_logits(predicted[:, 5:], classes, reduction="sum"),
        "l1": out.new_zeros(()),
    }
    if l1:
        cell = match.rows % len(cells)
        side, corner = sides[cell], cells[cell]
        centre, size = (truth[:, 2:4] + truth[:, 4:6]) / 2, truth[:, 4:6] - truth[:, 2:4]
        wanted = torch.cat((centre / side - corner, (size / side + 1e-8).log()), 1)
        losses["l1"] = (predicted[:, :4] - wanted).abs().sum()
    return {name: loss / matches for name, loss in losses.items()}
