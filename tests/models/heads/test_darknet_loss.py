"""Assignment by hand, and the loss's gradient against darknet's deltas, written down one prediction at a time."""

from __future__ import annotations

import math

import pytest
import torch

from ablab.models.heads.darknet_loss import assign, best_iou, darknet_loss

ANCHORS = torch.tensor([[10.0, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]])
MASKS, STRIDES = [[1, 2, 3], [3, 4, 5]], [16, 32]  # tiny YOLOv4's: anchor 0 on no level, anchor 3 on both


def target(x, y, w=16.0, h=16.0, image=0, label=0):
    """One target from its centre and size in px."""
    return [image, label, x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def answering(*targets, mask, stride, iou_thresh=1.0, cells=4):
    """(image, x, y, anchor, truth) of every pair on a grid of cells × cells, sorted."""
    match = assign(torch.tensor(targets).view(-1, 6), ANCHORS, mask, stride, cells, cells, iou_thresh)
    found = []
    for row, slot, cell, truth in zip(*(one.tolist() for one in match), strict=True):
        place, column = divmod(row, len(mask))
        place, x = divmod(place, cells)
        image, y = divmod(place, cells)
        assert (column, [x, y]) == (slot, cell)
        found.append((image, x, y, mask[slot], truth))
    return sorted(found)


def test_the_best_of_all_anchors_answers_where_a_level_has_it():
    boxes = [target(40, 20, 24, 26, image=1), target(40, 20, 80, 80), target(8, 8, 11, 13), target(60, 60, 300, 300)]
    fine = answering(*boxes, mask=MASKS[0], stride=16)
    coarse = answering(*boxes, mask=MASKS[1], stride=32, cells=2)
    assert fine == [(0, 2, 1, 3, 1), (1, 2, 1, 1, 0)]  # anchor 0, the best for truth 2, is on no level
    assert coarse == [(0, 1, 0, 3, 1), (0, 1, 1, 5, 3)]


def test_other_anchors_answer_above_the_threshold():
    # 30 × 40 px: IoU with the anchors 140 / 1200, 621 / 1200, 1200 / 2146, 1200 / 6642, …
    box = target(20, 20, 30, 40)
    assert [a for *_, a, _ in answering(box, mask=[0, 1, 2], stride=16)] == [2]
    assert [a for *_, a, _ in answering(box, mask=[0, 1, 2], stride=16, iou_thresh=0.51)] == [1, 2]
    assert [a for *_, a, _ in answering(box, mask=[0, 1, 2], stride=16, iou_thresh=0.52)] == [2]
    assert [a for *_, a, _ in answering(box, mask=[3, 4, 5], stride=32, iou_thresh=0.18, cells=2)] == [3]
    assert answering(box, mask=[3, 4, 5], stride=32, iou_thresh=0.19, cells=2) == []


def test_centres_on_and_beyond_the_edge_stay_on_the_grid():
    assert [c[1:3] for c in answering(target(64, 0, 24, 26), mask=[0, 1, 2], stride=16)] == [(3, 0)]


def test_best_iou_by_hand():
    boxes = torch.tensor([[[5.0, 5, 10, 10], [5, 5, 4, 4], [50, 50, 10, 10]], [[5.0, 5, 10, 10]] * 3])
    targets = torch.tensor([[0, 1, 0.0, 0, 10, 5], [0, 0, 3.0, 3, 7, 7]])  # none in the second image
    assert best_iou(boxes, targets).flatten().tolist() == pytest.approx([0.5, 1, 0, 0, 0, 0])
    assert best_iou(boxes, torch.zeros(0, 6)).abs().max() == 0
    swapped = targets[[1, 0]] + torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert best_iou(boxes, swapped).flatten().tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 0.5])


# ------------------------------------------------------------------------------------------ deltas, by loops


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def iou_of(a, b):
    """Of boxes as centre x, y, width, height."""
    w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def ciou_of(a, b, alpha=None):
    """CIoU and its weight of the aspect ratio, which is a constant where `alpha` is given."""
    w = max(a[0] + a[2] / 2, b[0] + b[2] / 2) - min(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = max(a[1] + a[3] / 2, b[1] + b[3] / 2) - min(a[1] - a[3] / 2, b[1] - b[3] / 2)
    v = 4 / math.pi**2 * (math.atan(b[2] / b[3]) - math.atan(a[2] / a[3])) ** 2
    iou = iou_of(a, b)
    alpha = v / (v - iou + 1) if alpha is None else alpha
    return iou - ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (w**2 + h**2) - alpha * v, alpha


def deltas(raw, targets, *, scale_x_y, ignore_thresh, iou_thresh, box_loss):
    """What darknet would add to each logit, up to the learning rate: per level (B, A, H, W, 5 + classes)."""
    found = []
    for out, mask, stride in zip(raw, MASKS, STRIDES, strict=True):
        images, _, height, width, outputs = out.shape
        t = out.tolist()
        delta = torch.zeros(out.shape, dtype=torch.float64)
        net_w, net_h = width * stride, height * stride

        def box_at(b, a, y, x, t=t, mask=mask, size=(width, height, net_w, net_h)):
            """In shares of the image."""
            tx, ty, tw, th = t[b][a][y][x][:4]
            aw, ah = ANCHORS[mask[a]].tolist()
            cx, cy = (sigmoid(v) * scale_x_y - (scale_x_y - 1) / 2 for v in (tx, ty))
            return [
                (cx + x) / size[0],
                (cy + y) / size[1],
                math.exp(tw) * aw / size[2],
                math.exp(th) * ah / size[3],
            ]

        truths = [
            (
                int(i),
                int(c),
                [(x1 + x2) / 2 / net_w, (y1 + y2) / 2 / net_h, (x2 - x1) / net_w, (y2 - y1) / net_h],
            )
            for i, c, x1, y1, x2, y2 in targets.tolist()
        ]
        for b in range(images):
            for a in range(3):
                for y in range(height):
                    for x in range(width):
                        box, logits = box_at(b, a, y, x), t[b][a][y][x]
                        near = max([iou_of(box, truth) for i, _, truth in truths if i == b], default=0)
                        sure = max(map(sigmoid, logits[5:])) > 0.25
                        ignored = near > ignore_thresh and sure
                        delta[b, a, y, x, 4] = 0 if ignored else -sigmoid(logits[4])
        met = {}
        for b, label, truth in truths:
            shapes = [iou_of([0, 0, aw / net_w, ah / net_h], [0, 0, *truth[2:]]) for aw, ah in ANCHORS.tolist()]
            best = shapes.index(max(shapes))
            for a, number in enumerate(mask):
                if number != best and not shapes[number] > iou_thresh:
                    continue
                x, y = int(truth[0] * width), int(truth[1] * height)
                logits = t[b][a][y][x]
                met.setdefault((b, a, y, x), []).append(label)
                delta[b, a, y, x, 4] = 1 - sigmoid(logits[4])
                for c in range(outputs - 5):
                    delta[b, a, y, x, 5 + c] = float(c in met[b, a, y, x]) - sigmoid(logits[5 + c])
                box = box_at(b, a, y, x)
                if box_loss == "ciou":
                    _, alpha = ciou_of(box, truth)
                    for side in range(4):
                        moved = [[*box[:side], box[side] + d, *box[side + 1 :]] for d in (1e-7, -1e-7)]
                        slope = (ciou_of(moved[0], truth, alpha)[0] - ciou_of(moved[1], truth, alpha)[0]) / 2e-7
                        delta[b, a, y, x, side] += slope * (math.exp(logits[side]) if side > 1 else 1)
                else:
                    weight = 2 - truth[2] * truth[3]
                    aw, ah = ANCHORS[number].tolist()
                    for side, place in ((0, x), (1, y)):
                        wanted = truth[side] * (width, height)[side] - place
                        is_now = sigmoid(logits[side]) * scale_x_y - (scale_x_y - 1) / 2
                        delta[b, a, y, x, side] += weight * (wanted - is_now)
                    delta[b, a, y, x, 2] += weight * (math.log(truth[2] * net_w / aw) - logits[2])
                    delta[b, a, y, x, 3] += weight * (math.log(truth[3] * net_h / ah) - logits[3])
        if iou_thresh < 1:
            for (b, a, y, x), labels in met.items():
                delta[b, a, y, x, :4] /= len(labels)
        found.append(delta)
    return found


TARGETS = torch.tensor(
    [
        target(20, 20, 24, 28, 0, 0),
        target(22.5, 18, 27, 25, 0, 2),  # meets the first in the same cell and anchor
        target(70, 30, 84, 79, 0, 1),  # anchor 3, on both levels
        target(30, 76, 60, 30, 1, 0),
        target(48, 48, 90, 85, 1, 1),  # a centre on the borders of cells
        target(85, 10, 11, 15, 1, 2),  # anchor 0, on no level
    ]
)


def noise(classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randn(2, 3, n, n, 5 + classes, generator=generator) for n in (6, 3)]
    for out in raw:
        out[..., 2:4] *= 0.3  # so that boxes have IoUs on both sides of the threshold
        out[..., 5:] -= 1.2  # and class probabilities on both sides of a quarter
    return [out.requires_grad_() for out in raw]


@pytest.mark.parametrize("box_loss", ["ciou", "mse"])
@pytest.mark.parametrize(("scale_x_y", "iou_thresh"), [(1.0, 0.213), (1.05, 1.0), (1.2, 0.4)])
def test_gradients_are_darknets_deltas(box_loss, scale_x_y, iou_thresh):
    settings = {"scale_x_y": scale_x_y, "ignore_thresh": 0.4, "iou_thresh": iou_thresh, "box_loss": box_loss}
    raw = noise()
    losses = darknet_loss(raw, TARGETS, ANCHORS, MASKS, STRIDES, **settings)
    expected = deltas(raw, TARGETS, **settings)
    (sum(losses.values()) * 2).backward()  # two images, of whose losses they are the mean
    for out, delta in zip(raw, expected, strict=True):
        torch.testing.assert_close(-out.grad.double(), delta, rtol=2e-3, atol=2e-4)
        assert (delta[..., 4] == 0).any()  # some are ignored
        assert (delta[..., 4] > 0).any()


def test_values_by_hand():
    raw = [torch.zeros(1, 3, n, n, 7) for n in (6, 3)]
    # the box of anchor 1 (23 × 27 px) in the middle of cell (1, 1)
    truth = torch.tensor([target(24, 24, 23, 27, 0, 1)])
    settings = {"scale_x_y": 1.0, "ignore_thresh": 0.9, "iou_thresh": 1.0}
    by_iou = darknet_loss(raw, truth, ANCHORS, MASKS, STRIDES, box_loss="ciou", **settings)
    by_squares = darknet_loss(raw, truth, ANCHORS, MASKS, STRIDES, box_loss="mse", **settings)
    assert by_iou["box"].item() == pytest.approx(0, abs=1e-3)  # complete_iou's eps
    # cross-entropy of σ = 0.5 with target 0.5, for x and y
    assert by_squares["box"].item() == pytest.approx((2 - 23 * 27 / 96**2) * 2 * math.log(2), rel=1e-5)
    for losses in (by_iou, by_squares):
        assert losses["obj"].item() == pytest.approx((108 + 27) * math.log(2), rel=1e-5)
        assert losses["cls"].item() == pytest.approx(2 * math.log(2), rel=1e-5)
    shifted = torch.tensor([target(28, 24, 23, 27, 0, 1)])  # a quarter of a cell: IoU 19 / 27, enclosing 27 × 27 px
    box = darknet_loss(raw, shifted, ANCHORS, MASKS, STRIDES, box_loss="ciou", **settings)["box"]
    assert box.item() == pytest.approx(1 - 19 / 27 + 16 / (2 * 27**2), abs=1e-3)


def test_what_is_near_a_truth_is_ignored_if_a_class_is_likely():
    truth = torch.tensor([target(24, 24, 23, 27, 0, 1)])
    settings = {"scale_x_y": 1.0, "iou_thresh": 1.0, "box_loss": "ciou"}

    def paying(raw, ignore_thresh):
        found = darknet_loss(raw, truth, ANCHORS, MASKS, STRIDES, ignore_thresh=ignore_thresh, **settings)
        return found["obj"].item() / math.log(2)

    raw = [torch.zeros(1, 3, n, n, 7) for n in (6, 3)]
    # anchor 2, 37 × 58 px, in the same cell: IoU 621 / 2146 = .2894; in the cells above and below, of 27 px 26.5 are
    # shared: 609.5 / 2157.5 = .2825; anchor 1 there: 253 / 989 = .256; all others have less.
    assert paying(raw, 0.29) == pytest.approx(135, rel=1e-5)
    assert paying(raw, 0.285) == pytest.approx(134, rel=1e-5)
    assert paying(raw, 0.26) == pytest.approx(132, rel=1e-5)
    assert paying(raw, 0.25) == pytest.approx(130, rel=1e-5)
    raw[0][0, 1, 1, 1, 5:] = -2.0  # σ = .12
    assert paying(raw, 0.285) == pytest.approx(135, rel=1e-5)
    raw[0][0, 1, 1, 1, 6] = -1.0  # σ = .27
    assert paying(raw, 0.285) == pytest.approx(134, rel=1e-5)


def test_truths_that_meet_want_all_their_classes_in_any_order():
    raw = noise()
    settings = {"scale_x_y": 1.0, "ignore_thresh": 0.5, "iou_thresh": 0.213, "box_loss": "ciou"}
    losses = [
        darknet_loss(raw, TARGETS[order], ANCHORS, MASKS, STRIDES, **settings)
        for order in ([0, 1, 2, 3, 4, 5], [1, 3, 5, 4, 2, 0])
    ]
    for name in losses[0]:
        assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-5)


def test_without_targets_only_objectness_is_paid():
    raw = [torch.zeros(2, 3, n, n, 7, requires_grad=True) for n in (6, 3)]
    settings = {"scale_x_y": 1.0, "ignore_thresh": 0.5, "iou_thresh": 0.213}
    for box_loss in ("ciou", "mse"):
        losses = darknet_loss(raw, torch.zeros(0, 6), ANCHORS, MASKS, STRIDES, box_loss=box_loss, **settings)
        assert losses["box"] == losses["cls"] == 0
        assert losses["obj"].item() == pytest.approx(135 * math.log(2), rel=1e-5)
        sum(losses.values()).backward()
        assert all(out.grad is not None and out.grad.isfinite().all() for out in raw)
