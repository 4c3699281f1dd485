"""Values against the schema that a group's YAML is: known keys, the types written there, knobs that are read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablab.config.base import Base, groups
from ablab.config.overrides import COMMAND_LINE, THE_DATA, Override, flatten
from ablab.config.recipe import READ_BY_ABLAB, is_shared
from ablab.config.resolve import references
from ablab.errors import UserError, nearest


def checked(base: Base, override: Override) -> Iterator[tuple[str, Any]]:
    """The keys that an override sets, and values of their types (several for a group of keys).

    A group that is empty in the YAML takes any keys and comes as a whole.
    Raises UserError for a key that there is not, with the nearest one, and for a value of another type.
    """
    key, source = override.key, f" (from {override.source})" if override.source != COMMAND_LINE else ""
    if key not in base.schemas:
        base.schemas[key] = _select(base.tree, key)
    schema = base.schemas[key]
    if schema is _ABSENT:
        if (group := _open_group(base, key)) is not None:
            yield group, {key.removeprefix(f"{group}."): override.value}
            return
        raise UserError(f"unknown key '{key}'{source}: {_where_unknown(base, key)}")
    try:
        value = _typed(key, override.value, schema)
    except _WrongTypeError as error:
        raise UserError(f"{error}{source}; the key is written in {base.origin(key)}") from None
    if isinstance(value, dict) and schema != {}:
        for name, inner in value.items():
            yield from checked(base, Override(f"{key}.{name}", inner, override.source))
    else:
        yield key, value


_ABSENT = object()


def _open_group(base: Base, key: str) -> str | None:
    """The group above a key that is empty in the YAML, if there is one."""
    parts = key.split(".")
    above = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((group for group in above if _select(base.tree, group) == {}), None)


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


class _WrongTypeError(Exception):
    """A value of another type than the YAML gives to its key."""


def _typed(key: str, value: Any, schema: Any) -> Any:
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
        raise _WrongTypeError(f"{key}: expected {_NAMES[kind]} such as {schema!r}, found {shown}")
    if kind is list and schema and not isinstance(schema[0], (list, dict)):
        return [_typed(f"{key}[{i}]", item, schema[0]) for i, item in enumerate(value)]
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


def check_schedule_is_read(values: list[Override]) -> None:
    """Refuse a key of `schedule` beside a list of phases, both from the command line, that this list does not read."""
    asked = {o.key: o.value for o in values if o.source == COMMAND_LINE and o.key.startswith("schedule.")}
    if "schedule.phases" not in asked:
        return
    read = {name.partition("[")[0] for name in references(asked["schedule.phases"])}
    for key in asked:
        if not key.startswith("schedule.phases") and key not in read:
            name = key.removeprefix("schedule.")
            raise UserError(f"{key} changes nothing beside schedule.phases: give each phase its own {name} there")


def check_knobs_are_read(read: Iterable[str], values: list[Override], known: Container[str]) -> None:
    """Refuse a shared knob (a root key under none of the `known` groups) that was set but is not `read`."""
    shared = [o for o in values if o.source != THE_DATA and is_shared(o.key, known)]  # the data's: no part need read it
    if not shared:
        return
    keys = {*read, *READ_BY_ABLAB}
    for override in shared:
        if override.key not in keys:
            raise UserError(
                f"{override.key} (from {override.source}) changes nothing: no chosen part reads it. "
                f"Knobs that are read: {', '.join(sorted(key for key in keys if is_shared(key, known)))}"
            )
