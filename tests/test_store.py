"""The store: whole or not at all, one worker at a time, damage named."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from pathlib import Path

import pytest

from ablab.errors import UserError
from ablab.store import Store

FINGERPRINT = "ab" + "0" * 62


def publish(store: Store, numbers: dict) -> dict:
    with store.claim(FINGERPRINT) as work:
        out = work / "out"
        out.mkdir()
        (out / "weights.bin").write_bytes(b"weights")
        return store.publish(FINGERPRINT, {"fingerprint": FINGERPRINT, "numbers": numbers}, out)


def test_a_published_stage_reads_back_with_checksums(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has(FINGERPRINT)
    publish(store, {"map": 0.5})
    record = store.read(FINGERPRINT)
    assert record["numbers"] == {"map": 0.5}
    assert record["files"] == {"weights.bin": hashlib.sha256(b"weights").hexdigest()}
    assert not (tmp_path / "work" / FINGERPRINT).exists()


def test_nothing_is_visible_before_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as work:
        (work / "out").mkdir()
        record = {"fingerprint": FINGERPRINT, "numbers": float("nan")}  # no JSON: it fails half-way
        with pytest.raises(ValueError, match="JSON"):
            store.publish(FINGERPRINT, record, work / "out")
    assert not store.has(FINGERPRINT)
    assert not list(tmp_path.glob("stages/*/*"))


@pytest.mark.parametrize("damage", ["", "{", '{"fingerprint": "other"}', "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    publish(store, {})
    file = store.folder(FINGERPRINT) / "stage.json"
    file.write_text(damage)
    with pytest.raises(UserError, match=r"stage\.json"):
        store.read(FINGERPRINT)


def _hold(root: Path, held: multiprocessing.Event, seconds: float) -> None:
    with Store(root).claim(FINGERPRINT):
        held.set()
        time.sleep(seconds)


def test_a_claim_waits_for_the_one_who_holds_it_and_survives_its_death(tmp_path: Path) -> None:
    held = multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(tmp_path, held, 60.0))
    other.start()
    assert held.wait(30)
    waited = []

    def waiting() -> None:
        waited.append(other.is_alive())
        other.kill()  # its lock goes with it

    with Store(tmp_path).claim(FINGERPRINT, waiting) as work:
        assert work.is_dir()
    assert waited == [True]
    other.join()
