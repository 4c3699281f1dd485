"""Sizes of batches: which there are, how they are drawn, and that boxes follow their images."""

from __future__ import annotations

import torch

from ablab.data.loader import Batch
from ablab.training.multi_scale import resized, sides

CPU = torch.device("cpu")


def batches(count: int) -> list[Batch]:
    """Each of a white square from (16, 32) to (48, 64) on black, 64 px."""
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    images[:, :, 32:64, 16:48] = 255
    return [Batch(images, torch.tensor([[0.0, 5, 16, 32, 48, 64], [1, 2, 16, 32, 48, 64]]), [0, 1])] * count


def test_sides_are_multiples_of_the_stride_within_the_shares() -> None:
    assert sides(320, [0.75, 1.25], 32) == [256, 288, 320, 352, 384]
    assert sides(64, [0.9, 1.1], 32) == [64]
    assert sides(320, [1.0, 2.0], 64) == [320, 384, 448, 512, 576, 640]


def test_every_side_comes_up_and_boxes_follow_the_pixels() -> None:
    found = list(resized(batches(40), [32, 64, 128], CPU, seed=0, epoch=3))
    assert {batch.images.shape[-1] for batch in found} == {32, 64, 128}
    for batch in found:
        side = batch.images.shape[-1]
        assert batch.images.shape == (2, 3, side, side)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for row in batch.targets:
            x1, y1, x2, y2 = (round(float(v)) for v in row[2:])
            lit = batch.images[int(row[0]), 0] > 127
            assert int(lit.sum()) == int(lit[y1:y2, x1:x2].sum()) == (x2 - x1) * (y2 - y1) == side**2 / 4
        assert batch.targets[:, :2].tolist() == [[0, 5], [1, 2]]


def test_a_side_depends_on_seed_epoch_and_place_alone() -> None:
    def drawn(seed: int, epoch: int, count: int = 12) -> list[int]:
        return [b.images.shape[-1] for b in resized(batches(count), [32, 64, 96, 128], CPU, seed, epoch)]

    assert drawn(1, 2) == drawn(1, 2) == [*drawn(1, 2, 5), *drawn(1, 2)[5:]]
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_given_batches_stay_as_they_are() -> None:
    given = batches(1)
    list(resized(given, [32], CPU, seed=0, epoch=0))
    assert given[0].targets[0].tolist() == [0, 5, 16, 32, 48, 64]
    assert given[0].images.shape[-1] == 64
