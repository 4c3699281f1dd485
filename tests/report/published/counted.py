"""Exact counts of the published networks with 80 classes, measured on the original implementations.

Convolution MACs, elements of biased convolutions and through BatchNorm, and parameters are the original networks' own;
activations, pools and upsampling follow from their layer tables, where their projects count them. Nothing here comes
from this package's networks.
"""

from __future__ import annotations

from ablab.report.published.conventions import Network


def counted(
    size: int,
    learnable: int,
    folded: int,
    conv_macs: int,
    bias: int,
    bn: int,
    *,
    folded_macs: int | None = None,
    folded_bias: int | None = None,
    bn_channels: int | None = None,
    fixed: dict[str, int] | None = None,
    never_run: int = 0,
    **elements: int,
) -> Network:
    """A network counted at `size` px. fixed: what of its counts does not grow with the image."""
    trained = {"conv_macs": conv_macs, "bias": bias, "bn": bn, **elements}
    folding = {
        "conv_macs": folded_macs or conv_macs,
        "bias": folded_bias or bias + bn,
        **elements,
    }
    fixed = fixed or {}
    area = (size // 32) ** 2

    def at_stride(kind: str, number: int) -> int:
        grown, left = divmod(number - fixed.get(kind, 0), area)
        assert not left, f"{kind}: {number} is no multiple of the area"
        return grown + fixed.get(kind, 0)

    return Network(
        learnable=learnable,
        folded=folded,
        stored=learnable + 2 * (bn_channels or learnable - folded),
        elements={
            form: {size: counts, 32: {kind: at_stride(kind, number) for kind, number in counts.items()}}
            for form, counts in (("trained", trained), ("folded", folding))
        },
        stride=32,
        never_run=never_run,
    )


def fastest(m: int, learnable: int, folded: int, conv_macs: int, bn: int) -> Network:
    """Yolo-Fastest 1.1 at 320 px, its backbone `m` times as wide."""
    linear = m * 601_600 + 2 * 96 * 100 + 2 * (96 + 24 * m) * 400  # projections without an activation
    return counted(
        320,
        learnable,
        folded,
        conv_macs,
        127_500,
        bn,
        leaky=bn - linear,
        pool_in=3 * 48 * m * 100,
        pool_ops=(9 + 25 + 81) * 48 * m * 100,
        nearest=96 * 400,
        added=m * 395_200,
    )


# Squeeze and excite in v5lite_c: 1×1 convolutions behind a pool over the whole map, which no image size changes.
GATED = {256: 2, 512: 3, 128: 1}  # channels -> layers
GATE_MACS = sum(layers * 2 * c * (c // 4) for c, layers in GATED.items())
GATE_BIAS = sum(layers * (c + c // 4) for c, layers in GATED.items())
GATE_MEANS = 257 * 256 + 3 * 257 * 512 + 1025 * 128 + 257 * 256  # (cells + 1) × channels, at 512 px
GATE_CHANNELS = sum(layers * c for c, layers in GATED.items())

NETWORKS: dict[str, Network] = {
    "yolo_fastest_1_1": fastest(1, 332_798, 326_166, 125_437_600, 6_317_600),
    "yolo_fastest_1_1_xl": fastest(2, 898_686, 886_286, 361_700_800, 12_433_600),
    "nanodet_m": counted(
        320,
        950_036,
        941_818,
        342_223_200,
        436_800,
        4_684_000,
        leaky=3_740_800,
        pool_in=614_400,
        pool_ops=9 * 24 * 80**2,
        never_run=9_312,
    ),
    "yolov5_lite_2021": counted(
        640,
        1_625_469,
        1_616_325,
        2_535_772_800,
        2_142_000,
        20_073_600,
        relu=4 * 2_972_800,
        pool_in=24 * 320**2,
        pool_ops=9 * 24 * 160**2,
        nearest=1_024_000,
    ),
    "yolov3_tiny": counted(
        416,
        8_852_366,
        8_849_182,
        2_782_480_896,
        215_475,
        5_948_800,
        leaky=5_948_800,
        pool_in=5_451_264,
        pool_ops=5_364_736 + 4 * 512 * 13**2,
        nearest=128 * 26**2,
    ),
    "yolov4_tiny": counted(
        416,
        6_056_606,
        6_053_502,
        3_453_938_176,
        215_475,
        6_121_856,
        leaky=6_121_856,
        pool_in=2_422_784,
        pool_ops=2_422_784,
        nearest=128 * 26**2,
    ),
    "yolov5s_v5": counted(
        640,
        7_276_605,
        7_266_973,
        8_478_924_800,
        2_142_000,
        24_473_600,
        pool_in=307_200,
        pool_ops=28_160_000,
        nearest=1_228_800,
        added=2_662_400,
    ),
    "v5lite_e": counted(
        320,
        787_085,
        779_669,
        357_442_400,
        535_500,
        4_917_600,
        pool_in=32 * 160**2,
        pool_ops=9 * 32 * 80**2,
        nearest=192_000,
    ),
    "yolox_nano": counted(
        416,
        912_159,
        904_463,
        522_553_408,
        301_665,
        8_382_400,
        pool_in=64_896,
        pool_ops=5_948_800,
        nearest=259_584,
        added=562_432,
    ),
    "v5lite_s": counted(
        640,
        1_649_853,
        1_640_629,
        1_944_924_800,
        2_142_000,
        19_664_000,
        pool_in=32 * 320**2,
        pool_ops=9 * 32 * 160**2,
        nearest=614_400,
    ),
    "v5lite_c": counted(
        512,
        4_591_901,
        4_579_293,
        2_821_529_600,
        1_373_600,
        17_825_792,
        nearest=786_432,
        averaged=GATE_MEANS,
        fixed={"conv_macs": GATE_MACS, "bias": GATE_BIAS, "averaged": GATE_CHANNELS},
    ),
    "nanodet_efficientlite2": counted(
        512,
        4_689_460,
        4_658_620,
        3_404_787_712,
        1_354_752,
        53_035_008,
        relu=3_561_221_120 - 3_404_787_712 - 1_354_752 - 2 * 53_035_008,
        never_run=17_028,
    ),
    "yolov5s": counted(
        640,
        7_235_389,
        7_225_885,
        8_216_780_800,
        2_142_000,
        23_654_400,
        pool_in=307_200,
        pool_ops=7_680_000,
        nearest=1_228_800,
        added=2_355_200,
    ),
    "v5lite_g": counted(
        640,
        5_574_845,
        5_390_365,
        8_017_254_400,
        2_142_000,
        28_313_600,
        folded_macs=7_807_539_200,
        folded_bias=2_142_000 + 28_313_600 - 3_072_000,  # the 1×1 branches are merged, their BatchNorms too
        bn_channels=9_440,
        pool_in=307_200,
        pool_ops=28_160_000,
        nearest=1_024_000,
    ),
    "yolov5n": counted(
        640,
        1_872_157,
        1_867_405,
        2_234_060_800,
        2_142_000,
        11_827_200,
        pool_in=153_600,
        pool_ops=3_840_000,
        nearest=614_400,
        added=1_177_600,
    ),
}
