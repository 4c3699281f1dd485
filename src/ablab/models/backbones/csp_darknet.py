"""CSPDarknet: stages of one strided 3×3 convolution and one C3 (YOLOv5 v5.0 and v6.0, YOLOX, YOLOv5-Lite g)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ablab.errors import UserError, nearest
from ablab.models.blocks import C3
from ablab.models.down import down as down_named
from ablab.models.spp import SPP, SPPF


class CSPDarknet(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16, 32 and on: P3, P4, P5 with the usual four stages.

    Stages have the strides 4, 8, 16, 32, …, one for each entry of `channels` and `counts` (bottlenecks in
    its C3). They are counted from the stride the stem ends at: after a stem of stride 4 the first stage's
    convolution keeps its place and its width but has stride 1, so that all levels stay where they were.

    `tail` says what ends the last stage: "spp" as in v5.0 (SPP, then a C3 without shortcuts) or "sppf" as in
    v6.0 (a C3 with shortcuts, then SPPF). `c3` holds `width`, the hidden share of every C3's channels, and may hold
    `depthwise`. `down` names the strided convolution: see ablab.models.down.

    Raises UserError for a stem that ends at another stride, for lists that disagree, for an unknown tail or down.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        counts: list[int],
        c3: Mapping[str, Any],
        tail: str,
        activation: str,
        down: str = "conv",
    ) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        if len(channels) != len(counts) or len(channels) < 3:
            raise UserError(
                "channels and counts were expected to have one entry for each stage (strides 4, 8, 16, …), "
                f"but hold {len(channels)} and {len(counts)}"
            )
        if tail not in ("spp", "sppf"):
            raise UserError(f"tail '{tail}' is unknown. {nearest(tail, ['spp', 'sppf'])}")

        self.stages = nn.ModuleList()
        self.out_channels = channels[1:]
        self.out_strides = [8 * 2**level for level in range(len(channels) - 1)]
        width, stride = in_channels[-1], in_strides[-1]
        for index, (out, count) in enumerate(zip(channels, counts, strict=True)):
            step = 4 * 2**index // stride  # 2, or 1 for the first stage after a stem of stride 4
            last = index == len(channels) - 1
            shortcut = not (last and tail == "spp")
            stage = nn.Sequential(
                down_named(down, width, out, step, activation),
                C3(out, out, count=count, shortcut=shortcut, activation=activation, **c3),
            )
            if last and tail == "spp":
                stage.insert(1, SPP(out, out, activation=activation))
            elif last:
                stage.append(SPPF(out, out, activation=activation))
            self.stages.append(stage)
            width, stride = out, stride * step

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
