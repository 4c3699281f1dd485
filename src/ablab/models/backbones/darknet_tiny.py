"""The backbone of tiny YOLOv3 (Redmon & Farhadi 2018): 3×3 convolutions with a 2×2 max pool before each but the
first."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct

STRIDES = (2, 4, 8, 16, 32, 32)  # of the convolutions


class PoolInPlace(nn.MaxPool2d):
    """A 2×2 max pool of stride 1 that keeps the size: beyond the right and the bottom edge lies nothing (-inf)."""

    def __init__(self) -> None:
        super().__init__(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, (0, 1, 0, 1), value=float("-inf")))


class DarknetTiny(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16 and 32: P3, P4, P5.

    Six convolutions of `channels`, at STRIDES, counted from the stride the stem ends at: after a stem of stride 4 the
    pool that would lead there is left out. Before the last convolution the pool has stride 1. Convolutions are
    registered in the order of darknet's files.

    Raises UserError for a stem that ends at another stride, and for another number of channels.
    """

    def __init__(self, in_channels: list[int], in_strides: list[int], *, channels: list[int], activation: str) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        if len(channels) != len(STRIDES):
            raise UserError(
                f"channels was expected to have {len(STRIDES)} entries, one for each convolution (at strides "
                f"{', '.join(map(str, STRIDES))}), but has {len(channels)}"
            )
        self.stages = nn.ModuleList()
        width, stride = in_channels[-1], in_strides[-1]
        for index, (out, at) in enumerate(zip(channels, STRIDES, strict=True)):
            stage = nn.Sequential(ConvBNAct(width, out, 3, activation=activation))
            if at > stride:
                stage.insert(0, nn.MaxPool2d(2, 2))
            elif index == len(STRIDES) - 1:
                stage.insert(0, PoolInPlace())
            self.stages.append(stage)
            width, stride = out, max(at, stride)
        self.out_channels = [channels[2], channels[3], channels[5]]
        self.out_strides = [8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[2], maps[3], maps[5]]
