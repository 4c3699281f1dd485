"""The executor with stand-in stages: once each, failures kept apart, mistakes before training."""

from __future__ import annotations

import dataclasses
import errno
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.engine import stage as engine_stage
from ablab.engine.inline import execute
from ablab.engine.stage import StoreUnusableError
from ablab.errors import UserError
from ablab.store import Store
from ablab.study.plan import Plan, Replicate, Stage
from ablab.study.record import record
from ablab.study.study import Study, Variant

Run = Callable[..., dict[str, Any]]


class Stages:
    """Stand-ins: every kind adds its `add` to its parents' sum, unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.instead: dict[str, Run] = {}
        module = types.SimpleNamespace(run=self._run)
        monkeypatch.setattr(engine_stage.importlib, "import_module", lambda _: module)

    def _run(self, config: dict, inputs: dict[str, Path], out: Path, work: Path, emit: Callable) -> dict[str, Any]:
        self.calls.append(config["id"])
        if config["id"] in self.instead:
            return self.instead[config["id"]](config, inputs, out, work, emit)
        total = config["add"] + sum(int((folder / "sum").read_text()) for folder in inputs.values())
        (out / "sum").write_text(str(total))
        return {"sum": total}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


def stage(kind: str, name: str, add: int, **inputs: str) -> Stage:
    return Stage(kind, name, {"id": name, "add": add}, inputs, None, (), "code", {}, name.ljust(64, "0"))


def two_variants() -> Plan:
    """Two variants that share their first training phase."""
    a = [stage("smoke", "sa", 1), stage("train", "t1", 10), stage("train", "t2a", 1, previous="t1".ljust(64, "0"))]
    b = [stage("smoke", "sb", 1), stage("train", "t1", 10), stage("train", "t2b", 2, previous="t1".ljust(64, "0"))]
    every = {s.fingerprint: s for s in (a[0], b[0], a[1], a[2], b[2])}
    config = {"model": {"name": "m"}, "eval": {"resolutions": [64]}}
    replicates = tuple(
        Replicate(Variant(i, name, {}, ()), 0, config, tuple(s.fingerprint for s in chain))
        for i, (name, chain) in enumerate((("a", a), ("b", b)))
    )
    return Plan(Study("s", "q", (), {}, "grid", (0,)), replicates, every, ())


def quiet(happening: str, stage: Stage, facts: dict[str, Any]) -> None:
    pass


def test_every_stage_runs_once_and_reads_its_parents(stages: Stages, tmp_path: Path) -> None:
    plan, store = two_variants(), Store(tmp_path)
    outcome = execute(plan, store, quiet)
    assert stages.calls == ["sa", "sb", "t1", "t2a", "t2b"]
    assert (outcome.ran, outcome.cached, outcome.failures) == (5, 0, {})
    assert store.read("t2b".ljust(64, "0"))["numbers"] == {"sum": 12}


def test_a_second_run_runs_nothing(stages: Stages, tmp_path: Path) -> None:
    plan, store = two_variants(), Store(tmp_path)
    execute(plan, store, quiet)
    stages.calls.clear()
    assert execute(plan, store, quiet).cached == 5
    assert stages.calls == []


def test_a_stage_that_raises_fails_its_variant_alone(stages: Stages, tmp_path: Path) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    stages.instead["t2a"] = broken
    plan, store = two_variants(), Store(tmp_path)
    outcome = execute(plan, store, quiet)
    statuses = [v["replicates"][0] for v in record(plan, store, outcome.failures)["variants"]]
    assert [(s["status"], s["reason"]) for s in statuses] == [
        ("failed", "ZeroDivisionError: by nothing"),
        ("complete", None),
    ]


def test_a_smoke_that_raises_skips_what_its_variant_alone_would_train(stages: Stages, tmp_path: Path) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("no kernel")

    stages.instead["sa"] = broken
    execute(two_variants(), Store(tmp_path), quiet)
    assert "t2a" not in stages.calls
    assert {"t1", "t2b"} <= set(stages.calls)


def test_a_mistake_in_a_check_refuses_before_any_training(stages: Stages, tmp_path: Path) -> None:
    def mistake(*_: Any) -> dict[str, Any]:
        raise UserError("stem and neck do not fit")

    stages.instead["sa"] = mistake
    with pytest.raises(UserError, match=r"^a: stem and neck do not fit$"):
        execute(two_variants(), Store(tmp_path), quiet)
    assert stages.calls == ["sa", "sb"]  # every check is heard before it refuses


def test_a_variant_that_is_a_mistake_is_not_checked_further(stages: Stages, tmp_path: Path) -> None:
    def mistake(*_: Any) -> dict[str, Any]:
        raise UserError("stem and neck do not fit")

    stages.instead["sa"] = mistake
    plan = two_variants()
    profile = stage("profile", "pa", 1)
    first, second = plan.replicates
    every = {f: plan.stages[f] for f in (first.stages[0], second.stages[0])}
    every |= {profile.fingerprint: profile, **plan.stages}
    more = dataclasses.replace(first, stages=(*first.stages, profile.fingerprint))
    with pytest.raises(UserError, match="do not fit"):
        execute(dataclasses.replace(plan, replicates=(more, second), stages=every), Store(tmp_path), quiet)
    assert stages.calls == ["sa", "sb"]


def test_an_interruption_keeps_what_was_published(stages: Stages, tmp_path: Path) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    plan, store = two_variants(), Store(tmp_path)
    stages.instead["t2a"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        execute(plan, store, quiet)
    stages.instead.clear()
    stages.calls.clear()
    assert execute(plan, store, quiet).ran == 2
    assert stages.calls == ["t2a", "t2b"]


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_store_that_takes_nothing_more_stops_the_sweep(stages: Stages, tmp_path: Path, code: int, word: str) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise OSError(code, "no")

    stages.instead["t1"] = full
    with pytest.raises(StoreUnusableError, match=word):
        execute(two_variants(), Store(tmp_path), quiet)
    assert stages.calls == ["sa", "sb", "t1"]
