"""Why a stage would run: each cause by itself, against the last sweep, the baseline and the nearest result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import studies

from ablab.config import Override
from ablab.study import places
from ablab.study.measured import measured
from ablab.study.plan import Plan
from ablab.study.why import NEW, NOT_REACHED, why


def swept(store: studies.MemoryStore, *overrides: Override, data: Any = None) -> Plan:
    """A sweep that ran to its end."""
    plan = studies.plan(*overrides, data=data)
    save(store, plan)
    store.finish(stage for f, stage in plan.stages.items() if not store.has(f))
    return plan


def save(store: studies.MemoryStore, plan: Plan) -> None:
    last = store.read_json("studies/mine.json")
    store.write_json("studies/mine.json", places.document(plan, store.published(), last))


def told(store: studies.MemoryStore, plan: Plan) -> list[list[str]]:
    return why(plan, store, store.published(), measured(store), store.read_json("studies/mine.json"))


def of(kind: str, rows: list[list[str]]) -> list[str]:
    """The reasons of stages of a kind."""
    return [row[4] for row in rows if kind in row[2].split(", ")]


def test_places_say_nothing_that_a_configuration_changes(folder: Path) -> None:
    before, after = (places.places(studies.plan(Override("schedule.epochs", e))) for e in ([4, 2, 2], [9, 9, 9]))
    assert list(before) == list(after)
    assert before != after
    assert [place for place in before if place.startswith("stem=conv | seed 1 |")] == [
        "stem=conv | seed 1 | data | number 1",
        "stem=conv | seed 1 | smoke | number 1",
        "stem=conv | seed 1 | profile | at 64 px",
        *(f"stem=conv | seed 1 | train | phase {number}" for number in (1, 2, 3)),
        "stem=conv | seed 1 | evaluate | at 64 px",
    ]


def test_nothing_ran_before(folder: Path, store: studies.MemoryStore) -> None:
    rows = told(store, studies.plan())
    # one data set, a smoke and a profile for each of 3 variants; for each of 2 seeds 3 phases and an evaluation
    assert rows == [["31", "3 variants", "data, smoke, profile, train, evaluate", "", NEW]]


def test_all_is_in_the_store(folder: Path, store: studies.MemoryStore) -> None:
    assert told(store, swept(store)) == []


def test_a_key_from_the_command_line(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    rows = told(store, studies.plan(Override("optim.muon_lr", 0.03)))
    changed = "config: optim.muon_lr 0.02 → 0.03 (from the command line)"
    assert rows == [
        ["9", "3 variants", "smoke, train", "last sweep", changed],
        ["6", "3 variants", "train", "last sweep", f"{changed}; after: its parent (train phase 1/3) runs"],
        ["6", "3 variants", "train", "last sweep", f"{changed}; after: its parent (train phase 2/3) runs"],
        ["6", "3 variants", "evaluate", "last sweep", "after: its parent (train phase 3/3) runs"],
    ]


def test_a_key_from_an_edited_file_and_from_a_knob(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    rows = told(store, studies.plan(Override("model.width", 0.5), Override("schedule.epochs", [4, 2, 3])))
    smoke = of("smoke", rows)[0]
    assert "neck.channels [64, 128, 256] → [128, 256, 512] (from conf/neck/pan_c3.yaml, with model.width=0.5" in smoke
    last = of("train", rows)[-1]
    assert "phase.epochs 2 → 3 (from the command line)" in last


def test_code_that_changed_appeared_and_went(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    swept(store)
    edit("helper", "scale = 2\n")
    rows = told(store, studies.plan())
    assert {row[1] for row in rows} == {"stem=conv"}
    assert of("profile", rows) == of("smoke", rows) == ["code: helper changed"]
    assert of("evaluate", rows) == ["code: helper changed; after: its parent (train phase 3/3) runs"]
    edit("other", "scale = 1\n")
    edit("my_parts", studies.PART.replace("helper", "other"))
    assert of("profile", told(store, studies.plan())) == ["code: helper gone, my_parts changed, other appeared"]


def test_data_whose_content_changed(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    rows = told(store, studies.plan(data=studies.described(train="more")))
    assert of("data", rows) == ["data: content of train, val changed"]
    assert of("train", rows)[0] == "data: content of train changed"
    assert of("evaluate", rows) == ["after: its parent (train phase 3/3) runs"]  # val is as it was


def test_a_library(folder: Path, store: studies.MemoryStore, monkeypatch: Any) -> None:
    swept(store)
    from ablab.study import fingerprint

    real = fingerprint._version
    monkeypatch.setattr(fingerprint, "_version", lambda name: "9.9" if name == "thop" else real(name))
    assert told(store, studies.plan()) == [
        ["3", "3 variants", "profile", "last sweep", f"library thop {real('thop')} → 9.9"]
    ]


def test_a_new_level_is_compared_with_the_baseline(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    studies.write(Path("sweeps/mine.yaml").read_text().replace("stem: mine}}", "stem: mine}, big: {stem: conv6x6}}"))
    rows = told(store, studies.plan())
    assert {(row[1], row[3]) for row in rows} == {("stem=big", "baseline")}
    expected = "config: stem Focus → ConvStem (from sweeps/mine.yaml, stem=big); code: "
    assert of("smoke", rows)[0].startswith(expected)
    assert "ablab.models.stems.conv appeared, ablab.models.stems.focus gone" in of("smoke", rows)[0]


def test_a_new_seed_is_compared_with_the_nearest_result(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    rows = told(store, studies.plan(Override("seeds", [0, 7])))
    assert ["3", "3 variants", "train", "nearest result", "config: seed 1 → 7"] in rows


def test_a_sweep_that_was_interrupted_forgets_nothing(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    swept(store)
    edit("helper", "scale = 2\n")
    save(store, studies.plan())  # it started, and came to nothing
    assert {row[3] for row in told(store, studies.plan())} == {"last sweep"}
    assert told(store, studies.plan())[0][4] == "code: helper changed"


def test_planned_but_not_reached(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    save(store, plan)
    store.finish(stage for stage in plan.stages.values() if stage.kind != "evaluate")
    assert [row[3:] for row in told(store, studies.plan())] == [["last sweep", NOT_REACHED]]


def test_a_thousand_reasons_are_cut_short(folder: Path, store: studies.MemoryStore) -> None:
    swept(store)
    levels = ", ".join(f"c{i}: {{optim.clip: {i}.5}}" for i in range(1, 71))
    text = Path("sweeps/mine.yaml").read_text().replace("seeds: [0, 1]", "seeds: [0]")
    studies.write(text.replace("factors:", f"factors:\n  clip: {{usual: {{}}, {levels}}}"))
    rows = told(store, studies.plan())
    assert len(rows) == 61
    assert rows[-1][4].startswith("and ")
    assert sum(int(row[0]) for row in rows) == 70 * 5  # smoke, 3 phases, evaluate
