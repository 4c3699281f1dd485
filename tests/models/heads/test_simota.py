"""SimOTA against loops in numpy that spell out its definition, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from ablab.models.heads.boxes import iou
from ablab.models.heads.simota import assign

STRIDES = (8, 16, 32)


def grid(size, strides=STRIDES):
    """Centres (N, 2) px and strides (N,) of the cells of a square input."""
    centres, sides = [], []
    for stride in strides:
        for y in range(size // stride):
            for x in range(size // stride):
                centres.append(((x + 0.5) * stride, (y + 0.5) * stride))
                sides.append(stride)
    return torch.tensor(centres), torch.tensor(sides).float()


def random_boxes(generator, count, size, least, most):
    centre = torch.rand(count, 2, generator=generator) * size
    sides = torch.rand(count, 2, generator=generator) * (most - least) + least
    return torch.cat((centre - sides / 2, centre + sides / 2), 1)


def spelled_out(boxes, logits, centres, strides, truths, radius, most):
    """{prediction: truth} of one image, in float64, one pair at a time."""
    boxes, logits, centres, strides, truths = (
        np.asarray(x, np.float64) for x in (boxes, logits, centres, strides, truths)
    )
    if not len(truths):
        return {}

    def near(cell, truth):
        middle = (truth[2:4] + truth[4:6]) / 2
        return bool(np.all(np.abs(centres[cell] - middle) < radius * strides[cell]))

    def overlap(a, b):
        w, h = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
        area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
        return w * h / (area_a + area_b - w * h)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    candidates = [cell for cell in range(len(centres)) if any(near(cell, truth) for truth in truths)]
    ious = np.array([[overlap(truth[2:], boxes[cell]) for cell in candidates] for truth in truths])
    cost = np.zeros_like(ious)
    for t, truth in enumerate(truths):
        for u, cell in enumerate(candidates):
            p = np.sqrt(sigmoid(logits[cell, 1:]) * sigmoid(logits[cell, 0]))
            right = np.arange(logits.shape[1] - 1) == truth[1]
            cost[t, u] = -np.where(right, np.log(p), np.log(1 - p)).sum() - 3 * np.log(ious[t, u] + 1e-8)
            cost[t, u] += 0 if near(cell, truth) else 1e6
    takers = {}
    for t in range(len(truths)):
        k = max(int(np.sort(ious[t])[::-1][:most].sum()), 1)
        for u in np.argsort(cost[t])[:k]:
            takers.setdefault(u, []).append(t)
    return {candidates[u]: ts[0] if len(ts) == 1 else int(np.argmin(cost[:, u])) for u, ts in takers.items()}


@pytest.mark.parametrize(
    ("seed", "count", "likeness"), [(0, 1, 0.5), (1, 6, 0.5), (2, 25, 0.8), (3, 25, 0.0), (4, 60, 0.9)]
)
def test_assignment_is_the_definition(seed, count, likeness):
    """Images with some, with none, with many truths, in the corners too; predictions between chance and the truth."""
    generator = torch.Generator().manual_seed(seed)
    size, classes, batch = 96, 4, 3
    centres, strides = grid(size)
    truths = random_boxes(generator, count, size, 6, 60).clamp(0, size)
    truths[0] = torch.tensor([0.0, 0, 5, 5])  # near few cells
    image = torch.randint(0, 2, (count, 1), generator=generator) * 2  # of three images the middle one has none
    label = torch.randint(0, classes, (count, 1), generator=generator)
    targets = torch.cat((image, label, truths), 1).float()
    boxes = torch.stack([random_boxes(generator, len(centres), size, 4, 60) for _ in range(batch)])
    for i, t in enumerate(targets):  # some of the cells near a truth predict it well
        close = ((centres - (t[2:4] + t[4:6]) / 2).abs().amax(1) < 20).nonzero()[:: i % 3 + 1, 0]
        boxes[int(t[0]), close] = boxes[int(t[0]), close].lerp(t[2:], likeness)
    logits = torch.randn(batch, len(centres), 1 + classes, generator=generator) * 2

    found = assign(boxes, logits, centres, strides, targets, 1.5, 10)
    assert found.rows.tolist() == sorted(found.rows.tolist())
    got = dict(zip(found.rows.tolist(), found.truths.tolist(), strict=True))
    wanted = {}
    for i in range(batch):
        rows = (targets[:, 0] == i).nonzero()[:, 0]
        pairs = spelled_out(boxes[i], logits[i], centres, strides, targets[rows], 1.5, 10)
        wanted |= {i * len(centres) + cell: int(rows[t]) for cell, t in pairs.items()}
    assert got == wanted
    if likeness >= 0.8:  # several cells a truth somewhere
        assert np.bincount(found.truths.numpy()).max() > 1


def one(boxes, truth, logits=None, radius=1.5, most=10):
    """Cells of an 8×8 map of stride 8 that answer for one truth, as (x, y)."""
    centres, strides = grid(64, (8,))
    logits = torch.zeros(1, 64, 3) if logits is None else logits
    found = assign(boxes[None], logits, centres, strides, torch.tensor([[0, 1, *truth]]).float(), radius, most)
    return sorted((row % 8, row // 8) for row in found.rows.tolist())


def test_as_many_cells_as_ious_add_up_to():
    """A truth centred in cell (3, 3): nine cells lie within 1.5 strides, and those that predict it exactly answer."""
    truth = torch.tensor([12.0, 12, 44, 44])
    boxes = torch.full((64, 4), 1000.0)
    exact = [(2, 2), (3, 3), (4, 4)]
    for x, y in exact:
        boxes[8 * y + x] = truth
    boxes[8 * 6 + 6] = truth  # three cells away: no candidate, does not count
    boxes[8 * 3 + 4] = torch.tensor([12.0, 12, 44, 28])  # IoU 0.5: 3.5 in all
    assert one(boxes, truth) == exact
    boxes[8 * 3 + 2] = torch.tensor([12.0, 12, 44, 28])  # 4.0: one of the halves as well
    assert len(one(boxes, truth)) == 4
    assert len(one(boxes, truth, most=2)) == 2
    assert len(one(torch.full((64, 4), 1000.0), truth)) == 1  # nothing overlaps: still one


def test_the_radius_is_open():
    """Of a truth in the middle of a cell, centres 1.5 strides away do not answer, those 1 away do."""
    centres, strides = grid(64, (8,))
    truth = torch.tensor([[0, 0, 8.0, 8, 32, 32]])  # centre (20, 20): between cells of centres 12, 20, 28
    everywhere = truth[0, 2:].expand(1, 64, 4)
    for radius, side in ((0.1, 1), (1.0, 1), (1.01, 3), (2.0, 3), (2.01, 5)):
        found = assign(everywhere, torch.zeros(1, 64, 2), centres, strides, truth, radius, 100)
        assert len(found.rows) == side**2


def test_the_right_class_and_objectness_are_cheaper():
    truth = torch.tensor([12.0, 12, 44, 44])
    boxes = truth * torch.ones(64, 1)
    boxes[:, 2:] += 20  # IoU 0.38 everywhere: 3 of 9
    for channel, sign, other in ((2, 1, 0.0), (1, -1, 0.0), (0, 1, -20.0)):
        logits = torch.zeros(1, 64, 3)
        logits[..., 1] = other  # objectness alone would make the wrong class likelier as well
        for x, y in ((2, 3), (4, 2), (3, 4)):
            logits[0, 8 * y + x, channel] = sign * 2.0
        assert one(boxes, truth, logits) == [(2, 3), (3, 4), (4, 2)]


def test_a_cell_that_two_want_goes_to_the_one_it_is_cheaper_for_and_to_the_first_of_twins():
    centres, strides = grid(64, (8,))
    truths = torch.tensor([[0, 0, 10.0, 10, 42, 42], [0, 0, 12.0, 12, 44, 44]])
    boxes = torch.full((1, 64, 4), 1000.0)
    boxes[0, 8 * 3 + 3] = truths[1, 2:]
    found = assign(boxes, torch.zeros(1, 64, 2), centres, strides, truths, 1.5, 10)
    assert found.truths[found.rows.tolist().index(27)] == 1
    twins = truths[[1, 1]]
    found = assign(boxes, torch.zeros(1, 64, 2), centres, strides, twins, 1.5, 10)
    assert found.truths.tolist() == [0] * len(found.rows)


def test_without_truths_and_with_truths_that_no_cell_is_near():
    centres, strides = grid(64)
    boxes, logits = torch.zeros(2, len(centres), 4), torch.zeros(2, len(centres), 3)
    for targets in (torch.zeros(0, 6), torch.tensor([[1, 0, 500.0, 500, 520, 520]])):
        found = assign(boxes, logits, centres, strides, targets, 1.5, 10)
        assert found.rows.tolist() == found.truths.tolist() == []


def test_iou_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    a, b = (random_boxes(generator, n, 60, 2, 40) for n in (30, 20))
    torch.testing.assert_close(iou(a[:, None], b), box_iou(a, b))
    assert iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])).item() == pytest.approx(1 / 3)
