"""Keeping house: list, verify, delete what nobody needs, carry a study elsewhere; through the command line."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from working import publish, stage_files, write

from ablab.errors import UserError
from ablab.store import Store, keep
from ablab.storekeeping import store_verb


def name(letter: str) -> str:
    return letter * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Trainings a -> b (its second phase), c; evaluations d of b and e of c. The study `one` names only d."""
    made = Store(tmp_path / "store")
    publish(made, name("a"), content=b"phase 1", host={"machine": "here"}, started=1.7e9)
    publish(made, name("b"), content=b"phase 2", inputs={"previous": name("a")})
    publish(made, name("c"), content=b"another", label="not needed")
    publish(made, name("d"), content=b"numbers", kind="evaluate", inputs={"weights": name("b")})
    publish(made, name("e"), content=b"more", kind="evaluate", inputs={"weights": name("c")})
    made.write_json(
        "studies/one.json", {"places": {"baseline | seed 0 | evaluate | 64 px": name("d"), "next": name("f")}}
    )
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert store_verb(list(words)) == 0
    return capsys.readouterr().out


def test_ls(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with store.claim(name("f")):
        told = said(capsys, "ls", f"store={store.url}")
    size = sum(len(content) for file, content in stage_files(Path(store.url)).items() if "/aaaa" in file)
    row = next(line for line in told.splitlines() if "aaaa" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:4] == ["train", "one", f"{size} B"]
    assert "2023-11-1" in row
    assert "here" in row
    assert f"ffffffffffff: in work, process {os.getpid()}" in told
    assert "5 stages (2 evaluate, 3 train)" in told


def test_verify_names_and_sets_aside_what_is_damaged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "5 stages are as they were published, 0 were not" in said(capsys, "verify", f"store={store.url}")
    (store.folder(name("b")) / "weights.bin").write_bytes(b"phase 3")
    (store.folder(name("e")) / "stage.json").write_text("{")
    assert store_verb(["verify", f"store={store.url}"]) == 1
    told = capsys.readouterr().out
    assert f"{store.folder(name('b'))}/weights.bin: not as it was published; moved to {store.url}/quarantine/" in told
    assert "stage.json: the record is damaged" in told
    assert "3 stages are as they were published, 2 were not" in told
    assert store.published() == {name("a"), name("c"), name("d")}


def test_gc_keeps_what_is_needed_and_deletes_only_when_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with store.claim(name("f")) as hold:  # unfinished, needed
        (hold.work / "checkpoint.pt").write_text("epoch 1")
    for unfinished in (name("0"), name("1")):  # unfinished, not needed
        with store.claim(unfinished) as hold:
            (hold.work / "checkpoint.pt").write_text("epoch 1")
    holding = store.claim(name("1"))
    before = stage_files(Path(store.url))
    told = said(capsys, "gc", f"store={store.url}")
    assert stage_files(Path(store.url)) == before
    assert "kept: study one" in told
    assert "2 stages (1 evaluate, 1 train)" in told
    assert "unfinished work: work/000000" in told
    assert "would go" in told
    assert "cccccccccccc" in told
    assert "aaaaaaaaaaaa" not in told

    assert "are gone" in said(capsys, "gc", "delete=true", f"store={store.url}")
    assert store.published() == {name("a"), name("b"), name("d")}
    assert {path.name for path in (Path(store.url) / "work").iterdir()} == {name("f"), name("1")}
    holding.check()
    assert "nothing to delete" in said(capsys, "gc", f"store={store.url}")


def test_gc_keeps_what_the_record_names(store: Store) -> None:
    found = keep.garbage(store, {name("e")})
    assert found.stages == []  # e, and c, which it came from
    store_verb(["gc", "delete=true", f"store={store.url}"], lambda config: {name("e")})
    assert name("c") in store.published()


def test_gc_deletes_nothing_where_no_study_is_known(store: Store) -> None:
    (Path(store.url) / "studies/one.json").unlink()
    with pytest.raises(UserError, match="no study is known here"):
        store_verb(["gc", "delete=true", f"store={store.url}"])
    assert len(store.published()) == 5


def test_gc_takes_quarantined_stages(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.folder(name("b")) / "weights.bin").unlink()
    store.quarantine(name("b"))
    assert "quarantined stage: quarantine/bbbb" in said(capsys, "gc", f"store={store.url}")
    said(capsys, "gc", "delete=true", f"store={store.url}")
    assert list((Path(store.url) / "quarantine").iterdir()) == []


def test_a_study_goes_elsewhere_and_is_the_same(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.tar"
    assert "3 stages written" in said(capsys, "export", "study=one", f"file={file}", f"store={store.url}")
    other = Store(tmp_path / "other")
    publish(other, name("a"), content=b"there before")
    told = said(capsys, "import", f"file={file}", f"store={other.url}")
    assert "2 stages came" in told
    assert "1 were there already" in told
    assert other.published() == {name("a"), name("b"), name("d")}
    assert (other.checked(name("a")) / "weights.bin").read_bytes() == b"there before"
    for fingerprint in (name("b"), name("d")):
        assert stage_files(other.folder(fingerprint)) == stage_files(store.folder(fingerprint))
    assert other.read_json("studies/one.json") == store.read_json("studies/one.json")
    assert sorted(path.name for path in Path(other.url).iterdir()) == ["stages", "store.json", "studies", "work"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar", "other", "store"]


def test_a_study_goes_from_object_storage_to_a_disk_and_back(store: Store, bucket: str, tmp_path: Path) -> None:
    remote, other = Store(bucket), Store(tmp_path / "other")
    assert keep.export(store, "one", tmp_path / "one.tar") == (3, 1)
    assert keep.import_(remote, tmp_path / "one.tar") == (3, 0)
    assert keep.verify(remote) == []
    assert [row["bytes"] for row in keep.rows(remote)] == [
        sum(size for key, size in remote.place.sizes("stages").items() if row["fingerprint"] in key)
        for row in keep.rows(remote)
    ]
    assert keep.export(remote, "one", tmp_path / "two.tar") == (3, 1)
    assert keep.import_(other, tmp_path / "two.tar") == (3, 0)
    for fingerprint in (name("a"), name("b"), name("d")):
        assert stage_files(other.folder(fingerprint)) == stage_files(store.folder(fingerprint))
    publish(remote, name("c"))
    found = keep.garbage(remote, ())
    assert [row["fingerprint"] for row in found.stages] == [name("c")]
    keep.remove(remote, found)
    assert remote.published() == {name("a"), name("b"), name("d")}


def repacked(file: Path, change: str) -> None:
    """The tar file with one thing wrong."""
    with tarfile.open(file) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    members: list[tuple[tarfile.TarInfo, bytes]] = [(tarfile.TarInfo(key), value) for key, value in content.items()]
    place = f"stages/bb/{name('b')}"
    if change == "changed":
        members = [(info, b"phase 9" if info.name == f"{place}/weights.bin" else data) for info, data in members]
    elif change == "missing":
        members = [(info, data) for info, data in members if info.name != f"{place}/weights.bin"]
    elif change == "newer":
        members = [(info, b'{"format": 3}' if info.name == "store.json" else data) for info, data in members]
    elif change == "link":
        info = tarfile.TarInfo(f"{place}/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        members.append((info, b""))
    elif change == "record":
        record = json.loads(content[f"{place}/stage.json"])
        record["files"] = {"../../../../secret": "0"}
        encoded = json.dumps(record).encode()
        members = [(info, encoded if info.name == f"{place}/stage.json" else data) for info, data in members]
    else:
        members.append((tarfile.TarInfo(change), b"x"))
    with tarfile.open(file, "w:") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("changed", r"weights\.bin: not as it was published\. Nothing was imported"),
        ("missing", r"weights\.bin: not as it was published"),
        ("newer", "written by a newer ablab"),
        ("link", "does not belong"),
        ("record", "by a path"),
        ("../outside", "'../outside' does not belong"),
        ("/tmp/outside", "does not belong"),
        (f"stages/aa/{'b' * 64}/x", "does not belong"),
        (f"stages/bb/{'b' * 64}/deep/x", "does not belong"),
    ],
)
def test_a_file_that_is_no_exported_study_changes_nothing(store: Store, tmp_path: Path, change: str, says: str) -> None:
    file = tmp_path / "one.tar"
    keep.export(store, "one", file)
    repacked(file, change)
    other = Store(tmp_path / "other")
    with pytest.raises(UserError, match=says):
        keep.import_(other, file)
    assert stage_files(tmp_path / "other") == {}


def test_an_import_of_what_is_being_run_is_refused(store: Store, tmp_path: Path) -> None:
    keep.export(store, "one", tmp_path / "one.tar")
    other = Store(tmp_path / "other")
    with other.claim(name("d")) as hold:
        with pytest.raises(UserError, match="is running this stage"):
            keep.import_(other, tmp_path / "one.tar")
        other.publish(hold, *write(hold, b"numbers"))
    assert keep.import_(other, tmp_path / "one.tar") == (0, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected one of its words"),
        (["lss"], "Did you mean 'ls'"),
        (["export", "file=x.tar"], "name study="),
        (["import"], "name file="),
        (["export", "study=two", "file=x.tar"], "study=two: .* knows no such study.*one"),
        (["import", "file=nowhere.tar"], "file=nowhere.tar: there is no such file"),
        (["gc", "delete=maybe"], "delete=maybe: expected true or false"),
        (["ls", "delete=true"], "delete"),
        (["ls", "stor=x"], "stor.*Did you mean"),
    ],
)
def test_words_that_are_wrong(store: Store, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=f"(?s){says}"):
        store_verb([*words, f"store={store.url}"] if words else words)


def test_a_tar_file_that_is_none(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar file")
    with pytest.raises(UserError, match="no tar file"):
        keep.import_(store, tmp_path / "x.tar")
