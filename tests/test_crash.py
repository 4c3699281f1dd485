"""A sweep that is killed in training, between stages and while MLflow is written ends as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

SEED = int(os.environ.get("ABLAB_CRASH_SEED", "0"))  # of the moments of the kills
MOST_DELAY = 0.2  # seconds from an event to the kill: less than half an epoch below
STUDY = """
question: Does the stem matter?
base:
  model: yolov5n
  model.width: 0.125
  data: scenes
  data.size: 64
  data.train: 48
  data.val: 16
  data.test: 0
  data.digits: [0, 1]
  data.objects: [1, 3]
  data.scale: [0.4, 0.7]
  data.contrast: [0.4, 0.8]
  data.clutter: 0
  data.noise: 0
  augment: upright
  optim.batch: 4
  schedule: constant
  schedule.imgsz: 64
  schedule.epochs: [6, 3, 3]
  engine: inline
  engine.threads: 1
factors:
  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}
seeds: [0]
measure: {resolutions: [64]}
"""
# `ablab sweep`, but every message of a training is printed, not one in five seconds.
SWEEP = """
import functools, sys
from ablab import cli, sweep
sweep.Progress = functools.partial(sweep.Progress, every=0)
sys.exit(cli.main(["sweep", "study=small"]))
"""


def sweep(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "sweeps").mkdir(parents=True, exist_ok=True)
    (folder / "sweeps" / "small.yaml").write_text(STUDY)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SWEEP], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def files(folder: Path, pattern: str) -> set[tuple[Path, int]]:
    """Files of the store and when each was written (ns), while a sweep may be moving them."""
    while True:
        with suppress(FileNotFoundError):  # a folder went while it was being listed
            return {(file, file.stat().st_mtime_ns) for file in folder.glob(f".ablab/store/{pattern}")}


def checkpoints(folder: Path) -> set[tuple[Path, int]]:
    return files(folder, "work/*/*/checkpoint.pt")


def published(folder: Path) -> set[tuple[Path, int]]:
    return files(folder, "stages/*/*/stage.json")


def unfinished(folder: Path) -> set[str]:
    """Trainings that are not published but have a checkpoint."""
    worked_on = {file.parent.parent.name for file, _ in checkpoints(folder)}
    return worked_on - {file.parent.name for file, _ in published(folder)}


def results(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Numbers and checksums of files (weights to the bit) of every stage, by fingerprint."""
    records = [json.loads(file.read_text()) for file, _ in published(folder)]
    return {record["fingerprint"]: (record["numbers"], record["files"]) for record in records}


def recorded(folder: Path) -> list[str]:
    """MLflow's runs, their state and every point of their metrics, the time that training took aside."""
    query = """SELECT name, status, key, step, value FROM runs
               LEFT JOIN metrics ON metrics.run_uuid = runs.run_uuid AND key != 'train/seconds'
               WHERE lifecycle_stage = 'active'"""
    address = f"{(folder / '.ablab' / 'mlflow.db').as_uri()}?mode=ro"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(address, uri=True)) as database:
        return sorted(map(repr, database.execute(query)))
    return []  # not made yet, or being written


# What a run of the sweep must add to these, to be killed: one after the other, a run for each.
EVENTS: dict[str, Callable[[Path], Collection[object]]] = {
    "a checkpoint in the first phase": checkpoints,
    "the first training is published": lambda folder: files(folder, "stages/*/*/weights.safetensors"),
    "a checkpoint in a later phase": checkpoints,
    "an evaluation is published": lambda folder: files(folder, "stages/*/*/detections.json"),
    "MLflow has a run": recorded,
}


def kill_after(event: str, folder: Path, delay: float) -> None:
    """Start the sweep and kill all of it `delay` seconds after the event."""
    log, look = folder / "log", EVENTS[event]
    before = set(look(folder))
    process = sweep(folder)
    try:
        while before.issuperset(look(folder)):
            assert process.poll() is None, f"seed {SEED}: it ended before '{event}'\n{log.read_text()}"
            time.sleep(0.01)
        time.sleep(delay)
        assert process.poll() is None, f"seed {SEED}: it ended {delay:.3f} s after '{event}'\n{log.read_text()}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with log.open("a") as told:
        print(f"--- seed {SEED}: killed {delay:.3f} s after '{event}'", file=told)


def test_killed_five_times_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    alone, disturbed = tmp_path / "alone", tmp_path / "disturbed"
    undisturbed = sweep(alone)  # on the other core, meanwhile

    moments = random.Random(SEED)
    log = disturbed / "log"
    kept: set[tuple[Path, int]] = set()  # what was published before a kill
    resumed = 0
    for event in [*EVENTS, None]:
        to_resume = unfinished(disturbed)
        read = len(log.read_text()) if log.exists() else 0
        if event:
            kill_after(event, disturbed, moments.uniform(0, MOST_DELAY))
        else:
            assert sweep(disturbed).wait() == 0, f"seed {SEED}\n{log.read_text()}"
        story = f"seed {SEED}\n{log.read_text()}"
        now = published(disturbed)
        assert kept <= now, f"a stage was lost or ran again, {story}"
        kept = now
        went_on = "resumed after epoch" in log.read_text()[read:]
        assert went_on == bool(to_resume), f"{to_resume} was left, but the next run did not go on from there, {story}"
        resumed += went_on

    assert resumed, f"no kill left a checkpoint, {story}"
    assert undisturbed.wait() == 0, (alone / "log").read_text()
    assert any(numbers.get("map") for numbers, _ in results(alone).values()), "nothing learnt, nothing compared"
    for table in ("table.md", "table.csv"):
        file = Path("reports/small") / table
        assert (disturbed / file).read_bytes() == (alone / file).read_bytes(), story
    assert results(disturbed) == results(alone), story
    assert recorded(disturbed) == recorded(alone), story
