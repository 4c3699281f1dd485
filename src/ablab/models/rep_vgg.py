"""RepVGG: branches that train better than one convolution and are one convolution when deployed (Ding et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ablab.models.blocks import ConvBNAct
from ablab.models.blocks import activation as activation_named


class RepVGG(nn.Module):
    """3×3 and 1×1 convolution, each with BatchNorm, added; with a third BatchNorm of the input itself where the shape
    stays as it is; then the activation. (B, in, H, W) → (B, out, H/stride, W/stride)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, activation: str = "silu") -> None:
        super().__init__()
        self.stride = stride
        self.conv = ConvBNAct(in_channels, out_channels, 3, stride, activation="none")
        self.point = ConvBNAct(in_channels, out_channels, 1, stride, activation="none")
        self.same = nn.BatchNorm2d(out_channels) if in_channels == out_channels and stride == 1 else None
        self.act = activation_named(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.point(x)
        return self.act(y if self.same is None else y + self.same(x))

    def deployed(self) -> nn.Module:
        """One 3×3 convolution with bias and the activation: the same outputs as in eval mode, up to rounding.

        A 1×1 kernel is a 3×3 one that is zero around its middle, and the input itself a 1×1 kernel of ones and zeros.
        """
        conv, point = self.conv.conv, self.point.conv.weight
        branches = [(conv.weight, self.conv.bn), (_padded(point), self.point.bn)]
        if self.same is not None:
            branches.append((_padded(torch.eye(conv.in_channels).to(point)[:, :, None, None]), self.same))
        folded = [fuse_conv_bn_weights(k, None, *_statistics(bn)) for k, bn in branches]
        one = nn.Conv2d(conv.in_channels, conv.out_channels, 3, self.stride, 1, device="meta")  # draws no numbers
        one.weight, one.bias = (nn.Parameter(torch.stack(each).sum(0)) for each in zip(*folded, strict=True))
        return nn.Sequential(one, self.act)


def _padded(point: Tensor) -> Tensor:
    return pad(point, [1, 1, 1, 1])


def _statistics(bn: nn.BatchNorm2d) -> tuple[Any, ...]:
    return bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
