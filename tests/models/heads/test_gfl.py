from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, cross_entropy
from torchvision.ops import box_iou, generalized_box_iou_loss

from ablab.errors import UserError
from ablab.models.heads.atss import assign
from ablab.models.heads.gfl import GFLHead

TARGETS = torch.tensor(
    [
        [0, 1, 10.0, 12, 34, 40],
        [1, 0, 30.0, 20, 62, 60],
        [1, 2, 34.0, 24, 60, 62],  # meets the one before
        [1, 1, 2.0, 3, 61, 63],  # its right side is further than four strides of 8 from some cells
    ]
)


def head(classes=3, strides=(8, 16), widths=None, **keys):
    return GFLHead(
        list(widths or [8] * len(strides)),
        list(strides),
        **{
            "classes": classes,
            "depth": 1,
            "reg_max": 4,
            "activation": "leaky_relu",
            "top_k": 9,
            "scale": 5.0,
            "beta": 2.0,
            "qfl": 1.0,
            "giou": 1.0,
            "dfl": 1.0,
        }
        | keys,
    )


def random_raw(classes=3, bins=5, sizes=((8, 8), (4, 4)), images=2):
    torch.manual_seed(0)
    return [torch.randn(images, classes + 4 * bins, *size, requires_grad=True) for size in sizes]


def box_at(out, image, y, x, stride, classes, bins):
    """Left, top, right and bottom of one cell's box, by definition."""
    sides = []
    for side in range(4):
        first = classes + side * bins
        shares = torch.softmax(out[image, first : first + bins, y, x], 0)
        sides.append(sum(k * share for k, share in enumerate(shares)) * stride)
    cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
    return torch.stack((cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3]))


def test_decode_by_hand():
    raw = [out.detach() for out in random_raw(sizes=((4, 6), (2, 3)))]
    boxes, scores = head().decode(raw)
    assert (boxes.shape, scores.shape) == ((2, 30, 4), (2, 30, 3))
    index = 0
    for out, stride in zip(raw, (8, 16), strict=True):
        for y in range(out.shape[2]):
            for x in range(out.shape[3]):
                box = box_at(out, 1, y, x, stride, 3, 5)
                inside = [min(max(side, 0), limit) for side, limit in zip(box.tolist(), (48, 32, 48, 32), strict=True)]
                assert boxes[1, index].tolist() == pytest.approx(inside, abs=1e-3)
                assert scores[1, index].tolist() == pytest.approx(out[1, :3, y, x].sigmoid().tolist())
                index += 1
    assert index == 30


@pytest.mark.parametrize("classes", [3, 1])
def test_loss_is_the_definition(classes):
    raw, bins, strides = random_raw(classes), 5, (8, 16)
    targets = TARGETS.clone()
    targets[:, 1].clamp_(max=classes - 1)
    ours = head(classes).loss(raw, targets, 0.0)

    match = assign(targets, [(8, 8), (4, 4)], strides, 2, 9, 5.0)
    owner = dict(zip(match.rows.tolist(), match.truths.tolist(), strict=True))
    qfl, weights, gious, dfls = 0.0, [], [], []
    for image in range(2):
        row = image * 80
        for out, stride in zip(raw, strides, strict=True):
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    scores, wanted = out[image, :classes, y, x].sigmoid(), torch.zeros(classes)
                    if row in owner:
                        truth = targets[owner[row]]
                        box = box_at(out, image, y, x, stride, classes, bins)
                        wanted[int(truth[1])] = box_iou(box[None], truth[None, 2:]).detach().item()
                        weights.append(scores.max().detach())
                        gious.append(generalized_box_iou_loss(box, truth[2:]))
                        cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                        x1, y1, x2, y2 = truth[2:].tolist()
                        sides = []
                        for side, px in enumerate((cx - x1, cy - y1, x2 - cx, y2 - cy)):
                            far = min(px / stride, bins - 1 - 0.1)
                            logits = out[image, classes + side * bins : classes + (side + 1) * bins, y, x]
                            near, next_one = (cross_entropy(logits, torch.tensor(int(far) + i)) for i in (0, 1))
                            sides.append((1 - far % 1) * near + far % 1 * next_one)
                        dfls.append(sum(sides) / 4)
                    bce = binary_cross_entropy(scores, wanted, reduction="none")
                    qfl = qfl + ((wanted - scores).abs() ** 2 * bce).sum()
                    row += 1
    assert len(weights) == len(owner) > 5
    expected = {
        "qfl": qfl / len(owner),
        "giou": sum(w * g for w, g in zip(weights, gious, strict=True)) / sum(weights),
        "dfl": sum(w * d for w, d in zip(weights, dfls, strict=True)) / sum(weights),
    }
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-4), name
    grads = torch.autograd.grad(sum(ours.values()), raw)
    reference = torch.autograd.grad(sum(expected.values()), raw)
    for a, b in zip(grads, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_far_sides_are_what_the_definition_above_clips():
    far = (TARGETS[3, 4] - 12) / 8  # from a centre at 12 px
    assert far > 4 - 0.1


def test_gains_stand_as_written_and_progress_changes_nothing():
    raw = random_raw()
    once = head().loss(raw, TARGETS, 0.0)
    scaled = head(qfl=2.0, giou=3.0, dfl=5.0).loss(raw, TARGETS, 0.7)
    for name, gain in (("qfl", 2), ("giou", 3), ("dfl", 5)):
        torch.testing.assert_close(scaled[name], gain * once[name])


def test_order_of_truths_changes_nothing():
    raw = random_raw()
    losses = [sum(head().loss(raw, TARGETS[order], 0.0).values()) for order in ([0, 1, 2, 3], [3, 1, 0, 2])]
    torch.testing.assert_close(*losses)


def test_without_truths_only_scores_are_paid_for():
    raw = random_raw()
    losses = head().loss(raw, torch.zeros(0, 6), 0.0)
    assert losses["giou"] == losses["dfl"] == 0
    scores = torch.cat([out[:, :3].flatten() for out in raw]).sigmoid()
    assert losses["qfl"].item() == pytest.approx(-(scores**2 * (1 - scores).log()).sum().item(), rel=1e-4)
    sum(losses.values()).backward()
    assert all(out.grad is not None and out.grad.isfinite().all() for out in raw)


def test_loss_is_fp32_under_autocast():
    torch.manual_seed(0)
    module = head()
    maps = [torch.rand(2, 8, 8, 8), torch.rand(2, 8, 4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        raw = module(maps)
        losses = module.loss(raw, TARGETS, 0.0)
        boxes, scores = module.decode(raw)
    assert raw[0].dtype == torch.bfloat16
    assert {v.dtype for v in losses.values()} == {boxes.dtype, scores.dtype} == {torch.float32}
    exact = module.loss([r.float() for r in raw], TARGETS, 0.0)
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name])


def test_predictions_that_follow_the_loss_find_the_truth(follow_the_loss):
    follow_the_loss(head(), random_raw(), TARGETS[:2], 200)


def test_starts_with_low_scores_and_even_distributions():
    torch.manual_seed(0)
    module = head(classes=80, reg_max=7, widths=[96, 96]).eval()
    raw = module([torch.rand(1, 96, 8, 8), torch.rand(1, 96, 4, 4)])
    boxes, scores = module.decode(raw)
    assert scores.mean().item() == pytest.approx(0.01, rel=0.05)
    assert (boxes[0, 27] - torch.tensor([0.0, 0, 56, 56])).abs().max() < 1  # (28, 28) ± 3.5 strides of 8
    stds = [m.weight.std().item() for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert stds == pytest.approx([0.01] * len(stds), rel=0.1)
    assert all(conv.bias[0].item() == pytest.approx(-math.log(99)) for conv in module.convs)


def test_any_number_of_levels_of_any_width():
    for strides, widths in (((8, 16), (4, 12)), ((8, 16, 32, 64), (4, 8, 4, 8))):
        module = head(strides=strides, widths=widths)
        raw = module([torch.rand(2, w, 64 // s, 64 // s) for w, s in zip(widths, strides, strict=True)])
        assert [out.shape[1] for out in raw] == module.out_channels == [23] * len(strides)
        losses = module.loss(raw, TARGETS, 0.0)
        assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": None}, "model.classes"),
        ({"classes": 0}, "model.classes"),
        ({"reg_max": 0}, "reg_max"),
        ({"depth": -1}, "depth"),
        ({"top_k": 0}, "top_k"),
        ({"scale": 0.0}, "scale"),
        ({"activation": "leaky"}, "leaky_relu"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(UserError, match=message):
        head(**keys)
