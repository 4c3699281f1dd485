"""From raw predictions to boxes in the original image, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from ablab.data import form
from ablab.data.form import Dataset, Sample
from ablab.errors import UserError
from ablab.evaluation import ap
from ablab.evaluation.predict import numbered, predict, results, results_array
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


class Fixed(nn.Module):
    """Sees every image the same way: three boxes of one class each, in px of the network input."""

    BOXES = torch.tensor([[16.0, 24, 48, 40], [-10, 10, 30, 30], [0, 0, 64, 64]])
    SCORES = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.5, 0.4]])

    def __init__(self, inputs: list[Tensor] | None = None) -> None:
        super().__init__()
        self.see = (inputs if inputs is not None else []).append  # a method: what is evaluated is a copy

    def forward(self, x: Tensor) -> list[Tensor]:
        self.see(x)
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
    found = predict(
        detector, dataset, imgsz=64, preprocess=PREPROCESS | preprocess, eval_config=EVAL, engine=tiny.ENGINE
    )
    return results(found, dataset)


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


def test_boxes_may_stay_as_they_are_predicted() -> None:
    data = Dataset(("a", "b"), (7, 3), (sample(8, 128, 64),), ())
    settings = EVAL | {"clip": False}
    found = predict(Fixed(), data, imgsz=64, preprocess=PREPROCESS, eval_config=settings, engine=tiny.ENGINE)
    # as above, but the second reaches 20 px beyond the left edge and 12 above the image, the third 32 px both ways
    assert [r["bbox"] for r in results(found, data)[:3]] == [[32, 16, 64, 32], [-20, -12, 80, 40], [0, -32, 128, 128]]


def test_an_evaluation_may_be_in_fp32_after_a_training_in_less() -> None:
    dtypes = []

    class Looks(Fixed):
        def forward(self, x: Tensor) -> list[Tensor]:
            dtypes.append((x @ x).dtype)
            return [x]

    data = Dataset(("a", "b"), (7, 3), (sample(1, 64, 64),), ())
    half = tiny.ENGINE | {"precision": "bf16"}
    for precision in ("engine", "fp32"):
        settings = EVAL | {"precision": precision}
        predict(Looks(), data, imgsz=64, preprocess=PREPROCESS, eval_config=settings, engine=half)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_stretch_scales_each_side() -> None:
    results = run(Fixed(), Dataset(("a", "b"), (7, 3), (sample(1, 128, 32),), ()), resize="stretch")
    assert results[0]["bbox"] == [32, 12, 64, 8]


def test_network_sees_normalised_pixels() -> None:
    inputs: list[Tensor] = []
    detector = Fixed(inputs)
    data = Dataset(("a", "b"), (7, 3), (sample(1, 64, 64),), ())
    run(detector, data, mean=[55.0, 0.0, 1.0], std=[100.0, 1.0, 2.0])
    run(detector, data, channels="bgr")
    torch.testing.assert_close(inputs[0][0, :, 0, 0], torch.tensor([2.0, 0.0, 25.0]))
    torch.testing.assert_close(inputs[1][0, :, 0, 0], torch.tensor([0.2, 0.0, 1.0]))


def test_batches_do_not_matter() -> None:
    torch.manual_seed(0)
    detector = build(tiny.config("model.classes=2"))
    data = tiny.squares(5)
    found = []
    for batch in (5, 1):
        settings = EVAL | {"batch": batch, "iou": 1.0}  # nothing suppressed: an untrained network's boxes nearly tie
        found.append(predict(detector, data, imgsz=64, preprocess=PREPROCESS, eval_config=settings, engine=tiny.ENGINE))
    whole, single = ([score for _, scores, _ in every for score in scores] for every in found)
    assert len(whole) == len(single) > 300
    assert whole == pytest.approx(single, abs=1e-5)


def test_an_array_is_judged_as_the_results_are() -> None:
    """Also with ids that no float holds, out of order, and scores that tie between images."""
    rng = np.random.default_rng(0)
    squares = tiny.squares(9)
    ids = (2**60 + rng.permutation(9)).tolist()
    samples = tuple(replace(sample, id=number) for sample, number in zip(squares.samples, ids, strict=True))
    data = replace(squares, samples=samples, category_ids=(2**59 + 7, 2**59 + 3))
    found = []
    for i, one in enumerate(samples):
        boxes = one.boxes.repeat(i % 4, 0) + rng.normal(size=(i % 4, 4)) * 2
        scores, classes = rng.integers(1, 4, i % 4) / 4, rng.integers(0, 2, i % 4)
        found.append((boxes.astype(np.float64), scores, classes))
    judged = numbered(data)
    array = ap.evaluate(form.coco_truth(judged), results_array(found, judged))
    assert array == ap.evaluate(form.coco_truth(data), results(found, data))
    assert array["map"] > 0
    nothing = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))] * 9
    assert ap.evaluate(form.coco_truth(judged), results_array(nothing, judged))["map"] == 0
    assert results(nothing, data) == []


def test_out_of_memory_names_the_keys() -> None:
    class Greedy(Fixed):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.empty(2**62, dtype=torch.uint8)]

    with pytest.raises(UserError, match=r"out of memory with eval\.batch=2 at imgsz=64"):
        run(Greedy(), tiny.squares(2))
