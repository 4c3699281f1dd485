from __future__ import annotations

import torch
from torch import nn

from ablab.models.necks.separable_pan import SeparablePAN


def pan(channels=(120, 232, 464), widths=(96, 96, 96)):
    strides = [8 * 2**level for level in range(len(channels))]
    return SeparablePAN(list(channels), strides, channels=list(widths), activation="silu", separable_activation="relu")


def params(module):
    return sum(p.numel() for p in module.parameters())


def test_counts_of_yolov5_lite_e():
    neck = pan()
    assert [params(block) for block in neck.lateral] == [44_736, 9_408]
    assert [params(block) for block in neck.top_down] == [35_288, 23_304]
    assert [params(block) for block in (*neck.down, *neck.bottom_up)] == [10_464] * 4


@torch.no_grad()
def test_paths_by_hand():
    torch.manual_seed(0)
    neck = pan((10, 12, 14), (8, 12, 16)).eval()
    p3, p4, p5 = (torch.rand(1, c, s, s) for c, s in ((10, 8), (12, 4), (14, 2)))
    twice = nn.Upsample(scale_factor=2)
    t5 = neck.lateral[0](p5)
    t4 = neck.lateral[1](neck.top_down[0](torch.cat((twice(t5), p4), 1)))
    n3 = neck.top_down[1](torch.cat((twice(t4), p3), 1))
    n4 = neck.bottom_up[0](neck.down[0](n3) + t4)
    n5 = neck.bottom_up[1](neck.down[1](n4) + t5)
    for ours, expected in zip(neck([p3, p4, p5]), (n3, n4, n5), strict=True):
        torch.testing.assert_close(ours, expected)
    assert [n.shape[1:] for n in (n3, n4, n5)] == [(8, 8, 8), (12, 4, 4), (16, 2, 2)]


def test_two_levels():
    outs = pan((8, 12), (16, 24))([torch.rand(2, 8, 8, 8), torch.rand(2, 12, 4, 4)])
    assert [out.shape for out in outs] == [(2, 16, 8, 8), (2, 24, 4, 4)]
