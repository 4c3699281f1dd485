"""The contact sheet: a PNG of the right shape with the boxes where they belong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from ablab.data.draw import GAP, TILE, augmented_sheet, contact_sheet
from ablab.data.form import Dataset
from ablab.errors import UserError

from . import augmentations
from .test_loader import PREPROCESS


@pytest.mark.parametrize(("count", "rows", "columns"), [(16, 3, 3), (4, 2, 2), (2, 1, 2), (1, 1, 1)])
def test_tiles(squares: Dataset, tmp_path: Path, count: int, rows: int, columns: int) -> None:
    path = contact_sheet(squares, tmp_path / "new" / "sheet.png", count)
    sheet = cv2.imread(str(path))
    assert sheet.shape == (rows * (TILE + GAP) + GAP, columns * (TILE + GAP) + GAP, 3)


def test_boxes_are_drawn_on_their_edges_and_crowds_grey(squares: Dataset, tmp_path: Path) -> None:
    only = Dataset(squares.names, squares.category_ids, squares.samples[3:4], ())
    sheet = cv2.imread(str(contact_sheet(only, tmp_path / "sheet.png", 1))).astype(int)
    (box, crowd) = only.samples[0].boxes * (TILE / 64) + GAP
    spread = sheet.max(2) - sheet.min(2)
    x, y = int(box[2]), int((box[1] + box[3]) / 2)
    assert spread[y, x] > 150  # a colour
    assert spread[y, x - 20] < 30  # the grey square inside
    x, y = int(crowd[2]), int((crowd[1] + crowd[3]) / 2)
    np.testing.assert_allclose(sheet[y, x], 128, atol=2)


def test_a_path_that_cannot_be_written_is_told(squares: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        contact_sheet(squares, tmp_path / "file" / "sheet.png")


def test_the_augmented_sheet_shows_boxes_where_the_augmented_pixels_are(tmp_path: Path) -> None:
    """Black images with a white or grey square: every tile's square lies within the rectangle drawn around it."""
    config = {
        "schedule": {"phases": [{"imgsz": 64}]},
        "preprocess": PREPROCESS | {"pad": 0},
        "augment": augmentations.config(affine=1.0, flip_lr=0.5, flip_ud=0.5),
        "seed": 0,
    }
    data = tiny.squares(3)
    path = augmented_sheet(data, config, tmp_path / "new" / "sheet.png", count=2, epochs=3)
    sheet = cv2.imread(str(path)).astype(int)
    assert sheet.shape == (2 * (TILE + GAP) + GAP, 3 * (TILE + GAP) + GAP, 3)
    tiles = set()
    for row in range(2):
        for column in range(3):
            y, x = (GAP + (TILE + GAP) * place for place in (row, column))
            tile = sheet[y : y + TILE, x : x + TILE]
            tiles.add(tile.tobytes())
            coloured = tile.max(2) - tile.min(2) > 60
            square = (tile.min(2) > 100) & ~coloured
            ys, xs = np.nonzero(coloured)
            inside_y, inside_x = np.nonzero(square)
            assert len(inside_y) > 1000
            assert ys.min() - 8 <= inside_y.min()
            assert inside_y.max() <= ys.max() + 8
            assert xs.min() - 8 <= inside_x.min()
            assert inside_x.max() <= xs.max() + 8
    assert len(tiles) == 6
