"""The files `experiments/<name>.yaml`: one published row each, as printed, errors too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablab.config import find_yaml, read_yaml, yaml_names
from ablab.errors import UserError, nearest

NUMBER = (int, float, type(None))
ROW: dict[str, Any] = {
    "id": str,
    "name": str,  # as printed
    "network": str,
    "family": str,  # whose code it comes from: its rows are counted alike
    "recipe": str,
    "imgsz": int,
    "published": dict,
    "source": str,  # the table: rows of one family in one table share a hand
    "never_run_params": int,
}
PUBLISHED: dict[str, Any] = {
    "flops_g": NUMBER,
    "params_m": NUMBER,
    "size_m": NUMBER,  # in whatever unit and dtype its author had: tables say no more than M
    "size_dtype": str,  # only where it is printed
    "map50": NUMBER,
    "map": NUMBER,
}
OPTIONAL = {"never_run_params": 0, "size_dtype": None}
DTYPES = ("fp16", "fp32")


def load_rows() -> list[dict[str, Any]]:
    """Every row of `experiments/`, by id; keys as in ROW and PUBLISHED.

    Raises UserError that names file and key.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in yaml_names("experiments"):
        row = load_row(find_yaml("experiments", name, "experiment"))
        if row["id"] in rows:
            raise UserError(f"experiments/{name}.yaml: id: '{row['id']}' is the id of another file too")
        rows[row["id"]] = row
    return [rows[number] for number in sorted(rows)]


def load_row(file: Path) -> dict[str, Any]:
    """One published row. Raises UserError that names file and key."""
    where = f"experiments/{file.name}"
    row = _checked(read_yaml(file), ROW, where)
    row["published"] = _checked(row["published"], PUBLISHED, f"{where}: published")
    found = row["published"]["size_dtype"]
    if found not in (None, *DTYPES):
        raise UserError(f"{where}: published: size_dtype: '{found}' is none. {nearest(found, DTYPES)}")
    return row


def _checked(found: Any, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`found` with what is optional filled in. Raises UserError unless it has the known keys and no others."""
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected the keys {', '.join(known)}; found {found!r}")
    for key, value in found.items():
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'. {nearest(key, known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key}: expected {_types(known[key])}, found {value!r}")
    for key in known:
        if key not in found and key not in OPTIONAL:
            raise UserError(f"{where}: key '{key}' is missing; expected {', '.join(known)}")
    return {key: found.get(key, OPTIONAL.get(key)) for key in known}


def _types(known: Any) -> str:
    words = {str: "text (quote it if it looks like a number)", int: "a whole number", float: "a number"}
    words |= {dict: "a group of keys", type(None): "null"}
    return " or ".join(words[kind] for kind in (known if isinstance(known, tuple) else (known,)))
