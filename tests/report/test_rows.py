"""Rows from children as MLflow would give them: means, pairs, and no mean where something is amiss."""

from __future__ import annotations

from typing import Any

import pytest
import study_record as made

from ablab.report.frame import frame
from ablab.report.rows import Row, is_scored, rows
from ablab.tracking import runs


def read(study: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What tracking.read would return, without MLflow between."""
    children = []
    for variant in study["variants"]:
        for seeded in variant["replicates"]:
            run = runs.replicate(study, variant, seeded)
            metrics = {name: value for name, value, _, _ in run.metrics}
            children.append(runs.child(run.tags) | {"run_id": run.name, "params": run.params, "metrics": metrics})
    return runs.parent(runs.parent_tags(study)), children


def table(study: dict[str, Any]) -> list[Row]:
    facts, children = read(study)
    return rows(facts, frame(facts, children))


def test_means_and_differences_by_hand() -> None:
    found = table(made.ladder())
    assert [(row.id, row.imgsz) for row in found] == [(f"0{i}", s) for i in range(3) for s in (320, 416)]
    one_c3, half = found[2], found[4]
    mean = one_c3.score("map50")
    assert mean is not None
    assert mean.mean == pytest.approx((0.48 + 0.499 + 0.521) / 3)
    assert one_c3.to_baseline["map50"].mean == pytest.approx(-(0.02 + 0.021 + 0.019) / 3)
    assert one_c3.to_baseline["map50"].includes_zero is False
    assert half.to_baseline["map50"].mean == pytest.approx(-(0.01 + 0.029 + 0.025) / 3)
    assert half.to_previous["map50"].mean == pytest.approx((0.01 - 0.008 - 0.006) / 3)
    assert half.to_previous["map50"].includes_zero is True
    assert found[0].to_baseline == found[0].to_previous == {}
    assert found[1].costs["flops"] == 2 * round(2_144_500_000 * 1.69)


def test_only_a_ladder_compares_with_the_rung_before() -> None:
    assert all(not row.to_previous for row in table(made.ladder() | {"design": "grid"}))


def test_results_kept_across_a_code_change_are_told() -> None:
    study = made.ladder()
    stages = study["variants"][1]["replicates"][2]["stages"]
    evaluation = next(stage for stage in stages if stage["kind"] == "evaluate" and stage["numbers"]["imgsz"] == 320)
    earlier = {"from": "0" * 64, "modules": ["ablab.models.blocks"], "git": {}, "when": 1.0}
    evaluation["accepted"] = {"from": "1" * 64, "modules": ["my_parts"], "git": {}, "when": 2.0, "before": earlier}
    remarks = {(row.id, row.imgsz): row.remarks for row in table(study)}
    assert remarks.pop(("01", 320)) == ("results kept across a code change: ablab.models.blocks, my_parts",)
    assert set(remarks.values()) == {()}


@pytest.mark.parametrize(
    ("status", "reason", "keep", "told"),
    [
        ("failed", "OutOfMemoryError:\n  CUDA", 2, "failed: OutOfMemoryError: CUDA (seed 1)"),
        ("incomplete", None, 3, "incomplete (seed 1)"),
        ("complete", None, 5, "incomplete: no AP at 416 px (seed 1)"),
    ],
)
def test_a_missing_replicate_leaves_no_mean(status: str, reason: str | None, keep: int, told: str) -> None:
    study = made.ladder()
    replicates = study["variants"][1]["replicates"]
    replicates[1] = made.broken(replicates[1], status, reason, keep)
    found = table(study)
    row = found[3]
    assert row.problems == (told,)
    assert row.score("map50") is None
    assert row.to_baseline == {}
    assert row.costs["params"] == 6_865_469  # what is known stays
    assert found[5].to_previous == {}  # the next rung has nothing to compare with
    assert found[5].to_baseline["map50"].n == 3


def test_without_its_baseline_a_row_has_a_mean_and_no_difference() -> None:
    study = made.ladder()
    replicates = study["variants"][0]["replicates"]
    replicates[2] = made.broken(replicates[2], "failed", "x", 2)
    row = table(study)[2]
    assert row.score("map50") is not None
    assert row.to_baseline == {}


def test_a_replicate_that_mlflow_does_not_hold_is_incomplete() -> None:
    facts, children = read(made.ladder())
    found = rows(facts, frame(facts, [c for c in children if c["run_id"] != "01 + c3_count=1 seed 2"]))
    assert found[2].problems == ("incomplete: not run (seed 2)",)
    assert found[2].score("map") is None


def test_runs_of_an_earlier_wider_study_stay_out() -> None:
    facts, children = read(made.ladder())
    narrower = facts | {"seeds": [0, 1], "variants": [v | {"resolutions": [416]} for v in facts["variants"][:2]]}
    data = frame(narrower, children)
    assert len(data) == 4
    assert set(data["imgsz"]) == {416}


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("train", lambda s: s["numbers"].update(batch=16), "incomplete: seeds differ in the settings of training"),
        (
            "evaluate",
            lambda s: s["config"].update(split="test"),
            "incomplete: seeds differ in the settings of evaluation",
        ),
        ("profile", lambda s: s["numbers"].update(flops=1), "incomplete: seeds differ in flops"),
    ],
)
def test_seeds_measured_otherwise_are_not_averaged(kind: str, change: Any, told: str) -> None:
    study = made.ladder()
    stage = next(s for s in study["variants"][1]["replicates"][2]["stages"] if s["kind"] == kind)
    stage["config"] = dict(stage["config"])
    change(stage)
    row = table(study)[2]
    assert row.problems[0].startswith(told)
    assert row.score("map50") is None


def test_a_diverged_training_is_a_result_with_a_remark() -> None:
    study = made.ladder()
    replicate = study["variants"][1]["replicates"][2]
    replicate["reason"] = "diverged in phase 2 416px"
    phase = replicate["stages"][3]
    phase["numbers"] |= {"diverged": True, "epochs": 2, "steps": 40}
    row = table(study)[2]
    assert row.status == "complete"
    assert row.score("map50") is not None
    assert row.remarks == ("seed 2 diverged in phase 2 416px",)


def test_seeds_that_stopped_early_at_epochs_of_their_own_are_averaged() -> None:
    study = made.ladder()
    for replicate, epochs in zip(study["variants"][1]["replicates"], (3, 5, 4), strict=True):
        told = {"stopped_early": True, "epochs": epochs, "steps": 20 * epochs, "best_epoch": epochs, "best_map": 0.1}
        replicate["stages"][3]["numbers"] |= told
    row = table(study)[2]
    assert not row.problems
    assert row.score("map50") is not None


def test_costs_alone() -> None:
    study = made.ladder()
    for variant in study["variants"]:
        variant["replicates"] = [made.broken(r, "complete", None, 2) for r in variant["replicates"]]
    facts, children = read(study)
    data = frame(facts, children)
    assert not is_scored(data)
    assert all(row.status == "complete" for row in rows(facts, data))
    study["variants"][0]["replicates"][0]["status"] = "failed"
    facts, children = read(study)
    assert not is_scored(frame(facts, children))
