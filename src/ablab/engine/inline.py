"""Executes a plan's stages one after another in this process.

An executor is a function `(plan, store, listen) -> Outcome`. It never loses what is published: a stage that
fails marks its variant and skips its dependants, everything else goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ablab.engine.stage import StoreUnusableError, perform
from ablab.errors import UserError
from ablab.stages.declare import KINDS
from ablab.store import Store
from ablab.study.plan import Plan, Stage

Listen = Callable[
    [str, Stage, dict[str, Any]], None
]  # ("start" | "progress" | "done" | "cached" | "failed", stage, facts)


@dataclass
class Outcome:
    """failures: fingerprint -> reason, the stages that were skipped for want of a parent included."""

    ran: int = 0
    cached: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def execute(plan: Plan, store: Store, listen: Listen) -> Outcome:
    """Run what is not in the store.

    Raises UserError with every mistake that the checks found, before any training; StoreUnusableError at once.
    """
    outcome = Outcome()
    mistakes: dict[str, str] = {}
    for stage in plan.stages.values():
        if mistakes and not KINDS[stage.kind].check:
            break
        if _all_mistaken(plan, stage, mistakes):
            continue
        if store.has(stage.fingerprint):
            store.read(stage.fingerprint)  # a damaged one is told now, not after the work
            outcome.cached += 1
            listen("cached", stage, {})
            continue
        blocking = [f for f in (stage.fingerprint, *stage.inputs.values()) if f in outcome.failures]
        if blocking:
            outcome.failures[stage.fingerprint] = outcome.failures[blocking[0]]
            continue
        listen("start", stage, {})
        try:
            record = perform(stage, store, lambda event, stage=stage: listen("progress", stage, event))  # type: ignore[misc]
        except StoreUnusableError:
            raise
        except UserError as error:
            outcome.failures[stage.fingerprint] = str(error)
            if KINDS[stage.kind].check:
                mistakes[stage.fingerprint] = str(error)  # told together, at the end
            else:
                listen("failed", stage, {"reason": str(error)})
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            outcome.failures |= dict.fromkeys(_spoiled(plan, stage), reason)
            listen("failed", stage, {"reason": reason, "traceback": traceback.format_exc()})
        else:
            outcome.ran += 1
            listen("done", stage, record)
    if mistakes:
        raise UserError(_told(plan, mistakes))
    return outcome


def _spoiled(plan: Plan, failed: Stage) -> set[str]:
    """The failed stage, and if it was a check, all that nobody but its variants would have gone on to do."""
    if not KINDS[failed.kind].check:
        return {failed.fingerprint}
    concerned, others = set[str](), set[str]()
    for replicate in plan.replicates:
        (concerned if failed.fingerprint in replicate.stages else others).update(replicate.stages)
    return {failed.fingerprint, *(f for f in concerned - others if not KINDS[plan.stages[f].kind].check)}


def _all_mistaken(plan: Plan, stage: Stage, mistakes: dict[str, str]) -> bool:
    """Whether each variant that a stage belongs to is known to be a mistake already."""
    if not mistakes:
        return False
    concerned = [replicate for replicate in plan.replicates if stage.fingerprint in replicate.stages]
    return bool(concerned) and all(mistakes.keys() & set(r.stages) for r in concerned)


def _told(plan: Plan, mistakes: dict[str, str]) -> str:
    """One line a mistake, with the variants it concerns where those are not all."""
    every = list(dict.fromkeys(replicate.variant.name for replicate in plan.replicates))
    lines = []
    for reason in dict.fromkeys(mistakes.values()):
        stages = {fingerprint for fingerprint, other in mistakes.items() if other == reason}
        names = list(dict.fromkeys(r.variant.name for r in plan.replicates if not stages.isdisjoint(r.stages)))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(reason if names == every else f"{', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)
