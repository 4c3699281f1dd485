"""What stages took on this machine, one JSON line each: what a forecast is made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ablab.stages.declare import PARTS
from ablab.store import Store
from ablab.study.fingerprint import digest
from ablab.study.plan import Plan, Stage

FILE = "measured.jsonl"
AT_MOST = 2000  # records that are read to catch up with what was published elsewhere
BACKWARD = 3  # a training step costs about this many forward passes


@dataclass(frozen=True)
class Line:
    """A stage that ran. parts: digest of its network (of its configuration, if it has none). units: see `units`.

    px: side of its images, 0 if it has none. macs_per_px: convolution MACs of its network for a pixel of the input,
    known of a profile. peak_mb, disk_mb: None where nobody looked.
    """

    fingerprint: str
    kind: str
    parts: str
    batch: int
    px: int
    units: float
    seconds: float
    peak_mb: float | None
    disk_mb: float | None
    macs_per_px: float | None
    device: str
    precision: str
    threads: int
    machine: str
    processor: str

    @property
    def like(self) -> tuple[Any, ...]:
        """Stages that share it take time in proportion to their units, on one machine."""
        return (self.kind, self.parts, self.batch, self.device, self.precision, self.threads)


def measured(store: Store) -> list[Line]:
    """What was remembered, oldest first, the last line of each stage. A line that is cut short is passed over."""
    file = _file(store)
    if not file.is_file():
        return []
    names = {field.name for field in fields(Line)}
    found: dict[str, Line] = {}
    for text in file.read_text(errors="replace").splitlines():
        try:
            content = json.loads(text)
            line = Line(**{name: content[name] for name in names})
        except (ValueError, KeyError, TypeError):
            continue
        found.pop(line.fingerprint, None)
        found[line.fingerprint] = line
    return list(found.values())


def remember(store: Store, stage: Stage, record: Mapping[str, Any]) -> None:
    """Append what a stage took; a disk that refuses it costs a forecast its basis, and nothing else."""
    _append(store, [_line(store, stage, record, parts_digest())])


def caught_up(store: Store, plan: Plan, published: set[str]) -> list[Line]:
    """What was remembered, and what the store says of published stages of `plan` that were made elsewhere.

    Results that were kept across a code change are passed over: nothing ran for them.
    """
    history = measured(store)
    known = {line.fingerprint for line in history}
    missing = [f for f in plan.stages if f in published and f not in known][:AT_MOST]
    parts = parts_digest()
    more = []
    for fingerprint in missing:
        record = store.read(fingerprint)
        if "accepted" not in record:
            more.append(_line(store, plan.stages[fingerprint], record, parts))
    _append(store, more)
    return [*history, *more]


def units(stage: Stage, epochs: int | None = None) -> float:
    """How much a stage does: forward passes × px² for what sees images of one size, else images, else 1.

    epochs: how many a training came to, if not all.
    """
    config = stage.config
    if "phase" in config:
        phase, images = config["phase"], [*stage.images, 0, 0]
        done = phase["epochs"] if epochs is None else epochs
        every = config.get("eval", {}).get("every", 0)
        looks = -(-done // every) if every else 0
        return float((BACKWARD * done * images[0] + looks * images[1]) * phase["imgsz"] ** 2) or 1.0
    if "imgsz" in config and stage.images:
        return float(sum(stage.images) * config["imgsz"] ** 2) or 1.0
    return float(sum(stage.images)) or 1.0


def px(stage: Stage) -> int:
    """Side of the images that a stage works on, 0 if it has none."""
    size: int = stage.config.get("phase", stage.config).get("imgsz", 0)
    return size


def parts_digest() -> Callable[[Stage], str]:
    """A function stage -> digest of its network, which remembers the parts of the plan that it has seen."""
    known: dict[int, tuple[Any, str]] = {}  # stages of a variant share their parts: by identity, held so that it lasts

    def part(group: Any) -> str:
        if id(group) not in known:
            known[id(group)] = (group, digest(group))
        return known[id(group)][1]

    def parts(stage: Stage) -> str:
        if all(name in stage.config for name in PARTS):
            return " ".join(part(stage.config[name])[:16] for name in PARTS)
        return digest({key: value for key, value in stage.config.items() if key != "seed"})

    return parts


def _line(store: Store, stage: Stage, record: Mapping[str, Any], parts: Callable[[Stage], str]) -> Line:
    config, numbers, host = stage.config, record["numbers"], record.get("host") or {}
    engine = config.get("engine", {})
    macs = numbers.get("conv_macs")
    return Line(
        fingerprint=stage.fingerprint,
        kind=stage.kind,
        parts=parts(stage),
        batch=_batch(config),
        px=px(stage),
        units=units(stage, numbers.get("epochs")),
        seconds=float(record["seconds"]),
        peak_mb=record.get("peak_mb"),
        disk_mb=_disk_mb(store, stage.fingerprint),
        macs_per_px=macs / px(stage) ** 2 if macs and px(stage) else None,
        device=engine.get("device", ""),
        precision=engine.get("precision", ""),
        threads=engine.get("threads", 0),
        machine=host.get("machine", ""),
        processor=host.get("processor", ""),
    )


def like(stage: Stage, parts: str) -> tuple[Any, ...]:
    """`Line.like` of a stage that is yet to run."""
    engine = stage.config.get("engine", {})
    where = (engine.get("device", ""), engine.get("precision", ""), engine.get("threads", 0))
    return (stage.kind, parts, _batch(stage.config), *where)


def _batch(config: Mapping[str, Any]) -> int:
    group = config.get("optim") if "phase" in config else config.get("eval")
    return (group or {}).get("batch", 0)


def _disk_mb(store: Store, fingerprint: str) -> float | None:
    """None where the files do not lie on this machine."""
    try:
        sizes = [file.stat().st_size for file in store.folder(fingerprint).iterdir()]
    except OSError:
        return None
    return sum(sizes) / 1e6


def _append(store: Store, lines: Iterable[Line]) -> None:
    text = "".join(json.dumps(asdict(line), separators=(",", ":")) + "\n" for line in lines)
    if not text:
        return
    try:
        file = _file(store)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write(text)
    except OSError:
        pass


def _file(store: Store) -> Path:
    return store.local / FILE
