"""`ablab train -m` and `ablab profile -m`: every combination of `a=1,2`, in Hydra's grammar."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException

from ablab.config import compose, groups, parse
from ablab.errors import UserError

FLAGS = ("-m", "--multirun")
MISTAKE = 2


def multirun(verb: str, arguments: list[str], job: Callable[[list[str]], int]) -> int:
    """Run `job(overrides)` for every combination of values, the last key's changing fastest.

    Returns the highest of the jobs' exit codes. A mistake that a job meets is told, counts 2, and the others go on.
    Raises UserError for a wrong key or choice, before any job.
    """
    values = [_values(word) for word in arguments if word not in FLAGS]
    _check(values)
    jobs = [list(words) for words in product(*values)]
    worst, refused = 0, 0
    for words in jobs:
        print(f"{verb} {' '.join(words)}", file=sys.stderr)
        try:
            worst = max(worst, job(words))
        except UserError as error:
            print(f"ablab: {' '.join(words)}: {error}", file=sys.stderr)
            worst, refused = MISTAKE, refused + 1
    if refused:
        print(f"{refused} of {len(jobs)} were refused", file=sys.stderr)
    return worst


def _values(argument: str) -> list[str]:
    """An override for each value that is named: `1,2`, `range(3)`, choices by `glob(*)`."""
    if argument.startswith(("hydra.", "hydra/")):
        raise UserError(f"{argument}: ablab runs the combinations itself, by its own engine (engine=ray)")
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        parse([argument])  # words it
        raise
    key, value = parsed.key_or_group, parsed.value()
    if isinstance(value, Glob):
        known = groups().get(key, [])
        if not value.filter(known):
            raise UserError(f"{argument}: none of {', '.join(known) or 'any group'} is meant by it")
        return [f"{key}={choice}" for choice in value.filter(known)]
    if parsed.is_discrete_sweep():
        return [f"{key}={one}" for one in parsed.sweep_string_iterator()]
    if parsed.is_sweep_override():
        raise UserError(f"{argument}: values can be named (1,2), counted (range(3)) or chosen (glob(*)), not drawn")
    return [argument]


def _check(values: list[list[str]]) -> None:
    """Compose every value that is named once, so that a mistake in the last one shows before the first job."""
    first = [ones[0] for ones in values]
    compose(first)
    for place, ones in enumerate(values):
        for one in ones[1:]:
            compose([*first[:place], one, *first[place + 1 :]])
