"""No stem at all, before a backbone that brings its own."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.errors import UserError


class Builtin(nn.Module):
    """The image (B, 3, H, W) as it is, stride 1."""

    def __init__(self, in_channels: list[int], in_strides: list[int]) -> None:
        super().__init__()
        self.out_channels = list(in_channels)
        self.out_strides = list(in_strides)

    def forward(self, image: Tensor) -> Tensor:
        return image


def require_image(in_channels: list[int], in_strides: list[int]) -> None:
    """Raises UserError unless what comes is the image itself: for a backbone that brings its own stem."""
    if (in_channels, in_strides) != ([3], [1]):
        raise UserError(
            f"it brings its own stem and expects the image, but {in_channels[-1]} channels of stride {in_strides[-1]} "
            "come: choose stem=builtin"
        )
