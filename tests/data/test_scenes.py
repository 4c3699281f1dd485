"""Generated scenes: repeatable, honest about their splits, within their keys, fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ablab.data import scenes
from ablab.data.dataset import load, splits
from ablab.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "data" / "scenes.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return {**yaml.safe_load(CONF.read_text()), "size": 96, "train": 12, "val": 4, "test": 0, "scale": [0.15, 0.4]}


def test_scenes_repeat_and_seeds_differ(config: dict[str, Any]) -> None:
    first, again = load(config, "train"), load(config, "train")
    other = load({**config, "data_seed": 1}, "train")
    val = load(config, "val")
    for a, b in zip(first.samples, again.samples, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert (first.samples[0].pixels != other.samples[0].pixels).any()
    drawn = [[s.classes.tolist() for s in d.samples[:4]] for d in (first, other, val)]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]  # not one scene in other handwriting


def test_more_scenes_change_none(config: dict[str, Any]) -> None:
    few, many = load({**config, "train": 3}, "train"), load(config, "train")
    for a, b in zip(few.samples, many.samples, strict=False):
        np.testing.assert_array_equal(a.pixels, b.pixels)


def test_the_splits_share_no_digit() -> None:
    by_split = {
        split: {id(g) for mine in scenes._glyphs(split, list(range(10)), 0) for g in mine} for split in scenes.SPLITS
    }
    assert sum(len(ids) for ids in by_split.values()) == len(set.union(*by_split.values())) == 1797
    assert all(len(mine) > 30 for split in scenes.SPLITS for mine in scenes._glyphs(split, list(range(10)), 0))


def test_labels_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    glyphs, labels = scenes._masters()
    np.testing.assert_array_equal(labels, load_digits().target)
    assert all(g.max() > 0.9 for g in glyphs)


def test_everything_is_within_the_keys(config: dict[str, Any]) -> None:
    dataset = load({**config, "train": 60}, "train")
    assert dataset.names == tuple("0123456789")
    seen = set()
    for sample in dataset.samples:
        assert sample.pixels is not None
        assert sample.pixels.shape == (96, 96, 3)
        assert sample.pixels.dtype == np.uint8
        assert 2 <= len(sample.boxes) <= 7
        assert sample.boxes.min() >= 0
        assert sample.boxes.max() <= 96
        heights = sample.boxes[:, 3] - sample.boxes[:, 1]
        assert heights.min() >= 0.15 * 96 - 1
        assert heights.max() <= 0.4 * 96 + 1
        seen |= set(sample.classes.tolist())
        for i in range(len(sample.boxes)):
            for j in range(i):
                a, b = sample.boxes[i], sample.boxes[j]
                common = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
                assert common <= 0.15 * min(sample.area[i], sample.area[j]) + 1e-3
    assert seen == set(range(10))


def test_a_digit_differs_from_its_ground(config: dict[str, Any]) -> None:
    """Without noise and clutter, the ink of every digit differs from the pixels just around its box."""
    plain = {**config, "noise": 0, "clutter": 0, "objects": [1, 1], "train": 40}
    for sample in load(plain, "train").samples:
        assert sample.pixels is not None
        grey = sample.pixels.astype(float).mean(2)
        x1, y1, x2, y2 = sample.boxes[0].astype(int)
        inside, ring = grey[y1:y2, x1:x2], grey[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2]
        assert np.abs(inside - np.median(ring)).max() > 0.15 * 255 * 0.6


def test_counts_need_no_drawing(config: dict[str, Any]) -> None:
    counted = scenes.describe(config)
    assert splits(config) == tuple(counted) == ("train", "val")
    for split, numbers in counted.items():
        dataset = load(config, split)
        assert numbers["images"] == len(dataset.samples)
        assert numbers["boxes"] == sum(len(s.boxes) for s in dataset.samples)


def test_only_the_digits_asked_for_are_drawn(config: dict[str, Any]) -> None:
    dataset = load({**config, "digits": [7, 1]}, "train")
    assert dataset.names == ("7", "1")
    assert {int(c) for sample in dataset.samples for c in sample.classes} <= {0, 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"objects": [30, 30], "scale": [0.4, 0.5], "overlap": 0}, r"data\.objects: no room for 30 digits"),
        ({"scale": [0.5, 0.2]}, r"data\.scale: \[0\.5, 0\.2\], expected \[low, high\]"),
        ({"scale": [0.5, 1.2]}, r"data\.scale: .* to 1"),
        ({"objects": [-1, 2]}, r"data\.objects: \[-1, 2\]"),
        ({"noise": -1}, r"data\.noise: -1"),
        ({"digits": [1, 1]}, r"data\.digits: \[1, 1\]"),
        ({"digits": [10]}, r"data\.digits: \[10\]"),
        ({"size": 8}, r"data\.size: 8"),
    ],
)
def test_impossible_keys_are_told(config: dict[str, Any], change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load({**config, **change, "train": 1}, "train")
