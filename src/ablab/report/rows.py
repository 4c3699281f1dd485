"""Replicates made one row: a variant (of a detector, at one input size), and what it differs by from the baseline.

It fails closed. A row has a mean only if every seed that the study asks for is there, complete, and was trained and
evaluated under the same settings as its row-mates; otherwise the row stays, with the reason in place of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ablab.report.frame import measured
from ablab.report.metrics import metrics
from ablab.report.statistics import Estimate, estimate, paired_difference

COSTS = ("flops", "thop_macs", "conv_macs", "params", "params_stored", "size_fp16_mb", "size_fp32_mb")
# In the record of a training, but not settings of it.
OUTCOMES = ("label", "diverged", "stopped_early", "best_epoch", "best_map")


@dataclass(frozen=True)
class Row:
    """A variant, of a detector at one input size, over its seeds. AP in [0, 1]; costs as profiled."""

    index: int
    id: str
    variant: str
    model: str
    levels: dict[str, str]
    imgsz: int | None
    seeds: dict[int, str]  # seed -> status
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    costs: dict[str, float]
    scores: dict[str, dict[int, float]]  # metric -> seed -> value
    fingerprints: dict[str, dict[int, list[str]]]  # kind of stage -> seed -> stages
    training: list[dict[str, Any]]
    evaluation: dict[str, Any]
    to_baseline: dict[str, Estimate] = field(default_factory=dict)
    to_previous: dict[str, Estimate] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if "failed" in self.seeds.values():
            return "failed"
        return "incomplete" if self.problems else "complete"

    def score(self, metric: str) -> Estimate | None:
        """The mean over seeds, None unless the row is complete."""
        scores = self.scores[metric]
        return estimate(list(scores.values())) if self.status == "complete" and scores else None


def is_scored(data: pd.DataFrame) -> bool:
    """Whether rows have scores: False only where complete replicates show that the study asks for costs alone."""
    complete = any(data["status"] == "complete")
    return not complete or any({"evaluate", "command"} & origins.keys() for origins in data["fingerprints"])


def rows(study: Mapping[str, Any], data: pd.DataFrame) -> list[Row]:
    """The rows of a study's table, from its frame, by variant and then input size."""
    width = max(2, len(str(max(len(study["variants"]) - 1, 0))))
    keys = tuple(metric.key for metric in metrics(study, data))
    required = keys if is_scored(data) else ()
    bare = [
        _row(group, width, keys, required)
        for _, group in sorted(data.groupby(["index", "imgsz"], sort=True, dropna=False), key=lambda item: item[0])
    ]
    indices = sorted({row.index for row in bare})
    places = {index: place for place, index in enumerate(indices)}
    baseline = next((row.index for row in bare if row.variant == study["baseline"]), None)
    by_index: dict[int, dict[int | None, Row]] = {}
    for row in bare:
        by_index.setdefault(row.index, {})[row.imgsz] = row
    compared = []
    for row in bare:
        place = places[row.index]
        previous = indices[place - 1] if place and study["design"] == "ladder" else None
        compared.append(
            Row(
                **{**vars(row), "to_baseline": _differences(row, _counterpart(row, by_index, baseline))}
                | {"to_previous": _differences(row, _counterpart(row, by_index, previous))}
            )
        )
    return compared


def _counterpart(row: Row, by_index: Mapping[int, Mapping[int | None, Row]], other: int | None) -> Row | None:
    """Another variant's row to compare with: of the same input size, or the only one where each has only one."""
    if other is None:
        return None
    theirs = by_index[other]
    if len(theirs) == len(by_index[row.index]) == 1:
        return next(iter(theirs.values()))
    return theirs.get(row.imgsz)


def _differences(row: Row, other: Row | None) -> dict[str, Estimate]:
    """Paired differences of scores to another complete row, none to itself."""
    if other is None or other.index == row.index or row.status != "complete" or other.status != "complete":
        return {}
    found = {metric: paired_difference(row.scores[metric], other.scores[metric]) for metric in row.scores}
    return {metric: difference for metric, difference in found.items() if difference}


def _row(group: pd.DataFrame, width: int, keys: tuple[str, ...], required: tuple[str, ...]) -> Row:
    members: list[dict[str, Any]] = [{str(k): v for k, v in m.items()} for m in group.to_dict("records")]
    first = members[0]
    problems: dict[str, list[int]] = {}
    remarks = []
    imgsz = None if pd.isna(first["imgsz"]) else int(first["imgsz"])
    scores: dict[str, dict[int, float]] = {metric: {} for metric in keys}
    fingerprints: dict[str, dict[int, list[str]]] = {}
    for member in members:
        seed = member["seed"]
        for kind, stages in member["fingerprints"].items():
            fingerprints.setdefault(kind, {})[seed] = stages
        for metric in keys:
            if (value := measured(member, metric)) is not None:
                scores[metric][seed] = value
        if member["status"] != "complete":
            reason = " ".join(member["reason"].split())
            problems.setdefault(f"{member['status']}: {reason}" if reason else member["status"], []).append(seed)
        else:
            if member["reason"]:
                remarks.append(f"seed {seed} {member['reason']}")
            if missing := [metric for metric in required if seed not in scores[metric]]:
                what = f"AP at {imgsz} px" if imgsz else ", ".join(missing)
                problems.setdefault(f"incomplete: no {what}", []).append(seed)
    kept = [member["accepted"] for member in members if isinstance(member["accepted"], list)]
    if kept:
        changed = sorted({module for modules in kept for module in modules})
        remarks.append(f"results kept across a code change: {', '.join(changed) or 'of what they were made from'}")
    costs: dict[str, float] = {}
    for cost in COSTS:
        values = sorted({value for member in members if (value := measured(member, cost)) is not None})
        if len(values) == 1:
            costs[cost] = values[0]
        elif values:
            problems.setdefault(f"incomplete: seeds differ in {cost}", []).extend(group["seed"])
    complete = [member for member in members if member["status"] == "complete"]
    for what in ("training", "evaluation"):
        if not all(_same_settings(complete[0][what], member[what]) for member in complete[1:]):
            problems.setdefault(f"incomplete: seeds differ in the settings of {what}", []).extend(group["seed"])
    return Row(
        index=int(first["index"]),
        id=f"{first['index']:0{width}d}",
        variant=first["variant"],
        model=first["model"],
        levels={str(factor): str(level) for factor, level in first["levels"].items()},
        imgsz=imgsz,
        seeds={member["seed"]: member["status"] for member in members},
        problems=tuple(_told(problem, seeds, len(members)) for problem, seeds in problems.items()),
        remarks=tuple(remarks),
        costs=costs,
        scores=scores,
        fingerprints=fingerprints,
        training=min((member["training"] for member in complete), key=_diverged, default=[]),
        evaluation=next((member["evaluation"] for member in complete if member["evaluation"]), {}),
    )


def _same_settings(ours: Any, theirs: Any) -> bool:
    """Whether two trainings (lists of phases) or two evaluations were asked for the same."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return bool(ours == theirs)
    outcomes: tuple[str, ...] = OUTCOMES
    if _diverged(ours + theirs) or any(phase.get("stopped_early") for phase in ours + theirs):
        outcomes += ("epochs", "steps")
    asked = [[{k: v for k, v in phase.items() if k not in outcomes} for phase in run] for run in (ours, theirs)]
    return asked[0] == asked[1]


def _diverged(training: list[dict[str, Any]]) -> bool:
    return any(phase.get("diverged") for phase in training)


def _told(problem: str, seeds: list[int], of: int) -> str:
    if len(seeds) == of:
        return problem
    return f"{problem} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
