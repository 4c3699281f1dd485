"""Costs of published networks to the unit: the counts of facts measured on the original implementations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.config import compose
from ablab.models.detector import Detector, build
from ablab.profiling import complexity
from ablab.profiling.complexity import profile


def detector(recipe: str) -> Detector:
    return build(compose([f"model={recipe}", "model.classes=80"]).resolved)


# recipe, size, params, params fused, conv MACs, thop 0.1 MACs: twice thop's, in G, is 17.1561, 16.6253, 4.5640, ...
PUBLISHED = [
    ("yolov5s_v5", 640, 7_276_605, 7_266_973, 8_478_924_800, 8_578_048_000),
    ("yolov5s", 640, 7_235_389, 7_225_885, 8_216_780_800, 8_312_627_200),
    ("yolov5n", 640, 1_872_157, 1_867_405, 2_234_060_800, 2_281_984_000),
    ("yolov5_lite_2021", 320, 1_625_469, 1_616_325, 633_943_200, 654_272_800),
    ("v5lite_s", 416, 1_649_853, 1_640_629, 821_730_728, 855_222_472),
    ("yolox_nano", 416, 912_159, 904_463, 522_553_408, 556_342_592),
]


@pytest.mark.parametrize(("recipe", "size", "params", "fused", "conv_macs", "thop_macs"), PUBLISHED)
def test_published_networks(recipe: str, size: int, params: int, fused: int, conv_macs: int, thop_macs: int) -> None:
    numbers = profile(detector(recipe), size)
    assert numbers["params"] == params
    assert numbers["params_fused"] == fused
    assert numbers["conv_macs"] == numbers["conv_macs_fused"] == conv_macs
    assert numbers["thop_macs"] == thop_macs
    assert numbers["flops"] == 2 * thop_macs
    assert numbers["flops_fused"] == 2 * numbers["thop_macs_fused"]
    # a folded BatchNorm is gone: what thop counts besides convolutions is the output of two upsamplings
    assert numbers["thop_macs_fused"] - conv_macs < 0.002 * conv_macs
    # BatchNorm stores as many means and variances as it learns scales and shifts; folding takes half of the latter
    assert numbers["params_stored"] == params + 2 * (params - fused)
    assert numbers["size_fp32_mb"] == pytest.approx(numbers["params_stored"] * 4e-6)
    assert numbers["size_fp16_mb"] == pytest.approx(numbers["params_stored"] * 2e-6)
    assert numbers["size_fp32_mb_fused"] == pytest.approx(fused * 4e-6)  # no BatchNorm is left


def test_the_fused_numbers_are_those_of_the_deployed_form() -> None:
    """YOLOv5-Lite g at 640 px: 16.2631 GFLOPs by thop in training, 15.6171 deployed."""
    numbers = profile(detector("v5lite_g"), 640)
    assert (numbers["params"], numbers["params_fused"]) == (5_574_845, 5_390_365)
    assert (numbers["conv_macs"], numbers["conv_macs_fused"]) == (8_017_254_400, 7_807_539_200)
    assert round(numbers["flops"] / 1e9, 4) == 16.2631
    assert round(numbers["flops_fused"] / 1e9, 4) == 15.6171


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_mobilenetv3_small_minimal_100"])
def test_thop_counts_what_another_library_derives_from_torch_s_layers(name: str) -> None:
    """timm's BatchNorm with an activation, and its convolution that pads by itself; BatchNorm is 4 an element."""
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    words = ["model=v5lite_s", "model.classes=2", "backbone=timm", "stem=builtin", f"backbone.name={name}"]
    numbers = profile(build(compose(words).resolved), 64)
    elements = numbers["elements"]["trained"]["64"]
    through_norms = numbers["thop_macs"] - numbers["thop_macs_fused"]
    assert through_norms == 4 * elements["bn"] > 0
    assert numbers["thop_macs_fused"] >= numbers["conv_macs_fused"] == elements["conv_macs"]


def test_conv_macs_grow_with_the_area() -> None:
    net = detector("yolov5n")
    small, large = profile(net, 64), profile(net, 128)
    assert large["conv_macs"] == 4 * small["conv_macs"]


def test_profiling_leaves_the_detector_alone() -> None:
    net = detector("yolov5n").train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    profile(net, 64)
    assert net.training
    after = net.state_dict()
    assert list(after) == list(before)  # no total_ops, no total_params
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_counts_need_no_arithmetic_but_can_do_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device gives what a real image gives; a part that looks at values gets the real image."""

    class Looking(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            return self.inner(x) if float(x.sum()) == 0 else None

    devices = []
    count = complexity._count

    def watched(net: nn.Module, imgsz: int, device: str) -> tuple[int, int]:
        devices.append(device)
        return count(net, imgsz, device)

    monkeypatch.setattr(complexity, "_count", watched)
    plain = detector("yolov5n")
    numbers = profile(plain, 64)
    assert devices == ["meta", "meta"]
    plain.stem = Looking(plain.stem)
    assert profile(plain, 64) == numbers
    assert devices[2:] == ["meta", "cpu", "meta", "cpu"]
