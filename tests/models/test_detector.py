from __future__ import annotations

import contextlib
import itertools
import re
import sys
import textwrap

import pytest
import torch
from torch import nn

from ablab.config import compose, groups
from ablab.errors import UserError
from ablab.models.detector import build, fuse
from ablab.profiling.elements import elements
from ablab.training import optim

TARGETS = torch.tensor([[0, 1, 4.0, 6, 30, 40], [1, 0, 20.0, 10, 60, 63]])
SMALL = ["model.width=0.125", "model.classes=2"]
OWN_STEM = ("timm", "torchvision")  # backbones that go with stem=builtin alone
CHOICES = {group: groups()[group] for group in ("stem", "backbone", "neck", "head")}


@pytest.fixture(scope="module")
def choice(parts):
    """choice(group, name): that part, resolved in a small detector. Parts resolve without each other."""
    resolved = {
        (group, name): parts(*SMALL, f"{group}={name}")[group] for group, names in CHOICES.items() for name in names
    }
    return lambda group, name: resolved[group, name]


def pairwise():
    """Combinations in which every choice meets every choice of every other group: far fewer than all there are."""
    met, rows = set(), []
    for least in (6, 5, 4, 3, 2, 1):
        for names in itertools.product(*CHOICES.values()):
            pairs = set(itertools.combinations(zip(CHOICES, names, strict=True), 2))
            if len(pairs - met) >= least:
                met |= pairs
                rows.append(names)
    return rows


@pytest.mark.parametrize("names", pairwise(), ids="-".join)
def test_parts_go_together_or_are_refused_with_both_named(choice, conv_macs, names):
    """A backbone may refuse a stem, its own or another's; a head a neck, because of its number of levels."""
    if "timm" in names:
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    torch.manual_seed(0)
    config = {group: choice(group, name) for group, name in zip(CHOICES, names, strict=True)}
    refused, detector = None, None
    try:
        detector = build(config)
    except UserError as error:
        refused = str(error)
    if ("builtin" in names) != any(name in OWN_STEM for name in names):
        assert re.search(r"backbone \w+ does not fit stem \w+: .*stem", refused)
        return
    if detector is None:
        neck, head = (config[group]["_target_"].rpartition(".")[2] for group in ("neck", "head"))
        levels = "levels.* the maps that come have the strides"
        assert re.search(rf"head {head} does not fit neck {neck}: .*{levels}", refused)
        return
    assert detector.max_stride == 32
    assert detector.classes == 2
    images = torch.rand(2, 3, 64, 64)
    assert 0 < elements(detector, [64])[64]["conv_macs"] == conv_macs(detector, 64)
    detector.train()
    optimizers = optim.build(detector, compose([]).resolved["optim"])
    for step in range(2):
        losses = detector.loss(detector(images), TARGETS, step / 2)
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    boxes, scores = detector.eval().decode(detector(images))
    cells = sum((64 // stride) ** 2 for stride in detector.neck.out_strides)
    assert boxes.shape[1] % cells == 0
    assert (boxes.shape, scores.shape) == ((2, boxes.shape[1], 4), (2, boxes.shape[1], 2))
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert 0 <= scores.min() <= scores.max() <= 1


def test_every_neck_has_a_head_and_every_head_a_neck(choice):
    fitting = set()
    first = {"stem": choice("stem", "conv3x3"), "backbone": choice("backbone", "csp_darknet")}
    for neck, head in itertools.product(CHOICES["neck"], CHOICES["head"]):
        with contextlib.suppress(UserError):
            build(first | {"neck": choice("neck", neck), "head": choice("head", head)})
            fitting.add((neck, head))
    assert {neck for neck, _ in fitting} == set(CHOICES["neck"])
    assert {head for _, head in fitting} == set(CHOICES["head"])


def tensors(raw):
    """All tensors of a head's raw predictions."""
    if isinstance(raw, torch.Tensor):
        return [raw]
    return [tensor for inner in (raw.values() if isinstance(raw, dict) else raw) for tensor in tensors(inner)]


@torch.no_grad()
@pytest.mark.parametrize("recipe", groups()["model"])
def test_the_deployed_form_does_the_same_without_a_batchnorm_behind_a_convolution(parts, recipe):
    torch.manual_seed(0)
    detector = build(parts(f"model={recipe}", "model.classes=3"))
    images = torch.rand(8, 3, 64, 64)  # of two, some channel's variance is so small that fp32 alone errs by 1e-4
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and shifts that are not the initial ones
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 1.0
    detector(images)
    for kind, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        deployed = fuse(detector.to(kind).train())
        assert detector.training
        assert not any(module.training for module in deployed.modules())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
        two = images[:2].to(kind)
        for a, b in zip(tensors(detector.eval()(two)), tensors(deployed(two)), strict=True):
            assert (a - b).abs().max() < tolerance * a.abs().max()


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


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Active(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@torch.no_grad()
@pytest.mark.parametrize(
    ("between", "left"),
    [
        (lambda relu: [relu, nn.Conv2d(3, 3, 1), relu, nn.BatchNorm2d(3)], 1),
        (lambda _: [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)], 1),
        (lambda _: [Standardised(3, 3, 1), nn.BatchNorm2d(3)], 1),
        (lambda _: [nn.Conv2d(3, 3, 1), Active(3)], 1),
        (lambda _: [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)], 0),
    ],
    ids=["a shared activation between", "statistics of the batch", "other convolution", "other norm", "no weights"],
)
def test_fuse_folds_only_what_is_a_convolution_and_a_norm_behind_it(parts, between, left):
    torch.manual_seed(0)
    detector = build(parts("model=yolov5n", *SMALL))
    detector.stem = nn.Sequential(*between(nn.ReLU()), detector.stem)
    images = torch.rand(2, 3, 64, 64)
    for module in detector.stem.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    detector(images)
    deployed = fuse(detector)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in deployed.modules()) == left
    for a, b in zip(detector.eval()(images), deployed(images), strict=True):
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
    with pytest.raises(UserError, match=r"head AnchorHead does not fit neck PAN: it has anchors for 2"):
        build(config)
    config = parts("model=yolov5n")
    config["backbone"] |= {"channels": [16, 24, 32], "counts": [1, 1, 1]}
    with pytest.raises(UserError, match=r"neck PAN does not fit backbone CSPDarknet: .*\[8, 16\]"):
        build(config)


@pytest.mark.parametrize(
    ("recipe", "group", "keys", "message"),
    [
        ("nanodet_m", "head", {"top_k": 0}, "head.top_k must be a whole number from 1 on, found 0"),
        ("yolo_fastest_1_1", "head", {"scale_x_y": 0.5}, "head.scale_x_y must be 1 or more, found 0.5"),
        ("v5lite_e", "backbone", {"activation": "rleu"}, "backbone.activation 'rleu' is unknown. Did you mean 'relu'?"),
        ("yolov5n", "neck", {"down": "pool"}, "neck.down 'pool' is unknown"),
    ],
)
def test_a_wrong_value_is_its_key_s_fault_and_no_misfit(parts, recipe, group, keys, message):
    config = parts(f"model={recipe}")
    config[group] |= keys
    with pytest.raises(UserError) as error:
        build(config)
    assert str(error.value).startswith(message)


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
    for group, one, other, points in (
        ("stem", "conv3x3_pool", "conv3x3_pool_leaky", {"activation"}),
        ("stem", "conv3x3", "conv3x3_relu6", {"activation"}),
        ("stem", "conv3x3", "conv3x3_leaky", {"activation"}),
        ("stem", "conv3x3", "conv3x3_hardswish", {"activation"}),
        ("backbone", "csp_darknet", "csp_darknet_v5", {"counts", "tail"}),
        ("backbone", "csp_darknet_v5", "csp_darknet_rep_vgg", {"down"}),
        ("backbone", "csp_darknet_v5", "csp_darknet_depthwise", {"down", "c3"}),
        ("backbone", "shufflenet_v2", "shufflenet_v2_short", {"repeats"}),
        ("backbone", "shufflenet_v2", "shufflenet_v2_nanodet", {"channels", "activation"}),
        ("backbone", "yolo_fastest", "yolo_fastest_xl", {"dropout"}),
        ("neck", "pan_c3", "pan_c3_uniform", {"channels"}),
        ("neck", "pan_c3", "pan_c3_lcnet", {"down"}),
        ("neck", "pan_c3", "pan_c3_depthwise", {"down", "c3"}),
        ("neck", "pan_c3_uniform", "pan_c3_uniform_deep", {"c3"}),
        ("neck", "pan_add", "pan_add_128", {"channels"}),
        ("head", "anchor", "anchor_small", {"anchors"}),
        ("head", "darknet_v3", "darknet_v4", {"masks", "scale_x_y", "box_loss", "iou_normalizer"}),
        ("head", "gfl", "gfl_deep", {"depth", "reg_max", "activation"}),
        ("eval", "coco", "darknet", {"iou", "max_nms", "max_det", "clip", "precision"}),
        ("eval", "coco", "nanodet", {"conf"}),
        ("eval", "coco", "yolox", {"conf", "iou"}),
    ):
        first, second = (parts(f"{group}={name}")[group] for name in (one, other))
        assert {key for key in first if first[key] != second[key]} == points, other


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
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded)
        torch.testing.assert_close(folded(x), plain(x))
