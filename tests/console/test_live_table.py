"""The picture of a sweep, drawn by rich to a record."""

from __future__ import annotations

import io

import pytest
import sweep_events as made
from rich.console import Console

from ablab.console.live import render
from ablab.console.state import State
from ablab.engine.events import Events

T = 1_790_000_000.0
NAMES = ["baseline", "schedule=progressive", "stem=conv3x3_pool", "stem=focus head=half tail=none c3_count=1"]


def standing(slots: int, until: float, names: list[str] = NAMES, seeds: tuple[int, ...] = (0, 1, 2)) -> State:
    """A sweep on `slots` workers, `until` seconds after it began."""
    plan = made.plan(names, seeds)
    events = Events(plan, made.forecast(plan), slots)
    state = State(events.sweep(T))
    for at, happening, stage, facts in made.night(plan, slots):
        if at > until:
            break
        state.take(events.stage(T + at, happening, stage, facts))
    return state


def drawn(state: State, until: float, width: int = 80, height: int = 24, colour: bool = False) -> list[str]:
    file = io.StringIO()
    system = "truecolor" if colour else None
    console = Console(width=width, height=height, file=file, force_terminal=colour, color_system=system)
    console.print(render(state, T + until, width, height))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("slots", "width", "height"), [(2, 80, 24), (8, 100, 30), (64, 80, 24), (64, 160, 50), (8, 80, 8)]
)
def test_every_line_fits_and_all_lines_fit(slots: int, width: int, height: int) -> None:
    names = [f"stem=conv{i} head={j}" for i in range(8) for j in range(4)]
    for until in (1.0, 100.0, 300.0):
        lines = drawn(standing(slots, until, names), until, width, height)
        assert len(lines) < height  # the cursor stands below them
        assert max(map(len, lines)) <= width


def test_a_row_tells_all_of_a_training() -> None:
    plan = made.plan(NAMES[:1], (0, 7))
    events = Events(plan, made.forecast(plan), 1)
    state = State(events.sweep(T))
    train = next(stage for stage in plan.stages.values() if stage.kind == "train")
    for at, happening, facts in [
        (0, "start", {}),
        (30, "progress", made.epoch(10, map50=0.4567, map=0.2)),
        (60, "progress", made.step(20, 26)),
    ]:
        state.take(events.stage(T + at, happening, train, facts))
    row = next(line for line in drawn(state, 60) if line.startswith("▸"))
    # 20 epochs in 60 s, so 20 more take 60 s; loss and images/s as of the last step, mAP50 in percent as of epoch 10
    assert row.split() == [
        "▸",
        "baseline",
        "0",
        "train",
        "1/2",
        "640px",
        "━━━───",
        "20/40",
        "2.000",
        "45.7",
        "123",
        "1:00",
    ]


def test_rows_that_do_not_fit_are_counted_by_kind() -> None:
    names = [f"variant {i}" for i in range(60)]
    state = standing(64, 60.0, names)
    lines = drawn(state, 60.0)
    shown = sum(line.startswith("▸") for line in lines)
    assert len(state.running) > shown > 10
    assert any(line.startswith(f"+ {len(state.running) - shown} more: ") for line in lines)


def test_failures_and_results_are_shown() -> None:
    state = standing(2, 10_000.0)
    lines = drawn(state, 10_000.0)
    # 4 variants: 4 smokes; by seed 3 first phases (two variants share one), 4 second ones, 4 evaluations
    over = state.counts["done"] + state.counts["skipped"] + 1
    assert over == state.first["stages"] == 4 + 3 * (3 + 4 + 4)
    assert "1 failed" in lines[-1]
    assert sum(line.startswith("✓") for line in lines) == 3
    assert "100 %" in lines[-2]


def test_names_keep_their_ends_where_they_are_cut() -> None:
    lines = drawn(standing(8, 100.0), 100.0)
    assert any("stem=focus" in line and "…" in line and "nt=1" in line for line in lines)


def test_a_study_of_one_seed_has_no_column_for_it() -> None:
    assert "seed" in drawn(standing(2, 60.0), 60.0)[1]
    assert "seed" not in drawn(standing(2, 60.0, seeds=(0,)), 60.0)[1]


def test_a_bar_can_be_read_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    state = standing(2, 60.0)
    plain = drawn(state, 60.0)
    assert any("━" in line and "─" in line for line in plain)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in "".join(drawn(state, 60.0, colour=True))
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[3" in "".join(drawn(state, 60.0, colour=True))
