"""Parameters and convolution MACs to the unit, against counts of the original networks with 80 classes.

Nothing is computed here: the networks live on torch's meta device, which knows shapes alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablab.models.detector import build, fuse

RECIPES = [  # overrides, parameters, parameters after folding every BatchNorm, {size: convolution MACs}
    (["model=yolov5s_v5"], 7_276_605, 7_266_973, {640: 8_478_924_800}),
    (["model=yolov5s"], 7_235_389, 7_225_885, {640: 8_216_780_800, 320: 2_054_195_200}),
    (["model=yolov5n"], 1_872_157, 1_867_405, {640: 2_234_060_800}),
    (
        ["model=yolov5_lite_2021"],
        1_625_469,
        1_616_325,
        {320: 633_943_200, 416: 1_071_364_008, 640: 2_535_772_800},
    ),
    (["model=v5lite_s"], 1_649_853, 1_640_629, {320: 486_231_200, 416: 821_730_728, 640: 1_944_924_800}),
    (["model=yolo_fastest_1_1"], 332_798, 326_166, {320: 125_437_600}),
    (["model=yolo_fastest_1_1", "model.classes=1"], 281_132, 274_500, {320: 111_786_400}),
    (["model=yolo_fastest_1_1_xl"], 898_686, 886_286, {320: 361_700_800}),
    (["model=yolov3_tiny"], 8_852_366, 8_849_182, {416: 2_782_480_896}),
    (["model=yolov4_tiny"], 6_056_606, 6_053_502, {416: 3_453_938_176}),
    (["model=nanodet_m"], 950_036, 941_818, {320: 342_223_200, 416: 578_357_208}),
    (["model=nanodet_efficientlite2"], 4_689_460, 4_658_620, {512: 3_404_787_712}),
    (["model=v5lite_e"], 787_085, 779_669, {320: 357_442_400}),
    (["model=v5lite_c"], 4_591_901, 4_579_293, {512: 2_821_529_600}),
    (["model=yolox_nano"], 912_159, 904_463, {416: 522_553_408}),
]

LITE, V5S, V5LITE = "model=yolov5_lite_2021", "model=yolov5s_v5", "model=v5lite_s"
SWITCHES = [  # overrides, parameters, {size: convolution MACs}
    # the stem
    ([V5S, "stem=conv6x6"], 7_276_605, {640: 8_478_924_800}),
    ([V5S, "stem=conv3x3"], 7_274_013, {640: 8_213_504_000}),
    ([LITE, "stem=focus"], 1_627_413, {320: 683_709_600}),
    ([LITE, "stem=conv6x6"], 1_627_413, {320: 683_709_600}),
    ([LITE, "model.stem=64"], 1_626_749, {320: 643_428_000, 416: 1_087_393_320, 640: 2_573_712_000}),
    # counts of bottlenecks
    ([V5S, "backbone.counts=[1,1,1,1]"], 6_865_469, {640: 7_430_348_800}),
    ([V5S, "neck.c3.count=3"], 9_329_213, {640: 10_576_076_800}),
    ([LITE, "neck.c3.count=3"], 1_955_197, {320: 838_743_200}),
    # the tail of the classification network
    (
        [LITE, "backbone.conv5=true"],
        2_174_333,
        {320: 633_943_200 + 54_681_600, 416: 1_071_364_008 + 92_411_904, 640: 2_535_772_800 + 218_726_400},
    ),
    ([LITE, "backbone.conv5=true", "backbone.pool5=true"], 2_174_333, {320: 633_943_200 + 54_681_600}),
    ([LITE, "backbone.pool5=true"], 1_625_469, {320: 633_943_200}),
    # the widths behind the backbone
    ([LITE, "neck=pan_c3"], 3_823_741, {320: 1_004_746_400, 416: 1_698_021_416, 640: 4_018_985_600}),
    ([LITE, "neck=pan_c3", "head_prune.ratio=0.5"], 1_648_573, {320: 476_746_400, 416: 805_701_416}),
    ([LITE, "head_prune.ratio=0.25"], 1_294_301, {320: 486_861_600, 416: 822_796_104, 640: 1_947_446_400}),
    ([LITE, "head_prune.ratio=0.5"], 1_043_005, {320: 373_879_200, 416: 631_855_848, 640: 1_495_516_800}),
    ([V5LITE, "head_prune.ratio=0"], 3_825_021, {320: 1_014_231_200, 416: 1_714_050_728}),
    ([V5LITE, "neck=pan_c3_uniform", "head_prune.ratio=0"], 1_626_749, {320: 643_428_000}),
]

GRID = [  # depth, width, parameters, fused, convolution MACs at 640 px, of the v6.0 graph
    (0.33, 0.25, 1_872_157, 1_867_405, 2_234_060_800),
    (0.33, 0.375, 4_117_293, 4_110_165, 4_756_838_400),
    (0.33, 0.50, 7_235_389, 7_225_885, 8_216_780_800),
    (0.33, 0.75, 16_090_461, 16_076_205, 17_948_160_000),
    (0.33, 1.00, 28_437_373, 28_418_365, 31_428_198_400),
    (0.67, 0.25, 2_440_669, 2_434_541, 2_954_956_800),
    (0.67, 0.50, 9_503_933, 9_491_677, 11_100_364_800),
    (1.00, 0.375, 6_671_469, 6_660_213, 8_000_870_400),
    (1.00, 0.50, 11_772_477, 11_757_469, 13_983_948_800),
    (1.00, 1.00, 46_563_709, 46_533_693, 54_496_870_400),
]


def meta(config):
    with torch.device("meta"):
        return build(config)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("overrides", "params", "fused", "macs"), RECIPES, ids=lambda x: str(x)[:40])
def test_recipe(parts, conv_macs, overrides, params, fused, macs):
    detector = meta(parts(*overrides))
    folded = fuse(detector)
    assert count(detector) == params
    assert count(folded) == fused
    assert {size: conv_macs(detector, size) for size in macs} == macs
    assert {size: conv_macs(folded, size) for size in macs} == macs


def test_re_parameterised(parts, conv_macs):
    """YOLOv5-Lite g has fewer convolutions when it is deployed."""
    detector = meta(parts("model=v5lite_g"))
    assert (count(detector), conv_macs(detector, 640)) == (5_574_845, 8_017_254_400)
    deployed = fuse(detector)
    assert (count(deployed), conv_macs(deployed, 640)) == (5_390_365, 7_807_539_200)


@pytest.mark.parametrize(("overrides", "params", "macs"), SWITCHES, ids=lambda x: str(x)[:60])
def test_switch(parts, conv_macs, overrides, params, macs):
    detector = meta(parts(*overrides))
    assert count(detector) == params
    assert {size: conv_macs(detector, size) for size in macs} == macs


@pytest.mark.parametrize(("depth", "width", "params", "fused", "macs"), GRID)
def test_depth_and_width(parts, conv_macs, depth, width, params, fused, macs):
    detector = meta(parts("model=yolov5s", f"model.depth={depth}", f"model.width={width}"))
    assert (count(detector), count(fuse(detector))) == (params, fused)
    assert conv_macs(detector, 640) == macs


@pytest.mark.parametrize(
    ("recipe", "size", "elements", "published"),
    [
        ("nanodet_m", 320, (436_800, 4_684_000, 3_740_800, 614_400), 356_383_200),
        ("nanodet_m", 416, (738_192, 7_915_960, 6_321_952, 1_038_336), 602_287_608),
        ("nanodet_efficientlite2", 512, (1_354_752, 53_035_008, 49_008_640, 0), 3_561_221_120),
    ],
)
def test_nanodets_own_count(parts, conv_macs, recipe, size, elements, published):
    """Its tables (0.72, 1.2 and 7.12 GFLOPs) also count biases, two per element of a BatchNorm, activations, and what
    enters a max pool."""
    detector, counted = meta(parts(f"model={recipe}")), [0, 0, 0, 0]

    def add(module, inputs, out):
        has_bias = isinstance(module, nn.Conv2d) and module.bias is not None
        kinds = (has_bias, *(isinstance(module, k) for k in (nn.BatchNorm2d, (nn.LeakyReLU, nn.ReLU6), nn.MaxPool2d)))
        for index, is_kind in enumerate(kinds):
            counted[index] += is_kind * (inputs[0] if isinstance(module, nn.MaxPool2d) else out).numel()

    for module in detector.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    macs = conv_macs(detector, size)
    assert tuple(counted) == elements
    assert macs + counted[0] + 2 * counted[1] + counted[2] + counted[3] == published


def test_the_article_profiles_both_stems_alike(parts, conv_macs):
    """(16, 3, 640, 640) → (16, 64, 320, 320): 7,040 parameters for Focus and for the 6×6 convolution."""
    for stem in ("focus", "conv6x6"):
        detector = meta(parts("model=yolov5s", f"stem={stem}", "model.width=1.0"))
        assert count(detector.stem) == 7_040
        assert conv_macs(detector.stem, 640, batch=16) == 11_324_620_800
        assert detector.stem(torch.zeros(16, 3, 640, 640, device="meta")).shape == (16, 64, 320, 320)


def test_the_ladder_ends_at_v5lite_s(parts):
    """YOLOv5s v5.0, one switch after another, becomes YOLOv5-Lite s."""
    steps = ["stem=conv3x3_pool", "backbone=shufflenet_v2", "head_prune.ratio=0.5"]
    assert count(meta(parts(V5S, *steps))) == 1_649_853
