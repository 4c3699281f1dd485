from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from ablab.models.heads.boxes import iou_and_generalised
from ablab.models.heads.gfl_loss import distribution_focal, expectation, quality_focal


def test_quality_focal_by_hand():
    logits = torch.tensor([0.0, 0.0, 0.0, math.log(3)])  # scores 1/2, 1/2, 1/2, 3/4
    quality = torch.tensor([1.0, 0.5, 0.0, 0.25])
    entropy = -(0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    expected = [0.25 * math.log(2), 0.0, 0.25 * math.log(2), 0.25 * entropy]
    assert quality_focal(logits, quality, 2.0).tolist() == pytest.approx(expected)
    assert quality_focal(logits, quality, 1.0)[3].item() == pytest.approx(0.5 * entropy)


def test_quality_focal_of_whole_qualities_is_the_focal_loss():
    torch.manual_seed(0)
    logits = torch.randn(50, 4, requires_grad=True)
    labels = (torch.rand(50, 4) < 0.3).float()
    ours = quality_focal(logits, labels, 2.0)
    theirs = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=2.0)
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0])


def test_distribution_focal_by_hand():
    uniform = torch.zeros(3, 8)
    assert distribution_focal(uniform, torch.tensor([0.0, 2.3, 6.9])).tolist() == pytest.approx([math.log(8)] * 3)
    logits = torch.tensor([0.1, 0.2, 0.4, 0.3]).log()
    wanted = [-math.log(0.2), -0.75 * math.log(0.4) - 0.25 * math.log(0.3)]
    assert distribution_focal(logits.expand(2, 4), torch.tensor([1.0, 2.25])).tolist() == pytest.approx(wanted)


def test_distribution_focal_is_cross_entropy_with_both_neighbours():
    torch.manual_seed(0)
    logits, distance = torch.randn(30, 4, 11, requires_grad=True), torch.rand(30, 4) * 9.9
    targets = torch.zeros(30, 4, 11)
    for index in torch.cartesian_prod(torch.arange(30), torch.arange(4)).tolist():
        value = distance[tuple(index)].item()
        targets[(*index, int(value))] = 1 - value % 1
        targets[(*index, int(value) + 1)] = value % 1
    ours = distribution_focal(logits, distance)
    theirs = cross_entropy(logits.movedim(2, 1), targets.movedim(2, 1), reduction="none")
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0])


def test_expectation():
    assert expectation(torch.zeros(8)).item() == pytest.approx(3.5)
    assert expectation(torch.tensor([[0.1, 0.2, 0.4, 0.3]]).log()).tolist() == pytest.approx([1.9])


def test_generalised_iou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 4, 5]])
    b = torch.tensor([[1.0, 1, 3, 3], [3, 0, 4, 1], [1, 1, 4, 5]])
    iou, giou = iou_and_generalised(a, b)
    assert iou.tolist() == pytest.approx([1 / 7, 0, 1])
    assert giou.tolist() == pytest.approx([1 / 7 - 2 / 9, -1 / 2, 1])


def test_generalised_iou_and_its_gradient_are_torchvisions():
    torch.manual_seed(0)
    corners, sides = (
        torch.rand(2, 200, 2, dtype=torch.float64) * 5,
        torch.rand(2, 200, 2, dtype=torch.float64) * 4 + 0.1,
    )
    a, b = torch.cat((corners, corners + sides), 2).unbind(0)
    a.requires_grad_()
    iou, giou = iou_and_generalised(a, b)
    torch.testing.assert_close(iou, box_iou(a, b).diagonal())
    theirs = generalized_box_iou_loss(a, b)
    torch.testing.assert_close(1 - giou, theirs)
    (gradient,) = torch.autograd.grad((1 - giou).sum(), a)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), a)[0])
    assert giou.min() < 0 < giou.max()
