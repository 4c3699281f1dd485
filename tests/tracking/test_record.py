"""Recording a study in a real MLflow, on SQLite and on PostgreSQL: the database's own rows are the judge."""

from __future__ import annotations

import copy
import json
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import study_record as made
from mlflow import MlflowClient
from mlflow.entities import Metric
from what_mlflow_holds import STUDY, contents, rows, small

from ablab import tracking
from ablab.errors import UserError
from ablab.tracking import runs

connecting = sys.modules["ablab.tracking.connect"]  # its package has a function of that name


def test_a_run_says_what_was_done(empty: str) -> None:
    tracking.record(small(), empty)
    parent, children = tracking.read(empty, STUDY)
    assert parent["question"] == small()["question"]
    assert parent["factors"] == {"c3_count": ["3", "1"], "head": ["full", "half"]}
    assert [child["name"] for child in children] == [
        "00 baseline seed 0",
        "00 baseline seed 1",
        "01 + c3_count=1 seed 0",
        "01 + c3_count=1 seed 1",
    ]
    child = children[2]
    assert child["levels"] == {"c3_count": "1", "head": "full"}
    assert child["params"]["c3_count"] == "1"
    assert child["params"]["optim.batch"] == "8"
    assert child["params"]["optim.clip"] == "null"
    assert child["params"]["head.anchors"] == "[[10,13,16,30],[30,61,62,45]]"
    assert child["params"]["seed"] == "0"
    assert child["params"]["engine.precision"] == "bf16"
    assert not {"data.root", "store", "tracking.uri", "engine.name"} & child["params"].keys()  # places
    assert child["metrics"]["map50/320"] == 0.48
    assert child["metrics"]["map50/416"] == 0.5
    assert child["metrics"]["flops/320"] == 2 * 1_882_000_000
    assert child["metrics"]["train/steps"] == 208
    assert child["metrics"]["train/images"] == 205
    assert child["metrics"]["train/seconds"] == 200
    assert "map_small/320" not in child["metrics"]  # there was no truth to measure it by
    assert child["tags"]["mlflow.source.git.commit"].startswith("0123456789")
    assert child["tags"]["ablab.machine"] == "x86_64 EPYC"
    assert child["versions"] == {"torch": "2.14.1", "hotcoco": "1.3.0"}
    stages = small()["variants"][1]["replicates"][0]["stages"]
    assert [s["fingerprint"] for s in child["fingerprints"]] == [stage["fingerprint"] for stage in stages]
    assert [phase["optimizer"] for phase in child["training"]] == ["Muon+AdamW", "Muon+AdamW"]


def test_curves_run_on_over_the_phases_within_the_stages_own_time(empty: str) -> None:
    tracking.record(small(), empty)
    _, children = tracking.read(empty, STUDY)
    (loss,) = tracking.curves(empty, children[:1], "train/loss").values()
    assert loss == [(e, pytest.approx(2 / e)) for e in range(1, 9)]
    history = MlflowClient(empty).get_metric_history(children[0]["run_id"], "train/loss")
    first, second = (s for s in small()["variants"][0]["replicates"][0]["stages"] if s["kind"] == "train")
    ends = {m.step: m.timestamp / 1000 for m in history}
    assert ends[1] == first["started"] + 25  # a quarter of the phase's 100 s
    assert ends[4] == first["started"] + 100
    assert ends[8] == second["started"] + 100


def test_a_point_has_the_time_at_which_its_epoch_ended(sqlite: str) -> None:
    study = small()
    stage = study["variants"][0]["replicates"][0]["stages"][3]  # the second phase
    stage["timeline"] = [[1, 1_700_000_130.25], [2, 1_700_000_190.5], [4, 1_700_000_219.0]]
    tracking.record(study, sqlite)
    _, children = tracking.read(sqlite, STUDY)
    history = MlflowClient(sqlite).get_metric_history(children[0]["run_id"], "train/loss")
    ends = {m.step: m.timestamp for m in history}
    assert (ends[5], ends[6], ends[8]) == (1_700_000_130_250, 1_700_000_190_500, 1_700_000_219_000)
    assert ends[7] == 1000 * (stage["started"] + 75)  # the timeline lacks it: three quarters of the phase's 100 s


def test_a_record_that_is_complete_is_told_by_one_run(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.record(small(), empty)
    searched = []
    search = MlflowClient.search_runs

    def seen(*args: Any, **kwargs: Any) -> Any:
        found = search(*args, **kwargs)
        searched.extend(found)
        return found

    monkeypatch.setattr(MlflowClient, "search_runs", seen)
    tracking.record(small(), empty)
    assert [run.data.tags["ablab.kind"] for run in searched] == ["study"]
    renamed = small()
    renamed["variants"][1]["name"] = "+ a single C3"
    tracking.record(renamed, empty)
    assert [child["variant"] for child in tracking.read(empty, STUDY)[1]] == ["baseline"] * 2 + ["+ a single C3"] * 2


def test_the_stages_that_a_record_needs(empty: str, tmp_path: Path) -> None:
    assert tracking.fingerprints(f"sqlite:///{tmp_path}/none.db") == set()
    assert tracking.fingerprints(empty) == set()
    tracking.record(small(), empty)
    tracking.record(small() | {"name": "another"}, empty)
    again = small()
    again["variants"][0]["replicates"][0] = made.replicate("yolov5s_v5", 0, 0.6, 1_700_000_500.0)
    tracking.record(again, empty)

    def named(study: dict[str, Any]) -> set[str]:
        return {s["fingerprint"] for v in study["variants"] for r in v["replicates"] for s in r["stages"]}

    assert tracking.fingerprints(empty) == named(again) | named(small())
    tracking.record(again | {"name": "another"}, empty)
    assert tracking.fingerprints(empty) == named(again)
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracking.fingerprints("http://127.0.0.1:9")


def test_the_data_is_an_input_and_the_files_are_there(empty: str) -> None:
    tracking.record(small(), empty)
    _, children = tracking.read(empty, STUDY)
    run = MlflowClient(empty).get_run(children[0]["run_id"])
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "bccd"
    assert used.dataset.digest == made.fingerprint("bccd")[:36]
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "batch: 8" in (folder / "config.yaml").read_text()


def test_what_a_training_saw_on_val_is_there(empty: str) -> None:
    study = small()
    (trained,) = [s for s in study["variants"][0]["replicates"][0]["stages"] if s["kind"] == "train"][:1]
    trained["files"] = {"val_epoch_005.jpg": "1", "val_epoch_010.jpg": "2", "weights.safetensors": "3"}
    held = {(trained["fingerprint"], "val_epoch_010.jpg"): b"a picture"}  # the other one is lost
    tracking.record(study, empty, lambda fingerprint, name: held.get((fingerprint, name)))
    _, children = tracking.read(empty, STUDY)
    seen = {}
    for child in children:
        folder = Path(MlflowClient(empty).get_run(child["run_id"]).info.artifact_uri.removeprefix("file://"))
        seen |= {f"{child['variant']} {child['seed']} {file.name}": file.read_bytes() for file in folder.glob("val/*")}
    first = study["variants"][0]
    assert seen == {f"{first['name']} {first['replicates'][0]['seed']} val_epoch_010.jpg": b"a picture"}


def test_writing_twice_changes_nothing(empty: str) -> None:
    tracking.record(small(), empty)
    before = rows(empty)
    tracking.record(small(), empty)
    assert rows(empty) == before


def test_replaying_the_store_gives_the_same_record(empty: str, other: str) -> None:
    tracking.record(small(), empty)
    time.sleep(0.01)  # the clock must not matter
    tracking.record(json.loads(json.dumps(small())), other)
    assert contents(other) == contents(empty)


def test_where_and_how_it_ran_is_not_another_result(empty: str) -> None:
    tracking.record(small(), empty)
    before = rows(empty)
    moved = small()
    for variant in moved["variants"]:
        variant["config"]["engine"]["name"] = "ray"
        variant["config"]["store"] = "/elsewhere"
        variant["config"]["data"] = variant["config"]["data"] | {"root": "/elsewhere/bccd"}
    tracking.record(moved, empty)
    assert rows(empty) == before


def test_a_longer_study_adds_runs_and_renumbers_the_old_ones(empty: str) -> None:
    study = small()
    tracking.record(study, empty)
    old = {child["variant"]: child["run_id"] for child in tracking.read(empty, STUDY)[1] if child["seed"] == "0"}
    longer = copy.deepcopy(study)
    longer["factors"]["c3_count"] = ["3", "2", "1"]
    longer["variants"].insert(
        1, made.variant(1, "+ c3_count=2", {"c3_count": "2", "head": "full"}, "one_c3", [0.5, 0.5])
    )
    longer["variants"][2]["index"] = 2
    tracking.record(longer, empty)
    parent, children = tracking.read(empty, STUDY)
    assert parent["factors"]["c3_count"] == ["3", "2", "1"]
    assert len(children) == 6
    renamed = next(child for child in children if child["run_id"] == old["+ c3_count=1"])
    assert renamed["name"] == "02 + c3_count=1 seed 0"
    assert len([entry for entry in contents(empty) if entry[3]["ablab.kind"] == "study"]) == 1


def test_another_result_takes_the_place_of_the_old_one(empty: str) -> None:
    tracking.record(small(), empty)
    again = small()
    again["variants"][0]["replicates"][0] = made.replicate("yolov5s_v5", 0, 0.6, 1_700_000_500.0)
    tracking.record(again, empty)
    _, children = tracking.read(empty, STUDY)
    assert [c["metrics"]["map50/320"] for c in children] == [0.6, 0.52, 0.48, 0.499]
    experiment = MlflowClient(empty).get_experiment_by_name(STUDY).experiment_id
    kept = MlflowClient(empty).search_runs([experiment], "tags.`ablab.current` = 'false'")
    assert [run.data.metrics["map50/320"] for run in kept] == [0.5]
    tracking.record(small(), empty)  # and back: the old run is current again, nothing is written anew
    _, children = tracking.read(empty, STUDY)
    assert [c["metrics"]["map50/320"] for c in children] == [0.5, 0.52, 0.48, 0.499]
    assert children[0]["run_id"] == kept[0].info.run_id


def test_what_was_incomplete_goes_when_it_is_complete(empty: str) -> None:
    study = small()
    whole = study["variants"][1]["replicates"][1]
    study["variants"][1]["replicates"][1] = made.broken(whole, "incomplete", None, keep=3)
    tracking.record(study, empty)
    assert tracking.read(empty, STUDY)[1][3]["status"] == "incomplete"
    tracking.record(small(), empty)
    assert [child["status"] for child in tracking.read(empty, STUDY)[1]] == ["complete"] * 4
    assert len(contents(empty)) == 5


def test_runs_that_a_crash_left_open_are_finished(empty: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = MlflowClient.log_batch
    calls = []

    def crashing(self: MlflowClient, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> Any:
        calls.append(run_id)
        if len(calls) == 3:
            written(self, run_id, metrics=list(metrics)[:10], params=list(params)[:5])
            raise KeyboardInterrupt
        return written(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", crashing)
    with pytest.raises(KeyboardInterrupt):
        tracking.record(small(), empty)
    monkeypatch.undo()
    assert {entry[3]["ablab.kind"] for entry in contents(empty) if entry[1][0] == "RUNNING"} == {"study", "replicate"}
    assert len(tracking.read(empty, STUDY)[1]) == 2  # an open run is not read
    tracking.record(small(), empty)
    tracking.record(small(), other)
    assert contents(empty) == contents(other)


@pytest.mark.parametrize("at", [1, 2, 4, 7, 8])  # opening the study, writing the new run, retiring the old, finishing
def test_wherever_a_crash_comes_the_old_result_or_the_new_one_is_there(
    at: int, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.record(small(), empty)
    again = small()
    again["variants"][1]["replicates"][1] = made.replicate("one_c3", 1, 0.6, 1_700_020_500.0)
    calls = []

    def crash_at(name: str) -> None:
        asked = getattr(MlflowClient, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                raise KeyboardInterrupt
            return asked(*args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, call)

    for name in ("create_run", "update_run", "log_batch", "log_inputs", "set_terminated"):
        crash_at(name)
    with pytest.raises(KeyboardInterrupt):
        tracking.record(again, empty)
    monkeypatch.undo()
    written = ["create_run", "log_batch", "log_inputs", "set_terminated"]
    assert calls == ["update_run", "log_batch", *written, "log_batch", "set_terminated"][:at]
    _, children = tracking.read(empty, STUDY)
    assert [child["metrics"]["map50/320"] for child in children[:3]] == [0.5, 0.52, 0.48]
    assert [child["metrics"]["map50/320"] for child in children[3:]] in ([0.499], [0.6])
    assert study_status(empty) == ("FINISHED" if calls == ["update_run"] else "RUNNING")
    tracking.record(again, empty)
    _, children = tracking.read(empty, STUDY)
    assert [child["metrics"]["map50/320"] for child in children] == [0.5, 0.52, 0.48, 0.6]
    assert study_status(empty) == "FINISHED"
    assert len(contents(empty)) == 5  # one current run each, and the study's


def study_status(uri: str) -> str:
    return next(entry[1][0] for entry in contents(uri) if entry[3]["ablab.kind"] == "study")


def test_a_shorter_study_leaves_nothing_of_the_longer_ones_text(empty: str) -> None:
    tracking.record(small() | {"question": "Why? " * 3000}, empty)
    tracking.record(small(), empty)
    assert tracking.read(empty, STUDY)[0]["question"] == small()["question"]


def test_an_open_run_that_nobody_wants_is_closed(empty: str) -> None:
    tracking.record(small(), empty)
    client = MlflowClient(empty)
    experiment = client.get_experiment_by_name(STUDY).experiment_id
    stray = runs.replicate(
        small(),
        made.variant(9, "gone", {"c3_count": "9", "head": "full"}, "one_c3", [0.1]),
        made.replicate("one_c3", 0, 0.1, 5.0),
    )
    run_id = client.create_run(experiment, 5000, stray.tags | {"ablab.current": "true"}).info.run_id
    client.update_run(tracking.read(empty, STUDY)[0]["run_id"], "RUNNING")  # as the crash left it
    tracking.record(small(), empty)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.tags["ablab.current"]) == ("KILLED", 5000, "false")


def test_long_records_fit_into_mlflows_limits(empty: str) -> None:
    study = small()
    variant = study["variants"][0]
    variant["config"]["many"] = {f"key{n}": n for n in range(250)}
    variant["config"]["many"]["odd key: (é)"] = "x" * 10_000
    reason = "RuntimeError: " + "long " * 3000
    replicate = variant["replicates"][0]
    long = made.train("yolov5s_v5", 0, 0, 1_700_000_020.0, epochs=600)
    replicate["stages"][2] = long
    variant["replicates"][1] = made.broken(variant["replicates"][1], "failed", reason, keep=2)
    tracking.record(study, empty)
    _, children = tracking.read(empty, STUDY)
    assert children[0]["params"]["many.key249"] == "249"
    assert len(children[0]["params"]["many.odd key_ ___"]) == 6000
    assert len(tracking.curves(empty, children[:1], "train/obj")[children[0]["run_id"]]) == 604
    assert children[1]["reason"] == reason
    assert (children[1]["status"], children[1]["training"]) == ("failed", [])


def test_a_loss_that_is_not_a_number_is_left_out(empty: str) -> None:
    study = small()
    curve = study["variants"][0]["replicates"][0]["stages"][3]["numbers"]["curve"]
    curve[-1]["loss"] = None  # as the store has it: JSON knows no NaN
    tracking.record(study, empty)
    _, children = tracking.read(empty, STUDY)
    points = tracking.curves(empty, children[:1], "train/loss")[children[0]["run_id"]]
    assert [step for step, _ in points] == list(range(1, 8))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqllite:///a.db", "Did you mean 'sqlite'"),
        ("", "is no place for a record"),
        ("sqlite://", "expected a file"),
        ("sqlite:///{tmp}/text.db", "file is not a database"),
        ("sqlite:///{tmp}/text.db/mlflow.db", "File exists"),
        ("sqlite:///{tmp}/foreign.db", "a database of something else (tables birds)"),
        ("http://127.0.0.1:{closed}", "refused"),
    ],
)
def test_where_there_is_no_mlflow_nothing_is_tried_twice(
    uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrying(uri: str) -> MlflowClient:
        raise AssertionError(f"MLflow's own client, which tries again for minutes, was given {uri}")

    monkeypatch.setattr(connecting, "MlflowClient", retrying)
    (tmp_path / "text.db").write_text("hello, this is no database at all")
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE birds (name TEXT)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    with pytest.raises(UserError) as told:
        tracking.record(small(), uri.format(tmp=tmp_path, closed=closed))
    assert said in str(told.value)
    assert "tracking.uri=" in str(told.value)


def test_passwords_are_not_shown() -> None:
    with pytest.raises(UserError) as told:
        tracking.read("http://me:secret@127.0.0.1:9", "x")
    assert "secret" not in str(told.value)


def test_a_study_that_is_not_recorded(empty: str, tmp_path: Path) -> None:
    tracking.record(small(), empty)
    with pytest.raises(UserError, match=f"Did you mean '{STUDY}'"):
        tracking.read(empty, "from_yolov5_to_lite")
    with pytest.raises(UserError, match="nothing is recorded yet"):
        tracking.read(f"sqlite:///{tmp_path}/none/mlflow.db", STUDY)
    assert not (tmp_path / "none").exists()


def test_ui_names_a_free_port_when_its_own_is_taken(empty: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port} is taken on 127.0.0.1; port=\d+ is free"):
            tracking.ui(empty, port)


def test_metrics_may_hold_what_we_name_them() -> None:
    Metric("map50/320", 0.5, 0, 0)
    assert runs._legal("map50:320/é") == "map50_320/_"


def test_packed_texts_come_back_whole() -> None:
    for length in (0, 1, 5000, 5001, 12_345):
        text = "".join(chr(97 + n % 26) for n in range(length))
        tags = runs.pack("ablab.reason", text)
        assert all(len(value) <= 5000 for value in tags.values())
        assert runs.unpack(tags, "ablab.reason") == text
