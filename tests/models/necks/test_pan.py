from __future__ import annotations

import pytest
import torch

from ablab.errors import UserError
from ablab.models.necks.pan import PAN


def pan(channels, strides=(8, 16, 32), widths=(8, 12, 16), **keys):
    return PAN(
        list(channels),
        list(strides),
        channels=list(widths),
        c3={"count": 1, "width": 0.5, "shortcut": False},
        activation="silu",
        **keys,
    )


def test_every_output_sees_every_input():
    torch.manual_seed(0)
    neck = pan((10, 20, 30)).eval()
    maps = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((10, 16), (20, 8), (30, 4))]
    outs = neck(maps)
    assert [o.shape for o in outs] == [(1, 8, 16, 16), (1, 12, 8, 8), (1, 16, 4, 4)]
    assert (neck.out_channels, neck.out_strides) == ([8, 12, 16], [8, 16, 32])
    for out in outs:
        grads = torch.autograd.grad(out.sum(), maps, retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads)


def test_two_and_four_levels():
    for levels in (2, 4):
        strides = [8 * 2**i for i in range(levels)]
        neck = pan([8] * levels, strides, [8] * levels)
        outs = neck([torch.rand(2, 8, 128 // s, 128 // s) for s in strides])
        assert [o.shape[-1] for o in outs] == [128 // s for s in strides]


def test_down_is_the_one_asked_for():
    for name, kernel in (("lcnet", 5), ("separable", 3)):
        neck = pan((8, 8, 8), down=name)
        assert [down.depthwise.conv.kernel_size for down in neck.down] == [(kernel, kernel)] * 2
    with pytest.raises(UserError, match="Did you mean 'lcnet'"):
        pan((8, 8, 8), down="lcnett")


@pytest.mark.parametrize(
    ("channels", "strides", "message"), [((8, 8), (8, 16), "channels for 3 levels"), ((8, 8, 8), (8, 16, 64), "double")]
)
def test_mistakes(channels, strides, message):
    with pytest.raises(UserError, match=message):
        pan(channels, strides)
