"""What happens in a sweep as plain dictionaries: what the console shows and the event log keeps (docs/events.md)."""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from typing import Any

from ablab import __version__, processes
from ablab.study.plan import Plan, Stage

SHOWN_VARIANTS = 3
# Facts of a stage's progress that are counted and drawn: a program's own ones of these names must be numbers.
NUMBERS = ("epoch", "epochs", "step", "steps", "loss", "map50", "images_per_second")


class Events:
    """Turns what an executor tells its listeners into events that JSON can hold.

    seconds: fingerprint -> forecast of each stage that is to run; None where nobody made a forecast.
    slots: how many stages run at once.
    """

    def __init__(self, plan: Plan, seconds: dict[str, float] | None, slots: int) -> None:
        self._plan = plan
        self._seconds = seconds
        self._slots = slots
        self._after = _after(plan, seconds or {})
        self._variants: dict[str, dict[str, None]] = {}  # fingerprint -> names, in the plan's order
        self._seeds: dict[str, set[int]] = {}
        for replicate in plan.replicates:
            for fingerprint in replicate.stages:
                self._variants.setdefault(fingerprint, {})[replicate.variant.name] = None
                self._seeds.setdefault(fingerprint, set()).add(replicate.seed)

    def sweep(self, at: float) -> dict[str, Any]:
        """The first event of a sweep; at: unix time (s)."""
        known = self._seconds
        return {
            "at": at,
            "event": "sweep",
            "study": self._plan.study.name,
            "command": shlex.join(["ablab", *sys.argv[1:]]),
            **processes.this(),
            "version": __version__,
            "n_variants": len({replicate.variant.name for replicate in self._plan.replicates}),
            "seeds": list(self._plan.study.seeds),
            "stages": len(self._plan.stages),
            "to_run": None if known is None else sum(f in known for f in self._plan.stages),
            "forecast_seconds": None if known is None else sum(known.get(f, 0.0) for f in self._plan.stages),
            "slots": self._slots,
        }

    def stage(self, at: float, happening: str, stage: Stage, facts: dict[str, Any]) -> dict[str, Any]:
        """What happened to a stage; at: unix time (s) on the driver's clock."""
        names = list(self._variants.get(stage.fingerprint, ()))
        seeds = self._seeds.get(stage.fingerprint, set())
        event = {
            "at": at,
            "event": happening,
            "fingerprint": stage.fingerprint,
            "kind": stage.kind,
            "label": stage.label,
            "variants": names[:SHOWN_VARIANTS],
            "n_variants": len(names),
            "seed": next(iter(seeds)) if len(seeds) == 1 else None,
        }
        if self._seconds is not None and happening != "progress":
            event["forecast_seconds"] = self._seconds.get(stage.fingerprint, 0.0)
            event["after_seconds"] = self._after.get(stage.fingerprint, 0.0)
        told = _of_record(facts) if happening == "done" else facts
        told = {k: v for k, v in told.items() if k not in NUMBERS or v is None or isinstance(v, (int, float))}
        return event | {key: _plain(value) for key, value in told.items() if key not in event}


def counts_epochs(event: dict[str, Any]) -> bool:
    """Whether a progress event says which epoch of how many it is at."""
    return event.get("epoch") is not None and bool(event.get("epochs"))


def within_epoch(event: dict[str, Any]) -> bool:
    """Whether it comes from within an epoch, of which nothing is over yet."""
    return event.get("step") is not None and bool(event.get("steps"))


def _after(plan: Plan, seconds: dict[str, float]) -> dict[str, float]:
    """Fingerprint -> seconds of the longest chain of stages that wait for it."""
    longest: dict[str, float] = {}
    for fingerprint, stage in reversed(plan.stages.items()):  # children before their parents
        chain = seconds.get(fingerprint, 0.0) + longest.get(fingerprint, 0.0)
        for parent in stage.inputs.values():
            longest[parent] = max(longest.get(parent, 0.0), chain)
    return longest


def _of_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record's facts without its lists: numbers are the single ones, with those of a curve's last epoch."""
    numbers = record.get("numbers", {})
    last = (numbers.get("curve") or [{}])[-1]
    single = {k: v for k, v in {**last, **numbers}.items() if v is None or isinstance(v, (bool, int, float, str))}
    facts = {"numbers": single} | {key: record[key] for key in ("started", "seconds", "peak_mb") if key in record}
    if dirt := numbers.get("dirt"):
        facts["dirt"] = dict(sorted(Counter(flaw["action"] for flaw in dirt).items()))
    return facts


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; what is not finite is null."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
