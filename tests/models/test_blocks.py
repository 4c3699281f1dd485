from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from ablab.errors import UserError
from ablab.models.blocks import C3, Bottleneck, ConvBNAct, DepthwiseSeparable, activation
from ablab.models.spp import SPP, SPPF


def params(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("i", "o", "n"), [(64, 64, 1), (512, 256, 3), (24, 40, 2)])
def test_c3_has_as_many_bottlenecks_as_it_says(i, o, n):
    h = o // 2
    assert params(C3(i, o, count=n)) == 2 * (i * h + 2 * h) + (2 * h * o + 2 * o) + n * (10 * h * h + 4 * h)
    assert len(C3(i, o, count=n).bottlenecks) == n


def test_c3_width_is_the_hidden_share():
    assert C3(32, 64, count=1, width=0.25).main.conv.out_channels == 16
    with pytest.raises(UserError, match="width"):
        C3(32, 64, count=1, width=0.01)


def test_c3_joins_main_branch_first():
    torch.manual_seed(0)
    block, x = C3(6, 8, count=1).eval(), torch.rand(1, 6, 4, 4)
    with torch.no_grad():
        block.join.conv.weight.copy_(torch.eye(8).view(8, 8, 1, 1))
    joined = block.join.act(torch.cat((block.bottlenecks(block.main(x)), block.side(x)), 1))
    torch.testing.assert_close(block(x), joined, rtol=1e-4, atol=1e-4)


def test_depthwise_bottlenecks_have_the_counts_of_yolox_nano():
    """Of its neck: CSP 256 → 128, 128 → 64 and 256 → 256 with one bottleneck each; of its last stage's, 256 → 256."""
    shapes = [(256, 128), (128, 64), (256, 256)]
    assert [params(C3(i, o, count=1, depthwise=True)) for i, o in shapes] == [58_816, 15_072, 166_784]


@torch.no_grad()
def test_depthwise_separable_by_hand():
    torch.manual_seed(0)
    block, x = DepthwiseSeparable(4, 6, 5, 2, squeeze=True, activation="relu").eval(), torch.rand(2, 4, 8, 8)
    y = conv2d(x, block.depthwise.conv.weight, stride=2, padding=2, groups=4) / (1 + 1e-5) ** 0.5
    y = block.squeeze(y.relu())
    y = conv2d(y, block.point.conv.weight) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x), y.relu())
    assert params(block) == 25 * 4 + 8 + (4 + 1 + 4 + 4) + 24 + 12


def test_bottleneck_shortcut_adds_the_input():
    torch.manual_seed(0)
    block = Bottleneck(8, shortcut=True, activation="silu").eval()
    x = torch.rand(1, 8, 5, 5)
    with_input = block(x)
    block.shortcut = False
    torch.testing.assert_close(with_input, block(x) + x)


def test_spp_and_sppf_are_the_same_to_the_bit():
    torch.manual_seed(0)
    a, b = SPP(16, 24).eval(), SPPF(16, 24).eval()
    b.load_state_dict(a.state_dict())
    for size in (1, 7, 20):
        x = torch.randn(2, 16, size, size)
        assert torch.equal(a(x), b(x))


def test_activation_by_name():
    x = torch.tensor([-2.0, 3.0])
    assert activation("leaky_relu")(x.clone()).tolist() == pytest.approx([-0.2, 3.0])
    assert activation("relu")(x.clone()).tolist() == [0.0, 3.0]
    assert activation("hardswish")(x).tolist() == pytest.approx([-2 * 1 / 6, 3.0])
    assert activation("silu")(x)[1].item() == pytest.approx(3 / (1 + 2.718281828**-3))
    with pytest.raises(UserError, match="Did you mean 'silu'"):
        ConvBNAct(1, 1, activation="silo")


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_in_bf16_has_the_gradients_of_fp32(stride):
    """Whichever kernel computes it: inputs and kernels of whole numbers, so that bf16 rounds none of the products."""
    torch.manual_seed(0)
    block = ConvBNAct(6, 6, 3, stride, groups=6, activation="none").eval()  # its BatchNorm passes what comes
    with torch.no_grad():
        block.conv.weight.copy_(torch.randint(-3, 4, block.conv.weight.shape).float())
    x = torch.randint(-4, 5, (2, 6, 8, 8)).float()
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = block(x)
        (found[enabled],) = torch.autograd.grad(y.float().sum(), block.conv.weight)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
    torch.testing.assert_close(found[True], found[False], rtol=2e-2, atol=1e-2)


def test_the_slow_convolution_of_bf16_is_computed_in_fp32_while_training():
    computed = []
    block = ConvBNAct(4, 4, 3, 2, groups=4)
    block.conv.register_forward_hook(lambda module, inputs, out: computed.append(out.dtype))
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, torch.autocast("cpu", torch.bfloat16):
            block(torch.rand(2, 4, 8, 8))
    assert computed == [torch.float32, torch.bfloat16]
