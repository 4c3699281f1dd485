"""The other processes of a training on several ranks (`engine.ranks`): started, watched and ended by the stage's own.

Each is this module as a program, which runs the train stage on its share of every batch (ablab.training.ranks) in a
folder of its own, from a copy of the checkpoint; it validates nothing, tells nothing, and what it writes is dropped.
It ends with the stage's process, however that ends: then the pipe that it reads from is closed by the system.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ablab.errors import OutOfMemoryError, UserError

NO_MEMORY = 3  # exit code of a rank that ran out of it
ALONE = 4  # and of one whose parent is gone
NOTICED = 5.0  # seconds in which a rank that made the sum of gradients fail is known to have ended
LAST_CHARACTERS = 800  # of what a rank that failed printed


@contextmanager
def together(config: dict[str, Any], inputs: dict[str, Path], work: Path) -> Iterator[None]:
    """While it lasts, this process is rank 0 of `engine.ranks`, and the others run.

    A rank that fails ends all of them. Raises MemoryError or OutOfMemoryError where it ran out of memory, else a
    RuntimeError with its last words.
    """
    engine = config["engine"]
    size = engine.get("ranks", 1)
    if size == 1:
        yield
        return
    from torch import distributed

    from ablab.training.ranks import join, take_device

    folder = Path(tempfile.mkdtemp(prefix="ablab-ranks-"))  # not in `work`, which may be kept in a bucket
    meeting = folder / "meeting"
    others: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, size):
            others.append(_start(rank, config, inputs, work, folder))
        take_device(0, engine["device"])
        while not all((folder / f"{rank}" / "ready").exists() for rank in range(1, size)):
            _require_running(others, folder)
            time.sleep(0.05)
        join(0, size, engine["device"], meeting)
        yield
    except RuntimeError:  # which a sum that a rank no longer takes part in raises
        until = time.monotonic() + NOTICED
        while time.monotonic() < until:
            _require_running(others, folder)
            time.sleep(0.05)
        raise
    finally:
        for other in others:
            with suppress(ProcessLookupError):
                os.killpg(other.pid, signal.SIGKILL)
            other.wait()
            if other.stdin:
                with suppress(BrokenPipeError):
                    other.stdin.close()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    rank: int, config: dict[str, Any], inputs: dict[str, Path], work: Path, folder: Path
) -> subprocess.Popen[bytes]:
    own = folder / f"{rank}"
    (own / "out").mkdir(parents=True)
    for kept in (*work.glob("checkpoint.pt"), *work.glob("best-*.pt")):  # what resuming asks for
        shutil.copyfile(kept, own / kept.name)
    with (own / "log.txt").open("wb") as log:
        other = subprocess.Popen(
            [sys.executable, "-m", "ablab.stages.ranks"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the stage's process to hear
        )
    asked = {"rank": rank, "config": config, "inputs": {role: str(path) for role, path in inputs.items()}}
    assert other.stdin
    with suppress(BrokenPipeError):  # it ended already, which is seen soon
        other.stdin.write(json.dumps(asked | {"own": str(own), "meeting": str(folder / "meeting")}).encode() + b"\n")
        other.stdin.flush()
    return other


def _require_running(others: list[subprocess.Popen[bytes]], folder: Path) -> None:
    for rank, other in enumerate(others, 1):
        code = other.poll()
        if code is None:
            continue
        name = f"rank {rank} of engine.ranks={len(others) + 1}"
        if code == -signal.SIGKILL:
            raise MemoryError(f"{name} was killed by the system, most likely for want of memory")
        said = (folder / f"{rank}" / "log.txt").read_text(errors="replace").strip()[-LAST_CHARACTERS:]
        error = OutOfMemoryError if code == NO_MEMORY else RuntimeError
        raise error(f"{name} ended with exit code {code}: {said or 'it printed nothing'}")


def main(asking: IO[str]) -> int:
    """What a rank other than the first does; its exit code."""
    asked = json.loads(asking.readline())
    threading.Thread(target=_end_with, args=(asking,), daemon=True).start()
    from ablab.stages import train
    from ablab.training.ranks import join, take_device

    config, own = asked["config"], Path(asked["own"])
    take_device(asked["rank"], config["engine"]["device"])
    (own / "ready").touch()
    join(asked["rank"], config["engine"]["ranks"], config["engine"]["device"], Path(asked["meeting"]))
    config["eval"]["every"] = 0  # rank 0 validates
    inputs = {role: Path(path) for role, path in asked["inputs"].items()}
    try:
        train.train_phase(config, inputs, own / "out", own, lambda event: None)
    except OutOfMemoryError as error:
        print(error, file=sys.stderr)
        return NO_MEMORY
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _end_with(asking: IO[str]) -> None:
    """End this process when the one that started it is gone."""
    asking.read()
    os._exit(ALONE)


if __name__ == "__main__":
    sys.exit(main(sys.stdin))
