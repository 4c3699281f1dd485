"""Affine and flips on hand-made images: pixels against OpenCV's warp, boxes against where the pixels are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ablab.data.augment.geometry import Map, clip, kept, put

SIZE = 64


def rows(*boxes: list[float]) -> np.ndarray:
    """Rows of class 0, nothing cut."""
    return np.array([[0, *box, 1] for box in boxes], np.float32)


BOXES = rows([10, 20, 30, 50], [0, 0, 64, 64])


@pytest.fixture
def smooth() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def run(image: np.ndarray, boxes: np.ndarray, how: Map, pad: int = 114) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((SIZE, SIZE, 3), 1, np.uint8)  # whatever was there
    before = image.copy(), boxes.copy()
    moved = put(image, boxes, how, None, pad, out)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(boxes, before[1])
    return out, moved[:, 1:5]


def around(image: np.ndarray, threshold: int = 127) -> list[int]:
    """The box around the bright pixels."""
    ys, xs = (np.flatnonzero((image[..., 0] > threshold).any(axis)) for axis in (1, 0))
    return [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]


def test_no_map_leaves_image_and_boxes(smooth: np.ndarray) -> None:
    image, boxes = run(smooth, BOXES, Map())
    np.testing.assert_array_equal(image, smooth)
    np.testing.assert_array_equal(boxes, BOXES[:, 1:5])


@pytest.mark.parametrize(("height", "width"), [(64, 48), (64, 49), (33, 64), (21, 30), (128, 128)])
def test_an_image_of_another_size_lies_centred(height: int, width: int) -> None:
    white = np.full((height, width, 3), 255, np.uint8)
    image, boxes = run(white, rows([0, 0, width, height]), Map(), pad=0)
    left, top = (SIZE - width) // 2, (SIZE - height) // 2  # where the letterbox puts it too
    assert boxes[0].tolist() == [left, top, left + width, top + height]
    assert around(image) == [max(left, 0), max(top, 0), min(left + width, SIZE), min(top + height, SIZE)]


def test_flips_by_hand(smooth: np.ndarray) -> None:
    image, boxes = run(smooth, BOXES, Map(left_right=True))
    np.testing.assert_array_equal(image, smooth[:, ::-1])
    assert boxes.tolist() == [[34, 20, 54, 50], [0, 0, 64, 64]]
    image, boxes = run(smooth, BOXES, Map(up_down=True))
    np.testing.assert_array_equal(image, smooth[::-1])
    assert boxes.tolist() == [[10, 14, 30, 44], [0, 0, 64, 64]]
    image, boxes = run(smooth, BOXES, Map(left_right=True, up_down=True))
    np.testing.assert_array_equal(image, smooth[::-1, ::-1])
    assert boxes.tolist() == [[34, 14, 54, 44], [0, 0, 64, 64]]


def test_whole_pixel_translation_is_exact(smooth: np.ndarray) -> None:
    image, boxes = run(smooth, BOXES, Map(shift=(5.0, -7.0)))
    np.testing.assert_array_equal(image[:57, 5:], smooth[7:, :59])
    assert (image[57:] == 114).all()
    assert (image[:, :5] == 114).all()
    assert boxes.tolist() == [[15, 13, 35, 43], [5, -7, 69, 57]]


@pytest.mark.parametrize(("factor", "shift"), [(1.25, (3, -4)), (0.75, (-6, 2)), (1.5, (0, 0)), (0.5, (20, 20))])
def test_scaling_agrees_with_opencvs_affine_warp(smooth: np.ndarray, factor: float, shift: tuple[int, int]) -> None:
    """By the map that the boxes went through; OpenCV works between pixel centres, half a pixel inside the edges."""
    image, boxes = run(smooth, BOXES, Map(factor, shift))
    asked = BOXES[:, 1:5] * factor + np.tile(32 * (1 - factor) + np.array(shift), 2)
    np.testing.assert_allclose(boxes, asked, atol=1)  # all is cut at whole pixels
    offset, scale = boxes[1, :2], (boxes[1, 2:] - boxes[1, :2]) / SIZE
    matrix = np.column_stack([np.diag(scale), offset + scale / 2 - 0.5])
    expected = cv2.warpAffine(smooth, matrix, (SIZE, SIZE), borderValue=(114,) * 3, flags=cv2.INTER_LINEAR)
    corners = boxes[1].round().astype(int).clip(0, SIZE)
    x1, y1, x2, y2 = corners + np.array(
        [2, 2, -2, -2]
    )  # at the border one repeats pixels and the other mixes in the padding
    assert np.abs(image[y1:y2, x1:x2].astype(int) - expected[y1:y2, x1:x2]).max() <= 3


@pytest.mark.parametrize("factor", [0.71, 0.508, 0.9])
def test_boxes_move_by_what_whole_pixels_allow(factor: float) -> None:
    """The box of the whole image stays exactly around it, though 64 times the factor is no whole number."""
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    image, boxes = run(white, rows([0, 0, 64, 64]), Map(factor, (1.3, -2.4)), pad=0)
    assert boxes[0].tolist() == around(image)


@pytest.mark.parametrize("seed", range(30))
def test_boxes_follow_the_pixels_of_any_map(seed: int) -> None:
    """A white rectangle in an image that is larger than the input, or smaller."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(48, 130, 2).tolist()
    image = np.zeros((height, width, 3), np.uint8)
    cx, cy = width // 2, height // 2
    box = [cx - 9, cy - 5, cx + 11, cy + 8]
    image[box[1] : box[3], box[0] : box[2]] = 255
    how = Map(
        rng.uniform(0.6, 1.4),
        tuple(rng.uniform(-12, 12, 2)),
        left_right=bool(rng.integers(2)),
        up_down=bool(rng.integers(2)),
    )
    moved, boxes = run(image, rows(box), how, pad=0)
    np.testing.assert_allclose(boxes[0], around(moved), atol=1.0)


@pytest.mark.parametrize("how", [Map(turn=np.pi / 2), Map(turn=-np.pi / 2, shift=(3, 5)), Map(turn=np.pi)])
def test_quarter_turns_are_exact(smooth: np.ndarray, how: Map) -> None:
    image, boxes = run(smooth, BOXES, how, pad=0)
    turned = np.rot90(smooth, -round(how.turn / (np.pi / 2)))  # a positive turn is clockwise
    x, y = (round(v) for v in how.shift)
    np.testing.assert_array_equal(image[y:, x:], turned[: SIZE - y, : SIZE - x])
    white = np.zeros_like(smooth)
    white[20:50, 10:30] = 255
    np.testing.assert_allclose(boxes[0], around(run(white, BOXES, how, pad=0)[0]), atol=1e-3)


@pytest.mark.parametrize(
    "how", [Map(0.8, (2, -3), 0.4), Map(1.2, (0, 4), -0.7, (0.2, -0.1)), Map(1, (0, 0), 0, (0.3, 0))]
)
def test_a_turned_box_is_the_upright_one_around_its_corners(how: Map) -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[24:40, 20:44] = 255
    moved, boxes = run(image, rows([20, 24, 44, 40]), how, pad=0)
    found = around(moved, threshold=25)  # a corner covers little of its pixel
    assert (boxes[0, :2] <= np.array(found[:2]) + 1).all()
    assert (boxes[0, 2:] >= np.array(found[2:]) - 1).all()
    np.testing.assert_allclose(boxes[0], found, atol=1.6)


def test_what_moves_out_of_sight_leaves_the_padding(smooth: np.ndarray) -> None:
    image, boxes = run(smooth, BOXES, Map(0.5, (60, 0)))
    assert (image == 114).all()
    assert not len(boxes)


def test_clipped_boxes_are_dropped_by_the_stated_rule() -> None:
    boxes = rows(
        [-10, 0, 10, 20],  # half of it left
        [-91, 0, 9, 20],  # 9 % left
        [-89, 0, 11, 20],  # 11 % left
        [62.5, 0, 70, 30],  # 1.5 px wide
        [10, 10, 12, 12],  # 2 px
        [10, 10, 11.9, 30],  # was always too narrow
        [70, 70, 90, 90],  # outside
    )
    clipped = clip(boxes, 0, 0, SIZE, SIZE)
    which = kept(clipped, SIZE)
    assert which.tolist() == [True, False, True, False, True, False, False]
    assert clipped[which, 1:5].tolist() == [[0, 0, 10, 20], [0, 0, 11, 20], [10, 10, 12, 12]]
    np.testing.assert_allclose(clipped[which, 5], [0.5, 0.11, 1])


def test_what_was_cut_twice_counts_both_times() -> None:
    """Half is cut off, then six sevenths of the rest: 7 % of the object is left, though a seventh of its box is."""
    once = clip(rows([0, 0, 28, 20]), 0, 0, 14, 64)
    twice = clip(once, 12, 0, 64, 64)
    assert twice[0, 5] == pytest.approx(1 / 14)
    assert not kept(twice, SIZE)[0]
    assert kept(clip(rows([0, 0, 14, 20]), 12, 0, 64, 64), SIZE)[0]
