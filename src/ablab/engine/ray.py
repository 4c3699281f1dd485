"""A pool of workers that Ray runs: on this machine, where it starts by itself, or on a cluster (`engine.address`).

Ray is held by a process of its own (ray_session.py), which this one talks to in lines of JSON: when one of Ray's own
processes dies, Ray ends the process that uses it, and that must not be the one that holds the sweep. Such a session
is started anew, and what it ran is lost and tried again.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.engine.execute import Deliver
from ablab.errors import UserError
from ablab.stages.declare import KINDS
from ablab.store import Store
from ablab.study.plan import Stage

SILENT_SECONDS = 3.0  # that a start may take without a word
START_SECONDS = 90  # a session that is not ready by then never will be
SESSIONS = 5  # in a row that end without anything having come of them
UNKNOWN_MB = 1500.0  # a stage's memory, where none of its like was measured
ROOM_LEFT = 0.9  # of the memory that is free when a session starts


class RayPool:
    """See ablab.engine.execute.Pool.

    engine: the configuration group. memory_mb: expected peak memory of stages, by fingerprint. Ray begins to start when
    this is made, and is waited for by `ready`.
    """

    def __init__(
        self, store: Store, engine: Mapping[str, Any], memory_mb: Mapping[str, float], kinds: set[str]
    ) -> None:
        self._store, self._engine, self._memory = store, engine, memory_mb
        self._kinds = sorted(kinds)
        self._running: dict[str, dict[str, float]] = {}  # fingerprint -> what it needs
        self._nodes: list[dict[str, float]] = []
        self._fruitless = 0
        self._log = store.local / "ray.log"
        # On a cluster a folder may be another one on each node: every worker looks for this document first.
        self._witness = f"sweeps/{uuid.uuid4().hex}.json" if engine["address"] and store.on_disk else None
        if self._witness:
            store.write_json(self._witness, {"pid": os.getpid()})
        self._launch()

    def ready(self) -> RayPool:
        """Wait until stages can be started.

        Raises UserError where Ray cannot start, or no cluster answers at engine.address.
        """
        try:
            self._await()
        except BaseException:
            self.close()
            raise
        return self

    def room(self, stage: Stage, alone: bool) -> bool:
        """First fit of what runs and of this one onto the nodes."""
        free = [dict(node) for node in self._nodes]
        needs = self._needs(stage, alone)
        for one in sorted(self._running.values(), key=lambda need: -need["CPU"]):
            _put(free, one)
        return _put(free, needs)

    def start(self, stage: Stage, expired: Any) -> None:
        needs = self._needs(stage, False)
        self._running[stage.fingerprint] = needs
        self._send({"stage": asdict(stage), "expired": expired, "needs": needs})

    def wait(self, deliver: Deliver, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            lines = self._read(max(until - time.monotonic(), 0.0))
            if lines is None:
                self._start_anew(deliver)
                return
            for line in lines:
                self._take(json.loads(line), deliver)
            if lines or time.monotonic() >= until:
                return

    def close(self) -> None:
        """The session ends with the socket; what of it does not is killed, while this process goes on."""
        self._remove_witness()
        self._socket.close()
        threading.Thread(target=self._end, args=(self._process,), daemon=True).start()

    def _remove_witness(self) -> None:
        if self._witness:
            (self._store.local / self._witness).unlink(missing_ok=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        _kill_all_of(process.pid)
        process.wait()

    def _needs(self, stage: Stage, alone: bool) -> dict[str, float]:
        engine = stage.config.get("engine", {})
        ranks = engine.get("ranks", 1)
        needs = {
            "CPU": float(engine.get("threads", 1) * ranks),
            "GPU": float(self._engine["gpu"] * ranks) if engine.get("device") == "cuda" else 0.0,
            "memory": math.inf if alone else ranks * self._memory.get(stage.fingerprint, UNKNOWN_MB),
        }
        # Alone, a stage gets what a whole node has; one that needs more than any node has gets that too. A GPU that
        # this machine lacks is the stage's own to complain of; on a cluster a node that has one may come yet.
        for what in needs:
            most = max((node[what] for node in self._nodes), default=0.0)
            if most or what == "memory" or (what == "GPU" and not self._engine["address"]):
                needs[what] = min(needs[what], most)
        return needs

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ablab.engine.ray_session", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C is for this process to hear
            )
        theirs.close()
        self._socket, self._unread = ours, b""
        self._send(
            {
                "address": self._engine["address"],
                "store": self._store.address,
                "witness": self._witness,
                "folder": os.getcwd(),
                "cores": machine.cores(),
                "gpus": machine.gpus(),
                "memory": machine.free_memory() / 1e6 * ROOM_LEFT,
                "modules": [KINDS[kind].module for kind in self._kinds],
            }
        )

    def _await(self) -> None:
        began = time.monotonic()
        until, told = began + START_SECONDS, False
        while not self._nodes:
            lines = self._read(min(max(until - time.monotonic(), 0.0), 1.0))
            if not told and time.monotonic() - began > SILENT_SECONDS:
                told = True
                what = (
                    f"for the Ray cluster at {self._engine['address']}"
                    if self._engine["address"]
                    else "for Ray to start"
                )
                print(f"waiting {what}", file=sys.stderr, flush=True)
            if lines is None or time.monotonic() > until:
                _kill_all_of(self._process.pid)
                where = self._engine["address"]
                what = f"engine.address={where}: no Ray cluster answers there" if where else "engine=ray: no Ray starts"
                raise UserError(f"{what}; {self._log} says why. engine=inline goes without Ray")
            for line in lines:
                answer = json.loads(line)
                if "refused" in answer:
                    raise UserError(answer["refused"])
                self._nodes = answer["nodes"]

    def _start_anew(self, deliver: Deliver) -> None:
        """The session died, or one of Ray's own processes and with it the session."""
        self._fruitless += 1
        if self._fruitless > SESSIONS:
            raise UserError(
                f"engine=ray: Ray died {SESSIONS} times in a row; {self._log} says why. What was finished is kept; "
                "engine=inline goes without Ray"
            )
        lost, self._running, self._nodes = list(self._running), {}, []
        self._socket.close()
        _kill_all_of(self._process.pid)
        self._process.wait()
        self._launch()
        self._await()
        for fingerprint in lost:
            deliver(fingerprint, "lost", {"reason": "Ray died", "blame": "ray"})

    def _take(self, told: dict[str, Any], deliver: Deliver) -> None:
        if "nodes" in told:
            self._nodes = told["nodes"]
        elif told["what"] == "progress":
            deliver(told["fingerprint"], "progress", told["facts"])
        elif told["fingerprint"] in self._running:
            del self._running[told["fingerprint"]]
            self._fruitless = 0
            deliver(told["fingerprint"], told["what"], told["facts"])

    def _send(self, words: dict[str, Any]) -> None:
        with suppress(OSError):  # the session is dead: the next `wait` sees that too
            self._socket.sendall(json.dumps(words).encode() + b"\n")

    def _read(self, seconds: float) -> list[bytes] | None:
        """Whole lines that came within some time; None when the other side is gone."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return []
        try:
            came = self._socket.recv(1 << 20)
        except OSError:
            came = b""
        if not came:
            return None
        *lines, self._unread = (self._unread + came).split(b"\n")
        return lines


def _kill_all_of(session: int) -> None:
    """Kill every process of a session (in the system's sense): Ray's, which outlive the one that started them."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            if int((place / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(place.name), signal.SIGKILL)
    with suppress(OSError):  # where there is no /proc
        os.kill(session, signal.SIGKILL)


def _put(nodes: list[dict[str, float]], needs: dict[str, float]) -> bool:
    """Take what is needed from the first node that has it."""
    for node in nodes:
        if all(node.get(what, 0.0) + 1e-9 >= amount for what, amount in needs.items()):
            for what, amount in needs.items():
                node[what] = node.get(what, 0.0) - amount
            return True
    return False
