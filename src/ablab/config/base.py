"""A combination of group choices, composed by Hydra before any value is set, and remembered."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablab.config import recipe
from ablab.config.files import places, read_yaml, shown
from ablab.config.recipe import File, has
from ablab.config.resolve import Resolver
from ablab.errors import UserError


@dataclass(frozen=True)
class Base:
    """A combination of group choices as Hydra composed it, before any value is set."""

    tree: DictConfig
    choices: dict[str, str]
    files: list[File]  # later ones win

    @cached_property
    def resolver(self) -> Resolver:
        """Resolves the tree with values set in it."""
        return Resolver(OmegaConf.to_container(self.tree, resolve=False))  # type: ignore[arg-type]

    @cached_property
    def schemas(self) -> dict[str, Any]:
        """What `check` has found that keys hold."""
        return {}

    def origin(self, key: str) -> str:
        for file in reversed(self.files):
            inner = key.removeprefix(f"{file.package}.") if file.package else key
            if (not file.package or inner != key) and has(file.content, inner):
                return shown(file.path)
        return "conf/config.yaml"


class _Files(ConfigRepository):
    """Configuration files, each parsed once. Everybody gets a copy: composing merges into what it is given."""

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self._loaded: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._loaded:
            self._loaded[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._loaded[config_path])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Files:
        return self  # CachingConfigRepository copies it lest its sources be changed; ours never are


@cache
def _loader(search_path: tuple[str, ...]) -> tuple[ConfigLoaderImpl, _Files]:
    Plugins.instance()  # registers the readers of configuration files
    path = ConfigSearchPathImpl()
    for place in search_path:
        path.append("ablab", f"file://{place}")
    path.append("schema", "structured://")  # Hydra insists on it
    return ConfigLoaderImpl(config_search_path=path), _Files(path)


def search_path() -> tuple[str, ...]:
    """The folders that configurations are composed from, the working folder's own `conf/` first."""
    return tuple(map(str, places("conf")))


def groups(path: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """Every group and its choices, in the working folder's `conf/` and ablab's (or under another search path)."""
    return _groups(path or search_path())


@cache
def _groups(search_path: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for place in map(Path, search_path):
        for file in place.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(choices) for group, choices in sorted(found.items())}


def compose_choices(choices: dict[str, str], path: tuple[str, ...]) -> Base:
    """Compose once for each combination of choices; Hydra takes tens of milliseconds for it.

    A recipe may bring a part of its own, whole, under its group; it gives way to one that is chosen for that group.
    Raises UserError for files that cannot be composed, and for a recipe that sets another part's own key.
    """
    return _compose_choices(tuple(sorted(choices.items())), path)


@cache
def _compose_choices(choices: tuple[tuple[str, str], ...], search_path: tuple[str, ...]) -> Base:
    loader, read = _loader(search_path)
    repository = CachingConfigRepository(read)
    try:
        defaults = _defaults(repository, dict(choices))
        # Read first: composing merges the others into the first one, which the repository keeps.
        files = [_read(default, repository) for default in defaults.defaults if default.config_path]
        if brought := recipe.brought(files):
            defaults = _defaults(repository, dict(choices), brought - dict(choices).keys())
            _drop(brought & dict(choices).keys(), defaults, repository)
            files = [_read(default, repository) for default in defaults.defaults if default.config_path]
        recipe.check(files, groups())
        tree = loader._compose_config_from_defaults_list(defaults.defaults, repository)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the configuration cannot be composed: {' '.join(str(error).split())}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        for file in (f for place in search_path for f in Path(place).rglob("*.yaml")):
            read_yaml(file)  # names the one that does not parse
        raise
    chosen = {group: str(choice) for group, choice in defaults.overrides.known_choices.items()}
    OmegaConf.set_struct(tree, True)
    return Base(tree, chosen, files)


def _defaults(
    repository: CachingConfigRepository, choices: dict[str, str], without: Iterable[str] = ()
) -> DefaultsList:
    asked = [*(f"{group}={choice}" for group, choice in choices.items()), *(f"~{group}" for group in without)]
    return create_defaults_list(
        repo=repository,
        config_name="config",
        overrides_list=OverridesParser.create().parse_overrides(asked),
        prepend_hydra=False,
        skip_missing=False,
    )


def _drop(brought: set[str], defaults: DefaultsList, repository: CachingConfigRepository) -> None:
    """Take parts that a recipe brings out of it, for others that were chosen."""
    for default in defaults.defaults:
        loaded = repository.load_config(str(default.config_path))
        if not default.package and loaded is not None and isinstance(loaded.config, DictConfig):
            for group in brought:
                loaded.config.pop(group, None)


def _read(default: ResultDefault, repository: CachingConfigRepository) -> File:
    path = str(default.config_path)
    loaded = repository.load_config(path)
    assert loaded is not None
    content = OmegaConf.to_container(loaded.config, resolve=False)
    if not isinstance(content, dict):
        raise UserError(f"conf/{path}.yaml: expected keys and their values, found {content!r:.100}")
    package = default.package if default.package and default.package != "_global_" else ""
    keys = {str(key): value for key, value in content.items()}
    picks = (one for one in loaded.defaults_list or [] if isinstance(one, GroupDefault) and one.override)
    picked = frozenset(str(one.group).removeprefix("/") for one in picks)
    return File(package, Path(str(loaded.path).removeprefix("file://")) / f"{path}.yaml", keys, picked)
