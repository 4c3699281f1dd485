"""Progress as plain lines, where no terminal is at the other end."""

from __future__ import annotations

import time
from typing import Any

from ablab.console import words
from ablab.console.state import State
from ablab.engine.events import counts_epochs, within_epoch
from ablab.stages.declare import KINDS

WITHIN_EPOCH = 12  # times `every`: so much rarer are lines from within an epoch


def is_turn(event: dict[str, Any]) -> bool:
    """Whether a training says that it was resumed, or that its loss is no longer finite: said always."""
    return event.get("epoch") is not None and not counts_epochs(event)


class Lines:
    """Turns a sweep's events into the lines that are worth one.

    every: seconds between two lines that say where a training stands.
    """

    def __init__(self, state: State, every: float) -> None:
        self._state = state
        self._every = every
        self._last = 0.0

    def of(self, event: dict[str, Any]) -> list[str]:
        """What to print of an event that the state has taken in."""
        told = self._words(event)
        if not told:
            return []
        past = words.clock(event["at"] - self._state.first["at"])
        stages = str(self._state.first["stages"])
        return [f"{past:>5} [{self._state.finished:>{len(stages)}}/{stages}] {told}"]

    def _words(self, event: dict[str, Any]) -> str:
        happening = event["event"]
        if happening == "progress":
            return self._progress(event)
        title = words.title(event, self._state.first["n_variants"])
        if happening == "start":
            return f"{event['kind']:<8} {title}"
        if happening == "done":
            return self._done(event, title)
        if happening in ("failed", "retry", "stopped"):
            word = {"failed": "FAILED", "retry": "AGAIN", "stopped": "stopped"}[happening]
            reason = event.get("reason")
            return f"{word:<8} {title}" + (f": {reason}" if reason else "")
        return ""

    def _progress(self, event: dict[str, Any]) -> str:
        now = time.monotonic()
        every = 0.0 if is_turn(event) else self._every * (WITHIN_EPOCH if within_epoch(event) else 1)
        told = words.epoch(event) if counts_epochs(event) else str(event.get("message", ""))
        if now - self._last < every:
            return ""
        if not told:
            return ""
        self._last = now
        alone = len(self._state.running) == 1
        return " " * 9 + (told if alone else f"{words.title(event, self._state.first['n_variants'])}: {told}")

    def _done(self, event: dict[str, Any], title: str) -> str:
        if event.get("dirt"):
            told = ", ".join(f"{count} {action}" for action, count in event["dirt"].items())
            return f"         boxes that were wrong: {told}; `ablab data` names them"
        if event["kind"] in KINDS and KINDS[event["kind"]].check:
            return ""
        result = words.result(event)
        return f"done     {title} in {words.clock(event.get('seconds', 0.0))}" + (f", {result}" if result else "")
