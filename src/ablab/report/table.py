"""The paper's table: a column for every quantity, as Markdown and, in full precision, as CSV.

A column is a header and a function of a Row; to add one, write the function and name it in `columns`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

from ablab.report.rows import AP, COSTS, Row
from ablab.report.statistics import Estimate

AP_NAMES = {"map50": "mAP50", "map": "mAP"}
FACTOR_COLUMNS = 3  # so many factors have a column each; more are told by the variant's name
NO_EVIDENCE = "†"

Column = tuple[str, Callable[[Row], str]]


def columns(study: Mapping[str, Any], table: list[Row], evaluates: bool) -> list[Column]:
    """The columns that this study's table needs."""
    found: list[Column] = [("ID", lambda row: row.id), *_identity(study, table)]
    found += [
        ("Input size", lambda row: str(row.imgsz)),
        ("FLOPs (G)", lambda row: _scaled(row, "flops", 1e9)),
        ("Params (M)", lambda row: _scaled(row, "params", 1e6)),
        ("Size (MB, fp16)", lambda row: _scaled(row, "size_fp16_mb", 1)),
    ]
    if evaluates:
        found += [(AP_NAMES[metric], _score(metric)) for metric in AP]
        if len({row.index for row in table}) > 1:
            found += [(f"Δ {AP_NAMES[metric]}", _to_baseline(metric)) for metric in AP]
            if study["design"] == "ladder":
                found.append(("Δ mAP50 vs. previous", lambda row: difference(row.to_previous.get("map50"))))
        found.append(("n seeds", _seeds))
    if any(row.status != "complete" for row in table):
        found.append(("Status", lambda row: "; ".join(row.problems) or "complete"))
    return found


def _identity(study: Mapping[str, Any], table: list[Row]) -> list[Column]:
    factors = list(study["factors"])
    if not factors:
        return [("Model", lambda row: row.model)]
    if study["design"] == "ladder" or len(factors) > FACTOR_COLUMNS:
        return [("Variant", lambda row: row.variant)]
    baseline = next((row.levels for row in table if row.variant == study["baseline"]), {})
    return [(factor, _level(factor, baseline)) for factor in factors]


def _level(factor: str, baseline: Mapping[str, str]) -> Callable[[Row], str]:
    """A row's level of a factor, bold where it is not the baseline's."""

    def cell(row: Row) -> str:
        level = row.levels.get(factor, "–")
        return level if level == baseline.get(factor) else f"**{level}**"

    return cell


def _score(metric: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = row.ap(metric)
        if found is None:
            return "–"
        return f"{percent(found.mean)}" + (f" ± {percent(found.half)}" if found.half is not None else "")

    return cell


def _to_baseline(metric: str) -> Callable[[Row], str]:
    return lambda row: difference(row.to_baseline.get(metric))


def _seeds(row: Row) -> str:
    complete = sum(status == "complete" for status in row.seeds.values())
    return str(complete) if complete == len(row.seeds) else f"{complete} of {len(row.seeds)}"


def _scaled(row: Row, cost: str, unit: float) -> str:
    return significant(row.costs[cost] / unit) if cost in row.costs else "–"


def significant(value: float) -> str:
    """Three significant digits, and never fewer than all before the point: 0.251, 1.43, 17.2, 1234."""
    rounded = f"{value:.2e}"  # rounding may carry into another digit: 9.995 has two before the point
    return f"{value:.{max(2 - int(rounded.partition('e')[2]), 0)}f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def difference(found: Estimate | None) -> str:
    """A difference of AP in percentage points with its interval, marked where it includes 0."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return signed(found.mean)
    mark = f" {NO_EVIDENCE}" if found.includes_zero else ""
    return f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]{mark}"


def signed(value: float) -> str:
    """A share as percentage points with its sign; no sign for what rounds to nothing."""
    text = percent(abs(value))
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


# ------------------------------------------------------------------------------------------------ files


def markdown(header: list[str], cells: list[list[str]]) -> str:
    """A Markdown table: numbers to the right, names (the first cell's kind decides) to the left, columns padded."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [header, *cells]]
    widths = [max(3, *(len(line[column]) for line in escaped)) for column in range(len(header))]
    names = [any(c.isalpha() for line in escaped[1:] for c in line[column][:1]) for column in range(len(header))]
    rule = [f":{'-' * (w - 1)}" if left else f"{'-' * (w - 1)}:" for w, left in zip(widths, names, strict=True)]
    lines = [
        " | ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in zip(line, widths, names, strict=True))
        for line in [escaped[0], rule, *escaped[1:]]
    ]
    return "".join(f"| {line} |\n" for line in lines)


def to_csv(study: Mapping[str, Any], table: list[Row], evaluates: bool) -> str:
    """Every number in full precision, its seeds and the fingerprints of the stages that made it."""
    records = []
    for row in table:
        record: dict[str, Any] = {"id": row.id, "variant": row.variant, "model": row.model, **row.levels}
        record |= {"imgsz": row.imgsz, **{cost: _exact(row.costs.get(cost)) for cost in COSTS}}
        if evaluates:
            for metric in AP:
                record |= _spread(metric, row.ap(metric))
                record |= _spread(f"delta_{metric}", row.to_baseline.get(metric))
                if study["design"] == "ladder":
                    record |= _spread(f"previous_{metric}", row.to_previous.get(metric))
                record[f"{metric}_by_seed"] = " ".join(f"{s}:{v!r}" for s, v in row.scores[metric].items())
        record["n"] = sum(status == "complete" for status in row.seeds.values())
        record |= {"status": row.status, "reason": "; ".join((*row.problems, *row.remarks))}
        for kind in ("profile", "train", "evaluate"):
            made = row.fingerprints.get(kind, {})
            record[f"{kind}_fingerprints"] = " ".join(f"{s}:{'+'.join(found)}" for s, found in made.items())
        records.append(record)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _spread(name: str, found: Estimate | None) -> dict[str, Any]:
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    keys = (name, f"{name}_low", f"{name}_high")
    return {key: _exact(value) for key, value in zip(keys, values, strict=True)}


def _exact(value: float | None) -> str:
    """Shortest text that reads back as the same number; counts without a point."""
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) >= 1 else repr(value)
