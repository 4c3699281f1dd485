"""Engines that cannot be had: shares of a GPU that are none, clusters that are none, a machine smaller than asked."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from working_folder import Folder

COUNT = """
question: How far?
command:
  run: python count.py {n} {seed} {out}
  numbers: metrics.json
  code: [count.py]
base: {n: 1, engine.threads: 1}
factors:
  n: {1: {n: 1}, 2: {n: 2}}
seeds: [0]
measure: {far: higher}
"""
SCRIPT = """
import json, sys
open(sys.argv[3] + "/metrics.json", "w").write(json.dumps({"far": int(sys.argv[1])}))
"""


@pytest.fixture
def count(folder: Folder) -> Folder:
    """A folder whose study `count` runs a program, two stages of a moment each."""
    folder.write("count.py", SCRIPT)
    folder.write("sweeps/count.yaml", COUNT)
    return folder


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", ["engine.gpu=0", "above 0"]),
        ("-1", ["engine.gpu=-1", "above 0"]),
        ("2", ["engine.gpu=2", "up to 1"]),
        ("two", ["engine.gpu", "expected a number", "'two'"]),
        ("null", ["engine.gpu", "expected a number", "None"]),
        ("nan", ["engine.gpu=nan", "finite"]),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_a_share_of_a_gpu_that_is_none(folder: Folder, verb: str, value: str, says: list[str]) -> None:
    folder.refused(verb, "tiny", "engine=ray", f"engine.gpu={value}", says=says)
    assert folder.published() == {}


@pytest.mark.parametrize(
    ("flags", "value", "has"),
    [("avx2", "bf16", "fp32"), ("avx512_bf16 avx512_fp16", "fp16", "bf16, fp32"), ("amx_bf16", "tf32", "bf16, fp32")],
)
def test_a_precision_that_the_processor_has_not(
    folder: Folder, flags: str, value: str, has: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablab.machine._cpuinfo", lambda: f"model name\t: Chip 9\nflags\t\t: fpu {flags} sse")
    monkeypatch.setattr("ablab.machine._processor_name", lambda: "Chip 9")
    says = [f"engine.precision={value}", "Chip 9", f"it has {has}"]
    folder.refused("plan", "tiny", "engine.device=cpu", f"engine.precision={value}", says=says)
    assert folder.published() == {}


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:port", "ray://"])
def test_an_address_that_is_none_is_one_message_and_leaves_nothing(count: Folder, address: str) -> None:
    count.refused("sweep", "count", f"engine.address={address}", says=[f"engine.address={address}", "no Ray cluster"])
    assert list((count.path / ".ablab/store/sweeps").glob("*.json")) == []


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_is_no_cluster_is_given_up(count: Folder, mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.engine.ray.START_SECONDS", 5)
    began = time.monotonic()
    says = [f"engine.address={mute}: no Ray cluster answers there", "ray.log says why", "engine=inline"]
    count.refused("sweep", "count", f"engine.address={mute}", says=says)
    assert time.monotonic() - began < 20
    assert list((count.path / ".ablab/store/sweeps").glob("*.json")) == []


def test_an_interrupt_ends_the_wait_for_a_cluster(count: Folder, mute: str) -> None:
    process = count.start("sweep", "count", f"engine.address={mute}")
    session = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children: list[str] = []
    try:
        until = time.monotonic() + 60
        while not (children := session.read_text().split()) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(45) == 130  # half of what it would wait for the cluster; it may be importing MLflow
    finally:
        for pid in [process.pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_more_threads_than_cores_still_run(count: Folder) -> None:
    """A stage that fits on no node is started all the same, with what the largest has: never waited for in silence."""
    threads = (os.cpu_count() or 1) + 62
    result = count.run("sweep", "count", f"engine.threads={threads}")
    assert result.code == 0, result.err
    assert "2 stages ran" in result.err


def test_somebody_elses_cluster_on_this_machine_is_not_joined(count: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell of a node where `ray start` ran: without engine.address the sweep keeps to itself."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    result = count.run("sweep", "count")
    assert result.code == 0, result.err


KILL = """
import os, signal
if os.path.exists("kill"):
    os.killpg(int(open("kill").read()), signal.SIGKILL)
    os.remove("kill")
"""


def test_a_mlflow_server_that_dies_in_mid_sweep(count: Folder, database: Path) -> None:
    """The first program of the sweep kills it. All the same everything runs, and the same command records it."""
    count.write("server.db", database.read_bytes())
    count.write("count.py", KILL + SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    words = ["sweep", "count", "engine=inline", f"tracking.uri={uri}"]

    with served(count.path, port) as server:
        count.write("kill", str(server))
        first = count.run(*words)
    assert first.code == 2, first.err
    assert "Traceback" not in first.err
    assert f"tracking.uri={uri}: no MLflow there" in first.message
    assert not (count.path / "kill").exists()
    kept = count.published()
    assert len(kept) == 2

    with served(count.path, port):
        again = count.run(*words)
        assert again.code == 0, again.err
        assert "0 stages ran, 2 were in the store" in again.err
        assert count.published() == kept
        assert count.run("report", "study=count", f"tracking.uri={uri}").code == 0


@contextlib.contextmanager
def served(folder: Path, port: int) -> Iterator[int]:
    """`mlflow server` on server.db in a process group of its own, whose id this is."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command + places,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        until = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
