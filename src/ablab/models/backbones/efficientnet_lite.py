"""EfficientNet-Lite (Google, 2020): EfficientNet (Tan & Le 2019) without squeeze-and-excitation, and with ReLU6.

Both leave nothing that 8-bit integers do badly. The five published sizes differ in two numbers, width and depth.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct

STAGES = (  # channels, kernel, stride, expansion, repeats: EfficientNet-B0, table 1 of the paper, and Lite0
    (16, 3, 1, 1, 1),
    (24, 3, 2, 6, 2),
    (40, 5, 2, 6, 2),
    (80, 3, 2, 6, 3),
    (112, 5, 1, 6, 3),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)
LEVELS = (2, 4, 6)  # the last stages at stride 8, 16, 32


def scaled_width(channels: int, width: float) -> int:
    """`channels` × `width`, rounded to the nearest multiple of 8, or up where that would take more than a tenth.

    >>> [scaled_width(channels, 1.1) for channels, *_ in STAGES]
    [16, 24, 48, 88, 120, 208, 352]
    """
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


class MBConv(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018, "MobileNetV2"): (B, in, H, W) → (B, out, H/stride, W/stride).

    1×1 to `expand` times the width (not for 1), depthwise, 1×1 without activation. Where the shape stays, the input
    is added, and in training the rest is left out for a share `drop` of the images (Huang et al. 2016).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int, drop: float, activation: str
    ) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.body = nn.Sequential(
            ConvBNAct(hidden, hidden, kernel, stride, groups=hidden, activation=activation),
            ConvBNAct(hidden, out_channels, activation="none"),
        )
        if expand != 1:
            self.body.insert(0, ConvBNAct(in_channels, hidden, activation=activation))
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop = StochasticDepth(drop, "row") if self.shortcut and drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.body(x)) if self.shortcut else self.body(x)


class EfficientNetLite(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16 and 32: P3, P4, P5, without the classifier's 1×1 convolution.

    Published (width, depth): Lite0 1.0, 1.0; Lite1 1.0, 1.1; Lite2 1.1, 1.2; Lite3 1.2, 1.4; Lite4 1.4, 1.8. Of the
    seven stages the first and the last are one block at any depth. The first has stride 1 and expects a stem of stride
    2 and 32 channels; after a stem of stride 4 the second has stride 1 too, so that all levels stay where they were.

    `drop_connect` in [0, 1) rises from 0 at the first stage by a seventh of it at every stage.

    Raises UserError for a stem that ends at another stride, or for numbers out of range.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        width: float,
        depth: float,
        drop_connect: float,
        activation: str,
    ) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        if width <= 0 or depth <= 0:
            raise UserError(f"width and depth must be above 0, found {width} and {depth}")
        if not 0 <= drop_connect < 1:
            raise UserError(f"drop_connect must be a share in [0, 1), found {drop_connect}")
        self.stages = nn.ModuleList()
        before = in_channels[-1]
        for index, (channels, kernel, stride, expand, repeats) in enumerate(STAGES):
            first, last = index == 0, index == len(STAGES) - 1
            count = repeats if first or last else math.ceil(round(repeats * depth, 6))
            if index == 1 and in_strides[-1] == 4:
                stride = 1
            out, drop = scaled_width(channels, width), drop_connect * index / len(STAGES)
            blocks = []
            for _ in range(count):
                blocks.append(MBConv(before, out, kernel, stride, expand, drop, activation))
                before, stride = out, 1
            self.stages.append(nn.Sequential(*blocks))
        self.out_channels = [scaled_width(STAGES[index][0], width) for index in LEVELS]
        self.out_strides = [8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in LEVELS:
                maps.append(x)
        return maps
