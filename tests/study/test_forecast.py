"""Forecasts from what was measured, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import studies

from ablab import machine
from ablab.config import Override
from ablab.study import forecast as fc
from ablab.study.forecast import DEFAULT, KIND, LIKE, costs, forecast
from ablab.study.measured import caught_up, measured, remember, units
from ablab.study.outlook import comparison, outlook
from ablab.study.plan import Plan, Stage

HERE = {key: machine.host()[key] for key in ("machine", "processor")}


def pick(plan: Plan, kind: str, variant: str = "baseline", number: int = 0) -> Stage:
    replicate = next(r for r in plan.replicates if r.variant.name == variant)
    return [plan.stages[f] for f in replicate.stages if plan.stages[f].kind == kind][number]


def ran(store: studies.MemoryStore, stage: Stage, seconds: float, host: Any = HERE, **facts: Any) -> None:
    remember(store, stage, studies.record(stage) | {"seconds": seconds, "host": host} | facts)


def expected(store: studies.MemoryStore, plan: Plan, done: set[str] = frozenset()) -> fc.Forecast:  # type: ignore[assignment]
    return forecast(plan, set(done), measured(store), {})


def test_units_by_hand(folder: Path) -> None:
    plan = studies.plan(Override("eval.every", 3))
    # 4 epochs x 8 images x 64 px² three times over, and looks at 8 images of val after epochs 3 and 4
    assert units(pick(plan, "train")) == (3 * 4 * 8 + 2 * 8) * 64**2
    assert units(pick(plan, "evaluate")) == 8 * 64**2
    assert units(pick(plan, "data")) == 16
    assert units(pick(plan, "smoke")) == 1


def test_like_stages_scale_with_epochs_and_area(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    ran(store, pick(plan, "train"), 40.0, peak_mb=1600.0)  # 4 epochs at 64 px
    large = studies.plan(Override("schedule.imgsz", 128), Override("schedule.epochs", [2, 2, 2]))
    found = expected(store, large)
    one = pick(large, "train").fingerprint
    assert found.basis[one] == LIKE
    assert found.seconds[one] == pytest.approx(40 / 4 * 2 * 4)
    assert found.peak_mb[one] == pytest.approx(1100 + 500 * 4)
    assert found.basis[pick(large, "train", "head=half").fingerprint] == KIND


def test_a_toy_run_says_nothing_of_a_hundred_times_its_work(folder: Path, store: studies.MemoryStore) -> None:
    """Of two seconds, one is the start: in proportion a real training would take a day."""
    toy = studies.plan()
    ran(store, pick(toy, "train"), 2.0)
    real = studies.plan(Override("schedule.imgsz", 640), Override("schedule.epochs", [20, 2, 2]))
    found = expected(store, real)
    assert {found.basis[pick(real, "train", name).fingerprint] for name in ("baseline", "head=half")} == {DEFAULT}
    near = studies.plan(Override("schedule.imgsz", 320))
    assert expected(store, near).basis[pick(near, "train").fingerprint] == LIKE


def test_memory_is_told_from_the_nearest_size(folder: Path, store: studies.MemoryStore) -> None:
    """A toy run before the real one does not make it look a hundred times too large."""
    small, middle = (studies.plan(Override("schedule.imgsz", size)) for size in (64, 320))
    ran(store, pick(small, "train"), 4.0, peak_mb=1250.0)
    ran(store, pick(middle, "train"), 100.0, peak_mb=1900.0)
    ran(store, pick(small, "profile"), 1.0, peak_mb=1200.0)
    large = studies.plan(Override("schedule.imgsz", 640))
    found = expected(store, large).peak_mb
    assert found[pick(large, "train").fingerprint] == pytest.approx(1100 + 800 * 4)
    assert found[pick(large, "profile").fingerprint] == 1200.0  # which only counts


def test_the_same_kind_scales_with_macs(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    macs = {"baseline": 4e6, "head=half": 1e6}
    for name, count in macs.items():
        ran(store, pick(plan, "profile", name), 1.0, numbers={"conv_macs": count})
    ran(store, pick(plan, "train"), 40.0)
    found = expected(store, plan)
    half = pick(plan, "train", "head=half").fingerprint
    assert (found.basis[half], found.seconds[half]) == (KIND, pytest.approx(10.0))


def test_profiles_in_the_store_give_macs_as_well(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    for name, count in (("baseline", 4e6), ("head=half", 1e6)):
        store.finish([pick(plan, "profile", name)], numbers={"conv_macs": count})
    ran(store, pick(plan, "train"), 40.0)
    history = measured(store)
    found = forecast(plan, store.published(), history, costs(plan, store, store.published(), history))
    assert found.seconds[pick(plan, "train", "head=half").fingerprint] == pytest.approx(10.0)


def test_a_default_where_nothing_was_measured(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan(Override("engine.device", "cpu"), Override("engine.threads", 2))
    found = expected(store, plan)
    assert set(found.basis.values()) == {DEFAULT}
    train = pick(plan, "train")
    assert found.seconds[train.fingerprint] == pytest.approx(units(train) * fc.MACS_PER_PX / (2 * 1e10))


def test_this_machine_comes_first(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    ran(store, pick(plan, "train"), 10.0, host={"machine": "far", "processor": "fast"})
    one = pick(plan, "train", number=1).fingerprint  # 2 epochs
    assert expected(store, plan).seconds[one] == pytest.approx(5.0)
    twin = studies.plan(Override("seeds", [5]))
    ran(store, pick(twin, "train"), 40.0)
    assert expected(store, plan).seconds[one] == pytest.approx(20.0)


def test_a_training_that_diverged_counts_by_the_epochs_it_came_to(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    twin = studies.plan(Override("seeds", [5]))
    ran(store, pick(twin, "train"), 10.0, numbers={"epochs": 1, "diverged": True})
    assert expected(store, plan).seconds[pick(plan, "train").fingerprint] == pytest.approx(40.0)


def test_a_line_that_is_cut_short_and_one_of_another_layout(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    ran(store, pick(plan, "train"), 10.0)
    with (store.local / "measured.jsonl").open("a") as file:
        file.write('{"fingerprint": "x"}\n[]\n{"finger')
    assert [line.seconds for line in measured(store)] == [10.0]


def test_results_made_elsewhere_are_caught_up_with_once(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    store.finish(plan.stages.values())
    kept = pick(plan, "smoke").fingerprint
    store.records[kept]["accepted"] = {"from": "x", "modules": []}
    found = caught_up(store, plan, store.published())
    assert {line.fingerprint for line in found} == plan.stages.keys() - {kept}
    assert caught_up(store, plan, store.published()) == found == measured(store)


def test_what_plan_prints(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan()
    for stage in plan.stages.values():
        ran(store, stage, 60.0 if stage.kind == "train" else 6.0)
    done = {f for f, s in plan.stages.items() if KIND_CHECK[s.kind]}
    found = forecast(plan, done, measured(store), {})
    (headers, rows), lines = outlook(plan, done, found, slots=2)
    assert headers == ["variant", "to run", "in the store", "shared", "time", "disk", "memory"]
    # 2 seeds x (3 trainings + 1 evaluation); the data, and smoke and profile, of which the second seed has the same
    assert rows[0][:5] == ["baseline", 8, 3, 3, "6 min 12 s"]
    assert rows[1][:5] == ["stem=conv", 8, 2, 4, "6 min 12 s"]
    assert rows[-1][:5] == ["all", 24, 7, 11, "18 min 36 s"]
    # six chains of 186 s on two slots; done a seed after the other the last evaluation is alone
    assert lines[0] == "24 stages to run, 2 at once: about 9 min 24 s; no order could do it in less than 9 min 18 s"
    assert "24 from measured stages like them (100% of the time)" in lines[1]
    # each replicate its own: 6 x (186 + 18); once: 18 trainings x 60 s, 13 others x 6 s
    assert f"{6 * 204 / (18 * 60 + 13 * 6):.2f} times" in lines[-1]


KIND_CHECK = {"data": True, "smoke": True, "profile": True, "train": False, "evaluate": False}


def test_what_a_sweep_prints_at_its_end(folder: Path, store: studies.MemoryStore) -> None:
    plan = studies.plan(Override("seeds", [0]))
    for stage in plan.stages.values():
        ran(store, stage, 60.0 if stage.kind == "train" else 6.0, peak_mb=700.0)
    done = {f for f, s in plan.stages.items() if s.kind != "train"}
    found = forecast(plan, done, measured(store), {})
    made = {f: {"seconds": 90.0, "peak_mb": 800.0} for f in plan.stages if f not in done}
    headers, rows = comparison(plan, found, made, slots=3, wall=300.0)
    assert headers[:5] == ["kind", "stages", "forecast", "actual", "actual ÷ forecast"]
    assert rows == [
        ["train", 9, "9 min 00 s", "13 min 30 s", "1.50", "700 MB", "800 MB"],
        ["sweep", 9, "3 min 00 s", "5 min 00 s", "1.67", "", ""],
    ]
