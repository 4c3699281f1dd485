"""Compose, check and explain configurations: the one place that knows Hydra.

Notable here:

- A folder's own `conf/` comes before the one ablab ships, and a key that is not in the YAML is refused.
- The YAML of a group is its schema: an override keeps the type that is written there.
- Composing costs Hydra tens of milliseconds, so it happens once for each combination of group choices;
  values are then set on a copy.
- Resolvers turn shared knobs into the concrete numbers that parts take (`channels`, `repeats`).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from ablab.errors import UserError, nearest

PACKAGE = Path(__file__).parent
COMMAND_LINE = "the command line"


# ---------------------------------------------------------------------------------------------- where files are


def shipped(folder: str) -> Path:
    """The `conf`, `sweeps` or `experiments` that came with ablab: in the wheel, else in the source tree."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parents[1] / folder


def places(folder: str) -> list[Path]:
    """Where files of a kind are looked for, first wins: the working folder's own, then ablab's."""
    own = Path.cwd() / folder
    return [place for place in dict.fromkeys([own.resolve(), shipped(folder).resolve()]) if place.is_dir()]


def find_yaml(folder: str, name: str, key: str) -> Path:
    """The YAML file called `name` in the working folder's `folder`, else in ablab's.

    Raises UserError that names `key` and the nearest file there is.
    """
    for place in places(folder):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    raise UserError(f"{key}={name}: there is no {folder}/{name}.yaml. {nearest(name, yaml_names(folder))}")


def read_yaml(file: Path) -> Any:
    """What a YAML file holds, read as Hydra reads its own: a key given twice is refused, 1e-3 is a number.

    Raises UserError that names file, line and column.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=get_yaml_loader())
    except UnicodeDecodeError as error:
        raise UserError(f"{_shown(file)}: not a text file, byte {error.start} is no UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{_shown(file)}: not valid YAML{place}: {problem}") from None


def yaml_names(folder: str) -> list[str]:
    """Names of the YAML files of a kind, the working folder's and ablab's."""
    return sorted({file.stem for place in places(folder) for file in place.glob("*.yaml")})


# ---------------------------------------------------------------------------------------------- resolvers


def ceil8(channels: float) -> int:
    """The smallest multiple of 8 that is not below `channels`, at least 8.

    >>> ceil8(116), ceil8(128), ceil8(2)
    (120, 128, 8)
    """
    return max(8, int(-(-round(channels, 6) // 8) * 8))


def scaled_channels(base: float, width: float, prune: float = 0.0) -> int:
    """`base` channels at a width multiple, then narrowed by the share `prune` in [0, 1)."""
    if not 0 <= prune < 1:
        raise UserError(f"head_prune.ratio: expected a share in [0, 1), found {prune}")
    if width <= 0:
        raise UserError(f"model.width: expected a number above 0, found {width}")
    return ceil8(ceil8(base * width) * (1 - prune))


def scaled_repeats(count: int, depth: float) -> int:
    """Repeats of a block at a depth multiple, never below one."""
    if depth <= 0:
        raise UserError(f"model.depth: expected a number above 0, found {depth}")
    return max(round(count * depth), 1)


def scaled_gain(gain: float, classes: int | None) -> float:
    """A classification gain given at COCO's 80 classes, for another number of them (YOLOv5: in proportion).

    Until the data has told the number of classes (null) it is the gain at 80.
    """
    return gain if classes is None else gain * classes / 80


OmegaConf.register_new_resolver("channels", scaled_channels, replace=True)
OmegaConf.register_new_resolver("repeats", scaled_repeats, replace=True)
OmegaConf.register_new_resolver("class_gain", scaled_gain, replace=True)


# ---------------------------------------------------------------------------------------------- overrides


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
            raise UserError(f"'{argument}' names several values; only `ablab train --multirun` takes those")
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


# ---------------------------------------------------------------------------------------------- composing


@dataclass(frozen=True)
class Composed:
    """One complete configuration.

    resolved: plain nested dictionary, without interpolations.
    choices: group -> chosen file.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    _base: _Base
    _values: tuple[Override, ...]

    def origin(self, key: str) -> str:
        """The file (or the command line, a level, ...) that a dotted key's value came from."""
        for override in reversed(self._values):
            if key == override.key or key.startswith(f"{override.key}."):
                return override.source
        return self._base.origin(key)

    def unread(self) -> list[str]:
        """Shared knobs that none of the chosen parts reads, such as a recipe's whose part was replaced."""
        content = OmegaConf.to_container(self._base.tree, resolve=False)
        assert isinstance(content, dict)
        knobs = {key for key in flatten({str(k): v for k, v in content.items()}) if _is_shared(key)}
        return sorted(knobs - set(_references(content)) - {"model.name"})


@dataclass(frozen=True)
class _Base:
    """A combination of group choices as Hydra composed it, before any value is set."""

    tree: DictConfig
    choices: dict[str, str]
    files: list[tuple[str, Path, dict[str, Any]]]  # (package, file, its keys), later ones win

    def origin(self, key: str) -> str:
        for package, file, content in reversed(self.files):
            inner = key.removeprefix(f"{package}.") if package else key
            if (not package or inner != key) and _has(content, inner):
                return _shown(file)
        return "conf/config.yaml"


def compose(overrides: Iterable[str | Override] = ()) -> Composed:
    """The configuration that `overrides` ask for; later ones win.

    Raises UserError for an unknown key or choice, a wrong type, or a shared knob that no chosen part reads.
    """
    asked = [parse([item])[0] if isinstance(item, str) else item for item in overrides]
    available = groups()
    choices = {}
    values = []
    for override in asked:
        if override.key not in available:
            values.append(override)
        elif isinstance(override.value, str) and override.value in available[override.key]:
            choices[override.key] = override.value
        else:
            raise UserError(
                f"{override.key}={override.value} (from {override.source}): no such choice. "
                f"{nearest(override.value, available[override.key])}"
            )
    base = _compose_choices(tuple(sorted(choices.items())), _search_path())
    tree = copy.deepcopy(base.tree) if values else base.tree
    for override in values:
        _set(tree, base, override)
    _check_knobs_are_read(tree, values)
    return Composed(_resolve(tree), base.choices, base, tuple(values))


@cache
def _loader(search_path: tuple[str, ...]) -> ConfigLoaderImpl:
    Plugins.instance()  # registers the readers of configuration files
    path = ConfigSearchPathImpl()
    for place in search_path:
        path.append("ablab", f"file://{place}")
    path.append("schema", "structured://")  # Hydra insists on it
    return ConfigLoaderImpl(config_search_path=path)


def _search_path() -> tuple[str, ...]:
    return tuple(map(str, places("conf")))


def groups() -> dict[str, list[str]]:
    """Every group and its choices, from the working folder's `conf/` and ablab's."""
    return _groups(_search_path())


@cache
def _groups(search_path: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for place in map(Path, search_path):
        for file in place.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(choices) for group, choices in sorted(found.items())}


@cache
def _compose_choices(choices: tuple[tuple[str, str], ...], search_path: tuple[str, ...]) -> _Base:
    loader = _loader(search_path)
    repository = CachingConfigRepository(loader.repository)
    parser = OverridesParser.create()
    try:
        defaults = create_defaults_list(
            repo=repository,
            config_name="config",
            overrides_list=parser.parse_overrides([f"{group}={choice}" for group, choice in choices]),
            prepend_hydra=False,
            skip_missing=False,
        )
        # Read first: composing merges the others into the first one, which the repository keeps.
        files = [_read(default, repository) for default in defaults.defaults if default.config_path]
        _check_recipe(files)
        tree = loader._compose_config_from_defaults_list(defaults.defaults, repository)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the configuration cannot be composed: {' '.join(str(error).split())}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        for file in (f for place in search_path for f in Path(place).rglob("*.yaml")):
            read_yaml(file)  # names the one that does not parse
        raise
    chosen = {group: str(choice) for group, choice in defaults.overrides.known_choices.items()}
    tree.pop("hydra", None)
    OmegaConf.set_struct(tree, True)
    return _Base(tree, chosen, files)


def _read(default: ResultDefault, repository: CachingConfigRepository) -> tuple[str, Path, dict[str, Any]]:
    path = str(default.config_path)
    loaded = repository.load_config(path)
    assert loaded is not None
    content = OmegaConf.to_container(loaded.config, resolve=False)
    if not isinstance(content, dict):
        raise UserError(f"conf/{path}.yaml: expected keys and their values, found {content!r:.100}")
    package = default.package if default.package and default.package != "_global_" else ""
    keys = {str(key): value for key, value in content.items()}
    return package, Path(str(loaded.path).removeprefix("file://")) / f"{path}.yaml", keys


def _has(content: Any, key: str) -> bool:
    for part in re.split(r"\.|\[", key):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _shown(file: Path) -> str:
    """A file as a user would name it: from the working folder, else from ablab's own root."""
    for root in (Path.cwd(), shipped("conf").resolve().parent):
        if file.is_relative_to(root):
            return str(file.relative_to(root))
    return str(file)


def _resolve(tree: DictConfig) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None:  # a resolver's own complaint
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        key = getattr(error, "full_key", None)
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    for key, value in flatten({str(k): v for k, v in resolved.items()}).items():
        if not _finite(value):
            raise UserError(f"{key}={value}: expected a finite number")
    return {str(key): value for key, value in resolved.items()}


def _finite(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


# ---------------------------------------------------------------------------------------------- checking


def _set(tree: DictConfig, base: _Base, override: Override) -> None:
    key, source = override.key, f" (from {override.source})" if override.source != COMMAND_LINE else ""
    schema = _select(base.tree, key)
    if schema is _ABSENT:
        raise UserError(f"unknown key '{key}'{source}: {_where_unknown(base, key)}")
    value = _typed(key, override.value, schema, f"{source}; the key is written in {base.origin(key)}")
    if isinstance(value, dict):
        for name, inner in value.items():
            _set(tree, base, Override(f"{key}.{name}", inner, override.source))
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
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a group of keys",
}


def _typed(key: str, value: Any, schema: Any, where: str) -> Any:
    """`value` as the type that the YAML gives to the key; a null there takes anything."""
    if schema is None or (isinstance(value, str) and "${" in value):
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


def _where_unknown(base: _Base, key: str) -> str:
    parts = key.split(".")
    for end in range(len(parts) - 1, -1, -1):
        parent = ".".join(parts[:end])
        node = _select(base.tree, parent) if parent else OmegaConf.to_container(base.tree, resolve=False)
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


def _check_recipe(files: list[tuple[str, Path, dict[str, Any]]]) -> None:
    """Refuse a recipe that sets what is no shared knob: a part's own key would leak into whatever part replaces it."""
    root = next((content for package, file, content in files if not package and file.name == "config.yaml"), {})
    knobs = [key for key in flatten(root) if _is_shared(key) and not key.startswith("hydra.")]
    for package, file, content in files:
        if package or content is root:
            continue
        for key in flatten(content):
            if key not in knobs:
                raise UserError(
                    f"{_shown(file)}: a recipe chooses parts and sets shared knobs; '{key}' is none of them. "
                    f"{nearest(key, knobs)}"
                )


_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)[\[}]")


def _check_knobs_are_read(tree: DictConfig, values: list[Override]) -> None:
    """Refuse a shared knob (a root key that is no group) that was set but that no chosen part reads."""
    shared = [override for override in values if _is_shared(override.key)]
    if not shared:
        return
    read = {key for key in _references(OmegaConf.to_container(tree, resolve=False)) if _is_shared(key)}
    for override in shared:
        if override.key not in read:
            raise UserError(
                f"{override.key} (from {override.source}) changes nothing: no chosen part reads it. "
                f"Knobs that are read: {', '.join(sorted(read))}"
            )


def _is_shared(key: str) -> bool:
    top, _, rest = key.partition(".")
    return bool(rest) and (top == "model" or top not in groups())


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
    elif isinstance(node, str):
        yield from _REFERENCE.findall(node)
