"""Yolo-Fastest 1.1's neck: pooling over the coarse map, then depthwise 5×5 convolutions on two levels."""

from __future__ import annotations

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct


def branch(channels: int, activation: str) -> nn.Sequential:
    """Twice a depthwise 5×5 convolution and a 1×1 one without activation, at constant width."""
    layers = []
    for _ in range(2):
        layers.append(ConvBNAct(channels, channels, 5, groups=channels, activation=activation))
        layers.append(ConvBNAct(channels, channels, activation="none"))
    return nn.Sequential(*layers)


class YoloFastestNeck(nn.Module):
    """The two coarsest of n maps → maps of the same two sizes.

    The coarse one with its 3, 5 and 9 px max pools (spatial pyramid pooling, He et al. 2014) is narrowed to `channels`,
    which the coarse branch works on; upsampled and joined to the finer map as it is, that is what the fine branch
    works on: its width is `channels` and the finer map's together.

    `darknet_order` holds each level's modules as darknet's files have them, the coarse level first; each is followed
    by its prediction convolution.

    Raises UserError for less than two maps, and for two that are not twice each other's size.
    """

    def __init__(self, in_channels: list[int], in_strides: list[int], *, channels: int, activation: str) -> None:
        super().__init__()
        if len(in_strides) < 2 or in_strides[-1] != 2 * in_strides[-2]:
            raise UserError(
                f"two or more maps were expected, the last two of strides s and 2s; those that come have {in_strides}"
            )
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in (9, 5, 3))
        self.reduce = ConvBNAct(4 * in_channels[-1], channels, activation=activation)
        self.coarse = branch(channels, activation)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.fine = branch(channels + in_channels[-2], activation)
        self.out_channels = [channels + in_channels[-2], channels]
        self.out_strides = in_strides[-2:]

    @property
    def darknet_order(self) -> list[list[nn.Module]]:
        return [[self.reduce, self.coarse], [self.fine]]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        finer, x = maps[-2:]
        x = self.reduce(cat([*(pool(x) for pool in self.pools), x], 1))
        return [self.fine(cat((self.upsample(x), finer), 1)), self.coarse(x)]
