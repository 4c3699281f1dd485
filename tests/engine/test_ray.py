"""Sweeps on Ray through the command line: on one machine with what may die there, and on clusters made on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

STUDY: dict[str, Any] = {
    "question": "Does it run once?",
    "command": {"run": f"{sys.executable} work.py {{x}} {{seconds}} {{out}}", "numbers": "n.json", "code": ["work.py"]},
    "base": {"x": 0, "seconds": 1.0},
    "factors": {"x": {str(i): {"x": i} for i in range(6)}},
    "design": "grid",
    "seeds": [0],
    "measure": {"y": "higher"},
}
# Says in a file that it ran, takes a while, and says so again.
WORK = """
import json, os, pathlib, socket, sys, time
x, seconds, out = sys.argv[1:]
def say(what):
    with open("said", "a") as file:
        file.write(f"{what} {x}\\n")
say("began")
time.sleep(float(seconds))
pathlib.Path(out, "n.json").write_text(json.dumps({"y": int(x) ** 2}))
say("ended")
"""


class Sweep:
    """The command line in a folder, and the processes that come of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        (folder / "sweeps").mkdir()
        (folder / "sweeps" / "small.yaml").write_text(json.dumps(STUDY))
        (folder / "work.py").write_text(WORK)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ablab.cli", "sweep", "study=small", *words],
            cwd=self.folder,
            env=os.environ | {"ABLAB_TEST": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
        )

    def processes(self, words: str = "") -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (place / "environ").read_bytes() and words.encode() in (
                    place / "cmdline"
                ).read_bytes().replace(b"\0", b" "):
                    found.append(int(place.name))
        return found

    def said(self, what: str) -> list[str]:
        file = self.folder / "said"
        return sorted(line for line in file.read_text().splitlines() if line.startswith(what)) if file.exists() else []

    def table(self) -> str:
        return (self.folder / "reports" / "small" / "table.csv").read_text()

    def complete(self) -> bool:
        return len(list(self.folder.glob(".ablab/store/stages/*/*/stage.json"))) == 6


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    one = Sweep(tmp_path)
    yield one
    for process in one.processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def until(true: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}\n{process.stdout.read() if process.stdout else ''}")
        assert time.monotonic() < end, "nothing of the kind happened"
        time.sleep(0.05)
    return found


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def listening(processes: list[int]) -> set[str]:
    """Addresses at which processes listen, as the system writes them (hexadecimal)."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[at] for at in (1, 3, 9))
            if state == "0A" and inode in sockets:
                found.add(local.partition(":")[0])
    return found


def test_what_dies_on_one_machine_is_started_anew(sweep: Sweep) -> None:
    process = sweep.start("seconds=1.5")
    until(lambda: sweep.said("began"), process)
    addresses = listening(sweep.processes())
    # 127.0.0.1, and the same as an IPv6 socket sees it
    assert addresses, "Ray listens nowhere?"
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    kill(until(lambda: sweep.processes("ray::_work"))[0])
    until(lambda: sweep.said("ended"), process)
    kill(until(lambda: sweep.processes("raylet/raylet"))[0])
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0, told
    assert "Ray died" in told or "worker" in told
    assert sweep.complete()
    assert len(sweep.said("ended")) >= 6
    until(lambda: not sweep.processes(), seconds=30)  # nothing is left behind


def test_the_first_interruption_finishes_nothing_new_and_the_same_command_goes_on(sweep: Sweep) -> None:
    process = sweep.start()
    until(lambda: sweep.said("ended"), process)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    assert not sweep.complete()
    finished = sweep.said("ended")
    process = sweep.start()
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert sweep.complete()
    assert all(sweep.said("ended").count(one) == 1 for one in finished)


def test_two_sweeps_on_one_store_share_the_work(sweep: Sweep) -> None:
    both = [sweep.start("tracking.uri=sqlite:///first.db"), sweep.start("tracking.uri=sqlite:///second.db")]
    told = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(told)
    assert sweep.said("ended") == [f"ended {x}" for x in range(6)]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "auto", "nonsense"])
def test_a_cluster_that_does_not_answer_is_one_message(sweep: Sweep, address: str) -> None:
    process = sweep.start(f"engine.address={address}")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert f"engine.address={address}: no Ray cluster answers there" in told
    assert "Traceback" not in told


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def test_nodes_come_and_go_while_a_sweep_runs(sweep: Sweep, cluster: Any) -> None:
    second = cluster.add_node(num_cpus=1)
    process = sweep.start("seconds=3", f"engine.address={cluster.address}")
    until(lambda: len(sweep.said("began")) >= 2, process)
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0, told
    assert sweep.complete()
    assert sorted(set(sweep.said("ended"))) == [f"ended {x}" for x in range(6)]


def test_a_store_that_a_node_does_not_see_is_refused(sweep: Sweep, cluster: Any, tmp_path: Path) -> None:
    """A node in a mount namespace of its own, where another disk lies over the store."""
    store = tmp_path / "store"
    store.mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    start = f"mount -t tmpfs tmpfs {store} && exec ray start --address={cluster.address} --num-cpus=4 --block"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", start],
        env=os.environ | {"PATH": path, "ABLAB_TEST": sweep.mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with socket.create_connection(tuple(cluster.address.split(":")), timeout=10):
            pass
        process = sweep.start(f"engine.address={cluster.address}", f"store={store}")
        told, _ = process.communicate(timeout=120)
    finally:
        node.kill()
    assert process.returncode == 2, told
    assert "does not see the store" in told
