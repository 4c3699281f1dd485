from __future__ import annotations

import itertools
import sys
import textwrap

import pytest
import torch
from torch import nn

from ablab.config import groups
from ablab.errors import UserError
from ablab.models.detector import build, fuse

TARGETS = torch.tensor([[0, 1, 4.0, 6, 30, 40], [1, 0, 20.0, 10, 60, 63]])
SMALL = ["model.width=0.125", "model.classes=2"]
OWN_STEM = ("timm", "torchvision")  # backbones that go with stem=builtin alone
CHOICES = {group: groups()[group] for group in ("stem", "backbone", "neck", "head")}


@pytest.fixture(scope="module")
def choice(parts):
    """choice(group, name): that part, resolved in a small detector. Parts resolve without each other."""
    longest = max(map(len, CHOICES.values()))
    resolved = {}
    for i in range(longest):
        picks = {group: names[i % len(names)] for group, names in CHOICES.items()}
        config = parts(*SMALL, *(f"{group}={name}" for group, name in picks.items()))
        resolved |= {(group, name): config[group] for group, name in picks.items()}
    return lambda group, name: resolved[group, name]


@pytest.mark.parametrize("names", itertools.product(*CHOICES.values()), ids="-".join)
def test_every_combination_runs(choice, names):
    if "timm" in names:
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    torch.manual_seed(0)
    config = {group: choice(group, name) for group, name in zip(CHOICES, names, strict=True)}
    if ("builtin" in names) != any(name in OWN_STEM for name in names):
        with pytest.raises(UserError, match=r"backbone \w+ does not fit stem \w+: .*stem"):
            build(config)
        return
    detector = build(config)
    assert detector.max_stride == 32
    assert detector.classes == 2
    images = torch.rand(2, 3, 64, 64)
    raw = detector(images)
    assert [r.shape for r in raw] == [(2, 3, n, n, 7) for n in (8, 4, 2)]
    losses = detector.loss(raw, TARGETS, 0.5)
    assert set(losses) == {"box", "obj", "cls"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    boxes, scores = detector.eval().decode(detector(images))
    assert (boxes.shape, scores.shape) == ((2, 252, 4), (2, 252, 2))
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert 0 <= scores.min() <= scores.max() <= 1


@pytest.mark.parametrize("recipe", ["yolov5n", "yolov5_lite_2021"])
def test_fusing_changes_no_output(parts, recipe):
    torch.manual_seed(0)
    detector = build(parts(f"model={recipe}", "model.classes=3")).double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and shifts that are not the initial ones
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 1.0
    detector(images)
    fused = fuse(detector)
    assert detector.training
    assert not fused.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    for a, b in zip(detector.eval()(images), fused(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_fuse_leaves_alone_what_it_cannot_read(parts):
    class Odd(nn.Module):
        """Its children are in an order in which they are not used."""

        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.out_channels, self.out_strides = [3], [1]

        def forward(self, x):
            return self.conv(self.bn(x))

    detector = build(parts("model=yolov5n", *SMALL))
    rest = detector.stem
    detector.stem = nn.Sequential(Odd(), rest)
    images = torch.rand(2, 3, 64, 64)
    detector(images)
    for a, b in zip(detector.eval()(images), fuse(detector)(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_batch_norms_have_the_eps_of_yolov5(parts):
    detector = build(parts("model=v5lite_s", "model.classes=2"))
    assert {m.eps for m in detector.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_other_numbers_of_levels(parts):
    two = parts("model=yolov5_lite_2021", "model.classes=2")
    two["backbone"] |= {"channels": [16, 32], "repeats": [1, 1]}
    two["neck"]["channels"] = [16, 16]
    two["head"] |= {"anchors": two["head"]["anchors"][:2], "balance": [4.0, 1.0]}
    four = parts("model=yolov5n", "model.classes=2")
    four["backbone"] |= {"channels": [16, 16, 24, 32, 40], "counts": [1] * 5}
    four["neck"]["channels"] = [16, 24, 32, 40]
    four["head"] |= {"anchors": [four["head"]["anchors"][0]] * 4, "balance": [4.0, 1.0, 0.25, 0.06]}
    for config, max_stride in ((two, 16), (four, 64)):
        detector = build(config)
        assert detector.max_stride == max_stride
        raw = detector(torch.rand(2, 3, 128, 128))
        sum(detector.loss(raw, TARGETS, 0.0).values()).backward()
        assert len(raw) == {16: 2, 64: 4}[max_stride]


# ------------------------------------------------------------------------------------------ mistakes


def test_mismatched_parts_are_both_named(parts):
    config = parts("model=yolov5n")
    config["head"]["anchors"] = config["head"]["anchors"][:2]
    with pytest.raises(UserError, match=r"head AnchorHead does not fit neck PAN: anchors for 2"):
        build(config)
    config = parts("model=yolov5n")
    config["backbone"] |= {"channels": [16, 24, 32], "counts": [1, 1, 1]}
    with pytest.raises(UserError, match=r"neck PAN does not fit backbone CSPDarknet: .*\[8, 16\]"):
        build(config)


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ({"_target_": "ablab.models.stems.focus.Focsu"}, "Did you mean 'Focus'"),
        ({"_target_": "ablab.models.stems.focsu.Focus"}, "ablab.models.stems.focsu"),
        ({"_target_": "Focus"}, "module.Class was expected"),
        ({"_target_": "math.sin"}, "no Module"),
        ({"_target_": None}, "module.Class was expected"),
        ({}, "module.Class was expected"),
        (None, "stem"),
        (
            {"_target_": "ablab.models.stems.focus.Focus", "chanels": 8, "kernel": 3, "activation": "silu"},
            r"stem\.chanels: .*Did you mean 'channels'",
        ),
        ({"_target_": "ablab.models.stems.focus.Focus", "channels": 8, "kernel": 3}, r"stem\.activation"),
        (
            {"_target_": "ablab.models.stems.focus.Focus", "channels": 8, "kernel": 3, "activation": "silo"},
            "Did you mean 'silu'",
        ),
    ],
)
def test_mistaken_parts(parts, stem, message):
    with pytest.raises(UserError, match=message):
        build(parts("model=yolov5n") | {"stem": stem})


OWN = """
    from torch import nn

    class Patch(nn.Module):
        def __init__(self, in_channels, in_strides, channels):
            super().__init__()
            self.conv = nn.Conv2d(in_channels[-1], channels, 2, 2)
            self.out_channels, self.out_strides = [channels], [2 * in_strides[-1]]

        def forward(self, image):
            return self.conv(image)

    class Silent(Patch):
        def __init__(self, in_channels, in_strides, **keys):
            super().__init__(in_channels, in_strides, **keys)
            del self.out_channels
"""


def test_a_part_may_live_in_the_users_module(parts, tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    config = parts("model=yolov5n", "model.classes=2")
    try:
        detector = build(config | {"stem": {"_target_": "my_parts.Patch", "channels": 8}})
        assert detector(torch.rand(2, 3, 64, 64))[0].shape == (2, 3, 8, 8, 7)
        with pytest.raises(UserError, match=r"stem Silent: out_channels"):
            build(config | {"stem": {"_target_": "my_parts.Silent", "channels": 8}})
        with pytest.raises(UserError, match="Did you mean 'Patch'"):
            build(config | {"stem": {"_target_": "my_parts.Pach", "channels": 8}})
        with pytest.raises(UserError, match=r"head Patch: .* lacks classes, loss, decode"):
            build(config | {"head": {"_target_": "my_parts.Patch", "channels": 8}})
    finally:
        sys.modules.pop("my_parts", None)


def test_files_that_describe_one_class_differ_where_they_say_so(parts):
    """YAML files hold every key: where two describe one class, only the point of the second may differ."""
    big, small = parts("head=anchor")["head"], parts("head=anchor_small")["head"]
    assert {key for key in big if big[key] != small[key]} == {"anchors"}
    v6, v5 = parts("backbone=csp_darknet")["backbone"], parts("backbone=csp_darknet_v5")["backbone"]
    assert {key for key in v6 if v6[key] != v5[key]} == {"counts", "tail"}
    wide, uniform = parts("neck=pan_c3")["neck"], parts("neck=pan_c3_uniform")["neck"]
    assert {key for key in wide if wide[key] != uniform[key]} == {"channels"}


@torch.no_grad()
def test_a_convolution_that_several_batchnorms_follow_is_folded_for_each(parts):
    """As in RTMDet's head: one convolution for all levels, a BatchNorm for each."""
    torch.manual_seed(0)
    detector = build(parts(*SMALL)).eval()
    shared = nn.Conv2d(3, 4, 3, bias=False)
    rows = []
    for _ in range(2):
        norm = nn.BatchNorm2d(4).eval()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        rows.append(nn.Sequential(shared, norm))
    detector.rows = nn.ModuleList(rows)
    x = torch.rand(1, 3, 8, 8)
    for plain, folded in zip(rows, fuse(detector).rows, strict=True):
        assert len(folded) == 1
        torch.testing.assert_close(folded(x), plain(x))
