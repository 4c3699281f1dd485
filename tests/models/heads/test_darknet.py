from __future__ import annotations

import math

import pytest
import torch

from ablab.errors import UserError
from ablab.models.heads.darknet import DarknetHead

ANCHORS = [[10, 14], [23, 27], [37, 58], [81, 82]]
MASKS = [[1, 0], [2, 3]]
GAINS = {"iou_normalizer": 0.07, "obj_normalizer": 1.0, "cls_normalizer": 1.0}


def head(**keys):
    defaults = {"classes": 2, "anchors": ANCHORS, "masks": MASKS, "scale_x_y": 1.05, "iou_thresh": 0.213}
    defaults |= {"ignore_thresh": 0.7, "box_loss": "ciou", **GAINS}
    strides = keys.pop("strides", [16, 32])
    return DarknetHead([4] * len(strides), list(strides), **defaults | keys)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("scale", [1.0, 1.05])
def test_decode_by_hand(scale):
    torch.manual_seed(0)
    module = head(scale_x_y=scale)
    raw = [torch.randn(2, 2, 4, 4, 7), torch.randn(2, 2, 2, 2, 7)]
    boxes, scores = module.decode(raw)
    assert boxes.shape == (2, 40, 4)
    assert scores.shape == (2, 40, 2)
    index = 0
    for out, mask, stride in zip(raw, MASKS, (16, 32), strict=True):
        for a, number in enumerate(mask):
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    t = out[1, a, y, x].tolist()
                    cx, cy = ((sigmoid(v) * scale - (scale - 1) / 2 + c) * stride for v, c in ((t[0], x), (t[1], y)))
                    w, h = (math.exp(v) * side for v, side in zip(t[2:4], ANCHORS[number], strict=True))
                    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    assert boxes[1, index].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)
                    wanted = [sigmoid(t[4]) * sigmoid(t[5]), sigmoid(t[4]) * sigmoid(t[6])]
                    assert scores[1, index].tolist() == pytest.approx(wanted, rel=1e-4)
                    index += 1
    assert index == 40


def test_raw_is_anchor_major():
    module = head()
    x = torch.rand(1, 4, 4, 4)
    raw = module([x, x])
    assert raw[0].shape == (1, 2, 4, 4, 7)
    assert torch.equal(raw[0][0, 1, 2, 3], module.convs[0](x)[0, 7:14, 2, 3])


@pytest.mark.parametrize("box_loss", ["ciou", "mse"])
def test_predictions_that_follow_the_loss_find_the_truth(box_loss, follow_the_loss):
    torch.manual_seed(0)
    raw = [torch.randn(2, 2, n, n, 7) * 0.1 for n in (4, 2)]
    targets = torch.tensor([[0, 1, 10.0, 12, 24, 30], [0, 0, 30.0, 20, 62, 60], [1, 0, 3.0, 10, 60, 63]])
    follow_the_loss(head(box_loss=box_loss), raw, targets, 150)


def test_gains_stand_as_written():
    torch.manual_seed(0)
    raw = [torch.randn(1, 2, 4, 4, 7), torch.randn(1, 2, 2, 2, 7)]
    targets = torch.tensor([[0, 1, 4.0, 4, 20, 30]])
    once = head(iou_normalizer=1.0, obj_normalizer=1.0, cls_normalizer=1.0).loss(raw, targets, 0.0)
    scaled = head(iou_normalizer=2.0, obj_normalizer=3.0, cls_normalizer=5.0).loss(raw, targets, 0.7)
    for name, gain in (("box", 2), ("obj", 3), ("cls", 5)):
        assert once[name] > 0
        torch.testing.assert_close(scaled[name], gain * once[name])


def test_losses_are_of_an_image():
    torch.manual_seed(0)
    raw = [torch.randn(1, 2, 4, 4, 7), torch.randn(1, 2, 2, 2, 7)]
    targets = torch.tensor([[0, 1, 4.0, 4, 20, 30], [0, 0, 24.0, 14, 60, 50]])
    other = targets + torch.tensor([1.0, 0, 0, 0, 0, 0])
    one = head().loss(raw, targets, 0.0)
    two = head().loss([torch.cat((r, r)) for r in raw], torch.cat((targets, other)), 0.0)
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_loss_is_fp32_under_autocast():
    torch.manual_seed(0)
    module = head()
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 4, 4, 4)]
    targets = torch.tensor([[0, 1, 10.0, 12, 24, 30], [1, 0, 30.0, 20, 62, 60]])
    with torch.autocast("cpu", torch.bfloat16):
        raw = module(maps)
        losses = module.loss(raw, targets, 0.0)
        boxes, scores = module.decode(raw)
    assert raw[0].dtype == torch.bfloat16
    assert {v.dtype for v in losses.values()} == {boxes.dtype, scores.dtype} == {torch.float32}
    exact = module.loss([r.float() for r in raw], targets, 0.0)
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name])


def test_prior_from_statistics():
    module = head(classes=3)
    # image 0: 23 × 27 px at (24, 24), anchor 1's size; IoU .289 with anchor 2, .225 with anchor 0, .09 with anchor 3
    targets = [torch.tensor([[0, 2, 12.5, 10.5, 35.5, 37.5]] * 2), torch.zeros(0, 6)]
    module.set_prior(targets, images=2, imgsz=64)
    bias = [conv.bias.detach().view(2, 8) for conv in module.convs]
    # stride 16: both anchors answer in one cell of 2 · 4 · 4; the twin changes nothing. Stride 32: anchor 2 does in one
    # of 2 · 2 · 2, anchor 3 in none, which is counted as one
    assert bias[0][:, 4].sigmoid().tolist() == pytest.approx([1 / 32 / 2] * 2)
    assert bias[1][:, 4].sigmoid().tolist() == pytest.approx([1 / 8 / 2] * 2)
    assert bias[0][0, 5:].sigmoid().tolist() == pytest.approx([0.01, 0.01, 0.99])
    assert torch.equal(bias[0][0, 5:], bias[1][1, 5:])


def test_prior_counts_cells_and_frequencies():
    module = head(classes=2)
    box = [12.5, 10.5, 35.5, 37.5]
    targets = [torch.tensor([[3, 0, *box], [1, 1, *box], [1, 1, *(side + 16 for side in box)]])]
    module.set_prior(targets, images=5, imgsz=64)
    bias = module.convs[0].bias.detach().view(2, 7)
    assert bias[:, 4].sigmoid().tolist() == pytest.approx([3 / (5 * 16) / 2] * 2)
    assert bias[0, 5:].sigmoid().tolist() == pytest.approx([1 / 3, 2 / 3])


def test_prior_without_targets_is_finite():
    module = head()
    module.set_prior([], images=4, imgsz=64)
    assert all(p.isfinite().all() for p in module.parameters())


def test_anchors_are_no_weights():
    assert not any("anchors" in name for name in head().state_dict())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strides": [8, 16, 32]}, r"masks for 2 levels; .*\[8, 16, 32\]"),
        ({"masks": [[0, 1], [2, 4]]}, "0 to 3"),
        ({"masks": [[0, 1], [2]]}, "as many"),
        ({"masks": [[0, 0], [1, 2]]}, "different"),
        ({"masks": [[0, -1], [1, 2]]}, "0 to 3"),
        ({"masks": [[], []]}, "as many"),
        ({"masks": [0, 1]}, "as many"),
        ({"anchors": [[1, 2], [3]]}, "pairs"),
        ({"anchors": [[1, 2], [3, 4], [5, 6], [0, 8]]}, "above 0"),
        ({"scale_x_y": 0.9}, "scale_x_y must be 1 or more, found 0.9"),
        ({"iou_thresh": 0.0}, "iou_thresh"),
        ({"ignore_thresh": 1.5}, "ignore_thresh"),
        ({"box_loss": "cious"}, "Did you mean 'ciou'"),
        ({"classes": 0}, "classes"),
        ({"classes": None}, "model.classes"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        head(**keys)
