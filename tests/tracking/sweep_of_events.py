"""What an executor tells of a study from its start to its end, and a listener that can be waited for."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from what_mlflow_holds import small

from ablab import tracking

Event = tuple[str, Any, dict[str, Any]]


def shared() -> dict[str, Any]:
    """A study of four replicates, as it ends: the two variants of a seed share the first phase of training."""
    study = small()
    first, second = study["variants"]
    once: dict[str, dict[str, Any]] = {}  # both seeds have their costs from one stage
    for one, two in zip(first["replicates"], second["replicates"], strict=True):
        two["stages"][2] = one["stages"][2]
        for replicate in (one, two):
            for stage in replicate["stages"]:
                if stage["kind"] == "profile":
                    stage["started"] -= 100_000  # costs are measured before anything is trained
                if stage["kind"] == "train":
                    ends = [stage["started"] + 23.456 * row["epoch"] for row in stage["numbers"]["curve"]]
                    stage["timeline"] = [[epoch, at] for epoch, at in enumerate(ends, start=1)]
            replicate["stages"] = [once.setdefault(stage["fingerprint"], stage) for stage in replicate["stages"]]
            replicate["planned"] = [stage["fingerprint"] for stage in replicate["stages"]]
    return study


def before(study: dict[str, Any], done: set[str] = frozenset()) -> dict[str, Any]:
    """The study record as the sweep finds it: with what is in the store already."""
    study = copy.deepcopy(study)
    for variant in study["variants"]:
        for replicate in variant["replicates"]:
            replicate["stages"] = [stage for stage in replicate["stages"] if stage["fingerprint"] in done]
            if len(replicate["stages"]) < len(replicate["planned"]):
                replicate["status"] = "incomplete"
    return study


def happenings(study: dict[str, Any]) -> Iterator[Event]:
    """What an executor tells of the study: every stage once, costs before trainings."""
    stages = {s["fingerprint"]: s for v in study["variants"] for r in v["replicates"] for s in r["stages"]}
    for stage in sorted(stages.values(), key=lambda stage: ("profile", "train", "evaluate").index(stage["kind"])):
        told = SimpleNamespace(**{key: stage[key] for key in ("fingerprint", "kind", "config")})
        yield "start", told, {"worker": "a"}
        for row, (_, at) in zip(stage["numbers"].get("curve", []), stage.get("timeline", []), strict=False):
            yield "progress", told, {"epoch": row["epoch"], "epochs": 4, "step": 3, "steps": 26, "loss": 9.0}
            yield "progress", told, {"message": "epoch ...", "epochs": 4, "at": at, **row}
        yield "done", told, stage


def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about within half a minute")


class Listener(tracking.Live):
    """Live, and how often it has written."""

    flushes = 0

    def _flush(self) -> None:
        super()._flush()
        self.flushes += 1

    def settle(self) -> None:
        """Wait until all that it was told is written."""
        if self._thread is not None:
            enough = self.flushes + 2  # one may be under way
            until(lambda: self.flushes >= enough)
