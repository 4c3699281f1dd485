"""The head of YOLOX (Ge et al. 2021): decoupled, without anchors, one prediction a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct, DepthwiseSeparable
from ablab.models.heads.yolox_loss import boxes_of, flatten, yolox_loss


class YOLOXHead(nn.Module):
    """n maps → raw: per level (B, H, W, 5 + classes), the last axis tx, ty, tw, th, objectness, classes.

    On every level a 1×1 convolution to `width` channels, two 3×3 convolutions for the classes and two for box and
    objectness, depthwise separable where `depthwise`, then 1×1 convolutions to the predictions.

    Gains `box`, `obj`, `cls`, `l1` multiply the losses of ablab.models.heads.yolox_loss; that on the raw box outputs,
    `l1`, begins at the share `l1_from` of the phase. `radius` (in strides) and `candidates` are SimOTA's.

    Raises UserError for classes, width, radius or candidates that are none.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        classes: int,
        width: int,
        depthwise: bool,
        activation: str,
        radius: float,
        candidates: int,
        box: float,
        obj: float,
        cls: float,
        l1: float,
        l1_from: float,
    ) -> None:
        super().__init__()
        for what, number in (("classes (model.classes)", classes), ("width", width), ("candidates", candidates)):
            if not isinstance(number, int) or number < 1:
                raise UserError(f"{what} must be a whole number from 1 on, found {number}")
        if not radius > 0:
            raise UserError(f"radius must be above 0 strides, found {radius}")
        if not 0 <= l1_from <= 1:
            raise UserError(f"l1_from must be a share of the phase, from 0 to 1, found {l1_from}")
        self.classes = classes
        self.radius, self.candidates, self.l1_from = radius, candidates, l1_from
        self.gains = {"box": box, "obj": obj, "cls": cls, "l1": l1}
        self.out_channels = [5 + classes] * len(in_channels)
        self.out_strides = list(in_strides)
        conv = DepthwiseSeparable if depthwise else ConvBNAct

        def tower() -> nn.Sequential:
            return nn.Sequential(*(conv(width, width, 3, activation=activation) for _ in range(2)))

        self.stems = nn.ModuleList(ConvBNAct(channels, width, activation=activation) for channels in in_channels)
        self.cls_towers, self.box_towers = (nn.ModuleList(tower() for _ in in_channels) for _ in range(2))
        self.cls, self.box, self.obj = (
            nn.ModuleList(nn.Conv2d(width, out, 1) for _ in in_channels) for out in (classes, 4, 1)
        )
        with torch.no_grad():  # every objectness and class starts at a probability of 0.01
            for level in (*self.cls, *self.obj):
                level.get_parameter("bias").fill_(-math.log(0.99 / 0.01))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        raw = []
        levels = zip(maps, self.stems, self.cls_towers, self.box_towers, self.cls, self.box, self.obj, strict=True)
        for x, stem, cls_tower, box_tower, cls, box, obj in levels:
            x = stem(x)
            y = box_tower(x)
            raw.append(torch.cat((box(y), obj(y), cls(cls_tower(x))), 1).permute(0, 2, 3, 1))
        return raw

    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Losses per match, gains applied: {"box", "obj", "cls", "l1"}, fp32 scalars that may all be summed.

        targets (n, 6): index of image, class, x1, y1, x2, y2 in px of the network input; n may be 0.
        progress in [0, 1]: l1 is 0 before `l1_from`.
        """
        l1 = progress >= self.l1_from
        losses = yolox_loss(raw, targets, self.out_strides, self.radius, self.candidates, l1)
        return {name: gain * losses[name] for name, gain in self.gains.items()}

    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        """raw → boxes (B, N, 4) xyxy in px of the network input, scores (B, N, classes) in [0, 1], in fp32.

        N runs over levels, rows, columns. A score is objectness × class probability.
        """
        out, cells, strides = flatten(raw, self.out_strides)
        return boxes_of(out, cells, strides), out[..., 4:5].sigmoid() * out[..., 5:].sigmoid()
