"""Plain lines: what is said, whose it is, and how often."""

from __future__ import annotations

from typing import Any

import pytest
import sweep_events as made

from ablab.console import Progress
from ablab.study.plan import Plan

PLAN = made.plan(["baseline", "head=half"], (0,), phases=1)
SMOKE, OTHER, TRAIN, EVALUATE, HALF, _ = PLAN.stages.values()


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    def tell(
        *happenings: tuple[str, Any, dict[str, Any]], every: float = 1e9, plan: Plan = PLAN, outcome: str = "finished"
    ) -> list[str]:
        progress = Progress(plan, every=every)
        for happening in happenings:
            progress(*happening)
        progress.close(outcome)
        return [line.partition("] ")[2] or line for line in capsys.readouterr().err.splitlines()]

    return tell


def test_a_start_and_an_end_have_a_line_each_and_a_check_only_the_first(told: Any) -> None:
    lines = told(
        ("start", SMOKE, {}),
        ("done", SMOKE, made.record(SMOKE, 2.0, params=1)),
        ("start", TRAIN, {}),
        ("done", TRAIN, made.record(TRAIN, 133.0, curve=[{"loss": 1.0}, {"loss": 0.5, "map50": 0.4321}])),
        ("start", EVALUATE, {}),
        ("done", EVALUATE, made.record(EVALUATE, 3.0, map50=0.5)),
    )
    assert lines == [
        "smoke    baseline: build, step, decode",
        "train    baseline: phase 1/1, 40 epochs at 640 px, seed 0",
        "done     baseline: phase 1/1, 40 epochs at 640 px, seed 0 in 2:13, mAP50 43.2",
        "evaluate baseline: 640 px, seed 0",
        "done     baseline: 640 px, seed 0 in 0:03, mAP50 50.0",
        "progressive: finished after 0:00: 3 done · 3 to go",
    ]


def test_a_line_says_whose_it_is_where_several_run(told: Any) -> None:
    one = ("progress", TRAIN, made.epoch(4, map50=0.25, map=0.1))
    alone, *_ = told(("start", TRAIN, {}), one, every=0)[1:]
    assert alone.strip() == "epoch 4/40: loss 0.500, mAP50 25.0"
    together = told(("start", TRAIN, {}), ("start", HALF, {}), one, every=0)[2]
    assert together.strip() == "baseline: phase 1/1, 40 epochs at 640 px, seed 0: epoch 4/40: loss 0.500, mAP50 25.0"


def test_trainings_are_told_of_seldom_but_a_resumed_one_always(told: Any) -> None:
    lines = told(
        ("start", TRAIN, {}),
        ("progress", TRAIN, made.epoch(1)),  # the first line is due
        ("progress", TRAIN, made.epoch(2)),
        ("progress", TRAIN, {"message": "resumed after epoch 7", "epoch": 7}),
        ("progress", TRAIN, made.epoch(8)),
        ("progress", TRAIN, {"message": "epoch 9: the loss is not finite, training stops", "epoch": 9}),
        every=60.0,
    )
    assert [line.strip() for line in lines[1:-1]] == [
        "epoch 1/40: loss 2.000",
        "resumed after epoch 7",
        "epoch 9: the loss is not finite, training stops",
    ]


def test_failures_say_why_and_a_traceback_comes_once_a_reason(told: Any) -> None:
    facts = {"reason": "ValueError: no", "traceback": "Traceback\n  deep inside\nValueError: no\n"}
    lines = told(("start", TRAIN, {}), ("failed", TRAIN, facts), ("start", HALF, {}), ("failed", HALF, facts))
    assert lines.count("  deep inside") == 1
    assert "FAILED   baseline: phase 1/1, 40 epochs at 640 px, seed 0: ValueError: no" in lines
    assert "FAILED   head=half: phase 1/1, 40 epochs at 640 px, seed 0: ValueError: no" in lines
    assert lines[-2:] == [
        "  failed: baseline: phase 1/1, 40 epochs at 640 px, seed 0: ValueError: no",
        "  failed: head=half: phase 1/1, 40 epochs at 640 px, seed 0: ValueError: no",
    ]


def test_wrong_boxes_are_counted(told: Any) -> None:
    data = made.stage("data", "check every image")
    dirt = [{"where": "a", "what": "b", "action": action} for action in ("dropped", "clipped", "dropped")]
    lines = told(("start", data, {}), ("done", data, made.record(data, 1.0, dirt=dirt)))
    assert lines[1].strip() == "boxes that were wrong: 1 clipped, 2 dropped; `ablab data` names them"


def test_a_sweep_with_nothing_to_do_says_nothing(told: Any) -> None:
    assert told(("cached", SMOKE, {}), ("cached", TRAIN, {})) == []


def test_one_variant_needs_no_name(told: Any) -> None:
    plan = made.plan(["defaults"], (0,), phases=1)
    train = next(stage for stage in plan.stages.values() if stage.kind == "train")
    assert told(("start", train, {}), plan=plan)[0] == "train    phase 1/1, 40 epochs at 640 px, seed 0"


def test_a_failure_of_the_only_variant_is_told_once(told: Any) -> None:
    plan = made.plan(["defaults"], (0,), phases=1)
    train = next(stage for stage in plan.stages.values() if stage.kind == "train")
    lines = told(("start", train, {}), ("failed", train, {"reason": "ValueError: no"}), plan=plan)
    assert sum("ValueError: no" in line for line in lines) == 1
