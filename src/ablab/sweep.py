"""Carries a plan out: forecasts and orders it, executes it, shows it, logs it, and writes it to MLflow."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from ablab import machine
from ablab.console import Progress, table, warn
from ablab.engine.execute import execute, whole
from ablab.engine.inline import Inline
from ablab.engine.log import EventLog, file_of
from ablab.engine.ray import RayPool
from ablab.engine.stage import StoreUnusableError, unusable
from ablab.engine.work import Outcome
from ablab.errors import UserError
from ablab.store import Store
from ablab.study import budget, places
from ablab.study.equal import equal_graphs
from ablab.study.forecast import Forecast, costs, forecast
from ablab.study.measured import caught_up, remember
from ablab.study.order import order
from ablab.study.outlook import comparison
from ablab.study.plan import Plan, Stage, checks
from ablab.study.record import record


def config_of(plan: Plan) -> dict[str, Any]:
    """The baseline's configuration, which also says where the store, the record and the reports are."""
    return plan.replicates[0].config


def store_of(plan: Plan) -> Store:
    return Store(config_of(plan)["store"])


def run(plan: Plan, replan: Callable[[], Plan] | None = None) -> tuple[Outcome, dict[str, Any]]:
    """Execute a plan and write it to MLflow, while it runs and at its end: (outcome, the study record).

    replan: makes the plan anew after trainings had to be split for want of memory (`engine.split_batch`), or once it is
    known what the networks need of a memory budget (`optim.memory`).
    """
    uri = config_of(plan)["tracking"]["uri"]
    for left_out, equal in plan.duplicates:
        warn(f"variant '{left_out.name}' is left out: its configuration is that of '{equal.name}'")
    store = store_of(plan)
    if replan and plan.unsettled:
        carry_out(checks(plan), store)
        plan = replan()
    outcome = _recorded(plan, store, uri)
    while replan and _split(plan, store, outcome):
        plan, ran = replan(), outcome.ran
        outcome = _recorded(plan, store, uri)
        outcome.ran += ran
    _tell_what_fits(plan, store, outcome)
    from ablab import tracking  # after the workers were started: it takes seconds

    facts = record(plan, store, outcome.failures)
    try:
        tracking.record(facts, uri, partial(_file, store))
    except UserError as error:
        told = str(error).rstrip(".")
        raise UserError(
            f"{told}. Every result is in the store: the same command writes the record and the table"
        ) from None
    return outcome, facts


def _recorded(plan: Plan, store: Store, uri: str) -> Outcome:
    """Execute a plan, written to MLflow as it comes, and also if it is broken off."""
    live: list[Any] = []

    def listeners() -> list[Any]:
        from ablab import tracking

        tracking.connect(uri, create=True)  # a wrong one is told now, not after hours of training
        if not plan.stages.keys() <= store.published():
            live.append(tracking.Live(record(plan, store, {}), uri, warn, partial(_file, store)))
            # Its libraries take seconds to import, for which nobody need wait at the end.
            threading.Thread(target=importlib.import_module, args=("ablab.report.render",), daemon=True).start()
        return list(live)

    try:
        return carry_out(plan, store, listeners, logged=True)
    except (KeyboardInterrupt, StoreUnusableError):
        if live:  # else nothing ran, and MLflow may be half imported
            from ablab import tracking

            live.pop().close()
            with suppress(OSError, UserError):  # a half-done sweep is a record too
                tracking.record(record(plan, store, {}), uri, partial(_file, store))
        raise
    finally:
        while live:
            live.pop().close()


def _file(store: Store, fingerprint: str, name: str) -> bytes | None:
    """A stage's file for the record, which does without what it cannot have."""
    try:
        return store.content(fingerprint, name)
    except UserError:  # damaged, or out of reach
        return None


def split_of(store: Store, fingerprint: str) -> int | None:
    """The micro-batch that a training was found to need; None for one that never ran out of memory."""
    return (store.read_json(f"memory/{fingerprint}.json") or {}).get("micro_batch")


def built(store: Store, fingerprint: str) -> dict[str, Any] | None:
    """The numbers of a smoke stage; None where it has not run."""
    numbers: dict[str, Any] | None = store.read(fingerprint)["numbers"] if store.has(fingerprint) else None
    return numbers


def _split(plan: Plan, store: Store, outcome: Outcome) -> bool:
    """Note a smaller micro-batch for each training that memory did not suffice for; whether any can be had."""
    found = False
    for fingerprint in outcome.too_big:
        stage = plan.stages[fingerprint]
        if stage.kind == "train" and config_of(plan)["engine"].get("split_batch"):
            batch = stage.config["optim"]["batch"]
            now = stage.config["optim"].get("micro_batch") or batch
            smaller = max((size for size in range(1, now) if batch % size == 0), default=None)
            if smaller:
                store.write_json(f"memory/{fingerprint}.json", {"micro_batch": smaller})
                warn(f"{stage.label}: memory is short even alone, so its batch of {batch} goes in parts of {smaller}")
                found = True
    return found


def _tell_what_fits(plan: Plan, store: Store, outcome: Outcome) -> None:
    """Of every training that memory does not suffice for, the input size that would do, where that can be known: the
    memory of this machine, not of a GPU or another node."""
    engine = config_of(plan)["engine"]
    if engine["device"] != "cpu" or engine.get("address"):
        return
    for fingerprint in outcome.too_big:
        beside = next(one.stages for one in plan.replicates if fingerprint in one.stages)
        smoke = next((f for f in beside if plan.stages[f].kind == "smoke"), None)
        numbers = built(store, smoke) if smoke else None
        stage, free = plan.stages[fingerprint], machine.free_memory() / 1e9
        if numbers and stage.kind == "train":
            size = budget.largest_size(free, stage.config, stage.config["phase"], numbers)
            fits = f"one image at a time would fit up to about {size} px" if size else "no input size would fit"
            warn(f"{stage.label}: with the {free:.1f} GB that are free, {fits} (schedule.imgsz, optim.micro_batch=1)")


def slots_of(engine: dict[str, Any]) -> int:
    """How many stages run side by side."""
    return 1 if engine["name"] == "inline" else machine.at_once(engine)


def carry_out(
    plan: Plan,
    store: Store,
    listeners: Callable[[], list[Any]] = list,
    logged: bool = False,
    published: set[str] | None = None,
) -> Outcome:
    """Execute a plan, shown on the terminal and, if `logged`, kept in the event log that `ablab status` reads.

    listeners: makes those who else hear what happens, while the workers start. published: the stages in the store,
    where they have been looked at already. What the stages took is remembered, for forecasts.
    """
    engine = config_of(plan)["engine"]
    published = whole(plan, store) if published is None else published
    expected = expectation(plan, store, published)
    slots = slots_of(engine)
    todo = expected.pending
    threads = engine["threads"] * engine.get("ranks", 1)
    if engine["device"] == "cpu" and threads > machine.cores() and todo and not engine.get("address"):
        asked = f"{threads} threads a stage (engine.threads × engine.ranks)"
        warn(f"{asked}: this machine has {machine.cores()} cores; more threads are slower")
    if logged:
        _remember_places(plan, store, published)

    workers = None
    if todo and engine["name"] != "inline" and (len(plan.replicates) > 1 or engine.get("address")):
        workers = RayPool(store, engine, expected.peak_mb, {plan.stages[fingerprint].kind for fingerprint in todo})

    def approve() -> None:
        """What only a network that was built can tell."""
        # Those that failed are not in the store.
        built = [f for f, stage in plan.stages.items() if stage.kind == "smoke" and store.has(f)]
        numbers = {fingerprint: store.read(fingerprint)["numbers"] for fingerprint in built}
        if messages := equal_graphs(plan, numbers):
            raise UserError("\n".join(messages))

    ran: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    with ExitStack() as stack:
        if workers:
            stack.callback(workers.close)
        with _heard() as check_interrupt:
            others = listeners()
            check_interrupt()
        hearing: list[Any] = [stack.enter_context(Progress(plan, todo, slots)), *others]
        if todo and logged:
            hearing.append(stack.enter_context(EventLog(file_of(store.local, plan.study.name), plan, todo, slots)))

        def listen(happening: str, stage: Stage, facts: dict[str, Any]) -> None:
            for listener in hearing:
                listener(happening, stage, facts)
            if happening == "done":
                ran[stage.fingerprint] = facts
                remember(store, stage, facts)

        pool = workers.ready if workers else partial(Inline, store)
        outcome = execute(plan, store, listen, pool, order(plan, todo, slots), approve, published)
    if ran and logged:
        headers, rows = comparison(plan, expected, ran, slots, time.monotonic() - began)
        print(table(headers, rows), file=sys.stderr)
    return outcome


@contextmanager
def _heard() -> Iterator[Callable[[], None]]:
    """Raises a Ctrl-C again, by what it yields, if it was swallowed: libraries that are being imported do that."""
    heard: list[int] = []

    def note(number: int, _: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if heard:
            raise KeyboardInterrupt

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():  # only there can Python take signals
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _remember_places(plan: Plan, store: Store, published: set[str]) -> None:
    """Which stages the study is made of: what `gc` and `export` keep, and what the next plan is compared with."""
    name = f"studies/{plan.study.name}.json"
    try:
        last = store.read_json(name)
        document = places.document(plan, published, last)
        if last is None or last.get("places") != document["places"]:
            store.write_json(name, document)
    except OSError as error:
        raise unusable(store, error) or error from None


def expectation(plan: Plan, store: Store, published: set[str]) -> Forecast:
    """What is left of a plan will take, from what was measured before."""
    history = caught_up(store, plan, published)
    return forecast(plan, published, history, costs(plan, store, published, history))
