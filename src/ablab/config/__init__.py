"""Configurations: composed, checked and explained. The one place that knows Hydra.

files.py      where YAML files are found          overrides.py  `key=value`, and who asked for it
base.py       group choices, by Hydra             recipe.py     what a recipe may say
resolvers.py  numbers computed in YAML            check.py      keys, types, knobs
compose.py    all of it: `compose`                multirun.py   combinations, by Hydra's grammar
"""

from ablab.config.base import groups
from ablab.config.compose import Composed, compose
from ablab.config.files import PACKAGE, find_yaml, places, read_yaml, shipped, yaml_names
from ablab.config.overrides import THE_DATA, Override, flatten, parse

__all__ = [
    "PACKAGE",
    "THE_DATA",
    "Composed",
    "Override",
    "compose",
    "find_yaml",
    "flatten",
    "groups",
    "parse",
    "places",
    "read_yaml",
    "shipped",
    "yaml_names",
]
