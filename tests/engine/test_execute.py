"""A plan executed with stand-in stages: once each, failures kept apart, mistakes before training, tries."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.engine import execute as engine
from ablab.engine import stage as engine_stage
from ablab.engine.execute import Deliver
from ablab.engine.inline import Inline
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
        monkeypatch.setattr(engine_stage, "_require_same_code", lambda _: None)

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
    return Stage(
        kind=kind,
        label=name,
        config={"id": name, "add": add},
        inputs=inputs,
        data=None,
        splits=(),
        code="code",
        versions={},
        modules={},
        fingerprint=name.ljust(64, "0"),
    )


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


def execute(plan: Plan, store: Store, listen: engine.Listen = quiet) -> engine.Outcome:
    return engine.execute(plan, store, listen, lambda: Inline(store))


def test_every_stage_runs_once_and_reads_its_parents(stages: Stages, tmp_path: Path) -> None:
    plan, store = two_variants(), Store(tmp_path)
    outcome = execute(plan, store)
    assert stages.calls == ["sa", "sb", "t1", "t2a", "t2b"]
    assert (outcome.ran, outcome.cached, outcome.failures) == (5, 0, {})
    assert store.read("t2b".ljust(64, "0"))["numbers"] == {"sum": 12}


def test_a_second_run_runs_nothing(stages: Stages, tmp_path: Path) -> None:
    plan, store = two_variants(), Store(tmp_path)
    execute(plan, store)
    stages.calls.clear()
    assert execute(plan, store).cached == 5
    assert stages.calls == []


def test_a_stage_that_raises_fails_its_variant_alone(stages: Stages, tmp_path: Path) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    stages.instead["t2a"] = broken
    plan, store = two_variants(), Store(tmp_path)
    outcome = execute(plan, store)
    statuses = [v["replicates"][0] for v in record(plan, store, outcome.failures)["variants"]]
    assert [(s["status"], s["reason"]) for s in statuses] == [
        ("failed", "ZeroDivisionError: by nothing"),
        ("complete", None),
    ]


def test_a_smoke_that_raises_skips_what_its_variant_alone_would_train(stages: Stages, tmp_path: Path) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise RuntimeError("no kernel")

    stages.instead["sa"] = broken
    execute(two_variants(), Store(tmp_path))
    assert "t2a" not in stages.calls
    assert {"t1", "t2b"} <= set(stages.calls)


def test_a_mistake_in_a_check_refuses_before_any_training(stages: Stages, tmp_path: Path) -> None:
    def mistake(*_: Any) -> dict[str, Any]:
        raise UserError("stem and neck do not fit")

    stages.instead["sa"] = mistake
    with pytest.raises(UserError, match=r"^a: stem and neck do not fit$"):
        execute(two_variants(), Store(tmp_path))
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
        execute(dataclasses.replace(plan, replicates=(more, second), stages=every), Store(tmp_path))
    assert stages.calls == ["sa", "sb"]


def test_what_checks_approve_comes_before_any_training(stages: Stages, tmp_path: Path) -> None:
    store = Store(tmp_path)

    def refuse() -> None:
        assert stages.calls == ["sa", "sb"]
        raise UserError("both arms are one graph")

    with pytest.raises(UserError, match="one graph"):
        engine.execute(two_variants(), store, quiet, lambda: Inline(store), approve=refuse)
    assert stages.calls == ["sa", "sb"]


def test_stages_start_in_the_order_given(stages: Stages, tmp_path: Path) -> None:
    plan, store = two_variants(), Store(tmp_path)
    order = [name.ljust(64, "0") for name in ("sb", "sa", "t1", "t2b", "t2a")]
    engine.execute(plan, store, quiet, lambda: Inline(store), order)
    assert stages.calls == ["sb", "sa", "t1", "t2b", "t2a"]


def test_an_interruption_keeps_what_was_published(stages: Stages, tmp_path: Path) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    plan, store = two_variants(), Store(tmp_path)
    stages.instead["t2a"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        execute(plan, store)
    stages.instead.clear()
    stages.calls.clear()
    assert execute(plan, store).ran == 2
    assert stages.calls == ["t2a", "t2b"]


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_store_that_takes_nothing_more_stops_the_sweep(stages: Stages, tmp_path: Path, code: int, word: str) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise OSError(code, "no")

    stages.instead["t1"] = full
    with pytest.raises(StoreUnusableError, match=word):
        execute(two_variants(), Store(tmp_path))
    assert stages.calls == ["sa", "sb", "t1"]


class Script:
    """A pool that answers as it is told: what comes of a stage, try by try; "done" when nothing is left to say."""

    def __init__(self, store: Store, slots: int = 1, **answers: list[Any]) -> None:
        self.store, self.slots, self.answers = store, slots, answers
        self.running: list[Stage] = []
        self.started: list[str] = []
        self.expired: dict[str, list[Any]] = {}
        self.beside: dict[str, int] = {}

    def room(self, stage: Stage, alone: bool) -> bool:
        return len(self.running) < self.slots

    def start(self, stage: Stage, expired: Any) -> None:
        self.started.append(stage.label)
        self.expired.setdefault(stage.label, []).append(expired)
        self.beside[stage.label] = len(self.running)
        self.running.append(stage)

    def wait(self, deliver: Deliver, seconds: float) -> None:
        if not self.running:
            return
        stage = self.running.pop(0)
        answers = self.answers.get(stage.label, [])
        if answers:
            answer = answers.pop(0)
            deliver(stage.fingerprint, *(answer() if callable(answer) else answer))
        else:
            with self.store.claim(stage.fingerprint) as hold:
                out = hold.work / "out"
                out.mkdir()
                (out / "sum").write_text("1")
                facts = {"fingerprint": stage.fingerprint, "numbers": {}, "inputs": stage.inputs}
                self.store.publish(hold, facts, out)
            deliver(stage.fingerprint, "done", facts)

    def close(self) -> None:
        pass


def scripted(store: Store, slots: int = 1, **answers: list[Any]) -> tuple[Script, list[str]]:
    """Execute two_variants(): the pool, and what was heard of stages beyond their start and end."""
    pool = Script(store, slots, **answers)
    heard: list[str] = []

    def listen(happening: str, stage: Stage, facts: dict[str, Any]) -> None:
        if happening not in ("start", "done", "cached"):
            heard.append(f"{happening} {stage.label}: {facts.get('reason')}")

    outcome = engine.execute(two_variants(), store, listen, lambda: pool)
    heard += sorted(f"failure {fingerprint.rstrip('0')}" for fingerprint in outcome.failures)
    return pool, heard


def test_a_lost_worker_is_tried_again(tmp_path: Path) -> None:
    pool, heard = scripted(Store(tmp_path), t1=[("lost", {"reason": "killed"})])
    assert heard == ["retry t1: killed"]
    assert pool.started == ["sa", "sb", "t1", "t1", "t2a", "t2b"]


def test_a_stage_whose_workers_always_die_fails_and_what_needs_it_is_skipped(tmp_path: Path) -> None:
    _, heard = scripted(Store(tmp_path), t1=[("lost", {"reason": "killed"})] * 3)
    died = "its worker died 3 times: killed"
    assert heard[:5] == [
        *["retry t1: killed"] * 2,
        f"failed t1: {died}",
        f"skipped t2b: {died}",
        f"skipped t2a: {died}",
    ]
    assert heard[5:] == ["failure t1", "failure t2a", "failure t2b"]


def test_out_of_memory_is_tried_again_with_nothing_beside_it(tmp_path: Path) -> None:
    pool, heard = scripted(Store(tmp_path), slots=2, t2b=[("memory", {"reason": "too big"})])
    assert heard == ["retry t2b: too big: once more, alone"]
    assert pool.started.count("t2b") == 2
    assert pool.beside["t2b"] == 0


def test_out_of_memory_alone_is_a_failure(tmp_path: Path) -> None:
    _, heard = scripted(Store(tmp_path), t2a=[("memory", {"reason": "too big"})] * 2)
    assert heard == ["retry t2a: too big: once more, alone", "failed t2a: too big", "failure t2a"]


def test_a_stage_that_another_sweep_is_at_waits_while_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_PAUSE", 0.0)
    store = Store(tmp_path)
    store.ttl = 0.0
    busy: Any = ("busy", {"reason": "held", "beat": [1, 7]})
    pool, heard = scripted(store, t2a=[busy, busy])
    assert heard == ["retry t2a: another sweep is at it: waiting for its result"]
    assert pool.expired["t2a"] == [None, [1, 7], [1, 7]]  # silent for longer than a lease lasts: it is taken over
    assert pool.started.index("t2b") > pool.started.index("t2a")


def test_a_damaged_parent_is_put_aside_and_runs_again_first(tmp_path: Path) -> None:
    store, parent = Store(tmp_path), "t1".ljust(64, "0")

    def damage() -> tuple[str, dict[str, Any]]:
        (store.folder(parent) / "sum").write_text("2")
        return "damaged", {"reason": "sum: not as published", "fingerprint": parent}

    pool, heard = scripted(store, t2a=[damage])
    assert heard[0].startswith("retry t2a: sum: not as published. It is put aside in")
    assert pool.started == ["sa", "sb", "t1", "t2a", "t1", "t2a", "t2b"]
    assert len(heard) == 1


def test_an_interruption_lets_what_runs_save_and_starts_nothing_new(tmp_path: Path) -> None:
    store = Store(tmp_path)

    class Interrupting(Script):
        def start(self, stage: Stage, expired: Any) -> None:
            super().start(stage, expired)
            if stage.label == "t1":
                os.kill(os.getpid(), signal.SIGINT)

    pool = Interrupting(store)
    with pytest.raises(KeyboardInterrupt):
        engine.execute(two_variants(), store, quiet, lambda: pool)
    assert pool.started == ["sa", "sb", "t1"]
    assert store.has("t1".ljust(64, "0"))


def test_an_interruption_reaches_a_stage_that_its_worker_takes_up_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked: list[bool] = []

    class Slow(Script):
        """Its worker takes the first stage up one look after the interruption."""

        looks = 0

        def wait(self, deliver: Deliver, seconds: float) -> None:
            self.looks += 1
            if self.looks == 1:
                os.kill(os.getpid(), signal.SIGINT)
            elif self.looks == 2:
                self.hold = store.claim(self.running[0].fingerprint).__enter__()
            else:
                asked.append(self.hold.stopping())
                self.hold.__exit__(None, None, None)
                deliver(self.running.pop().fingerprint, "stopped", {})

    with pytest.raises(KeyboardInterrupt):
        engine.execute(two_variants(), store, quiet, lambda: Slow(store))
    assert asked == [True]


def test_a_parent_that_two_children_find_damaged_starts_once(tmp_path: Path) -> None:
    store, parent = Store(tmp_path), "t1".ljust(64, "0")
    damaged: Any = ("damaged", {"reason": "sum: not as published", "fingerprint": parent})
    pool, _ = scripted(store, slots=2, t2a=[damaged], t2b=[damaged])
    again = pool.started[pool.started.index("t2b") + 1 :]
    assert again.count("t1") == 1, pool.started


def test_without_room_a_sweep_waits_and_says_so_and_does_not_end_as_if_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoNodeYet(Script):
        looks = 0

        def room(self, stage: Stage, alone: bool) -> bool:
            return self.looks > 2 and super().room(stage, alone)

        def wait(self, deliver: Deliver, seconds: float) -> None:
            self.looks += 1
            super().wait(deliver, seconds)

    store = Store(tmp_path)
    outcome = engine.execute(two_variants(), store, quiet, lambda: NoNodeYet(store))
    assert outcome.ran == 5
    assert capsys.readouterr().err.count("no node has room for smoke (sa)") == 1
