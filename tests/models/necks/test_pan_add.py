from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from ablab.errors import UserError
from ablab.models.necks.pan_add import AddPAN


def test_computes_what_nanodet_says():
    """Laterals, enlarged ones added downwards, then bilinear halves (which the neck takes as means) added upwards."""
    torch.manual_seed(0)
    neck = AddPAN([10, 20, 30], [8, 16, 32], channels=6)
    maps = [torch.randn(2, c, s, 2 * s) for c, s in ((10, 16), (20, 8), (30, 4))]
    a, b, c = (conv2d(x, conv.weight, conv.bias) for x, conv in zip(maps, neck.lateral, strict=True))
    b = b + interpolate(c, scale_factor=2, mode="bilinear")
    a = a + interpolate(b, scale_factor=2, mode="bilinear")
    b = b + interpolate(a, scale_factor=0.5, mode="bilinear")
    c = c + interpolate(b, scale_factor=0.5, mode="bilinear")
    for ours, theirs in zip(neck(maps), (a, b, c), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (neck.out_channels, neck.out_strides) == ([6, 6, 6], [8, 16, 32])


def test_two_and_four_levels():
    for levels in (2, 4):
        strides = [8 * 2**i for i in range(levels)]
        outs = AddPAN([8] * levels, strides, channels=4)([torch.rand(2, 8, 128 // s, 128 // s) for s in strides])
        assert [out.shape[1:] for out in outs] == [(4, 128 // s, 128 // s) for s in strides]


@pytest.mark.parametrize(
    ("strides", "channels", "message"), [([8], 4, "two or more"), ([8, 32], 4, "double"), ([8, 16], 0, "channels")]
)
def test_mistakes(strides, channels, message):
    with pytest.raises(UserError, match=message):
        AddPAN([8] * len(strides), strides, channels=channels)
