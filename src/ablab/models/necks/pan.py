"""Path aggregation (Liu et al. 2018) with C3 blocks: top-down, then bottom-up, joined by concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import C3, ConvBNAct


class PAN(nn.Module):
    """n maps, each half the size of the one before, → n maps of the same sizes and `channels` wide.

    `channels` has one width per level, finest first. On the way down the pyramid a 1×1 convolution narrows
    level i to the width of level i - 1, which is then what the bottom-up path joins at level i; downsampling
    on the way up keeps the width. `c3` holds count, width and shortcut of every C3.

    Raises UserError when the number of levels differs from the backbone's, or its strides do not double.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        c3: Mapping[str, Any],
        activation: str,
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        if len(channels) != levels or levels < 2:
            raise UserError(
                f"channels has {len(channels)} widths, one for each of two or more levels was expected; "
                f"the maps that come have the strides {in_strides}"
            )
        if any(coarse != 2 * fine for fine, coarse in pairwise(in_strides)):
            raise UserError(f"strides that double from level to level were expected, found {in_strides}")

        self.out_channels = list(channels)
        self.out_strides = list(in_strides)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral, self.top_down, self.down, self.bottom_up = (nn.ModuleList() for _ in range(4))
        below = in_channels[-1]
        for i in range(levels - 1, 0, -1):  # coarsest first, as they run
            out = channels[i - 1]
            self.lateral.append(ConvBNAct(below, out, activation=activation))
            self.top_down.append(C3(out + in_channels[i - 1], out, activation=activation, **c3))
            below = out
        for i in range(1, levels):
            self.down.append(ConvBNAct(channels[i - 1], channels[i - 1], 3, 2, activation=activation))
            self.bottom_up.append(C3(2 * channels[i - 1], channels[i], activation=activation, **c3))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = maps[-1]
        narrowed = []
        for finer, lateral, block in zip(maps[-2::-1], self.lateral, self.top_down, strict=True):
            x = lateral(x)
            narrowed.append(x)
            x = block(cat((self.upsample(x), finer), 1))
        outs = [x]
        for coarser, down, block in zip(reversed(narrowed), self.down, self.bottom_up, strict=True):
            x = block(cat((down(x), coarser), 1))
            outs.append(x)
        return outs
