"""The convolution blocks every part is built from, and C3, the block of cross-stage partial networks.

Maps are (B, C, H, W) throughout. Convolutions before a BatchNorm carry no bias: its shift already is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, cat, nn

from ablab.errors import UserError, nearest

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """The activation of that name: silu, relu, leaky_relu (slope 0.1), relu6, hardswish or none.

    Raises UserError for any other name.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation '{name}' is unknown. {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class ConvBNAct(nn.Sequential):
    """Convolution, BatchNorm, activation: (B, in, H, W) → (B, out, H/stride, W/stride).

    `padding` None is "same" for odd kernels (kernel // 2). Computed as a Sequential is: `detector.fuse` can rely
    on the order of its children. Raises UserError for channels or a kernel below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        for what, number in (("channels", in_channels), ("channels", out_channels), ("kernel", kernel)):
            if not isinstance(number, int) or number < 1:
                raise UserError(f"{what}: expected a whole number from 1 on, found {number}")
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = _activation(activation)
        self._depthwise_down = groups == in_channels > 1 and stride > 1

    def forward(self, x: Tensor) -> Tensor:
        slow = self._depthwise_down and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (slow and torch.is_grad_enabled()):
            return super().forward(x)
        # oneDNN has no good bf16 kernel for the gradient of this one convolution: fp32 is five times as fast.
        with torch.autocast("cpu", enabled=False):
            y = self.conv(x.float()).to(torch.get_autocast_dtype("cpu"))
        for layer in list(self.children())[1:]:
            y = layer(y)
        return y


_activation = activation  # the constructor's argument hides the name


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds: mean, 1×1 to a quarter, ReLU, 1×1 back, gate, times the input.

    As Hu et al. 2018 but for the gate, which is SiLU where theirs is a sigmoid: YOLOv5-Lite's. (B, C, H, W) → same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
            nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class DepthwiseSeparable(nn.Sequential):
    """A depthwise convolution, then a 1×1, each with BatchNorm and activation (Howard et al. 2017, "MobileNets").

    (B, in, H, W) → (B, out, H/stride, W/stride). `squeeze` puts a SqueezeExcite between the two, as PP-LCNet does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        squeeze: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.depthwise = ConvBNAct(in_channels, in_channels, kernel, stride, groups=in_channels, activation=activation)
        self.squeeze = SqueezeExcite(in_channels) if squeeze else nn.Identity()
        self.point = ConvBNAct(in_channels, out_channels, activation=activation)


class Bottleneck(nn.Module):
    """1×1 then 3×3 convolution at constant width, plus the input where `shortcut` (He et al. 2016).

    `depthwise` makes the 3×3 a depthwise separable one.
    """

    def __init__(self, channels: int, *, shortcut: bool, activation: str, depthwise: bool = False) -> None:
        super().__init__()
        conv = DepthwiseSeparable if depthwise else ConvBNAct
        self.reduce = ConvBNAct(channels, channels, 1, activation=activation)
        self.conv = conv(channels, channels, 3, activation=activation)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.reduce(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Two branches of width × out channels, `count` bottlenecks in one, joined by a 1×1 convolution.

    Three convolutions around CSP's split (Wang et al. 2020, "CSPNet"), as YOLOv5 has it since v4.0.
    `count` is the number of bottlenecks there really are; `depthwise` makes their 3×3 convolutions depthwise separable
    (YOLOX-Nano). Raises UserError when `width` leaves no channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        count: int,
        width: float = 0.5,
        shortcut: bool = True,
        depthwise: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        hidden = int(out_channels * width)
        if hidden < 1 or count < 0:
            raise UserError(
                f"C3 with count {count} and width {width} of {out_channels} channels cannot be built: "
                "count must be 0 or more, and width must leave at least one channel"
            )
        self.main = ConvBNAct(in_channels, hidden, activation=activation)
        self.side = ConvBNAct(in_channels, hidden, activation=activation)
        self.join = ConvBNAct(2 * hidden, out_channels, activation=activation)
        self.bottlenecks = nn.Sequential(
            *(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise, activation=activation) for _ in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.join(cat((self.bottlenecks(self.main(x)), self.side(x)), 1))
