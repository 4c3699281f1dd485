"""A study compiled to a graph of stages: unique work, in the order it should run.

Nothing here imports torch: what needs a network is found out by the `smoke` stages, which run before any training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.config import THE_DATA, Composed, Override, compose, flatten
from ablab.errors import UserError, nearest
from ablab.stages.declare import BY_CONTENT, KINDS
from ablab.store import checksum
from ablab.study import command, limits
from ablab.study.equal import refuse_equal_arms
from ablab.study.fingerprint import code, digest, modules_of, targets, versions
from ablab.study.study import Study, Variant

# data group -> {"names": [...], "splits": {"train": {"images", "boxes", "digest"}, ...}}
Describe = Callable[[dict[str, Any]], dict[str, Any]]
Split = Callable[[str], int | None]
SettleVariant = Callable[[Variant], dict[str, Any]]  # a variant's complete configuration
Chain = Callable[[dict[str, Any], int], "list[Stage]"]  # (configuration, seed) -> its stages, parents first


@dataclass(frozen=True)
class Stage:
    """A piece of work.

    config: all that it may read. inputs: role -> fingerprint of a parent, or a path that the user gave.
    data: digest of the content of `splits`, the splits that it reads. modules: module -> digest, what `code`
    digests. images: how many each of `splits` holds.
    """

    kind: str
    label: str
    config: dict[str, Any] = field(repr=False)
    inputs: dict[str, str]
    data: str | None
    splits: tuple[str, ...]
    code: str
    versions: dict[str, str] = field(repr=False)
    fingerprint: str
    modules: dict[str, str] = field(repr=False, default_factory=dict)
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Replicate:
    """A variant with a seed, and the fingerprints of its stages in order."""

    variant: Variant
    seed: int
    config: dict[str, Any] = field(repr=False)
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """stages: fingerprint -> stage, every parent before its children, checks first."""

    study: Study
    replicates: tuple[Replicate, ...]
    stages: dict[str, Stage]
    duplicates: tuple[tuple[Variant, Variant], ...]  # (left out, the one that does the same work)


def compile(
    study: Study,
    describe: Describe,
    only: Iterable[str] = tuple(KINDS),
    weights: Path | None = None,
    split: Split = lambda _: None,
) -> Plan:
    """The plan of a study.

    describe: tells the class names and content hash of a data set. only: kinds to plan.
    weights: a file of the user's to evaluate, in place of training. split: the micro-batch that a training, by its
    fingerprint, must be split into where `engine.split_batch` allows it; None for one that has memory enough.
    Raises UserError for whatever in the configuration is wrong, before anything runs.
    """
    work: dict[tuple[str, ...], Variant] = {}
    equal: list[tuple[Variant, Variant]] = []
    settled: list[tuple[Variant, dict[str, Any], list[Stage]]] = []  # with the first seed's stages
    kinds = set(only)
    settle_variant, chain = _program(study, describe) if study.command else _detector(describe, kinds, weights, split)
    for variant in study.expand():
        config = settle_variant(variant)
        stages = chain(config, study.seeds[0])
        does = tuple(s.fingerprint for s in stages)
        if does in work:
            equal.append((variant, work[does]))
            if not study.identical or variant.levels == work[does].levels:
                continue
        work.setdefault(does, variant)
        settled.append((variant, config, stages))
    duplicates = refuse_equal_arms(study, equal)
    found: dict[str, Stage] = {}
    replicates = []
    for seed in study.seeds:  # every variant's first seed before any second
        for variant, config, first in settled:
            stages = first if seed == study.seeds[0] else chain(config, seed)
            found |= {stage.fingerprint: stage for stage in stages if stage.fingerprint not in found}
            replicates.append(Replicate(variant, seed, config, tuple(s.fingerprint for s in stages)))
    ordered = sorted(found.items(), key=lambda item: _rank(item[1].kind))  # stable: parents stay before children
    return Plan(study, tuple(replicates), dict(ordered), tuple(duplicates))


def baseline_config(study: Study) -> dict[str, Any]:
    """The baseline's configuration as the study tells it, before data and machine decide the rest."""
    overrides = study.expand()[0].overrides
    if study.command:
        return command.configure(study.command, overrides, study.source, {})
    return compose(overrides).resolved


def _detector(describe: Describe, kinds: set[str], weights: Path | None, split: Split) -> tuple[SettleVariant, Chain]:
    def settle_variant(variant: Variant) -> dict[str, Any]:
        config = settle(compose(variant.overrides), variant.overrides, describe)
        _check_splits(config, describe, kinds)
        return config

    return settle_variant, lambda config, seed: _chain(config, seed, describe, kinds, weights, split)


def _program(study: Study, describe: Describe) -> tuple[SettleVariant, Chain]:
    """For a study over a command, whose replicates are one stage each."""
    assert study.command
    asked, source, known = study.command, study.source, dict[str, dict[str, Any]]()
    files, libraries = command.code_of(asked, source)

    def settle_variant(variant: Variant) -> dict[str, Any]:
        config = command.configure(asked, variant.overrides, source, known)
        return config | {"engine": machine.settle(config["engine"])}

    def chain(config: dict[str, Any], seed: int) -> list[Stage]:
        part = command.part(asked, study.measure, config, seed, files, source)
        content = describe(part["data"]) if asked.data else None
        splits = tuple(content["splits"]) if content else ()
        return [make("command", f"run, seed {seed}", part, {}, content, splits, files, libraries)]

    return settle_variant, chain


def settle(composed: Composed, overrides: Iterable[Override], describe: Describe) -> dict[str, Any]:
    """A complete configuration with what the data and the machine decide: classes, names, device, precision, threads.

    Raises UserError for a value out of its limits, or if `model.classes` was set to another number than the data has.
    """
    limits.check(composed)
    config = composed.resolved
    names = describe(config["data"])["names"]
    classes = config["model"]["classes"]
    if classes is not None and classes != len(names):
        raise UserError(
            f"model.classes={classes} (from {composed.origin('model.classes')}), but the data has {len(names)} "
            f"classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        )
    if classes is None:
        config = compose([*overrides, Override("model.classes", len(names), THE_DATA)]).resolved
    engine = machine.settle(config["engine"])
    return config | {"engine": engine}


def _check_splits(config: dict[str, Any], describe: Describe, only: set[str]) -> None:
    """Raises UserError unless the splits that are trained and evaluated on are there, with something to find."""
    judged = config["eval"]["split"]
    for kind, key, split in (("train", "data.train", "train"), ("evaluate", f"eval.split={judged}", judged)):
        if kind not in only:
            continue
        splits = describe(config["data"])["splits"]
        if split not in splits:
            raise UserError(f"{key}: the data has no split '{split}'. {nearest(split, splits)}")
        if not splits[split]["boxes"]:
            raise UserError(
                f"data.{split}: no box in its {splits[split]['images']} images, so nothing to learn or to find"
            )


def _chain(
    config: dict[str, Any], seed: int, describe: Describe, only: set[str], weights: Path | None, split: Split
) -> list[Stage]:
    """The stages of one replicate, parents first."""
    phases = config["schedule"]["phases"]
    resolutions = config["eval"]["resolutions"]
    sizes = sorted({*(phase["imgsz"] for phase in phases), *resolutions})
    content = describe(config["data"])
    judged = config["eval"]["split"]
    stages = []
    if "data" in only:
        stages.append(make("data", "check every image", config, content=content, splits=tuple(content["splits"])))
    if "smoke" in only:
        stages.append(make("smoke", "build, step, decode", config | {"sizes": sizes}))
    if "profile" in only:
        stages += [make("profile", f"{size} px", config | {"imgsz": size}) for size in resolutions]
    trained = {"weights": str(weights)} if weights else {}
    if "train" in only:
        previous: dict[str, str] = {}
        watched = ("val",) if config["eval"]["every"] and "val" in content["splits"] else ()
        for label, phase in _phases(config["schedule"]["phases"]):
            part = config | {"phase": phase, "seed": seed}
            train = make("train", f"{label}, seed {seed}", part, previous, content, ("train", *watched))
            while config["engine"].get("split_batch") and (size := split(train.fingerprint)):
                part = part | {"optim": part["optim"] | {"micro_batch": size}}
                train = make("train", f"{label}, seed {seed}", part, previous, content, ("train", *watched))
            stages.append(train)
            previous = {"previous": train.fingerprint}
            trained = {"weights": train.fingerprint}
    if "evaluate" in only:
        for size in resolutions:
            part = config | {"imgsz": size, "split": judged}
            stages.append(make("evaluate", f"{size} px, seed {seed}", part, trained, content, (judged,)))
    return stages


def _phases(phases: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each train stage is called, and its phase: `start_epoch` counts the epochs before it.

    A phase with an open end is a stage for every `stage_epochs`, its `part`: a longer one shares those of a shorter.
    """
    start = 0
    for number, phase in enumerate(phases, 1):
        name = f"phase {number}/{len(phases)}"
        length = phase.get("stage_epochs")
        told = {key: phase[key] for key in ("imgsz", "epochs", "lr")}
        if not length:
            yield f"{name}, {phase['epochs']} epochs at {phase['imgsz']} px", told | {"start_epoch": start}
        for part, first in enumerate(range(0, phase["epochs"], length) if length else ()):
            epochs = min(length, phase["epochs"] - first)
            label = f"{name}, epochs {first + 1} to {first + epochs} at {phase['imgsz']} px"
            yield label, told | {"epochs": epochs, "start_epoch": start + first, "part": part}
        start += phase["epochs"]


def make(
    kind: str,
    label: str,
    config: dict[str, Any],
    inputs: dict[str, str] | None = None,
    content: dict[str, Any] | None = None,
    splits: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
    libraries: dict[str, str] | None = None,
) -> Stage:
    """A stage with its declared part of `config` and its fingerprint.

    files: digests of the user's own code. libraries: versions of what it imports.
    """
    declared = KINDS[kind]
    part: dict[str, Any] = {}
    for key in declared.reads:
        group, _, leaf = key.partition(".")
        if leaf:
            part.setdefault(group, {})[leaf] = config[group][leaf]
        else:
            part[group] = config[group]
    implementing = [declared.module, *targets(part)]
    digest_of_code = code(implementing)
    if files:
        digest_of_code = digest([digest_of_code, files])
    used = versions(declared.libraries) | (libraries or {})
    data = content_digest(content, splits) if content else None
    told = {key: value for key, value in flatten(part).items() if not key.startswith(BY_CONTENT)}
    identity = {
        "kind": kind,
        "config": told,
        "inputs": {role: _content(parent) for role, parent in (inputs or {}).items()},
        "data": data,
        "code": digest_of_code,
        "versions": used,
    }
    images = tuple(content["splits"][split].get("images", 0) for split in splits) if content else ()
    return Stage(
        kind,
        label,
        part,
        inputs or {},
        data,
        splits,
        digest_of_code,
        used,
        digest(identity),
        modules_of(implementing) | files if files else modules_of(implementing),
        images,
    )


def content_digest(content: dict[str, Any], splits: tuple[str, ...]) -> str:
    """Digest of some splits of a data set that was described."""
    return digest({split: content["splits"][split]["digest"] for split in splits})


def _content(parent: str) -> str:
    """A parent's fingerprint; of a file that the user gave, the hash of its content."""
    return checksum(Path(parent)) if os.sep in parent else parent


def _rank(kind: str) -> int:
    """Checks come first, kind by kind (a broken arm fails in the first minute); all else in the replicates' order."""
    return list(KINDS).index(kind) if KINDS[kind].check else len(KINDS)
