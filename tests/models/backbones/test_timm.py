"""Timm's networks as backbones, against timm's own feature extraction and torchvision's counts."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from ablab.errors import UserError
from ablab.models.backbones.timm import TimmBackbone
from ablab.models.detector import Detector, build, fuse
from ablab.models.published import IMAGENET_MEAN, IMAGENET_STD
from ablab.training import start

timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
SMALL = ["model=v5lite_s", "model.width=0.125", "model.classes=2", "backbone=timm", "stem=builtin"]

PIXELS = [  # by what the file was trained on, of pixels to 255: ImageNet's colours, or -1 to 1
    ["preprocess.mean=[123.675,116.28,103.53]", "preprocess.std=[58.395,57.12,57.375]"],
    ["preprocess.mean=[127.5,127.5,127.5]", "preprocess.std=[127.5,127.5,127.5]"],
]


def backbone(name: str, *strides: int) -> TimmBackbone:
    return TimmBackbone([3], [1], name=name, strides=list(strides or (8, 16, 32)))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def trained(name: str) -> nn.Module:
    """Timm's whole network with statistics that are not those of a fresh one, some of them near its eps."""
    torch.manual_seed(0)
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
            module.running_var[0] = 1e-3
    return network


@pytest.mark.parametrize(
    ("name", "ending", "eps"),
    [
        ("resnet18", "pth", 1e-5),
        ("mobilenetv3_small_050", "safetensors", 1e-5),
        ("tf_mobilenetv3_small_minimal_100", "pth", 1e-3),
    ],
)
@torch.no_grad()
def test_a_file_of_timm_s_gives_timm_s_features(parts: Any, tmp_path: Path, name: str, ending: str, eps: float) -> None:
    file = tmp_path / f"theirs.{ending}"
    tensors = trained(name).state_dict()
    save_file(tensors, file) if ending == "safetensors" else torch.save(tensors, file)
    source = {"file": str(file), "num_classes": 1000}
    theirs = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), pretrained=True, pretrained_cfg=source)
    assert {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)} == {eps}
    config = parts(*SMALL, f"backbone.name={name}", *PIXELS[name.startswith("tf_")])
    detector = build(config).eval()
    assert {m.eps for m in detector.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    numbers = start.take_over(detector, file, config)
    assert all(name.startswith(("neck.", "head.")) for name in numbers["fresh"])
    image = torch.rand(1, 3, 64, 96)
    for ours, other in zip(detector.backbone(image), theirs.eval()(image), strict=True):
        assert (ours - other).abs().max() < 2e-5 * other.abs().max()


FIRST_LAYERS = {
    "resnet18": ("conv1", "bn1"),
    "convnext_atto": ("stem.0", "stem.1"),
    "tf_mobilenetv3_small_minimal_100": ("conv_stem", "bn1"),
}


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("name", FIRST_LAYERS)
@torch.no_grad()
def test_pixels_prepared_in_another_way_look_the_same(parts: Any, tmp_path: Path, name: str, channels: str) -> None:
    """Into BatchNorm's mean, or into a convolution's bias; but for the edge, to which zeros are added."""
    theirs = trained(name).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    config = parts(*SMALL, f"backbone.name={name}", f"preprocess.channels={channels}")  # by 255 alone
    detector = build(config).eval()
    start.take_over(detector, tmp_path / "theirs.pth", config)
    pixels = torch.randint(256, (2, 3, 64, 96)).float()
    halves = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # what TensorFlow's networks are given
    trained_on = halves if name.startswith("tf_") else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in trained_on)
    seen = (pixels / 255 - mean) / std
    ours = (pixels if channels == "rgb" else pixels.flip(1)) / 255
    found, expected = ours, seen
    for layer in FIRST_LAYERS[name]:
        found, expected = detector.backbone.model.get_submodule(layer)(found), theirs.get_submodule(layer)(expected)
    inside = () if name == "convnext_atto" else (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4)


def test_pixels_that_no_convolution_alone_sees(parts: Any, tmp_path: Path) -> None:
    """Its first convolution standardises its weights."""
    torch.save(trained("nf_regnet_b0").state_dict(), tmp_path / "theirs.pth")
    config = parts(*SMALL, "backbone.name=nf_regnet_b0")
    with pytest.raises(
        UserError, match=r"expected preprocess\.channels=rgb, preprocess\.mean=\[123\.675, 116\.28, 103\.53\]"
    ):
        start.take_over(build(config), tmp_path / "theirs.pth", config)


@pytest.mark.parametrize(
    ("name", "theirs", "rest"),
    [  # what torchvision counts of its classifier, by hand
        ("resnet18", models.resnet18, 512 * 1000 + 1000),
        ("mobilenetv3_large_100", models.mobilenet_v3_large, 960 * 1280 + 1280 + 1280 * 1000 + 1000),
    ],
)
def test_counts_of_torchvision(name: str, theirs: Any, rest: int) -> None:
    with torch.device("meta"):
        assert count(backbone(name)) == count(theirs(weights=None)) - rest


def test_maps_are_as_wide_and_large_as_it_says() -> None:
    for name in ("mobilenetv4_conv_small_035", "ghostnet_050", "convnext_atto"):
        with torch.device("meta"):
            part = backbone(name)
            maps = part(torch.zeros(2, 3, 64, 96))
        assert part.out_strides == [8, 16, 32]
        assert [one.shape for one in maps] == [
            (2, c, 64 // s, 96 // s) for c, s in zip(part.out_channels, part.out_strides, strict=True)
        ]


def test_other_levels_than_three() -> None:
    with torch.device("meta"):
        two = backbone("resnet18", 8, 16)
        assert two.out_channels == [128, 256]
        assert count(two) == count(backbone("resnet18")) - 8_393_728  # of layer4, which nothing reads
        assert backbone("efficientvit_m0", 16, 32, 64).out_strides == [16, 32, 64]


def test_everything_that_is_left_learns() -> None:
    part = backbone("ghostnet_050")
    sum(one.sum() for one in part(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in part.named_parameters() if p.grad is None] == []


def test_starts_from_the_seed_alone() -> None:
    torch.manual_seed(3)
    one = backbone("mobilenetv3_small_050").state_dict()
    torch.manual_seed(3)
    other = backbone("mobilenetv3_small_050").state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def deployed(name: str) -> Detector:
    """What is deployed of a network whose norms do something; its maps are the same."""
    torch.manual_seed(0)
    part = backbone(name, 8, 16).double()
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    detector = Detector(nn.Identity(), part.eval(), Through(), Through())
    fused = fuse(detector)
    for ours, folded in zip(detector(image), fused(image), strict=True):
        torch.testing.assert_close(ours, folded, rtol=1e-9, atol=1e-9)
    return fused


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnetv2_18d", "densenet121", "vgg11_bn"])
def test_fusing_keeps_activations_within_norms_and_layers_that_are_looked_up_by_place(name: str) -> None:
    deployed(name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobileone_s0", "repghostnet_050", "tf_mobilenetv3_small_minimal_100"])
def test_branches_are_merged_and_convolutions_that_pad_by_themselves_folded(name: str) -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed(name).modules())


@torch.no_grad()
def test_repvgg_is_one_convolution_a_block_when_deployed() -> None:
    """RepVGG-A0 (Ding et al. 2021) down to stride 16: 1, 2, 4 and 14 blocks of 48, 48, 96 and 192 channels."""
    widths = [3, 48, 48, 48, *[96] * 4, *[192] * 14]
    assert count(deployed("repvgg_a0")) == sum(9 * i * o + o for i, o in pairwise(widths))


class Through(nn.Identity):
    """A neck or head that gives what it gets."""

    classes = 1
    out_strides = (8, 16)


@torch.no_grad()
def test_fusing_changes_no_output(parts: Any) -> None:
    detector = build(parts(*SMALL, "backbone.name=mobilenetv3_small_050"))
    detector.backbone.model.load_state_dict(trained("mobilenetv3_small_050").state_dict(), strict=False)
    detector.double().eval()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    fused = fuse(copy.deepcopy(detector))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    norms = sum(m.num_features for m in detector.modules() if isinstance(m, nn.BatchNorm2d))
    assert count(detector) - count(fused) == norms
    for ours, folded in zip(detector(image), fused(image), strict=True):
        torch.testing.assert_close(ours, folded, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"name": "resnet81"}, r"timm has no such model\. Did you mean 'resnet1?\d\d?'\? There are \d+, such as: "),
        ({"name": "resnet18.a1_in1k"}, "Did you mean 'resnet18'"),
        ({"strides": [8, 12, 32]}, r"strides=\[8, 12, 32\]: expected different ones of \[2, 4, 8, 16, 32\]"),
        ({"strides": [32, 16, 8]}, "finest first"),
        ({"strides": []}, "finest first"),
        ({"name": "vit_tiny_patch16_224"}, r"different ones of \[16\]"),
        ({"name": "swin_tiny_patch4_window7_224"}, r"image of 320 px .* takes none: .*doesn't match model \(224\)"),
        ({"name": "inception_v4"}, r"it gives maps of \[\(37, 37\)"),
        ({"pretrained": "file.pth"}, r"pretrained=file\.pth: a network is built without weights"),
    ],
)
def test_what_does_not_fit(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        TimmBackbone([3], [1], **{"name": "resnet18", "strides": [8, 16, 32]} | keys)


def test_a_file_of_another_width(parts: Any, tmp_path: Path) -> None:
    config = parts(*SMALL, "backbone.name=mobilenetv3_small_050")
    detector = build(config)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    file = tmp_path / "wider.pth"
    torch.save(timm.create_model("mobilenetv3_small_075").state_dict(), file)
    told = (
        r"wider\.pth: tensor blocks\.\S+ has shape \S+, backbone\.model\.blocks\.\S+ expects .*mobilenetv3_small_050\?"
    )
    with pytest.raises(UserError, match=told):
        start.take_over(detector, file, config)
    tensors = timm.create_model("mobilenetv3_small_050").state_dict()
    torch.save(tensors | {"blocks.9.0.conv.weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"blocks\.9\.0\.conv\.weight of shape 2 has no place in this backbone"):
        start.take_over(detector, file, config)
    del tensors["conv_stem.weight"]
    torch.save(tensors, file)
    with pytest.raises(UserError, match=r"conv_stem\.weight is missing"):
        start.take_over(detector, file, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'ablab\[timm\]'"):
        backbone("resnet18")
