"""The anchor head of YOLOv5: one 1×1 convolution per level, three boxes per cell by scaling anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.heads.anchor_loss import anchor_loss, assign


class AnchorHead(nn.Module):
    """n maps → raw: per level (B, A, H, W, 5 + classes), the last axis tx, ty, tw, th, objectness, classes.

    `anchors` lists (width, height) in px of the network input for every level, the same number on each.
    Gains `box`, `obj`, `cls` multiply the losses as they stand, and `balance` the objectness of each level.
    YOLOv5's trainer also scales them by classes/80 (cls), which is the YAML's business, and by 3/levels and
    (imgsz/640)² (obj), which is not done: what the resolved configuration says is what acts. An anchor answers
    for a truth unless a side is `anchor_t` times the other or more.

    Raises UserError when the levels of `anchors` or `balance` differ from the neck's.
    """

    anchors: Tensor  # (levels, A, 2) px
    convs: nn.ModuleList

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        classes: int,
        anchors: list[list[list[float]]],
        anchor_t: float,
        box: float,
        obj: float,
        cls: float,
        balance: list[float],
    ) -> None:
        super().__init__()
        if not len(anchors) == len(balance) == len(in_strides):
            raise UserError(
                f"it has anchors for {len(anchors)} and balance for {len(balance)} levels; "
                f"the maps that come have the strides {in_strides}"
            )
        try:
            sizes = torch.tensor(anchors, dtype=torch.float32)
        except (TypeError, ValueError):  # levels of different lengths
            sizes = torch.empty(0)
        if sizes.dim() != 3 or sizes.shape[2] != 2:
            raise UserError(f"anchors must be as many [width, height] pairs on every level, found {anchors}")
        if not all(side > 0 for level in anchors for pair in level for side in pair):
            raise UserError(f"anchors must be above 0 px, found {anchors}")
        if not anchor_t > 1:
            raise UserError(f"anchor_t must be above 1, found {anchor_t}")
        if not isinstance(classes, int) or classes < 1:
            raise UserError(f"classes (model.classes) must be a whole number from 1 on, found {classes}")
        self.classes = classes
        self.per_cell = sizes.shape[1]
        self.anchor_t = anchor_t
        self.gains = {"box": box, "obj": obj, "cls": cls}
        self.balance = list(balance)
        self.out_channels = [self.per_cell * (5 + classes)] * len(in_channels)
        self.out_strides = list(in_strides)
        # Configuration, not weights: kept out of the state dict, so that other anchors load the same weights.
        self.register_buffer("anchors", sizes, persistent=False)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, out, 1) for width, out in zip(in_channels, self.out_channels, strict=True)
        )
        with torch.no_grad():  # about 8 objects in a 640 px image; each class about 0.6/classes
            for bias, stride in zip(self._biases(), in_strides, strict=True):
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (classes - 0.99))

    def _biases(self) -> list[Tensor]:
        """Per level a view (A, 5 + classes) of the bias that can be written to."""
        return [conv.get_parameter("bias").detach().view(self.per_cell, -1) for conv in self.convs]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        raw = []
        for conv, x in zip(self.convs, maps, strict=True):
            b, _, h, w = x.shape
            raw.append(conv(x).view(b, self.per_cell, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2))
        return raw

    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Mean losses per image, gains applied: {"box", "obj", "cls"}, fp32 scalars that may all be summed.

        targets (n, 6): index of image, class, x1, y1, x2, y2 in px of the network input; n may be 0.
        progress in [0, 1] is not used: this loss is the same all along.
        """
        losses = anchor_loss(raw, targets, self.anchors, self.out_strides, self.anchor_t, self.balance)
        return {name: gain * losses[name] for name, gain in self.gains.items()}

    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        """raw → boxes (B, N, 4) xyxy in px of the network input, scores (B, N, classes) in [0, 1], in fp32.

        N runs over levels, then anchors, rows, columns. A score is objectness × class probability; with one
        class it is the objectness alone, since the loss never trains the class output then.
        """
        boxes, scores = [], []
        for level, (out, stride) in enumerate(zip(raw, self.out_strides, strict=True)):
            b, _, h, w, _ = out.shape
            out = out.float().sigmoid()
            y = torch.arange(h, device=out.device).view(1, h, 1, 1)
            x = torch.arange(w, device=out.device).view(1, 1, w, 1)
            cx = (out[..., 0:1] * 2 - 0.5 + x) * stride
            cy = (out[..., 1:2] * 2 - 0.5 + y) * stride
            half = (out[..., 2:4] * 2) ** 2 * self.anchors[level].view(-1, 1, 1, 2) / 2
            centre = torch.cat((cx, cy), -1)
            boxes.append(torch.cat((centre - half, centre + half), -1).reshape(b, -1, 4))
            score = out[..., 4:5] * out[..., 5:] if self.classes > 1 else out[..., 4:5]
            scores.append(score.reshape(b, -1, self.classes))
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    @torch.no_grad()
    def set_prior(self, targets: list[Tensor], images: int, imgsz: int) -> None:
        """Sets the initial biases from real statistics instead of the guess for 640 px images of COCO.

        Objectness starts at half the share of cells that answer for a truth, for each level and anchor (a
        level or anchor that none matches counts as one cell); classes at their frequencies, within
        [0.01, 0.99]. `targets` are those of `loss`, one tensor for each batch or image; `images` is how many
        images they come from, `imgsz` their size in px. (Measured: on few images it saves epochs.)
        """
        device = self.anchors.device
        targets = [t.to(device) for t in targets]
        known = torch.cat([t[:, 1].long() for t in targets]) if targets else torch.zeros(0).long()
        frequency = torch.bincount(known, minlength=self.classes).to(device) / max(len(known), 1)
        for level, (bias, stride) in enumerate(zip(self._biases(), self.out_strides, strict=True)):
            cells = imgsz // stride
            answering = torch.zeros(self.per_cell, device=device)
            for t in targets:
                rows = assign(t, self.anchors[level], stride, cells, cells, self.anchor_t).rows.unique()
                anchor = rows % self.per_cell
                answering += torch.bincount(anchor, minlength=self.per_cell)
            bias[:, 4] = (answering.clamp(min=1) / (2 * images * cells**2)).logit()
            bias[:, 5:] = frequency.clamp(0.01, 0.99).logit()
