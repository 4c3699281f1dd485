"""NMS in portions against the plain algorithm over all candidates at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from ablab.evaluation.nms import FIRST, suppress

EVAL = {"conf": 0.001, "iou": 0.6, "max_nms": 1500, "max_det": 100, "batch": 2}


def plain(boxes: Tensor, scores: Tensor, settings: dict[str, Any]) -> list[tuple[float, int, list[float]]]:
    """Greedy NMS as the books have it, in float32: (score, class, box), best first."""
    numbers, corners = scores.numpy(), boxes.numpy()
    pairs = [
        (-float(numbers[i, k]), i, k)
        for i in range(len(numbers))
        if np.isfinite(corners[i]).all()
        for k in range(numbers.shape[1])
        if np.isfinite(numbers[i, k]) and numbers[i, k] > settings["conf"]
    ]
    candidates = sorted(pairs)[: settings["max_nms"]]
    kept: list[tuple[float, int, list[float]]] = []
    for negative, i, k in candidates:
        same = np.array([box for _, kind, box in kept if kind == k], np.float32).reshape(-1, 4)
        a = corners[i]
        with np.errstate(over="ignore", invalid="ignore"):  # 0/0 of boxes without area, and boxes of 1e38 px
            sides = np.clip(np.minimum(same[:, 2:], a[2:]) - np.maximum(same[:, :2], a[:2]), 0, None)
            areas, shared = (same[:, 2] - same[:, 0]) * (same[:, 3] - same[:, 1]), sides.prod(1)
            iou = shared / (areas + (a[2] - a[0]) * (a[3] - a[1]) - shared)
        if not (iou.astype(np.float64) > settings["iou"]).any():
            kept.append((-negative, k, a.tolist()))
    return kept[: settings["max_det"]]


def found(boxes: Tensor, scores: Tensor, settings: dict[str, Any]) -> list[list[tuple[float, int, list[float]]]]:
    every = suppress(boxes, scores, settings)
    return [list(zip(s.tolist(), k.tolist(), b.tolist(), strict=True)) for b, s, k in every]


def scene(count: int, classes: int, seed: int, spread: float = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator) * spread
    sides = torch.rand(2, count, 2, generator=generator) * 80 + 5
    scores = torch.rand(2, count, classes, generator=generator) ** 6
    return torch.cat((corners, corners + sides), 2), scores


def equal(boxes: Tensor, scores: Tensor, **settings: Any) -> list[list[tuple[float, int, list[float]]]]:
    settings = EVAL | settings
    result = found(boxes, scores, settings)
    assert result == [plain(b, s, settings) for b, s in zip(boxes, scores, strict=True)]
    return result


@pytest.mark.parametrize("classes", [1, 3, 20])
@pytest.mark.parametrize("spread", [5, 60, 1000])  # from heaps, of which few are kept, to boxes that hardly touch
def test_portions_keep_what_the_plain_algorithm_keeps(classes: int, spread: float) -> None:
    boxes, scores = scene(600 // classes, classes, seed=classes, spread=spread)
    for conf, max_nms, max_det in ((0.001, 1500, 100), (0.0, 300, 30), (0.2, 1500, 400)):
        equal(boxes, scores, conf=conf, max_nms=max_nms, max_det=max_det)


def test_a_heap_is_gone_through_to_its_end() -> None:
    boxes, scores = scene(700, 1, seed=1, spread=1)
    boxes[:, -1] += 500  # one apart, and worse than all others
    scores[:, -1] = 0.002
    scores[:, :-1] += 0.01
    result = equal(boxes, scores)
    assert all(len(image) < FIRST and image[-1][2][0] >= 500 for image in result)


def test_equal_scores_go_by_place() -> None:
    boxes, scores = scene(1200, 2, seed=2)
    result = equal(boxes, torch.full_like(scores, 0.25))
    assert {score for image in result for score, _, _ in image} == {0.25}
    assert result[0][0] == (0.25, 0, boxes[0, 0].tolist())
    assert result[0][1] == (0.25, 1, boxes[0, 0].tolist())
    equal(boxes, (scores * 4).round() / 4)


def test_equal_boxes() -> None:
    boxes, scores = scene(800, 3, seed=3)
    result = equal(boxes[:, :1].expand(-1, 800, -1), scores)
    assert [[k for _, k, _ in image] for image in result] != [[], []]
    assert all(sorted(k for _, k, _ in image) == [0, 1, 2] for image in result)
    point = torch.zeros(2, 800, 4)  # of no area: an IoU of 0/0 suppresses nothing
    assert len(equal(point, scores)[0]) == 100


def test_iou_at_the_limit_is_torchvisions() -> None:
    """Two boxes of IoU 3/5, which float32 rounds up: above 0.6."""
    boxes = torch.tensor([[[0.0, 0, 4, 1], [1, 0, 5, 1]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    assert len(equal(boxes, scores, iou=0.6)[0]) == len(nms(boxes[0], scores[0, :, 0], 0.6)) == 1
    assert len(equal(boxes, scores, iou=0.61)[0]) == 2


def test_what_is_not_finite_is_no_candidate() -> None:
    boxes, scores = scene(400, 2, seed=4)
    boxes[0, 3, 2], boxes[0, 5, 0], boxes[1, 0, 1] = torch.nan, -torch.inf, torch.inf
    scores[0, 7, 0], scores[1, 9, 1], scores[1, 8, 0] = torch.nan, torch.inf, -torch.inf
    assert all(np.isfinite(score) for image in equal(boxes, scores, max_nms=350) for score, _, _ in image)
    huge = boxes.nan_to_num() * 3e36  # whose sum is not finite
    equal(huge, scores)
    assert found(boxes * torch.nan, scores, EVAL) == [[], []]
    assert found(boxes, scores * torch.nan, EVAL) == [[], []]


def test_nothing_to_find() -> None:
    boxes, scores = scene(50, 3, seed=5)
    assert equal(boxes[:, :0], scores[:, :0]) == [[], []]
    assert equal(boxes, scores * 0) == [[], []]
    assert found(boxes[:0], scores[:0], EVAL) == []
    one_only = scores.clone()
    one_only[0] = 0
    assert [len(image) > 0 for image in equal(boxes, one_only)] == [False, True]


def test_strided_scores() -> None:
    boxes, scores = scene(300, 4, seed=6)
    assert found(boxes, scores.transpose(1, 2).contiguous().transpose(1, 2), EVAL) == found(boxes, scores, EVAL)
