"""PP-LCNet (Cui et al. 2021, "PP-LCNet: A Lightweight CPU Convolutional Neural Network"), as YOLOv5-Lite c has it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.blocks import DepthwiseSeparable
from ablab.models.blocks import activation as activation_named


class LCNet(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16, 32 and on: P3, P4, P5 with the usual four stages.

    Stages have the strides 4, 8, 16, 32, …, one for each entry of `channels`; each is one depthwise separable block of
    stride 2 and `repeats` of stride 1. `down_kernel` and `kernel` are the sides of their depthwise kernels, `squeeze`
    says which stages have a squeeze-and-excitation in every block. They are counted from the stride the stem ends at:
    after a stem of stride 4 the first stage's first block keeps its place and its width but has stride 1.

    A 1×1 convolution without BatchNorm, the activation and, in training, `dropout` (a probability) end the last stage.

    Raises UserError for a stem that ends at another stride, for lists that disagree, for a dropout that is none.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        repeats: list[int],
        down_kernel: list[int],
        kernel: list[int],
        squeeze: list[bool],
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        counts = [len(one) for one in (channels, repeats, down_kernel, kernel, squeeze)]
        if len(set(counts)) > 1 or counts[0] < 3:
            raise UserError(
                "channels, repeats, down_kernel, kernel and squeeze were expected to have one entry for each stage "
                f"(strides 4, 8, 16, …), but hold {', '.join(map(str, counts))}"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout was expected from 0 to below 1, found {dropout}")

        first = 4 // in_strides[-1]  # 2, or 1 after a stem of stride 4
        strides = [first, *(2 for _ in channels[1:])]
        stages = []
        for (before, out), count, stride, down, k, se in zip(
            pairwise([in_channels[-1], *channels]), repeats, strides, down_kernel, kernel, squeeze, strict=True
        ):
            halving = DepthwiseSeparable(before, out, down, stride, squeeze=se, activation=activation)
            others = (DepthwiseSeparable(out, out, k, squeeze=se, activation=activation) for _ in range(count))
            stages.append(nn.Sequential(halving, *others))
        dense = nn.Conv2d(channels[-1], channels[-1], 1, bias=False)
        stages[-1].extend([dense, activation_named(activation), nn.Dropout(dropout)])
        self.stages = nn.ModuleList(stages)
        self.out_channels = channels[1:]
        self.out_strides = [8 * 2**level for level in range(len(channels) - 1)]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
