"""Torchvision's classifiers as backbones, against the classifiers run by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from ablab.errors import UserError
from ablab.models.backbones.torchvision import TorchvisionBackbone
from ablab.models.detector import build, fuse
from ablab.training import start

SMALL = ["model=v5lite_s", "model.width=0.125", "model.classes=2", "backbone=torchvision", "stem=builtin"]

IMAGENET = ["preprocess.mean=[123.675,116.28,103.53]", "preprocess.std=[58.395,57.12,57.375]"]  # of pixels to 255


def backbone(name: str, *strides: int, nodes: list[str] | None = None) -> TorchvisionBackbone:
    return TorchvisionBackbone([3], [1], name=name, strides=list(strides or (8, 16, 32)), nodes=nodes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def by_hand(network: Any, x: Tensor) -> list[Tensor]:
    """Maps of stride 8, 16 and 32 of three networks, block by block as their papers draw them."""
    if isinstance(network, models.ResNet):
        x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
        p3 = network.layer2(x)
        p4 = network.layer3(p3)
        return [p3, p4, network.layer4(p4)]
    if isinstance(network, models.ShuffleNetV2):
        p3 = network.stage2(network.maxpool(network.conv1(x)))
        p4 = network.stage3(p3)
        return [p3, p4, network.conv5(network.stage4(p4))]
    p3 = network.features[:7](x)
    p4 = network.features[7:13](p3)
    return [p3, p4, network.features[13:](p4)]


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_large"])
@torch.no_grad()
def test_a_file_of_torchvision_s_gives_torchvision_s_features(parts: Any, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    theirs: Any = models.get_model(name, weights=None)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # eps 1e-5, or 1e-3 in MobileNetV3
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.running_var[0] = 1e-3
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    config = parts(*SMALL, f"backbone.name={name}", *IMAGENET)
    detector = build(config).eval()
    numbers = start.take_over(detector, tmp_path / "theirs.pth", config)
    assert all(name.startswith(("neck.", "head.")) for name in numbers["fresh"])
    image = torch.rand(1, 3, 64, 96)
    for ours, other in zip(detector.backbone(image), by_hand(theirs.eval(), image), strict=True):
        assert (ours - other).abs().max() < 2e-5 * other.abs().max()


@pytest.mark.parametrize(
    ("name", "channels", "rest"),
    [
        ("resnet18", [128, 256, 512], 512 * 1000 + 1000),
        ("shufflenet_v2_x1_0", [116, 232, 1024], 1024 * 1000 + 1000),
        ("mobilenet_v3_large", [40, 112, 960], 960 * 1280 + 1280 + 1280 * 1000 + 1000),
        ("regnet_y_400mf", [104, 208, 440], 440 * 1000 + 1000),
    ],
)
def test_counts_of_the_classifier_less_its_last_layers(name: str, channels: list[int], rest: int) -> None:
    part = backbone(name)
    assert (part.out_channels, part.out_strides) == (channels, [8, 16, 32])
    assert count(part) == count(models.get_model(name, weights=None)) - rest


def test_nodes_by_name() -> None:
    plain = backbone("shufflenet_v2_x1_0", nodes=["stage2", "stage3", "stage4"])
    assert (plain.out_channels, plain.out_strides) == ([116, 232, 464], [8, 16, 32])
    assert count(plain) == 776_420  # as our own ShuffleNetV2 of these widths, its stem of 696 included
    assert [one.shape for one in plain(torch.rand(2, 3, 64, 96))] == [(2, 116, 8, 12), (2, 232, 4, 6), (2, 464, 2, 3)]
    assert backbone("resnet18", 16, 32).out_channels == [256, 512]
    turned = backbone("resnet18", nodes=["layer3.1", "layer2"])
    assert (turned.out_channels, turned.out_strides) == ([128, 256], [8, 16])


def test_copies_tell_training_from_evaluation() -> None:
    """As the running mean of weights is a copy, made in training."""
    torch.manual_seed(0)
    part = backbone("efficientnet_b0").train()
    image = torch.rand(2, 3, 64, 64)
    assert not torch.equal(part(image)[2], part(image)[2])  # stochastic depth
    copied = copy.deepcopy(part).eval()
    for ours, same, other in zip(part.eval()(image), copied(image), copied(image), strict=True):
        assert torch.equal(ours, same)
        assert torch.equal(same, other)
    copied.train()
    assert not torch.equal(copied(image)[2], copied(image)[2])


@torch.no_grad()
def test_fusing_changes_no_output(parts: Any) -> None:
    detector = build(parts(*SMALL, "backbone.name=shufflenet_v2_x0_5")).double()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    detector(image)
    fused = fuse(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    for ours, folded in zip(detector.eval()(image), fused(image), strict=True):
        torch.testing.assert_close(ours, folded, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"name": "resnet81"}, r"no such classifier\. Did you mean 'resnet18'"),
        ({"name": "fasterrcnn_resnet50_fpn"}, "no such classifier"),
        ({"strides": [8, 64]}, r"strides=\[8, 64\]: expected different ones of \[2, 4, 8, 16, 32, 320\]"),
        ({"strides": [16, 8]}, "finest first"),
        ({"name": "vit_b_16"}, "takes no image of 320 px .*Wrong image height"),
        ({"name": "squeezenet1_0"}, r"strides=\[8, 16, 32\]: expected different ones of"),
        ({"nodes": ["layer2", "layer9"]}, r"resnet18 has no 'layer9'\. Did you mean 'layer\d'"),
        ({"nodes": ["layer2.0", "layer2.1"]}, r"different strides .* gives \[\(128, 40, 40\), \(128, 40, 40\)\]"),
        ({"nodes": []}, r"backbone\.nodes=\[\]: expected the names of nodes"),
        ({"nodes": ["layer2", "fc"]}, r"resnet18 gives \[\(128, 40, 40\), \(1000,\)\]"),
        ({"pretrained": "file.pth"}, "a network is built without weights"),
    ],
)
def test_what_does_not_fit(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        TorchvisionBackbone([3], [1], **{"name": "resnet18", "strides": [8, 16, 32]} | keys)
