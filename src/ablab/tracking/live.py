"""Writes to MLflow while a sweep runs, so that its curves can be watched and a half-done study reported.

- One background thread writes; what it has not written waits in memory. A sweep never waits for MLflow.
- A replicate's run is opened with the first epoch of one of its trainings, and settled as `record` does it once all
  its stages are there.
- Nothing depends on it. `record` at the sweep's end writes whatever is missing, and a run that says anything that the
  store does not (an epoch that a crash made run twice) is replaced there.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run

from ablab.study.plan import Stage
from ablab.study.record import replicate
from ablab.tracking import runs
from ablab.tracking.connect import connect, explained
from ablab.tracking.read import search
from ablab.tracking.write import (
    METRICS_PER_BATCH,
    PARAMS_PER_BATCH,
    VAL,
    ReadFile,
    Writer,
    by_replicate,
    find_experiment,
    is_live,
    nothing,
    open_parent,
)

FLUSH_SECONDS = 3.0  # between two writes
LONGEST_PAUSE = 300.0  # seconds between two attempts while MLflow does not answer
CLOSE_SECONDS = 20.0  # longer than the tries that a server gets which went away
MOST_POINTS = 200_000  # that wait for MLflow
LATER = "The sweep goes on; its record is caught up once MLflow answers, at the latest by the same command given again"


class Live:
    """Listens to an executor, and writes what it hears.

    study: the study record before anything ran, whose replicates also say which stages are `planned` (fingerprints in
    order). warn: called once if MLflow cannot be written, in the thread that calls this object. read_file: as
    `record` has it.
    """

    def __init__(
        self, study: Mapping[str, Any], uri: str, warn: Callable[[str], None], read_file: ReadFile = nothing
    ) -> None:
        self._study, self._uri, self._warn, self._read_file = study, uri, warn, read_file
        self._replicates: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}  # (variant, seeded) by key
        self._of: dict[str, list[str]] = {}  # the keys of the replicates that a stage belongs to
        self._done: dict[str, dict[str, Any]] = {}  # records by fingerprint
        self._missing: dict[str, set[str]] = {}  # fingerprints by key
        for variant in study["variants"]:
            for seeded in variant["replicates"]:
                key = runs.identity(variant["levels"], seeded["seed"])
                self._replicates[key] = (variant, seeded)
                self._done |= {stage["fingerprint"]: stage for stage in seeded["stages"]}
                self._missing[key] = set(seeded["planned"]) - {stage["fingerprint"] for stage in seeded["stages"]}
                for fingerprint in seeded["planned"]:
                    self._of.setdefault(fingerprint, []).append(key)
        self._lock = threading.Lock()  # over the two that both threads change
        self._complete = [key for key, missing in self._missing.items() if not missing]
        self._points: dict[str, list[runs.Point]] = {}
        self._pictures: dict[str, list[Path]] = {}
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._session: _Session | None = None
        self._trouble: str | None = None
        self._warned = False

    def __call__(self, happening: str, stage: Stage, facts: Mapping[str, Any]) -> None:
        """Listen to an executor; takes microseconds."""
        if happening == "done":
            self._stage_done(stage.fingerprint, dict(facts))
        elif happening == "progress" and "at" in facts and stage.kind == "train":
            self._epoch_done(stage.fingerprint, facts)
        self._tell()

    def close(self) -> None:
        """Stop writing: `record` writes what is left. Waits for the write that is under way, a while at most."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        self._tell()

    def _stage_done(self, fingerprint: str, record: dict[str, Any]) -> None:
        self._done[fingerprint] = record
        concerned = self._of.get(fingerprint, [])
        for key in concerned:
            self._missing[key].discard(fingerprint)
        complete = [key for key in concerned if not self._missing[key]]
        with self._lock:
            self._complete += complete
        if complete:
            self._start()

    def _epoch_done(self, fingerprint: str, facts: Mapping[str, Any]) -> None:
        for key in self._of.get(fingerprint, []):
            planned = self._replicates[key][1]["planned"]
            before = [self._done[f] for f in planned[: planned.index(fingerprint)] if f in self._done]
            points = runs.points(facts, facts["at"], runs.epochs(before) + int(facts["epoch"]))
            with self._lock:
                self._points.setdefault(key, []).extend(points)
                if "picture" in facts:
                    self._pictures.setdefault(key, []).append(Path(facts["picture"]))
        self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ablab-mlflow", daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        if self._trouble and not self._warned:
            self._warned = True
            self._warn(self._trouble)

    def _work(self) -> None:
        """The background thread: write, wait, and wait longer each time that MLflow fails."""
        pause = FLUSH_SECONDS
        while not self._closing.wait(pause):
            try:
                with explained(self._uri, "the record cannot be written", ""):
                    self._flush()
                pause = FLUSH_SECONDS
            except Exception as error:  # whatever it is: `record` meets it again and tells it in the open
                self._session = None
                self._trouble = f"{str(error).strip().rstrip('.')}. {LATER}"
                pause = min(2 * pause, LONGEST_PAUSE)

    def _flush(self) -> None:
        """Write what waits. Whatever fails waits on."""
        with self._lock:
            points, self._points = self._points, {}
            complete, self._complete = self._complete, []
            pictures, self._pictures = self._pictures, {}
        try:
            for key in complete:
                points.pop(key, None)  # settling writes them all
            while complete and not self._closing.is_set():
                self._writing().settle(self._replicate(complete[0]))
                complete.pop(0)
            for key in list(points):
                if self._closing.is_set():
                    break
                if any(f in self._done for f in self._replicates[key][1]["planned"]):  # else its begin is not known
                    self._writing().log(self._replicate(key), points[key], pictures.pop(key, []))
                    points.pop(key)
        finally:
            with self._lock:
                self._complete = complete + self._complete
                if sum(len(waiting) for waiting in points.values()) > MOST_POINTS:
                    points = {}
                for key, newer in self._points.items():
                    points.setdefault(key, []).extend(newer)
                self._points = points
                waiting = {key: files for key, files in pictures.items() if key in points}  # else settled with them
                for key, more in self._pictures.items():
                    waiting.setdefault(key, []).extend(more)
                self._pictures = waiting

    def _writing(self) -> _Session:
        if self._session is None:
            start = min(stage["started"] for stage in self._done.copy().values())
            self._session = _Session(self._study, self._uri, runs.milliseconds(start), self._read_file)
        return self._session

    def _replicate(self, key: str) -> runs.Replicate:
        """As far as it has come."""
        variant, seeded = self._replicates[key]
        planned = seeded["planned"]
        stages = [self._done[fingerprint] for fingerprint in planned if fingerprint in self._done]
        return runs.replicate(self._study, variant, replicate(seeded["seed"], planned, stages, []))


class _Session:
    """What MLflow holds, from one look at all of it until it fails to answer.

    start: when the study's first stage began, in ms since 1970.
    """

    def __init__(self, study: Mapping[str, Any], uri: str, start: int, read_file: ReadFile) -> None:
        self.client = connect(uri, create=False)
        self.experiment = find_experiment(self.client, study["name"], uri)
        found = search(self.client, [self.experiment])
        parent = open_parent(self.client, self.experiment, study, start, found)
        self.known = by_replicate(found)
        self.open: dict[str, Run] = {}
        self.scratch = tempfile.TemporaryDirectory()
        self.writer = Writer(self.client, self.experiment, parent, Path(self.scratch.name), read_file)

    def log(self, replicate: runs.Replicate, points: list[runs.Point], pictures: list[Path]) -> None:
        """Add points, and pictures where they can be reached from here, to a replicate's run; opens it if need be."""
        if replicate.key not in self.open:
            self.open[replicate.key] = self._left_open(replicate) or self._opened(replicate)
        for at in range(0, len(points), METRICS_PER_BATCH):
            metrics = [Metric(*point) for point in points[at : at + METRICS_PER_BATCH]]
            self.client.log_batch(self.open[replicate.key].info.run_id, metrics=metrics)
        for picture in pictures:
            if picture.is_file():  # not on another node, nor once its stage is published
                self.client.log_artifact(self.open[replicate.key].info.run_id, str(picture), VAL)

    def settle(self, replicate: runs.Replicate) -> None:
        """Write a complete replicate."""
        others = self.known.pop(replicate.key, [])
        if run := self.open.pop(replicate.key, None):
            others = [run, *(other for other in others if other.info.run_id != run.info.run_id)]
        self.writer.settle(replicate, others)

    def _left_open(self, replicate: runs.Replicate) -> Run | None:
        """The run of a driver that was killed, if it was opened for the same."""
        for run in self.known.get(replicate.key, []):
            same = run.data.params == replicate.params and run.info.start_time == replicate.started
            if is_live(run) and same:
                return run
        return None

    def _opened(self, replicate: runs.Replicate) -> Run:
        """A new run: RUNNING, with params and tags, but without a digest, which is that of the result."""
        tags = {key: value for key, value in replicate.tags.items() if key != "ablab.digest"}
        tags |= self.writer.place(replicate)
        run = self.client.create_run(self.experiment, replicate.started, tags, run_name=replicate.name)
        params = [Param(key, value) for key, value in replicate.params.items()]
        for at in range(0, len(params), PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=params[at : at + PARAMS_PER_BATCH])
        return run
