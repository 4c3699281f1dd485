"""The backbones of darknet's small networks: strides, shapes, pools; test_darknet_weights has their numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablab.errors import UserError
from ablab.models.backbones.csp_tiny import CSPTiny
from ablab.models.backbones.darknet_tiny import DarknetTiny, PoolInPlace
from ablab.models.backbones.yolo_fastest import InvertedResidual, YoloFastest

NARROW = {"channels": [4] * 5 + [8], "entry": [8] * 6, "inner": [4] * 6, "repeats": [1, 0, 2, 1, 0, 1]}
MAKERS = {
    "yolo_fastest": lambda stride, **keys: YoloFastest(
        [8], [stride], **{**NARROW, "dropout": 0.15, "activation": "leaky_relu"} | keys
    ),
    "darknet_tiny": lambda stride, **keys: DarknetTiny(
        [8], [stride], **{"channels": [4, 4, 6, 8, 10, 12], "activation": "leaky_relu"} | keys
    ),
    "csp_tiny": lambda stride, **keys: CSPTiny(
        [8], [stride], **{"channels": [4, 6, 8, 12], "activation": "leaky_relu"} | keys
    ),
}
WIDTHS = {"yolo_fastest": [4, 4, 8], "darknet_tiny": [6, 8, 12], "csp_tiny": [6, 8, 12]}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("stride", "size"), [(2, 32), (4, 16)])
def test_levels_do_not_depend_on_where_the_stem_ends(name, stride, size):
    net = MAKERS[name](stride)
    assert (net.out_channels, net.out_strides) == (WIDTHS[name], [8, 16, 32])
    maps = net(torch.rand(2, 8, size, size))
    assert [m.shape[1:] for m in maps] == [(c, n, n) for c, n in zip(WIDTHS[name], (8, 4, 2), strict=True)]


def test_shortcuts_drop_what_they_add_in_training_alone():
    torch.manual_seed(0)
    block, plain = (InvertedResidual(8, 16, 8, dropout=share, activation="leaky_relu") for share in (0.5, None))
    x = torch.rand(2, 8, 16, 16)
    added = block.train()(x) - x
    assert (added == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not (plain.train()(x) == 0).any()
    assert not (block.eval()(x) == x).any()
    torch.testing.assert_close(block(x), x + block.block(x))


def test_blocks_of_a_group():
    net = MAKERS["yolo_fastest"](2)
    assert [len(group) for group in net.groups] == [2, 1, 3, 2, 1, 2]
    assert all(group[0].dropout is None and all(block.dropout for block in group[1:]) for group in net.groups)
    steps = [group[0].block[1].conv.stride[0] for group in net.groups]
    assert steps == [1, 2, 2, 1, 2, 2]


def test_a_pool_in_place_looks_right_and_down():
    x = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -9.0, -5.0], [-8.0, -7.0, -6.0]])
    expected = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -5.0], [-7.0, -6.0, -6.0]])
    assert torch.equal(PoolInPlace()(x[None, None])[0, 0], expected)


def test_the_first_maps_of_the_pyramid_are_the_joined_ones():
    """Of a block's output, the second half is the joined map."""
    net = MAKERS["csp_tiny"](2).eval()
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    maps = net(torch.rand(1, 8, 32, 32))
    for level, width in ((0, 6), (1, 8)):
        joined, whole = seen[level + 1]
        assert maps[level] is joined
        assert torch.equal(whole[:, width:], joined)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("yolo_fastest", {"repeats": [1, 1]}, "repeats .* 6 entries.* but has 2"),
        ("yolo_fastest", {"channels": [4] * 7}, "channels .* but has 7"),
        ("yolo_fastest", {"dropout": 1.0}, "dropout: .* found 1.0"),
        ("yolo_fastest", {"activation": "leaky"}, "Did you mean 'leaky_relu'"),
        ("darknet_tiny", {"channels": [4] * 5}, "6 entries, .* but has 5"),
        ("csp_tiny", {"channels": [4] * 5}, "4 entries, .* but has 5"),
        ("csp_tiny", {"channels": [4, 5, 8, 8]}, "even, .* found 5"),
    ],
)
def test_mistakes(name, keys, message):
    with pytest.raises(UserError, match=message):
        MAKERS[name](2, **keys)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stem_that_ends_elsewhere(name):
    with pytest.raises(UserError, match="stride 2 or 4 was expected, this one has stride 8"):
        MAKERS[name](8)


def test_the_pools_of_tiny_yolov3_behind_its_stem():
    pools = [m for m in MAKERS["darknet_tiny"](2).modules() if isinstance(m, nn.MaxPool2d)]
    assert [(m.kernel_size, m.stride) for m in pools] == [(2, 2)] * 4 + [(2, 1)]
