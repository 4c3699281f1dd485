"""Overrides: `key=value`, and who asked for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ablab.errors import UserError

COMMAND_LINE, THE_DATA = "the command line", "the data"  # sources


@dataclass(frozen=True)
class Override:
    """One `key=value`, and who asked for it (the command line, a study's base, a level)."""

    key: str
    value: Any
    source: str = COMMAND_LINE


def parse(arguments: Iterable[str]) -> list[Override]:
    """Overrides in Hydra's grammar. Adding (`+key`), deleting (`~key`) and sweeping (`a,b`) are refused."""
    parser = OverridesParser.create()
    overrides = []
    for argument in arguments:
        try:
            parsed = parser.parse_override(argument)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"'{argument}' is not an override; expected key=value ({reason})") from None
        if parsed.is_add() or parsed.is_force_add() or parsed.is_delete():
            raise UserError(f"'{argument}': keys can be set (key=value), not added or deleted")
        if not parsed.key_or_group:
            raise UserError(f"'{argument}' is not an override; expected key=value (it names no key)")
        if parsed.is_sweep_override():
            raise UserError(
                f"'{argument}' names several values; `ablab train` and `ablab profile` take those with --multirun"
            )
        overrides.append(Override(parsed.key_or_group, parsed.value()))
    return overrides


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary as dotted keys; empty dictionaries stay as values.

    >>> flatten({"a": {"b": 1}, "c": {}})
    {'a.b': 1, 'c': {}}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat
