"""What the command line prints while stages run, and the tables it ends with."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from ablab.study.plan import Plan, Stage


class Progress:
    """Prints one line a stage and, at most every few seconds, where its training stands; to stderr."""

    def __init__(self, plan: Plan, every: float = 5.0) -> None:
        self._plan = plan
        self._names: dict[str, str] = {}
        for replicate in plan.replicates:
            for fingerprint in replicate.stages:
                name = replicate.variant.name
                known = self._names.setdefault(fingerprint, name)
                if known != name and not known.endswith(", ..."):
                    self._names[fingerprint] = f"{known}, ..."
        self._every = every
        self._last = 0.0
        self._at = 0
        self._started = time.monotonic()

    def __call__(self, happening: str, stage: Stage, facts: dict[str, Any]) -> None:
        """Listen to an executor."""
        if happening in ("start", "cached"):
            self._at += 1
        if happening == "start":
            self._say(f"{stage.kind:<8} {self._name(stage)}{stage.label}")
            self._last = time.monotonic()
        elif happening == "progress" and "message" in facts and time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            self._say(f"         {facts['message']}")
        elif happening == "done" and stage.kind == "data" and facts["numbers"]["dirt"]:
            actions = Counter(flaw["action"] for flaw in facts["numbers"]["dirt"])
            told = ", ".join(f"{count} {action}" for action, count in sorted(actions.items()))
            self._say(f"         boxes that were wrong: {told}; `ablab data` names them")
        elif happening == "failed":
            self._say(f"FAILED   {self._name(stage)}{stage.label}: {facts['reason']}")
            if "traceback" in facts:
                print(facts["traceback"], file=sys.stderr)

    def _name(self, stage: Stage) -> str:
        """Whose stage it is, where there is more than one variant."""
        return f"{self._names[stage.fingerprint]}: " if len(self._plan.replicates) > 1 else ""

    def _say(self, text: str) -> None:
        seconds = int(time.monotonic() - self._started)
        clock = f"{seconds // 60:02d}:{seconds % 60:02d}"
        print(f"{clock} [{self._at}/{len(self._plan.stages)}] {text}", file=sys.stderr, flush=True)


def table(headers: list[str], rows: list[list[Any]]) -> str:
    """Rows as a Markdown table; numbers to the right."""
    from tabulate import tabulate

    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, stralign="right")


def warn(text: str) -> None:
    print(f"ablab: {text}", file=sys.stderr, flush=True)
