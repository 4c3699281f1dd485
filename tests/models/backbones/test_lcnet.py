from __future__ import annotations

import pytest
import torch
from torch import nn

from ablab.errors import UserError
from ablab.models.backbones.lcnet import LCNet
from ablab.models.blocks import SqueezeExcite


def backbone(stride=2, width=32, **keys):
    shape = {"channels": [64, 128, 256, 512], "repeats": [1, 3, 5, 3], "down_kernel": [3, 3, 3, 5]}
    rest = {"kernel": [3, 3, 5, 5], "squeeze": [False, False, False, True], "dropout": 0.2}
    return LCNet([width], [stride], **shape | rest | keys, activation="hardswish")


def params(module):
    return sum(p.numel() for p in module.parameters())


def test_stages_have_the_counts_of_yolov5_lite_c():
    """Block by block, as the original network prints them."""
    net = backbone()
    assert [params(block) for block in net.stages[0]] == [2_528, 4_928]
    assert [params(block) for block in net.stages[1]] == [9_152, 18_048, 18_048, 18_048]
    assert [params(block) for block in net.stages[2]] == [34_688, *[72_960] * 5]
    assert [params(block) for block in net.stages[3]] == [172_096, *[408_704] * 3, 262_144, 0, 0]


@pytest.mark.parametrize(("stride", "size"), [(2, 32), (4, 16)])
def test_levels_do_not_depend_on_where_the_stem_ends(stride, size):
    net = backbone(stride, channels=[8, 8, 16, 24])
    assert (net.out_channels, net.out_strides) == ([8, 16, 24], [8, 16, 32])
    assert [m.shape[1:] for m in net(torch.rand(2, 32, size, size))] == [(8, 8, 8), (16, 4, 4), (24, 2, 2)]


def test_the_last_convolution_has_neither_norm_nor_bias_and_drops_in_training_alone():
    torch.manual_seed(0)
    net = backbone(channels=[8, 8, 16, 64], dropout=0.5)
    dense, act, dropout = net.stages[-1][-3:]
    assert isinstance(dense, nn.Conv2d)
    assert dense.bias is None
    assert isinstance(act, nn.Hardswish)
    x = torch.rand(4, 32, 64, 64)
    assert (net(x)[-1] == 0).float().mean() > 0.4
    net.eval()
    assert torch.equal(net(x)[-1], net(x)[-1])
    assert (net(x)[-1] == 0).float().mean() < 0.2
    assert dropout.p == 0.5


@torch.no_grad()
def test_squeeze_excite_by_hand():
    torch.manual_seed(0)
    block, x = SqueezeExcite(8), torch.randn(2, 8, 3, 5)
    reduce, expand = block.gate[1], block.gate[3]
    for image in range(2):
        mean = x[image].mean((1, 2))
        hidden = (reduce.weight[:, :, 0, 0] @ mean + reduce.bias).clamp(min=0)
        z = expand.weight[:, :, 0, 0] @ hidden + expand.bias
        torch.testing.assert_close(block(x)[image], x[image] * (z / (1 + (-z).exp()))[:, None, None])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stride": 8}, "stride 8"),
        ({"repeats": [1, 1, 1]}, "hold 4, 3, 4, 4, 4"),
        ({"channels": [8, 8], "repeats": [1, 1], "down_kernel": [3, 3], "kernel": [3, 3], "squeeze": [False] * 2}, "2"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        backbone(**keys)
