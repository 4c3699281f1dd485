"""What is to be done, what waits for what, and what became of it: a plan's stages on their way through an executor."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from ablab.stages.declare import KINDS
from ablab.study.plan import Plan, Stage


@dataclass
class Outcome:
    """failures: fingerprint -> reason, the stages that were skipped for want of a parent included.

    too_big: those that ran out of memory with all of it to themselves.
    """

    ran: int = 0
    cached: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    too_big: set[str] = field(default_factory=set)


class Work:
    """The stages of a plan by state: waiting for a parent, ready, done, or given up.

    done: fingerprints in the store. order: fingerprints, in the order in which
    those that are ready should start; the plan's own for the rest.
    Checks are ready first; nothing else is before all of them are settled (`checking`).
    """

    def __init__(self, plan: Plan, done: set[str], order: Iterable[str] | None = None) -> None:
        self.plan = plan
        self.done = {fingerprint for fingerprint in plan.stages if fingerprint in done}
        self.given_up: set[str] = set()
        # What is done already is in no order that was made for the rest; it takes its turn if it is lost.
        ordered = dict.fromkeys([*(order or ()), *plan.stages])
        self._place = {fingerprint: place for place, fingerprint in enumerate(ordered)}
        self._children: dict[str, list[str]] = {}
        for fingerprint, stage in plan.stages.items():
            for parent in stage.inputs.values():
                self._children.setdefault(parent, []).append(fingerprint)
        self._ready: list[tuple[int, str]] = []
        left = [fingerprint for fingerprint in plan.stages if fingerprint not in self.done]
        self.checks_left = {fingerprint for fingerprint in left if self.is_check(fingerprint)}
        self._held = [f for f in left if self.checks_left and not self.is_check(f)]
        for fingerprint in left:
            if not self.checks_left or self.is_check(fingerprint):
                self._offer(fingerprint)

    @property
    def checking(self) -> bool:
        return bool(self.checks_left)

    def is_check(self, fingerprint: str) -> bool:
        return KINDS[self.plan.stages[fingerprint].kind].check

    def next(self) -> Stage | None:
        """The stage that should start now, if there is one; it is up to the caller to settle it or put it back."""
        while self._ready:
            _, fingerprint = heapq.heappop(self._ready)
            if fingerprint not in self.done and fingerprint not in self.given_up and self._can_start(fingerprint):
                return self.plan.stages[fingerprint]
        return None

    def put_back(self, fingerprint: str) -> None:
        self._offer(fingerprint)

    def settle(self, fingerprint: str) -> None:
        """It is in the store: those that only waited for it are ready."""
        self.done.add(fingerprint)
        self._settled(fingerprint)
        for child in self._children.get(fingerprint, ()):
            if not self.checking or self.is_check(child):
                self._offer(child)

    def lost(self, fingerprint: str) -> None:
        """It was in the store and is no longer: it runs again before its children do."""
        self.done.discard(fingerprint)
        self._offer(fingerprint)

    def give_up(self, fingerprint: str) -> list[str]:
        """It failed: it and all that needs it, the failed one first."""
        found, waiting = [], [fingerprint]
        while waiting:
            one = waiting.pop()
            if one not in self.given_up and one not in self.done:
                self.given_up.add(one)
                found.append(one)
                waiting += self._children.get(one, ())
        for one in found:
            self._settled(one)
        return found

    def concerned_only(self, failed: Stage) -> list[str]:
        """What nobody would go on to do but the variants that a failed check belongs to, other checks aside."""
        concerned, others = set[str](), set[str]()
        for replicate in self.plan.replicates:
            (concerned if failed.fingerprint in replicate.stages else others).update(replicate.stages)
        return [f for f in self.plan.stages if f in concerned - others and not self.is_check(f)]

    def _settled(self, fingerprint: str) -> None:
        if fingerprint in self.checks_left:
            self.checks_left.discard(fingerprint)
            if not self.checks_left:
                held, self._held = self._held, []
                for other in held:
                    self._offer(other)

    def _can_start(self, fingerprint: str) -> bool:
        parents = self.plan.stages[fingerprint].inputs.values()
        return all(parent in self.done for parent in parents if parent in self.plan.stages)

    def _offer(self, fingerprint: str) -> None:
        if fingerprint not in self.done and fingerprint not in self.given_up and self._can_start(fingerprint):
            heapq.heappush(self._ready, (self._place[fingerprint], fingerprint))
