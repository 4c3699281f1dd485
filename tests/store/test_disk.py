"""A store on a disk: whole or not at all, published once, damage named, its format told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from working import FINGERPRINT, publish, record_on_disk, stage_files, write

from ablab.errors import UserError
from ablab.store import DamagedError, Store, StoreError


def test_a_published_stage_reads_back_with_checksums(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has(FINGERPRINT)
    publish(store, numbers={"map": 0.5})
    assert store.has(FINGERPRINT)
    assert store.published() == {FINGERPRINT}
    record = store.read(FINGERPRINT)
    assert record == record_on_disk(tmp_path)
    assert record["numbers"] == {"map": 0.5}
    assert record["files"] == {"weights.bin": hashlib.sha256(b"weights").hexdigest()}
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"weights"
    assert list((tmp_path / "work").iterdir()) == []


def test_one_file_of_a_stage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    assert store.content(FINGERPRINT, "weights.bin") == b"weights"
    with pytest.raises(DamagedError, match=r"no\.bin"):
        store.content(FINGERPRINT, "no.bin")
    (store.folder(FINGERPRINT) / "weights.bin").write_bytes(b"other")
    with pytest.raises(DamagedError, match=r"weights\.bin: not as it was published"):
        store.content(FINGERPRINT, "weights.bin")


def test_nothing_is_written_before_the_first_claim(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert (store.published(), store.holders(), store.read_json("studies/x.json")) == (set(), [], None)
    assert not (tmp_path / "new").exists()


def test_nothing_is_visible_before_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as hold, pytest.raises(ValueError, match="JSON"):
        store.publish(hold, *write(hold, b"weights", numbers=float("nan")))  # no JSON: it fails half-way
    assert not store.has(FINGERPRINT)
    assert list(tmp_path.glob("stages/*/*")) == []


def test_publishing_twice_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as hold:
        record, out = write(hold, b"second")
        other = tmp_path / "stages/ab" / FINGERPRINT  # as a process without a lease would
        other.mkdir(parents=True)
        digest = hashlib.sha256(b"first").hexdigest()
        (other / "weights.bin").write_bytes(b"first")
        first = record | {"files": {"weights.bin": digest}}
        (other / "stage.json").write_text(json.dumps(first))
        assert store.publish(hold, record, out) == first
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"first"
    assert list((tmp_path / "work").iterdir()) == []


def test_results_are_plain_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as hold:
        record, out = write(hold, b"weights")
        (out / "link").symlink_to("/etc/passwd")
        with pytest.raises(ValueError, match="plain files"):
            store.publish(hold, record, out)


@pytest.mark.parametrize("damage", ["", "{", '{"fingerprint": "other"}', "[]", '{"fingerprint": "FP"}'])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    publish(store)
    (store.folder(FINGERPRINT) / "stage.json").write_text(damage.replace("FP", FINGERPRINT))
    with pytest.raises(DamagedError, match=r"stage\.json") as caught:
        store.read(FINGERPRINT)
    assert caught.value.fingerprint == FINGERPRINT


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/b", "..", ""])
def test_a_record_that_names_a_path_is_not_trusted(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    publish(store)
    (tmp_path / "secret").write_bytes(b"weights")
    file = store.folder(FINGERPRINT) / "stage.json"
    file.write_text(json.dumps(record_on_disk(tmp_path) | {"files": {name: hashlib.sha256(b"weights").hexdigest()}}))
    with pytest.raises(DamagedError, match="by a path"):
        store.checked(FINGERPRINT)


@pytest.mark.parametrize("damage", ["changed", "missing", "a link"])
def test_a_damaged_file_is_named_set_aside_and_can_be_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    publish(store)
    file = store.folder(FINGERPRINT) / "weights.bin"
    file.unlink()
    if damage == "changed":
        file.write_bytes(b"weightz")
    if damage == "a link":
        (tmp_path / "elsewhere").write_bytes(b"weights")
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match=r"weights\.bin: not as it was published"):
        store.checked(FINGERPRINT)
    aside = store.quarantine(FINGERPRINT)
    assert aside is not None
    assert Path(aside).parent == tmp_path / "quarantine"
    assert (Path(aside) / "stage.json").exists()
    assert not store.has(FINGERPRINT)
    publish(store)
    assert store.checked(FINGERPRINT)
    assert store.quarantine(FINGERPRINT) is None, "whole again: it must stay"
    assert store.has(FINGERPRINT)


def test_a_folder_without_a_record_gives_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    (store.folder(FINGERPRINT) / "stage.json").unlink()
    assert store.published() == set()
    publish(store, content=b"again")
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"again"


def test_a_store_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    publish(Store(tmp_path))
    assert json.loads((tmp_path / "store.json").read_text()) == {"format": 2}
    (tmp_path / "store.json").write_text('{"format": 3}')
    before = stage_files(tmp_path)
    with pytest.raises(StoreError, match="written by a newer ablab"):
        Store(tmp_path)
    assert stage_files(tmp_path) == before


def test_a_store_of_the_first_format_is_taken_as_it_is(tmp_path: Path) -> None:
    publish(Store(tmp_path))
    (tmp_path / "store.json").unlink()
    store = Store(tmp_path)
    assert store.checked(FINGERPRINT)
    assert not (tmp_path / "store.json").exists()
    publish(store, "cd" + "1" * 62)
    assert json.loads((tmp_path / "store.json").read_text()) == {"format": 2}
    assert store.has(FINGERPRINT)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "2"}'])
def test_a_damaged_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(UserError, match=r"store\.json: damaged|newer ablab"):
        Store(tmp_path)


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(StoreError, match="a file is where a folder should be"):
        Store(tmp_path / "notes")


def test_documents(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    assert store.url == str(tmp_path)
    store.write_json("studies/stem.json", {"places": {"a": FINGERPRINT}})
    store.write_json("studies/stem.json", {"places": {}})
    assert store.read_json("studies/stem.json") == {"places": {}}
    assert store.documents("studies") == ["studies/stem.json"]
    assert [f.name for f in (tmp_path / "studies").iterdir()] == ["stem.json"]
