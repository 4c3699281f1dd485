"""Writes a study into MLflow.

- A child is written once: its digest says so. Another result for the same levels and seed takes its place, and the
  old run stays, tagged `ablab.current=false`. Only an incomplete one goes: its successor holds all that it held.
- A run is finished last, and the study's own after all its children: until then it is RUNNING. A child that a crash
  left RUNNING is written again if it is still wanted, else closed. What it is to replace goes once it is finished.
- A child that was opened while it was trained (live.py) has no digest yet. It is taken if all that it says is true of
  the result, else another one takes its place.
- The study's own run carries the digest of all that is recorded: once it is finished, nothing else is looked at.
- Only the client API with explicit run ids; nothing global, so other MLflow code in the process is left alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from ablab.study.fingerprint import digest
from ablab.tracking import runs
from ablab.tracking.connect import artifact_location, connect, explained
from ablab.tracking.read import read, search

VAL = "val"  # folder of a run's pictures of what was found on val
PARAMS_PER_BATCH, METRICS_PER_BATCH = 100, 900  # MLflow takes 100 params, and 1000 entities together
KEPT = "Results are kept in the store; mend it and give the same command again"
ReadFile = Callable[[str, str], bytes | None]
STATUS = {"complete": "FINISHED", "failed": "FAILED", "incomplete": "KILLED"}


def nothing(fingerprint: str, name: str) -> bytes | None:
    """The content of no file."""
    return None


def record(study: Mapping[str, Any], uri: str, read_file: ReadFile = nothing) -> None:
    """Write the driver's study record; what MLflow holds of it already is left as it is.

    read_file: the content of a stage's file by fingerprint and name, None if it cannot be had: for pictures.
    Raises UserError that names tracking.uri where there is no MLflow, or one that cannot be written.
    """
    client = connect(uri, create=True)
    with explained(uri, "the record cannot be written", KEPT):
        _record(client, study, uri, read_file)


def _record(client: MlflowClient, study: Mapping[str, Any], uri: str, read_file: ReadFile) -> None:
    experiment = find_experiment(client, study["name"], uri)
    replicates = [runs.replicate(study, v, seeded) for v in study["variants"] for seeded in v["replicates"]]
    whole = digest([runs.parent_tags(study), [replicate.digest for replicate in replicates]])
    if any(
        run.info.status != "RUNNING" and run.data.tags.get("ablab.whole") == whole
        for run in search(client, [experiment], "tags.`ablab.kind` = 'study'")
    ):
        return
    found = search(client, [experiment])
    start = min((replicate.started for replicate in replicates), default=0)
    parent = open_parent(client, experiment, study, start, found, whole)
    known = by_replicate(found)
    with tempfile.TemporaryDirectory() as scratch:
        writer = Writer(client, experiment, parent, Path(scratch), read_file)
        for replicate in replicates:
            writer.settle(replicate, known.pop(replicate.key, []))
    for left in (run for others in known.values() for run in others if run.info.status == "RUNNING"):
        _retire(client, left)
    _finish_parent(client, parent, replicates)


def by_replicate(found: list[Run]) -> dict[str, list[Run]]:
    """The child runs among `found` by what they are for: levels and seed."""
    known: dict[str, list[Run]] = {}
    for run in found:
        if run.data.tags["ablab.kind"] == "replicate":
            levels = runs.child(run.data.tags)["levels"]
            known.setdefault(runs.identity(levels, run.data.tags["ablab.seed"]), []).append(run)
    return known


def log_report(uri: str, study: str, folder: Path) -> None:
    """Put the files of a rendered report beside the study's parent run. Raises UserError as `read` does."""
    facts, _ = read(uri, study)
    with explained(uri, "the report cannot be put there", KEPT):
        connect(uri, create=False).log_artifacts(facts["run_id"], str(folder))


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the study's experiment."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
    if found.lifecycle_stage == "deleted":  # its name is taken all the same
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def open_parent(
    client: MlflowClient,
    experiment: str,
    study: Mapping[str, Any],
    start: int,
    found: list[Run],
    whole: str = "",
) -> str:
    """The study's parent run, made or brought up to date, and RUNNING; its id.

    start: when the first stage began, for a new run. whole: the digest of what it will hold once it is finished.
    """
    tags = runs.parent_tags(study) | {"ablab.whole": whole}
    parent = next((run for run in found if run.data.tags["ablab.kind"] == "study"), None)
    if parent is None:
        return str(client.create_run(experiment, start, tags, run_name=study["name"]).info.run_id)
    client.update_run(parent.info.run_id, "RUNNING")
    surplus = {key: "" for key in parent.data.tags if key.startswith("ablab.study")}  # of a longer text: all at once
    _set_tags(client, parent, surplus | tags)
    return str(parent.info.run_id)


def _finish_parent(client: MlflowClient, parent: str, replicates: list[runs.Replicate]) -> None:
    states = {replicate.status for replicate in replicates}
    status = next((STATUS[state] for state in ("failed", "incomplete") if state in states), "FINISHED")
    end = max((replicate.ended for replicate in replicates), default=0)
    client.set_terminated(parent, status, end)


class Writer:
    """Writes the children of one parent run."""

    def __init__(self, client: MlflowClient, experiment: str, parent: str, scratch: Path, read_file: ReadFile) -> None:
        self.client, self.experiment, self.parent, self.scratch = client, experiment, parent, scratch
        self.read_file = read_file
        self.picture: _Picture | None = None

    def place(self, replicate: runs.Replicate) -> dict[str, str]:
        """What may change without the result: where the run stands in its study."""
        return {
            "mlflow.runName": replicate.name,
            "mlflow.parentRunId": self.parent,
            "ablab.index": replicate.tags["ablab.index"],
            "ablab.current": "true",
        }

    def settle(self, replicate: runs.Replicate, others: list[Run]) -> None:
        """Make `replicate` the one current run among `others`, the runs for its levels and seed."""
        place = self.place(replicate)
        same = [run for run in others if run.data.tags.get("ablab.digest") == replicate.digest]
        kept = min(same, key=lambda run: run.info.status == "RUNNING", default=None)
        if kept is None:
            kept = next((run for run in others if self.is_true(run, replicate)), None)
            place = replicate.tags | place if kept else place
        if kept is not None:
            _set_tags(self.client, kept, place)
        if kept is None or kept.info.status == "RUNNING":
            self.write(replicate, place, kept)
        for old in others:
            if old is not kept:
                _retire(self.client, old)

    def is_true(self, run: Run, replicate: runs.Replicate) -> bool:
        """Whether `run` was opened while `replicate` was trained, and says nothing that does not hold for it."""
        if not is_live(run) or run.info.start_time != replicate.started:
            return False
        now = self.client.get_run(run.info.run_id)
        if not now.data.params.items() <= replicate.params.items():
            return False
        if not now.data.tags.keys() <= replicate.tags.keys() | self.place(replicate).keys():
            return False
        recorded = set(replicate.metrics)
        return all(
            (name, point.value, point.timestamp, point.step) in recorded
            for name in now.data.metrics
            for point in self.client.get_metric_history(run.info.run_id, name)
        )

    def write(self, replicate: runs.Replicate, place: dict[str, str], opened: Run | None) -> None:
        """Write one replicate, into the run that a crash left open if there is one: MLflow drops what it has."""
        client = self.client
        run = opened or client.create_run(
            self.experiment, replicate.started, {**replicate.tags, **place}, run_name=replicate.name
        )
        params = [Param(key, value) for key, value in replicate.params.items()]
        metrics = [Metric(*metric) for metric in replicate.metrics]
        batches = max(-(-len(params) // PARAMS_PER_BATCH), -(-len(metrics) // METRICS_PER_BATCH))
        for at in range(batches):
            client.log_batch(
                run.info.run_id,
                metrics=metrics[at * METRICS_PER_BATCH : (at + 1) * METRICS_PER_BATCH],
                params=params[at * PARAMS_PER_BATCH : (at + 1) * PARAMS_PER_BATCH],
            )
        if replicate.dataset:
            facts = {key: value for key, value in replicate.dataset.items() if key != "context"}
            context = InputTag("mlflow.data.context", replicate.dataset["context"])
            client.log_inputs(run.info.run_id, [DatasetInput(Dataset(source_type="ablab", **facts), [context])])
        self.write_files(replicate, run)
        client.set_terminated(run.info.run_id, STATUS[replicate.status], replicate.ended)

    def write_files(self, replicate: runs.Replicate, run: Run) -> None:
        """config.yaml, and where something was trained curves.png and what it saw on val."""
        place = urlsplit(run.info.artifact_uri)
        local = place.scheme == "file"  # the client asks the database anew for every run's place: half as fast
        folder = Path(url2pathname(place.path)) if local else self.scratch
        folder.mkdir(parents=True, exist_ok=True)
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        (folder / "config.yaml").write_text(yaml.dump(replicate.config, Dumper=dumper, sort_keys=False))
        picture = folder / "curves.png"
        picture.unlink(missing_ok=True)
        if replicate.curve:
            self.picture = self.picture or _Picture()
            self.picture.draw(replicate.curve, picture)
        seen = folder / VAL
        shutil.rmtree(seen, ignore_errors=True)  # another run's, where all use one folder
        for fingerprint, name in replicate.pictures:
            if content := self.read_file(fingerprint, name):
                seen.mkdir(exist_ok=True)
                (seen / name).write_bytes(content)
        if not local:
            self.client.log_artifacts(run.info.run_id, str(folder))


def is_live(run: Run) -> bool:
    """Whether a child run was opened while it was trained, and not settled since."""
    return run.info.status == "RUNNING" and "ablab.digest" not in run.data.tags


def _retire(client: MlflowClient, run: Run) -> None:
    """Mark a run as no longer the result for its levels and seed."""
    _set_tags(client, run, {"ablab.current": "false"})
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, "KILLED", run.info.start_time)
    if run.data.tags["ablab.status"] == "incomplete":
        client.delete_run(run.info.run_id)


def _set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


class _Picture:
    """Loss (as a share of the first epoch's) and AP by epoch, on one scale from 0 to 1.

    The axes are drawn once and only the lines anew: drawing all of it takes longer than all the rest of a run.
    """

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, only for studies that train
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(4.4, 2.8), dpi=100)
        self.canvas = FigureCanvasAgg(figure)
        self.axes = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.97, "bottom": 0.17, "top": 0.96})
        self.lines = {
            "train/loss": self.axes.plot([], label="training loss / first", color="C0", animated=True)[0],
            "val/map50": self.axes.plot([], label="mAP50 on val", color="C1", marker=".", animated=True)[0],
            "val/map": self.axes.plot([], label="mAP on val", color="C2", marker=".", animated=True)[0],
        }
        self.axes.set(xlabel="epoch", ylim=(0, 1.05))
        self.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.axes.grid(alpha=0.25)
        self.axes.legend(fontsize="small", loc="upper right")
        self.epochs = 0

    def draw(self, curve: runs.Curve, file: Path) -> None:
        from matplotlib.image import imsave

        epochs = max(points[-1][0] for points in curve.values())
        if epochs != self.epochs:
            self.axes.set_xlim(0, epochs + 0.5)
            self.canvas.draw()
            self.empty, self.epochs = self.canvas.copy_from_bbox(self.axes.figure.bbox), epochs
        self.canvas.restore_region(self.empty)
        for name, line in self.lines.items():
            points = curve.get(name, [])
            first = points[0][1] if points and name == "train/loss" else 1.0
            line.set_data([epoch for epoch, _ in points], [value / (first or 1.0) for _, value in points])
            self.axes.draw_artist(line)
        imsave(file, np.asarray(self.canvas.buffer_rgba()), pil_kwargs={"compress_level": 1})
