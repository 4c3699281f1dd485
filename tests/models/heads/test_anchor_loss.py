"""Assignment by hand, CIoU against torchvision, and the loss against loops that spell out the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss

from ablab.models.heads.anchor_loss import anchor_loss, assign
from ablab.models.heads.boxes import complete_iou


def target(x, y, w=16.0, h=16.0, image=0, label=0):
    """One target from its centre and size in px."""
    return [image, label, x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def cells(match, height=8, width=8, anchors=1):
    """(image, anchor, x, y) of every match, sorted."""
    found = []
    for row in match.rows.tolist():
        row, anchor = divmod(row, anchors)
        row, x = divmod(row, width)
        image, y = divmod(row, height)
        found.append((image, anchor, x, y))
    return sorted(found)


def on_8x8(*targets, anchors=((16.0, 16.0),)):
    anchors = torch.tensor(anchors)
    return assign(torch.tensor(targets).view(-1, 6), anchors, 8, 8, 8, 4.0)


@pytest.mark.parametrize(
    ("x", "y", "expected"),  # centre in cells, (x, y) of the cells that answer
    [
        (2.5, 2.5, [(2, 2)]),  # half a cell from every border: not nearer
        (2.25, 2.75, [(2, 2), (1, 2), (2, 3)]),
        (2.75, 2.25, [(2, 2), (3, 2), (2, 1)]),
        (0.25, 0.25, [(0, 0)]),  # the neighbours are off the grid
        (7.75, 7.75, [(7, 7)]),
        (0.75, 7.25, [(0, 7), (1, 7), (0, 6)]),
        (1.25, 4.5, [(1, 4), (0, 4)]),
        (4.0, 4.0, [(4, 4), (4, 4), (4, 4), (3, 4), (4, 3)]),  # on a border: its own cell counts again
        (8.0, 3.5, [(7, 3), (7, 3)]),  # clamped to the grid
    ],
)
def test_cells_that_answer(x, y, expected):
    match = on_8x8(target(8 * x, 8 * y))
    assert cells(match) == sorted((0, 0, *cell) for cell in expected)
    for row, box in zip(match.rows.tolist(), match.boxes.tolist(), strict=True):
        assert box == pytest.approx([x - row % 8, y - row // 8, 2, 2])


@pytest.mark.parametrize(
    ("w", "h", "answers"),
    [(63.9, 16, True), (64, 16, False), (16, 4.1, True), (16, 4, False), (63, 4.1, True), (3.9, 63, False)],
)
def test_an_anchor_answers_up_to_four_times_its_side(w, h, answers):
    assert bool(cells(on_8x8(target(36, 36, w, h)))) is answers


def test_several_anchors_images_and_classes():
    anchors = ((16.0, 16.0), (30.0, 60.0), (200.0, 200.0))
    match = on_8x8(
        target(20, 20, image=1, label=2), target(44, 44, 40, 40, label=1), anchors=anchors
    )  # the first: 16 px, the second: 40 px; both between the first two anchors
    assert cells(match, anchors=3) == [(0, 0, 5, 5), (0, 1, 5, 5), (1, 0, 2, 2), (1, 1, 2, 2)]
    by_image = {image: set() for image in (0, 1)}
    for row, label in zip(match.rows.tolist(), match.classes.tolist(), strict=True):
        by_image[row // 192].add(label)
    assert by_image == {0: {1}, 1: {2}}
    assert match.anchors.tolist() == [row % 3 for row in match.rows.tolist()]


def test_a_truth_may_match_several_levels():
    box = torch.tensor([target(100, 100, 50, 50)])
    sizes = {8: 30.0, 16: 60.0, 32: 250.0}
    matched = {s: len(assign(box, torch.tensor([[a, a]]), s, 256 // s, 256 // s, 4.0).rows) for s, a in sizes.items()}
    assert matched[8] > 0
    assert matched[16] > 0
    assert matched[32] == 0


def test_no_targets_no_matches():
    match = on_8x8()
    assert match.rows.shape == (0,)
    assert match.boxes.shape == (0, 4)


def test_complete_iou_and_its_gradient_are_torchvisions():
    torch.manual_seed(0)
    a, b = (torch.rand(200, 4, dtype=torch.float64) * 3 + 0.1 for _ in range(2))
    mine, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()

    def corners(box):
        return torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), 1)

    ours = 1 - complete_iou(mine, b)
    reference = complete_box_iou_loss(corners(theirs), corners(b))
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_complete_iou_by_hand():
    a = torch.tensor([[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0]])
    b = torch.tensor([[2.0, 1.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0]])
    # shared 2 of 6; centres 1 apart, enclosing 3 × 2; same shape
    assert complete_iou(a, b).tolist() == pytest.approx([1 / 3 - 1 / 13, 1.0], abs=1e-6)


# ------------------------------------------------------------------------------------------ the loss, by loops

ANCHORS = torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30.0, 61], [62, 45], [59, 119]]])
STRIDES = [8, 16]


def spelled_out(raw, targets, classes, balance):
    """The definition, one prediction and one truth at a time."""

    def sigmoid(v):
        return 1 / (1 + torch.exp(-v))

    def bce(logit, truth):
        p = sigmoid(logit)
        return -(truth * torch.log(p) + (1 - truth) * torch.log(1 - p))

    totals = {"box": 0.0, "obj": 0.0, "cls": 0.0}
    for out, anchors, stride, weight in zip(raw, ANCHORS.tolist(), STRIDES, balance, strict=True):
        batch, _, height, width, _ = out.shape
        ious, cls_terms, wanted = [], [], {}
        for image, label, x1, y1, x2, y2 in targets.tolist():
            cx, cy, w, h = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride, (x2 - x1) / stride, (y2 - y1) / stride
            for a, (aw, ah) in enumerate(anchors):
                aw, ah = aw / stride, ah / stride
                if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                    continue
                places = [(int(cx), int(cy))]
                if cx % 1 < 0.5 and cx > 1:
                    places.append((int(cx - 0.5), int(cy)))
                if cy % 1 < 0.5 and cy > 1:
                    places.append((int(cx), int(cy - 0.5)))
                if (width - cx) % 1 < 0.5 and width - cx > 1:
                    places.append((int(cx + 0.5), int(cy)))
                if (height - cy) % 1 < 0.5 and height - cy > 1:
                    places.append((int(cx), int(cy + 0.5)))
                for x, y in places:
                    t = out[int(image), a, y, x]
                    px, py = 2 * sigmoid(t[0]) - 0.5 + x, 2 * sigmoid(t[1]) - 0.5 + y
                    pw, ph = (2 * sigmoid(t[2])) ** 2 * aw, (2 * sigmoid(t[3])) ** 2 * ah
                    iou = ciou(px, py, pw, ph, cx, cy, w, h)
                    ious.append(1 - iou)
                    key = (int(image), a, y, x)
                    wanted[key] = max(wanted.get(key, 0.0), iou.item(), 0.0)
                    for c in range(classes):
                        cls_terms.append(bce(t[5 + c], float(c == label)))
        if ious:
            totals["box"] += sum(ious) / len(ious)
            if classes > 1:
                totals["cls"] += sum(cls_terms) / len(cls_terms)
        obj = [
            bce(out[i, a, y, x, 4], wanted.get((i, a, y, x), 0.0))
            for i in range(batch)
            for a in range(len(anchors))
            for y in range(height)
            for x in range(width)
        ]
        totals["obj"] += weight * sum(obj) / len(obj)
    return totals


def ciou(px, py, pw, ph, x, y, w, h):
    iw = max(torch.min(px + pw / 2, torch.tensor(x + w / 2)) - torch.max(px - pw / 2, torch.tensor(x - w / 2)), 0)
    ih = max(torch.min(py + ph / 2, torch.tensor(y + h / 2)) - torch.max(py - ph / 2, torch.tensor(y - h / 2)), 0)
    iou = iw * ih / (pw * ph + w * h - iw * ih)
    cw = torch.max(px + pw / 2, torch.tensor(x + w / 2)) - torch.min(px - pw / 2, torch.tensor(x - w / 2))
    ch = torch.max(py + ph / 2, torch.tensor(y + h / 2)) - torch.min(py - ph / 2, torch.tensor(y - h / 2))
    v = 4 / math.pi**2 * (math.atan(w / h) - torch.atan(pw / ph)) ** 2
    alpha = (v / (v - iou + 1)).detach()
    return iou - ((px - x) ** 2 + (py - y) ** 2) / (cw**2 + ch**2) - alpha * v


@pytest.mark.parametrize("classes", [3, 1])
def test_loss_is_the_definition(classes):
    torch.manual_seed(0)
    raw = [torch.randn(2, 3, n, n, 5 + classes, requires_grad=True) for n in (6, 3)]
    targets = torch.tensor(
        [
            target(20, 20, 14, 18, 0, 0),
            target(21.5, 19, 16, 16, 0, classes - 1),  # meets the first in the same cells
            target(44, 9, 30, 12, 1, 0),
            target(3, 46, 6, 4, 1, classes // 2),
            target(24, 32, 47, 30, 1, 0),  # a centre on the borders of cells
        ]
    )
    balance = [4.0, 0.4]
    ours = anchor_loss(raw, targets, ANCHORS, STRIDES, 4.0, balance)
    by_hand = spelled_out(raw, targets, classes, balance)
    for name, value in by_hand.items():
        assert ours[name].item() == pytest.approx(torch.as_tensor(value).item(), rel=1e-4), name
    assert (ours["cls"].item() == 0) is (classes == 1)

    grads = torch.autograd.grad(sum(ours.values()), raw)
    reference = torch.autograd.grad(sum(by_hand.values()), raw)
    for a, b in zip(grads, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_where_truths_meet_the_larger_ciou_is_wanted_in_any_order():
    torch.manual_seed(0)
    raw = [torch.randn(1, 3, n, n, 7) for n in (6, 3)]
    targets = torch.tensor([target(20 + d, 20 - d, 16 + d, 20, 0, d % 2) for d in (0, 0.5, 1, 1.5)])
    losses = [
        anchor_loss(raw, targets[order], ANCHORS, STRIDES, 4.0, [1, 1])["obj"] for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    ]
    assert losses[0] == losses[1]


def test_without_targets_only_objectness_is_paid():
    raw = [torch.zeros(2, 3, n, n, 7, requires_grad=True) for n in (6, 3)]
    losses = anchor_loss(raw, torch.zeros(0, 6), ANCHORS, STRIDES, 4.0, [4.0, 0.4])
    assert losses["box"] == losses["cls"] == 0
    assert losses["obj"].item() == pytest.approx(4.4 * math.log(2))
    sum(losses.values()).backward()
    assert all(out.grad is not None and out.grad.isfinite().all() for out in raw)
