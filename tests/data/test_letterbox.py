"""Placement by hand and against OpenCV's resize; boxes there and back; pixels where the boxes say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ablab.data.letterbox import RESIZES, Placement, fit
from ablab.errors import UserError


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (640, 480, 320, Placement(0.5, 0.5, 0, 40)),
        (480, 640, 320, Placement(0.5, 0.5, 40, 0)),
        (100, 50, 320, Placement(3.2, 3.2, 0, 80)),
        (64, 64, 64, Placement(1, 1, 0, 0)),
        (100, 33, 64, Placement(0.64, 21 / 33, 0, 21)),  # 43 px of padding: 21 above, 22 below
        (1000, 1, 64, Placement(0.064, 1.0, 0, 31)),
    ],
)
def test_letterbox_by_hand(width: int, height: int, size: int, expected: Placement) -> None:
    image, placement = fit(np.zeros((height, width, 3), np.uint8), size, 114)
    assert image.shape == (size, size, 3)
    assert placement == expected
    inside = image[..., 0] == 0
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    assert (rows[0], columns[0]) == (expected.top, expected.left)
    assert (image[~inside] == 114).all()


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (100, 33), (64, 64), (1, 1000)])
def test_top_left_is_the_letterbox_in_the_corner(width: int, height: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    middle, expected = fit(noise, 320, 114)
    corner, placement = fit(noise, 320, 114, "letterbox_top_left")
    assert placement == Placement(expected.scale_x, expected.scale_y, 0, 0)
    np.testing.assert_array_equal(corner, np.roll(middle, (-expected.top, -expected.left), (0, 1)))


def test_shrinking_averages_and_growing_is_bilinear() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    small, _ = fit(noise, 32)
    mean = noise.reshape(24, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(small[4:28].astype(float) - mean).max() <= 0.51
    large, _ = fit(noise, 128)
    np.testing.assert_array_equal(large[16:112], cv2.resize(noise, (128, 96), interpolation=cv2.INTER_LINEAR))
    linear, _ = fit(noise, 32, interpolation="linear")
    np.testing.assert_array_equal(linear[4:28], cv2.resize(noise, (32, 24), interpolation=cv2.INTER_LINEAR))


def test_stretch_is_opencvs_resize() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    image, placement = fit(noise, 96, resize="stretch")
    np.testing.assert_array_equal(image, cv2.resize(noise, (96, 96), interpolation=cv2.INTER_LINEAR))
    assert placement == Placement(1.5, 2.0, 0, 0)
    assert placement.to_network(np.array([[2, 3, 10, 20]])).tolist() == [[3, 6, 15, 40]]


@pytest.mark.parametrize("resize", RESIZES)
def test_boxes_there_and_back(resize: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        width, height, size = rng.integers(20, 800, 3)
        _, placement = fit(np.zeros((height, width, 3), np.uint8), int(size), resize=resize)
        boxes = np.sort(rng.uniform(0, [width, height], (9, 2, 2)), axis=1).reshape(9, 4)
        inside = placement.to_network(boxes)
        assert inside.dtype == np.float32
        assert inside.min() >= 0
        assert inside.max() <= size
        np.testing.assert_allclose(placement.to_image(inside), boxes, atol=2e-3)


def test_boxes_follow_the_pixels() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 30:80] = 255
    fitted, placement = fit(image, 320, 0)
    x1, y1, x2, y2 = placement.to_network(np.array([[30, 20, 80, 40]]))[0]
    white = fitted[..., 0] > 127
    rows, columns = (np.flatnonzero(white.any(axis)) for axis in (1, 0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (x1, y1, x2, y2)


def test_unknown_modes_are_told() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"preprocess\.resize: 'strech'. Did you mean 'stretch'"):
        fit(image, 8, resize="strech")
    with pytest.raises(UserError, match=r"preprocess\.interpolation: 'cubic'"):
        fit(image, 8, interpolation="cubic")
