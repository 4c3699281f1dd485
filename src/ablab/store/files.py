"""Files and their names: what stores on disk and in object storage have in common."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

LEASE, RELEASED, STOP, KEPT, OUT = "lease.json", "released", "stop", "kept.json", "out"
GUARD = ".guard"  # beside the attempts at a stage: locked as long as something that one of them started still runs


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_plain(name: object) -> bool:
    """Whether a name from a record, which anybody may have written, is one file's name and no path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\\0:")


def is_inside(name: object) -> bool:
    """Whether a relative path stays in its folder."""
    return isinstance(name, str) and bool(name) and all(map(is_plain, name.split("/")))


def stage_place(fingerprint: str) -> str:
    """Where a stage is published, in the store."""
    return f"stages/{fingerprint[:2]}/{fingerprint}"


def token_place(fingerprint: str, token: int) -> str:
    """Where an attempt at a stage has its lease and its work files, in the store."""
    return f"work/{fingerprint}/{token:06d}"


def beat_name(nonce: str) -> str:
    return f"beat.{nonce}"


def work_files(work: Path) -> list[str]:
    """What a successor takes over: all but the lease's own files, temporary ones and what `out` holds so far."""
    found = []
    for folder, _, names in os.walk(work):
        for name in names:
            file = Path(folder, name)
            inner = file.relative_to(work)
            own = len(inner.parts) == 1 and (name in (LEASE, RELEASED, STOP, KEPT) or name.startswith("beat."))
            if not (own or inner.parts[0] == OUT or name.endswith(".tmp") or file.is_symlink()):
                found.append(str(PurePosixPath(inner)))
    return sorted(found)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk says so without the file's name when it is written to; people need it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def to_disk(path: Path) -> None:
    """Make a file or a folder outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes or reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(file):
            temporary.write_bytes(content)
        to_disk(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
