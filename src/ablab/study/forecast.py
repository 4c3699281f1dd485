"""What a plan will take, stage by stage: seconds, disk and memory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from ablab import machine
from ablab.store import Store
from ablab.study.measured import Line, like, parts_digest, px, units
from ablab.study.plan import Plan, Stage

# What a number rests on, the best first.
LIKE, KIND, DEFAULT = "like stages", "same kind", "default rate"

LATEST = 20  # lines that a rate is the median of
COMPARABLE = 100  # times as much work as a line's is the most that its rate is taken for: a start takes seconds too
# Where nothing of the kind has been measured: convolution MACs a second (a thread of a CPU; a GPU, on small networks),
# convolution MACs for a pixel of the input (YOLOv5n's), seconds of a stage that sees no images of one size.
MACS_PER_SECOND = {"cpu": 1e10, "cuda": 1e12}
MACS_PER_PX = 5500.0
FIXED_SECONDS = {"smoke": 3.0, "profile": 3.0, "cut": 3.0}
IMAGES_PER_SECOND = 300.0  # decoded
BASE_MB = 1100.0  # resident memory of a process that has imported torch and computed something
PEAK_MB = {"train": 2000.0, "evaluate": 1500.0}
DISK_MB = {"train": 8.0, "evaluate": 2.0}
SMALL_MB = 0.01


@dataclass(frozen=True)
class Forecast:
    """By fingerprint, for every stage of a plan: what it takes, or took if it is done.

    basis: what a stage's seconds rest on, LIKE, KIND or DEFAULT; of stages to run only. `pending` are those.
    """

    seconds: dict[str, float]
    disk_mb: dict[str, float]
    peak_mb: dict[str, float]
    basis: dict[str, str]

    @property
    def pending(self) -> dict[str, float]:
        """Seconds of the stages that are to run."""
        return {fingerprint: self.seconds[fingerprint] for fingerprint in self.basis}


def forecast(plan: Plan, done: set[str], history: list[Line], costs: Mapping[str, Mapping[str, Any]]) -> Forecast:
    """Seconds, disk and peak memory of every stage.

    From measured stages of the same kind, network, batch and engine, scaled by forward passes × px²; else from those
    of the same kind, scaled by convolution MACs as well; else from a default rate. Lines of this machine come first.
    done: fingerprints in the store. history: oldest first. costs: fingerprint of a profile stage -> its numbers.
    """
    rates = _Rates(plan, history, costs)
    made = {line.fingerprint: line for line in history if line.fingerprint in plan.stages}
    result = Forecast({}, {}, {}, {})
    for fingerprint, stage in plan.stages.items():
        line = made.get(fingerprint)
        seconds, disk, peak, basis = rates(stage)
        result.seconds[fingerprint] = line.seconds if line else seconds
        result.disk_mb[fingerprint] = line.disk_mb if line and line.disk_mb is not None else disk
        result.peak_mb[fingerprint] = line.peak_mb if line and line.peak_mb is not None else peak
        if fingerprint not in done:
            result.basis[fingerprint] = LIKE if line else basis
    return result


def costs(plan: Plan, store: Store, done: set[str], history: list[Line]) -> dict[str, dict[str, Any]]:
    """Numbers of the profile stages in the store that `history` does not know of already."""
    known = {line.fingerprint for line in history}
    wanted = [f for f, s in plan.stages.items() if s.kind == "profile" and f in done and f not in known]
    return {fingerprint: store.read(fingerprint)["numbers"] for fingerprint in wanted}


class _Rates:
    """Estimates for one plan; a rate is computed once for all stages that share it."""

    def __init__(self, plan: Plan, history: list[Line], costs: Mapping[str, Mapping[str, Any]]) -> None:
        self.parts = parts_digest()
        here = machine.host()
        local = [line for line in history if (line.machine, line.processor) == (here["machine"], here["processor"])]
        self.like: dict[Any, list[Line]] = defaultdict(list)
        self.kind: dict[str, list[Line]] = defaultdict(list)
        for lines in (history, local):  # this machine's, where it has any, in place of the others'
            like, kind = defaultdict(list), defaultdict(list)
            for line in lines:
                like[line.like].append(line)
                kind[line.kind].append(line)
            self.like.update(like)
            self.kind.update(kind)
        self.macs = {line.parts: line.macs_per_px for line in history if line.macs_per_px}
        for fingerprint, numbers in costs.items():
            stage = plan.stages[fingerprint]
            if numbers.get("conv_macs"):
                self.macs[self.parts(stage)] = numbers["conv_macs"] / px(stage) ** 2
        self.typical = median(self.macs.values()) if self.macs else MACS_PER_PX
        self._by_like: dict[Any, tuple[float, float | None, list[Line]] | None] = {}
        self._by_kind: dict[Any, float | None] = {}

    def __call__(self, stage: Stage) -> tuple[float, float, float, str]:
        """(seconds, disk MB, peak MB, basis)."""
        parts = self.parts(stage)
        key, work = like(stage, parts), units(stage)
        if (key, work) not in self._by_like:
            self._by_like[key, work] = self._measured(_comparable(self.like.get(key, []), work)[-LATEST:])
        known = self._by_like[key, work]
        if known:
            rate, disk, lines = known
            seconds, basis = rate * work, LIKE
        else:
            lines, disk = self.kind.get(stage.kind, [])[-LATEST:], None
            seconds, basis = self._by_macs(stage, parts, key)
        if disk is None:
            sizes = [line.disk_mb for line in lines if line.disk_mb is not None]
            disk = median(sizes) if sizes else DISK_MB.get(stage.kind, SMALL_MB)
        return seconds, disk, _peak(stage, lines), basis

    def _measured(self, lines: list[Line]) -> tuple[float, float | None, list[Line]] | None:
        if not lines:
            return None
        sizes = [line.disk_mb for line in lines if line.disk_mb is not None]
        return median(line.seconds / line.units for line in lines), median(sizes) if sizes else None, lines

    def _by_macs(self, stage: Stage, parts: str, key: tuple[Any, ...]) -> tuple[float, str]:
        sized = bool(px(stage) and stage.images)
        _, _, _, device, precision, threads = key
        engine, passes = (stage.kind, device, precision, threads), units(stage)
        if (engine, passes) not in self._by_kind:
            self._by_kind[engine, passes] = self._rate(stage.kind, passes, engine[1:], sized)
        rate = self._by_kind[engine, passes]
        work = passes * (self.macs.get(parts, self.typical) if sized else 1.0)
        if rate is not None:
            return rate * work, KIND
        if sized:
            return work / (MACS_PER_SECOND.get(device, 1e10) * (threads if device != "cuda" else 1) or 1e10), DEFAULT
        return FIXED_SECONDS.get(stage.kind, 60.0) if not stage.images else work / IMAGES_PER_SECOND, DEFAULT

    def _rate(self, kind: str, work: float, engine: tuple[Any, ...], sized: bool) -> float | None:
        """Seconds for a unit of work of a kind, of the same device, precision and threads where there are some."""
        lines = _comparable(self.kind.get(kind, []), work)
        if sized:  # those whose MACs are known, else all as of the typical ones
            lines = [line for line in lines if line.parts in self.macs] or lines
        same = [line for line in lines if (line.device, line.precision, line.threads) == engine]
        chosen = (same or lines)[-LATEST:]
        if not chosen:
            return None
        macs = [self.macs.get(line.parts, self.typical) if sized else 1.0 for line in chosen]
        return median(line.seconds / (line.units * each) for line, each in zip(chosen, macs, strict=True))


def _comparable(lines: list[Line], work: float) -> list[Line]:
    return [line for line in lines if COMPARABLE * line.units >= work]


def _peak(stage: Stage, lines: list[Line]) -> float:
    """The highest of the `lines` whose images are nearest in size, what is above the bare process enlarged by the
    area: at a tenth of the side, the process's own ups and downs would be a hundred times too large."""
    known = [(line.px, line.peak_mb) for line in lines if line.peak_mb is not None]
    if not (px(stage) and stage.images):  # what sees no images: a profile only counts
        return max((peak for _, peak in known), default=PEAK_MB.get(stage.kind, BASE_MB))
    apart = [abs(math.log(px(stage) / size)) for size, _ in known]
    peaks = [
        BASE_MB + max(peak - BASE_MB, 0.0) * max(px(stage) / size, 1.0) ** 2
        for (size, peak), away in zip(known, apart, strict=True)
        if away == min(apart)
    ]
    return max(peaks, default=PEAK_MB.get(stage.kind, BASE_MB))
