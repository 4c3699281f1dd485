"""The event log: whole lines, in time, never a reason to fail; and what can be read from it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import sweep_events as made

from ablab import __version__, processes
from ablab.engine import log as log_module
from ablab.engine.log import EventLog, last_sweep

PLAN = made.plan(["baseline", "head=half", "tail=none", "stem=conv3x3"], (0, 1), phases=2)
TRAIN = next(stage for stage in PLAN.stages.values() if stage.kind == "train")
SMOKE = next(iter(PLAN.stages.values()))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_first_line_says_what_runs_and_the_last_what_came_of_it(tmp_path: Path) -> None:
    file = tmp_path / "sweeps" / "progressive" / "events.jsonl"
    forecast = dict.fromkeys(list(PLAN.stages)[4:], 10.0)
    with EventLog(file, PLAN, forecast, slots=3) as log:
        log("cached", SMOKE, {})
        log("start", TRAIN, {"worker": "w"})
        log("done", TRAIN, made.record(TRAIN, 3.0))
    first, *_, last = lines(file)
    stages = 4 + 2 * (3 + 4 + 4)
    assert {key: first[key] for key in ("event", "study", "stages", "to_run", "forecast_seconds", "slots")} == {
        "event": "sweep",
        "study": "progressive",
        "stages": stages,
        "to_run": stages - 4,
        "forecast_seconds": 10.0 * (stages - 4),
        "slots": 3,
    }
    assert (first["pid"], first["version"], first["n_variants"], first["seeds"]) == (
        os.getpid(),
        __version__,
        4,
        [0, 1],
    )
    assert processes.alive(first)
    assert last["outcome"] == "finished"
    assert {key: last[key] for key in ("event", "ran", "cached", "failed")} == {
        "event": "end",
        "ran": 1,
        "cached": 1,
        "failed": 0,
    }
    assert last["seconds"] == pytest.approx(last["at"] - first["at"], abs=0.01)


def test_a_stages_line_says_whose_it_is_and_keeps_its_single_numbers(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    forecast = made.forecast(PLAN)
    with EventLog(file, PLAN, forecast) as log:
        log("start", TRAIN, {"worker": "w"})
        curve = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "map50": 0.25}]
        log("done", TRAIN, made.record(TRAIN, 3.0, epochs=2, diverged=False, curve=curve, per_class={"a": {}}))
        log("start", SMOKE, {})
    _, start, done, smoke, _ = lines(file)
    assert start["variants"] == ["baseline", "head=half"]  # which share the first phase
    assert (start["n_variants"], start["seed"], start["worker"]) == (2, 0, "w")
    assert start["forecast_seconds"] == 120
    assert start["after_seconds"] == 120 + 6
    assert done["numbers"] == {"epoch": 2, "loss": 1.0, "map50": 0.25, "epochs": 2, "diverged": False}
    assert (done["seconds"], done["peak_mb"]) == (3.0, 812.5)
    assert smoke["seed"] is None  # both seeds share it


def test_every_epoch_is_kept_and_what_comes_within_one_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(second) for second in range(1, 1000))
    monkeypatch.setattr(log_module.time, "time", lambda: next(clock))
    file = tmp_path / "events.jsonl"
    log = EventLog(file, PLAN)
    for number in range(1, 5):
        for step in range(1, 6):
            log("progress", TRAIN, made.step(number, step))
        log("progress", TRAIN, made.epoch(number))
    progress = lines(file)[1:]
    assert [event["epoch"] for event in progress if "step" not in event] == [1, 2, 3, 4]
    within = [event["at"] for event in progress if "step" in event]
    assert len(within) > 1
    assert min(b - a for a, b in itertools.pairwise(within)) >= 10


def test_numbers_that_json_has_not_are_null(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    EventLog(file, PLAN)("progress", TRAIN, {"loss": float("nan"), "box": [float("inf"), Path("a")], "at": 3})
    told = lines(file)[1]
    assert (told["loss"], told["box"]) == (None, [None, "a"])
    assert told["at"] > 3  # the driver's clock


def test_a_log_that_cannot_be_written_is_told_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweeps").write_text("a file where a folder should be")
    with EventLog(tmp_path / "sweeps" / "progressive" / "events.jsonl", PLAN) as log:
        log("start", TRAIN, {})
    assert capsys.readouterr().err.count("has gaps") == 1


def test_a_full_disk_costs_lines_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.jsonl"
    write, full = os.write, [False]

    def limited(handle: int, data: bytes) -> int:
        if full[0]:
            raise OSError(28, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(log_module.os, "write", limited)
    with EventLog(file, PLAN) as log:
        full[0] = True
        log("start", TRAIN, {})
        log("progress", TRAIN, made.epoch(1))
        full[0] = False
        log("progress", TRAIN, made.epoch(2))
    assert [event["event"] for event in lines(file)] == ["sweep", "progress", "end"]
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_torn_line_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file, PLAN)
    write = os.write
    monkeypatch.setattr(log_module.os, "write", lambda handle, data: write(handle, data[:40]))
    log("start", TRAIN, {})
    monkeypatch.setattr(log_module.os, "write", write)
    log("start", SMOKE, {})
    assert [event.get("fingerprint") for event in last_sweep(file)] == [None, SMOKE.fingerprint]
    with file.open("a") as opened:
        opened.write('{"at": 1.0, "pid": ')  # a killed process's
    assert len(list(last_sweep(file))) == 2
    EventLog(file, PLAN)("start", TRAIN, {})
    assert [event.get("fingerprint") for event in last_sweep(file)] == [None, TRAIN.fingerprint]


def test_a_large_log_makes_room_when_the_next_sweep_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    EventLog(file, PLAN).close("finished")
    EventLog(file, PLAN).close("finished")
    assert len(lines(file)) == 4
    monkeypatch.setattr(log_module, "ROTATED_ABOVE", file.stat().st_size - 1)
    EventLog(file, PLAN).close("finished")
    assert (len(lines(file)), len(lines(tmp_path / "events.1.jsonl"))) == (2, 4)


def test_the_newest_sweep_is_found_behind_many_lines(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    EventLog(file, PLAN).close("interrupted")
    with EventLog(file, PLAN) as log:
        log("start", TRAIN, {})
        log("progress", TRAIN, {"message": "resumed after epoch 3", "epoch": 3})
        for number in range(4, 9000):
            log("progress", TRAIN, made.epoch(number, 9000, **({"map50": 0.5} if number == 100 else {})))
        log("progress", TRAIN, made.step(9000, 3, 9000))
    assert file.stat().st_size > 2 * (1 << 20)  # more than one block from its end
    found = list(last_sweep(file))
    assert [event["event"] for event in found[:3]] == ["sweep", "start", "end"]
    assert [event["epoch"] for event in found[3:]] == [3, 4, 100, 8999, 9000]


@pytest.mark.parametrize("block", [16, 40, 97, 333, 1000])
def test_it_is_found_wherever_the_blocks_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(log_module, "BLOCK", block)
    file = tmp_path / "events.jsonl"
    EventLog(file, PLAN).close("interrupted")
    for length in range(0, 60, 7):  # so that what is looked for lies across a cut once
        with EventLog(file, PLAN) as log:
            log("start", TRAIN, {"worker": "w" * length})
        assert [event.get("worker") for event in last_sweep(file)] == [None, "w" * length, None]


def test_another_sweep_in_the_same_log_does_not_mix_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    other = EventLog(file, PLAN)
    monkeypatch.setattr(log_module.os, "getpid", lambda: 1)
    other("start", SMOKE, {})
    monkeypatch.undo()
    mine = EventLog(file, PLAN)
    mine("start", TRAIN, {})
    monkeypatch.setattr(log_module.os, "getpid", lambda: 1)
    other("progress", TRAIN, made.epoch(1))
    other("done", TRAIN, made.record(TRAIN, 1.0))
    assert [event["event"] for event in last_sweep(file)] == ["sweep", "start"]


def test_progress_of_what_ended_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file, PLAN)
    log("start", TRAIN, {})
    log("progress", TRAIN, made.epoch(1))
    log("retry", TRAIN, {"reason": "lost"})
    log("start", TRAIN, {})
    log("progress", TRAIN, made.epoch(2))
    assert [event.get("epoch") for event in last_sweep(file)] == [None, None, None, None, 2]
