"""The backbone of tiny YOLOv4 (Wang et al. 2021, "Scaled-YOLOv4"): three cross-stage partial blocks."""

from __future__ import annotations

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct


class PartialBlock(nn.Module):
    """Of a 3×3 convolution's channels the second half goes through two more; a 1×1 one joins those two.

    (B, C, H, W) → the joined map (B, channels, H, W), and the block's output (B, 2 · channels, H, W): the first
    convolution's map and the joined one.
    """

    def __init__(self, in_channels: int, channels: int, activation: str) -> None:
        super().__init__()
        half = channels // 2
        self.whole = ConvBNAct(in_channels, channels, 3, activation=activation)
        self.first = ConvBNAct(half, half, 3, activation=activation)
        self.second = ConvBNAct(half, half, 3, activation=activation)
        self.join = ConvBNAct(channels, channels, activation=activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.whole(x)
        first = self.first(x.chunk(2, 1)[1])
        joined = self.join(cat((self.second(first), first), 1))
        return joined, cat((x, joined), 1)


class CSPTiny(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16 and 32: P3, P4, P5.

    A 3×3 convolution to `channels[0]` at stride 4, blocks of `channels[:3]` at the strides 4, 8 and 16 with a 2×2 max
    pool behind each, a 3×3 convolution to `channels[3]`. P3 and P4 are what the second and third block joined, before
    their concatenation. After a stem of stride 4 the first convolution has stride 1. Convolutions are registered in
    the order of darknet's files.

    Raises UserError for a stem that ends at another stride, another number of channels, and odd widths of blocks.
    """

    def __init__(self, in_channels: list[int], in_strides: list[int], *, channels: list[int], activation: str) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        if len(channels) != 4:
            raise UserError(
                "channels was expected to have 4 entries, of three blocks (at strides 4, 8, 16) and of the last "
                f"convolution, but has {len(channels)}"
            )
        if odd := [width for width in channels[:3] if width % 2]:
            raise UserError(f"channels of blocks must be even, since they work on halves; found {odd[0]}")
        first, second, third, last = channels
        self.down = ConvBNAct(in_channels[-1], first, 3, 4 // in_strides[-1], activation=activation)
        self.blocks = nn.ModuleList(
            PartialBlock(before, width, activation)
            for before, width in ((first, first), (2 * first, second), (2 * second, third))
        )
        self.last = ConvBNAct(2 * third, last, 3, activation=activation)
        self.pool = nn.MaxPool2d(2, 2)
        self.out_channels = channels[1:]
        self.out_strides = [8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.down(x)
        maps = []
        for block in self.blocks:
            joined, x = block(x)
            x = self.pool(x)
            maps.append(joined)
        return [*maps[1:], self.last(x)]
