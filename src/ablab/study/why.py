"""Why a stage would run: what tells it from the result that it would replace, in a person's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablab.config import Override, compose, groups
from ablab.config.recipe import is_shared
from ablab.stages.declare import PARTS
from ablab.store import Store
from ablab.study.compare import Differences, differences, is_stage
from ablab.study.measured import Line
from ablab.study.places import before, kind_of, places
from ablab.study.plan import Plan, Replicate, Stage

NEAREST_OF = 50  # so many of the latest results of a kind are looked at for the nearest
MOST_ROWS = 60  # reasons that have a row of their own

# Keys that a stage is handed, and the configuration's that they are made of.
OF_A_STAGE = {"imgsz": "eval.resolutions", "split": "eval.split"}

NEW = "new: nothing like it has run"
NOT_REACHED = "planned before, but no sweep has come to it yet"


@dataclass
class _Group:
    """Stages that run for one reason, and the first of them."""

    stage: Stage
    replicate: Replicate
    found: Differences | None
    kinds: dict[str, None]
    fingerprints: set[str]
    variants: set[str]


def why(
    plan: Plan, store: Store, published: set[str], history: list[Line], last: dict[str, Any] | None
) -> list[list[str]]:
    """Rows (stages, variants, kinds, compared with, why), one for each reason, of all stages that are not in the store.

    A stage is compared with the result at its place in the last sweep of this study (see study/places.py); else with
    the baseline's of its kind and seed; else with the nearest of the latest results of its kind.
    published: fingerprints in the store. history: what was measured here, oldest first. last: what
    `places.document` made of the last sweep, None if there was none.
    """
    judge = _Judge(plan, store, published, before(last, published), history)
    grouped: dict[tuple[str, str], _Group] = {}
    seen: dict[str, tuple[str, str]] = {}
    for replicate, place, fingerprint in _placed(plan):
        if fingerprint in published:
            continue
        if fingerprint not in seen:
            stage = plan.stages[fingerprint]
            against, found, reason = judge(place, stage)
            seen[fingerprint] = (against, reason)
            grouped.setdefault(seen[fingerprint], _Group(stage, replicate, found, {}, set(), set()))
        group = grouped[seen[fingerprint]]
        group.kinds[plan.stages[fingerprint].kind] = None
        group.fingerprints.add(fingerprint)
        group.variants.add(replicate.variant.name)
    rows = []
    for (against, reason), group in list(grouped.items())[:MOST_ROWS]:
        if group.found and group.found.config:
            reason = _worded(group.stage, group.found, published, plan, group.replicate)
        rows.append([str(len(group.fingerprints)), _who(group.variants), ", ".join(group.kinds), against, reason])
    if more := list(grouped.values())[MOST_ROWS:]:
        stages, variants = set[str](), set[str]()
        for group in more:
            stages |= group.fingerprints
            variants |= group.variants
        rows.append([str(len(stages)), _who(variants), "", "", f"and {len(more)} more reasons"])
    return rows


def _who(variants: set[str]) -> str:
    return f"{len(variants)} variants" if len(variants) > 1 else next(iter(variants))


def _placed(plan: Plan) -> list[tuple[Replicate, str, str]]:
    """(replicate, place, fingerprint) of every stage of every replicate, in the plan's order."""
    owner = {(r.variant.name, r.seed): r for r in plan.replicates}
    found = []
    for place, fingerprint in places(plan).items():
        variant, seed, _, _ = place.rsplit(" | ", 3)
        found.append((owner[variant, int(seed.removeprefix("seed "))], place, fingerprint))
    return found


class _Judge:
    """Finds the result to compare a stage with, and the words for what tells the two apart."""

    def __init__(
        self, plan: Plan, store: Store, published: set[str], last: dict[str, str], history: list[Line]
    ) -> None:
        self.plan, self.store, self.published, self.last = plan, store, published, last
        self.baseline = plan.replicates[0].variant.name
        self.now = places(plan)
        self.records: dict[str, dict[str, Any]] = {}
        self.latest: dict[str, dict[str, None]] = {}  # kind -> fingerprints, the latest last
        for kind, fingerprint in (
            *((line.kind, line.fingerprint) for line in history),
            *((kind_of(place), fingerprint) for place, fingerprint in last.items()),
            *((plan.stages[f].kind, f) for f in plan.stages if f in published),
        ):
            if fingerprint in published:
                self.latest.setdefault(kind, {})[fingerprint] = None

    def __call__(self, place: str, stage: Stage) -> tuple[str, Differences | None, str]:
        """(compared with, what differs, in words without origins)."""
        fingerprint = self.last.get(place)
        if fingerprint == stage.fingerprint:
            return "last sweep", None, NOT_REACHED
        against = "last sweep"
        if fingerprint not in self.published:
            variant = place.rsplit(" | ", 3)[0]
            counterpart = f"{self.baseline}{place.removeprefix(variant)}"
            fingerprint = next(
                (f for f in (self.now.get(counterpart), self.last.get(counterpart)) if f in self.published), None
            )
            against = "baseline"
        if fingerprint is None:
            return self._nearest(stage)
        found = differences(stage, self._record(fingerprint))
        return against, found, _worded(stage, found, self.published, self.plan)

    def _nearest(self, stage: Stage) -> tuple[str, Differences | None, str]:
        pool = list(self.latest.get(stage.kind, {}))[-NEAREST_OF:]
        compared = [differences(stage, self._record(fingerprint)) for fingerprint in reversed(pool)]
        if not compared:
            return "", None, NEW
        found = min(compared, key=len)
        return "nearest result", found, _worded(stage, found, self.published, self.plan)

    def _record(self, fingerprint: str) -> dict[str, Any]:
        if fingerprint not in self.records:
            self.records[fingerprint] = self.store.read(fingerprint)
        return self.records[fingerprint]


def _worded(stage: Stage, found: Differences, published: set[str], plan: Plan, owner: Replicate | None = None) -> str:
    """Every reason, with where a configuration's value came from if its replicate is given."""
    told = []
    if found.config:
        told.append(
            "config: "
            + ", ".join(
                f"{key} {old} → {new}{_origin(key, owner) if owner else ''}" for key, (old, new) in found.config.items()
            )
        )
    if found.code:
        told.append("code: " + ", ".join(_module(module, how) for module, how in sorted(found.code.items())))
    if found.data:
        told.append(f"data: {found.data}")
    told += [f"library {name} {old} → {new}" for name, (old, new) in found.versions.items()]
    for role in found.parents:
        parent = stage.inputs.get(role)
        if parent is None or not is_stage(parent):
            told.append(f"input: another file as {role}")
        elif parent not in published:
            told.append(f"after: its parent ({_short(plan.stages[parent])}) runs")
        else:
            told.append(f"after: another parent ({_short(plan.stages[parent])})")
    return "; ".join(told) or "its identity changed, but its record does not tell in what"


def _module(module: str, how: str) -> str:
    return f"{module} {how}" if module else "changed (the older result does not say which modules it is of)"


def _short(stage: Stage) -> str:
    return f"{stage.kind} {stage.label.partition(',')[0]}"


def _origin(key: str, owner: Replicate) -> str:
    """Where a key's value came from: the override that set it, else its file, with the knobs that a part may read."""
    top, _, leaf = key.partition(".")
    if top in ("seed", "sizes"):
        return ""
    if top == "engine":
        return " (from this machine)" if not any(o.key == key for o in owner.variant.overrides) else _set(key, owner)
    key = f"schedule.{leaf}" if top == "phase" else OF_A_STAGE.get(key, key)
    overrides = owner.variant.overrides
    if any(_sets(override, key) for override in overrides):
        return _set(key, owner)
    if top == "phase" and any(override.key.startswith("schedule.") for override in overrides):
        return _set("schedule", owner, below=True)
    known = groups()
    knobs = [f"{o.key}={o.value} from {o.source}" for o in overrides if top in PARTS and is_shared(o.key, known)]
    return f" (from {compose(overrides).origin(key)}{''.join(f', with {knob}' for knob in knobs)})"


def _sets(override: Override, key: str) -> bool:
    return key == override.key or key.startswith(f"{override.key}.")


def _set(key: str, owner: Replicate, below: bool = False) -> str:
    """The source of the last override that sets `key`, or some key below it."""
    setting = [o for o in owner.variant.overrides if _sets(o, key) or (below and o.key.startswith(f"{key}."))]
    return f" (from {setting[-1].source})"
