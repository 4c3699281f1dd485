"""Yolo-Fastest's backbone: inverted residuals (Sandler et al. 2018, "MobileNetV2") as narrow as they come."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct

STRIDES = (2, 4, 8, 8, 16, 32)  # at which the groups of blocks end


class InvertedResidual(nn.Module):
    """1×1 to `inner` channels, depthwise 3×3, 1×1 without activation; with `dropout`, that much of it drops out in
    training and the input is added (a block without a shortcut has None)."""

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int = 1,
        *,
        dropout: float | None = None,
        activation: str,
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ConvBNAct(in_channels, inner, activation=activation),
            ConvBNAct(inner, inner, 3, stride, groups=inner, activation=activation),
            ConvBNAct(inner, out_channels, activation="none"),
        )
        self.dropout = None if dropout is None else nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y if self.dropout is None else x + self.dropout(y)


class YoloFastest(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16 and 32: P3, P4, P5.

    Six groups of blocks, which end at STRIDES: one block of `entry` inner channels without a shortcut, which changes
    width and stride, then `repeats` blocks of `inner` inner channels with one. They are counted from the stride the
    stem ends at: after a stem of stride 4 the group that would lead there has stride 1. `dropout` is the share of
    what a block adds that training drops. Convolutions are registered in the order of darknet's files.

    Raises UserError for a stem that ends at another stride, lists that are not six entries long, a dropout out of
    [0, 1).
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        entry: list[int],
        inner: list[int],
        repeats: list[int],
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        for name, values in (("channels", channels), ("entry", entry), ("inner", inner), ("repeats", repeats)):
            if len(values) != len(STRIDES):
                raise UserError(
                    f"{name} was expected to have {len(STRIDES)} entries, one for each group of blocks (which end at "
                    f"strides {', '.join(map(str, STRIDES))}), but has {len(values)}"
                )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: expected a share from 0 to below 1, found {dropout}")

        self.groups = nn.ModuleList()
        width, stride = in_channels[-1], in_strides[-1]
        for out, first, rest, count, end in zip(channels, entry, inner, repeats, STRIDES, strict=True):
            step = max(end // stride, 1)
            entering = InvertedResidual(width, first, out, step, activation=activation)
            others = (InvertedResidual(out, rest, out, dropout=dropout, activation=activation) for _ in range(count))
            self.groups.append(nn.Sequential(entering, *others))
            width, stride = out, stride * step
        self.out_channels = channels[-3:]
        self.out_strides = list(STRIDES[-3:])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for group in self.groups:
            x = group(x)
            maps.append(x)
        return maps[-3:]
