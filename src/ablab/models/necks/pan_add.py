"""NanoDet's path aggregation (Liu et al. 2018) by addition: one 1×1 convolution a level, and no other."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ablab.errors import UserError


class AddPAN(nn.Module):
    """n maps, each half the size of the one before, → n maps of the same sizes and all `channels` wide.

    Every map is brought to `channels` by a 1×1 convolution with bias, without BatchNorm and activation; then coarse
    maps are added to finer ones, bilinearly enlarged, and fine ones to coarser ones, halved by the mean of 2×2
    (what bilinear interpolation to half the size is).

    Raises UserError for a single level, or strides that do not double.
    """

    def __init__(self, in_channels: list[int], in_strides: list[int], *, channels: int) -> None:
        super().__init__()
        if len(in_strides) < 2 or any(coarse != 2 * fine for fine, coarse in pairwise(in_strides)):
            raise UserError(f"two or more strides that double from level to level were expected, found {in_strides}")
        if not isinstance(channels, int) or channels < 1:
            raise UserError(f"channels: expected a whole number from 1 on, found {channels}")
        self.out_channels = [channels] * len(in_channels)
        self.out_strides = list(in_strides)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        for conv in self.lateral:
            nn.init.xavier_uniform_(conv.get_parameter("weight"))
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        outs = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        # Functions, not modules: no count of MACs that was published for NanoDet has them in it.
        for i in range(len(outs) - 1, 0, -1):
            outs[i - 1] = outs[i - 1] + interpolate(outs[i], scale_factor=2.0, mode="bilinear", align_corners=False)
        for i in range(1, len(outs)):
            outs[i] = outs[i] + avg_pool2d(outs[i - 1], 2)
        return outs
