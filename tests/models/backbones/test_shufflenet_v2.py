from __future__ import annotations

import pytest
import torch
from torchvision.models import shufflenet_v2_x1_0

from ablab.errors import UserError
from ablab.models.backbones.shufflenet_v2 import ShuffleNetV2, Unit


def backbone(channels=(116, 232, 464), stride=4, width=24, conv5=False, pool5=False):
    return ShuffleNetV2(
        [width],
        [stride],
        channels=list(channels),
        repeats=[3, 7, 3][: len(channels)],
        conv5=conv5,
        pool5=pool5,
        activation="relu",
    )


def params(module):
    return sum(p.numel() for p in module.parameters())


def test_computes_what_torchvision_computes():
    torch.manual_seed(0)
    theirs = shufflenet_v2_x1_0(weights=None).eval()
    ours = backbone(conv5=True).eval()
    stages = [theirs.stage2, theirs.stage3, theirs.stage4]
    sources = [value for stage in [*stages, theirs.conv5] for value in stage.state_dict().values()]
    with torch.no_grad():
        for target, source in zip(ours.state_dict().values(), sources, strict=True):
            source.add_(torch.rand(source.shape) * 0.1) if source.is_floating_point() else None
            target.copy_(source)
    x = torch.rand(1, 24, 32, 32)
    p3, p4, p5 = ours(x)
    y = x
    for stage, mine in zip(stages, (p3, p4, None), strict=True):
        y = stage(y)
        if mine is not None:
            torch.testing.assert_close(mine, y)
    torch.testing.assert_close(p5, theirs.conv5(y))


def test_counts_of_torchvision():
    assert 696 + params(backbone()) == 776_420
    assert params(backbone(conv5=True)) - params(backbone()) == 477_184
    assert 696 + params(backbone((120, 232, 464))) == 779_264


def test_shuffle_interleaves_the_halves():
    unit = Unit(8, "relu")
    unit.branch = torch.nn.Identity()
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert unit(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_starts_at_stride_2_or_4_and_ends_alike():
    for stride, size in ((2, 32), (4, 16)):
        net = backbone(stride=stride)
        assert net.out_strides == [8, 16, 32]
        maps = net(torch.rand(2, 24, size, size))
        assert [m.shape[1:] for m in maps] == [(116, 8, 8), (232, 4, 4), (464, 2, 2)]
    with pytest.raises(UserError, match="stride 8"):
        backbone(stride=8)


def test_pool5_keeps_the_resolution_and_takes_the_maximum():
    torch.manual_seed(0)
    plain, pooled = backbone().eval(), backbone(pool5=True).eval()
    pooled.load_state_dict(plain.state_dict())
    x = torch.rand(1, 24, 16, 16)
    before, after = plain(x)[-1], pooled(x)[-1]
    assert after.shape == before.shape
    assert torch.equal(after, before.amax((2, 3), keepdim=True).expand_as(before))  # 2×2 lies in every window


@pytest.mark.parametrize(
    ("keys", "message"), [({"channels": [117, 232, 464]}, "117"), ({"channels": [116, 232, 464, 512]}, "4 and 3")]
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        backbone(**keys)
