"""Spatial pyramid pooling: max pools of growing windows side by side (He et al. 2014).

Both forms compute the same numbers: a 5×5 window moved twice sees 9×9, thrice 13×13. SPPF does so with
a third of the comparisons.
"""

from __future__ import annotations

from torch import Tensor, cat, nn

from ablab.models.blocks import ConvBNAct


class SPP(nn.Module):
    """1×1 to half the width; that and its 5, 9 and 13 px max pools; 1×1 to `out_channels`. (B, C, H, W)"""

    def __init__(self, in_channels: int, out_channels: int, *, activation: str = "silu") -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvBNAct(in_channels, hidden, activation=activation)
        self.join = ConvBNAct(4 * hidden, out_channels, activation=activation)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.join(cat([x, *(pool(x) for pool in self.pools)], 1))


class SPPF(nn.Module):
    """SPP by one 5 px max pool applied three times in a row. (B, C, H, W)"""

    def __init__(self, in_channels: int, out_channels: int, *, activation: str = "silu") -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvBNAct(in_channels, hidden, activation=activation)
        self.join = ConvBNAct(4 * hidden, out_channels, activation=activation)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.join(cat(maps, 1))
