"""Learning rates and EMA decays by hand."""

from __future__ import annotations

import math

import pytest

from ablab.training.schedule import Plan, plan

M40 = {"fit": True, "warmup_epochs": 2, "decay": "cosine", "final_lr": 0.01, "ema": 0.99, "ema_ramp_steps": 50}
M40 |= {"bn_momentum": 0.1}


def test_warm_up_then_cosine() -> None:
    p = Plan(steps=15, warmup=4, final_lr=0.1, ema=0.9, ema_ramp=5)
    assert [p.lr(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert p.lr(4) == 1.0
    assert p.lr(9) == pytest.approx(0.1 + 0.9 * 0.5)  # half way from 4 to 14
    assert p.lr(14) == pytest.approx(0.1)


def test_a_line_falls_from_the_first_step() -> None:
    p = Plan(steps=11, warmup=4, final_lr=0.2, ema=0.9, ema_ramp=5, decay="linear")
    assert [p.warm(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [p.lr(step) for step in (0, 1, 5, 10)] == pytest.approx([0.25, 0.5 * 0.92, 0.6, 0.2])


def test_what_is_not_fitted_stays_as_published() -> None:
    """YOLOv5 on 205 images: four steps an epoch, and a warm-up four times as long as the training."""
    published = {"fit": False, "warmup_epochs": 3, "warmup_steps": 250, "decay": "linear", "final_lr": 0.01}
    published |= {"bn_momentum": 0.03}
    p = plan(published | {"ema": 0.9999, "ema_ramp_steps": 2000}, steps_per_epoch=4, epochs=15)
    assert (p.steps, p.warmup, p.ema_ramp, p.bn_momentum) == (60, 250, 2000, 0.03)
    assert p.ema == pytest.approx(0.9999)
    assert p.lr(59) == pytest.approx(60 / 250 * 0.01)
    long = plan(published | {"ema": 0.9999, "ema_ramp_steps": 2000}, steps_per_epoch=100, epochs=15)
    assert long.warmup == 300


def test_ema_decay_ramps_up() -> None:
    p = Plan(steps=1000, warmup=0, final_lr=0.1, ema=0.99, ema_ramp=50)
    assert p.ema_decay(0) == pytest.approx(0.99 * (1 - math.exp(-1 / 50)))
    assert p.ema_decay(49) == pytest.approx(0.99 * (1 - math.exp(-1)))
    assert p.ema_decay(999) == pytest.approx(0.99, abs=1e-6)


def test_long_phase_has_the_recipe_as_written() -> None:
    p = plan(M40, steps_per_epoch=26, epochs=40)
    assert (p.steps, p.warmup, p.ema_ramp, p.bn_momentum) == (1040, 52, 50, 0.1)
    assert p.ema == pytest.approx(0.99)


def test_short_phase_scales_everything_down() -> None:
    p = plan(M40, steps_per_epoch=20, epochs=3)
    assert (p.steps, p.warmup, p.ema_ramp) == (60, 6, 3)
    assert p.ema == pytest.approx(1 - 1 / 6)  # remembers 6 steps
    assert p.bn_momentum == 0.25  # 3 steps would be too few
    assert plan(M40, steps_per_epoch=20, epochs=6).bn_momentum == pytest.approx(1 / 6)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (1, 0), (2, 1)])
def test_a_step_or_none(steps: int, epochs: int) -> None:
    p = plan(M40, steps, epochs)
    assert 0 < p.lr(0) <= 1
    assert 0 <= p.ema_decay(0) < 1


def test_an_open_end_has_the_recipe_as_written_and_no_decay() -> None:
    p = plan(M40, steps_per_epoch=2, epochs=math.inf)
    assert (p.warmup, p.ema_ramp) == (4, 50)
    assert p.ema == pytest.approx(0.99)
    assert [p.lr(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert p.lr(4) == p.lr(10**6) == pytest.approx(1.0, abs=1e-15)


def test_a_decay_is_a_line_from_the_peak_without_warm_up_or_ramp() -> None:
    p = plan(M40, steps_per_epoch=5, epochs=2, continues=True)
    assert (p.steps, p.warmup) == (10, 0)
    assert [p.lr(step) for step in range(10)] == pytest.approx([1 - 0.99 * step / 9 for step in range(10)])
    assert p.ema_decay(0) == p.ema_decay(9) == p.ema == 0.0  # remembers a tenth of its steps, which is one
    assert plan(M40, steps_per_epoch=5, epochs=20, continues=True).ema_decay(0) == pytest.approx(0.9)
