"""Mosaic, copy-paste and mixup on images of one colour each, whose boxes must bound what is seen of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, kstest

from ablab.data.augment.several import Content, copy_paste, mixup, mosaic, weight

SIZE = 64


def filled(value: int, height: int, width: int) -> Content:
    """An image of one grey, all of it the box of class `value`."""
    return np.full((height, width, 3), value, np.uint8), np.array([[value, 0, 0, width, height, 1]], np.float32)


def around(image: np.ndarray, value: int) -> list[int]:
    ys, xs = (np.flatnonzero((image[..., 0] == value).any(axis)) for axis in (1, 0))
    return [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.9), (1.0, 0.0), (0.31, 0.77)])
def test_a_mosaics_boxes_bound_what_is_seen_of_each_image(centre: tuple[float, float]) -> None:
    sides = [(64, 48), (40, 64), (64, 64), (20, 64)]
    canvas, rows = mosaic([filled(10 + i, *side) for i, side in enumerate(sides)], SIZE, centre, 114)
    assert canvas.shape == (128, 128, 3)
    cx, cy = (round(32 + 64 * share) for share in centre)
    for i, (row, (height, width)) in enumerate(zip(rows, sides, strict=True)):
        assert row[0] == 10 + i
        found = around(canvas, 10 + i)
        assert row[1:5].tolist() == found
        assert (found[2] if i % 2 == 0 else found[0]) == cx  # they meet at the centre
        assert (found[3] if i < 2 else found[1]) == cy
        seen = (found[2] - found[0]) * (found[3] - found[1])
        assert row[5] == pytest.approx(seen / (height * width))
    assert (canvas[0, 0] == (114 if max(cx - 48, cy - 64) > 0 else 10)).all()


def test_what_a_mosaic_cuts_away_is_gone() -> None:
    image, _ = filled(9, 64, 64)
    rows = np.array([[1, 0, 0, 20, 20, 1], [2, 40, 40, 64, 64, 1]], np.float32)
    _, found = mosaic([(image, rows)] + [filled(0, 64, 64)] * 3, SIZE, (0.0, 0.0), 114)
    assert found[:, 0].tolist() == [2, 0, 0, 0]  # the canvas shows the lower right quarter of the first


def test_pasted_boxes_are_there_and_cover_little() -> None:
    base = np.zeros((64, 64, 3), np.uint8)
    base[10:40, 5:30] = 200
    there = np.array([[0, 5, 10, 30, 40, 1]], np.float32)
    other = np.full((50, 70, 3), 7, np.uint8)
    other[20:30, 40:56] = 90
    given = np.array([[3, 40, 20, 56, 30, 1]], np.float32)
    pasted = 0
    for seed in range(60):
        image, rows = copy_paste((base, there), (other, given), np.random.default_rng(seed))
        assert not (base == 90).any()
        assert rows[0].tolist() == there[0].tolist()
        covered = 1 - (image[10:40, 5:30, 0] == 200).mean()
        if len(rows) == 2:
            pasted += 1
            assert rows[1, 0] == 3
            assert rows[1, 1:5].tolist() == around(image, 90)
            assert (image[..., 0] == 90).sum() == 160
            assert covered <= 0.3
        else:
            np.testing.assert_array_equal(image, base)
    assert 10 < pasted <= 60


def test_a_box_that_would_cover_too_much_is_not_pasted() -> None:
    base = np.zeros((40, 40, 3), np.uint8)
    there = np.array([[0, 5, 5, 35, 35, 1]], np.float32)
    other = filled(90, 40, 40)
    image, rows = copy_paste((base, there), other, np.random.default_rng(0))
    assert not image.any()
    assert len(rows) == 1
    image, rows = copy_paste((base, there), filled(90, 41, 3), np.random.default_rng(0))  # higher than the picture
    assert not image.any()
    assert len(rows) == 1


def test_mixups_weight_is_distributed_as_beta_8_8() -> None:
    drawn = [weight(u) for u in np.random.default_rng(0).random(400).tolist()]
    assert kstest(drawn, beta(8, 8).cdf).pvalue > 0.01
    assert weight(0.5) == pytest.approx(0.5)


def test_mixup_blends_in_place() -> None:
    out, other = np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    mixup(out, other, 0.3)
    assert (out == 130).all()
