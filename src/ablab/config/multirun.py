"""Hydra's own multirun behind `ablab train -m` and `ablab profile -m`: every combination of `a=1,2`.

Hydra is given the sweeps alone, each as a value of no group, and says which values come together: what they do to a
configuration is for `compose` to say, in a multirun as in a single run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import DictConfig

from ablab.config import compose, groups, parse, places, shipped
from ablab.errors import UserError

FLAGS = ("-m", "--multirun")
MISTAKE = 2


def multirun(verb: str, arguments: list[str], job: Callable[[list[str]], int]) -> int:
    """Run `job(overrides)` for every combination of `a=1,2`, by whichever sweeper and launcher Hydra is told to use.

    Returns the highest of the jobs' exit codes. A mistake that a job meets is told, counts 2, and the others go on.
    Raises UserError for a wrong key or choice, before any job.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.main import main as hydra_main

    hydras = [word for word in arguments if word.startswith(("hydra.", "hydra/", "+hydra"))]
    asked = [word for word in arguments if word not in (*hydras, *FLAGS)]
    swept = {word: values for word in asked if (values := _swept(word))}
    _check(asked, swept)
    names = {word: f"of__{word.partition('=')[0].replace('.', '__')}" for word in swept}  # no group's name
    codes: list[int] = []

    def task(_: DictConfig) -> None:
        chosen = dict(word.lstrip("+").split("=", 1) for word in HydraConfig.get().overrides.task)
        words = [f"{word.partition('=')[0]}={chosen[names[word]]}" if word in swept else word for word in asked]
        print(f"{verb} {' '.join(words)}", file=sys.stderr)
        try:
            codes.append(job(words))
        except UserError as error:
            print(f"ablab: {' '.join(words)}: {error}", file=sys.stderr)
            codes.append(MISTAKE)

    sys.argv = [f"ablab {verb}", "--multirun", "hydra/job_logging=none", "hydra/hydra_logging=none", *hydras]
    sys.argv += [f"++{names[word]}={values}" for word, values in swept.items()]
    own = [_quoted(f"file://{place}") for place in places("conf") if place != shipped("conf")]
    sys.argv += [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what goes wrong, instead of ending the process
    try:
        hydra_main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")(task)()
    except HydraException as error:
        raise UserError(f"ablab {verb} --multirun {' '.join(arguments)}: {' '.join(str(error).split())}") from None
    return max(codes, default=0)


def _swept(argument: str) -> str:
    """The values of a sweep, as Hydra's grammar has them: `1,2`, `range(3)`, what `glob(*)` means; else nothing."""
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
        return ",".join(value.filter(known))
    return argument.partition("=")[2] if parsed.is_sweep_override() else ""


def _check(asked: list[str], swept: dict[str, str]) -> None:
    """Compose every value that is named once, so that a mistake in the last one shows before the first job."""
    parser = OverridesParser.create()
    values: dict[str, list[str]] = {}
    for word, named in swept.items():
        key = word.partition("=")[0]
        parsed = parser.parse_override(f"{key}={named}")
        if parsed.is_discrete_sweep():
            values[word] = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
        else:  # one value, or a range that a sweeper draws from
            values[word] = [] if parsed.is_sweep_override() else [f"{key}={named}"]
    first = {word: [word] if word not in swept else values[word][:1] for word in asked}
    compose([one for ones in first.values() for one in ones])
    for word, ones in values.items():
        for one in ones[1:]:
            compose([chosen for other in asked for chosen in ([one] if other == word else first[other])])


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
