"""The neck of tiny YOLOv3 and YOLOv4: a feature pyramid (Lin et al. 2017) that joins by concatenation."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, cat, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct


class TinyYOLONeck(nn.Module):
    """The coarsest of n maps, as many as `channels` has widths (finest first), → maps of the same sizes, so wide.

    The coarsest map is narrowed by a 1×1 convolution to half its output's width; a 3×3 one makes the output of it. A
    finer level joins its map to what is below (of the coarsest level the narrowed map, of others the output), which a
    1×1 convolution narrows to half the level's width and which is upsampled; a 3×3 convolution makes the output.

    `darknet_order` holds each level's modules as darknet's files have them, the coarsest level first; each is followed
    by its prediction convolution.

    Raises UserError for fewer maps than widths, or maps of which one is not half the size of the one before.
    """

    def __init__(self, in_channels: list[int], in_strides: list[int], *, channels: list[int], activation: str) -> None:
        super().__init__()
        levels = len(channels)
        if levels < 1 or len(in_strides) < levels:
            raise UserError(
                f"it has channels for {levels} levels, one for each of the coarsest maps; those that come have the "
                f"strides {in_strides}"
            )
        widths, strides = in_channels[-levels:], in_strides[-levels:]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise UserError(f"strides that double from level to level were expected, found {strides}")

        below = channels[-1] // 2
        self.reduce = ConvBNAct(widths[-1], below, activation=activation)
        self.outputs = nn.ModuleList([ConvBNAct(below, channels[-1], 3, activation=activation)])  # coarsest first
        self.lateral = nn.ModuleList()
        for width, out in zip(widths[-2::-1], channels[-2::-1], strict=True):
            self.lateral.append(ConvBNAct(below, out // 2, activation=activation))
            self.outputs.append(ConvBNAct(out // 2 + width, out, 3, activation=activation))
            below = out
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.out_channels = list(channels)
        self.out_strides = strides

    @property
    def darknet_order(self) -> list[list[nn.Module]]:
        return [[narrow, out] for narrow, out in zip([self.reduce, *self.lateral], self.outputs, strict=True)]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        below = self.reduce(maps[-1])
        outs = [self.outputs[0](below)]
        finer = maps[-2 : -len(self.outputs) - 1 : -1]
        for x, lateral, output in zip(finer, self.lateral, list(self.outputs)[1:], strict=True):
            below = output(cat((self.upsample(lateral(below)), x), 1))
            outs.append(below)
        return outs[::-1]
