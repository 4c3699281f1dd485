"""A program that never outlives the stage that runs it.

Two processes: a guard, and the program in the guard's process group. The guard waits for the end of a pipe whose
other end only this process holds, so the system itself tells it when this process is gone, however it went (`kill -9`
too, on every POSIX system), and it ends the whole group. As long as the guard is there, the group's number cannot
become another's. The guard also holds a lock on the work folder: whoever takes over waits until the group is gone.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PAUSE = 5  # seconds between asking (SIGTERM) and ending (SIGKILL)
GUARD = f"trap '' TERM; read -r nothing; kill -TERM 0; sleep {PAUSE}; kill -KILL 0"


@contextmanager
def program(words: Sequence[str], env: dict[str, str], log: Path, lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs in the working folder, its output going to the file `log`; ended on leaving.

    lock: a file; another holder of it, the guard of a crashed predecessor, is waited for.
    Raises OSError where the program cannot be started.
    """
    with lock.open("w") as held, log.open("wb") as output:
        fcntl.flock(held, fcntl.LOCK_EX)
        guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(held.fileno(),),
            process_group=0,
        )
        try:
            started = subprocess.Popen(
                words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=guard.pid,
            )
            try:
                yield started
            finally:
                _end(started, guard.pid)
        finally:
            _signal(guard.pid, signal.SIGKILL)  # what the program left running as well
            guard.wait()
            if guard.stdin:
                guard.stdin.close()


def _end(started: subprocess.Popen[bytes], group: int) -> None:
    """Ask the whole group to end, and end it where it has not within PAUSE; a second interrupt shortens that."""
    try:
        if started.poll() is None:
            _signal(group, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                started.wait(PAUSE)
    finally:
        _signal(group, signal.SIGKILL)
        started.wait()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
