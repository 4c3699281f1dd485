"""Orders and bounds of small graphs, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ablab.study.order import bound, makespan, order, sharing
from ablab.study.plan import Plan, Replicate, Stage
from ablab.study.study import Study, Variant


def stage(name: str, kind: str, *parents: str) -> Stage:
    return Stage(kind, name, {}, dict(zip("abc", parents, strict=False)), None, (), "", {}, name)


def plan(replicates: dict[tuple[str, int], list[Stage]]) -> Plan:
    names = list(dict.fromkeys(name for name, _ in replicates))
    seeds = tuple(dict.fromkeys(seed for _, seed in replicates))
    variants = {name: Variant(number, name, {}, ()) for number, name in enumerate(names)}
    every = {s.fingerprint: s for stages in replicates.values() for s in stages}
    ranks = ["data", "smoke", "profile"]
    ordered = dict(sorted(every.items(), key=lambda item: ranks.index(item[1].kind) if item[1].kind in ranks else 3))
    made = [
        Replicate(variants[name], seed, {}, tuple(s.fingerprint for s in stages))
        for (name, seed), stages in replicates.items()
    ]
    return Plan(Study("s", "", (), {}, "grid", seeds), tuple(made), ordered, ())


def chain(name: str, phases: int = 1) -> list[Stage]:
    trains = [stage(f"{name}{i}", "train", *([f"{name}{i - 1}"] if i else [])) for i in range(phases)]
    return [*trains, stage(f"{name}e", "evaluate", f"{name}{phases - 1}")]


def test_two_seeds_of_two_variants_are_readable_half_way() -> None:
    both = plan({(v, s): chain(f"{v}{s}") for s in (0, 1) for v in "AB"})
    seconds = dict.fromkeys(both.stages, 1.0) | {"B00": 5.0, "B10": 5.0}
    # seed 0 first; in it the evaluations as soon as they can, then B, whose chain is longer
    assert order(both, seconds, 1) == ["A0e", "B0e", "B00", "A00", "A1e", "B1e", "B10", "A10"]
    assert makespan(both, order(both, seconds, 1), seconds, 1) == 16.0


def test_checks_come_first_kind_by_kind_and_hold_back_the_rest() -> None:
    checks = [stage("As", "smoke"), stage("Ap", "profile"), stage("Bs", "smoke")]
    one = plan({("A", 0): [*checks[:2], *chain("A")], ("B", 0): [checks[2], *chain("B")]})
    seconds = {"As": 1.0, "Bs": 1.0, "Ap": 4.0, "A0": 2.0, "Ae": 1.0, "B0": 3.0, "Be": 1.0}
    assert order(one, seconds, 2)[:3] == ["As", "Bs", "Ap"]
    # slot 1: As 0-1, Ap 1-5, B0 5-8, Be 8-9; slot 2: Bs 0-1, idle to 5, A0 5-7, Ae 7-8
    assert makespan(one, order(one, seconds, 2), seconds, 2) == 9.0


def test_the_longest_chain_wins_where_seeds_first_would_take_longer() -> None:
    """Seed 1 has the long chain: two slots. Seeds first: 2 and 2 side by side, then 10 alone: 12 s; else 10 s."""
    one = plan({("A", 0): [stage("A", "train")], ("B", 0): [stage("B", "train")], ("A", 1): [stage("C", "train")]})
    seconds = {"A": 2.0, "B": 2.0, "C": 10.0}
    assert makespan(one, ["A", "B", "C"], seconds, 2) == 12.0
    assert order(one, seconds, 2) == ["C", "A", "B"]
    assert makespan(one, order(one, seconds, 2), seconds, 2) == 10.0
    assert order(one, seconds, 1) == ["A", "B", "C"]  # on one slot it makes no difference


def test_a_parent_that_is_done_is_not_waited_for() -> None:
    one = plan({("A", 0): chain("A", 2)})
    assert order(one, {"A1": 1.0, "Ae": 1.0}, 2) == ["Ae", "A1"]
    assert makespan(one, ["Ae", "A1"], {"A1": 1.0, "Ae": 2.0}, 2) == 3.0


@pytest.mark.parametrize(("slots", "expected"), [(1, 12.0), (2, 7.0), (100, 7.0)])
def test_bound(slots: int, expected: float) -> None:
    shared = stage("r", "train")
    one = plan({("A", 0): [shared, stage("a", "train", "r")], ("B", 0): [shared, stage("b", "train", "r")]})
    seconds = {"r": 2.0, "a": 5.0, "b": 5.0}
    assert bound(one, seconds, slots) == expected
    assert makespan(one, order(one, seconds, slots), seconds, slots) == expected
    assert sharing(one, seconds) == pytest.approx((2 + 5 + 2 + 5) / 12)


def test_list_scheduling_stays_within_grahams_bound() -> None:
    """Any list schedule takes at most (2 - 1/m) times the best one, which is at least `bound`."""
    import random

    rng = random.Random(0)
    for _ in range(50):
        many: dict[tuple[str, int], list[Stage]] = {
            (f"v{v}", s): chain(f"v{v}s{s}", rng.randint(1, 3)) for s in range(2) for v in range(rng.randint(1, 6))
        }
        one = plan(many)
        seconds: dict[str, Any] = {f: rng.uniform(0.1, 5) for f in one.stages}
        slots = rng.randint(1, 4)
        found = order(one, seconds, slots)
        assert sorted(found) == sorted(seconds)
        least = bound(one, seconds, slots)
        assert least - 1e-9 <= makespan(one, found, seconds, slots) <= (2 - 1 / slots) * least + 1e-9
