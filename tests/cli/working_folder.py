"""The command line as a user meets it: a working folder, a command, its exit code and what it printed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ablab.cli import main

STUDY = """
question: Does the stem matter?
base:
  model: yolov5n
  model.width: 0.125
  model.depth: 0.1
  data: scenes
  data.size: 64
  data.train: 8
  data.val: 4
  data.test: 0
  data.objects: [1, 2]
  data.scale: [0.2, 0.5]
  schedule.imgsz: 64
  schedule.epochs: 1
  optim.batch: 4
  engine: inline
  engine.threads: 1
  engine.precision: fp32
  eval.every: 0
factors:
  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}
seeds: [0]
measure: {resolutions: [64]}
"""
# The same for `ablab train`; the data is left to the test.
TINY = [
    *("model=yolov5n", "model.width=0.125", "model.depth=0.1", "schedule.imgsz=64", "schedule.epochs=1"),
    *("optim.batch=4", "engine.threads=1", "engine.precision=fp32", "eval.every=0", "eval.resolutions=[64]"),
]
SCENES = ["data=scenes", "data.size=64", "data.train=8", "data.val=4", "data.test=0", "data.scale=[0.2,0.5]"]


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The message that the command ended with."""
        return self.err[self.err.index("ablab: ") :] if "ablab: " in self.err else ""


@dataclass(frozen=True)
class Folder:
    """A working folder with the study `tiny` in it."""

    path: Path

    def write(self, name: str, text: str | bytes) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def run(self, *words: str) -> Result:
        """Run a command in this process, from this folder. An exception that leaves `main` fails the test."""
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(self.path)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(list(words))
        finally:
            os.chdir(before)
        return Result(code, out.getvalue(), err.getvalue())

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own, by the script that users start: `python -m` may end a program that
        was interrupted while it imported by the signal, whatever the program returns."""
        return subprocess.Popen(
            [Path(sys.executable).with_name("ablab"), *words],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # A shell that starts tests in the background lets them ignore interrupts, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def refused(self, *words: str, says: list[str]) -> str:
        """Run a command that must be refused as a mistake: exit 2, one message with `says`, nothing trained or lost."""
        before = self.published()
        result = self.run(*words)
        assert result.code == 2, result
        assert "Traceback" not in result.err + result.out, result
        assert sum(line.startswith("ablab: ") for line in result.err.splitlines()) == 1, result.err
        for word in says:
            assert word in result.message, f"'{word}' is not in: {result.message}"
        after = self.published()
        assert before.items() <= after.items()
        assert [f for f in after.keys() - before.keys() if (f.parent / "weights.safetensors").exists()] == []
        return result.message

    def published(self) -> dict[Path, int]:
        """Every stage in the store and when it was written (ns)."""
        found = (self.path / ".ablab/store/stages").glob("*/*/stage.json")
        return {file: file.stat().st_mtime_ns for file in found}

    def trainings(self) -> int:
        return len(list((self.path / ".ablab/store/stages").glob("*/*/weights.safetensors")))


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
