"""Two real processes on one store: one works, the other waits, takes over from the dead, and never from the living."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from working import FINGERPRINT, another, publish, stage_files, write

from ablab import processes
from ablab.store import BusyError, LostLeaseError, Store
from ablab.store import lease as leases

TTL = 0.6  # seconds; where a holder must be found alive


def busy(store: Store) -> BusyError:
    with pytest.raises(BusyError) as caught:
        store.claim(FINGERPRINT)
    return caught.value


def wait_for_death(store: Store) -> BusyError:
    """Watch the holder as a caller does, until its beat has not changed for ttl."""
    last, since = busy(store), time.monotonic()
    while time.monotonic() - since <= store.ttl:
        time.sleep(store.ttl / 20)
        now = busy(store)
        if now.beat != last.beat:
            last, since = now, time.monotonic()
    return last


def test_one_waits_while_the_other_publishes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with another(tmp_path) as other:
        assert busy(store).pid == other.process.pid
        holder = store.holders()[0]
        assert (holder["pid"], holder["gone"], holder["fingerprint"]) == (other.process.pid, False, FINGERPRINT)
        published = other.asked("publish", b"theirs")
        assert store.read(FINGERPRINT)["files"] == published
    assert store.holders() == []


def test_a_killed_holder_is_succeeded_at_once_with_its_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with another(tmp_path) as other:
        other.asked("save", "epoch 3")
        other.signal(signal.SIGKILL)
        other.process.join()
        assert store.holders()[0]["gone"]
        with store.claim(FINGERPRINT) as hold:  # ttl is a minute
            assert hold.token == 2
            assert (hold.work / "checkpoint.pt").read_text() == "epoch 3"
            assert not Path(other.claimed[1]).exists()


def test_a_killed_holder_that_nobody_has_reaped_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with another(tmp_path) as other:
        other.signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not store.holders()[0]["gone"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Path(f"/proc/{other.process.pid}").exists(), "a zombie until it is joined"
        store.claim(FINGERPRINT)


def test_a_stopped_holder_is_succeeded_after_ttl_and_wakes_up_to_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, TTL)
    with another(tmp_path, TTL) as other:
        other.asked("save", "epoch 3")
        other.signal(signal.SIGSTOP)
        seen = wait_for_death(store)
        with store.claim(FINGERPRINT, seen.beat) as hold:
            assert (hold.work / "checkpoint.pt").read_text() == "epoch 3"
            other.signal(signal.SIGCONT)
            assert other.asked("check") == "lost"
            (hold.work / "checkpoint.pt").write_text("epoch 4")
            other.says("publish", b"theirs")  # its folder is gone: it fails, and the lease says why
            assert (hold.work / "checkpoint.pt").read_text() == "epoch 4"
            other.process.join(30)
            assert other.process.exitcode == 1
            hold.check()
            ours = store.publish(hold, *write(hold, b"ours"))
    assert store.read(FINGERPRINT) == ours
    assert (store.checked(FINGERPRINT) / "weights.bin").read_bytes() == b"ours"
    assert list((tmp_path / "work").iterdir()) == []


def test_an_orphan_publishes_nothing_even_with_its_files_at_hand(tmp_path: Path) -> None:
    store = Store(tmp_path, TTL)
    with pytest.raises(LostLeaseError), store.claim(FINGERPRINT) as orphan:  # noqa: PT012
        record, out = write(orphan, b"orphan")
        other = store.claim(FINGERPRINT, busy(store).beat)  # taken for dead
        out.mkdir(parents=True)
        (out / "weights.bin").write_bytes(b"orphan")
        before = stage_files(tmp_path)
        with pytest.raises(LostLeaseError):
            store.publish(orphan, record, out)
        assert stage_files(tmp_path) == before
        other.check()
        raise RuntimeError("whatever an orphan runs into")


def test_a_holder_that_is_superseded_at_the_last_moment_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as orphan:
        record, out = write(orphan, b"orphan")
        publishing = store.place.publish

        def late(*arguments: object) -> bool:
            monkeypatch.setattr(store.place, "publish", publishing)
            store.claim(FINGERPRINT, busy(store).beat)
            out.mkdir(parents=True)
            (out / "weights.bin").write_bytes(b"orphan")
            return publishing(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(store.place, "publish", late)
        with pytest.raises(LostLeaseError):
            store.publish(orphan, record, out)
    assert not store.has(FINGERPRINT)


def test_a_living_holder_is_never_succeeded_though_clocks_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, TTL)
    with another(tmp_path, TTL) as other:
        first = busy(store)
        for jump in (-1e9, 1e9):
            monkeypatch.setattr(time, "time", lambda now=jump: now)
            beats = {busy(store).beat}
            until = time.monotonic() + 1.5 * TTL
            while time.monotonic() < until:
                beats.add(busy(store).beat)
                time.sleep(TTL / 20)
            assert len(beats) > 2
        with pytest.raises(BusyError):
            store.claim(FINGERPRINT, first.beat)  # seen long ago, but it has changed since
        assert other.asked("check") == "mine"


def test_a_released_stage_is_free_at_once_with_its_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.claim(FINGERPRINT) as hold:  # noqa: PT012
        (hold.work / "logs").mkdir()
        (hold.work / "logs/a.txt").write_text("a")
        (hold.work / "checkpoint.pt.tmp").write_text("half")
        write(hold, b"half")
        raise KeyboardInterrupt
    assert store.holders() == []
    with store.claim(FINGERPRINT) as hold:
        assert hold.token == 2
        found = {name for name in stage_files(hold.work) if not name.startswith("beat.")}
        assert found == {"lease.json", "logs/a.txt"}


def test_a_successor_has_copies_that_an_orphan_cannot_write_into(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as hold:
        file = (hold.work / "log").open("w")
        file.write("one")
        file.flush()
        successor = store.claim(FINGERPRINT, busy(store).beat)
        file.write("two")
        file.close()
        assert (successor.work / "log").read_text() == "one"


def test_a_claim_on_what_is_published_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    with store.claim(FINGERPRINT):
        pass
    assert list((tmp_path / "work").iterdir()) == []


def test_a_lease_that_was_cut_short_has_a_holder_until_ttl(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim(FINGERPRINT) as hold:
        (hold.work / "lease.json").write_text("")
        seen = busy(store)
        with store.claim(FINGERPRINT, seen.beat) as successor:
            assert successor.token == 2


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({}, False),
        ({"process_start": 1}, True),  # the number was given to another process since
        ({"pid": 2**22 + 5}, True),
        ({"process_start": 1, "boot": "another"}, False),
        ({"process_start": 1, "namespace": "pid:[1]"}, False),  # another container's
        ({"pid": 2**22 + 5, "process_start": None}, False),
        ({"pid": "1; rm"}, False),
        ({"pid": -1}, False),
    ],
)
def test_only_a_process_that_can_be_looked_for_is_known_to_be_gone(change: dict[str, object], gone: bool) -> None:
    assert processes.is_gone(leases.new_lease() | change) == gone


def test_asked_to_stop(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.ask_to_stop(FINGERPRINT)  # nobody is there
    with another(tmp_path) as other:
        assert other.asked("stopping") is False
        store.ask_to_stop(FINGERPRINT)
        assert other.asked("stopping") is True
        other.says("end")
        other.process.join(30)
    with store.claim(FINGERPRINT) as hold:
        assert not hold.stopping()  # it was asked of the one before


def test_a_slow_claim_does_not_take_a_token_that_others_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it was on its way to the first token, others took the first, and the second, which hides the first."""
    store, other = Store(tmp_path), Store(tmp_path)
    taking = store.place.take

    def late(*arguments: object) -> object:
        monkeypatch.setattr(store.place, "take", taking)
        other.claim(FINGERPRINT)
        other.claim(FINGERPRINT, busy(other).beat)
        return taking(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store.place, "take", late)
    assert busy(store).beat[0] == 2  # type: ignore[index]
    assert [path.name for path in (tmp_path / "work" / FINGERPRINT).iterdir()] == ["000002"]
