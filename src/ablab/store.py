"""Content-addressed results of stages on disk.

    <root>/stages/<ab>/<abcdef...>/stage.json + files     published: whole, never changed again
    <root>/work/<abcdef...>/                              in progress: epoch checkpoints, the folder being written

A stage is written in its work folder and published by one rename, so that a crash leaves either all of it
or none. Whoever works on a stage holds a lock on its work folder; the system lets go of it if the process dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablab.errors import UserError


class Store:
    """Results by fingerprint under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()

    @property
    def local(self) -> Path:
        """A folder on this machine's disk for caches and event logs."""
        return self.root

    @property
    def data_cache(self) -> Path:
        """Where it is remembered what data sets hold."""
        return self.root / "data.json"

    def folder(self, fingerprint: str) -> Path:
        """Where a stage's files are, or will be, published."""
        return self.root / "stages" / fingerprint[:2] / fingerprint

    def has(self, fingerprint: str) -> bool:
        return (self.folder(fingerprint) / "stage.json").is_file()

    def read(self, fingerprint: str) -> dict[str, Any]:
        """A published stage's record.

        Raises UserError that names the file where it is damaged.
        """
        file = self.folder(fingerprint) / "stage.json"
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: the record is damaged ({error}); delete its folder to run it again") from None
        if not isinstance(record, dict) or record.get("fingerprint") != fingerprint:
            raise UserError(f"{file}: the record is of another stage; delete its folder to run it again")
        return record

    def checked(self, fingerprint: str) -> Path:
        """A published stage's folder, its files compared with their checksums. Raises UserError for a damaged one."""
        for name, expected in self.read(fingerprint)["files"].items():
            file = self.folder(fingerprint) / name
            if not file.is_file() or checksum(file) != expected:
                raise UserError(f"{file}: not as it was published; delete its folder to run the stage again")
        return self.folder(fingerprint)

    @contextmanager
    def claim(self, fingerprint: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """The stage's work folder, held for this process alone; calls `waiting` and waits if another one holds it."""
        work = self.root / "work" / fingerprint
        while True:
            work.mkdir(parents=True, exist_ok=True)
            try:
                lock = (work / "lock").open("w")
                break
            except FileNotFoundError:  # its holder published, and took the folder away in this moment
                continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield work

    def publish(self, fingerprint: str, record: dict[str, Any], written: Path) -> dict[str, Any]:
        """Publish the folder `written` as the stage's result; checksums of its files join the record."""
        record = record | {"files": {f.name: checksum(f) for f in sorted(written.iterdir()) if f.is_file()}}
        (written / "stage.json").write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False))
        target = self.folder(fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (*written.iterdir(), written):  # a rename that outlives a power cut must find its files whole
            _to_disk(path)
        written.rename(target)
        _to_disk(target.parent)
        shutil.rmtree(self.root / "work" / fingerprint, ignore_errors=True)
        return record


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
