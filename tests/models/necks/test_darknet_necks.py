"""The necks of darknet's small networks, on as many maps as a backbone gives."""

from __future__ import annotations

import pytest
import torch

from ablab.errors import UserError
from ablab.models.necks.tiny_yolo import TinyYOLONeck
from ablab.models.necks.yolo_fastest import YoloFastestNeck


def maps(channels, strides):
    torch.manual_seed(0)
    return [torch.rand(1, c, 64 // s, 64 // s, requires_grad=True) for c, s in zip(channels, strides, strict=True)]


def tiny(channels, strides, widths):
    return TinyYOLONeck(list(channels), list(strides), channels=list(widths), activation="leaky_relu")


def fastest(channels, strides, width=6):
    return YoloFastestNeck(list(channels), list(strides), channels=width, activation="leaky_relu")


@pytest.mark.parametrize(("channels", "strides"), [((10, 20), (16, 32)), ((7, 10, 20), (8, 16, 32))])
@pytest.mark.parametrize(
    ("make", "widths"), [(lambda c, s: tiny(c, s, (8, 12)), [8, 12]), (lambda c, s: fastest(c, s), [16, 6])]
)
def test_the_two_coarsest_maps_are_joined(make, widths, channels, strides):
    neck = make(channels, strides).eval()
    given = maps(channels, strides)
    fine, coarse = neck(given)
    assert (neck.out_channels, neck.out_strides) == (widths, [16, 32])
    assert (fine.shape, coarse.shape) == ((1, widths[0], 4, 4), (1, widths[1], 2, 2))
    for out, sees in ((fine, [True, True]), (coarse, [False, True])):  # top-down alone
        grads = torch.autograd.grad(out.sum(), given, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.abs().sum() > 0) for g in grads[-2:]] == sees
        assert all(g is None for g in grads[:-2])


def test_as_many_levels_as_widths():
    channels, strides = (5, 6, 7, 8), (4, 8, 16, 32)
    neck = tiny(channels, strides, (4, 8, 12))
    outs = neck(maps(channels, strides))
    assert [o.shape[1:] for o in outs] == [(4, 8, 8), (8, 4, 4), (12, 2, 2)]
    assert neck.out_strides == [8, 16, 32]
    # below the coarsest level the output itself goes up: 12 / 2 → 8 / 2, then 8 → 4 / 2
    assert [lateral.conv.weight.shape[:2] for lateral in neck.lateral] == [(4, 6), (2, 8)]
    (only,) = tiny(channels, strides, (12,))(maps(channels, strides))
    assert only.shape == (1, 12, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny((8,), (32,), (8, 8)), r"channels for 2 levels.*\[32\]"),
        (lambda: tiny((8, 8), (16, 32), ()), "channels for 0 levels"),
        (lambda: tiny((8, 8), (8, 32), (8, 8)), r"double.*\[8, 32\]"),
        (lambda: tiny((8, 8), (16, 32), (8, 1)), "channels: .* found 0"),
        (lambda: fastest((8,), (32,)), r"two or more .*\[32\]"),
        (lambda: fastest((8, 8), (8, 32)), r"\[8, 32\]"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
