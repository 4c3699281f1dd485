"""A MLflow server that is killed in the middle of a sweep and started again on the same record."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server
from sweep_of_events import Listener, before, happenings, shared
from what_mlflow_holds import STUDY, contents

from ablab import tracking
from ablab.errors import UserError
from ablab.tracking import live


@pytest.fixture
def server(tmp_path: Path, sqlite: str) -> Iterator[Server]:
    """Runs on the empty record `sqlite`."""
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def replayed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('replayed')}/mlflow.db"


def test_the_sweep_goes_on_and_the_record_is_caught_up(
    server: Server, replayed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(live, "LONGEST_PAUSE", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    events = list(happenings(shared()))
    told: list[str] = []
    listener = Listener(before(shared()), server.uri, told.append)
    epochs = [n for n, event in enumerate(events) if event[0] == "progress" and "at" in event[2]]
    half, most = epochs[len(epochs) // 2], epochs[-1]

    for event in events[:half]:
        listener(*event)
    listener.settle()
    assert told == []
    server.kill()
    for event in events[half:most]:
        listener(*event)
    while listener._trouble is None:  # nobody waits for it but this test
        time.sleep(0.05)
    listener(*events[most])
    listener(*events[most])
    assert len(told) == 1
    assert f"tracking.uri={server.uri}" in told[0]
    assert "The sweep goes on" in told[0]

    server.start()
    listener.settle()
    assert len(contents(server.uri)) == 5  # all four replicates and the study, though it was away
    server.kill()
    for event in events[most + 1 :]:
        listener(*event)
    listener.close()
    assert len(told) == 1
    with pytest.raises(UserError, match=r"tracking\.uri=http://127\.0\.0\.1"):
        tracking.record(shared(), server.uri)

    server.start()
    tracking.record(shared(), server.uri)
    assert [child["status"] for child in tracking.read(server.uri, STUDY)[1]] == ["complete"] * 4
    tracking.record(shared(), replayed)
    assert contents(server.uri) == contents(replayed)


def test_close_does_not_wait_for_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(live, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(sys.modules["ablab.tracking.connect"], "REACH_SECONDS", 2.0)
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        listener = Listener(before(shared()), f"http://127.0.0.1:{hanging.getsockname()[1]}", print)
        for event in happenings(shared()):
            listener(*event)
        asked, _ = hanging.accept()  # it is asked, and does not answer
        listener.close()
        assert listener._thread is not None
        assert listener._thread.is_alive()
        listener._thread.join(30)
        assert not listener._thread.is_alive()  # its question ran out of time, and it asks no other
        asked.close()
