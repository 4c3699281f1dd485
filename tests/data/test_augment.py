"""Augmentations one by one: identity when off, boxes by hand, pixels against OpenCV."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
import pytest

from ablab.data.augment import affine, augment, clip, flip, hsv

OFF = {"flip_lr": 0, "flip_ud": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "scale": 0, "translate": 0}
ON = {"flip_lr": 0.5, "flip_ud": 0.5, "hsv_h": 0.02, "hsv_s": 0.5, "hsv_v": 0.4, "scale": 0.3, "translate": 0.1}
BOXES = np.array([[10, 20, 30, 50], [0, 0, 64, 64]], np.float32)


@pytest.fixture
def smooth() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def run(image: np.ndarray, config: dict[str, Any], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return augment(image, BOXES, config, 114, np.random.default_rng(seed))


def test_nothing_happens_when_all_is_off(smooth: np.ndarray) -> None:
    image, boxes, kept = run(smooth, OFF)
    np.testing.assert_array_equal(image, smooth)
    np.testing.assert_array_equal(boxes, BOXES)
    assert kept.all()


def test_the_input_is_left_alone_and_the_draw_is_repeatable(smooth: np.ndarray) -> None:
    before = smooth.copy()
    first, again, other = run(smooth, ON, 3), run(smooth, ON, 3), run(smooth, ON, 4)
    np.testing.assert_array_equal(smooth, before)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_switching_one_off_leaves_the_draws_of_the_others(smooth: np.ndarray) -> None:
    """The place of the boxes does not depend on whether colours are changed."""
    for seed in range(20):
        coloured = run(smooth, ON, seed)
        plain = run(smooth, {**ON, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}, seed)
        np.testing.assert_array_equal(coloured[1], plain[1])


def test_flips_by_hand(smooth: np.ndarray) -> None:
    image, boxes = flip(smooth, BOXES, left_right=True, up_down=False)
    np.testing.assert_array_equal(image, smooth[:, ::-1])
    assert boxes.tolist() == [[34, 20, 54, 50], [0, 0, 64, 64]]
    image, boxes = flip(smooth, BOXES, left_right=False, up_down=True)
    np.testing.assert_array_equal(image, smooth[::-1])
    assert boxes.tolist() == [[10, 14, 30, 44], [0, 0, 64, 64]]


def test_flip_probabilities(smooth: np.ndarray) -> None:
    always = run(smooth, {**OFF, "flip_lr": 1})[0]
    np.testing.assert_array_equal(always, smooth[:, ::-1])
    share = np.mean([run(smooth, {**OFF, "flip_lr": 0.3}, seed)[0][0, 0, 0] != smooth[0, 0, 0] for seed in range(400)])
    assert 0.22 < share < 0.38


def test_whole_pixel_translation_is_exact(smooth: np.ndarray) -> None:
    image, boxes = affine(smooth, BOXES, 1.0, np.array([5.0, -7.0]), 114)
    np.testing.assert_array_equal(image[:57, 5:], smooth[7:, :59])
    assert (image[57:] == 114).all()
    assert (image[:, :5] == 114).all()
    assert boxes.tolist() == [[15, 13, 35, 43], [5, -7, 69, 57]]


@pytest.mark.parametrize(("factor", "shift"), [(1.25, (3, -4)), (0.75, (-6, 2)), (1.5, (0, 0)), (0.5, (20, 20))])
def test_scaling_agrees_with_opencvs_affine_warp(smooth: np.ndarray, factor: float, shift: tuple[int, int]) -> None:
    """cv2.warpAffine works between pixel centres, which lie half a pixel inside the edges that boxes are given in."""
    image, boxes = affine(smooth, BOXES, factor, np.array(shift, float), 114)
    offset = 32 * (1 - factor) + np.array(shift)
    matrix = np.column_stack([np.eye(2) * factor, offset + factor / 2 - 0.5])
    expected = cv2.warpAffine(smooth, matrix, (64, 64), borderValue=(114,) * 3, flags=cv2.INTER_LINEAR)
    corners = np.concatenate([offset, offset + 64 * factor]).round().astype(int).clip(0, 64)
    x1, y1, x2, y2 = corners + np.array(
        [2, 2, -2, -2]
    )  # at the border one repeats pixels and the other mixes in the padding
    difference = np.abs(image[y1:y2, x1:x2].astype(int) - expected[y1:y2, x1:x2])
    assert difference.max() <= 3
    np.testing.assert_allclose(boxes, BOXES * factor + np.tile(offset, 2), atol=1e-4)


@pytest.mark.parametrize("factor", [0.71, 0.508, 0.9])
def test_boxes_move_by_what_whole_pixels_allow(factor: float) -> None:
    """The box of the whole image stays exactly around it, though 64 times the factor is no whole number."""
    white = np.full((64, 64, 3), 255, np.uint8)
    image, boxes = affine(white, np.array([[0, 0, 64, 64]], np.float32), factor, np.array([1.3, -2.4]), 0)
    rows, columns = (np.flatnonzero(image[..., 0].any(axis)) for axis in (1, 0))
    assert boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_boxes_follow_the_pixels_at_any_draw() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[24:40, 20:44] = 255
    config = {**OFF, "flip_lr": 0.5, "flip_ud": 0.5, "scale": 0.3, "translate": 0.1}
    for seed in range(40):
        moved, boxes, _ = augment(
            image, np.array([[20, 24, 44, 40]], np.float32), config, 0, np.random.default_rng(seed)
        )
        rows, columns = (np.flatnonzero((moved[..., 0] > 127).any(axis)) for axis in (1, 0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes[0], found, atol=1.0)


def test_draws_stay_in_their_ranges() -> None:
    boxes = np.array([[28, 28, 36, 36]], np.float32)
    sides, centres = [], []
    for seed in range(300):
        moved = augment(
            np.zeros((64, 64, 3), np.uint8),
            boxes,
            {**OFF, "scale": 0.3, "translate": 0.1},
            114,
            np.random.default_rng(seed),
        )[1][0]
        sides.append(moved[2] - moved[0])
        centres.append((moved[:2] + moved[2:]) / 2 - 32)
    assert 8 * 0.69 < min(sides) < 8 * 0.75
    assert 8 * 1.25 < max(sides) < 8 * 1.31
    assert 5.5 < np.abs(centres).max() <= 6.4 + 0.5


def test_hsv_agrees_with_opencvs_conversion_in_float(smooth: np.ndarray) -> None:
    turn, saturation, value = 0.05, 0.8, 1.1
    full = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees, the others in [0, 1]
    full[..., 0] = (full[..., 0] + turn * 360) % 360
    full[..., 1:] = (full[..., 1:] * (saturation, value)).clip(0, 1)
    expected = cv2.cvtColor(full, cv2.COLOR_HSV2RGB) * 255
    found = hsv(smooth, turn, saturation, value)
    assert np.abs(found - expected).mean() < 1
    assert np.abs(found - expected).max() < 6


def test_hsv_of_one_colour_by_hand() -> None:
    colour = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    h, s, v = colorsys.rgb_to_hsv(200 / 255, 100 / 255, 50 / 255)
    expected = np.array(colorsys.hsv_to_rgb((h - 0.1) % 1, s * 0.5, v * 0.9)) * 255
    np.testing.assert_allclose(hsv(colour, -0.1, 0.5, 0.9)[0, 0], expected, atol=2)
    assert hsv(colour, 0, 1, 2)[0, 0].max() == 255


def test_grey_padding_has_no_hue_to_turn() -> None:
    pad = np.full((4, 4, 3), 114, np.uint8)
    np.testing.assert_array_equal(hsv(pad, 0.3, 1.5, 1), pad)


def test_clipped_boxes_are_dropped_by_the_stated_rule() -> None:
    boxes = np.array(
        [
            [-10, 0, 10, 20],  # half of it left
            [-91, 0, 9, 20],  # 9 % left
            [-89, 0, 11, 20],  # 11 % left
            [62.5, 0, 70, 30],  # 1.5 px wide
            [10, 10, 12, 12],  # 2 px
            [10, 10, 11.9, 30],  # was always too narrow
            [70, 70, 90, 90],  # outside
        ],
        np.float32,
    )
    kept_boxes, kept = clip(boxes, 64)
    assert kept.tolist() == [True, False, True, False, True, False, False]
    assert kept_boxes.tolist() == [[0, 0, 10, 20], [0, 0, 11, 20], [10, 10, 12, 12]]
