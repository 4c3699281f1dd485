"""Results kept across a change of code: the user says that it changes no number, and the record says that they did."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.errors import UserError
from ablab.store import BusyError, LostLeaseError, Store
from ablab.study.compare import differences, is_stage
from ablab.study.places import before, places
from ablab.study.plan import Plan, Stage


@dataclass(frozen=True)
class Kept:
    """A stage that is not in the store, and the older result at its place.

    modules: what changed of its own code since. refused: why the result was not kept, None if it was.
    """

    stage: Stage
    old: str
    modules: tuple[str, ...]
    refused: str | None = None


def accept_code(plan: Plan, store: Store, published: set[str], last: dict[str, Any] | None) -> list[Kept]:
    """Publish, for every stage that differs from the result at its place in code alone, that result as its own.

    Code: its own modules', or that its parents' results were kept in this way. The new record has the old one's
    files, numbers, times and host, and `accepted`: {from, modules, git, when}, with the older one's as `before` where
    that had been kept already. Where configuration, data or libraries differ as well nothing is kept.
    published: fingerprints in the store. last: what `places.document` made of the last sweep.
    """
    older = before(last, published)
    candidates: dict[str, dict[str, None]] = {}
    for place, fingerprint in places(plan).items():
        if fingerprint not in published and older.get(place, fingerprint) in published:
            candidates.setdefault(fingerprint, {})[older[place]] = None
    git = machine.git_state()
    found = []
    for fingerprint, stage in plan.stages.items():  # parents before their children
        tried = [_keep(stage, old, store, git) for old in candidates.get(fingerprint, {})]
        found += sorted(tried, key=lambda kept: kept.refused is not None)[:1]
    return found


def _keep(stage: Stage, old: str, store: Store, git: dict[str, Any]) -> Kept:
    try:
        record = store.read(old)
        found = differences(stage, record)
        others = {"configuration": found.config, "data": found.data, "libraries": found.versions}
        if differing := [what for what, differs in others.items() if differs]:
            return Kept(stage, old, (), f"{' and '.join(differing)}: not the older result's")
        for role in found.parents:
            if not _same_result(stage.inputs.get(role), record["inputs"].get(role), store):
                return Kept(stage, old, (), f"its parent ({role}) is not the older result's")
        modules = tuple(sorted(module for module in found.code if module))
        accepted = {"from": old, "modules": list(modules), "git": git, "when": time.time()}
        if "accepted" in record:
            accepted["before"] = record["accepted"]
        own = ("fingerprint", "label", "config", "inputs", "code", "modules", "data", "versions")
        new = {**record, **{key: getattr(stage, key) for key in own}, "accepted": accepted}
        _publish(store, new, store.checked(old))
    except (UserError, BusyError, LostLeaseError) as error:  # another process is at it, or the older result is damaged
        return Kept(stage, old, (), str(error))
    return Kept(stage, old, modules)


def _same_result(new: str | None, old: str | None, store: Store) -> bool:
    """Whether a parent's result is, through results that were kept, the very one that the older stage read."""
    if new is None or old is None or not is_stage(new) or not store.has(new):
        return new == old
    return old in origins(store.read(new))


def origins(record: Mapping[str, Any]) -> list[str]:
    """Fingerprints under which a result was published before: none, unless it was kept across a code change."""
    accepted = record.get("accepted")
    found = []
    while accepted:
        found.append(accepted["from"])
        accepted = accepted.get("before")
    return found


def _publish(store: Store, record: dict[str, Any], folder: Path) -> None:
    with store.claim(record["fingerprint"]) as hold:
        written = hold.work / "out"
        shutil.rmtree(written, ignore_errors=True)
        written.mkdir()
        for name in record["files"]:
            try:
                os.link(folder / name, written / name)
            except OSError:  # another disk, or one without links
                shutil.copyfile(folder / name, written / name)
        store.publish(hold, record, written)
