"""A sweep that is killed again and again ends with the table of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

STUDY = """
question: Does the stem matter?
base:
  model: yolov5n
  model.width: 0.125
  data: scenes
  data.train: 24
  data.val: 8
  augment: upright
  schedule: constant
  schedule.imgsz: 64
  schedule.epochs: [2, 1, 1]
  engine.threads: 1
factors:
  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}
seeds: [0]
measure: {resolutions: [64]}
"""
KILLS = 5


def sweep(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    (folder / "sweeps" / "small.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "ablab.cli", "sweep", "study=small"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def published(folder: Path) -> set[str]:
    return {str(file.parent) for file in folder.glob(".ablab/store/stages/*/*/stage.json")}


def results(folder: Path) -> dict[str, tuple[object, object]]:
    """Numbers and checksums of files (weights to the bit) of every stage, by fingerprint."""
    records = [json.loads(Path(stage, "stage.json").read_text()) for stage in published(folder)]
    return {r["fingerprint"]: (r["numbers"], r["files"]) for r in records}


def test_killed_five_times_ends_with_the_same_table(tmp_path: Path) -> None:
    alone, disturbed = tmp_path / "alone", tmp_path / "disturbed"
    started = time.monotonic()
    assert sweep(alone).wait() == 0, (alone / "log").read_text()
    whole = time.monotonic() - started

    moments = random.Random(time.time_ns())
    kept: set[str] = set()
    kills = 0
    while kills < KILLS:
        process = sweep(disturbed)
        try:
            process.wait(timeout=moments.uniform(0.1, 0.4) * whole)
            break  # it was done before it could be killed
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        assert kept <= published(disturbed)
        kept = published(disturbed)
    assert kills >= 3
    before = {folder: os.stat(f"{folder}/stage.json").st_mtime_ns for folder in kept}
    assert sweep(disturbed).wait() == 0, (disturbed / "log").read_text()

    assert {folder: os.stat(f"{folder}/stage.json").st_mtime_ns for folder in kept} == before  # none ran again
    for table in ("table.md", "table.csv"):
        file = Path("reports/small") / table
        assert (disturbed / file).read_bytes() == (alone / file).read_bytes()
    assert results(disturbed) == results(alone)
