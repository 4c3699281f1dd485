"""Two processes on one store: stages of a few bytes, and a holder that is told what to do over a pipe."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ablab.store import BusyError, Hold, LostLeaseError, Store

FINGERPRINT = "ab" + "0" * 62
SPAWN = multiprocessing.get_context("spawn")


def write(hold: Hold, content: bytes, **facts: Any) -> tuple[dict[str, Any], Path]:
    """A record and a folder of files to publish."""
    out = hold.work / "out"
    out.mkdir(exist_ok=True)
    (out / "weights.bin").write_bytes(content)
    return {"fingerprint": hold.fingerprint, "kind": "train", "label": "one", "inputs": {}, **facts}, out


def publish(store: Store, fingerprint: str = FINGERPRINT, content: bytes = b"weights", **facts: Any) -> dict[str, Any]:
    with store.claim(fingerprint) as hold:
        return store.publish(hold, *write(hold, content, **facts))


def _serve(url: str, ttl: float, pipe: Connection) -> None:
    """Hold the stage and do as told; each answer is what came of it."""
    try:
        with Store(url, ttl).claim(FINGERPRINT) as hold:
            pipe.send((hold.token, str(hold.work)))
            while True:
                word, argument = pipe.recv()
                try:
                    if word == "save":
                        (hold.work / "checkpoint.pt").write_text(argument)
                        hold.keep()
                        pipe.send("saved")
                    elif word == "publish":
                        pipe.send(Store(url, ttl).publish(hold, *write(hold, argument))["files"])
                    elif word == "check":
                        hold.check()
                        pipe.send("mine")
                    elif word == "stopping":
                        pipe.send(hold.stopping())
                    else:
                        break
                except LostLeaseError:
                    pipe.send("lost")
    except BusyError as busy:
        pipe.send(("busy", busy.pid))


class Other:
    """Another process that claims the stage, and says (token, work folder) or ("busy", pid)."""

    def __init__(self, url: str | Path, ttl: float) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(str(url), ttl, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.claimed = self.hears()

    def hears(self) -> Any:
        assert self._pipe.poll(60), "no answer"
        return self._pipe.recv()

    def says(self, word: str, argument: Any = None) -> None:
        self._pipe.send((word, argument))

    def asked(self, word: str, argument: Any = None) -> Any:
        self.says(word, argument)
        return self.hears()

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)


@contextmanager
def another(url: str | Path, ttl: float = 60.0) -> Iterator[Other]:
    other = Other(url, ttl)
    try:
        yield other
    finally:
        other.process.kill()
        other.process.join()


def stage_files(root: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def record_on_disk(root: Path, fingerprint: str = FINGERPRINT) -> dict[str, Any]:
    return dict(json.loads((root / "stages" / fingerprint[:2] / fingerprint / "stage.json").read_text()))
