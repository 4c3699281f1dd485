"""NanoDet's head: a tower a level, then classes and the four sides of one box per cell, by generalised focal loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct
from ablab.models.heads.atss import assign, centres
from ablab.models.heads.boxes import iou_and_generalised
from ablab.models.heads.gfl_loss import distribution_focal, expectation, quality_focal

PRIOR = 0.01  # what every class's score starts at (Lin et al. 2017, "Focal Loss"): a bias of -4.595


class GFLHead(nn.Module):
    """n maps → raw: per level (B, classes + 4·(reg_max + 1), H, W): class logits, then left, top, right, bottom.

    A tower is `depth` modules, as wide as the map that comes: depthwise 3×3, 1×1. Weights are each level's own. A side
    is a distribution over 0, 1, …, `reg_max` strides from the cell's centre.

    Truths are given to cells by ATSS with `top_k` candidates a level and squares of `scale` strides (atss.py). Gains
    `qfl`, `giou` and `dfl` multiply the losses of `loss` as they stand; `beta` is the focal exponent.

    Raises UserError for numbers out of range.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        classes: int,
        depth: int,
        reg_max: int,
        activation: str,
        top_k: int,
        scale: float,
        beta: float,
        qfl: float,
        giou: float,
        dfl: float,
    ) -> None:
        super().__init__()
        for name, number, least in (
            ("classes (model.classes)", classes, 1),
            ("depth", depth, 0),
            ("reg_max", reg_max, 1),
            ("top_k", top_k, 1),
        ):
            if not isinstance(number, int) or number < least:
                raise UserError(f"{name} must be a whole number from {least} on, found {number}")
        if not (scale > 0 and beta >= 0):
            raise UserError(f"scale must be above 0 and beta not below, found {scale} and {beta}")
        self.classes, self.bins = classes, reg_max + 1
        self.top_k, self.scale, self.beta = top_k, scale, beta
        self.gains = {"qfl": qfl, "giou": giou, "dfl": dfl}
        self.out_channels = [classes + 4 * self.bins] * len(in_channels)
        self.out_strides = list(in_strides)
        self.towers, self.convs = nn.ModuleList(), nn.ModuleList()
        for width, out in zip(in_channels, self.out_channels, strict=True):
            tower = nn.Sequential()
            for _ in range(depth):
                tower.append(ConvBNAct(width, width, 3, groups=width, activation=activation))
                tower.append(ConvBNAct(width, width, activation=activation))
            self.towers.append(tower)
            self.convs.append(nn.Conv2d(width, out, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for conv in self.convs:
            bias = conv.get_parameter("bias").detach().zero_()
            bias[:classes] = math.log(PRIOR / (1 - PRIOR))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [conv(tower(x)) for conv, tower, x in zip(self.convs, self.towers, maps, strict=True)]

    def _cells(self, raw: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All levels one after another, rows before columns, in fp32: class logits (B, N, classes), logits of the sides
        (B, N, 4, bins), centres (N, 2) in px, strides (N, 1)."""
        points, strides = [], []
        for out, stride in zip(raw, self.out_strides, strict=True):
            x, y = centres((out.shape[2], out.shape[3]), stride, out.device)
            points.append(torch.cartesian_prod(y, x).flip(1))
            strides.append(torch.full_like(points[-1][:, :1], stride))
        flat = torch.cat([out.permute(0, 2, 3, 1).flatten(1, 2) for out in raw], 1).float()
        logits, sides = flat.split((self.classes, 4 * self.bins), 2)
        return logits, sides.unflatten(2, (4, self.bins)), torch.cat(points), torch.cat(strides)

    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Losses with gains applied, {"qfl", "giou", "dfl"}, fp32 scalars that may all be summed:

        - qfl: quality focal loss of all cells and classes, divided by the number of positive cells of the batch (at
          least 1); the target of a positive's class is the IoU of its box (without gradient), of all else 0;
        - giou: mean of 1 - GIoU over the positives, weighted by each one's highest class score (without gradient);
        - dfl: mean of the distribution focal loss over the positives' sides, weighted likewise. Sides further off than
          `reg_max` - 0.1 strides are learnt as that.

        targets (n, 6): index of image, class, x1, y1, x2, y2 in px of the network input; n may be 0.
        progress in [0, 1] is not used: this loss is the same all along.
        """
        logits, sides, points, strides = self._cells(raw)
        sizes = [(out.shape[2], out.shape[3]) for out in raw]
        match = assign(targets, sizes, self.out_strides, len(logits), self.top_k, self.scale)
        labels, truth = targets[match.truths, 1].long(), targets[match.truths, 2:].float()
        cell = match.rows % len(points)
        point, stride = points[cell], strides[cell]
        # index_select, not indexing: its gradient is summed in a fixed order on any number of CPU threads.
        side = sides.flatten(0, 1).index_select(0, match.rows)
        weight = logits.detach().flatten(0, 1).index_select(0, match.rows).amax(1).sigmoid()

        iou, giou = iou_and_generalised(_boxes(point, expectation(side) * stride), truth)
        quality = logits.new_zeros(logits.shape)
        quality.view(-1, self.classes)[match.rows, labels] = iou.detach()
        wanted = torch.cat((point - truth[:, :2], truth[:, 2:] - point), 1) / stride
        dfl = distribution_focal(side, wanted.clamp(0, self.bins - 1.1)).mean(1)
        total = weight.sum().clamp(min=1e-6)  # without positives all sums are 0
        losses = {
            "qfl": quality_focal(logits, quality, self.beta).sum() / max(len(match.rows), 1),
            "giou": ((1 - giou) * weight).sum() / total,
            "dfl": (dfl * weight).sum() / total,
        }
        return {name: gain * losses[name] for name, gain in self.gains.items()}

    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        """raw → boxes (B, N, 4) xyxy in px of the network input, within it, scores (B, N, classes) in [0, 1], in fp32.

        N runs over levels, then rows, columns.
        """
        logits, sides, points, strides = self._cells(raw)
        height, width = (cells * self.out_strides[0] for cells in raw[0].shape[2:])
        limit = points.new_tensor([width, height, width, height])
        boxes = _boxes(points, expectation(sides) * strides)
        return boxes.clamp(min=0).minimum(limit), logits.sigmoid()


def _boxes(points: Tensor, distances: Tensor) -> Tensor:
    """x1 y1 x2 y2 from points (…, 2) and their distances (…, 4) to left, top, right, bottom; px."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
