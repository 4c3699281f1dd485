"""Compose a configuration from overrides.

Notable here:

- A folder's own `conf/` comes before the one ablab ships, and a key that is not in the YAML is refused.
- The YAML of a group is its schema: an override keeps the type that is written there.
- Composing costs Hydra tens of milliseconds, so it happens once for each combination of group choices; resolving
  costs OmegaConf as much, so `resolve` does it, and OmegaConf only what is beyond that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import ablab.config.resolvers  # noqa: F401  (registers them)
from ablab.config.base import Base, compose_choices, groups, search_path
from ablab.config.check import check_knobs_are_read, check_schedule_is_read, checked
from ablab.config.overrides import Override, flatten, parse
from ablab.config.recipe import READ_BY_ABLAB, is_shared
from ablab.config.resolve import Leaf, Unsure, references
from ablab.errors import UserError, nearest


@dataclass(frozen=True)
class Composed:
    """One complete configuration.

    resolved: plain nested dictionary, without interpolations.
    choices: group -> chosen file.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    _base: Base
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
        known = groups()
        knobs = {key for key in flatten({str(k): v for k, v in content.items()}) if is_shared(key, known)}
        return sorted(knobs - set(references(content)) - {"model.name", *READ_BY_ABLAB})


def compose(overrides: Iterable[str | Override] = ()) -> Composed:
    """The configuration that `overrides` ask for; later ones win.

    Raises UserError for an unknown key or choice, a wrong type, or a shared knob that no chosen part reads.
    """
    asked = [parse([item])[0] if isinstance(item, str) else item for item in overrides]
    path = search_path()
    available = groups(path)
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
    check_schedule_is_read(values)
    base = compose_choices(choices, path)
    leaves = _joined((override.key, leaf) for override in values for leaf in checked(base, override))
    try:
        groups_set = base.resolver.set(leaves)
        check_knobs_are_read((key for group in groups_set.values() for key in group.reads), values, available)
        resolved = base.resolver.resolve(groups_set)
    except Unsure:
        tree = _set(base, leaves)
        check_knobs_are_read(references(OmegaConf.to_container(tree, resolve=False)), values, available)
        resolved = _resolve(tree)
    return Composed(_copy(resolved), base.choices, base, tuple(values))


def _joined(leaves: Iterable[tuple[str, Leaf]]) -> list[Leaf]:
    """Leaves in order, each with the key that set it: keys set within an open group join what it holds, a group that is
    set as a whole replaces it."""
    found: list[Leaf] = []
    for asked, (key, value) in leaves:
        if isinstance(value, dict):
            before = [old for name, old in found if name == key]
            found = [leaf for leaf in found if leaf[0] != key]
            value = (before[0] if before and asked.startswith(f"{key}.") else {}) | value
        found.append((key, value))
    return found


def _copy(node: Any) -> Any:
    """The groups of `Resolver` are shared by all that compose the same: whoever changes his own changes no other's."""
    if isinstance(node, dict):
        return {key: _copy(value) for key, value in node.items()}
    return [_copy(value) for value in node] if isinstance(node, list) else node


def _set(base: Base, leaves: list[Leaf]) -> DictConfig:
    tree = copy.deepcopy(base.tree)
    for key, value in leaves:
        try:
            OmegaConf.update(tree, key, value, merge=False)
        except OmegaConfBaseException as error:  # an interpolation that does not parse
            raise UserError(f"{key}={value}: {str(error).splitlines()[0]}") from None
    return tree


def _resolve(tree: DictConfig) -> dict[str, Any]:
    """All of the tree resolved by OmegaConf: what `Resolver` must equal."""
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
