"""A strided convolution as the stem, alone or before a max pool."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.models.blocks import ConvBNAct


class ConvStem(nn.Module):
    """(B, 3, H, W) → (B, channels, H/2, W/2), or H/4, W/4 with `pool`.

    A convolution of stride 2, BatchNorm and activation; `pool` adds the 3×3 max pool of stride 2 with which
    ShuffleNetV2 and the ResNets begin. `padding` is the convolution's: 1 for kernel 3, 2 for kernel 6.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: int,
        kernel: int,
        padding: int,
        activation: str,
        pool: bool,
    ) -> None:
        super().__init__()
        self.conv = ConvBNAct(in_channels[-1], channels, kernel, 2, padding=padding, activation=activation)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        self.out_channels = [channels]
        self.out_strides = [in_strides[-1] * (4 if pool else 2)]

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image))
