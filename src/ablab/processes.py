"""Who a process is, written down so that another one can tell later whether it still runs."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any


def this() -> dict[str, Any]:
    """This process: pid, host, boot (of the machine), namespace (of PIDs), process_start (clock ticks after the boot).

    The last three are null where the system does not tell: then nobody can say for certain that it is gone.
    """
    pid = os.getpid()
    return {
        "pid": pid,
        "host": platform.node(),
        "boot": _boot(),
        "namespace": _namespace(),
        "process_start": _start(pid),
    }


def is_gone(process: dict[str, Any]) -> bool:
    """Whether the process that `this` described is known to be no more: of this boot, where this one can look."""
    pid, start = process.get("pid"), process.get("process_start")
    here = process.get("boot") == _boot() is not None and process.get("namespace") == _namespace() is not None
    if not here or type(pid) is not int or pid < 1 or type(start) is not int:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's: it may be hidden in /proc
        pass
    now = _start(pid)
    return now is not None and now != start


def alive(process: dict[str, Any]) -> bool | None:
    """Whether it still runs; None if nobody can tell here: it is one of another machine or container."""
    if process.get("host") != platform.node():
        return None
    if process.get("boot") != _boot():  # the machine was started anew
        return False
    if process.get("namespace") != _namespace():
        return None
    return not is_gone(process)


def _boot() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _namespace() -> str | None:
    """The namespace of PIDs, in whose /proc this process is itself."""
    with suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return os.readlink("/proc/self/ns/pid")
    return None


def _start(pid: int) -> int | None:
    """Ticks since boot at which a process started; -1 for one that ended and was not waited for, None if unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return -1 if state in "ZX" else int(fields[18])
