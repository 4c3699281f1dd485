"""A convolution at the image's full resolution, then a max pool: how the darknet networks of 2016 to 2018 begin."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.models.blocks import ConvBNAct


class ConvPoolStem(nn.Module):
    """(B, 3, H, W) → (B, channels, H/2, W/2): a convolution of stride 1 and odd kernel, a 2×2 max pool of stride 2."""

    def __init__(
        self, in_channels: list[int], in_strides: list[int], *, channels: int, kernel: int, activation: str
    ) -> None:
        super().__init__()
        self.conv = ConvBNAct(in_channels[-1], channels, kernel, activation=activation)
        self.pool = nn.MaxPool2d(2, 2)
        self.out_channels = [channels]
        self.out_strides = [2 * in_strides[-1]]

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image))
