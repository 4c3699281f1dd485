"""What a recipe may say: it picks parts of groups or brings whole ones, and sets the knobs that parts share."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablab.config.files import shown
from ablab.config.overrides import flatten
from ablab.errors import UserError, nearest

READ_BY_ABLAB = ("model.anchors", "head_prune.method")  # shared knobs that no part need read
NO_KNOBS = ("start",)  # root keys, beside the groups, that are not the parts' to read


class File(NamedTuple):
    """A YAML file of a composition. package: where its keys go, "" is the root. picks: groups that it overrides."""

    package: str
    path: Path
    content: dict[str, Any]
    picks: frozenset[str]


def brought(files: Sequence[File]) -> set[str]:
    """Groups for which a recipe brings a part of its own: one that says its `_target_`."""
    recipes = [file.content for file in files if not file.package]
    return {group for content in recipes for group, part in content.items() if has(part, "_target_")}


def check(files: Sequence[File], known: Container[str]) -> None:
    """Raises UserError for a recipe that sets what is no shared knob, unless within a part that it brings (the key of
    another part would leak into whatever replaces that), that both picks and brings a part, or whose keys go astray.

    known: the groups.
    """
    root = next((file.content for file in files if not file.package and file.path.name == "config.yaml"), {})
    knobs = [key for key in flatten(root) if is_shared(key, known)]
    for file in files:
        where = shown(file.path)
        if file.package and file.path.parent.name == "model":
            raise UserError(f"{where}: a recipe begins with the line '# @package _global_', which is missing")
        if file.package or file.content is root:
            continue
        own = brought([file])
        for group in own & file.picks:
            raise UserError(f"{where}: both picks a {group} (override /{group}) and brings one")
        for key in flatten(file.content):
            if key not in knobs and key.partition(".")[0] not in own:
                may = "a recipe chooses parts, or brings whole ones with their _target_, and sets shared knobs"
                raise UserError(f"{where}: {may}; '{key}' is none of them. {nearest(key, knobs)}")


def is_shared(key: str, known: Container[str]) -> bool:
    """Whether a key is a knob that parts share: below a root key that is none of the `known` groups, or of `model`."""
    top, _, rest = key.partition(".")
    if top in NO_KNOBS:
        return False
    return bool(rest) and (top == "model" or top not in known)


def has(content: Any, key: str) -> bool:
    """Whether nested dictionaries hold a dotted key."""
    for part in re.split(r"\.|\[", key):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
