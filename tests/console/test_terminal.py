"""The live table in a real terminal: what stands there while the sweep runs, and what is left of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from terminal import Screen, Terminal

# Two trainings at work, one that failed; then the program waits, or does what `end` says.
SWEEP = """
import sys, time
import sweep_events as made
from ablab.console import Progress, warn

plan = made.plan(["baseline", "head=half", "tail=none"], (0,), phases=1)
trains = [stage for stage in plan.stages.values() if stage.kind == "train"]
with Progress(plan, made.forecast(plan), slots=2) as progress:
    for train in trains:
        progress("start", train, {})
    warn("the store is slow today")
    print("for the table", flush=True)
    progress("failed", trains[2], {"reason": "OutOfMemoryError: [812 MB] asked for"})
    progress("progress", trains[0], {"message": "resumed after epoch 7", "epoch": 7})
    progress("progress", trains[0], made.epoch(12, map50=0.4567))
    END
"""
SEEN = ["baseline", "12/40", "45.7", "head=half"]


def shows_the_table(screen: Screen) -> bool:
    return all(word in screen.text() for word in SEEN)


def start(end: str, folder: Path, **environment: str) -> Terminal:
    return Terminal(SWEEP.replace("END", end), folder, **environment)


def stays(screen: Screen) -> None:
    """What was printed above the table stands there, and nothing of the table."""
    text = screen.text()
    assert "ablab: the store is slow today" in text
    assert "FAILED   tail=none: phase 1/1, 40 epochs at 640 px, seed 0:" in text
    assert "[812 MB]" in text
    assert "resumed after epoch 7" in text
    assert not any(mark in text for mark in ("▸", "━", "img/s", "running"))
    assert screen.cursor


def test_the_table_is_live_and_an_interrupt_leaves_the_terminal_clean(tmp_path: Path) -> None:
    terminal = start("time.sleep(60)", tmp_path)
    screen = terminal.until(shows_the_table)
    rows = [line for line in screen.lines if line.startswith("▸")]
    assert [row.split()[1] for row in rows] == ["baseline", "head=half"]
    above = screen.text()[: screen.text().index("▸")]
    assert "the store is slow today" in above
    assert "FAILED" in above
    assert screen.cursor, "a process that is killed could not bring the cursor back"
    terminal.process.send_signal(signal.SIGINT)
    code, screen = terminal.close()
    assert code == -signal.SIGINT
    stays(screen)
    assert "progressive: interrupted after 0:" in screen.text()
    assert terminal.process.stdout is not None
    assert terminal.process.stdout.read() == b"for the table\n"  # which is no terminal, so it gets its own


def test_an_end_leaves_a_summary(tmp_path: Path) -> None:
    code, screen = start("progress('done', trains[0], made.record(trains[0], 9.0))", tmp_path).close()
    assert code == 0
    stays(screen)
    assert "progressive: finished after 0:" in screen.text()
    assert "1 done · 1 failed" in screen.text()
    assert screen.text().splitlines()[-1].startswith("  failed: tail=none: phase 1/1")


def test_an_exception_leaves_the_terminal_clean(tmp_path: Path) -> None:
    code, screen = start("raise OSError('the disk is full')", tmp_path).close()
    assert code == 1
    stays(screen)
    assert "progressive: stopped: the disk is full after 0:" in screen.text()


@pytest.mark.parametrize(("environment", "live"), [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)])
def test_no_colours_where_they_are_not_wanted(tmp_path: Path, environment: dict[str, str], live: bool) -> None:
    terminal = start("time.sleep(60)", tmp_path, **environment)
    screen = terminal.until(lambda screen: "resumed" in screen.text() and ("▸" in screen.text()) == live)
    colours = {style for style in screen.styles for part in style.split(";") if part.startswith(("3", "4", "9"))}
    assert colours == set()
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.close()


def test_a_terminal_that_is_closed_does_not_end_the_sweep(tmp_path: Path) -> None:
    end = "time.sleep(1)\n    progress('failed', trains[1], {'reason': 'no'})\n    print('went on', flush=True)"
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SWEEP.replace("END", end)
    terminal = Terminal(program, tmp_path)
    terminal.until(shows_the_table)
    terminal.hang_up()
    assert terminal.process.stdout is not None
    assert b"went on" in terminal.process.stdout.read()
    assert terminal.process.wait() == 0
