from __future__ import annotations

import pytest
import torch

from ablab.errors import UserError
from ablab.models.backbones.csp_darknet import CSPDarknet
from ablab.models.blocks import C3
from ablab.models.rep_vgg import RepVGG
from ablab.models.spp import SPP, SPPF


def backbone(stride=2, channels=(8, 16, 24, 32), counts=(1, 2, 3, 1), tail="sppf", down="conv"):
    return CSPDarknet(
        [8],
        [stride],
        channels=list(channels),
        counts=list(counts),
        c3={"width": 0.5},
        tail=tail,
        activation="silu",
        down=down,
    )


@pytest.mark.parametrize(("stride", "size"), [(2, 32), (4, 16)])
def test_levels_do_not_depend_on_where_the_stem_ends(stride, size):
    net = backbone(stride)
    assert (net.out_channels, net.out_strides) == ([16, 24, 32], [8, 16, 32])
    maps = net(torch.rand(2, 8, size, size))
    assert [m.shape[1:] for m in maps] == [(16, 8, 8), (24, 4, 4), (32, 2, 2)]


def test_five_stages_reach_stride_64():
    net = backbone(channels=(8, 8, 16, 16, 24), counts=(1, 1, 1, 1, 1))
    assert net.out_strides == [8, 16, 32, 64]
    assert [m.shape[-1] for m in net(torch.rand(1, 8, 64, 64))] == [16, 8, 4, 2]


def test_tails():
    v5, v6 = backbone(tail="spp").stages[-1], backbone(tail="sppf").stages[-1]
    assert [type(m) for m in v5[1:]] == [SPP, C3]
    assert [type(m) for m in v6[1:]] == [C3, SPPF]
    assert not any(b.shortcut for b in v5[2].bottlenecks)
    assert all(b.shortcut for b in v6[1].bottlenecks)


@pytest.mark.parametrize("stride", [2, 4])
def test_a_stage_begins_with_the_down_asked_for(stride):
    net = backbone(stride, down="rep_vgg")
    assert [type(stage[0]) for stage in net.stages] == [RepVGG] * 4
    assert [stage[0].same is None for stage in net.stages] == [stride == 2, True, True, True]
    size = 64 // stride
    assert [m.shape[-1] for m in net(torch.rand(2, 8, size, size))] == [8, 4, 2]


def test_counts_are_counts():
    assert [len(stage[1].bottlenecks) for stage in backbone(counts=(3, 1, 4, 2)).stages] == [3, 1, 4, 2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stride": 8}, "stride 8"),
        ({"counts": (1, 1, 1)}, "4 and 3"),
        ({"tail": "sppff"}, "Did you mean 'sppf'"),
        ({"down": "repvgg"}, "Did you mean 'rep_vgg'"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        backbone(**keys)
