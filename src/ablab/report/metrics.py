"""What rows are compared by: AP of a detector, or the numbers that a study over a command measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablab.report.statistics import Estimate

NO_EVIDENCE = "†"
ARROWS = {"higher": " ↑", "lower": " ↓"}
DIGITS = 4  # of a column's largest mean; the others, intervals and differences have as many decimals


@dataclass(frozen=True)
class Metric:
    """A measured quantity and how it is printed.

    key: its name in the record. unit: what 1 is printed as (100: percent). better: "higher", "lower", or "" where
    everyone knows.
    """

    key: str
    title: str
    unit: float = 1
    decimals: int = 1
    better: str = ""

    @property
    def header(self) -> str:
        return self.title + ARROWS.get(self.better, "")

    def text(self, value: float) -> str:
        return f"{self.unit * value:.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """A difference with its sign; no sign for what rounds to nothing."""
        text = self.text(abs(value))
        return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"

    def mean(self, found: Estimate | None) -> str:
        """A mean with the half-width of its interval."""
        if found is None:
            return "–"
        spread = "" if found.half is None else f" ± {self.text(found.half)}"
        return (self.text(found.mean) if found.mean >= 0 else f"−{self.text(-found.mean)}") + spread

    def difference(self, found: Estimate | None) -> str:
        """A difference with its interval, marked where it includes 0."""
        if found is None:
            return "–"
        if found.low is None or found.high is None:
            return self.signed(found.mean)
        mark = f" {NO_EVIDENCE}" if found.includes_zero else ""
        return f"{self.signed(found.mean)} [{self.signed(found.low)}, {self.signed(found.high)}]{mark}"


AP = (Metric("map50", "mAP50", 100), Metric("map", "mAP", 100))  # in percent


def metrics(study: Mapping[str, Any], data: pd.DataFrame) -> tuple[Metric, ...]:
    """The study's metrics, those of a command with decimals that suit what was measured."""
    if "measure" not in study:
        return AP
    means = {name: data.groupby("index")[name].mean().abs().max() if name in data else 0.0 for name in study["measure"]}
    return tuple(Metric(name, name, 1, _decimals(means[name]), better) for name, better in study["measure"].items())


def _decimals(largest: float) -> int:
    """
    >>> [_decimals(value) for value in (0.97, 12.5, 123456, 0.0)]
    [4, 2, 0, 3]
    """
    if not math.isfinite(largest) or largest == 0:
        return DIGITS - 1
    return max(0, DIGITS - 1 - math.floor(math.log10(largest)))
