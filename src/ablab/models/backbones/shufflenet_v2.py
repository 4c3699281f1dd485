"""ShuffleNetV2 (Ma et al. 2018): half of the channels pass by, the rest is mixed in by a channel shuffle.

The shuffle interleaves the two halves: out[2j] = x[j], out[2j + 1] = x[C/2 + j]. It is torch's module: it
keeps channels-last maps as they are, which makes training 10 % faster on a CPU than view, transpose and
reshape, and converters know it by its name, where they do not know the function of that name.
"""

from __future__ import annotations

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct
from ablab.models.published import Published


def branch(in_channels: int, out_channels: int, stride: int, activation: str) -> nn.Sequential:
    """1×1, depthwise 3×3 without activation, 1×1: the branch that does the work in both kinds of unit."""
    return nn.Sequential(
        ConvBNAct(in_channels, out_channels, activation=activation),
        ConvBNAct(out_channels, out_channels, 3, stride, groups=out_channels, activation="none"),
        ConvBNAct(out_channels, out_channels, activation=activation),
    )


class Unit(nn.Module):
    """The basic unit: one half passes through, the other through the branch. (B, C, H, W) → same shape."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, 1, activation)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = x.chunk(2, 1)
        return self.shuffle(cat((passed, self.branch(worked)), 1))


class DownUnit(nn.Module):
    """The unit that halves the map: both branches read all channels. (B, C, H, W) → (B, out, H/2, W/2)"""

    def __init__(self, in_channels: int, out_channels: int, activation: str) -> None:
        super().__init__()
        half = out_channels // 2
        self.side = nn.Sequential(
            ConvBNAct(in_channels, in_channels, 3, 2, groups=in_channels, activation="none"),
            ConvBNAct(in_channels, half, activation=activation),
        )
        self.branch = branch(in_channels, half, 2, activation)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(cat((self.side(x), self.branch(x)), 1))


def _block(ours: str, conv: str, bn: str) -> dict[str, str]:
    """The tensors of one ConvBNAct: our name -> torchvision's."""
    tensors = ("weight", "bias", "running_mean", "running_var")
    return {f"{ours}.conv.weight": f"{conv}.weight"} | {f"{ours}.bn.{one}": f"{bn}.{one}" for one in tensors}


class ShuffleNetV2(nn.Module):
    """(B, C, H, W) → the maps of stride 8, 16, 32 and on: P3, P4, P5 with the usual three stages.

    A stage is one unit that halves the map and `repeats` basic units. The first stage starts at stride 4: a
    stem of stride 2 (Focus, 6×6, 3×3) is followed by the 3×3 max pool of stride 2 that ShuffleNetV2's own
    stem ends with.

    Two layers of the classification network may follow the last map, both off in a detector as a rule:
    `conv5`, its 1×1 convolution to 1024 channels; `pool5`, a pool over the last map. The published network
    pools the whole map, which leaves a detector nothing to detect on; a 5×5 *max* pool of stride 1 and
    padding 2 keeps the resolution, and is this package's reading of the switch (no parameters, no MACs).

    Raises UserError for a stem that ends at another stride, for lists that disagree, for odd widths.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        repeats: list[int],
        conv5: bool,
        pool5: bool,
        activation: str,
    ) -> None:
        super().__init__()
        if in_strides[-1] not in (2, 4):
            raise UserError(f"a stem of stride 2 or 4 was expected, this one has stride {in_strides[-1]}")
        if len(channels) != len(repeats) or len(channels) < 2:
            raise UserError(
                "channels and repeats were expected to have one entry for each stage (strides 8, 16, …), "
                f"but hold {len(channels)} and {len(repeats)}"
            )
        if odd := [width for width in channels if width % 2]:
            raise UserError(f"channels must be even, since units work on halves; found {odd[0]}")

        stages = []
        width = in_channels[-1]
        for out, count in zip(channels, repeats, strict=True):
            units = (Unit(out, activation) for _ in range(count))
            stages.append(nn.Sequential(DownUnit(width, out, activation), *units))
            width = out
        if conv5:
            stages[-1].append(ConvBNAct(width, 1024, activation=activation))
            width = 1024
        if pool5:
            stages[-1].append(nn.MaxPool2d(5, stride=1, padding=2))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if in_strides[-1] == 2 else nn.Identity()
        self.stages = nn.ModuleList(stages)
        self.units = [count + 1 for count in repeats]
        self.out_channels = [*channels[:-1], width]
        self.out_strides = [8 * 2**level for level in range(len(channels))]

    def published(self) -> Published:
        """Of torchvision.models.shufflenet_v2: every tensor that it holds of the stem (which is to be `conv3x3_pool` or
        `conv3x3`) and of this backbone.

        Theirs counts stages from 2; branch1 is our `side`; a branch is a flat row of convolution, BatchNorm and ReLU,
        the depthwise one without. Counts of batches, which nothing reads here, are left out.
        """
        names = _block("stem.conv", "conv1.0", "conv1.1")
        for number, (stage, count) in enumerate(zip(self.stages, self.units, strict=True)):
            for unit in range(count):
                ours, theirs = f"backbone.stages.{number}.{unit}", f"stage{number + 2}.{unit}"
                for place, conv, bn in ((0, 0, 1), (1, 3, 4), (2, 5, 6)):
                    names |= _block(f"{ours}.branch.{place}", f"{theirs}.branch2.{conv}", f"{theirs}.branch2.{bn}")
                for place, conv, bn in ((0, 0, 1), (1, 2, 3)) if unit == 0 else ():
                    names |= _block(f"{ours}.side.{place}", f"{theirs}.branch1.{conv}", f"{theirs}.branch1.{bn}")
            if any(isinstance(layer, ConvBNAct) for layer in stage):  # type: ignore[attr-defined]
                names |= _block(f"backbone.stages.{number}.{count}", "conv5.0", "conv5.1")
        return Published(
            names,
            ("fc.", "conv5."),
            "torchvision's widths for ShuffleNetV2 1.0x are backbone.channels=[116,232,464], after a stem conv3x3_pool "
            "of 24 channels",
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.pool(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
