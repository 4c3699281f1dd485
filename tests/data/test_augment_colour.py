"""Colours against OpenCV's conversion in float and against colorsys."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from ablab.data.augment.colour import Colour, hsv


@pytest.fixture
def smooth() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_hsv_agrees_with_opencvs_conversion_in_float(smooth: np.ndarray) -> None:
    turn, saturation, value = 0.05, 0.8, 1.1
    full = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees, the others in [0, 1]
    full[..., 0] = (full[..., 0] + turn * 360) % 360
    full[..., 1:] = (full[..., 1:] * (saturation, value)).clip(0, 1)
    expected = cv2.cvtColor(full, cv2.COLOR_HSV2RGB) * 255
    found = hsv(smooth, Colour(turn, saturation, value))
    assert np.abs(found - expected).mean() < 1
    assert np.abs(found - expected).max() < 6


def test_hsv_of_one_colour_by_hand() -> None:
    colour = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    h, s, v = colorsys.rgb_to_hsv(200 / 255, 100 / 255, 50 / 255)
    expected = np.array(colorsys.hsv_to_rgb((h - 0.1) % 1, s * 0.5, v * 0.9)) * 255
    np.testing.assert_allclose(hsv(colour, Colour(-0.1, 0.5, 0.9))[0, 0], expected, atol=2)
    assert hsv(colour, Colour(0, 1, 2))[0, 0].max() == 255


def test_grey_has_no_hue_to_turn() -> None:
    grey = np.full((4, 4, 3), 114, np.uint8)
    np.testing.assert_array_equal(hsv(grey, Colour(0.3, 1.5, 1)), grey)


def test_hsv_in_place_is_hsv(smooth: np.ndarray) -> None:
    colour = Colour(-0.2, 1.3, 0.8)
    expected = hsv(smooth, colour)
    canvas = np.zeros((80, 80, 3), np.uint8)
    view = canvas[8:72, 8:72]
    view[:] = smooth
    hsv(view, colour, view)
    np.testing.assert_array_equal(view, expected)
    assert not canvas[:8].any()
