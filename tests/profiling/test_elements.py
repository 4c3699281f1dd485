"""Raw counts of our networks against those of the original ones, and against layers counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.config import compose
from ablab.models.detector import Detector, build, fuse
from ablab.profiling.complexity import profile
from ablab.profiling.elements import KINDS, by_form, elements
from ablab.report.published.conventions import Network, flops


@pytest.fixture(scope="module")
def detector() -> Callable[[str], Detector]:
    made: dict[str, Detector] = {}

    def make(recipe: str) -> Detector:
        if recipe not in made:
            made[recipe] = build(compose([f"model={recipe}", "model.classes=80"]).resolved)
        return made[recipe]

    return make


# recipe, size: convolution MACs, elements of biased convolutions, through BatchNorm; K1, K2, K3 in G, K2 folded
ORIGINAL = [
    ("yolov5s_v5", 640, 8_478_924_800, 2_142_000, 24_473_600, 16.9578, 17.0600, 17.1561, 17.0111),
    ("yolov5s", 640, 8_216_780_800, 2_142_000, 23_654_400, 16.4336, 16.5325, 16.6253, 16.4852),
    ("yolov5n", 640, 2_234_060_800, 2_142_000, 11_827_200, 4.4681, 4.5197, 4.5640, 4.4961),
    ("yolov5_lite_2021", 320, 633_943_200, 535_500, 5_018_400, 1.2679, 1.2890, 1.3085, 1.2802),
    ("yolov5_lite_2021", 416, 1_071_364_008, 904_995, 8_481_096, 2.1427, 2.1785, 2.2114, 2.1636),
    ("yolov5_lite_2021", 640, 2_535_772_800, 2_142_000, 20_073_600, 5.0715, 5.1561, 5.2342, 5.1209),
    ("v5lite_s", 320, 486_231_200, 535_500, 4_916_000, 0.9725, 0.9932, 1.0121, 0.9850),
    ("v5lite_s", 416, 821_730_728, 904_995, 8_308_040, 1.6435, 1.6785, 1.7104, 1.6647),
    ("v5lite_s", 640, 1_944_924_800, 2_142_000, 19_664_000, 3.8898, 3.9728, 4.0484, 3.9400),
]


@pytest.mark.parametrize(("recipe", "size", "macs", "bias", "bn", "k1", "k2", "k3", "k2_folded"), ORIGINAL)
def test_published_networks(
    detector: Callable[[str], Detector],
    recipe: str,
    size: int,
    macs: int,
    bias: int,
    bn: int,
    k1: float,
    k2: float,
    k3: float,
    k2_folded: float,
) -> None:
    net = detector(recipe)
    counts = elements(net, [size])[size]
    assert (counts["conv_macs"], counts["bias"], counts["bn"]) == (macs, bias, bn)
    assert [round(flops(count, counts), 4) for count in ("K1", "K2", "K3")] == [k1, k2, k3]
    folded = fuse(net)
    whole = elements(folded, [size])[size]
    assert (whole["conv_macs"], whole["bias"], whole["bn"]) == (macs, bias + bn, 0)
    if "lite" in recipe:  # whose project does not fold the stem's BatchNorm
        folded.stem = net.stem
    assert round(flops("K2", elements(folded, [size])[size]), 4) == k2_folded


def test_the_articles_figures(detector: Callable[[str], Detector]) -> None:
    counts = elements(detector("yolov5_lite_2021"), [320, 416, 640])
    assert [round(flops("K2", counts[size]) / 0.9, 4) for size in (320, 416, 640)] == [1.4323, 2.4205, 5.7290]


def test_layers_by_hand() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
            self.bn = nn.BatchNorm2d(8)
            self.activations = nn.Sequential(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.SiLU())
            self.pools = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d((1, 5), 1, (0, 2)))
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
            self.smooth = nn.Upsample(scale_factor=2, mode="bilinear")
            self.grouped = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
            self.mean = nn.AdaptiveAvgPool2d(1)
            self.gate = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.activations(self.bn(self.conv(x)))  # 8 × 16 × 16 of a 32 px image
            pooled = self.pools(x)  # 8 × 8 × 8
            x = x + self.up(pooled)
            x += self.smooth(pooled)
            x = torch.add(x, self.grouped(x))
            x = x * self.gate(self.mean(x)) + 1
            return x.mean((2, 3)) + x.mean()

    whole, pooled = 8 * 16 * 16, 8 * 8 * 8
    assert elements(Small(), [32])[32] == {
        "conv_macs": whole * 27 + whole * 18 + 8 * 8,
        "bias": whole + 8,
        "bn": whole,
        "relu": 2 * whole,
        "leaky": whole,
        "pool_in": whole + 2 * pooled,
        "pool_ops": (4 + 9 + 5) * pooled,
        "nearest": whole,
        "bilinear": whole,
        "averaged": 2 * (whole + 8),
        "added": 3 * whole,
    }


def test_thop_counts_the_same(detector: Callable[[str], Detector]) -> None:
    for recipe in ("yolov5n", "v5lite_s"):
        numbers = profile(detector(recipe), 96)
        assert flops("K3", numbers["elements"]["trained"]["96"]) == numbers["flops"] / 1e9
        assert flops("K3", numbers["elements"]["folded"]["96"]) == numbers["flops_fused"] / 1e9


def test_every_size_follows_from_two(detector: Callable[[str], Detector]) -> None:
    net = detector("v5lite_s")
    counts = elements(net, [32, 64, 416])
    two = Network(0, 0, 0, {"trained": {size: counts[size] for size in (32, 64)}}, stride=32)
    assert two.at("trained", 416) == counts[416]


def test_what_a_stage_keeps(detector: Callable[[str], Detector]) -> None:
    net = detector("yolov5n")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = by_form(net, fuse(net), 64, 32)
    assert list(kept) == ["trained", "folded"]
    assert set(kept["trained"]) == {"32", "64"}
    assert kept["trained"]["64"] == {k: n for k, n in elements(net, [64])[64].items() if n}
    assert set(kept["trained"]["64"]) < set(KINDS)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks for module in net.modules())


def test_an_image_as_small_as_the_stride_may_be_too_small() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(64))
    assert by_form(net, net, 64, 32)["folded"] == {
        "64": {"conv_macs": 3 * 8 * 64**2, "bias": 8 * 64**2, "pool_in": 8 * 64**2, "pool_ops": 8 * 64**2}
    }
    with pytest.raises(RuntimeError):
        by_form(net, net, 32, 32)


def test_blocks_that_are_a_batchnorm_and_more_keep_what_they_do() -> None:
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    counts = elements(nn.Sequential(NormAct(3)), [32])[32]
    assert (counts["bn"], counts["relu"]) == (3 * 32**2, 3 * 32**2)


def test_a_part_that_looks_at_values_gets_a_real_image(detector: Callable[[str], Detector]) -> None:
    class Looking(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            return self.inner(x) if float(x.sum()) == 0 else None

    net = detector("yolov5n")
    assert elements(Looking(net), [64]) == elements(net, [64])
