"""Where a stage stands in its study, in words that outlive a change of configuration.

A fingerprint changes with whatever changes the result; a place does not. So it tells which earlier result a stage
takes the place of: what `plan --why` compares with, and what `plan --accept-code` may keep.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ablab.study.plan import Plan, Stage


def places(plan: Plan) -> dict[str, str]:
    """Place -> fingerprint of every stage of every replicate.

    A place is `variant | seed S | kind | what`. What: `at N px` for a stage of one input size (so that another size
    more does not move the others), else its number among the replicate's stages of its kind (`phase 2` of a
    training): no epochs, no rates, nothing else that a configuration may change.
    """
    found: dict[str, str] = {}
    for replicate in plan.replicates:
        counts: Counter[str] = Counter()
        before = f"{replicate.variant.name} | seed {replicate.seed} | "
        for fingerprint in replicate.stages:
            stage = plan.stages[fingerprint]
            counts[stage.kind] += 1
            found[f"{before}{stage.kind} | {_what(stage, counts[stage.kind])}"] = fingerprint
    return found


def _what(stage: Stage, number: int) -> str:
    if "phase" in stage.config:
        return f"phase {number}"
    size = stage.config.get("imgsz")
    return f"number {number}" if size is None else f"at {size} px"


def kind_of(place: str) -> str:
    return place.rsplit(" | ", 2)[-2]


def document(plan: Plan, published: set[str], last: dict[str, Any] | None) -> dict[str, Any]:
    """What is remembered of a sweep that starts, as `studies/<study>.json`; `last` is what the one before left.

    places: place -> fingerprint. before: place -> the last *published* fingerprint there, where the place's own is
    not published: a sweep that was interrupted after a change must not forget the results from before it.
    """
    now = places(plan)
    kept = before(last, published)
    return {
        "places": now,
        "before": {place: kept[place] for place, mine in now.items() if mine not in published and place in kept},
        "when": time.time(),
    }


def before(last: dict[str, Any] | None, published: set[str]) -> dict[str, str]:
    """Place -> the last fingerprint there of the sweeps so far: published, where ever one was."""
    if last is None:
        return {}
    older = last.get("before", {})
    return {place: own if own in published else older.get(place, own) for place, own in last["places"].items()}
