"""Results kept across a code change, and what is never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import studies

from ablab.config import Override
from ablab.study import places
from ablab.study.accept import accept_code, origins
from ablab.study.plan import Plan


def swept(store: studies.MemoryStore, **facts: Any) -> Plan:
    plan = studies.plan()
    store.write_json(
        "studies/mine.json", places.document(plan, store.published(), store.read_json("studies/mine.json"))
    )
    store.finish((stage for f, stage in plan.stages.items() if not store.has(f)), **facts)
    return plan


def accepted(store: studies.MemoryStore, plan: Plan) -> list[Any]:
    return accept_code(plan, store, store.published(), store.read_json("studies/mine.json"))


def test_after_a_refactoring_nothing_runs(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    before = swept(store)
    edit("my_parts", studies.PART + "\n\ndef unused():\n    pass\n")
    plan = studies.plan()
    missing = [f for f in plan.stages if not store.has(f)]
    # 1 variant: smoke, profile and, for each of 2 seeds, 3 phases and 1 evaluation
    assert len(missing) == 2 + 2 * 4
    kept = accepted(store, plan)
    assert {one.stage.fingerprint for one in kept} == set(missing)
    assert all(one.refused is None for one in kept)
    assert all(store.has(f) for f in plan.stages)
    old_places, new_places = places.places(before), places.places(plan)
    for place, fingerprint in new_places.items():
        if fingerprint not in missing:
            continue
        record, old = store.read(fingerprint), store.read(old_places[place])
        same = ("numbers", "seconds", "host", "started", "config", "files")
        assert {key: record[key] for key in same} == {key: old[key] for key in same}
        assert record["fingerprint"] == fingerprint
        assert record["inputs"] == plan.stages[fingerprint].inputs
        assert record["code"] == plan.stages[fingerprint].code
        assert record["accepted"]["from"] == old_places[place]
        assert record["accepted"]["modules"] == ["my_parts"]
        assert (store.checked(fingerprint) / "result.txt").read_text() == old_places[place]


def test_kept_twice_is_a_chain(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    chain = []
    plan = swept(store)
    for number in (1, 2):
        chain.append(next(f for f, s in plan.stages.items() if s.kind == "evaluate" and "my_parts" in s.modules))
        edit("my_parts", studies.PART.replace("8", str(8 + number)))
        plan = studies.plan()
        accepted(store, plan)
        swept(store)
    record = store.read(next(f for f, s in plan.stages.items() if s.kind == "evaluate" and "my_parts" in s.modules))
    assert origins(record) == chain[::-1]


def test_a_parent_alone_that_was_kept(folder: Path, store: studies.MemoryStore, monkeypatch: Any) -> None:
    from ablab.study import fingerprint

    swept(store)
    real = fingerprint._code
    changed = "ablab.training.schedule"

    def code(modules: tuple[str, ...], here: Path) -> tuple[str, dict[str, str]]:
        _, seen = real(modules, here)
        seen = seen | {changed: "other"} if changed in seen else seen
        return fingerprint.digest(seen), seen

    monkeypatch.setattr(fingerprint, "_code", code)
    plan = studies.plan()
    kept = {one.stage.kind: one.modules for one in accepted(store, plan)}
    assert kept["train"] == (changed,)
    assert all(store.has(f) for f in plan.stages)


def test_what_differs_in_more_than_code_runs(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    swept(store)
    edit("my_parts", studies.PART + "x = 1\n")
    plan = studies.plan(Override("optim.clip", 5.0), data=studies.described(train="more"))
    kept = accepted(store, plan)
    by_kind = {one.stage.kind: one.refused for one in kept if "my_parts" in one.stage.modules}
    assert by_kind == {
        "smoke": "configuration: not the older result's",
        "profile": None,
        "train": "configuration and data: not the older result's",
        "evaluate": "its parent (weights) is not the older result's",
    }
    assert {plan.stages[f].kind for f in plan.stages if not store.has(f)} == {"data", "smoke", "train", "evaluate"}


def test_another_library_runs(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    swept(store, versions={"torch": "0.1"})
    edit("my_parts", studies.PART + "x = 1\n")
    assert {one.refused for one in accepted(store, studies.plan())} == {"libraries: not the older result's"}


def test_nothing_to_keep(folder: Path, store: studies.MemoryStore) -> None:
    assert accepted(store, studies.plan()) == []
    swept(store)
    assert accepted(store, studies.plan()) == []


def test_a_parent_that_was_trained_otherwise(folder: Path, store: studies.MemoryStore, edit: Any) -> None:
    """An evaluation differs in code alone, but its weights come from another training, which has run already."""
    swept(store)
    edit("my_parts", studies.PART + "x = 1\n")
    plan = studies.plan(Override("optim.clip", 5.0))
    store.finish(stage for f, stage in plan.stages.items() if stage.kind == "train" and not store.has(f))
    refused = {one.stage.kind: one.refused for one in accepted(store, plan)}
    assert refused["evaluate"] == "its parent (weights) is not the older result's"
