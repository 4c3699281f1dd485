"""How a study lies in MLflow: the params, metrics and tags of its runs, made here and read back here.

Pure functions between the driver's record (plain dictionaries) and what MLflow can hold (short texts, and numbers
with a step and a time). Notable:

- Metrics are named `what/resolution` (`map50/320`, `flops/320`), curves `train/loss` and `val/map50`; those of a
  command as it named them.
- Steps of curves count epochs over all phases; times are the stages' own: writing twice writes the same, and so does
  writing an epoch's point when it comes (live.py) and again at the end.
- What a run is made of is hashed into its digest. The variant's place in the study and the commit are not part
  of it: a study that grows renumbers its variants without making them new.
- Texts longer than a tag are spread over `key`, `key.1`, `key.2` ...
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ablab.config import flatten
from ablab.stages.declare import ENGINE, LOCATIONS
from ablab.study.fingerprint import digest

LAYOUT = 2  # part of every digest: raise it when this module writes something else for the same record
TAG_LIMIT, PARAM_LIMIT, KEY_LIMIT = 5000, 6000, 250  # characters; the least of MLflow 2.10 to 3.x
DATASET_DIGEST_LIMIT = 36  # characters
# Groups that say where things are, not what is compared.
HOUSEKEEPING = ("tracking", "store", "reports")


Curve = dict[str, list[tuple[int, float]]]
Point = tuple[str, float, int, int]  # name, value, time in ms since 1970, step
NO_METRIC = ("epoch", "epochs", "at", "images_per_second")  # of what a training tells after an epoch
SETTINGS = ("conf", "iou", "max_nms", "max_det", "clip", "precision")  # of an evaluation, that a report tells


@dataclass(frozen=True)
class Replicate:
    """One variant with one seed, as MLflow's run will hold it. Times are in milliseconds since 1970."""

    key: str
    digest: str
    name: str
    status: str
    started: int
    ended: int
    params: dict[str, str]
    metrics: list[Point]
    tags: dict[str, str]
    dataset: dict[str, str] | None  # name, digest, source, profile, context
    curve: Curve
    pictures: list[tuple[str, str]]  # files of stages: fingerprint, name
    config: dict[str, Any]


def canonical(value: object) -> str:
    """JSON text that is the same for equal values, whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def identity(levels: Mapping[str, Any], seed: object) -> str:
    """What makes a child run of a study this one and not another: its levels and its seed."""
    return canonical([{k: str(v) for k, v in levels.items()}, str(seed)])


def number(index: int, variants: int) -> str:
    """A variant's number in run names and tables, padded so that names sort: `03` of 40, `003` of 400."""
    return f"{index:0{max(2, len(str(max(variants - 1, 0))))}d}"


def replicate(study: Mapping[str, Any], variant: Mapping[str, Any], seeded: Mapping[str, Any]) -> Replicate:
    """The run of one variant and one of its `replicates` entries in the driver's study record."""
    stages, levels, seed = seeded["stages"], variant["levels"], seeded["seed"]
    config = _recorded(variant["config"]) | {"seed": seed}
    content = {
        "layout": LAYOUT,
        "config": config,
        **{key: variant[key] for key in ("name", "levels", "model")},
        **{key: seeded.get(key) for key in ("seed", "status", "reason", "stages")},
    }
    identified = digest(content)
    known = stages or [s for v in study["variants"] for r in v["replicates"] for s in r["stages"]]
    started = min((milliseconds(stage["started"]) for stage in known), default=0)
    ended = max((milliseconds(stage["started"] + stage["seconds"]) for stage in stages), default=started)
    index = number(variant["index"], len(study["variants"]))
    params = {
        **{_legal(key): _short(value) for key, value in flatten(config).items()},
        **{_legal(str(key)): _short(value) for key, value in levels.items()},
        **({"model": str(variant["model"])} if variant["model"] else {}),
    }
    git = study.get("git") or {}
    tags = {
        "ablab.kind": "replicate",
        "ablab.digest": identified,
        "ablab.index": index,
        "ablab.variant": str(variant["name"]),
        "ablab.model": str(variant["model"]),
        "ablab.seed": str(seed),
        "ablab.status": seeded["status"],
        "ablab.machine": "; ".join(sorted({_machine(stage) for stage in stages})),
        "mlflow.source.git.commit": str(git.get("commit") or "unknown"),
        "ablab.git_dirty": canonical(git.get("dirty")),
        **pack("ablab.reason", str(seeded.get("reason") or "")),
        **pack("ablab.levels", canonical(levels)),
        **pack("ablab.fingerprints", canonical([_origin(stage) for stage in stages])),
        **pack("ablab.versions", canonical(_versions(stages))),
        **pack("ablab.training", canonical(_training(stages))),
        **pack("ablab.evaluation", canonical(_evaluation(stages))),
        **pack("ablab.elements", canonical(_elements(stages))),
    }
    curve, metrics = _curves(stages)
    return Replicate(
        key=identity(levels, seed),
        digest=identified,
        name=f"{index} {variant['name']} seed {seed}",
        status=seeded["status"],
        started=started,
        ended=ended,
        params=params,
        metrics=metrics + _finals(stages),
        tags={key: value for key, value in tags.items() if value},
        dataset=_dataset(stages),
        curve=curve,
        pictures=[(s["fingerprint"], name) for s in _of(stages, "train") for name in _pictures(s)],
        config=config,
    )


def parent_tags(study: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a study's parent run: everything of the study that is not in its children."""
    facts = {k: study[k] for k in ("name", "question", "design", "factors", "baseline", "seeds", "resolutions")}
    facts |= {k: study[k] for k in ("measure", "command") if k in study}  # of a study over a command
    of_variant = ("index", "name", "levels", "model", "resolutions")
    facts["variants"] = [{k: v[k] for k in of_variant} for v in study["variants"]]
    git = study.get("git") or {}
    return {
        "ablab.kind": "study",
        "mlflow.note.content": f"{study['question']}\n\nDesign: {study['design']}."[:TAG_LIMIT],
        "mlflow.source.git.commit": str(git.get("commit") or "unknown"),
        "ablab.git_dirty": canonical(git.get("dirty")),
        # The order of keys is kept: factors are columns in the order in which they were written.
        **pack("ablab.study", json.dumps(facts, ensure_ascii=False)),
    }


def parent(tags: Mapping[str, str]) -> dict[str, Any]:
    """The study's facts, from its parent run's tags."""
    git = {
        "commit": tags.get("mlflow.source.git.commit"),
        "dirty": json.loads(tags.get("ablab.git_dirty", "null")),
    }
    return {**json.loads(unpack(tags, "ablab.study")), "git": git}


def child(tags: Mapping[str, str]) -> dict[str, Any]:
    """A replicate's facts, from its run's tags: what `replicate` packed there."""
    texts = {key: tags.get(f"ablab.{key}", "") for key in ("variant", "model", "seed", "status")}
    packed = ("levels", "fingerprints", "versions", "training", "evaluation", "elements")
    facts = {key: json.loads(unpack(tags, f"ablab.{key}") or "null") for key in packed}
    return {**texts, **facts, "reason": unpack(tags, "ablab.reason") or None}


def pack(key: str, text: str) -> dict[str, str]:
    """`text` as one tag, or as several where it is longer than a tag may be."""
    parts = [text[at : at + TAG_LIMIT] for at in range(0, len(text), TAG_LIMIT)] or [""]
    return {key if part == 0 else f"{key}.{part}": value for part, value in enumerate(parts)}


def unpack(tags: Mapping[str, str], key: str) -> str:
    """The text that `pack` spread over tags; empty where there is none."""
    text, part = tags.get(key, ""), 1
    while f"{key}.{part}" in tags:
        text, part = text + tags[f"{key}.{part}"], part + 1
    return text


def points(row: Mapping[str, Any], at: float, step: int, own: bool = False) -> list[Point]:
    """The points of one epoch, by name. at: when it ended, unix time. step: epochs from the first phase on.

    own: a program's, whose numbers keep their names, and NaN: its last number is the result.
    """
    time = milliseconds(at)
    if own:
        return [(_legal(k), _measured(v), time, step) for k, v in row.items() if k not in ("epoch", "step")]
    return [
        (_legal(f"{'val' if key.startswith('map') else 'train'}/{key}"), float(value), time, step)
        for key, value in row.items()
        if key not in NO_METRIC and _is_number(value)
    ]


def epochs(stages: list[dict[str, Any]]) -> int:
    """How many epochs the trainings among `stages` took: the step at which the next phase begins."""
    trained = [stage["numbers"] for stage in _of(stages, "train")]
    return sum(int(numbers.get("epochs", len(numbers.get("curve", [])))) for numbers in trained)


def _curves(stages: list[dict[str, Any]]) -> tuple[Curve, list[Point]]:
    """Per-epoch numbers of all phases, end to end: as curves, and as metrics.

    A point's time is that of its epoch in the stage's timeline; without one, it lies evenly within the stage.
    """
    curve: Curve = {}
    metrics: list[Point] = []
    curved = _of(stages, "train", "command")
    for number, stage in enumerate(curved):
        before = epochs(curved[:number])
        ended = {int(epoch): at for epoch, at in stage.get("timeline") or []}
        rows = stage["numbers"].get("curve", [])
        for nth, row in enumerate(rows, start=1):
            epoch = int(row["epoch"] if "epoch" in row else row["step"])
            at = ended.get(epoch, stage["started"] + stage["seconds"] * nth / len(rows))
            found = points(row, at, before + epoch, own=stage["kind"] == "command")
            metrics += found
            if stage["kind"] == "train":
                for name, value, _, step in found:
                    curve.setdefault(name, []).append((step, value))
    return curve, metrics


def _finals(stages: list[dict[str, Any]]) -> list[Point]:
    """Numbers of a stage's end: AP and costs by resolution, and what training took over all phases."""
    metrics = []
    for stage in _of(stages, "profile", "evaluate"):
        numbers, end = stage["numbers"], milliseconds(stage["started"] + stage["seconds"])
        for key, value in numbers.items():
            if key != "imgsz" and _is_number(value):
                metrics.append((_legal(f"{key}/{numbers['imgsz']}"), float(value), end, 0))
    for stage in _of(stages, "command"):
        end = milliseconds(stage["started"] + stage["seconds"])
        curved = {key for point in stage["numbers"]["curve"] for key in point}  # whose last point is the number
        for key, value in stage["numbers"]["values"].items():
            if key not in curved:
                metrics.append((_legal(key), _measured(value), end, 0))
    trained = _of(stages, "train")
    if trained:
        end = milliseconds(trained[-1]["started"] + trained[-1]["seconds"])
        for key in ("epochs", "steps"):
            total = sum(stage["numbers"].get(key, 0) for stage in trained)
            metrics.append((f"train/{key}", float(total), end, 0))
        images = max(stage["numbers"].get("images", 0) for stage in trained)  # of the train split
        metrics.append(("train/images", float(images), end, 0))
        for key in ("best_possible_recall", "loaded_share"):  # of the first phase
            if key in trained[0]["numbers"]:
                metrics.append((f"train/{key}", float(trained[0]["numbers"][key]), end, 0))
        metrics.append(("train/seconds", float(sum(stage["seconds"] for stage in trained)), end, 0))
    return metrics


def _pictures(stage: Mapping[str, Any]) -> list[str]:
    """What a training saw on val, as images."""
    return sorted(name for name in stage.get("files", {}) if name.endswith(".jpg"))


def _training(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each phase of training really used, for the audit."""
    phases = []
    for stage in _of(stages, "train"):
        used = {key: value for key, value in stage["numbers"].items() if not isinstance(value, list | dict)}
        config = stage["config"]
        used["imgsz"] = (config.get("phase") or {}).get("imgsz")
        used["precision"] = (config.get("engine") or {}).get("precision")
        phases.append({"label": stage["label"], **used})
    return phases


def _evaluation(stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """On what, and under which settings, AP was measured (the same for every resolution)."""
    for stage in _of(stages, "evaluate"):
        config, numbers = stage["config"], stage["numbers"]
        settings = {k: v for k, v in (config.get("eval") or {}).items() if k in SETTINGS}
        data = {"data": _data_name(config), "digest": stage.get("data"), "split": config.get("split")}
        return {**data, "images": numbers.get("images"), "settings": settings}
    return None


def _elements(stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """By input size, what a profile counted besides convolutions: {"320": {form: {size: {kind: elements}}}}."""
    profiled = _of(stages, "profile")
    return {
        str(s["numbers"]["imgsz"]): s["numbers"]["elements"] for s in profiled if "elements" in s["numbers"]
    } or None


def _dataset(stages: list[dict[str, Any]]) -> dict[str, str] | None:
    used = [stage for stage in stages if stage.get("data")]
    if not used:
        return None
    counts = {k: v for stage in _of(used, "data") for k, v in stage["numbers"].items() if k != "dirt"}
    config: dict[str, Any] = next(
        (stage["config"]["data"] for stage in used if isinstance(stage["config"].get("data"), dict)), {}
    )
    return {
        "name": _data_name(used[0]["config"]),
        "digest": used[0]["data"][:DATASET_DIGEST_LIMIT],
        "source": canonical(config),
        "profile": canonical(counts),
        "context": "training" if _of(used, "train") else "evaluation",
    }


def _data_name(config: Mapping[str, Any]) -> str:
    """What people call the data: its `name`, else its folder, else its format."""
    data = config.get("data")
    if not isinstance(data, Mapping):
        return str(data or "data")
    folder = PurePath(str(data.get("root") or "")).name
    return str(data.get("name") or folder or data.get("format") or "data")


def _origin(stage: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: stage[key] for key in ("kind", "label", "fingerprint")}
    kept = {"accepted": _accepted(stage)} if stage.get("accepted") else {}
    return {**facts, "imgsz": stage["numbers"].get("imgsz"), **kept}


def _accepted(stage: Mapping[str, Any]) -> list[str]:
    """Modules that changed since a result was made that was kept all the same; none where only its parents' did."""
    modules: set[str] = set()
    accepted = stage.get("accepted")
    while accepted:
        modules.update(accepted["modules"])
        accepted = accepted.get("before")
    return sorted(modules)


def _versions(stages: list[dict[str, Any]]) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for stage in stages:
        for library, version in (stage.get("versions") or {}).items():
            seen.setdefault(library, set()).add(str(version))
    return {library: ", ".join(sorted(versions)) for library, versions in seen.items()}


def _machine(stage: Mapping[str, Any]) -> str:
    host = stage.get("host") or {}
    return " ".join(str(host[key]) for key in ("machine", "processor") if host.get(key))


def _of(stages: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [stage for stage in stages if stage["kind"] in kinds]


def _recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without places and without how stages are executed: a record must not change with them."""
    kept = {group: value for group, value in config.items() if group not in HOUSEKEEPING}
    for key in LOCATIONS:
        group, _, name = key.partition(".")
        if isinstance(kept.get(group), Mapping):
            kept[group] = {k: v for k, v in kept[group].items() if k != name}
    if isinstance(kept.get("engine"), Mapping):
        kept["engine"] = {k: v for k, v in kept["engine"].items() if f"engine.{k}" in ENGINE}
    return kept


def _short(value: object) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= PARAM_LIMIT else text[: PARAM_LIMIT - 1] + "…"


def _legal(key: str) -> str:
    """MLflow allows letters, digits and `_ - . / : space` in names; a colon not on every system."""
    return re.sub(r"[^\w.\-/ ]", "_", key, flags=re.ASCII)[:KEY_LIMIT]


def _measured(value: float | None) -> float:
    """A command's number; JSON, and so the store, knows no NaN."""
    return math.nan if value is None else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def milliseconds(seconds: float) -> int:
    return math.floor(seconds * 1000 + 0.5)
