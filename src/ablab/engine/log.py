"""The event log of a study's sweeps: one JSON line an event (docs/events.md says every field)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ablab.engine.events import Events, within_epoch
from ablab.study.plan import Plan, Stage

ROTATED_ABOVE = 20_000_000  # bytes
BLOCK = 1 << 20  # bytes read at once from the end
WITHIN_EPOCH_EVERY = 10.0  # seconds, a stage
_SWEEP = b'"event": "sweep"'
_PROGRESS = re.compile(rb'\{"at": [\d.]+, "pid": (\d+), "event": "progress", "fingerprint": "([^"]+)"')


def file_of(folder: Path, study: str) -> Path:
    """Where a study's log lies; folder: that of the store on this machine's disk."""
    return folder / "sweeps" / study / "events.jsonl"


class EventLog:
    """Listens to an executor and appends to `file`, each line whole; never the reason that a sweep fails.

    seconds and slots as in `Events`. A context manager: leaving it writes the last line.
    """

    def __init__(self, file: Path, plan: Plan, seconds: dict[str, float] | None = None, slots: int = 1) -> None:
        self._file = file
        self._events = Events(plan, seconds, slots)
        self._handle: int | None = None
        self._told = False  # that the log is not whole
        self._torn = False  # the file ends within a line
        self._counts: Counter[str] = Counter()
        self._within: dict[str, float] = {}  # fingerprint -> when its last event within an epoch was written
        self._started = time.time()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and file.stat().st_size > ROTATED_ABOVE:
                file.replace(file.with_name("events.1.jsonl"))
            self._handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            size = os.fstat(self._handle).st_size
            self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"
        except OSError as error:
            self._lost(error)
        self._write(self._events.sweep(self._started))

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.close(outcome_of(error))

    def __call__(self, happening: str, stage: Stage, facts: dict[str, Any]) -> None:
        """Listen to an executor."""
        now = time.time()
        self._counts[happening] += 1
        if happening == "progress" and within_epoch(facts):
            if now - self._within.get(stage.fingerprint, 0.0) < WITHIN_EPOCH_EVERY:
                return
            self._within[stage.fingerprint] = now
        self._write(self._events.stage(now, happening, stage, facts))

    def close(self, outcome: str) -> None:
        """Write the last line; outcome: how the sweep ended, in words. Nothing happens if it is closed already."""
        if self._handle is None:
            return
        now = time.time()
        counts = {"ran": self._counts["done"], "cached": self._counts["cached"], "failed": self._counts["failed"]}
        self._write({"at": now, "event": "end", "outcome": outcome, **counts, "seconds": now - self._started})
        with suppress(OSError):
            os.close(self._handle)
        self._handle = None

    def _write(self, event: dict[str, Any]) -> None:
        if self._handle is None:
            return
        at = f"{event['at']:.3f}"
        rest = json.dumps({"pid": os.getpid()} | {k: v for k, v in event.items() if k not in ("at", "pid")})
        line = f'{{"at": {at}, {rest[1:]}\n'.encode()
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._handle, line)
        except OSError as error:
            self._lost(error)
            return
        self._torn = written < len(line)

    def _lost(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            told = f"the event log {self._file} has gaps: {error.strerror or error}. The sweep goes on"
            print(told, file=sys.stderr, flush=True)


def outcome_of(error: BaseException | None) -> str:
    """How a sweep ended, in words, by the exception that ended it."""
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"stopped: {str(error) or type(error).__name__}"


def last_sweep(file: Path) -> Iterator[dict[str, Any]]:
    """The events of the newest sweep in a log, for somebody who wants to know where it stands.

    Of the progress of a stage only the latest events come (they are nearly all of a log), after all else; lines that
    are torn and those of another sweep that writes the same log are left out. Nothing if the log holds no sweep.
    """
    with file.open("rb") as opened:
        opened.seek(_last_start(opened))
        first = next((event for line in opened if (event := _parsed(line)) and event["event"] == "sweep"), None)
        if first is None:
            return
        yield first
        pid = str(first["pid"]).encode()
        progress: dict[str, dict[str, bytes]] = {}  # fingerprint -> sort -> its last line
        for line in opened:
            if found := _PROGRESS.match(line):
                if found[1] == pid:
                    _keep_latest(progress.setdefault(found[2].decode(), {}), line)
            elif (event := _parsed(line)) and event["pid"] == first["pid"]:
                progress.pop(event.get("fingerprint", ""), None)
                yield event
    latest = (_parsed(line) for lines in progress.values() for line in dict.fromkeys(lines.values()))
    yield from sorted((event for event in latest if event), key=lambda event: event["at"])


def _keep_latest(lines: dict[str, bytes], line: bytes) -> None:
    if b'"step":' in line:
        lines["within an epoch"] = line
        return
    lines["epoch" if b'"epochs":' in line else "message"] = line
    if b'"epochs":' in line:
        lines.setdefault("first epoch", line)
    if b'"map50":' in line:
        lines["judged epoch"] = line


def _last_start(opened: BinaryIO) -> int:
    """Where the line of the newest `sweep` event begins; 0 if there is none."""
    end = opened.seek(0, os.SEEK_END)
    tail = b""
    while end > 0:
        start = max(end - BLOCK, 0)
        opened.seek(start)
        text = opened.read(end - start) + tail
        at = text.rfind(_SWEEP)
        if at >= 0:
            newline = text.rfind(b"\n", 0, at)
            if newline >= 0 or start == 0:
                return start + newline + 1
            tail = text
        else:
            tail = text[: len(_SWEEP) + 100]
        end = start
    return 0


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"at", "pid", "event"} <= event.keys() else None
