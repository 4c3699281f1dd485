"""One step: fp16's scaler, skipped steps, clipping."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from ablab.compute import Compute
from ablab.data.loader import Batch
from ablab.training import optim, schedule
from ablab.training.ema import EMA
from ablab.training.step import Step

IMAGES = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGES, torch.zeros(0, 6), [0, 1, 2, 3])


class Linear(nn.Module):
    """Four numbers, and a loss whose gradient is `size` times as large as it would be."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)
        self.size = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))

    def loss(self, raw: Tensor, targets: Tensor, progress: float) -> dict[str, Tensor]:
        loss = (raw * self.size).mean()
        return {"all": loss - loss.detach() + 1}


def make(precision: str, **changed: Any) -> Step:
    torch.manual_seed(0)
    detector = Linear()
    config = tiny.config("optim=sgd")["optim"] | changed
    compute = Compute(torch.device("cpu"), precision)
    preprocess = {"mean": [0.0] * 3, "std": [255.0] * 3}
    plan = schedule.plan(config, 10, 1)
    return Step(detector, EMA(detector), optim.build(detector, config), plan, compute, preprocess, config)


def weights(step: Step) -> Tensor:
    return torch.cat([p.detach().flatten() for p in step.detector.parameters()])


def test_fp16_takes_the_step_that_fp32_takes() -> None:
    half, full = make("fp16"), make("fp32")
    half.detector.size = full.detector.size = 1 / 16
    before = weights(half)
    for number in range(3):
        assert half.take(BATCH, number) == full.take(BATCH, number) == {"all": 4.0}
    assert not torch.equal(weights(half), before)
    torch.testing.assert_close(weights(half), weights(full), rtol=1e-3, atol=1e-5)
    assert half.scaler.get_scale() == 65536


def test_a_gradient_beyond_fp16_skips_the_step_and_halves_the_scale() -> None:
    step = make("fp16")
    before = weights(step)
    step.detector.size = 40.0  # 40 x 65536 is more than fp16 holds
    taken = 0
    while torch.equal(weights(step), before):
        assert step.take(BATCH, 0) == {"all": 4.0}
        taken += 1
    assert 2 <= taken <= 12
    assert step.scaler.get_scale() == 65536 / 2 ** (taken - 1)

    again = make("fp16")
    again.take_over(step.state() | {"steps": 0})
    assert again.scaler.get_scale() == step.scaler.get_scale()


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1), ("fp16", 17)])
def test_gradients_that_no_scale_makes_finite_are_a_divergence(precision: str, most: int) -> None:
    step = make(precision)
    before = weights(step)
    step.detector.size = float("inf")
    step.detector.loss = lambda raw, targets, progress: {"all": _infinite_gradient(raw)}
    taken = 1
    while step.take(BATCH, 0) is not None:
        taken += 1
    assert taken == most
    assert torch.equal(weights(step), before)


def _infinite_gradient(raw: Tensor) -> Tensor:
    """A loss of 1 whose gradient is infinite."""
    raw = raw * 1.0
    raw.register_hook(lambda gradient: gradient + float("inf"))
    return raw.mean() * 0 + 1


def test_the_gradient_is_clipped_to_its_norm_and_left_alone_below() -> None:
    for size, clip in ((1.0, 1e6), (1.0, 0.5)):
        step = make("fp32", clip=clip, momentum=0.0, weight_decay=0.0)
        step.detector.size = size
        before = weights(step)
        step.take(BATCH, 5)
        rate = step.optimizers[0].param_groups[0]["lr"]
        moved = (before - weights(step)) / rate
        gradient = torch.cat(((IMAGES / 255.0).mean((2, 3)).sum(0), torch.tensor([4.0])))  # of the sum over images
        expected = gradient * min(1.0, clip / float(gradient.norm()))
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-3)
