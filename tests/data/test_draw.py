"""The contact sheet: a PNG of the right shape with the boxes where they belong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ablab.data.draw import GAP, TILE, contact_sheet
from ablab.data.form import Dataset
from ablab.errors import UserError


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
