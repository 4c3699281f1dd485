"""Learning rates and EMA decays by hand."""

from __future__ import annotations

import math

import pytest

from ablab.training.schedule import Plan, plan

M40 = {"warmup_epochs": 2, "final_lr": 0.01, "ema": 0.99, "ema_ramp_steps": 50}


def test_warm_up_then_cosine() -> None:
    p = Plan(steps=15, warmup=4, final_lr=0.1, ema=0.9, ema_ramp=5)
    assert [p.lr(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert p.lr(4) == 1.0
    assert p.lr(9) == pytest.approx(0.1 + 0.9 * 0.5)  # half way from 4 to 14
    assert p.lr(14) == pytest.approx(0.1)


def test_ema_decay_ramps_up() -> None:
    p = Plan(steps=1000, warmup=0, final_lr=0.1, ema=0.99, ema_ramp=50)
    assert p.ema_decay(0) == pytest.approx(0.99 * (1 - math.exp(-1 / 50)))
    assert p.ema_decay(49) == pytest.approx(0.99 * (1 - math.exp(-1)))
    assert p.ema_decay(999) == pytest.approx(0.99, abs=1e-6)


def test_long_phase_has_the_recipe_as_written() -> None:
    p = plan(M40, steps_per_epoch=26, epochs=40)
    assert (p.steps, p.warmup, p.ema_ramp) == (1040, 52, 50)
    assert p.ema == pytest.approx(0.99)


def test_short_phase_scales_everything_down() -> None:
    p = plan(M40, steps_per_epoch=20, epochs=3)
    assert (p.steps, p.warmup, p.ema_ramp) == (60, 6, 3)
    assert p.ema == pytest.approx(1 - 1 / 6)  # remembers 6 steps


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
