"""The convolutions that halve a map, by the name under which a part's `down` asks for one."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ablab.errors import UserError, nearest
from ablab.models.blocks import ConvBNAct, DepthwiseSeparable
from ablab.models.rep_vgg import RepVGG

# (in, out, stride, activation) -> module
DOWN: dict[str, Callable[[int, int, int, str], nn.Module]] = {
    "conv": lambda i, o, stride, act: ConvBNAct(i, o, 3, stride, activation=act),
    "separable": lambda i, o, stride, act: DepthwiseSeparable(i, o, 3, stride, activation=act),
    "rep_vgg": lambda i, o, stride, act: RepVGG(i, o, stride, activation=act),
    "lcnet": lambda i, o, stride, _: DepthwiseSeparable(i, o, 5, stride, squeeze=True, activation="hardswish"),
}


def down(name: str, in_channels: int, out_channels: int, stride: int, activation: str) -> nn.Module:
    """The convolution of that name: conv (3×3), separable (depthwise 3×3, 1×1), rep_vgg (re-parameterised 3×3) or lcnet
    (depthwise 5×5, squeeze-and-excitation, 1×1, always with Hardswish). (B, in, H, W) → (B, out, H/stride, W/stride)

    Raises UserError for any other name.
    """
    if name not in DOWN:
        raise UserError(f"down '{name}' is unknown. {nearest(name, DOWN)}")
    return DOWN[name](in_channels, out_channels, stride, activation)
