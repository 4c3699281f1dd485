"""The process that uses Ray: `python -m ablab.engine.ray_session FD`, in a socket's lines of JSON.

It reads what to connect to, then stages to run; it tells the nodes whenever they change, and what becomes of stages.
It ends, and all that it started with it, when the other side of the socket is gone.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import sys
import tempfile
import threading
import time
from typing import Any

LOOK_EVERY = 0.25  # seconds between looks at messages of running stages
NODES_EVERY = 2.0  # seconds between looks at the cluster's nodes
MB = 1_000_000
LONGEST_TEMP = 30  # characters


class Session:
    """Stages on their way through Ray."""

    def __init__(self, link: socket.socket, asked: dict[str, Any]) -> None:
        import ray

        self.ray: Any = ray
        self.link = link
        self.place = {key: asked[key] for key in ("store", "witness", "folder")}
        self.local = asked["address"] is None
        self._connect(asked)
        if self.local:
            threading.Thread(target=self._watch, daemon=True).start()
        self.mailbox: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Mailbox).remote()
        self.work = ray.remote(max_retries=0)(_work)
        # A GPU stays with the process that used it first, so where there are several a process is used only once.
        several = any(node["GPU"] > 1 for node in self.nodes())
        self.gpu_work = ray.remote(max_retries=0, max_calls=1 if several else 0)(_work)
        self.running: dict[str, Any] = {}  # fingerprint -> Ray's reference to what will come of it
        self._ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._emptied = 0.0
        self.tell({"nodes": self.nodes()})
        warm = ray.remote(_warm)
        for _ in range(int(sum(node["CPU"] for node in self.nodes())) if self.local else 0):
            warm.remote(asked["modules"])

    def _connect(self, asked: dict[str, Any]) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"}
        if self.local:
            self.ray.init(
                address="local",  # whatever else runs here, or RAY_ADDRESS names
                num_cpus=asked["cores"],
                num_gpus=asked["gpus"],
                _memory=int(asked["memory"] * MB),
                object_store_memory=80 * MB,  # nothing big goes through it
                include_dashboard=False,
                _temp_dir=_short_folder(),
                **quiet,
            )
        else:
            where = asked["address"]
            if where == "auto":
                where = self.ray._private.services.canonicalize_bootstrap_address_or_die("auto")
            host, _, port = where.removeprefix("ray://").rpartition(":")
            if not host:
                raise ConnectionError("expected auto, HOST:PORT or ray://HOST:PORT")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself asks again for minutes
            # The folder's code travels to the nodes, results and data do not.
            excluded = ["/.ablab", "/reports", "/.venv", "/.git", "*.pt", "*.safetensors", "*.jpg", "*.png"]
            self.ray.init(
                address=asked["address"], runtime_env={"working_dir": os.getcwd(), "excludes": excluded}, **quiet
            )

    def _watch(self) -> None:
        """End with Ray's own processes: without them a call may wait for minutes before it fails."""
        node = self.ray._private.worker._global_node
        while not {kind for kind, _ in node.dead_processes()} & {"raylet", "gcs_server"}:
            time.sleep(LOOK_EVERY)
        os._exit(1)

    def nodes(self) -> list[dict[str, float]]:
        found = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [
            {"CPU": n.get("CPU", 0.0), "GPU": n.get("GPU", 0.0), "memory": n.get("memory", 0.0) / MB} for n in found
        ]

    def serve(self) -> None:
        unread, looked, known = b"", 0.0, self.nodes()
        while True:
            readable = select.select([self.link, self._bell], [], [], LOOK_EVERY)[0]
            if self.link in readable:
                came = self.link.recv(1 << 20)
                if not came:
                    return
                *lines, unread = (unread + came).split(b"\n")
                for line in lines:
                    self.start(json.loads(line))
            if self._bell in readable:
                self._bell.recv(4096)
            if readable or self.running:
                self.look()
            if time.monotonic() - looked > NODES_EVERY:
                looked = time.monotonic()
                if (now := self.nodes()) != known:
                    known = now
                    self.tell({"nodes": now})

    def start(self, asked: dict[str, Any]) -> None:
        needs, fingerprint = asked["needs"], asked["stage"]["fingerprint"]
        remote = self.gpu_work if needs["GPU"] else self.work
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "memory": int(needs["memory"] * MB)}
        reference = remote.options(**options).remote(asked["stage"], self.place, asked["expired"], self.mailbox)
        self.running[fingerprint] = reference
        reference.future().add_done_callback(lambda future: self._ring(fingerprint, future))

    def _ring(self, fingerprint: str, future: Any) -> None:
        """In a thread of Ray's: a stage ended."""
        self._ended.put((fingerprint, future))
        self._ringer.send(b".")

    def look(self) -> None:
        """Tell what stages said and which of them ended."""
        if time.monotonic() - self._emptied > LOOK_EVERY or self._ended.empty():
            self._emptied = time.monotonic()
            self._empty_mailbox()
        while not self._ended.empty():
            fingerprint, future = self._ended.get()
            del self.running[fingerprint]
            what, facts = self._ending(future)
            self.tell({"fingerprint": fingerprint, "what": what, "facts": facts})

    def _ending(self, future: Any) -> tuple[str, dict[str, Any]]:
        errors = self.ray.exceptions
        try:
            what, facts = future.result()
            return what, facts
        except errors.OutOfMemoryError as error:
            return "memory", {"reason": f"the machine ran out of memory ({_first(error)})"}
        except errors.RayError as error:  # the worker, its node or what it returned is lost
            return "lost", {"reason": _first(error)}

    def _empty_mailbox(self) -> None:
        try:
            for fingerprint, facts in self.ray.get(self.mailbox.take.remote(), timeout=5):
                self.tell({"fingerprint": fingerprint, "what": "progress", "facts": facts})
        except self.ray.exceptions.RayError:  # it died and comes back: what it held was only news
            pass

    def tell(self, words: dict[str, Any]) -> None:
        self.link.sendall(json.dumps(words).encode() + b"\n")


class _Mailbox:
    """Where workers leave what running stages say: an actor."""

    def __init__(self) -> None:
        self._held: list[tuple[str, dict[str, Any]]] = []

    def put(self, fingerprint: str, facts: dict[str, Any]) -> None:
        self._held.append((fingerprint, facts))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        held, self._held = self._held, []
        return held


def _work(stage: dict[str, Any], place: dict[str, Any], expired: Any, mailbox: Any) -> tuple[str, dict[str, Any]]:
    """In a worker: one stage, in the sweep's own folder where this node has it, else in the copy that Ray brought."""
    import platform

    from ablab.engine.stage import report
    from ablab.store import Store
    from ablab.study.plan import Stage

    if os.path.isdir(place["folder"]):
        os.chdir(place["folder"])
    if os.getcwd() not in sys.path:  # a `_target_` may name a class in the user's own module
        sys.path.insert(0, os.getcwd())
    store = Store(place["store"])
    if place["witness"] and store.read_json(place["witness"]) is None:
        why = f"the node {platform.node()} does not see the store {place['store']}; put it where every node does"
        return "unusable", {"reason": f"store={place['store']}: {why} (a shared folder, or s3://...)"}
    asked = Stage(**stage | {"splits": tuple(stage["splits"]), "images": tuple(stage["images"])})
    return report(
        asked,
        store,
        lambda facts: mailbox.put.remote(asked.fingerprint, facts),
        tuple(expired) if expired else None,
    )


def _warm(modules: list[str]) -> None:
    """In a worker: import what stages will, before the first of them comes."""
    import importlib

    for module in modules:
        importlib.import_module(module)


def _short_folder() -> str:
    """Where Ray keeps sockets, whose whole paths may have 107 characters."""
    folder = tempfile.gettempdir()
    return os.path.join(folder if len(folder) <= LONGEST_TEMP else "/tmp", "ray")


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    asked = json.loads(link.makefile("rb").readline())
    # Before Ray is imported: no usage reports; and one machine alone opens no port beyond the loopback address.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if asked["address"] is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        session = Session(link, asked)
    except (OSError, RuntimeError, ValueError) as error:  # OSError: no connection, none in time
        where = asked["address"]
        lead = "" if "pip package" in str(error) else "no Ray cluster answers there: "
        refused = f"engine.address={where}: {lead}{_first(error)}"
        refused = refused if where else f"engine=ray: Ray does not start ({_first(error)})"
        link.sendall(json.dumps({"refused": refused}).encode() + b"\n")
        return
    try:
        session.serve()
    except OSError:  # the other side is gone
        pass
    finally:
        session.ray.shutdown()


if __name__ == "__main__":
    main()
