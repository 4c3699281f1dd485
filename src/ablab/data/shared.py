"""Pixels that every process of this machine reads from one file, made by the first process that needs them.

- The file is mapped into memory, read only: its pages exist once, however many processes read it, and the system may
  take them back and read them again.
- It lies in `$XDG_CACHE_HOME/ablab/images` (`~/.cache` by default) under a digest of all that it follows from: what the
  caller says of its source, the code of this package, the libraries and the kind of processor.
- It is there whole or not at all: written beside its place under a lock, then renamed. Others wait for the lock.
- All files together take `MOST_BYTES` at most. Whoever makes one first deletes those that nobody opened for `MOST_DAYS`
  and, for room, those that were opened longest ago; never one that is mapped, by the lock that its readers hold.
- Where there is no room or no right to write, there is no file: the caller keeps what it needs in its own memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab import machine
from ablab.data.identity import readers

MOST_BYTES = 16 * 2**30
MOST_DAYS = 30
LEAST_BYTES = 2**20  # less is not worth a file


def shared(source: Any, shape: tuple[int, ...], image: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    """The array of `shape`, read only, whose row i is `image(i)`; None where it cannot be shared.

    source: what the images follow from, JSON-able; equal sources must mean equal images. `image` is called for every
    row, in order, if no process of this machine has done so before; what it raises is raised here.
    """
    size = math.prod(shape)
    if size < LEAST_BYTES:
        return None
    file = folder() / f"{_key(source, shape)}.u8"
    try:
        mapped = _mapped(file, size) or _made(file, size, shape[0], image)
    except OSError:  # read-only, full, or a file system without locks
        return None
    return np.frombuffer(mapped, np.uint8).reshape(shape) if mapped else None


def folder() -> Path:
    """Where the files are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ablab" / "images"


def _key(source: Any, shape: tuple[int, ...]) -> str:
    import cv2  # here: `plan` imports this package and needs no pixels

    made_by = [readers(), cv2.__version__, np.__version__, machine.host()["processor"]]
    return hashlib.sha256(json.dumps([source, shape, made_by], sort_keys=True).encode()).hexdigest()


def _mapped(file: Path, size: int) -> mmap.mmap | None:
    """The file in memory, None if it is not there. As long as the mapping lives, so does its lock on the file."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_size != size:  # none of ours: it is replaced
            return None
        with suppress(OSError):
            os.utime(handle)  # its time of change says when it was last opened
        return mmap.mmap(handle, size, access=mmap.ACCESS_READ)  # has a handle of its own, with this one's lock
    finally:
        os.close(handle)


def _made(file: Path, size: int, count: int, image: Callable[[int], NDArray[np.uint8]]) -> mmap.mmap | None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / f"{file.name[:2]}.lock").open("w") as lock:  # of 256 that stay: to delete one is a race
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found := _mapped(file, size):  # another process made it while this one waited
            return found
        if not _is_room(file.parent, size):
            return None
        part = file.with_suffix(".part")
        try:
            with part.open("wb") as stream:  # not through a mapping, where a full disk would kill the process
                fcntl.flock(stream, fcntl.LOCK_EX)
                for index in range(count):
                    stream.write(np.ascontiguousarray(image(index)).data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return _mapped(file, size)


def _is_room(within: Path, size: int) -> bool:
    """Whether `size` bytes more are a quarter at most of what is free in memory and on the disk, and do not exceed
    MOST_BYTES once what is old has been deleted."""
    if size > min(machine.free_memory() / 4, shutil.disk_usage(within).free / 4, MOST_BYTES):
        return False
    found = [(path.stat(), path) for path in within.iterdir() if path.suffix in (".u8", ".part")]
    left = sum(status.st_size for status, _ in found)
    old = time.time() - MOST_DAYS * 86400
    for status, path in sorted(found, key=lambda one: one[0].st_mtime):
        if (status.st_mtime < old or left + size > MOST_BYTES) and _deleted(path):
            left -= status.st_size
    return left + size <= MOST_BYTES


def _deleted(path: Path) -> bool:
    """Delete a file that nobody holds."""
    with suppress(OSError), path.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False
