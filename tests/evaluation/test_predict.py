"""From raw predictions to boxes in the original image, against torchvision's NMS and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from ablab.data.form import Dataset, Sample
from ablab.errors import UserError
from ablab.evaluation.predict import predict, suppress
from ablab.models.detector import build

EVAL = {"conf": 0.001, "iou": 0.6, "max_nms": 1500, "max_det": 100, "batch": 2}
PREPROCESS = {
    "resize": "letterbox",
    "interpolation": "area",
    "pad": 114,
    "channels": "rgb",
    "mean": [0, 0, 0],
    "std": [255, 255, 255],
}


def candidates(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) * 80 + 5
    scores = torch.rand(count, classes, generator=generator) ** 6
    return torch.cat((corners, corners + sides), 1), scores


@pytest.mark.parametrize("seed", range(4))
def test_suppress_is_nms_for_each_class(seed: int) -> None:
    boxes, scores = candidates(300, 3, seed)
    found = suppress(boxes, scores, EVAL | {"max_nms": 10_000, "max_det": 10_000, "conf": 0.05})
    expected = []
    for k in range(3):
        above = (scores[:, k] > 0.05).nonzero().squeeze(1)
        kept = above[nms(boxes[above], scores[above, k], 0.6)]
        expected += [(scores[i, k].item(), k, *boxes[i].tolist()) for i in kept]
    got = [(s.item(), k.item(), *b.tolist()) for b, s, k in zip(*found, strict=True)]
    assert got == sorted(expected, reverse=True)


def test_suppress_keeps_the_best_candidates_and_detections() -> None:
    boxes, scores = candidates(300, 3, 9)
    everything = suppress(boxes, scores, EVAL | {"iou": 1.0, "max_nms": 900, "max_det": 900, "conf": 0.0})
    assert everything[1].tolist() == sorted(scores.flatten().tolist(), reverse=True)
    few = suppress(boxes, scores, EVAL | {"iou": 1.0, "max_nms": 50, "max_det": 20})
    assert few[1].tolist() == everything[1][:20].tolist()
    capped = suppress(boxes, scores, EVAL | {"iou": 0.0, "max_nms": 50})
    assert set(capped[1].tolist()) <= set(everything[1][:50].tolist())


def test_suppress_drops_what_is_not_finite() -> None:
    boxes, scores = candidates(4, 2, 0)
    scores += 0.1
    boxes[1, 2] = float("nan")
    boxes[2, 0] = float("-inf")
    scores[3, 0] = float("nan")
    kept, values, _ = suppress(boxes, scores, EVAL)
    assert kept.isfinite().all()
    assert values.isfinite().all()
    assert len(values) == 3  # both classes of the first box, one of the last
    nothing = suppress(boxes[:0], scores[:0], EVAL)
    assert [len(part) for part in nothing] == [0, 0, 0]


class Fixed(nn.Module):
    """Sees every image the same way: three boxes of one class each, in px of the network input."""

    BOXES = torch.tensor([[16.0, 24, 48, 40], [-10, 10, 30, 30], [0, 0, 64, 64]])
    SCORES = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.5, 0.4]])

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        self.inputs.append(x)
        return [x]

    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        count = len(raw[0])
        return self.BOXES.expand(count, -1, -1), self.SCORES.expand(count, -1, -1)


def sample(number: int, width: int, height: int) -> Sample:
    pixels = np.full((height, width, 3), (255, 0, 51), np.uint8)
    empty = np.zeros(0)
    return Sample(
        number,
        f"{number}.png",
        width,
        height,
        np.zeros((0, 4), np.float32),
        empty.astype(np.int64),
        empty.astype(np.bool_),
        empty,
        None,
        pixels,
    )


def run(detector: nn.Module, dataset: Dataset, **preprocess: Any) -> list[dict[str, Any]]:
    return predict(
        detector, dataset, imgsz=64, preprocess=PREPROCESS | preprocess, eval_config=EVAL, engine=tiny.ENGINE
    )


def test_boxes_return_to_the_original_image() -> None:
    wide, tall = sample(8, 128, 64), sample(2, 32, 64)
    results = run(Fixed(), Dataset(("a", "b"), (7, 3), (wide, tall, wide), ()))
    assert [r["image_id"] for r in results] == [8] * 4 + [2] * 4 + [8] * 4
    assert [r["category_id"] for r in results[:4]] == [7, 3, 7, 3]
    assert [r["score"] for r in results[:4]] == [0.9, 0.8, 0.5, 0.4]
    # 128 x 64 lies in 64 x 64 at half its size, 16 px from the top
    assert [r["bbox"] for r in results[:3]] == [[32, 16, 64, 32], [0, 0, 60, 28], [0, 0, 128, 64]]
    # 32 x 64 at its own size, 16 px from the left
    assert [r["bbox"] for r in results[4:7]] == [[0, 24, 32, 16], [0, 10, 14, 20], [0, 0, 32, 64]]


def test_stretch_scales_each_side() -> None:
    results = run(Fixed(), Dataset(("a", "b"), (7, 3), (sample(1, 128, 32),), ()), resize="stretch")
    assert results[0]["bbox"] == [32, 12, 64, 8]


def test_network_sees_normalised_pixels() -> None:
    detector = Fixed()
    data = Dataset(("a", "b"), (7, 3), (sample(1, 64, 64),), ())
    run(detector, data, mean=[55.0, 0.0, 1.0], std=[100.0, 1.0, 2.0])
    run(detector, data, channels="bgr")
    torch.testing.assert_close(detector.inputs[0][0, :, 0, 0], torch.tensor([2.0, 0.0, 25.0]))
    torch.testing.assert_close(detector.inputs[1][0, :, 0, 0], torch.tensor([0.2, 0.0, 1.0]))


def test_batches_do_not_matter() -> None:
    torch.manual_seed(0)
    detector = build(tiny.config("model.classes=2"))
    data = tiny.squares(5)
    found = []
    for batch in (5, 1):
        settings = EVAL | {"batch": batch, "iou": 1.0}  # nothing suppressed: an untrained network's boxes nearly tie
        found.append(predict(detector, data, imgsz=64, preprocess=PREPROCESS, eval_config=settings, engine=tiny.ENGINE))
    whole, single = ([r["score"] for r in results] for results in found)
    assert len(whole) == len(single) > 300
    assert whole == pytest.approx(single, abs=1e-5)


def test_out_of_memory_names_the_keys() -> None:
    class Greedy(Fixed):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.empty(2**62, dtype=torch.uint8)]

    with pytest.raises(UserError, match=r"out of memory with eval\.batch=2 at imgsz=64"):
        run(Greedy(), tiny.squares(2))
