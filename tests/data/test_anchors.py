"""Recall and k-means by hand: what an anchor answers for, and which anchors two clumps of boxes ask for."""

from __future__ import annotations

import numpy as np
import pytest

from ablab.data import anchors
from ablab.data.form import Dataset, Sample


def dataset(width: int, height: int, boxes: list[list[float]], crowd: list[bool]) -> Dataset:
    corners = np.array(boxes, np.float32)
    kinds, area = np.zeros(len(boxes), np.int64), np.ones(len(boxes))
    sample = Sample(1, "one.png", width, height, corners, kinds, np.array(crowd), area)
    return Dataset(("a",), (1,), (sample,), ())


def test_recall_counts_a_side_four_times_the_anchors_as_missed() -> None:
    given = [[[10, 10]], [[40, 80]]]
    sizes = np.array([[39.9, 10], [2.6, 10], [40, 10], [2.5, 10], [100, 300], [161, 80], [10, 160]])
    #                  3.99       3.85       4 of the first, 8 of the other; 4; 2.5 and 3.75; 4.03; 16 and 4
    assert anchors.recall(given, sizes, 4.0) == pytest.approx(3 / 7)
    assert anchors.recall(given, sizes, 4.1) == pytest.approx(7 / 7)


def test_box_sizes_are_those_of_the_network_input_without_crowds() -> None:
    data = dataset(200, 100, [[0, 0, 50, 20], [10, 10, 110, 60], [0, 0, 200, 100]], [False, False, True])
    assert anchors.box_sizes(data, "letterbox", 400).tolist() == [[100, 40], [200, 100]]
    assert anchors.box_sizes(data, "stretch", 400).tolist() == [[100, 80], [200, 200]]
    text = anchors.described(anchors.box_sizes(data, "letterbox", anchors.REFERENCE))
    assert anchors.sizes_of(text, 400) == pytest.approx(np.array([[100, 40], [200, 100]]), abs=0.05)


def test_a_large_split_is_described_by_boxes_spread_over_it() -> None:
    sizes = np.stack([np.arange(1, 20_001), np.full(20_000, 7)], 1)
    found = anchors.sizes_of(anchors.described(sizes), anchors.REFERENCE)
    assert len(found) == anchors.MOST
    assert found[[0, -1], 0].tolist() == [1, 20_000]
    assert np.median(found[:, 0]) == pytest.approx(10_000, rel=0.01)


def test_fitted_anchors_are_the_clumps_from_small_to_large() -> None:
    rng = np.random.default_rng(0)
    centres = [(100, 50), (8, 8), (20, 40), (300, 280)]
    sizes = np.concatenate([np.exp(rng.normal(np.log(c), 0.02, (50, 2))) for c in centres])
    found = anchors.fit(sizes, 2, 2)
    assert found == anchors.fit(sizes, 2, 2)
    assert np.array(found) == pytest.approx(np.array([[(8, 8), (20, 40)], [(100, 50), (300, 280)]]), rel=0.02)
    assert anchors.fit(np.array([[5, 5]] * 9 + [[6, 6]]), 1, 3) is None  # two sizes for three anchors
