"""Sweeps of small real trainings under random disturbances, against one that was left alone.

    python benchmarks/chaos.py [disturbances] [seed]

A disturbance is a `kill -9` of the sweep itself, of the session that holds Ray, of one of Ray's own processes or of a
worker; as root, also a moment in which the disk is full or read-only. The same command is given again whenever the
sweep has ended. In the end table.md and table.csv must be those of the undisturbed sweep, byte for byte, and every
stage's numbers and files too; no published stage may run again, and nothing half-written may ever be seen.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablab.store import checksum

STUDY = {
    "question": "Does the stem matter?",
    "base": {
        "model": "yolov5n",
        "model.width": 0.125,
        "data": "scenes",
        "data.size": 64,
        "data.train": 32,
        "data.val": 16,
        "data.test": 0,
        "data.digits": [0, 1],
        "data.objects": [1, 3],
        "augment": "upright",
        "optim.batch": 4,
        "schedule": "constant",
        "schedule.imgsz": 64,
        "schedule.epochs": [6, 4, 4],
        "eval.split": "val",
    },
    "factors": {"stem": {"focus": {"stem": "focus"}, "conv": {"stem": "conv3x3"}}},
    "seeds": [0, 1],
    "measure": {"resolutions": [64]},
}
DISK_MB = 400
# What is killed, and how its processes are known: by a part of their command line.
TARGETS = {
    "driver": "ablab.cli",
    "session": "ablab.engine.ray_session",
    "raylet": "raylet/raylet",
    "gcs": "gcs/gcs_server",
    "worker": "ray::_work",
    "idle worker": "ray::IDLE",
    "mailbox": "ray::_Mailbox",
}
MOMENTS = ("full disk", "read-only disk")


class Sweep:
    """One folder and the command that is given in it, again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        (folder / "sweeps").mkdir(parents=True)
        (folder / "sweeps" / "small.yaml").write_text(json.dumps(STUDY))
        self.log = folder.with_suffix(".log")  # beside the folder, whose disk will be full
        self.process: subprocess.Popen[bytes] | None = None
        self.published: dict[Path, int] = {}

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ablab.cli", "sweep", "study=small"],
                cwd=self.folder,
                env=os.environ | {"ABLAB_CHAOS": self.mark},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self, words: str) -> list[int]:
        """Those that this sweep started, by a part of their command line.

        Its own and the session's are known by their environment; Ray's, which write their title over theirs, by being
        in the same session of the system.
        """
        titles: dict[int, str] = {}
        sessions: dict[int, int] = {}
        marked = set()
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                one = int(place.name)
                titles[one] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                sessions[one] = int((place / "stat").read_text().rpartition(")")[2].split()[3])
                if self.mark.encode() in (place / "environ").read_bytes():
                    marked.add(sessions[one])
        return [one for one, session in sessions.items() if session in marked and words in titles[one]]

    def look(self) -> None:
        """Nothing that was published is gone, ran again or is half written."""
        store = self.folder / ".ablab" / "store"
        now = {}
        for file in store.glob("stages/*/*/stage.json"):
            record = json.loads(file.read_text())
            for name, expected in record["files"].items():
                if checksum(file.parent / name) != expected:
                    raise SystemExit(f"{file.parent / name} is half written\n{self.story()}")
            now[file] = file.stat().st_mtime_ns
        for file, when in self.published.items():
            if now.get(file) != when:
                raise SystemExit(f"{file} is gone or was written again\n{self.story()}")
        self.published = now

    def results(self) -> dict[str, Any]:
        found = [json.loads(file.read_text()) for file in self.folder.glob(".ablab/store/stages/*/*/stage.json")]
        return {record["fingerprint"]: (record["numbers"], record["files"]) for record in found}

    def tables(self) -> list[bytes]:
        return [(self.folder / "reports" / "small" / name).read_bytes() for name in ("table.md", "table.csv")]

    def story(self) -> str:
        return self.log.read_text()[-6000:]


def disturb(sweep: Sweep, what: str) -> bool:
    """Whether there was something to disturb."""
    if what == "full disk":
        filler = sweep.folder / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 1_000_000)
        time.sleep(1.5)
        filler.unlink()
        return True
    if what == "read-only disk":
        store = sweep.folder / ".ablab" / "store"
        if not store.is_dir():
            return False
        subprocess.run(["mount", "--bind", store, store], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
        time.sleep(1.5)
        subprocess.run(["umount", "-l", store], check=True)
        return True
    found = sweep.processes(TARGETS[what])
    for one in found if what == "driver" else random.sample(found, min(1, len(found))):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return bool(found)


def main(wanted: int, seed: int) -> None:
    random.seed(seed)
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    alone = Sweep(scratch / "alone")
    alone.start()
    assert alone.process is not None
    if alone.process.wait():
        raise SystemExit(f"the undisturbed sweep failed\n{alone.story()}")
    alone.look()
    print(f"undisturbed: {len(alone.published)} stages", flush=True)

    done: Counter[str] = Counter()
    deck: list[str] = []
    sweeps = starts = 0
    began = time.monotonic()
    while done.total() < wanted:
        folder = scratch / f"disturbed-{sweeps}"
        folder.mkdir()
        mounted = (
            os.geteuid() == 0
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], capture_output=True
            ).returncode
        )
        kinds = [*TARGETS, *MOMENTS] if mounted else [*TARGETS]
        sweep = Sweep(folder)
        sweeps += 1
        deck = [kind for kind in deck if kind in kinds]
        while True:
            sweep.start()
            starts += 1
            assert sweep.process is not None
            while sweep.process.poll() is None and done.total() < wanted:
                time.sleep(random.uniform(0.2, 6.0))
                deck = deck or random.sample(kinds, len(kinds))  # every kind comes before any comes again
                what = deck.pop()
                if sweep.process.poll() is None and disturb(sweep, what):
                    done[what] += 1
                    with sweep.log.open("a") as log:
                        print(f"--- {what}, disturbance {done.total()} of seed {seed}", file=log)
                    sweep.look()
            code = sweep.process.wait()
            sweep.look()
            if code == 0:
                break
            if code == 1 or starts > 5 * wanted:
                raise SystemExit(f"seed {seed}: it ended with {code}\n{sweep.story()}")
        if sweep.tables() != alone.tables():
            raise SystemExit(f"seed {seed}: another table\n{sweep.story()}")
        if sweep.results() != alone.results():
            raise SystemExit(f"seed {seed}: other results\n{sweep.story()}")
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)
    told = ", ".join(f"{what} {count}" for what, count in sorted(done.items()))
    print(
        f"{done.total()} disturbances ({told}) over {sweeps} sweeps, {starts} starts, {time.monotonic() - began:.0f} s"
    )
    print("every table byte-identical, no published stage ran again, nothing half-written was seen")
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *("100", "0")[len(sys.argv) - 1 :]]))
