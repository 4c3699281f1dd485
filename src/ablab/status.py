"""`ablab status`: where a sweep stands, read from its event log by another terminal. Knows no torch and no MLflow."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from ablab import processes
from ablab.config import compose, parse
from ablab.console import words
from ablab.console.state import State
from ablab.engine.log import file_of, last_sweep
from ablab.errors import UserError, nearest
from ablab.store import Store

SHOWN_FAILURES = 20
DONE = 0


def status(arguments: list[str]) -> int:
    """Where the newest sweep of a store stands, running or dead: `ablab status [study=NAME] [store=URL]`."""
    asked = parse([f"study={word}" if "=" not in word and not word.startswith("-") else word for word in arguments])
    study = next((str(o.value) for o in asked if o.key == "study"), None)
    store = Store(compose([o for o in asked if o.key != "study"]).resolved["store"])
    state = read(log_of(store.local, study))
    show(state)
    return DONE


def log_of(folder: Path, study: str | None) -> Path:
    """The event log of a study, or of whichever was last written; folder: the store's on this machine's disk.

    Raises UserError if there is none.
    """
    logs = sorted(folder.glob("sweeps/*/events.jsonl"), key=lambda log: log.stat().st_mtime)
    if study is None:
        if not logs:
            raise UserError(f"no sweep was ever started on the store {folder}: `ablab sweep study=NAME` starts one")
        return logs[-1]
    log = file_of(folder, study)
    if not log.is_file():
        raise UserError(
            f"study={study}: no sweep of it was ever started on the store {folder}. "
            f"{nearest(study, [log.parent.name for log in logs])}"
        )
    return log


def read(log: Path) -> State:
    """Where the newest sweep in a log stands. Raises UserError if it holds none that can be read."""
    events = last_sweep(log)
    first = next(events, None)
    if first is None:
        raise UserError(f"{log}: no sweep can be read from it")
    state = State(first)
    for event in events:
        state.take(event)
    return state


def show(state: State) -> None:
    """Print it: how the sweep is, the stages at work, why stages failed, and how much of the whole is done."""
    from rich.console import Console

    from ablab.console.live import foot, render

    lives = None if state.end else processes.alive(state.first)
    now = time.time() if lives else max(state.last, state.first["at"])
    width = shutil.get_terminal_size((100, 24)).columns
    console = Console(width=width, file=sys.stdout)
    console.print(_verdict(state, lives), markup=False, highlight=False, soft_wrap=True)
    if state.end:
        console.print(*foot(state, now, width), sep="\n")
    else:
        console.print(render(state, now, width, height=10_000))
    for event in state.failures[-SHOWN_FAILURES:]:
        told = f"failed: {words.title(event, state.first['n_variants'])}: {event['reason']}"
        console.print(told, markup=False, highlight=False, soft_wrap=True, style="red")
    if len(state.failures) > SHOWN_FAILURES:
        print(f"and {len(state.failures) - SHOWN_FAILURES} that failed before")


def _verdict(state: State, lives: bool | None) -> str:
    """How the sweep is, in a sentence or two; lives: None for one that ended or that this machine cannot see."""
    first = state.first
    started = f"started {_day(first['at'])} on {first['host']} (process {first['pid']})"
    go_on = f"The same command goes on from there:\n  {first['command']}"
    if state.end:
        outcome = state.end["outcome"]
        told = f"{first['study']}: {outcome} {_day(state.end['at'])} after {words.clock(state.end['seconds'])}"
        return f"{told}, {started}." + ("" if outcome == "finished" else f" {go_on}")
    sign = f"{_day(state.last)}, {words.clock(max(time.time() - state.last, 0.0))} ago"
    if lives:
        return f"{first['study']}: running, {started}; last sign of life {sign}."
    if lives is None:
        return f"{first['study']}: runs on another machine, if it still does: {started}; last sign of life {sign}."
    return f"{first['study']}: died; {started}, last sign of life {sign}. {go_on}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
