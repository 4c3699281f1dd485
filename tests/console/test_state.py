"""Where a sweep stands, by hand-counted events."""

from __future__ import annotations

from typing import Any

import pytest
import sweep_events as made

from ablab.console.state import State
from ablab.engine.events import Events

T = 1_790_000_000.0


class Sweep:
    """A sweep of two variants with one seed and one phase each: smoke 2 s, train 120 s, evaluate 6 s."""

    def __init__(self, forecast: bool = True, slots: int = 1) -> None:
        self.plan = made.plan(["baseline", "head=half"], (0,), phases=1)
        self.events = Events(self.plan, made.forecast(self.plan) if forecast else None, slots)
        self.state = State(self.events.sweep(T))
        self.stages = list(self.plan.stages.values())

    def tell(self, at: float, happening: str, kind: str, which: int = 0, **facts: Any) -> None:
        stage = [stage for stage in self.stages if stage.kind == kind][which]
        if happening == "done":
            facts = made.record(stage, **facts)
        self.state.take(self.events.stage(T + at, happening, stage, facts))


def test_the_share_goes_by_forecast_seconds_and_epochs() -> None:
    sweep = Sweep()
    assert sweep.state.first["forecast_seconds"] == 2 * (2 + 120 + 6)
    sweep.tell(0, "start", "smoke")
    sweep.tell(2, "done", "smoke", seconds=2.0)
    sweep.tell(2, "start", "train")
    sweep.tell(5, "progress", "train", **made.epoch(1))
    assert sweep.state.share(T + 5) == pytest.approx((2 + 120 * 1 / 40) / 256)
    sweep.tell(6, "progress", "train", **made.step(2, 13))
    assert sweep.state.share(T + 6) == pytest.approx((2 + 120 * 1.5 / 40) / 256)


def test_what_is_in_the_store_counts_for_nothing_without_a_forecast_of_it() -> None:
    sweep = Sweep()
    forecast = {s.fingerprint: 120.0 for s in sweep.stages if s.kind == "train"}
    sweep.events = Events(sweep.plan, forecast, 1)
    sweep.state = State(sweep.events.sweep(T))
    assert (sweep.state.first["to_run"], sweep.state.first["forecast_seconds"]) == (2, 240)
    sweep.tell(0, "cached", "smoke")
    assert sweep.state.share(T) == 0


def test_without_a_forecast_stages_are_counted_and_no_end_is_promised() -> None:
    sweep = Sweep(forecast=False)
    sweep.tell(0, "cached", "smoke")
    sweep.tell(0, "start", "smoke", 1)
    sweep.tell(2, "done", "smoke", 1, seconds=2.0)
    assert sweep.state.share(T + 2) == pytest.approx(2 / 6)
    assert sweep.state.left(T + 2) is None
    assert sweep.state.to_go == 4


def test_a_trainings_time_left_goes_by_its_own_epochs() -> None:
    sweep = Sweep()
    sweep.tell(0, "start", "train")
    sweep.tell(10, "progress", "train", **made.epoch(1))
    sweep.tell(20, "progress", "train", **made.epoch(2))
    (row,) = sweep.state.running.values()
    assert row.left(T + 20, 1.0) == pytest.approx(38 * 10)
    assert row.left(T + 25, 1.0) == pytest.approx(38 * 10 - 5)


def test_a_resumed_training_counts_its_speed_from_where_it_resumed() -> None:
    sweep = Sweep()
    sweep.tell(0, "start", "train")
    sweep.tell(5, "progress", "train", message="resumed after epoch 30", epoch=30)
    sweep.tell(15, "progress", "train", **made.epoch(31))
    (row,) = sweep.state.running.values()
    assert row.left(T + 15, 1.0) == pytest.approx(9 * 10)
    assert row.share(T + 15, 1.0) == pytest.approx(31 / 40)


def test_the_end_is_no_sooner_than_the_longest_chain() -> None:
    sweep = Sweep(slots=64)
    sweep.tell(0, "start", "train")
    sweep.tell(0, "start", "train", 1)
    assert sweep.state.left(T) == pytest.approx(120 + 6)  # its evaluation waits for it


def test_the_forecast_is_corrected_by_what_was_measured() -> None:
    sweep = Sweep()
    for which in (0, 1):
        sweep.tell(0, "start", "train", which)
        sweep.tell(240, "done", "train", which, seconds=240.0)  # twice the forecast
    trusted = 0.05 * 256
    assert sweep.state.pace() == pytest.approx((480 + trusted) / (240 + trusted))
    assert sweep.state.left(T + 240) == pytest.approx(16 * sweep.state.pace())


def test_failed_and_skipped_stages_are_over_and_stopped_ones_are_not() -> None:
    sweep = Sweep()
    sweep.tell(0, "start", "train")
    sweep.tell(1, "failed", "train", reason="no memory")
    sweep.tell(1, "skipped", "evaluate", reason="its training failed")
    sweep.tell(1, "start", "train", 1)
    sweep.tell(2, "stopped", "train", 1)
    state = sweep.state
    assert (state.finished, state.to_go, len(state.running)) == (2, 4, 0)
    assert [event["reason"] for event in state.failures] == ["no memory"]


def test_a_retried_stage_runs_again_from_nothing() -> None:
    sweep = Sweep()
    sweep.tell(0, "start", "train")
    sweep.tell(5, "progress", "train", **made.epoch(9))
    sweep.tell(6, "retry", "train", reason="its worker was lost")
    assert (len(sweep.state.running), sweep.state.to_go) == (0, 6)
    sweep.tell(7, "start", "train")
    (row,) = sweep.state.running.values()
    assert (row.epochs, sweep.state.counts["retry"]) == (None, 1)


@pytest.mark.parametrize(
    "facts",
    [
        {"epochs": 3},
        {"epoch": "one", "epochs": 3},
        {"epoch": 1, "epochs": 0},
        {"epoch": 1, "epochs": 3, "step": 4},
        {"epoch": 1, "epochs": 3, "step": 4, "steps": 0},
        {"loss": "high", "message": 7},
        {"epoch": 2, "epochs": 3, "loss": float("nan"), "map50": None},
        {"deep": [{"x": float("inf")}, object()]},
    ],
)
def test_whatever_a_stage_says_of_itself_is_borne(facts: dict[str, Any]) -> None:
    from ablab.console import words
    from ablab.console.lines import Lines
    from ablab.console.live import render

    sweep = Sweep()
    sweep.tell(0, "start", "train")
    event = sweep.events.stage(T + 1, "progress", sweep.stages[2], facts)
    sweep.state.take(event)
    Lines(sweep.state, 0.0).of(event)
    render(sweep.state, T + 2, 80, 24)
    assert words.counts(sweep.state.counts, 1, sweep.state.to_go) == "0 done · 1 running · 5 to go"
