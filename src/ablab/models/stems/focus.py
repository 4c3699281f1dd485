"""Focus: space to depth, then a convolution (YOLOv5 up to v5.0)."""

from __future__ import annotations

from torch import Tensor, cat, nn

from ablab.models.blocks import ConvBNAct


class Focus(nn.Module):
    """(B, 3, H, W) → (B, channels, H/2, W/2): each 2×2 block of pixels becomes one pixel of 12 channels.

    Group order: (even row, even column), (odd, even), (even, odd), (odd, odd). The same linear map as a
    6×6 convolution of stride 2 and padding 2, with the same parameters and MACs. H and W must be even.
    """

    def __init__(
        self, in_channels: list[int], in_strides: list[int], *, channels: int, kernel: int, activation: str
    ) -> None:
        super().__init__()
        self.conv = ConvBNAct(4 * in_channels[-1], channels, kernel, activation=activation)
        self.out_channels = [channels]
        self.out_strides = [2 * in_strides[-1]]

    def forward(self, image: Tensor) -> Tensor:
        even, odd = image[..., ::2, :], image[..., 1::2, :]
        return self.conv(cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), 1))
