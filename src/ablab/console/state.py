"""Where a sweep stands, folded from its events: what the terminal shows live and `ablab status` from the log."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ablab.engine.events import counts_epochs, within_epoch

LAST_ENDED = 5
TRUSTED = 0.05  # share of the forecast whose weight the forecast itself has against what was measured


@dataclass
class Running:
    """A stage at work; times are unix times (s)."""

    event: dict[str, Any]  # its start
    started: float
    done: float = 0.0  # epochs, with the share of the running one
    epoch: int = 0  # the running one, or the last that ended
    epochs: int | None = None
    loss: float | None = None
    map50: float | None = None
    images_per_second: float | None = None
    note: str = ""
    last: float = 0.0
    since: tuple[float, float] = (0.0, 0.0)  # (time, epochs done) from which its speed is counted

    def take(self, event: dict[str, Any]) -> None:
        """What the stage said of its progress."""
        self.last = event["at"]
        if not counts_epochs(event):
            self.note = str(event.get("message", self.note))
            if event.get("epoch") is not None:  # resumed after that epoch
                self.done = self.epoch = event["epoch"]
                self.since = (event["at"], self.done)
            return
        self.note = ""
        self.epochs, self.epoch = event["epochs"], event["epoch"]
        self.done = self.epoch - 1 + event["step"] / event["steps"] if within_epoch(event) else self.epoch
        self.loss = event.get("loss", self.loss)
        self.images_per_second = event.get("images_per_second", self.images_per_second)
        if event.get("map50") is not None:
            self.map50 = event["map50"]

    def share(self, now: float, pace: float) -> float:
        """Share of it that is done, in [0, 1]; from its forecast where it says nothing of epochs."""
        if self.epochs:
            return min(self.done / self.epochs, 1.0)
        forecast = self.event.get("forecast_seconds")
        return min((now - self.started) / (forecast * pace), 0.95) if forecast else 0.0

    def left(self, now: float, pace: float) -> float | None:
        """Seconds to go, by the speed of its own epochs, else by its forecast; None if unknown."""
        at, done = self.since
        if self.epochs and self.done > done:
            return max((self.last - at) / (self.done - done) * (self.epochs - self.done) - (now - self.last), 0.0)
        forecast = self.event.get("forecast_seconds")
        return max((1.0 - self.share(now, pace)) * forecast * pace, 0.0) if forecast else None


@dataclass
class State:
    """first: the sweep's own event. ended: the last few that were done or failed, newest last."""

    first: dict[str, Any]
    running: dict[str, Running] = field(default_factory=dict)
    ended: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LAST_ENDED))
    failures: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # done, cached, failed, skipped, stopped, retry
    last: float = 0.0  # unix time (s) of the last event
    end: dict[str, Any] | None = None
    forecast: float = 0.0  # seconds of what ended, as forecast
    measured: float = 0.0  # seconds of what was done, of those that had a forecast
    measured_forecast: float = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """The next event of the sweep."""
        self.last = event["at"]
        happening, fingerprint = event["event"], event.get("fingerprint", "")
        if happening == "end":
            self.end = event
            self.running.clear()  # what was at work goes on when the command is given again
            return
        work = self.running.get(fingerprint)
        if happening == "progress":
            if work:
                work.take(event)
            return
        if happening == "start":
            at = event["at"]
            self.running[fingerprint] = Running(event, at, last=at, since=(at, 0.0))
            return
        self.counts[happening] += 1
        self.running.pop(fingerprint, None)
        if happening in ("done", "cached", "failed", "skipped"):
            self.forecast += event.get("forecast_seconds") or 0.0
        if happening == "done" and event.get("forecast_seconds") and event.get("seconds"):
            self.measured += event["seconds"]
            self.measured_forecast += event["forecast_seconds"]
        if happening == "failed":
            self.failures.append(event)
        if happening in ("done", "failed"):
            self.ended.append(event)

    @property
    def finished(self) -> int:
        """Stages that nothing more is to be done for."""
        return sum(self.counts[happening] for happening in ("done", "cached", "failed", "skipped"))

    @property
    def to_go(self) -> int:
        """Stages that have not started."""
        return max(self.first["stages"] - self.finished - len(self.running), 0)

    def pace(self) -> float:
        """Measured seconds over forecast ones; 1 until there is something measured to speak of."""
        trusted = TRUSTED * (self.first.get("forecast_seconds") or 0.0)
        weight = self.measured_forecast + trusted
        return (self.measured + trusted) / weight if weight else 1.0

    def share(self, now: float) -> float:
        """Share of the sweep that is done, in [0, 1]: of its forecast seconds, or of its stages without a forecast."""
        total = self.first.get("forecast_seconds")
        if total:
            pace = self.pace()
            going = sum((w.event.get("forecast_seconds") or 0.0) * w.share(now, pace) for w in self.running.values())
            return min((self.forecast + going) / total, 1.0)
        return self.finished / max(self.first["stages"], 1)

    def left(self, now: float) -> float | None:
        """Seconds to go: what is left over all slots, and no less than the longest chain; None without a forecast."""
        total = self.first.get("forecast_seconds")
        if not total:
            return None
        pace = self.pace()
        spread = (1.0 - self.share(now)) * total * pace / max(self.first["slots"], 1)
        chains = [
            (work.left(now, pace) or 0.0) + (work.event.get("after_seconds") or 0.0) * pace
            for work in self.running.values()
        ]
        return max([spread, *chains])
