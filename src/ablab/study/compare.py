"""What tells a stage from a result in the store: configuration, code, data, libraries, parents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablab.config import flatten
from ablab.stages.declare import LOCATIONS
from ablab.study.plan import Stage

LONGEST = 40  # characters of a value that is told


@dataclass(frozen=True)
class Differences:
    """config: key -> (before, now), as text. code: module -> `changed`, `appeared` or `gone`; "" for a result that
    does not say of which modules it is. data: what to say of the data, if it differs. versions: library -> (before,
    now). parents: roles whose parent is another than the result's."""

    config: dict[str, tuple[str, str]]
    code: dict[str, str]
    data: str | None
    versions: dict[str, tuple[str, str]]
    parents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.config) + len(self.code) + len(self.versions) + len(self.parents) + bool(self.data)


def differences(stage: Stage, record: Mapping[str, Any]) -> Differences:
    """A planned stage against the record of a published one of its kind."""
    (before, before_data), (now, now_data) = _told(record["config"]), _told(stage.config)
    data = None
    if stage.data != record["data"]:
        keys = ", ".join(f"{key} {old} → {new}" for key, (old, new) in _changed(before_data, now_data).items())
        data = f"content of {', '.join(stage.splits) or 'the data'} changed" + (f" ({keys})" if keys else "")
    return Differences(
        config=_parts_as_one(_changed(before, now), before, now),
        code=_code(stage, record),
        data=data,
        versions=_changed(record["versions"], stage.versions),
        parents=tuple(
            role
            for role in sorted({*stage.inputs, *record["inputs"]})
            if stage.inputs.get(role) != record["inputs"].get(role)
        ),
    )


def is_stage(parent: str) -> bool:
    """Whether a parent is a stage; else it is a path, a file of the user's own."""
    return os.sep not in parent


def _told(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys that count by themselves, and those of the data, which counts by its content."""
    flat = {key: value for key, value in flatten(dict(config)).items() if key not in LOCATIONS}
    data = {key: flat.pop(key) for key in list(flat) if key.startswith("data.")}
    return flat, data


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    keys = [*now, *(key for key in before if key not in now)]
    return {
        key: (_text(before, key), _text(now, key))
        for key in keys
        if (key in before) != (key in now) or before.get(key) != now.get(key)
    }


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    value = values[key]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _parts_as_one(
    changed: dict[str, tuple[str, str]], before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Where another class took a part's place its keys are other ones too: the classes alone are told."""
    told: dict[str, tuple[str, str]] = {}
    replaced = {key.removesuffix("._target_") for key in changed if key.endswith("._target_")}
    for key, values in changed.items():
        group = next((group for group in replaced if key.startswith(f"{group}.")), None)
        if group is None:
            told[key] = values
        else:
            names = [str(side.get(f"{group}._target_", "nothing")) for side in (before, now)]
            short = [name.rpartition(".")[2] for name in names]
            told[group] = (short[0], short[1]) if short[0] != short[1] else (names[0], names[1])
    return told


def _code(stage: Stage, record: Mapping[str, Any]) -> dict[str, str]:
    if stage.code == record["code"]:
        return {}
    before = record.get("modules")
    if not before:
        return {"": "changed"}
    found = {
        module: "appeared" if module not in before else "changed"
        for module, digest in stage.modules.items()
        if before.get(module) != digest
    }
    return found | {module: "gone" for module in before if module not in stage.modules}
