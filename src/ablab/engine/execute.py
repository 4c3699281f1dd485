"""Executes a plan: starts what is ready, wherever there is room, and decides what becomes of what goes wrong.

Where stages run is a pool's business (inline.py: in this process; ray.py: in workers, on one machine or a cluster).
What is published is never lost: a stage that fails marks its variants and its dependants are skipped, all else goes on.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ablab.engine.stage import StoreUnusableError
from ablab.engine.work import Outcome, Work
from ablab.errors import UserError
from ablab.store import DamagedError, Store, StoreError
from ablab.study.plan import Plan, Stage

# happening: cached, start, progress, done, retry, failed, skipped, stopped
Listen = Callable[[str, Stage, dict[str, Any]], None]
Deliver = Callable[[str, str, dict[str, Any]], None]  # fingerprint, "progress" or what `stage.report` says, facts

TRIES = 3  # of a stage whose worker dies: the machine may be at fault; after that the stage is
BUSY_PAUSE = 0.5  # seconds between looks at a stage that another sweep is at


class Pool(Protocol):
    """Where stages run."""

    def room(self, stage: Stage, alone: bool) -> bool:
        """Whether a stage can start now; alone: with all memory to itself."""
        ...

    def start(self, stage: Stage, expired: Any) -> None: ...

    def wait(self, deliver: Deliver, seconds: float) -> None:
        """Deliver what has happened; come back after `seconds` at most if nothing does."""
        ...

    def close(self) -> None:
        """End at once; what still runs is cut off."""
        ...


def execute(
    plan: Plan,
    store: Store,
    listen: Listen,
    pool: Callable[[], Pool],
    order: Iterable[str] | None = None,
    approve: Callable[[], None] = lambda: None,
    published: set[str] | None = None,
) -> Outcome:
    """Run what is not in the store. The pool is made only if there is something to run.

    order: fingerprints in the order in which they should start. approve: called when all checks are settled, before
    anything else starts; raises UserError if nothing else should. published: what `whole` found, if it was asked.
    Raises UserError with every mistake that the checks found, before any training; StoreUnusableError when nothing
    can be published; KeyboardInterrupt when interrupted, once what runs has saved.
    """
    work = Work(plan, whole(plan, store) if published is None else published, order)
    for fingerprint in work.done:
        listen("cached", plan.stages[fingerprint], {})
    run = _Run(plan, store, listen, work, approve)
    run.outcome.cached = len(work.done)
    if len(work.done) == len(plan.stages):
        approve()
        return run.outcome
    made = pool()  # a Ctrl-C while it starts ends all at once: there is nothing to save yet
    with _interruptible(run.interrupt):
        run.through(made)
    return run.outcome


def whole(plan: Plan, store: Store) -> set[str]:
    """Stages in the store; one of the plan's whose record is damaged is put aside, and runs again."""
    published = store.published()
    # Elsewhere reading them all would take minutes.
    for fingerprint in published & plan.stages.keys() if store.on_disk else ():
        try:
            store.read(fingerprint)
        except DamagedError as error:
            place = store.quarantine(fingerprint)
            print(f"ablab: {str(error).partition(';')[0]}. It is put aside in {place} and runs again", file=sys.stderr)
            published.discard(fingerprint)
    return published


class _Run:
    def __init__(self, plan: Plan, store: Store, listen: Listen, work: Work, approve: Callable[[], None]) -> None:
        self.plan, self.store, self.listen, self.work, self.approve = plan, store, listen, work, approve
        self.outcome = Outcome()
        self.running: dict[str, Stage] = {}
        self.interrupted = 0
        self._told_to_stop: set[str] = set()
        self._told_no_room = False
        self._mistakes: dict[str, str] = {}
        self._tries: Counter[str] = Counter()
        self._alone: set[str] = set()  # ran out of memory beside others
        self._later: dict[str, float] = {}  # held by another sweep: when to look again
        self._beats: dict[str, tuple[Any, float]] = {}  # fingerprint -> (lease as last seen, since when)
        self._untold: set[str] = set()  # started, but most likely another sweep is still at it: told once it is ours
        self._fatal: UserError | None = None

    def interrupt(self) -> None:
        self.interrupted += 1
        if self.interrupted > 1:
            raise KeyboardInterrupt
        self._ask_to_stop()
        waiting = f": waiting for {len(self.running)} running stages to save" if self.running else ""
        with suppress(RuntimeError):  # the signal came while something was being printed
            print(f"ablab: stopping{waiting}; once more stops at once", file=sys.stderr, flush=True)

    def through(self, pool: Pool) -> None:
        approved = False
        try:
            while True:
                waiting = None
                if not self.work.checking and not approved and not self._mistakes and not self._stopping:
                    self.approve()
                    approved = True
                if not self._stopping and not (self._mistakes and not self.work.checking):
                    waiting = self._start(pool)
                if self._stopping:
                    self._ask_to_stop()
                if not self.running and (self._stopping or not (self._later or waiting)):
                    break
                if waiting and not self.running:
                    self._tell_no_room(waiting)
                pool.wait(self._deliver, BUSY_PAUSE if self._later or not self.running else 1.0)
        finally:
            pool.close()
        if self._fatal:
            raise self._fatal
        if self.interrupted:
            raise KeyboardInterrupt
        if self._mistakes:
            raise UserError(_told(self.plan, self._mistakes))

    @property
    def _stopping(self) -> bool:
        return bool(self.interrupted or self._fatal)

    def _start(self, pool: Pool) -> Stage | None:
        """Start what is ready in its order, as long as there is room for the next one; that one, if there is none."""
        now = time.monotonic()
        for fingerprint in [f for f, when in self._later.items() if when <= now]:
            del self._later[fingerprint]
            self.work.put_back(fingerprint)
        while stage := self.work.next():
            if stage.fingerprint in self.running:  # offered twice: two children found it damaged
                continue
            if self._all_mistaken(stage):
                self.work.give_up(stage.fingerprint)
                continue
            alone = stage.fingerprint in self._alone
            crowded = alone or any(f in self._alone for f in self.running)
            if (crowded and self.running) or not pool.room(stage, alone):
                self.work.put_back(stage.fingerprint)
                return stage
            self.running[stage.fingerprint] = stage
            if stage.fingerprint in self._beats:
                self._untold.add(stage.fingerprint)
            else:
                self.listen("start", stage, {})
            pool.start(stage, self._expired(stage.fingerprint))
        return None

    def _tell_no_room(self, stage: Stage) -> None:
        if not self._told_no_room:
            self._told_no_room = True
            told = f"ablab: no node has room for {stage.kind} ({stage.label}), and nothing runs: waiting for one"
            print(told, file=sys.stderr, flush=True)

    def _expired(self, fingerprint: str) -> Any:
        """Another holder's lease, if it has shown no sign of life for as long as a lease lasts."""
        beat, since = self._beats.get(fingerprint, (None, 0.0))
        return beat if beat is not None and time.monotonic() - since > self.store.ttl else None

    def _ask_to_stop(self) -> None:
        for fingerprint in self.running.keys() - self._told_to_stop:
            with suppress(OSError, StoreError):  # one that takes nothing more; what runs then finds that out by itself
                if self.store.ask_to_stop(fingerprint):  # else its worker has not taken it up yet: asked again soon
                    self._told_to_stop.add(fingerprint)

    def _deliver(self, fingerprint: str, what: str, facts: dict[str, Any]) -> None:
        """Something happened to a running stage."""
        stage = self.running.get(fingerprint)
        if stage is None:  # late news of one that is settled
            return
        if fingerprint in self._untold:
            self._untold.discard(fingerprint)
            if what != "busy":
                self.listen("start", stage, {})
        if what == "progress":
            if "at" in facts:  # an epoch is saved: however often its worker dies, it comes on
                self._tries.pop(fingerprint, None)
            self.listen("progress", stage, facts)
            if self._stopping:
                self._ask_to_stop()
            return
        del self.running[fingerprint]
        reason = str(facts.get("reason", ""))
        match what:
            case "done":
                self.outcome.ran += 1
                self.listen("done", stage, facts)
                self.work.settle(fingerprint)
            case "busy":
                self._wait_for_other(stage, facts["beat"])
            case "fenced":
                self._later[fingerprint] = time.monotonic()
            case "stopped":
                self.listen("stopped", stage, {})
                if not self._stopping:  # asked by another sweep on this store, whose stage it was then
                    self._later[fingerprint] = time.monotonic()
            case "lost":
                self._try_again(stage, reason, counts=facts.get("blame") != "ray")
            case "memory":
                self._out_of_memory(stage, reason)
            case "damaged":
                self._mend(stage, facts["fingerprint"], reason)
            case "unusable":
                self._fatal = self._fatal or StoreUnusableError(reason)
                self.listen("stopped", stage, {})
            case _:
                self._fail(stage, what, facts)

    def _wait_for_other(self, stage: Stage, beat: Any) -> None:
        seen = self._beats.get(stage.fingerprint)
        if seen is None or seen[0] != beat:
            self._beats[stage.fingerprint] = (beat, time.monotonic())
        if seen is None:
            self.listen("retry", stage, {"reason": "another sweep is at it: waiting for its result"})
        self._later[stage.fingerprint] = time.monotonic() + BUSY_PAUSE

    def _try_again(self, stage: Stage, reason: str, counts: bool) -> None:
        """counts: whether the stage may be to blame; that Ray dies again and again is the pool's to judge."""
        if self._stopping:
            self.listen("stopped", stage, {})
            return
        self._tries[stage.fingerprint] += counts
        if self._tries[stage.fingerprint] < TRIES:
            self.listen("retry", stage, {"reason": reason})
            self.work.put_back(stage.fingerprint)
        else:
            self._fail(stage, "lost", {"reason": f"its worker died {TRIES} times: {reason}"})

    def _out_of_memory(self, stage: Stage, reason: str) -> None:
        """Beside others it may have been their fault: once more, with all memory to itself."""
        if self._stopping:
            self.listen("stopped", stage, {})
            return
        if stage.fingerprint in self._alone:
            self.outcome.too_big.add(stage.fingerprint)
            self._fail(stage, "memory", {"reason": reason})
            return
        self._alone.add(stage.fingerprint)
        self.listen("retry", stage, {"reason": f"{reason}: once more, alone"})
        self.work.put_back(stage.fingerprint)

    def _mend(self, stage: Stage, parent: str, reason: str) -> None:
        """A parent's files are damaged: they are put aside, and it runs again first."""
        place = self.store.quarantine(parent)
        what = reason.partition(";")[0]
        told = f"{what}. It is put aside in {place} and runs again" if place else what
        self.listen("retry", stage, {"reason": told})
        self.work.lost(parent)
        self.work.put_back(stage.fingerprint)

    def _fail(self, stage: Stage, what: str, facts: dict[str, Any]) -> None:
        fingerprint, reason = stage.fingerprint, facts["reason"]
        if what == "mistake" and self.work.is_check(fingerprint):
            self._mistakes[fingerprint] = reason  # told together, at the end
        else:
            self.listen("failed", stage, facts)
        skipped = self.work.give_up(fingerprint)
        if what != "mistake" and self.work.is_check(fingerprint):
            for spoiled in self.work.concerned_only(stage):
                skipped += self.work.give_up(spoiled)
        for one in skipped:
            self.outcome.failures[one] = reason
            if one != fingerprint:
                self.listen("skipped", self.plan.stages[one], {"reason": reason})

    def _all_mistaken(self, stage: Stage) -> bool:
        """Whether each variant that a stage belongs to is known to be a mistake already."""
        if not self._mistakes:
            return False
        concerned = [replicate for replicate in self.plan.replicates if stage.fingerprint in replicate.stages]
        return bool(concerned) and all(self._mistakes.keys() & set(r.stages) for r in concerned)


@contextmanager
def _interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, or a SIGTERM as from a batch system, calls `interrupt` instead of raising wherever the program is."""
    if threading.current_thread() is not threading.main_thread():  # only there can Python take signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda *_: interrupt())
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(plan: Plan, mistakes: dict[str, str]) -> str:
    """One line a mistake, with the variants it concerns where those are not all."""
    every = list(dict.fromkeys(replicate.variant.name for replicate in plan.replicates))
    lines = []
    for reason in dict.fromkeys(mistakes.values()):
        stages = {fingerprint for fingerprint, other in mistakes.items() if other == reason}
        names = list(dict.fromkeys(r.variant.name for r in plan.replicates if not stages.isdisjoint(r.stages)))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(reason if names == every else f"{', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)
