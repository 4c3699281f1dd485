"""Where configurations, studies and experiments are found: the working folder's own come before ablab's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from ablab.errors import UserError, nearest

PACKAGE = Path(__file__).parents[1]


@cache
def shipped(folder: str) -> Path:
    """The `conf`, `sweeps` or `experiments` that came with ablab: in the wheel, else in the source tree."""
    inside = PACKAGE / folder
    return (inside if inside.is_dir() else PACKAGE.parents[1] / folder).resolve()


def places(folder: str) -> list[Path]:
    """Where files of a kind are looked for, first wins: the working folder's own, then ablab's."""
    own = (Path.cwd() / folder).resolve()
    return [place for place in dict.fromkeys([own, shipped(folder)]) if place.is_dir()]


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
        raise UserError(f"{shown(file)}: not a text file, byte {error.start} is no UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{shown(file)}: not valid YAML{place}: {problem}") from None


def yaml_names(folder: str) -> list[str]:
    """Names of the YAML files of a kind, the working folder's and ablab's."""
    return sorted({file.stem for place in places(folder) for file in place.glob("*.yaml")})


def shown(file: Path) -> str:
    """A file as a user would name it: from the working folder, else from ablab's own root."""
    for root in (Path.cwd(), shipped("conf").parent):
        if file.is_relative_to(root):
            return str(file.relative_to(root))
    return str(file)
