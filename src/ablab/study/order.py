"""In which order ready stages start, and how long that takes: list scheduling on equal slots."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from ablab.stages.declare import KINDS
from ablab.study.compare import is_stage
from ablab.study.plan import Plan, Stage

TOLERATED = 1.02  # so much longer a sweep may take for its table to be readable half-way


def order(plan: Plan, seconds: Mapping[str, float], slots: int) -> list[str]:
    """The stages of `seconds` (those to run, each with what it takes) in the order in which ready ones should start.

    Checks come first, kind by kind. Then every variant's first seed before any second, and within a seed what reads a
    finished training (so that a half-done sweep is a readable table), then the longest remaining chain first; unless
    the longest remaining chain regardless of seeds gets it done more than 2 % sooner.
    slots: how many stages run at once.
    """
    remaining = _remaining(plan, seconds)
    turn: dict[str, int] = {}
    seeds = {seed: number for number, seed in enumerate(plan.study.seeds)}
    for replicate in plan.replicates:
        number = seeds.get(replicate.seed, 0)
        for fingerprint in replicate.stages:
            turn[fingerprint] = min(turn.get(fingerprint, number), number)
    checks = [f for f in plan.stages if f in seconds and KINDS[plan.stages[f].kind].check]  # kind by kind in the plan
    others = [f for f in plan.stages if f in seconds and not KINDS[plan.stages[f].kind].check]
    parents = {parent for f in others for parent in plan.stages[f].inputs.values()}
    reads = {f: f not in parents and _reads(plan, plan.stages[f]) for f in others}
    readable = checks + sorted(others, key=lambda f: (turn.get(f, 0), not reads[f], -remaining[f]))
    takes = makespan(plan, readable, seconds, slots)
    if takes <= TOLERATED * bound(plan, seconds, slots):  # no order is that much better
        return readable
    critical = checks + sorted(others, key=lambda f: -remaining[f])
    return critical if takes > TOLERATED * makespan(plan, critical, seconds, slots) else readable


def makespan(plan: Plan, order: Sequence[str], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until all of `order` is done, if each free slot takes the first ready stage. Parents that are not in
    `order` are done. Nothing but checks starts before all checks are through."""
    position = {fingerprint: number for number, fingerprint in enumerate(order)}
    waits: dict[str, int] = {}
    children: dict[str, list[str]] = {}
    checks = 0
    ready: list[int] = []
    held: list[int] = []  # ready, but for the checks
    for number, fingerprint in enumerate(order):
        stage = plan.stages[fingerprint]
        check = KINDS[stage.kind].check
        checks += check
        parents = {parent for parent in stage.inputs.values() if parent in position}
        waits[fingerprint] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(fingerprint)
        if not parents:
            (ready if check else held).append(number)
    if not checks:
        ready, held = held, []
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            number = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[order[number]], number))
        now, number = heapq.heappop(running)
        fingerprint = order[number]
        for child in children.get(fingerprint, ()):
            waits[child] -= 1
            if not waits[child]:
                if checks and not KINDS[plan.stages[child].kind].check:
                    held.append(position[child])
                else:
                    heapq.heappush(ready, position[child])
        if KINDS[plan.stages[fingerprint].kind].check:
            checks -= 1
            if not checks:
                ready, held = sorted(ready + held), []
    return now


def bound(plan: Plan, seconds: Mapping[str, float], slots: int) -> float:
    """What no order can beat: the longest chain, or all the work spread evenly over the slots; seconds."""
    return max(max(_remaining(plan, seconds).values(), default=0.0), sum(seconds.values()) / slots)


def sharing(plan: Plan, seconds: Mapping[str, float]) -> float:
    """The work of all replicates, each on its own, as a multiple of what is left when equal work is done once."""
    alone = sum(seconds[f] for replicate in plan.replicates for f in replicate.stages)
    once = sum(seconds[f] for f in plan.stages)
    return alone / once if once else 1.0


def _remaining(plan: Plan, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from a stage's start to the end of the longest chain that hangs on it (its upward rank)."""
    after: dict[str, float] = {}
    found: dict[str, float] = {}
    for fingerprint in reversed(plan.stages):  # children before their parents
        if fingerprint not in seconds:
            continue
        rank = found[fingerprint] = seconds[fingerprint] + after.get(fingerprint, 0.0)
        for parent in plan.stages[fingerprint].inputs.values():
            if after.get(parent, 0.0) < rank:
                after[parent] = rank
    return found


def _reads(plan: Plan, stage: Stage) -> bool:
    """Whether a stage takes what another kind of stage made: an evaluation of a training."""
    parents = [parent for parent in stage.inputs.values() if is_stage(parent)]
    return bool(parents) and all(plan.stages[parent].kind != stage.kind for parent in parents)
