"""The record that grows while a sweep runs, and is in the end as if it had been written from the store at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sweep_of_events import Event, Listener, before, happenings, shared
from what_mlflow_holds import STUDY, contents

from ablab import tracking
from ablab.tracking import live


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.02)


def play(study: dict[str, Any], uri: str, events: list[Event], done: set[str] = frozenset()) -> None:
    """Live through some events and be killed: nothing is closed in MLflow."""

    def unexpected(text: str) -> None:
        raise AssertionError(text)

    listener = Listener(before(study, done), uri, unexpected)
    for event in events:
        listener(*event)
        if event[0] == "progress" and "at" in event[2] and event[2]["epoch"] % 2 == 0:
            listener.settle()
    listener.settle()
    listener.close()


def open_runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(STUDY).experiment_id], "attributes.status = 'RUNNING'")
    return sorted((run for run in found if run.data.tags["ablab.kind"] == "replicate"), key=lambda r: r.info.run_name)


def replayed(study: dict[str, Any], uri: str) -> list[Any]:
    tracking.record(study, uri)
    return contents(uri)


def test_a_shared_phase_is_seen_in_every_run_that_it_belongs_to(sqlite: str) -> None:
    events = list(happenings(shared()))
    second = next(n for n, event in enumerate(events) if event[0] == "progress" and event[2].get("loss") == 2 / 5)
    play(shared(), sqlite, events[: second + 1])  # an epoch of the first variant's second phase
    runs = open_runs(sqlite)
    assert [run.info.run_name for run in runs] == ["00 baseline seed 0", "01 + c3_count=1 seed 0"]
    assert [run.data.params["c3_count"] for run in runs] == ["3", "1"]
    curves = {
        run.info.run_name[:2]: [
            (m.step, m.value) for m in MlflowClient(sqlite).get_metric_history(run.info.run_id, "train/loss")
        ]
        for run in runs
    }
    assert curves == {"00": [(e, 2 / e) for e in (1, 2, 3, 4, 5)], "01": [(e, 2 / e) for e in (1, 2, 3, 4)]}
    assert "val/map50" in runs[0].data.metrics
    assert tracking.read(sqlite, STUDY)[1] == []  # nothing to report yet


def test_pictures_are_seen_while_it_trains(sqlite: str, tmp_path: Path) -> None:
    drawn = tmp_path / "val_epoch_001.jpg"
    drawn.write_bytes(b"a picture")
    events = list(happenings(shared()))
    first = next(n for n, event in enumerate(events) if event[0] == "progress" and "at" in event[2])
    what, stage, facts = events[first]
    gone = facts | {"picture": str(tmp_path / "published already.jpg")}
    play(shared(), sqlite, [*events[:first], (what, stage, facts | {"picture": str(drawn)}), (what, stage, gone)])
    for run in open_runs(sqlite):  # the phase is shared by both
        assert [file.path for file in MlflowClient(sqlite).list_artifacts(run.info.run_id, "val")] == [
            "val/val_epoch_001.jpg"
        ]


def test_live_and_record_is_the_same_as_replaying_the_store(empty: str, other: str) -> None:
    events = list(happenings(shared()))
    play(shared(), empty, events[:-1])
    lived = {run.info.run_id for run in open_runs(empty)}
    settled = {child["run_id"] for child in tracking.read(empty, STUDY)[1]}
    assert (len(lived), len(settled)) == (1, 3)  # what is complete can be reported while the last stage runs
    tracking.record(shared(), empty)
    assert {child["run_id"] for child in tracking.read(empty, STUDY)[1]} == lived | settled
    assert contents(empty) == replayed(shared(), other)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_driver_that_was_killed_is_taken_over(share: float, empty: str, other: str) -> None:
    events = list(happenings(shared()))
    cut = round(share * len(events))
    play(shared(), empty, events[:cut])
    lived = {run.info.run_id for run in open_runs(empty)}
    done = {stage.fingerprint for happening, stage, _ in events[:cut] if happening == "done"}
    running = next(stage.fingerprint for happening, stage, _ in reversed(events[:cut]) if happening == "start")
    play(shared(), empty, [event for event in events if event[1].fingerprint not in done - {running}], done)
    tracking.record(shared(), empty)
    assert lived <= {child["run_id"] for child in tracking.read(empty, STUDY)[1]}
    assert contents(empty) == replayed(shared(), other)
    assert open_runs(empty) == []


def test_a_sweep_that_was_stopped_keeps_no_point_of_what_the_store_has_not(sqlite: str) -> None:
    events = list(happenings(shared()))
    cut = next(n for n, event in enumerate(events) if event[0] == "progress" and event[2].get("loss") == 2 / 5)
    play(shared(), sqlite, events[: cut + 1])
    done = {stage.fingerprint for happening, stage, _ in events[:cut] if happening == "done"}
    tracking.record(before(shared(), done), sqlite)
    runs = {child["name"]: child for child in tracking.read(sqlite, STUDY)[1]}
    assert {run["status"] for run in runs.values()} == {"incomplete"}
    curve = tracking.curves(sqlite, runs.values(), "train/loss")[runs["00 baseline seed 0"]["run_id"]]
    assert [step for step, _ in curve] == [1, 2, 3, 4]


def test_an_epoch_that_ran_twice_is_recorded_once(sqlite: str, template: Any, tmp_path: Any) -> None:
    """Its worker was lost after the epoch's end, before the checkpoint: it ended again, later."""
    events = list(happenings(shared()))
    at = next(n for n, event in enumerate(events) if event[0] == "progress" and "at" in event[2])
    happening, stage, facts = events[at]
    early = (happening, stage, facts | {"at": facts["at"] - 7.0})
    play(shared(), sqlite, [*events[:at], early, *events[at:]])
    tracking.record(shared(), sqlite)
    points = next(run for run in contents(sqlite) if run[0] == "00 baseline seed 0")[5]["train/loss"]
    assert [step for _, step, _ in points] == list(range(1, 9))


@pytest.mark.parametrize("lived", [True, False])
def test_a_changed_configuration_takes_new_runs(lived: bool, empty: str, other: str) -> None:
    events = list(happenings(shared()))
    play(shared(), empty, events[: len(events) // 2])
    left = {run.info.run_id for run in open_runs(empty)}
    changed = shared()
    for variant in changed["variants"]:
        variant["config"]["optim"]["ema"] = 0.99
    if lived:
        play(changed, empty, events)
    tracking.record(changed, empty)
    assert not left & {child["run_id"] for child in tracking.read(empty, STUDY)[1]}
    assert contents(empty) == replayed(changed, other)
    assert {MlflowClient(empty).get_run(run_id).info.lifecycle_stage for run_id in left} == {"deleted"}


def test_where_nothing_runs_nothing_is_written(sqlite: str) -> None:
    study = shared()
    tracking.record(study, sqlite)
    written = contents(sqlite)
    done = {s["fingerprint"] for v in study["variants"] for r in v["replicates"] for s in r["stages"]}
    listener = tracking.Live(before(study, done), sqlite, print)
    for _, stage, _ in happenings(study):
        listener("cached", stage, {})
    listener.close()
    assert listener._thread is None
    assert contents(sqlite) == written


def test_a_run_that_somebody_deleted_is_opened_again(sqlite: str) -> None:
    events = list(happenings(shared()))
    told: list[str] = []
    listener = Listener(before(shared()), sqlite, told.append)
    trained = [n for n, event in enumerate(events) if event[0] == "progress" and "at" in event[2]]
    for event in events[: trained[0] + 1]:
        listener(*event)
    listener.settle()
    for run in open_runs(sqlite):
        MlflowClient(sqlite).delete_run(run.info.run_id)
    for event in events[trained[0] + 1 :]:
        listener(*event)
    listener.settle()
    listener.close()
    assert len(told) == 1
    assert [child["status"] for child in tracking.read(sqlite, STUDY)[1]] == ["complete"] * 4
