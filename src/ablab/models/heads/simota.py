"""SimOTA: which predictions answer for which truths, decided by what they predict (Ge et al. 2021, "YOLOX").

Notable:
- The form of YOLOX's current code: candidates are the cells whose centre lies within `radius` strides of a truth's, on
  every level. (The first release took those within a truth's box as well.)
- A truth chooses among the candidates of all truths in its image; others' than its own cost so much more that it takes
  one only where it has too few. Their IoUs count in how many it takes.
- Among candidates of a truth that cost the same, as in an image of one colour, torch.topk chooses: always the same ones
  on one device, maybe others on another.
- All images at once: candidates of an image are a row, padded to those of the image with most.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ablab.models.heads.boxes import iou

ELSEWHERE = 1e6  # cost of a candidate that lies near other truths alone


class Matches(NamedTuple):
    """The m predictions that answer for a truth, by image, then cell."""

    rows: Tensor  # (m,) the prediction, as a row of (B·N)
    truths: Tensor  # (m,) its truth, as a row of the targets


@torch.no_grad()
def assign(
    boxes: Tensor,
    logits: Tensor,
    centres: Tensor,
    strides: Tensor,
    targets: Tensor,
    radius: float,
    most: int,
) -> Matches:
    """Pairs predictions of a batch with its targets.

    boxes (B, N, 4) xyxy px; logits (B, N, 1 + classes) of objectness and classes; centres (N, 2) px and strides (N,)
    px of the cells; targets (n, 6): image, class, xyxy px.

    A candidate costs a truth the binary cross-entropy of √(class · objectness) probabilities with the truth's class,
    summed over classes, less 3 ln IoU. A truth takes the k cheapest, k being the sum of its `most` highest IoUs,
    rounded down, at least 1. A candidate that several take goes to the truth of its image for which it is cheapest.
    """
    batch, cells = boxes.shape[:2]
    image, label = targets[:, 0].long(), targets[:, 1].long()
    x, y = ((targets[:, 2:4] + targets[:, 4:6]) / 2).T[:, :, None]
    reach = radius * strides
    near = ((centres[:, 0] - x).abs() < reach) & ((centres[:, 1] - y).abs() < reach)  # (n, N)
    candidate = torch.zeros(batch, cells, device=boxes.device).index_add_(0, image, near.float()) > 0
    count = candidate.sum(1)
    width = int(count.max()) if len(targets) else 0
    if not width:
        return Matches(image.new_zeros(0), image.new_zeros(0))

    # The padded row of an image's candidates: (B, U) cells, and for each truth those of its image: (n, U).
    where, cell = candidate.nonzero(as_tuple=True)
    listed = cell.new_zeros(batch, width)
    listed[where, candidate.cumsum(1)[where, cell] - 1] = cell
    mine = listed[image]
    there = torch.arange(width, device=boxes.device) < count[image, None]

    rows = (image[:, None] * cells + mine).flatten()
    overlap = iou(boxes.flatten(0, 1).index_select(0, rows).view(*mine.shape, 4), targets[:, None, 2:6]) * there
    chosen = logits.gather(1, listed[:, :, None].expand(-1, -1, logits.shape[2]))  # (B, U, 1 + classes)
    log_p = logsigmoid(chosen).double()
    log_p = (log_p[..., 1:] + log_p[..., :1]) / 2
    log_q = torch.log1p(-log_p.exp()).clamp(min=-100)
    right = (log_p - log_q).transpose(1, 2)[image, label]  # (n, U)
    cost = -log_q.sum(2)[image] - right - 3 * (overlap + 1e-8).log() + ELSEWHERE * ~near.gather(1, mine)
    cost = cost.masked_fill(~there, torch.inf)

    kept = min(most, width)
    k = overlap.topk(kept, 1).values.sum(1).int().clamp(min=1)
    cheapest = cost.topk(kept, 1, largest=False).indices
    taken = torch.zeros_like(there).scatter(1, cheapest, torch.arange(kept, device=k.device) < k[:, None]) & there

    takers = torch.zeros(batch, width, device=boxes.device).index_add_(0, image, taken.float())
    slots = image[:, None].expand_as(cost)
    least = torch.full_like(takers, torch.inf, dtype=cost.dtype).scatter_reduce(0, slots, cost, "amin")
    taken = torch.where(takers[image] > 1, cost == least[image], taken)
    numbers = torch.arange(len(targets), device=boxes.device)[:, None].masked_fill(~taken, len(targets))
    owner = torch.full_like(listed, len(targets)).scatter_reduce(0, slots, numbers, "amin")  # of equals the first
    where, slot = (owner < len(targets)).nonzero(as_tuple=True)
    return Matches(where * cells + listed[where, slot], owner[where, slot])
