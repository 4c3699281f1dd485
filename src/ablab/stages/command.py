"""The command stage: any program, which knows nothing of ablab.

It is started without a shell in the working folder, with the threads it was given, and told where to write: `{out}`,
an empty folder, and `{work}`, a folder that survives a crash, so that it may go on from what it left there. Its output
goes to log.txt. Notable:

- It ends with its stage, whatever ends that (process.py).
- `python` is the interpreter that runs ablab, unless the words say otherwise.
- Code that is no longer what the plan fingerprinted is refused, before the program starts and after it ended.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.stages import numbers
from ablab.stages.placeholders import fill, plain
from ablab.stages.process import program
from ablab.study.fingerprint import file_digest

GUARD = ".guard"  # that the store looks for before another attempt begins
LOG = "log.txt"
EVERY = 1.0  # seconds between looks at what the program printed
LAST_LINES, LAST_CHARACTERS = 5, 800  # of its output in a failure's reason
TAIL = 65_536  # bytes of its output that one look takes at most
# What libraries read to know how many threads they may start.
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB", "RAYON")

Emit = Callable[[dict[str, Any]], None]


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, work: Path, emit: Emit) -> dict[str, Any]:
    """Run the program and keep log.txt, the file of its numbers and what `keep` matches.

    Numbers: those of ablab.stages.numbers.read. Raises UserError with the last lines of its output where it fails,
    and MemoryError where the system killed it.
    """
    command, threads = config["command"], config["engine"]["threads"]
    own = work / "program"
    own.mkdir(exist_ok=True)
    words = plain(fill(command["run"], {"out": str(out), "work": str(own)}))
    log = work / LOG
    _require_unchanged(command["code"])
    try:
        with program(words, _environment(threads), log, work.parent / GUARD) as started:
            _watch(started, log, emit)
    except OSError as error:
        if error.filename != words[0]:
            raise  # of the disk, for the engine to judge
        raise UserError(f"'{words[0]}' cannot be started: {error.strerror}") from None
    _require_success(started.returncode, words, log)
    _require_unchanged(command["code"])
    wrote = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    found = numbers.read(out / command["numbers"], command["measure"], wrote)
    _tidy(out, [command["numbers"], *command["keep"]], wrote, emit)
    shutil.move(log, out / LOG)
    return found


def _environment(threads: int) -> dict[str, str]:
    """This process's environment with the threads limited, and Python's output as it comes."""
    limits = dict.fromkeys((*(f"{library}_NUM_THREADS" for library in THREADS), "LOKY_MAX_CPU_COUNT"), str(threads))
    return os.environ | limits | {"PATH": search_path(), "PYTHONUNBUFFERED": "1"}


def search_path() -> str:
    """Where programs are looked for: beside this interpreter, then as everywhere."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _require_unchanged(code: dict[str, str]) -> None:
    for name, digest in code.items():
        if file_digest(Path(name)) != digest:
            raise UserError(f"{name} changed while the sweep ran: the same command plans anew")


def _watch(started: subprocess.Popen[bytes], log: Path, emit: Emit) -> None:
    """Wait for the end of a program, and tell what it prints: its last line, and lines that report an epoch.

    A JSON object with the key `epoch` reports one; of several for one epoch in one look, the last.
    """
    with log.open("rb") as output:
        rest, told, ended = b"", "", False
        while not ended:
            try:
                started.wait(EVERY)
                ended = True
            except subprocess.TimeoutExpired:
                pass
            output.seek(max(output.tell(), os.fstat(output.fileno()).st_size - TAIL))
            *lines, rest = (rest + output.read()).replace(b"\r", b"\n").split(b"\n")
            epochs = {event["epoch"]: event for line in lines if (event := _event(line))}
            for event in epochs.values():
                emit(event | {"at": time.time()})
            for said in _last([line for line in (*lines, rest) if not _event(line)], 1):
                if said != told:
                    told = said
                    emit({"message": told})
            if not ended:
                emit({})  # nothing to say, but it is heard here whether the stage should stop


def _event(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or type(event.get("epoch")) is not int:
        return None
    of = f"/{event['epochs']}" if "epochs" in event else ""
    told = [f"{key} {value:.4g}" for key, value in event.items() if isinstance(value, float)]
    return event | {"message": ", ".join([f"epoch {event['epoch']}{of}", *told])}


def _last(lines: list[bytes], count: int) -> list[str]:
    """The last lines that are not empty."""
    return [text for line in lines if (text := _text(line))][-count:]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").strip()


def _require_success(code: int, words: list[str], log: Path) -> None:
    if code == 0:
        return
    with log.open("rb") as output:
        output.seek(max(0, log.stat().st_size - TAIL))
        said = " / ".join(_last(output.read().replace(b"\r", b"\n").split(b"\n"), LAST_LINES))[-LAST_CHARACTERS:]
    told = f"its last words: {said}" if said else "it printed nothing"
    name = shlex.join(words[:3]) + (" ..." if len(words) > 3 else "")
    if code == -signal.SIGKILL:
        raise MemoryError(f"`{name}` was killed by the system, most likely for want of memory; {told}")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise UserError(f"`{name}` {how}; {told}")


def _tidy(out: Path, keep: list[str], wrote: list[str], emit: Emit) -> None:
    """Delete what no pattern of `keep` matches, and say which of them match nothing.

    What lies in a folder there is kept as `folder__file`.
    """
    kept = {pattern: {path for path in out.glob(pattern) if path.is_file()} for pattern in keep}
    for pattern, files in kept.items():
        if not files:
            emit({"message": f"keep: no file matches '{pattern}'; the program wrote {', '.join(wrote)}"})
    for path in sorted(out.rglob("*"), reverse=True):  # files before the folders that hold them
        if path.is_dir() and not path.is_symlink():
            continue
        if path not in set().union(*kept.values()):
            path.unlink()
        elif path.parent != out:  # a stage's files lie side by side
            path.rename(out / "__".join(path.relative_to(out).parts))
    for folder in sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
