from __future__ import annotations

import torch
from torch.nn.functional import max_pool2d

from ablab.models.stems.conv import ConvStem
from ablab.models.stems.conv_pool import ConvPoolStem
from ablab.models.stems.focus import Focus


def as_6x6(w3):
    """The 6×6 kernel that does what Focus's 3×3 kernel over 12 channels does."""
    o, twelve, _, _ = w3.shape
    c = twelve // 4
    w6 = w3.new_zeros(o, c, 6, 6)
    for dy in (0, 1):
        for dx in (0, 1):
            group = dy + 2 * dx
            w6[:, :, dy::2, dx::2] = w3[:, c * group : c * (group + 1)]
    return w6


def test_focus_is_a_6x6_convolution():
    torch.manual_seed(0)
    focus = Focus([3], [1], channels=16, kernel=3, activation="silu").double()
    conv = ConvStem([3], [1], channels=16, kernel=6, padding=2, activation="silu", pool=False).double()
    conv.conv.conv.weight.data = as_6x6(focus.conv.conv.weight.data)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    xs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outs = [focus(xs[0]), conv(xs[1])]  # in training mode: BatchNorm sees the same batch statistics
    assert outs[0].shape == (2, 16, 16, 16)
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-12)

    weighting = torch.rand_like(outs[0])
    for out in outs:
        (out * weighting).sum().backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(as_6x6(focus.conv.conv.weight.grad), conv.conv.conv.weight.grad, rtol=0, atol=1e-12)


def test_pool_ends_at_stride_4():
    torch.manual_seed(0)
    keys = {"channels": 8, "kernel": 3, "padding": 1, "activation": "relu"}
    bare, pooled = ConvStem([3], [1], **keys, pool=False).eval(), ConvStem([3], [1], **keys, pool=True).eval()
    pooled.load_state_dict(bare.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert (bare.out_channels, bare.out_strides) == ([8], [2])
    assert (pooled.out_channels, pooled.out_strides) == ([8], [4])
    assert pooled(x).shape == (1, 8, 16, 16)
    assert torch.equal(pooled(x), max_pool2d(bare(x), 3, 2, 1))
    assert bare(x).min() >= 0  # ReLU


def test_a_convolution_at_full_resolution_is_pooled():
    stem = ConvPoolStem([3], [1], channels=5, kernel=3, activation="leaky_relu").eval()
    image = torch.rand(2, 3, 8, 12)
    full = stem.conv(image)
    assert full.shape == (2, 5, 8, 12)
    assert torch.equal(stem(image), full.view(2, 5, 4, 2, 6, 2).amax((3, 5)))
    assert (stem.out_channels, stem.out_strides) == ([5], [2])
