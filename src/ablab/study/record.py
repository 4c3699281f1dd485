"""What a sweep hands to the tracker: the plan joined with what the store holds, as plain dictionaries."""

from __future__ import annotations

from typing import Any

from ablab import machine
from ablab.store import DamagedError, Store
from ablab.study.plan import Plan


def record(plan: Plan, store: Store, failures: dict[str, str]) -> dict[str, Any]:
    """The study record: a pure function of plan, store and failures, but for the state of git.

    Variants of a study over a command have no model and no input sizes; the study says what it measures instead.
    """
    study = plan.study
    published = store.published()
    records: dict[str, dict[str, Any]] = {}  # one dictionary a stage, however many replicates share it
    for fingerprint in plan.stages.keys() & published:
        try:
            records[fingerprint] = store.read(fingerprint)
        except DamagedError:  # the next sweep runs it again
            store.quarantine(fingerprint)
    variants: dict[int, dict[str, Any]] = {}
    for planned in plan.replicates:
        variant = planned.variant
        entry = variants.setdefault(
            variant.index,
            {
                "index": variant.index,
                "name": variant.name,
                "levels": variant.levels,
                **({"model": "", "resolutions": []} if study.command else _detector(planned.config)),
                "config": planned.config,
                "replicates": [],
            },
        )
        stages = [records[fingerprint] for fingerprint in planned.stages if fingerprint in records]
        reasons = [failures[fingerprint] for fingerprint in planned.stages if fingerprint in failures]
        entry["replicates"].append(replicate(planned.seed, list(planned.stages), stages, reasons))
    ordered = [variants[index] for index in sorted(variants)]
    first = plan.replicates[0].config
    return {
        "name": study.name,
        "question": study.question,
        "design": study.design,
        "factors": {factor: list(levels) for factor, levels in study.factors.items()},
        "baseline": plan.replicates[0].variant.name,
        "seeds": list(study.seeds),
        "resolutions": list(dict.fromkeys(size for entry in ordered for size in entry["resolutions"])),
        **({"measure": study.measure, "command": first["command"]} if study.command else {}),
        "git": machine.git_state(),
        "variants": ordered,
    }


def _detector(config: dict[str, Any]) -> dict[str, Any]:
    return {"model": config["model"]["name"], "resolutions": list(dict.fromkeys(config["eval"]["resolutions"]))}


def replicate(seed: int, planned: list[str], stages: list[dict[str, Any]], reasons: list[str]) -> dict[str, Any]:
    """A seed's part of the study record. planned: fingerprints. stages: records, as far as there are any."""
    diverged = [s["label"] for s in stages if s["numbers"].get("diverged")]
    if reasons:
        status, reason = "failed", reasons[0]
    elif len(stages) < len(planned):
        status, reason = "incomplete", None
    else:
        status, reason = "complete", f"diverged in {diverged[0]}" if diverged else None
    return {"seed": seed, "status": status, "reason": reason, "stages": stages, "planned": planned}
