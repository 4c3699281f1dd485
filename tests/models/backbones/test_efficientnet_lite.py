from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from ablab.errors import UserError
from ablab.models.backbones.efficientnet_lite import EfficientNetLite, MBConv

SIZES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}


def backbone(size="lite2", stride=2, channels=32, drop_connect=0.2):
    width, depth = SIZES[size]
    keys = {"width": width, "depth": depth, "drop_connect": drop_connect, "activation": "relu6"}
    return EfficientNetLite([channels], [stride], **keys)


@pytest.mark.parametrize(
    ("size", "published", "last"),  # parameters of the ImageNet network, channels of its last stage
    [
        ("lite0", 4_652_008, 320),
        ("lite1", 5_416_680, 320),
        ("lite2", 6_092_072, 352),
        ("lite3", 8_197_096, 384),
        ("lite4", 13_006_568, 448),
    ],
)
def test_counts_of_the_published_networks(size, published, last):
    """They also have a 1×1 convolution to 1280 channels, its BatchNorm, and a classifier of 1000 classes."""
    with torch.device("meta"):
        net = backbone(size)
    stem = 3 * 32 * 9 + 2 * 32
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert stem + sum(p.numel() for p in net.parameters()) + classifier == published
    assert net.out_channels[-1] == last


def test_computes_what_timm_computes():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs, ours = timm.create_model("efficientnet_lite2", pretrained=False).eval(), backbone().eval()
    for (_, target), source in zip(ours.state_dict().items(), theirs.blocks.state_dict().values(), strict=True):
        target.copy_(source + torch.rand(source.shape) * 0.1 if source.is_floating_point() else source)
        source.copy_(target)
    maps, x = [], torch.rand(1, 32, 32, 32)
    y = x
    for index, stage in enumerate(theirs.blocks):
        y = stage(y)
        maps += [y] if index in (2, 4, 6) else []
    for mine, other in zip(ours(x), maps, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("out", "stride", "expand"), [(8, 1, 6), (8, 2, 6), (12, 1, 6), (8, 1, 1)])
def test_block_is_mobilenets(out, stride, expand):
    torch.manual_seed(0)
    ours = MBConv(8, out, 3, stride, expand, 0.0, "relu6").eval()
    theirs = InvertedResidual(8, out, stride, expand).eval()
    for target, source in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        target.copy_(source + torch.rand(source.shape) * 0.1 if source.is_floating_point() else source)
        source.copy_(target)
    x = torch.rand(2, 8, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_drop_connect_skips_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    block = MBConv(4, 4, 3, 1, 6, 0.25, "relu6")
    block.body = nn.Identity()
    x = torch.rand(400, 4, 2, 2) + 1
    rest = (block(x) - x) / x
    skipped = (rest == 0).all((1, 2, 3))
    assert 0.17 < skipped.float().mean().item() < 0.33
    torch.testing.assert_close(rest[~skipped], torch.full_like(rest[~skipped], 1 / 0.75))
    assert torch.equal(block.eval()(x), 2 * x)


def test_drop_connect_rises_by_stages():
    drops = [
        {block.drop.p for block in stage if hasattr(block.drop, "p")} for stage in backbone(drop_connect=0.2).stages
    ]
    assert drops[0] == set()  # nothing is skipped, nor anything added, in the first
    assert drops[1:6] == [{0.2 * index / 7} for index in range(1, 6)]


def test_starts_at_stride_2_or_4_and_ends_alike():
    for stride, size in ((2, 32), (4, 16)):
        net = backbone(stride=stride)
        assert net.out_strides == [8, 16, 32]
        assert [m.shape[1:] for m in net(torch.rand(2, 32, size, size))] == [(48, 8, 8), (120, 4, 4), (352, 2, 2)]


def test_mistakes():
    with pytest.raises(UserError, match="stride 8"):
        backbone(stride=8)
    with pytest.raises(UserError, match="drop_connect"):
        backbone(drop_connect=1.0)
    with pytest.raises(UserError, match="width and depth"):
        EfficientNetLite([32], [2], width=0.0, depth=1.0, drop_connect=0.0, activation="relu6")
