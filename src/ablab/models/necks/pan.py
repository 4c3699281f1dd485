"""Path aggregation (Liu et al. 2018): top-down, then bottom-up; its form with C3 blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import C3, ConvBNAct
from ablab.models.down import down as down_named


class PathAggregation(nn.Module):
    """n maps, each half the size of the one before, → n maps of the same sizes and `channels` wide.

    `channels` has one width per level, finest first. On the way down the pyramid a 1×1 convolution narrows
    level i to the width of level i - 1, which is then what the bottom-up path joins at level i; downsampling
    on the way up keeps the width. `block(in, out)` makes what mixes two joined maps, `down(channels)` what halves one.
    The top-down path joins by concatenation, the bottom-up one too or, with `add`, by addition.

    Raises UserError when the number of levels differs from the backbone's, or its strides do not double.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        block: Callable[[int, int], nn.Module],
        down: Callable[[int], nn.Module],
        add: bool,
        activation: str,
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        if len(channels) != levels or levels < 2:
            raise UserError(
                f"it has channels for {len(channels)} levels, one for each of two or more was expected; "
                f"the maps that come have the strides {in_strides}"
            )
        if any(coarse != 2 * fine for fine, coarse in pairwise(in_strides)):
            raise UserError(f"strides that double from level to level were expected, found {in_strides}")

        self.out_channels = list(channels)
        self.out_strides = list(in_strides)
        self.add = add
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral, self.top_down, self.down, self.bottom_up = (nn.ModuleList() for _ in range(4))
        below = in_channels[-1]
        for i in range(levels - 1, 0, -1):  # coarsest first, as they run
            out = channels[i - 1]
            self.lateral.append(ConvBNAct(below, out, activation=activation))
            self.top_down.append(block(out + in_channels[i - 1], out))
            below = out
        for i in range(1, levels):
            self.down.append(down(channels[i - 1]))
            self.bottom_up.append(block(channels[i - 1] * (1 if add else 2), channels[i]))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = maps[-1]
        narrowed = []
        for finer, lateral, block in zip(maps[-2::-1], self.lateral, self.top_down, strict=True):
            x = lateral(x)
            narrowed.append(x)
            x = block(cat((self.upsample(x), finer), 1))
        outs = [x]
        for coarser, down, block in zip(reversed(narrowed), self.down, self.bottom_up, strict=True):
            halved = down(x)
            x = block(halved + coarser if self.add else cat((halved, coarser), 1))
            outs.append(x)
        return outs


class PAN(PathAggregation):
    """PathAggregation by C3 blocks and concatenation: the neck of YOLOv5, YOLOX and YOLOv5-Lite s, c and g.

    `c3` holds count, width and shortcut of every C3, and may hold `depthwise`; `down` names the convolution that
    halves a map: see ablab.models.down. Raises UserError as PathAggregation, and for an unknown `down`.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        c3: Mapping[str, Any],
        activation: str,
        down: str = "conv",
    ) -> None:
        super().__init__(
            in_channels,
            in_strides,
            channels=channels,
            block=lambda i, o: C3(i, o, activation=activation, **c3),
            down=lambda width: down_named(down, width, width, 2, activation),
            add=False,
            activation=activation,
        )
