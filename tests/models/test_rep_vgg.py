from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, silu

from ablab.errors import UserError
from ablab.models.down import DOWN, down
from ablab.models.rep_vgg import RepVGG


def params(module):
    return sum(p.numel() for p in module.parameters())


def trained(*shape):
    """A block whose BatchNorms have statistics and shifts that are not the initial ones."""
    torch.manual_seed(0)
    block = RepVGG(*shape).double().eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return block


@pytest.mark.parametrize("shape", [(6, 8, 2), (6, 8, 1), (8, 8, 2), (8, 8, 1)])
@torch.no_grad()
def test_branches_are_added_and_become_one_convolution(shape):
    block, x = trained(*shape), torch.randn(2, shape[0], 9, 9, dtype=torch.float64)
    stride, same = shape[2], shape in [(8, 8, 1)]

    def normed(y, bn):
        return batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)

    y = normed(conv2d(x, block.conv.conv.weight, stride=stride, padding=1), block.conv.bn)
    y += normed(conv2d(x, block.point.conv.weight, stride=stride), block.point.bn)
    assert (block.same is not None) is same
    if same:
        y += normed(x, block.same)
    torch.testing.assert_close(block(x), silu(y))

    before = torch.random.get_rng_state()
    deployed = block.deployed()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(deployed(x), silu(y), rtol=1e-12, atol=1e-12)
    assert [type(module) for module in deployed] == [nn.Conv2d, nn.SiLU]
    i, o, _ = shape
    assert params(block) == 9 * i * o + 2 * o + i * o + 2 * o + 2 * o * same
    assert params(deployed) == 9 * i * o + o


def test_down_by_name():
    x = torch.rand(2, 8, 8, 8)
    for name in DOWN:
        assert down(name, 8, 12, 2, "relu")(x).shape == (2, 12, 4, 4)
    counts = {name: params(down(name, 8, 12, 2, "relu")) for name in DOWN}
    assert counts == {
        "conv": 9 * 96 + 24,
        "separable": 9 * 8 + 16 + 96 + 24,
        "rep_vgg": 9 * 96 + 24 + 96 + 24,
        "lcnet": 25 * 8 + 16 + (8 * 2 + 2 + 2 * 8 + 8) + 96 + 24,
    }
    with pytest.raises(UserError, match=r"down 'separate' is unknown\. Did you mean 'separable'"):
        down("separate", 8, 8, 2, "relu")
