"""Arms that change nothing: a level whose variant does exactly what another one does.

An arm is refused where its own factor is all that tells it from an equal one: against the baseline (or, on a ladder,
the rung before), or against another level of its factor there. A cell of a grid that merely coincides with another
(a factor without a say at some level of another) is the design's own doing: it is left out, and that is told.
A study that means it (A/A) says `identical: allowed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ablab.errors import UserError
from ablab.stages.declare import KINDS, PARTS
from ablab.study.fingerprint import digest
from ablab.study.study import Study, Variant

if TYPE_CHECKING:
    from ablab.study.plan import Plan, Replicate

MEANT = "Give the level something to change, take it out, or say `identical: allowed` if it is meant (A/A)"


def refuse_equal_arms(study: Study, equal: Iterable[tuple[Variant, Variant]]) -> tuple[tuple[Variant, Variant], ...]:
    """The pairs (variant, the earlier one of equal stages) whose variant is left out of the plan.

    Raises UserError naming the study file, the two variants and the level, for an arm that changes nothing.
    """
    pairs = list(equal)
    if study.identical:  # one point written twice stays one: nothing could tell the two apart
        return tuple(pair for pair in pairs if pair[0].levels == pair[1].levels)
    if told := list(_idle_arms(study, _groups(pairs))):
        idle, other, factor = told[0]
        more = f" ({len(told) - 1} more such)" if len(told) > 1 else ""
        raise UserError(
            f"{study.source}: factors.{factor}.{idle.levels[factor]} changes nothing: the variant '{idle.name}' does "
            f"exactly the work of '{other.name}'{more}. {MEANT}"
        )
    return tuple(pairs)


def equal_graphs(plan: Plan, numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A message for each arm that trains the very network of another, told by what their smoke stages found.

    numbers: fingerprint -> numbers of (at least) the smoke stages. Arms count as equal where `graph` is equal, and of
    all that is trained and evaluated nothing but the parts' keys differs. Nothing for a study that trains nothing,
    or one that says `identical: allowed`.
    """
    if plan.study.identical:
        return []
    same: dict[str, list[Variant]] = {}
    for replicate in plan.replicates:
        if replicate.seed == plan.study.seeds[0] and (what := _network_and_work(plan, replicate, numbers)):
            same.setdefault(what, []).append(replicate.variant)
    return [
        f"{plan.study.source}: factors.{factor}.{idle.levels[factor]} changes nothing: the variant '{idle.name}' has "
        f"other keys than '{other.name}', but its network is the same, to the bits of its outputs, losses and "
        f"gradients. {MEANT}"
        for idle, other, factor in _idle_arms(plan.study, same.values())
    ]


def _network_and_work(plan: Plan, replicate: Replicate, numbers: Mapping[str, Mapping[str, Any]]) -> str | None:
    graph, work = None, []
    for fingerprint in replicate.stages:
        stage = plan.stages[fingerprint]
        if stage.kind == "smoke":
            graph = numbers.get(fingerprint, {}).get("graph")
        elif not KINDS[stage.kind].check:
            told = {key: value for key, value in stage.config.items() if key not in (*PARTS, "data")}
            work.append([stage.kind, told, stage.data, stage.versions])
    return digest([graph, work]) if graph and any(kind == "train" for kind, *_ in work) else None


def _groups(pairs: Iterable[tuple[Variant, Variant]]) -> Iterable[list[Variant]]:
    groups: dict[int, list[Variant]] = {}
    for variant, first in pairs:
        groups.setdefault(first.index, [first]).append(variant)
    return groups.values()


def _idle_arms(study: Study, groups: Iterable[list[Variant]]) -> Iterable[tuple[Variant, Variant, str]]:
    """(arm, the one that it equals, the factor that changes nothing) of variants that do the same."""
    groups = [group for group in groups if len(group) > 1]
    baseline = study.expand()[0].levels if groups else {}
    for group in groups:
        told: set[int] = set()
        for other, arm in combinations(sorted(group, key=lambda variant: variant.index), 2):
            off = [factor for factor, level in arm.levels.items() if level != other.levels[factor]]
            if len(off) != 1:
                continue
            elsewhere = [
                factor for factor, level in arm.levels.items() if factor != off[0] and level != baseline[factor]
            ]
            if arm.index == other.index + 1 if study.design == "ladder" else not elsewhere:
                if arm.index not in told:
                    yield arm, other, off[0]
                told.add(arm.index)
