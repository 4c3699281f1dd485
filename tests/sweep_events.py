"""A plan and the events of its sweep, made by hand: no torch, no training, no store."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

from ablab.study.plan import Plan, Replicate, Stage
from ablab.study.study import Study, Variant

STEMS = ("focus", "conv3x3", "conv3x3_pool", "conv6x6")
SECONDS = {"smoke": 2.0, "profile": 1.0, "train": 120.0, "evaluate": 6.0}
EPOCHS, STEPS = 40, 26


def stage(kind: str, name: str, label: str = "", **inputs: str) -> Stage:
    fingerprint = name.encode().hex().ljust(64, "0")
    return Stage(kind, label or name, {}, inputs, None, (), "code", {}, fingerprint)


def plan(names: list[str], seeds: tuple[int, ...] = (0, 1, 2), phases: int = 2) -> Plan:
    """Smoke (shared by a variant's seeds), phases of training, an evaluation; the first two variants share phase 1."""
    replicates, found = [], {}
    for seed in seeds:
        for index, name in enumerate(names):
            chain = [stage("smoke", f"smoke {name}", "build, step, decode")]
            previous: dict[str, str] = {}
            for phase in range(1, phases + 1):
                owner = names[0] if index == 1 and phase == 1 and phases > 1 else name
                label = f"phase {phase}/{phases}, {EPOCHS} epochs at {640 * phase} px, seed {seed}"
                chain.append(stage("train", f"train {owner} {seed} {phase}", label, **previous))
                previous = {"previous": chain[-1].fingerprint}
            trained = {"weights": chain[-1].fingerprint}
            chain.append(stage("evaluate", f"evaluate {name} {seed}", f"640 px, seed {seed}", **trained))
            found |= {one.fingerprint: one for one in chain}
            replicates.append(Replicate(Variant(index, name, {}, ()), seed, {}, tuple(s.fingerprint for s in chain)))
    ordered = sorted(found.items(), key=lambda item: item[1].kind != "smoke")
    return Plan(Study("progressive", "q", (), {}, "grid", seeds), tuple(replicates), dict(ordered), ())


def forecast(plan: Plan) -> dict[str, float]:
    return {fingerprint: SECONDS[stage.kind] for fingerprint, stage in plan.stages.items()}


def epoch(number: int, epochs: int = EPOCHS, **more: Any) -> dict[str, Any]:
    """What a training says after an epoch."""
    return {"message": f"epoch {number}", "epoch": number, "epochs": epochs, "lr": 0.01, "loss": 2.0 / number, **more}


def step(number: int, step: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """What a training says within an epoch; number: the running one."""
    return {"epoch": number, "epochs": epochs, "step": step, "steps": STEPS, "loss": 2.0, "images_per_second": 123.4}


def record(stage: Stage, seconds: float, **numbers: Any) -> dict[str, Any]:
    return {
        "fingerprint": stage.fingerprint,
        "kind": stage.kind,
        "started": 1.0,
        "seconds": seconds,
        "peak_mb": 812.5,
        "numbers": numbers,
    }


def night(plan: Plan, slots: int, seed: int = 0) -> Iterator[tuple[float, str, Stage, dict[str, Any]]]:
    """(seconds from the beginning, happening, stage, facts) of a whole sweep on `slots` workers; one training fails."""
    chance = random.Random(seed)
    waiting, ready = list(plan.stages.values()), set[str]()
    queue: list[tuple[float, int, str, Stage, dict[str, Any]]] = []
    count, busy, now, broken = 0, 0, 0.0, set[str]()

    def put(at: float, happening: str, stage: Stage, facts: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(queue, (at, count, happening, stage, facts))

    changed = True  # whether more can start than before
    while waiting or queue:
        for one in list(waiting) if changed else []:
            if broken & set(one.inputs.values()):
                waiting.remove(one)
                broken.add(one.fingerprint)
                yield now, "skipped", one, {"reason": "its training failed"}
            elif busy < slots and set(one.inputs.values()) <= ready:
                waiting.remove(one)
                busy += 1
                yield now, "start", one, {"worker": f"worker {busy}"}
                took = SECONDS[one.kind] * chance.uniform(0.8, 1.6)
                fails = one.kind == "train" and len(broken) == 0 and len(ready) > len(plan.stages) // 3
                if one.kind == "train":
                    broken |= {one.fingerprint} if fails else set()
                    top = chance.uniform(0.4, 0.6)
                    for n in range(1, (EPOCHS // 3 if fails else EPOCHS) + 1):
                        end = now + took * n / EPOCHS
                        facts = {"epoch": n, "epochs": EPOCHS, "lr": 0.01, "loss": 4 / (n + 2) + 0.7}
                        facts |= {"map50": top * n / (n + 5), "map": top * n / (n + 5) / 2} if n % 5 == 0 else {}
                        put(end, "progress", one, {"message": "", **facts})
                        put(end - took / EPOCHS / 2, "progress", one, step(n, STEPS // 2) | {"loss": 4 / (n + 1) + 0.7})
                    numbers = {"epochs": EPOCHS, "curve": [facts], "diverged": False}
                else:
                    numbers = {"map50": chance.uniform(0.4, 0.6)} if one.kind == "evaluate" else {"params": 1}
                if fails:
                    reason = "OutOfMemoryError: 812 MB asked for, 640 MB free"
                    put(now + took / 3, "failed", one, {"reason": reason})
                else:
                    put(now + took, "done", one, record(one, took, **numbers))
        if queue:
            now, _, happening, one, facts = heapq.heappop(queue)
            changed = happening != "progress"
            busy -= changed
            if happening == "done":
                ready.add(one.fingerprint)
            yield now, happening, one, facts
