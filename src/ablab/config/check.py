"""Values against the schema that a group's YAML is: known keys, the types written there, knobs that are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablab.config.base import Base, groups, is_shared
from ablab.config.overrides import COMMAND_LINE, THE_DATA, Override, flatten
from ablab.errors import UserError, nearest


def set_value(tree: DictConfig, base: Base, override: Override) -> None:
    """Set a key that there is to a value of its type. Raises UserError otherwise, with the nearest key."""
    key, source = override.key, f" (from {override.source})" if override.source != COMMAND_LINE else ""
    schema = _select(base.tree, key)
    if schema is _ABSENT:
        raise UserError(f"unknown key '{key}'{source}: {_where_unknown(base, key)}")
    value = _typed(key, override.value, schema, f"{source}; the key is written in {base.origin(key)}")
    if isinstance(value, dict):
        for name, inner in value.items():
            set_value(tree, base, Override(f"{key}.{name}", inner, override.source))
    else:
        OmegaConf.update(tree, key, value, merge=False)


_ABSENT = object()


def _select(tree: DictConfig, key: str) -> Any:
    """What a key holds, resolved where that is possible; _ABSENT where there is no such key."""
    try:
        parent_key, _, leaf = key.rpartition(".")
        parent = OmegaConf.select(tree, parent_key, throw_on_resolution_failure=False) if parent_key else tree
        if not isinstance(parent, DictConfig) or leaf not in parent.keys():  # noqa: SIM118
            return _ABSENT
        value = OmegaConf.select(tree, key, throw_on_resolution_failure=False)
    except OmegaConfBaseException:
        return _ABSENT
    if not OmegaConf.is_config(value):
        return value
    try:
        return OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(value, resolve=False)


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a group of keys",
}


def _typed(key: str, value: Any, schema: Any, where: str) -> Any:
    """`value` as the type that the YAML gives to the key; a null there takes anything.

    A data set's files may be null where the YAML names one: no such split, no such file.
    """
    if schema is None or (isinstance(value, str) and "${" in value):
        return value
    if value is None and isinstance(schema, str) and key.startswith("data."):
        return value
    if isinstance(schema, str) and "${" in schema:  # an interpolation that cannot be resolved yet
        return value
    kind = type(schema)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        shown = f"{value!r} ({_NAMES.get(type(value), 'nothing')})"
        raise UserError(f"{key}: expected {_NAMES[kind]} such as {schema!r}, found {shown}{where}")
    if kind is list and schema and not isinstance(schema[0], (list, dict)):
        return [_typed(f"{key}[{i}]", item, schema[0], where) for i, item in enumerate(value)]
    return value


def _where_unknown(base: Base, key: str) -> str:
    parts = key.split(".")
    for end in range(len(parts) - 1, -1, -1):
        parent = ".".join(parts[:end])
        node: Any = _select(base.tree, parent) if parent else OmegaConf.to_container(base.tree, resolve=False)
        if isinstance(node, dict) and (node or not end):
            break
    chosen = base.choices.get(parts[0])
    file = f" in conf/{parts[0]}/{chosen}.yaml" if chosen and parent else ""
    names = [f"{parent}.{name}" if parent else str(name) for name in node if name != "_target_"]
    if not parent:
        names = [*names, *(g for g in groups() if g not in names)]
        every = flatten(OmegaConf.to_container(base.tree, resolve=False))  # type: ignore[arg-type]
        same = [name for name in every if name.split(".")[-1] == parts[-1]]
        if same:
            return f"Did you mean '{same[0]}'?"
    return f"there is none{file}. {nearest(key, names)}"


_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)[\[}]")


def check_knobs_are_read(tree: DictConfig, values: list[Override]) -> None:
    """Refuse a shared knob (a root key that is no group) that was set but that no chosen part reads."""
    shared = [o for o in values if is_shared(o.key) and o.source != THE_DATA]  # which no part need read
    if not shared:
        return
    read = {key for key in references(OmegaConf.to_container(tree, resolve=False)) if is_shared(key)}
    for override in shared:
        if override.key not in read:
            raise UserError(
                f"{override.key} (from {override.source}) changes nothing: no chosen part reads it. "
                f"Knobs that are read: {', '.join(sorted(read))}"
            )


def references(node: Any) -> Iterator[str]:
    """Every key that an interpolation in `node` reads."""
    if isinstance(node, dict):
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
    elif isinstance(node, str):
        yield from _REFERENCE.findall(node)
