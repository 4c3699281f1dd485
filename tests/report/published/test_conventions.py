"""The counting rules, against what the original tools print for the original networks."""

from __future__ import annotations

import pytest
from counted import NETWORKS

from ablab.report.published.conventions import Network, flops, numbers, scaled_flops

# network, size: K1, K2 as trained, K3 as trained and K3 folded in G, by thop 0.0.31 and 0.1.1 on the original networks
MEASURED = [
    ("yolov5s_v5", 640, 16.9578, 17.0600, 17.1561, 16.9603),
    ("yolov5s", 640, 16.4336, 16.5325, 16.6253, 16.4360),
    ("yolov5n", 640, 4.4681, 4.5197, 4.5640, 4.4694),
    ("yolov5_lite_2021", 320, 1.2679, 1.2890, 1.3085, None),
    ("yolov5_lite_2021", 416, 2.1427, 2.1785, 2.2114, None),
    ("yolov5_lite_2021", 640, 5.0715, 5.1561, 5.2342, None),
    ("v5lite_s", 320, 0.9725, 0.9932, 1.0121, None),
    ("v5lite_s", 416, 1.6435, 1.6785, 1.7104, None),
    ("v5lite_s", 640, 3.8898, 3.9728, 4.0484, None),
    ("v5lite_e", 320, 0.7149, 0.7356, 0.7546, None),
    ("v5lite_c", 512, 5.6431, 5.7184, 5.7886, 5.6459),
    ("v5lite_g", 640, 16.0345, 16.1520, 16.2631, 15.6171),
    ("yolox_nano", 416, 1.0451, 1.0792, 1.1127, None),
]


@pytest.mark.parametrize(("name", "size", "exact", "old_thop", "new_thop", "new_folded"), MEASURED)
def test_thop(name: str, size: int, exact: float, old_thop: float, new_thop: float, new_folded: float | None) -> None:
    elements = NETWORKS[name].at("trained", size)
    assert [round(flops(count, elements), 4) for count in ("K1", "K2", "K3")] == [exact, old_thop, new_thop]
    if new_folded:
        assert round(flops("K3", NETWORKS[name].at("folded", size)), 4) == new_folded


@pytest.mark.parametrize(("name", "folded"), [("yolov5s_v5", 17.0111), ("yolov5s", 16.4852), ("yolov5n", 4.4961)])
def test_a_folded_batchnorm_costs_thop_a_bias(name: str, folded: float) -> None:
    assert round(flops("K2", NETWORKS[name].at("folded", 640)), 4) == folded
    assert round(flops("K2", NETWORKS["v5lite_g"].at("folded", 640)), 4) == 15.6698


def test_the_articles_formula_divides_by_nine_tenths() -> None:
    article = NETWORKS["yolov5_lite_2021"]
    assert [round(flops("K2", article.at("trained", s)) / 0.9, 4) for s in (320, 416, 640)] == [1.4323, 2.4205, 5.7290]


def test_scaling_by_area_counts_squeeze_and_excite_too_often() -> None:
    net = NETWORKS["v5lite_c"]
    assert round(flops("K2", net.at("folded", 512)), 4) == 5.6828
    assert round(scaled_flops("K2", net, "trained", 512), 4) == 5.9591
    assert round(scaled_flops("K2", net, "folded", 512), 4) == 5.9234
    assert round(scaled_flops("K3", net, "trained", 512), 4) == 6.0278
    plain = NETWORKS["yolov5s"]  # convolutions alone
    assert scaled_flops("K2", plain, "folded", 640) == pytest.approx(flops("K2", plain.at("folded", 640)), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("nanodet_m", 320, 0.72),
        ("nanodet_m", 416, 1.20),
        ("nanodet_efficientlite2", 512, 7.12),
        ("yolov3_tiny", 416, 5.62),
        ("yolov4_tiny", 416, 6.96),
    ],
)
def test_nanodet_rounds_before_it_doubles(name: str, size: int, expected: float) -> None:
    assert flops("K6", NETWORKS[name].at("trained", size)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "printed"),
    [
        ("yolo_fastest_1_1", 320, 0.25182),
        ("yolo_fastest_1_1_xl", 320, 0.72530),
        ("yolov3_tiny", 416, 5.571),
        ("yolov4_tiny", 416, 6.910),
    ],
)
def test_darknet(name: str, size: int, printed: float) -> None:
    digits = len(str(printed).split(".")[1])
    assert round(flops("K7", NETWORKS[name].at("trained", size)), digits) == pytest.approx(printed)


def test_every_rule_by_hand() -> None:
    kinds = ("conv_macs", "bias", "bn", "relu", "leaky", "pool_in")
    kinds += ("pool_ops", "nearest", "bilinear", "averaged", "added")
    n = {kind: 10.0**place * 1e9 for place, kind in enumerate(kinds)}
    expected = {
        "K1": 2,
        "K2": 2 * (1 + 10 + 200 + 10**4 + 10**9),
        "K3": 2 * (1 + 400 + 10**7 + 11 * 10**8 + 10**9),
        "K6": 2 * (1 + 10 + 200 + 10**3 + 10**4 + 10**5 + 10**7 + 10**8),
        "K7": 2 + 10**6 + 10**10,
    }
    assert {count: flops(count, n) for count in expected} == pytest.approx(expected, rel=1e-12)
    assert flops("K6", {"conv_macs": 0.3561e9}) == pytest.approx(0.72)
    with pytest.raises(KeyError):
        flops("K9", n)


def test_two_sizes_give_every_other() -> None:
    net = Network(1, 1, 1, {"trained": {32: {"conv_macs": 1024 * 3 + 7}, 64: {"conv_macs": 4096 * 3 + 7}}}, stride=32)
    assert net.at("trained", 416) == {"conv_macs": 416**2 * 3 + 7}
    lone = Network(1, 1, 1, {"trained": {64: {"conv_macs": 5}}}, stride=32)
    assert lone.at("trained", 64) == {"conv_macs": 5}
    with pytest.raises(KeyError):
        lone.at("trained", 96)


def test_what_a_parameter_count_and_a_file_hold() -> None:
    net = Network(learnable=10, folded=8, stored=14, elements={}, stride=32, never_run=3)
    assert [numbers(net, counted, False) for counted in ("learnable", "folded", "stored")] == [10, 8, 14]
    assert numbers(net, "learnable", True) == 13
