"""What the command line prints while stages run, and the tables it ends with."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from ablab.console import words
from ablab.console.lines import Lines, is_turn
from ablab.console.state import State
from ablab.engine.events import Events
from ablab.engine.log import outcome_of
from ablab.errors import UserError
from ablab.study.plan import Plan, Stage

REFRESHES = 2  # a second
SHOWN_FAILURES = 10
STYLES = {"failed": "red", "retry": "yellow"}


class Progress:
    """Shows on stderr where a sweep stands: a live table in a terminal, else plain lines. A context manager.

    seconds: fingerprint -> forecast of each stage that is to run; None if there is no forecast.
    slots: how many stages run at once. every: seconds between two plain lines about trainings.
    """

    def __init__(self, plan: Plan, seconds: dict[str, float] | None = None, slots: int = 1, every: float = 5.0) -> None:
        self._events = Events(plan, seconds, slots)
        self._state = State(self._events.sweep(time.time()))
        self._lines = Lines(self._state, every)
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._live: Any = None
        self._reasons: set[str] = set()
        self._closed = False
        self._gone = False  # nobody sees what is printed any more

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        # A mistake's own message comes last, from the command line.
        self.close("stopped" if isinstance(error, UserError) else outcome_of(error))

    def __call__(self, happening: str, stage: Stage, facts: dict[str, Any]) -> None:
        """Listen to an executor."""
        event = self._events.stage(time.time(), happening, stage, facts)
        with self._lock:
            self._state.take(event)
        if happening == "start" and self._live is None and _in_terminal():
            self._start_live()
        lines = self._lines.of(event)
        if self._live is not None:
            lines = [line for line in lines if self._stays(event)]
        if happening == "failed" and "traceback" in facts and facts["reason"] not in self._reasons:
            self._reasons.add(facts["reason"])  # the same one from fifty variants is told once
            lines.append(facts["traceback"].rstrip())
        for line in lines:
            self._say(line, STYLES.get(happening, ""))

    def close(self, outcome: str) -> None:
        """Leave the terminal clean, with a summary; outcome: how the sweep ended, in words. A second call is idle."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            live, self._live = self._live, None
            with suppress(OSError):  # a terminal that was closed
                live.stop()
        state = self._state
        if not state.running and state.counts.total() == state.counts["cached"]:
            return
        past = words.clock(time.time() - state.first["at"])
        waiting = state.to_go + len(state.running)
        self._say(f"{state.first['study']}: {outcome} after {past}: {words.counts(state.counts, 0, waiting)}")
        if state.first["n_variants"] == 1:  # its line stands above
            return
        for event in state.failures[:SHOWN_FAILURES]:
            reason = event["reason"].splitlines()[0] if event["reason"] else ""
            self._say(f"  failed: {words.title(event, state.first['n_variants'])}: {reason}")
        if len(state.failures) > SHOWN_FAILURES:
            self._say(f"  and {len(state.failures) - SHOWN_FAILURES} more")

    def _start_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        from ablab.console.live import render

        console = Console(stderr=True)

        def draw() -> Any:
            with self._lock:
                return render(self._state, time.time(), console.width, console.height)

        self._live = Live(
            get_renderable=draw,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a file gets what was meant for it
        )
        self._live.start()
        console.show_cursor(True)  # a process that is killed cannot bring it back

    def _stays(self, event: dict[str, Any]) -> bool:
        """Whether a line stands above the live table, which shows all else."""
        happening = event["event"]
        return (
            (happening == "progress" and is_turn(event))
            or happening in ("failed", "retry")
            or (happening == "done" and "dirt" in event)
        )

    def _say(self, text: str, style: str = "") -> None:
        if self._gone:
            return
        try:
            if self._live is None:
                print(text, file=sys.stderr, flush=True)
            else:
                self._live.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        except OSError:  # a terminal that was closed: the sweep goes on
            self._gone = True


def _in_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def table(headers: list[str], rows: list[list[Any]]) -> str:
    """Rows as a Markdown table; numbers to the right."""
    from tabulate import tabulate

    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, stralign="right")


def warn(text: str) -> None:
    print(f"ablab: {text}", file=sys.stderr, flush=True)
