"""Designs: from factors and their levels to variants.

A design is a function `(factors, listed) -> list of points`; a point names one level for every factor. The first
level of every factor is the baseline's. To add a design, add a function and name it in DESIGNS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

Point = dict[str, str]
Levels = Mapping[str, list[str]]  # factor -> its levels, the baseline's first


def _first(factors: Levels) -> Point:
    return {factor: levels[0] for factor, levels in factors.items()}


def grid(factors: Levels, listed: list[Point]) -> list[Point]:
    """All combinations of levels (a full factorial)."""
    return [dict(zip(factors, point, strict=True)) for point in product(*factors.values())]


def one_at_a_time(factors: Levels, listed: list[Point]) -> list[Point]:
    """The baseline, and each other level alone against it."""
    base = _first(factors)
    return [base, *(base | {factor: level} for factor, levels in factors.items() for level in levels[1:])]


def leave_one_out(factors: Levels, listed: list[Point]) -> list[Point]:
    """The full system (every factor at its last level), and the full system with one factor back at its first."""
    full = {factor: levels[-1] for factor, levels in factors.items()}
    return [full, *(full | {factor: levels[0]} for factor, levels in factors.items())]


def ladder(factors: Levels, listed: list[Point]) -> list[Point]:
    """Changes piled up in the order given: each rung adds the next level to all the rungs before it."""
    rungs = [_first(factors)]
    for factor, levels in factors.items():
        for level in levels[1:]:
            rungs.append(rungs[-1] | {factor: level})
    return rungs


def listed(factors: Levels, listed: list[Point]) -> list[Point]:
    """The points written in the study's `variants`; a factor that one leaves out is at its first level."""
    return [_first(factors) | point for point in listed]


DESIGNS: dict[str, Callable[[Levels, list[Point]], list[Point]]] = {
    "grid": grid,
    "one_at_a_time": one_at_a_time,
    "leave_one_out": leave_one_out,
    "ladder": ladder,
    "list": listed,
}


def name(point: Point, baseline: Point, design: str, previous: Point | None) -> str:
    """A variant's name: how it differs from the baseline; on a ladder, what its rung adds.

    >>> name({"stem": "conv", "head": "half"}, {"stem": "focus", "head": "full"}, "grid", None)
    'stem=conv head=half'
    """
    against = previous if design == "ladder" and previous else baseline
    changes = [f"{factor}={level}" for factor, level in point.items() if level != against[factor]]
    if not changes:
        return "baseline"
    return f"+ {' '.join(changes)}" if design == "ladder" else " ".join(changes)
