"""YOLOX's head: decoding and loss against loops, by hand, and by what gradient descent makes of them."""

from __future__ import annotations

import math

import pytest
import torch

from ablab.errors import UserError
from ablab.models.heads import yolox_loss
from ablab.models.heads.simota import assign
from ablab.models.heads.yolox import YOLOXHead

STRIDES = (8, 16)


def head(classes=2, strides=STRIDES, width=8, **keys):
    settings = {"depthwise": True, "activation": "silu", "radius": 1.5, "candidates": 10}
    gains = {"box": 1.0, "obj": 1.0, "cls": 1.0, "l1": 1.0, "l1_from": 0.95}
    return YOLOXHead([4] * len(strides), list(strides), classes=classes, width=width, **settings | gains | keys)


def raw_of(size=64, batch=2, classes=2, strides=STRIDES):
    return [torch.randn(batch, size // s, size // s, 5 + classes) for s in strides]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce(logit, wanted):
    return -(wanted * math.log(sigmoid(logit)) + (1 - wanted) * math.log(1 - sigmoid(logit)))


TARGETS = torch.tensor([[0, 1, 10.0, 12, 24, 30], [0, 0, 30.0, 20, 62, 60], [1, 0, 3.0, 40, 40, 63]])


def test_decode_by_hand():
    torch.manual_seed(0)
    raw = raw_of()
    boxes, scores = head().decode(raw)
    assert (boxes.shape, scores.shape) == ((2, 80, 4), (2, 80, 2))
    index = 0
    for out, stride in zip(raw, STRIDES, strict=True):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                t = out[1, y, x].tolist()
                cx, cy = (t[0] + x) * stride, (t[1] + y) * stride
                w, h = math.exp(t[2]) * stride, math.exp(t[3]) * stride
                box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                assert boxes[1, index].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)
                wanted = [sigmoid(t[4]) * sigmoid(t[5]), sigmoid(t[4]) * sigmoid(t[6])]
                assert scores[1, index].tolist() == pytest.approx(wanted, rel=1e-4)
                index += 1
    assert index == 80


@pytest.mark.parametrize("l1", [False, True])
def test_loss_is_the_definition(l1):
    """One prediction at a time, for the pairs that SimOTA makes."""
    torch.manual_seed(0)
    raw = [
        0.3 * out + torch.tensor([0.5, 0.5, *[math.log(25 / s)] * 2, 0, 0, 0])
        for out, s in zip(raw_of(), STRIDES, strict=True)
    ]
    out, cells, sides = yolox_loss.flatten(raw, list(STRIDES))
    boxes = yolox_loss.boxes_of(out, cells, sides)
    match = assign(boxes, out[..., 4:], (cells + 0.5) * sides, sides[:, 0], TARGETS, 1.5, 10)
    pairs = dict(zip(match.rows.tolist(), match.truths.tolist(), strict=True))
    assert len(pairs) > 6
    wanted = dict.fromkeys(("box", "obj", "cls", "l1"), 0.0)
    for row in range(160):
        place = row % 80
        stride, columns, first = (8, 8, 0) if place < 64 else (16, 4, 64)
        y, x = divmod(place - first, columns)
        t = raw[first // 64][row // 80, y, x].tolist()
        wanted["obj"] += bce(t[4], float(row in pairs))
        if row not in pairs:
            continue
        _, label, x1, y1, x2, y2 = TARGETS[pairs[row]].tolist()
        cx, cy, w, h = (t[0] + x) * stride, (t[1] + y) * stride, math.exp(t[2]) * stride, math.exp(t[3]) * stride
        shared = max(min(x2, cx + w / 2) - max(x1, cx - w / 2), 0) * max(min(y2, cy + h / 2) - max(y1, cy - h / 2), 0)
        iou = shared / (w * h + (x2 - x1) * (y2 - y1) - shared)
        wanted["box"] += 1 - iou**2
        wanted["cls"] += sum(bce(t[5 + c], iou * (c == label)) for c in range(2))
        if l1:
            truth = [(x1 + x2) / 2 / stride - x, (y1 + y2) / 2 / stride - y]
            truth += [math.log((x2 - x1) / stride), math.log((y2 - y1) / stride)]
            wanted["l1"] += sum(abs(a - b) for a, b in zip(t[:4], truth, strict=True))
    losses = yolox_loss.yolox_loss(raw, TARGETS, list(STRIDES), 1.5, 10, l1)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: total / len(pairs) for name, total in wanted.items()}, rel=1e-4
    )


def test_class_targets_carry_no_gradient_to_the_boxes():
    torch.manual_seed(0)
    raw = [out.requires_grad_() for out in raw_of()]
    yolox_loss.yolox_loss(raw, TARGETS, list(STRIDES), 1.5, 10, True)["cls"].backward()
    assert all((out.grad[..., :5] == 0).all() for out in raw)
    assert any((out.grad[..., 5:] != 0).any() for out in raw)


def test_a_loss_without_truths_is_objectness_alone():
    raw = [torch.zeros(2, 64 // s, 64 // s, 7, requires_grad=True) for s in STRIDES]
    losses = head().loss(raw, torch.zeros(0, 6), 1.0)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"box": 0, "obj": 160 * math.log(2), "cls": 0, "l1": 0}
    )
    sum(losses.values()).backward()
    assert all(out.grad.isfinite().all() for out in raw)


def test_gains_stand_as_written_and_l1_begins_late():
    torch.manual_seed(0)
    raw = raw_of()
    once = head().loss(raw, TARGETS, 1.0)
    scaled = head(box=2, obj=3, cls=5, l1=7).loss(raw, TARGETS, 0.95)
    for name, gain in (("box", 2), ("obj", 3), ("cls", 5), ("l1", 7)):
        torch.testing.assert_close(scaled[name], gain * once[name])
    early = head().loss(raw, TARGETS, 0.9499)
    assert early["l1"] == 0
    assert early["box"] == once["box"]


def test_the_order_of_truths_and_the_company_of_images_do_not_matter():
    torch.manual_seed(0)
    raw = raw_of()
    losses = head().loss(raw, TARGETS, 1.0)
    shuffled = head().loss(raw, TARGETS[[2, 0, 1]], 1.0)
    apart = [head().loss([out[i : i + 1] for out in raw], alone, 1.0) for i, alone in enumerate(_by_image())]
    counts = [_matches([out[i : i + 1] for out in raw], alone) for i, alone in enumerate(_by_image())]
    for name, loss in losses.items():
        torch.testing.assert_close(shuffled[name], loss)
        mean = sum(one[name] * n for one, n in zip(apart, counts, strict=True)) / sum(counts)
        torch.testing.assert_close(mean, loss)


def _by_image():
    for i in range(2):
        alone = TARGETS[TARGETS[:, 0] == i].clone()
        alone[:, 0] = 0
        yield alone


def _matches(raw, targets):
    out, cells, sides = yolox_loss.flatten(raw, list(STRIDES))
    boxes = yolox_loss.boxes_of(out, cells, sides)
    return len(assign(boxes, out[..., 4:], (cells + 0.5) * sides, sides[:, 0], targets, 1.5, 10).rows)


def test_predictions_that_follow_the_loss_find_the_truth():
    """Raw predictions moved by gradient alone decode to the boxes and classes that were asked for, and to no others."""
    torch.manual_seed(0)
    module = head(box=5)
    raw = [(out - torch.tensor([0.0, 0, 0, 0, 4, 0, 0])).requires_grad_() for out in raw_of()]
    optimiser = torch.optim.Adam(raw, lr=0.05)
    for step in range(400):
        optimiser.zero_grad()
        sum(module.loss(raw, TARGETS, step / 400).values()).backward()
        optimiser.step()
    boxes, scores = module.decode([out.detach() for out in raw])
    sure = scores > 0.5
    for image, label, *box in TARGETS.tolist():
        near = (boxes[int(image)] - torch.tensor(box)).abs().amax(1) < 1.0
        assert (near & sure[int(image), :, int(label)]).any()
        sure[int(image), near, int(label)] = False
    assert not sure.any()


def test_first_scores_are_low_and_equal():
    module = head(classes=3)
    for level in (*module.cls, *module.obj):
        torch.nn.init.zeros_(level.weight)
    _, scores = module.eval().decode(module([torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)]))
    torch.testing.assert_close(scores, torch.full_like(scores, 1e-4))


def test_raw_lies_as_decode_reads_it():
    """Each output comes from its own branch, on its own cell."""
    module = head().eval()
    maps = [torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)]
    raw = module(maps)
    assert [out.shape for out in raw] == [(1, 8, 8, 7), (1, 4, 4, 7)]
    x = module.stems[1](maps[1])
    box, cls = module.box_towers[1](x), module.cls_towers[1](x)
    for columns, conv, y in (((0, 4), module.box, box), ((4, 5), module.obj, box), ((5, 7), module.cls, cls)):
        assert torch.equal(raw[1][0, 2, 3, slice(*columns)], conv[1](y)[0, :, 2, 3])


def test_plain_convolutions_where_not_depthwise():
    """YOLOX's larger heads: 3×3 convolutions. Counts by hand, for two levels of 4 channels, width 8, two classes."""

    def params(module):
        return sum(p.numel() for p in module.parameters())

    outer = 4 * 8 + 16 + 9 * 7  # stem and predictions
    assert params(head(depthwise=False)) == 2 * (outer + 4 * (9 * 8 * 8 + 16))
    assert params(head()) == 2 * (outer + 4 * (9 * 8 + 16 + 8 * 8 + 16))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": None}, "model.classes"),
        ({"width": 0}, "width"),
        ({"candidates": 0}, "candidates"),
        ({"radius": 0.0}, "radius"),
        ({"l1_from": 1.5}, "l1_from"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        head(**keys)
