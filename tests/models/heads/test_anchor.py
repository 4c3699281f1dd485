from __future__ import annotations

import math

import pytest
import torch

from ablab.errors import UserError
from ablab.models.heads.anchor import AnchorHead

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]]]


def head(classes=2, anchors=ANCHORS, strides=(8, 16), balance=(4.0, 1.0), **gains):
    return AnchorHead(
        [4] * len(strides),
        list(strides),
        classes=classes,
        anchors=anchors,
        anchor_t=4.0,
        balance=list(balance),
        **{"box": 0.05, "obj": 0.25, "cls": 0.01875} | gains,
    )


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_decode_by_hand():
    torch.manual_seed(0)
    module = head()
    raw = [torch.randn(2, 3, 4, 4, 7), torch.randn(2, 3, 2, 2, 7)]
    boxes, scores = module.decode(raw)
    assert boxes.shape == (2, 60, 4)
    assert scores.shape == (2, 60, 2)
    index = 0
    for out, anchors, stride in zip(raw, ANCHORS, (8, 16), strict=True):
        for a, (aw, ah) in enumerate(anchors):
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    t = out[1, a, y, x].tolist()
                    cx, cy = (2 * sigmoid(t[0]) - 0.5 + x) * stride, (2 * sigmoid(t[1]) - 0.5 + y) * stride
                    w, h = (2 * sigmoid(t[2])) ** 2 * aw, (2 * sigmoid(t[3])) ** 2 * ah
                    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    assert boxes[1, index].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)
                    wanted = [sigmoid(t[4]) * sigmoid(t[5]), sigmoid(t[4]) * sigmoid(t[6])]
                    assert scores[1, index].tolist() == pytest.approx(wanted, rel=1e-4)
                    index += 1
    assert index == 60


def test_one_class_scores_by_objectness():
    raw = [torch.randn(1, 3, 4, 4, 6), torch.randn(1, 3, 2, 2, 6)]
    _, scores = head(classes=1).decode(raw)
    torch.testing.assert_close(scores[0, :48, 0], raw[0][0, ..., 4].sigmoid().flatten())


def test_raw_is_anchor_major():
    module = head()
    x = torch.rand(1, 4, 4, 4)
    raw = module([x, x])
    assert raw[0].shape == (1, 3, 4, 4, 7)
    conv = module.convs[0](x)
    assert torch.equal(raw[0][0, 1, 2, 3], conv[0, 7:14, 2, 3])


def test_predictions_that_follow_the_loss_find_the_truth(follow_the_loss):
    torch.manual_seed(0)
    raw = [torch.randn(2, 3, n, n, 7) - 1 for n in (8, 4)]
    targets = torch.tensor([[0, 1, 10.0, 12, 24, 30], [0, 0, 30.0, 20, 62, 60], [1, 0, 3.0, 40, 40, 63]])
    follow_the_loss(head(box=1.0, obj=10.0, cls=1.0, balance=(1.0, 1.0)), raw, targets, 300)


def test_gains_stand_as_written():
    torch.manual_seed(0)
    raw = [torch.randn(1, 3, 4, 4, 7), torch.randn(1, 3, 2, 2, 7)]
    targets = torch.tensor([[0, 1, 4.0, 4, 20, 30]])
    once = head(box=1, obj=1, cls=1).loss(raw, targets, 0.0)
    scaled = head(box=2, obj=3, cls=5).loss(raw, targets, 0.7)
    for name, gain in (("box", 2), ("obj", 3), ("cls", 5)):
        torch.testing.assert_close(scaled[name], gain * once[name])


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


def test_default_bias_is_yolov5s():
    torch.manual_seed(0)
    many = [head(classes=80) for _ in range(20)]
    for level, stride in enumerate((8, 16)):
        bias = torch.stack([m.convs[level].bias.detach().view(3, 85) for m in many])
        # torch's own initialisation is uniform in ±1/√4 here
        assert bias[..., 4].mean().item() == pytest.approx(math.log(8 / (640 / stride) ** 2), abs=0.2)
        assert bias[..., 5:].mean().item() == pytest.approx(math.log(0.6 / 79.01), abs=0.05)
        assert bias[..., :4].abs().max() <= 0.5


def test_prior_from_statistics():
    module = head(classes=3)
    # image 0: 14 × 14 px at (20, 20), the middle of a cell of stride 8 and near one border of stride 16 each way
    targets = [torch.tensor([[0, 2, 13.0, 13, 27, 27], [0, 2, 13.0, 13, 27, 27]]), torch.zeros(0, 6)]
    module.set_prior(targets, images=2, imgsz=64)
    bias = [conv.bias.detach().view(3, 8) for conv in module.convs]
    # stride 8: anchors 10×13, 16×30, 33×23 all answer, in one cell of 2 · 8 · 8; the twin changes nothing
    assert bias[0][:, 4].sigmoid().tolist() == pytest.approx([1 / 128 / 2] * 3)
    # stride 16: 62×45 is 4.4 times as wide, 59×119 too, and 30×61 4.4 times as high: none, counted as one cell
    assert bias[1][:, 4].sigmoid().tolist() == pytest.approx([1 / 32 / 2] * 3)
    assert bias[0][0, 5:].sigmoid().tolist() == pytest.approx([0.01, 0.01, 0.99])
    assert torch.equal(bias[0][0, 5:], bias[1][2, 5:])


def test_prior_counts_neighbours_and_frequencies():
    module = head(classes=2)
    # centre (18, 22) px: at stride 16 (1.125, 1.375), left and upper neighbour answer as well
    targets = [torch.tensor([[3, 0, 3.0, 2, 33, 42], [3, 1, 3.0, 2, 33, 42], [1, 0, 3.0, 2, 33, 42]])]
    module.set_prior(targets, images=5, imgsz=64)
    bias = module.convs[1].bias.detach().view(3, 7)
    # 30 × 40 px fits all anchors of stride 16; three cells in each of two images
    assert bias[:, 4].sigmoid().tolist() == pytest.approx([6 / (5 * 16) / 2] * 3)
    assert bias[0, 5:].sigmoid().tolist() == pytest.approx([2 / 3, 1 / 3])


def test_prior_without_targets_is_finite():
    module = head()
    module.set_prior([], images=4, imgsz=64)
    assert all(p.isfinite().all() for p in module.parameters())


def test_anchors_are_no_weights():
    assert not any("anchors" in name for name in head().state_dict())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strides": (8, 16, 32)}, r"anchors for 2 .*\[8, 16, 32\]"),
        ({"balance": (1.0, 1.0, 1.0)}, "balance for 3"),
        ({"anchors": [[[1, 2]], [[1, 2], [3, 4]]]}, "as many"),
        ({"anchors": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "pairs"),
        ({"classes": 0}, "classes"),
        ({"classes": None}, "model.classes"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        head(**keys)
