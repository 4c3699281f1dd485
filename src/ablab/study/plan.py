"""A study compiled to a graph of stages: unique work, in the order it should run.

Nothing here imports torch: what needs a network is found out by the `smoke` stages, which run before any training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.config import compose, flatten
from ablab.errors import UserError, nearest
from ablab.stages.declare import BY_CONTENT, KINDS
from ablab.study import budget, command, cutting
from ablab.study.equal import refuse_equal_arms
from ablab.study.fingerprint import code, digest, libraries_of, modules_of, targets, versions
from ablab.study.phases import refuse_blind_patience, refuse_lonely_patience, stages_of
from ablab.study.settle import Describe, checksum_of, settle
from ablab.study.study import Study, Variant

Split = Callable[[str], int | None]
Built = Callable[[str], dict[str, Any] | None]
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
    """stages: fingerprint -> stage, every parent before its children, checks first.

    unsettled: whether trainings have a memory budget, and networks whose needs no smoke stage has measured yet.
    """

    study: Study
    replicates: tuple[Replicate, ...]
    stages: dict[str, Stage]
    duplicates: tuple[tuple[Variant, Variant], ...]  # (left out, the one that does the same work)
    unsettled: bool = False


def compile(
    study: Study,
    describe: Describe,
    only: Iterable[str] = tuple(KINDS),
    weights: Path | None = None,
    split: Split = lambda _: None,
    built: Built = lambda _: None,
) -> Plan:
    """The plan of a study.

    describe: tells the class names and content hash of a data set. only: kinds to plan.
    weights: a file of the user's to evaluate, in place of training. split: the micro-batch that a training, by its
    fingerprint, must be split into where `engine.split_batch` allows it; None for one that has memory enough.
    built: the numbers of a smoke stage, by its fingerprint; None where it has not run.
    Raises UserError for whatever in the configuration is wrong, before anything runs.
    """
    work: dict[tuple[str, ...], Variant] = {}
    equal: list[tuple[Variant, Variant]] = []
    settled: list[tuple[Variant, dict[str, Any], list[Stage]]] = []  # with the first seed's stages
    kinds = set(only)
    detector = partial(_chain, describe=describe, only=kinds, weights=weights, split=split, built=built)
    settle_variant, chain = (
        _program(study, describe) if study.command else _detector(describe, kinds, weights, detector)
    )
    variants = study.expand()
    for variant in variants:
        config = settle_variant(variant)
        if len(variants) > 1:
            refuse_lonely_patience(study.name, config)
        stages = chain(config, study.seeds[0])
        does = tuple(s.fingerprint for s in stages)
        if _unsettled(config, stages, built):
            does += (f"optim.memory={config['optim']['memory']}",)  # what comes of it is not known yet
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
    unsettled = any(_unsettled(config, stages, built) for _, config, stages in settled)
    return Plan(study, tuple(replicates), dict(ordered), tuple(duplicates), unsettled)


def _unsettled(config: dict[str, Any], stages: list[Stage], built: Built) -> bool:
    """Whether a configuration has a memory budget, and a network whose needs no smoke stage has measured yet."""
    measured = (built(stage.fingerprint) for stage in stages if stage.kind == "smoke")
    return bool(config.get("optim", {}).get("memory")) and None in measured


def checks(plan: Plan) -> Plan:
    """The part of a plan that runs before everything else."""
    stages = {fingerprint: stage for fingerprint, stage in plan.stages.items() if KINDS[stage.kind].check}
    kept = [replace(one, stages=tuple(f for f in one.stages if f in stages)) for one in plan.replicates]
    return replace(plan, replicates=tuple(kept), stages=stages)


def baseline_config(study: Study) -> dict[str, Any]:
    """The baseline's configuration as the study tells it, before data and machine decide the rest."""
    overrides = study.expand()[0].overrides
    if study.command:
        return command.configure(study.command, overrides, study.source, {})
    return compose(overrides).resolved


def _detector(describe: Describe, kinds: set[str], weights: Path | None, chain: Chain) -> tuple[SettleVariant, Chain]:
    def settle_variant(variant: Variant) -> dict[str, Any]:
        config = settle(compose(variant.overrides), variant.overrides, describe, weights)
        _check_splits(config, describe, kinds)
        return config

    return settle_variant, chain


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
    config: dict[str, Any],
    seed: int,
    describe: Describe,
    only: set[str],
    weights: Path | None,
    split: Split,
    built: Built,
) -> list[Stage]:
    """The stages of one replicate, parents first."""
    memory = config["optim"].get("memory")  # no part of a stage: what is made of it is
    config = config | {"optim": {key: value for key, value in config["optim"].items() if key != "memory"}}
    wide = config | config.get("uncut", {}) | {"uncut": {}}  # what is trained before a cut
    config = {"uncut": {}} | config
    phases = config["schedule"]["phases"]
    resolutions = config["eval"]["resolutions"]
    sizes = sorted({*(phase["imgsz"] for phase in phases), *resolutions})
    content = describe(config["data"])
    judged = config["eval"]["split"]
    given = {"weights": file} if (file := config["start"]["weights"]) else {}
    stages: list[Stage] = []
    needs: list[dict[str, Any] | None] = []  # of the networks
    networks = [wide, config] if config["uncut"] else [config]
    if "data" in only:
        stages.append(make("data", "check every image", config, content=content, splits=tuple(content["splits"])))
    if "smoke" in only:
        starts = [given, {}]  # a network that is cut out of another starts from no file
        smokes = [
            make("smoke", "build, step, decode", one | {"sizes": sizes}, start)
            for one, start in zip(networks, starts, strict=False)
        ]
        needs = [built(smoke.fingerprint) for smoke in smokes] if memory else []
        stages += smokes
    if "profile" in only:
        stages += [make("profile", f"{size} px", config | {"imgsz": size}) for size in resolutions]
    trained = {"weights": str(weights)} if weights else {}
    if "train" in only:
        previous: dict[str, str] = given
        watched = ("val",) if config["eval"]["every"] and "val" in content["splits"] else ()
        whole_epochs = cutting.epochs_before(config) if config["uncut"] else 0
        for label, phase in stages_of(phases):
            refuse_blind_patience(phase, bool(watched))
            network = 0 if phase["start_epoch"] < whole_epochs else -1
            if config["uncut"] and phase["start_epoch"] == whole_epochs:
                part = config | {"imgsz": phase["imgsz"]}
                share = f"head by {config['head_prune']['ratio']:g}"
                stages.append(make("cut", f"{share}, seed {seed}", part, trained, content, ("train",)))
                previous = {"previous": stages[-1].fingerprint}
            part = networks[network] | {"phase": phase, "seed": seed}
            if needs and (measured := needs[network]):
                fits = budget.micro_batch(memory, part, phase, measured)
                part = part | {"optim": part["optim"] | {"micro_batch": fits}}
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
    used = versions(declared.libraries) | libraries_of(targets(part), declared.libraries) | (libraries or {})
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
    if os.sep not in parent:
        return parent
    return checksum_of(Path(parent))


def _rank(kind: str) -> int:
    """Checks come first, kind by kind (a broken arm fails in the first minute); all else in the replicates' order."""
    return list(KINDS).index(kind) if KINDS[kind].check else len(KINDS)
