"""Variants of different input sizes: recorded, measured and compared each at its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import study_record as made

from ablab import tracking
from ablab.report.frame import frame
from ablab.report.render import render
from ablab.report.rows import Row, rows
from ablab.store import Store
from ablab.study.plan import Plan, Replicate
from ablab.study.record import record
from ablab.study.study import Study


def sized(name: str, *sizes: list[int]) -> dict[str, Any]:
    """The ladder with rungs that were profiled and evaluated at `sizes` only."""
    study = made.ladder() | {"name": name, "resolutions": sorted({size for own in sizes for size in own})}
    for variant, own in zip(study["variants"], sizes, strict=True):
        variant["resolutions"] = own
        for replicate in variant["replicates"]:
            kept = [s for s in replicate["stages"] if s["kind"] == "train" or s["numbers"]["imgsz"] in own]
            replicate["stages"] = kept
    return study


def table(study: dict[str, Any], uri: str) -> list[Row]:
    tracking.record(study, uri)
    facts, children = tracking.read(uri, study["name"])
    return rows(facts, frame(facts, children))


def test_every_variant_is_recorded_with_its_own_sizes(tmp_path: Path) -> None:
    study = Study("mine", "", (), {"size": {64: (), 96: ()}}, "grid", (0,))
    plan = Plan(
        study,
        tuple(
            Replicate(variant, 0, {"model": {"name": "m"}, "eval": {"resolutions": sizes}}, ())
            for variant, sizes in zip(study.expand(), ([96, 64], [128, 96]), strict=True)
        ),
        {},
        (),
    )
    found = record(plan, Store(tmp_path), {})
    assert [variant["resolutions"] for variant in found["variants"]] == [[96, 64], [128, 96]]
    assert found["resolutions"] == [96, 64, 128]


def test_variants_of_one_size_each_are_compared_as_they_are(recorded: str, tmp_path: Path) -> None:
    found = table(sized("one_each", [320], [416], [416]), recorded)
    assert [(row.id, row.imgsz, row.status) for row in found] == [
        ("00", 320, "complete"),
        ("01", 416, "complete"),
        ("02", 416, "complete"),
    ]
    # 416 px scores two points more, and the three seeds lose 2.0, 2.1 and 1.9 points
    assert abs(found[1].to_baseline["map50"].mean) < 1e-9
    assert abs(found[2].to_previous["map50"].mean - (0.01 - 0.008 - 0.006) / 3) < 1e-9
    text = render(recorded, "one_each", tmp_path).read_text()
    assert "no AP" not in text
    assert "Input sizes differ between variants" in text


def test_a_size_that_the_baseline_lacks_has_no_difference(recorded: str) -> None:
    found = table(sized("some_two", [320], [320, 416], [416]), recorded)
    compared = {(row.id, row.imgsz): (bool(row.to_baseline), bool(row.to_previous)) for row in found}
    assert compared == {
        ("00", 320): (False, False),
        ("01", 320): (True, True),
        ("01", 416): (False, False),  # the baseline has one size, this variant two
        ("02", 416): (True, True),  # one each; and the rung before has 416 px too
    }
    assert all(row.score("map50") for row in found)
