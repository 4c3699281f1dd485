"""What the tests of this folder share: a small study file, data that need not exist, and a store in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ablab.config import Override
from ablab.study.plan import Plan, Stage, compile
from ablab.study.study import load

PART = "from helper import scale\n\n\nclass Mine:\n    channels = 8\n"
SMALL = """
question: Is it worth it?
base: {model: yolov5n, schedule: constant, schedule.imgsz: 64, schedule.epochs: [4, 2, 2], eval.every: 0}
factors:
  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}
  head: {full: {head_prune.ratio: 0.0}, half: {head_prune.ratio: 0.5}}
design: one_at_a_time
seeds: [0, 1]
measure: {resolutions: [64]}
"""


def write(text: str, name: str = "mine") -> None:
    """A study file in the working folder."""
    Path("sweeps").mkdir(exist_ok=True)
    Path("sweeps", f"{name}.yaml").write_text(text)


def described(train: str = "train", images: int = 8) -> Any:
    """Stands in for a data set of two classes whose train split has the content `train`."""
    digests = {"train": train, "val": "val"}
    splits = {split: {"images": images, "boxes": 4, "digest": digests[split]} for split in digests}
    return lambda _: {"names": ["a", "b"], "splits": splits}


def plan(*overrides: Override, data: Any = None, name: str = "mine") -> Plan:
    return compile(load(name, overrides), data or described())


class MemoryStore:
    """The part of the store's interface that planning uses; results are published by `finish`."""

    def __init__(self, folder: Path) -> None:
        self.local = folder
        self.records: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, dict[str, Any]] = {}

    def published(self) -> set[str]:
        return set(self.records)

    def has(self, fingerprint: str) -> bool:
        return fingerprint in self.records

    def read(self, fingerprint: str) -> dict[str, Any]:
        return json.loads(json.dumps(self.records[fingerprint]))

    def read_json(self, name: str) -> dict[str, Any] | None:
        return self.documents.get(name)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self.documents[name] = json.loads(json.dumps(content))

    def folder(self, fingerprint: str) -> Path:
        return self.local / fingerprint

    checked = folder

    @contextmanager
    def claim(self, fingerprint: str, expired: Any = None) -> Any:
        work = self.local / "work" / fingerprint
        work.mkdir(parents=True, exist_ok=True)
        yield SimpleNamespace(work=work, token=1, check=lambda: None, fingerprint=fingerprint)

    def publish(self, hold: Any, record: dict[str, Any], written: Path) -> dict[str, Any]:
        files = {file.name: "sum" for file in sorted(written.iterdir())}
        self.records[record["fingerprint"]] = record | {"files": files}
        written.rename(self.local / record["fingerprint"])
        return self.records[record["fingerprint"]]

    def finish(self, stages: Iterable[Stage], **facts: Any) -> None:
        """Publish results as the engine would."""
        for stage in stages:
            numbers = {"diverged": False} if stage.kind == "train" else {}
            self.records[stage.fingerprint] = record(stage) | {"numbers": numbers} | facts
            (self.local / stage.fingerprint).mkdir()
            (self.local / stage.fingerprint / "result.txt").write_text(stage.fingerprint)


def record(stage: Stage) -> dict[str, Any]:
    kept = ("fingerprint", "kind", "label", "config", "inputs", "versions", "code", "modules", "data")
    return {key: getattr(stage, key) for key in kept} | {
        "numbers": {},
        "host": {"machine": "m", "processor": "p"},
        "started": 1.0,
        "seconds": 10.0,
        "files": {"result.txt": "sum"},
    }
