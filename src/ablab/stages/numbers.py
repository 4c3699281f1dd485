"""The numbers that a program wrote: a JSON object, or a CSV file whose last row counts."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from ablab.errors import UserError, nearest

FORMATS = (".json", ".csv")
AXES = ("epoch", "step")  # a CSV column of either name makes the rows a curve over it
Numbers = dict[str, float | int | None]  # None: not a finite number


def read(file: Path, wanted: list[str], others: list[str]) -> dict[str, Any]:
    """{"values": {name: number or None}, "curve": [{"epoch" or "step": n, name: number or None}], "diverged": bool}.

    wanted: names that must be there. others: names of the files beside it, for a message. JSON objects within
    objects are flattened with dots; what is no number is left out. None stands for NaN and infinity; diverged: one of
    the wanted numbers is that. Raises UserError that names file and number.
    """
    if not file.is_file():
        hint = f"it wrote {', '.join(others)}" if others else "it wrote no file there"
        raise UserError(f"{file.name}: the program ended well, but wrote no such file into {{out}}; {hint}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name}: not a text file, byte {error.start} is no UTF-8") from None
    values, curve = _csv(text, file.name) if file.suffix == ".csv" else (_json(text, file.name), [])
    for name in wanted:
        if name not in values:
            raise UserError(f"{file.name}: it has no number '{name}', which `measure` names. {nearest(name, values)}")
    return {"values": values, "curve": curve, "diverged": any(values[name] is None for name in wanted)}


def _json(text: str, name: str) -> Numbers:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f'{name}: expected a JSON object such as {{"accuracy": 0.9}}, found {text.strip()[:40]}')
    return dict(_flat(content))


def _flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, float | int | None]]:
    found: list[tuple[str, float | int | None]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{key}", value if math.isfinite(value) else None))
    return found


def _csv(text: str, name: str) -> tuple[Numbers, list[Numbers]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if len(rows) < 2:
        raise UserError(f"{name}: expected a row of names and rows of numbers, found {len(rows)} row(s)")
    header = [cell.strip() for cell in rows[0]]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UserError(f"{name}: row {number} has {len(row)} cells, but the first row names {len(header)}")
    table = [dict(_numbers(header, row)) for row in rows[1:]]
    axis = next((axis for axis in AXES if axis in header), None)
    if axis is None:
        return table[-1], []
    for number, row_numbers in enumerate(table, 2):
        at = row_numbers.get(axis)
        if at is None or at != int(at):
            raise UserError(f"{name}: row {number}: {axis}: expected a whole number, found {rows[number - 1]}")
        row_numbers[axis] = int(at)
    return {key: value for key, value in table[-1].items() if key != axis}, table


def _numbers(header: list[str], row: list[str]) -> list[tuple[str, float | int | None]]:
    """Cells that are numbers; an empty one is none (not every epoch has every number)."""
    found: list[tuple[str, float | int | None]] = []
    for name, cell in zip(header, row, strict=True):
        try:
            value = float(cell)
        except ValueError:
            continue
        found.append((name, value if math.isfinite(value) else None))
    return found
