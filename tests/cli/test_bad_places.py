"""Disks that are full or read-only, damaged stores, records and reports that cannot be written, ports in use."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from working_folder import Folder, remount


def test_a_full_store_then_a_larger_one_then_read_only(folder: Folder, disk: Path) -> None:
    store = f"store={disk}/store"
    message = folder.refused("sweep", "tiny", store, says=["cannot be written", "the disk is full", str(disk), "same"])
    kept = set((disk / "store/stages").glob("*/*/stage.json"))
    assert kept, message  # the checks were published before the first training found no room

    remount(disk, "size=64m")
    went_on = folder.run("sweep", "tiny", store)
    assert went_on.code == 0, went_on.err
    assert f"{len(kept)} were in the store" in went_on.err
    assert kept < set((disk / "store/stages").glob("*/*/stage.json"))

    remount(disk, "ro")
    folder.refused("sweep", "tiny", store, "seeds=[1]", says=["cannot be written", "read-only", "same command again"])
    assert folder.run("plan", "tiny", store, "seeds=[1]").code == 0
    unchanged = folder.run("sweep", "tiny", store)
    assert unchanged.code == 0, unchanged.err
    assert "0 stages ran" in unchanged.err

    remount(disk, "rw")
    assert folder.run("sweep", "tiny", store, "seeds=[1]").code == 0


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all the room but so many bytes."""
    room = os.statvfs(disk)
    file = disk / "fill"
    file.write_bytes(bytes(room.f_bavail * room.f_bsize - leave))
    return file


def test_a_record_on_a_disk_that_fills_up(finished: Folder, database: Path, disk: Path) -> None:
    """Its database is there and can be read; what could not be written is told, and is recorded later."""
    shutil.copy(database, disk / "mlflow.db")
    uri = f"tracking.uri=sqlite:///{disk}/mlflow.db"
    file = fill(disk)
    finished.refused("sweep", "tiny", uri, says=[uri, "cannot be written", "full", "Results are kept in the store"])
    file.unlink()
    again = finished.run("sweep", "tiny", uri)
    assert again.code == 0, again.err
    assert "0 stages ran" in again.err


def test_a_record_for_which_there_is_no_room_is_told_before_any_stage(bare: Folder, disk: Path) -> None:
    uri = f"tracking.uri=sqlite:///{disk}/mlflow.db"
    file = fill(disk, leave=300_000)  # enough to begin with
    bare.refused("sweep", "tiny", uri, says=[uri, "full"])
    assert bare.published() == {}
    file.unlink()
    assert bare.run("sweep", "tiny", uri).code == 0


def test_a_read_only_record_is_told_before_any_stage(bare: Folder, database: Path, disk: Path) -> None:
    shutil.copy(database, disk)
    remount(disk, "ro")
    bare.refused("sweep", "tiny", f"tracking.uri=sqlite:///{disk}/mlflow.db", says=["tracking.uri", "read-only"])
    assert bare.published() == {}


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("foo://x", ["tracking.uri=foo://x", "'foo'", "sqlite"]),
        ("sqlit:///x.db", ["tracking.uri=sqlit:///x.db", "Did you mean 'sqlite'?"]),
        ("http://127.0.0.1:9", ["tracking.uri=http://127.0.0.1:9", "refused"]),
        ("sqlite:///sweeps/tiny.yaml", ["tracking.uri=sqlite:///sweeps/tiny.yaml", "not a database"]),
        ("sqlite:///sweeps", ["tracking.uri=sqlite:///sweeps", "unable to open"]),
        ("sqlite:///other.db", ["tracking.uri=sqlite:///other.db", "something else", "cats"]),
        ("postgresql://me:secret@127.0.0.1:9/x", ["tracking.uri=postgresql://me:***@127.0.0.1:9/x"]),
    ],
)
def test_no_mlflow_is_told_before_any_stage(bare: Folder, uri: str, says: list[str]) -> None:
    database = sqlite3.connect(bare.path / "other.db")
    database.execute("create table cats (name text)")
    database.commit()
    database.close()
    message = bare.refused("sweep", "tiny", f"tracking.uri={uri}", says=says)
    assert "secret" not in message
    assert bare.published() == {}


def test_a_server_that_never_answers(bare: Folder, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ablab.tracking.connect"], "REACH_SECONDS", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        uri = f"tracking.uri=http://127.0.0.1:{port}"
        bare.refused("sweep", "tiny", uri, says=[uri, "timed out"])


@pytest.mark.parametrize("verb", ["report", "ui"])
def test_nothing_is_recorded_yet(bare: Folder, verb: str) -> None:
    words = ["report", "study=tiny"] if verb == "report" else ["ui"]
    bare.refused(*words, says=["tracking.uri", "mlflow.db", "nothing is recorded"])


@pytest.mark.parametrize("words", [["sweep", "tiny"], ["report", "study=tiny"], ["data", "data.train=2"]])
def test_a_file_in_place_of_the_reports_folder(finished: Folder, words: list[str]) -> None:
    finished.write("notes", "a file")
    finished.refused(*words, "reports=notes", says=["reports=notes", "notes/", "Not a directory"])


def test_a_read_only_reports_folder_is_told_before_any_stage(folder: Folder, disk: Path) -> None:
    (disk / "tiny").mkdir()
    remount(disk, "ro")
    folder.refused("sweep", "tiny", f"reports={disk}", says=[f"reports={disk}", "cannot be written"])
    assert folder.published() == {}


def test_a_report_for_which_there_is_no_room(finished: Folder, disk: Path) -> None:
    file = fill(disk)
    finished.refused("sweep", "tiny", f"reports={disk}", says=["No space left", "same command again"])
    file.unlink()
    assert finished.run("sweep", "tiny", f"reports={disk}").code == 0
    assert (disk / "tiny/table.md").read_bytes() == (finished.path / "reports/tiny/table.md").read_bytes()


def test_a_file_in_place_of_the_store(folder: Folder) -> None:
    folder.write("notes", "a file")
    folder.refused("sweep", "tiny", "store=notes", says=["the store", "notes", "a file is where a folder should be"])


def test_a_damaged_record_is_named_put_aside_and_its_stage_runs_again(finished: Folder) -> None:
    file = next(file for file in finished.published() if (file.parent / "weights.safetensors").exists())
    file.write_text(file.read_text()[:100])
    os.utime(file, ns=(1, 1))
    again = finished.run("sweep", "tiny")
    assert again.code == 0, again.err
    assert f"{file}: the record is damaged" in again.err
    assert "It is put aside in" in again.err
    assert "1 stages ran" in again.err
    assert len(list((finished.path / ".ablab/store/quarantine").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "noise", "text", "empty"])
def test_a_damaged_checkpoint_starts_the_phase_again(finished: Folder, damage: str) -> None:
    stage = next(file.parent for file in finished.published() if (file.parent / "weights.safetensors").exists())
    before = (stage / "weights.safetensors").read_bytes()
    work = finished.path / ".ablab/store/work" / stage.name / "000001"
    content = {"cut": before[:500], "noise": os.urandom(3000), "text": b"a text", "empty": b""}[damage]
    shutil.rmtree(stage)
    work.mkdir(parents=True)
    (work / "checkpoint.pt").write_bytes(content)
    result = finished.run("sweep", "tiny")
    assert result.code == 0, result.err
    assert (stage / "weights.safetensors").read_bytes() == before


def test_weights_missing_from_the_store(finished: Folder) -> None:
    """Somebody deleted a file of a published training: it is put aside and runs again before its evaluation does."""
    published = finished.published()
    stage = next(file.parent for file in published if (file.parent / "weights.safetensors").exists())
    (stage / "weights.safetensors").unlink()
    for file in published:
        record = json.loads(file.read_text())
        if record["kind"] == "evaluate" and stage.name in record["inputs"].values():
            shutil.rmtree(file.parent)
    result = finished.run("sweep", "tiny")
    assert result.code == 0, result.err
    assert "weights.safetensors: not as it was published" in result.err
    assert "2 stages ran" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "5000.5"])
def test_a_port_that_is_none(folder: Folder, port: str) -> None:
    folder.refused("ui", f"port={port}", says=[f"port={port}", "a whole number from 1 to 65535"])


def test_a_port_in_use(folder: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder.refused("ui", f"port={port}", says=[f"port={port} is taken", "is free"])
