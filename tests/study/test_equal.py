"""Arms that change nothing are refused, coincidences of a design are left out, and what is meant is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import studies

from ablab.errors import UserError
from ablab.study.equal import equal_graphs
from ablab.study.plan import Plan

SAME = studies.SMALL.replace("half: {head_prune.ratio: 0.5}", "same: {head_prune.ratio: 0.0}")
# Widths are multiples of 8: at a tenth of the width a stem of 64 and one of 72 channels both have 8.
IRRELEVANT = """
question: q
base: {model: yolov5n, schedule.imgsz: 64}
factors:
  width: {quarter: {model.width: 0.25}, tenth: {model.width: 0.1}}
  stem: {64: {model.stem: 64}, 72: {model.stem: 72}}
design: grid
"""


def refused(text: str) -> str:
    studies.write(text)
    with pytest.raises(UserError) as error:
        studies.plan()
    return str(error.value)


@pytest.mark.parametrize("design", ["one_at_a_time", "grid", "leave_one_out", "ladder"])
def test_a_level_equal_to_the_baseline_is_refused(folder: Path, design: str) -> None:
    message = refused(SAME.replace("one_at_a_time", design))
    for word in (
        "sweeps/mine.yaml",
        "factors.head.",
        "changes nothing",
        "does exactly the work of",
        "identical: allowed",
    ):
        assert word in message


def test_the_message_names_the_arm_and_the_one_that_it_equals(folder: Path) -> None:
    message = refused(SAME)
    assert "factors.head.same changes nothing: the variant 'head=same' does exactly the work of 'baseline'" in message


def test_two_levels_of_one_factor(folder: Path) -> None:
    message = refused(studies.SMALL.replace("half: {h", "some: {head_prune.ratio: 0.5}, half: {h"))
    assert "the variant 'head=half' does exactly the work of 'head=some'" in message


def test_a_rung_that_adds_nothing(folder: Path) -> None:
    text = studies.SMALL.replace("one_at_a_time", "ladder")
    text = text.replace("half: {head_prune.ratio: 0.5}", "half: {head_prune.ratio: 0.5}, again: {}")
    studies.write(text)  # a rung that takes the one before it back: another network than the rung before
    assert [(out.name, kept.name) for out, kept in studies.plan().duplicates] == [("+ head=again", "+ stem=conv")]
    message = refused(text.replace("again: {}", "again: {head_prune.ratio: 0.5}"))
    assert "the variant '+ head=again' does exactly the work of '+ head=half'" in message


def test_an_irrelevant_factor_of_a_grid_is_left_out(folder: Path) -> None:
    studies.write(IRRELEVANT)
    plan = studies.plan()
    assert [r.variant.name for r in plan.replicates] == ["baseline", "stem=72", "width=tenth"]
    assert [(out.name, kept.name) for out, kept in plan.duplicates] == [("width=tenth stem=72", "width=tenth")]


def test_what_is_meant_is_kept_and_shares_its_stages(folder: Path) -> None:
    studies.write(SAME + "identical: allowed\n")
    plan = studies.plan()
    assert not plan.duplicates
    stages = {(r.variant.name, r.seed): r.stages for r in plan.replicates}
    assert len(stages) == 6
    assert stages["head=same", 1] == stages["baseline", 1] != stages["baseline", 0]


@pytest.mark.parametrize("value", ["yes", "true", "7", "forbidden"])
def test_another_value_of_identical(folder: Path, value: str) -> None:
    assert "identical" in refused(SAME + f"identical: {value}\n")


def test_one_point_listed_twice_stays_one(folder: Path) -> None:
    studies.write(studies.SMALL.replace("one_at_a_time", "list") + "variants: [{}, {head: half}, {head: half}]\n")
    plan = studies.plan()
    assert [r.variant.name for r in plan.replicates if r.seed == 0] == ["baseline", "head=half"]


def graphs(plan: Plan, *same: str) -> dict[str, dict[str, str]]:
    """What smoke stages would tell: each its own graph, but those of the variants in `same`."""
    numbers = {}
    for replicate in plan.replicates:
        for fingerprint in replicate.stages:
            if plan.stages[fingerprint].kind == "smoke":
                numbers[fingerprint] = {"graph": "one" if replicate.variant.name in same else replicate.variant.name}
    return numbers


def test_an_equal_graph_is_told(folder: Path) -> None:
    plan = studies.plan()
    assert equal_graphs(plan, graphs(plan)) == []
    (message,) = equal_graphs(plan, graphs(plan, "baseline", "head=half"))
    assert "factors.head.half changes nothing: the variant 'head=half' has other keys than 'baseline'" in message
    assert equal_graphs(plan, {}) == []  # no smoke stage ran


def test_an_equal_graph_with_another_training_is_no_equal_arm(folder: Path) -> None:
    studies.write(studies.SMALL.replace("half: {h", "half: {optim.clip: 3.0, h"))
    plan = studies.plan()
    assert equal_graphs(plan, graphs(plan, "baseline", "head=half")) == []


def test_an_equal_graph_that_is_meant(folder: Path) -> None:
    studies.write(studies.SMALL + "identical: allowed\n")
    plan = studies.plan()
    assert equal_graphs(plan, graphs(plan, "baseline", "head=half")) == []
