"""The assignment by hand, and against loops that spell out the paper's algorithm 1 in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ablab.models.heads.atss import assign, centres


def spelled_out(targets, sizes, strides, top_k, scale):
    """{(image, level, row, column): row of its truth}, one truth and one cell at a time, in float64."""
    owners = {}
    for truth, (image, _, *box) in enumerate(targets.double().tolist()):
        x1, y1, x2, y2 = box
        candidates = []
        for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
            cells = [(y, x) for y in range(height) for x in range(width)]
            squared = [
                ((x + 0.5) * stride - (x1 + x2) / 2) ** 2 + ((y + 0.5) * stride - (y1 + y2) / 2) ** 2 for y, x in cells
            ]
            nearest = np.argsort(squared, kind="stable")[:top_k]
            candidates += [(level, *cells[index]) for index in nearest]
        overlaps = []
        for level, y, x in candidates:
            cx, cy, half = (x + 0.5) * strides[level], (y + 0.5) * strides[level], scale * strides[level] / 2
            w = max(min(x2, cx + half) - max(x1, cx - half), 0)
            h = max(min(y2, cy + half) - max(y1, cy - half), 0)
            overlaps.append(w * h / ((x2 - x1) * (y2 - y1) + (2 * half) ** 2 - w * h))
        threshold = np.mean(overlaps) + np.std(overlaps, ddof=1)
        if len(sizes) < 3:
            threshold = min(threshold, max(overlaps))
        for (level, y, x), overlap in zip(candidates, overlaps, strict=True):
            cx, cy = (x + 0.5) * strides[level], (y + 0.5) * strides[level]
            if overlap < threshold or min(cx - x1, cy - y1, x2 - cx, y2 - cy) <= 0.01:
                continue
            cell = (int(image), level, y, x)
            if cell not in owners or overlap > owners[cell][1]:
                owners[cell] = (truth, overlap)
    return {cell: truth for cell, (truth, _) in owners.items()}


def found(targets, sizes, strides, images, top_k, scale):
    """What `assign` says, in the same form."""
    match = assign(targets, sizes, strides, images, top_k, scale)
    firsts = np.cumsum([0] + [height * width for height, width in sizes])
    owners = {}
    for row, truth in zip(match.rows.tolist(), match.truths.tolist(), strict=True):
        image, place = divmod(row, firsts[-1])
        level = int(np.searchsorted(firsts, place, side="right")) - 1
        owners[int(image), level, *divmod(int(place - firsts[level]), sizes[level][1])] = truth
    assert len(owners) == len(match.rows)  # no cell answers twice
    return owners


def truths(count, size, images, seed, whole=False):
    rng = np.random.default_rng(seed)
    middle, sides = rng.uniform(0, size, (count, 2)), rng.uniform(3, size * 0.7, (count, 2))
    boxes = np.concatenate((middle - sides / 2, middle + sides / 2), 1).clip(0, size)
    boxes = boxes.round() if whole else boxes
    columns = rng.integers(0, images, count), rng.integers(0, 3, count), boxes
    return torch.tensor(np.column_stack(columns), dtype=torch.float32)


@pytest.mark.parametrize("whole", [False, True], ids=["any px", "whole px, with ties"])
@pytest.mark.parametrize(
    ("sizes", "strides", "top_k"),
    [
        ([(8, 8), (4, 4), (2, 2)], [8, 16, 32], 9),  # fewer cells than candidates on the last level
        ([(6, 10), (3, 5)], [16, 32], 4),
        ([(16, 16)], [8], 9),
    ],
)
def test_assignment_is_the_papers(sizes, strides, top_k, whole):
    for seed in range(4):
        targets = truths(12, strides[0] * sizes[0][0], 3, seed, whole)
        expected = spelled_out(targets, sizes, strides, top_k, 5.0)
        assert found(targets, sizes, strides, 3, top_k, 5.0) == expected
        assert len(expected) > 10
        assert len(set(expected.values())) > 3


def test_by_hand():
    """40 × 40 px about the centre of a cell of stride 8, whose own square it is. The nine nearest have the IoUs 1, 4 ×
    1280/1920 and 4 × 1024/2176: their mean is .617, their standard deviation .174."""
    box = torch.tensor([[0, 0, 8.0, 8, 48, 48]])
    assert found(box, [(8, 8)], [8], 1, 9, 5.0) == {(0, 0, 3, 3): 0}
    # Of the five nearest, 1 and 4 × .667, the mean is .733 and the standard deviation .149. Squares of 24 px all lie
    # within the box: five equal IoUs of 576/1600.
    assert found(box, [(8, 8)], [8], 1, 5, 5.0) == {(0, 0, 3, 3): 0}
    near = [(0, 0, 2, 3), (0, 0, 3, 2), (0, 0, 3, 3), (0, 0, 3, 4), (0, 0, 4, 3)]
    assert sorted(found(box, [(8, 8)], [8], 1, 5, 3.0)) == near


def test_one_candidate_answers():
    """Of one number there is no standard deviation."""
    box = torch.tensor([[0, 0, 8.0, 8, 48, 48]])
    assert found(box, [(8, 8)], [8], 1, 1, 5.0) == {(0, 0, 3, 3): 0}


def test_two_levels_leave_no_truth_without_a_cell():
    """112 × 112 px cover every candidate's square, nine with an IoU of 1600/12544 and nine of 6400/12544: the mean and
    standard deviation, .319 + .197, are out of reach, but the best nine count."""
    box = torch.tensor([[0, 0, 0.0, 0, 112, 112]])
    owners = found(box, [(16, 16), (8, 8)], [8, 16], 1, 9, 5.0)
    assert sorted(owners) == [(0, 1, y, x) for y in (2, 3, 4) for x in (2, 3, 4)]
    assert spelled_out(box, [(16, 16), (8, 8)], [8, 16], 9, 5.0).keys() == owners.keys()


def test_centres_must_lie_inside():
    """A truth between the centres of cells has candidates, but none of them in it."""
    assert found(torch.tensor([[0, 0, 5.0, 5, 11, 11]]), [(8, 8)], [8], 1, 9, 5.0) == {}


def test_of_truths_that_meet_the_nearer_fit_wins_and_of_equals_the_first():
    fits, loose, twin = [0, 0, 8.0, 8, 48, 48], [0, 1, 0.0, 0, 56, 56], [0, 2, 8.0, 8, 48, 48]
    for boxes, winner in (([fits, loose], 0), ([loose, fits], 1), ([fits, twin, loose], 0), ([twin, fits], 0)):
        owners = found(torch.tensor(boxes), [(8, 8)], [8], 1, 9, 5.0)
        assert owners[0, 0, 3, 3] == winner


def test_no_truths_no_matches():
    match = assign(torch.zeros(0, 6), [(8, 8), (4, 4)], [8, 16], 2, 9, 5.0)
    assert match.rows.shape == match.truths.shape == (0,)


def test_centres_are_the_middles_of_cells():
    x, y = centres((2, 3), 16, torch.device("cpu"))
    assert (x.tolist(), y.tolist()) == ([8, 24, 40], [8, 24])
