"""What `ablab plan` says of a sweep before it runs, and what the sweep says of that when it is over: plain rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ablab.study.forecast import DEFAULT, KIND, LIKE, Forecast
from ablab.study.order import bound, makespan, order, sharing
from ablab.study.plan import Plan

MOST_ROWS = 40  # variants that have a row of their own
Table = tuple[list[str], list[list[Any]]]  # headers, rows


def outlook(plan: Plan, done: set[str], expected: Forecast, slots: int) -> tuple[Table, list[str]]:
    """(the table, a row for each variant and one for all; the lines below it).

    A stage counts where it first comes up, `shared` where it comes up again. Times of variants are what their stages
    take one after another; the whole sweep's is that of the order in which it will run on `slots`.
    """
    rows: dict[str, list[float]] = {}
    seen: set[str] = set()
    for replicate in plan.replicates:
        row = rows.setdefault(replicate.variant.name, [0, 0, 0, 0.0, 0.0, 0.0])
        for fingerprint in replicate.stages:
            if fingerprint in seen:
                row[2] += 1
            elif fingerprint in done:
                row[1] += 1
            else:
                row[0] += 1
                row[3] += expected.seconds[fingerprint]
                row[4] += expected.disk_mb[fingerprint]
                row[5] = max(row[5], expected.peak_mb[fingerprint])
            seen.add(fingerprint)
    shown = dict(list(rows.items())[:MOST_ROWS])
    if hidden := list(rows.values())[MOST_ROWS:]:
        shown[f"and {len(hidden)} more"] = _summed(hidden)
    if len(rows) > 1:
        shown["all"] = _summed(list(rows.values()))
    headers = ["variant", "to run", "in the store", "shared", "time", "disk", "memory"]
    table = [
        [name, *map(int, row[:3]), duration(row[3]), size(row[4]), size(row[5])]
        if row[0]
        else [name, *map(int, row[:3]), "–", "–", "–"]
        for name, row in shown.items()
    ]
    return (headers, table), _lines(plan, expected, slots)


def _summed(rows: list[list[float]]) -> list[float]:
    return [*(sum(column) for column in list(zip(*rows, strict=True))[:5]), max(row[5] for row in rows)]


def _lines(plan: Plan, expected: Forecast, slots: int) -> list[str]:
    pending = expected.pending
    lines = []
    if pending:
        at_once = f"{slots} at once" if slots > 1 else "one after another"
        takes = makespan(plan, order(plan, pending, slots), pending, slots)
        lines.append(
            f"{len(pending)} stages to run, {at_once}: about {duration(takes)}; no order could do it in less than "
            f"{duration(bound(plan, pending, slots))}"
        )
        bases = Counter(expected.basis.values())
        weight: Counter[str] = Counter()
        for fingerprint, basis in expected.basis.items():
            weight[basis] += pending[fingerprint]  # type: ignore[assignment]
        told = [
            f"{bases[basis]} from {words} ({weight[basis] / max(sum(pending.values()), 1e-9):.0%} of the time)"
            for basis, words in (
                (LIKE, "measured stages like them"),
                (KIND, "measured stages of their kind, by MACs"),
                (DEFAULT, "a default rate, nothing of the kind having run here: a guess"),
            )
            if bases[basis]
        ]
        lines.append(f"expected {'; '.join(told)}")
    saved = sharing(plan, expected.seconds)
    lines.append(f"equal work is done once: {saved:.2f} times less of it than if every replicate did its own")
    return lines


def comparison(plan: Plan, expected: Forecast, ran: Mapping[str, Mapping[str, Any]], slots: int, wall: float) -> Table:
    """Forecast against actual: by kind, in all, and of the whole sweep's time.

    ran: fingerprint -> record of what this sweep ran. wall: seconds that it took.
    """
    kinds: dict[str, list[str]] = {}
    for fingerprint in plan.stages:
        if fingerprint in ran:
            kinds.setdefault(plan.stages[fingerprint].kind, []).append(fingerprint)
    rows = [_compared(kind, chosen, expected, ran) for kind, chosen in kinds.items()]
    if len(rows) > 1:
        rows.append(_compared("all", [f for chosen in kinds.values() for f in chosen], expected, ran))
    pending = {fingerprint: expected.seconds[fingerprint] for fingerprint in plan.stages if fingerprint in ran}
    takes = makespan(plan, order(plan, pending, slots), pending, slots)
    rows.append(["sweep", len(ran), duration(takes), duration(wall), _ratio(wall, takes), "", ""])
    return ["kind", "stages", "forecast", "actual", "actual ÷ forecast", "memory forecast", "memory"], rows


def _compared(name: str, chosen: list[str], expected: Forecast, ran: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    forecast = sum(expected.seconds[f] for f in chosen)
    actual = sum(ran[f]["seconds"] for f in chosen)
    peaks = [ran[f]["peak_mb"] for f in chosen if ran[f].get("peak_mb") is not None]
    memory = [size(max(expected.peak_mb[f] for f in chosen)), size(max(peaks)) if peaks else "–"]
    return [name, len(chosen), duration(forecast), duration(actual), _ratio(actual, forecast), *memory]


def _ratio(actual: float, forecast: float) -> str:
    return f"{actual / forecast:.2f}" if forecast else "–"


def duration(seconds: float) -> str:
    """
    >>> duration(0.4), duration(75), duration(3725), duration(200_000)
    ('0.4 s', '1 min 15 s', '1 h 02 min', '2 d 8 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def size(mb: float) -> str:
    """
    >>> size(0.2), size(85.4), size(2345)
    ('0.2 MB', '85 MB', '2.3 GB')
    """
    if mb < 10:
        return f"{mb:.1f} MB"
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"
