"""All augmentations together: repeatable, independent of each other, over when they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ablab.config import compose
from ablab.data.augment.draws import NUMBERS, Draws
from ablab.data.augment.pipeline import augmented

from .augmentations import ALL, AMOUNTS, OFF, ON, config

SIZE = 64
IMAGES = 5


def content(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark image with a bright rectangle, of its own place and size."""
    image = np.full((48 + 3 * index, SIZE, 3), 20, np.uint8)
    box = [10 + 4 * index, 12, 30 + 4 * index, 30 + index]
    image[box[1] : box[3], box[0] : box[2]] = (240, 200, 220)
    return image, np.array([[index, *box, 1]], np.float32)


def run(settings: dict[str, Any], index: int = 0, epoch: int = 0, progress: float = 0.0) -> tuple[np.ndarray, Any]:
    out = np.full((SIZE, SIZE, 3), 1, np.uint8)
    rows = augmented(index, Draws(settings, 3, epoch, progress, IMAGES), content, 114, out)
    return out, rows.tolist()


def same(a: tuple[np.ndarray, Any], b: tuple[np.ndarray, Any]) -> bool:
    return bool((a[0] == b[0]).all()) and a[1] == b[1]


@pytest.mark.parametrize("choice", ["light", "none", "upright", "mosaic"])
def test_the_choices_hold_the_augmentations(choice: str) -> None:
    found = compose([f"augment={choice}"]).resolved["augment"]
    assert {name: keys.keys() - {"p", "until"} for name, keys in found.items()} == {
        name: set(keys) for name, keys in AMOUNTS.items()
    }
    assert found.keys() == NUMBERS.keys()
    assert any(keys["p"] for keys in found.values()) == (choice != "none")


def test_nothing_happens_when_all_is_off() -> None:
    image, rows = run(OFF, 0)
    pixels, own = content(0)
    np.testing.assert_array_equal(image[8:56], pixels)
    assert (image[:8] == 114).all()
    assert rows == [[0, 10, 20, 30, 38, 1]]
    assert own[0, 2] == 12  # what it was made of is left alone


def test_an_image_depends_on_seed_epoch_and_place_alone() -> None:
    draws = Draws(ALL, 3, 1, 0.0, IMAGES)
    outs = np.empty((2, IMAGES, SIZE, SIZE, 3), np.uint8)
    forth = [augmented(i, draws, content, 114, outs[0, i]).tolist() for i in range(IMAGES)]
    back = [augmented(i, draws, content, 114, outs[1, i]).tolist() for i in reversed(range(IMAGES))]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert forth == back[::-1]
    assert same(run(ALL, 2, epoch=1), (outs[0, 2], forth[2]))
    assert len({run(ALL, index, epoch)[0].tobytes() for index in range(3) for epoch in range(3)}) == 9


def test_switching_one_off_leaves_the_draws_of_the_others() -> None:
    def drawn(settings: dict[str, Any], name: str) -> list[Any]:
        draws = Draws(settings, 3, 0, 0.0, 40)
        return [draws.of(name, index, second) for index in range(40) for second in (False, True)]

    for off in AMOUNTS:
        without = ALL | {off: ALL[off] | {"p": 0.0}}
        assert drawn(without, off) == [None] * 80
        for name in AMOUNTS.keys() - {off}:
            assert drawn(without, name) == drawn(ALL, name)
            assert any(one is not None for one in drawn(ALL, name))
    for epoch in range(20):  # and what comes of them: boxes do not depend on colours
        assert run(ALL, 0, epoch)[1] == run(ALL | {"hsv": OFF["hsv"]}, 0, epoch)[1]


def test_until() -> None:
    early = config(flip_lr={"until": 0.5}, flip_ud={"until": 0.85})
    pixels = content(0)[0]
    for progress, expected in (
        (0.0, pixels[::-1, ::-1]),
        (0.49, pixels[::-1, ::-1]),
        (0.5, pixels[::-1]),
        (0.85, pixels),
    ):
        np.testing.assert_array_equal(run(early, progress=progress)[0][8:56], expected)


def test_probabilities() -> None:
    draws = Draws(config(flip_lr=0.3, hsv=1.0), 0, 0, 0.0, 2000)
    share = np.mean([draws.of("flip_lr", index) is not None for index in range(2000)])
    assert 0.26 < share < 0.34
    assert all(draws.of("hsv", index) for index in range(2000))


def test_amounts_stay_in_their_ranges_and_reach_them() -> None:
    sides, centres = [], []
    for epoch in range(300):
        (_, x1, y1, x2, y2, _), *_ = run(config(affine=1.0), 0, epoch)[1]
        sides.append(((x2 - x1) / 20, (y2 - y1) / 18))
        factor = (x2 - x1) / 20
        centres.append(((x1 + x2) / 2 - 32 + 12 * factor, (y1 + y2) / 2 - 32 + 3 * factor))
    assert 0.68 < np.min(sides) < 0.75
    assert 1.25 < np.max(sides) < 1.32
    assert 5.5 < np.abs(centres).max() <= 6.4 + 1


@pytest.mark.parametrize("name", ["mosaic", "copy_paste", "mixup"])
def test_other_images_come_in(name: str) -> None:
    others = [row[0] for epoch in range(20) for row in run(config(**{name: 1.0}), 0, epoch)[1]]
    assert set(others) == set(range(IMAGES))


def test_mixup_holds_the_boxes_of_both_as_the_others_make_them() -> None:
    for epoch in range(10):
        _, rows = run(config(mixup=1.0, affine=1.0), 0, epoch)
        assert len(rows) == 2
        assert rows[0] == run(config(affine=1.0), 0, epoch)[1][0]


@pytest.mark.parametrize("on", [ON, config(mosaic=1.0), config(mosaic=1.0, affine=1.0, flip_lr=0.5, copy_paste=1.0)])
def test_boxes_bound_the_bright_pixels(on: dict[str, Any]) -> None:
    """Whatever was done, every bright pixel lies in a box."""
    bright = 0
    for epoch in range(25):
        image, rows = run(on | {"hsv": OFF["hsv"]}, epoch % IMAGES, epoch)
        inside = np.zeros((SIZE, SIZE), np.bool_)
        for _, x1, y1, x2, y2, _ in rows:
            inside[max(int(y1) - 1, 0) : max(int(y2) + 2, 0), max(int(x1) - 1, 0) : max(int(x2) + 2, 0)] = True
        found = image[..., 0] > 200
        assert not (found & ~inside).any()
        bright += int(found.sum())
    assert bright > 2000
