"""A store in object storage, against a real S3 server, which boto3 looks into."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from working import FINGERPRINT, another, publish, write

from ablab.cli import main
from ablab.errors import UserError
from ablab.store import BusyError, DamagedError, LostLeaseError, Store, StoreError


def objects() -> dict[str, bytes]:
    """Everything in the bucket, read by other means."""
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket="results").get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="results", Key=each["Key"])["Body"].read() for each in found}


def stage_objects() -> dict[str, bytes]:
    return {key: content for key, content in objects().items() if "/stages/" in key}


def local_files(store: Store) -> list[Path]:
    return [path for path in store.local.rglob("*") if path.is_file()]


def busy(store: Store) -> BusyError:
    with pytest.raises(BusyError) as caught:
        store.claim(FINGERPRINT)
    return caught.value


def test_a_stage_goes_there_and_comes_back(bucket: str) -> None:
    store = Store(bucket)
    assert (store.on_disk, store.url, store.published(), store.has(FINGERPRINT)) == (False, bucket, set(), False)
    record = publish(store, numbers={"map": 0.5})
    assert store.has(FINGERPRINT)
    assert store.published() == {FINGERPRINT}
    assert store.read(FINGERPRINT) == record
    assert local_files(store) == []
    folder = store.checked(FINGERPRINT)
    assert [f.name for f in folder.iterdir()] == ["weights.bin"]
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert folder.is_relative_to(store.local)

    stages = [key.removeprefix("deep/store/") for key in objects()]
    assert sorted(key.partition("/")[0] for key in stages) == ["stages", "stages", "store.json"]
    assert json.loads(objects()["deep/store/store.json"]) == {"format": 2}


def test_a_local_copy_is_used_again_unless_it_is_damaged(bucket: str) -> None:
    store = Store(bucket)
    publish(store)
    file = store.checked(FINGERPRINT) / "weights.bin"
    before = file.stat().st_ino
    assert store.checked(FINGERPRINT) == file.parent
    assert file.stat().st_ino == before
    file.write_bytes(b"weightz")
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"weights"


def test_a_second_publication_keeps_the_first_and_leaves_nothing(bucket: str) -> None:
    store, other = Store(bucket), Store(bucket)
    with store.claim(FINGERPRINT) as hold:
        record, out = write(hold, b"second")
        record["files"] = {"weights.bin": ""}

        def late() -> None:
            """Another one publishes after the last check: only the conditional write tells them apart."""
            with other.claim(FINGERPRINT, busy(other).beat) as second:
                other.publish(second, *write(second, b"first"))
            out.mkdir(parents=True)
            (out / "weights.bin").write_bytes(b"second")

        assert store.place.publish(FINGERPRINT, 1, record, out, late) is False
        first = stage_objects()
        assert len(first) == 2
        assert b"first" in first.values()
        assert store.place.publish(FINGERPRINT, 1, record, out, lambda: None) is False
        assert stage_objects() == first
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"first"


def test_a_holder_that_is_superseded_at_the_last_moment_publishes_nothing(bucket: str) -> None:
    store = Store(bucket)
    with store.claim(FINGERPRINT) as orphan:
        record, out = write(orphan, b"orphan")

        def late() -> None:
            assert len(stage_objects()) == 1, "its files are there, its record is not"
            store.claim(FINGERPRINT, busy(store).beat)
            orphan.check()

        with pytest.raises(LostLeaseError):
            store.place.publish(FINGERPRINT, 1, record | {"files": {"weights.bin": ""}}, out, late)
    assert stage_objects() == {}


def test_two_processes_cannot_both_hold_a_stage(bucket: str) -> None:
    store = Store(bucket)
    assert store.published() == set()
    with another(bucket) as first:
        assert first.claimed[0] == 1
        assert busy(store).pid == first.process.pid
        with another(bucket) as second:
            assert second.claimed == ("busy", first.process.pid)
        assert store.place.take(FINGERPRINT, 1, {"nonce": "00"}) is None, "the token is taken, whoever asks"
        assert first.asked("check") == "mine"
        assert first.asked("publish", b"theirs") == store.read(FINGERPRINT)["files"]
        assert store.published() == {FINGERPRINT}, "no listing is remembered"
    assert not [key for key in objects() if "/work/" in key]


def test_a_killed_holders_checkpoint_is_handed_over(bucket: str) -> None:
    store = Store(bucket)
    with another(bucket) as other:
        other.asked("save", "epoch 1")
        other.asked("save", "epoch 2")
        kept = [content for key, content in objects().items() if "/work/" in key and b"epoch" in content]
        assert kept == [b"epoch 2"], "what is superseded goes"
        other.signal(signal.SIGKILL)
        other.process.join()
        with store.claim(FINGERPRINT) as hold:
            assert (hold.token, (hold.work / "checkpoint.pt").read_text()) == (2, "epoch 2")
            assert len(list(hold.work.parent.iterdir())) == 1, "the dead one's folder on this machine is cleared"
    with store.claim(FINGERPRINT) as hold:  # the one between had saved nothing
        assert (hold.token, (hold.work / "checkpoint.pt").read_text()) == (3, "epoch 2")
        (hold.work / "checkpoint.pt").write_text("epoch 3")
    with store.claim(FINGERPRINT) as hold:  # released: kept without a word
        assert (hold.work / "checkpoint.pt").read_text() == "epoch 3"
        store.publish(hold, *write(hold, b"whole"))
    assert not [key for key in objects() if "/work/" in key]
    assert local_files(store) == []


def test_a_stopped_holder_wakes_up_to_nothing(bucket: str) -> None:
    store = Store(bucket)
    with another(bucket) as other:
        other.asked("save", "epoch 1")
        other.signal(signal.SIGSTOP)
        with store.claim(FINGERPRINT, busy(store).beat) as hold:
            other.signal(signal.SIGCONT)
            assert other.asked("check") == "lost"
            other.says("publish", b"theirs")
            other.process.join(30)
            assert stage_objects() == {}
            store.publish(hold, *write(hold, b"ours"))
    assert b"ours" in stage_objects().values()
    assert not [key for key in objects() if "/work/" in key]


def test_an_orphan_leaves_nothing_behind_its_successor(bucket: str) -> None:
    store = Store(bucket)
    with pytest.raises(LostLeaseError), store.claim(FINGERPRINT) as orphan:  # noqa: PT012
        with store.claim(FINGERPRINT, busy(store).beat) as hold:
            work = orphan.work
            work.mkdir()  # on another machine it would still be there
            store.publish(hold, *write(hold, b"ours"))
        before = objects()
        (work / "checkpoint.pt").write_text("late")
        with pytest.raises(FileNotFoundError):
            store.place.beat(FINGERPRINT, orphan.token, "00", 5)
        with pytest.raises(LostLeaseError):
            orphan.keep()
        assert objects() == before
        orphan.check()


def test_a_damaged_object_is_named_and_set_aside(bucket: str) -> None:
    store = Store(bucket)
    publish(store)
    key = next(key for key in stage_objects() if key.endswith("weights.bin"))
    boto3.client("s3").put_object(Bucket="results", Key=key, Body=b"weightz")
    with pytest.raises(DamagedError, match=r"weights\.bin: not as it was published"):
        store.checked(FINGERPRINT)
    with pytest.raises(DamagedError):
        store.verify(FINGERPRINT)
    assert store.quarantine(FINGERPRINT)
    assert stage_objects() == {}
    assert len([key for key in objects() if "/quarantine/" in key]) == 2
    publish(store)
    assert store.quarantine(FINGERPRINT) is None
    assert store.checked(FINGERPRINT)


@pytest.mark.parametrize("change", [{"at": "../../elsewhere"}, {"files": {"../../weights": "0"}}])
def test_a_record_that_names_a_path_is_not_trusted(bucket: str, change: dict[str, Any]) -> None:
    store = Store(bucket)
    publish(store)
    key = next(key for key in stage_objects() if key.endswith("stage.json"))
    content = json.dumps(json.loads(objects()[key]) | change)
    boto3.client("s3").put_object(Bucket="results", Key=key, Body=content.encode())
    with pytest.raises(DamagedError, match="by a path"):
        store.checked(FINGERPRINT)


def test_documents_and_stopping(bucket: str) -> None:
    store = Store(bucket)
    assert store.read_json("studies/stem.json") is None
    store.write_json("studies/stem.json", {"places": {}})
    assert store.read_json("studies/stem.json") == {"places": {}}
    assert store.documents("studies") == ["studies/stem.json"]
    with store.claim(FINGERPRINT) as hold:
        assert not hold.stopping()
        store.ask_to_stop(FINGERPRINT)
        assert hold.stopping()
        assert [row["pid"] for row in store.holders()] == [os.getpid()]


# ---------------------------------------------------------------------------------------------- bad places


@pytest.fixture
def rights_matter(s3_server: str, bucket: str) -> Iterator[None]:
    """The server, which knows no user, asks from now on who calls."""

    def ask_after(requests: str) -> None:
        call = urllib.request.Request(
            f"{s3_server}/moto-api/reset-auth",
            data=requests.encode(),
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(call).close()

    ask_after("0")
    yield
    ask_after("inf")


def refused(capsys: pytest.CaptureFixture[str], folder: Path, url: str) -> str:
    """What the command line says to a sweep with such a store, before anything has run."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["sweep", "study=quickstart", f"store={url}"]) == 2
    finally:
        os.chdir(before)
    told = capsys.readouterr().err
    assert told.startswith(f"ablab: store={url}: ")
    assert len(told.splitlines()) == 1
    return told


@pytest.mark.usefixtures("rights_matter")
def test_wrong_credentials(bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = refused(capsys, tmp_path, bucket)
    assert "no right to use it" in told
    assert "AWS_ACCESS_KEY_ID" in told


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(StoreError, match=r"(?s)store=s3://results/deep/store: no right to use it.*AWS_PROFILE"):
        Store(bucket)


@pytest.mark.usefixtures("bucket")
def test_no_such_bucket(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there is no such bucket" in refused(capsys, tmp_path, "s3://resalts/store")


def test_a_closed_port(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    told = refused(capsys, tmp_path, bucket)
    assert "cannot be reached" in told
    assert str(port) in told
    assert "AWS_ENDPOINT_URL" in told


def test_a_newer_format(bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket="results", Key="deep/store/store.json", Body=b'{"format": 3}')
    assert "written by a newer ablab (format 3" in refused(capsys, tmp_path, bucket)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s4://results", "unknown protocol 's4'. Did you mean 's3'"),
        ("ftp://me:secret@127.0.0.1:9/x", r"store=ftp://me:\*\*\*@127.0.0.1:9/x"),
        ("gs://results", "gcsfs is needed.*pip install gcsfs"),
    ],
)
def test_no_storage(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_a_storage_that_ignores_conditions_is_found_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(bucket)
    system = store.place._files  # type: ignore[union-attr]
    writing = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda path, value, mode="overwrite": writing(path, value))
    with pytest.raises(StoreError, match="cannot refuse to write"):
        store.claim(FINGERPRINT)
    assert objects() == {}


def test_what_a_killed_attempt_had_uploaded_is_cleared(bucket: str) -> None:
    store = Store(bucket)
    boto3.client("s3").put_object(
        Bucket="results", Key=f"deep/store/stages/ab/{FINGERPRINT}/000001-ab/weights.bin", Body=b""
    )
    assert store.published() == set()
    publish(store)
    assert len(stage_objects()) == 2
    assert store.checked(FINGERPRINT)
