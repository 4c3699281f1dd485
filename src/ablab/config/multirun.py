"""Hydra's own multirun behind `ablab train -m` and `ablab profile -m`: every combination of `a=1,2`."""

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

    codes: list[int] = []

    def task(_: DictConfig) -> None:
        words = list(HydraConfig.get().overrides.task)
        print(f"{verb} {' '.join(words)}", file=sys.stderr)
        try:
            codes.append(job(words))
        except UserError as error:
            print(f"ablab: {' '.join(words)}: {error}", file=sys.stderr)
            codes.append(MISTAKE)

    arguments = [word for word in arguments if word not in FLAGS]
    _check_sweep(arguments)
    own = [place for place in places("conf") if place != shipped("conf")]
    sys.argv = [f"ablab {verb}", "--multirun", "hydra/job_logging=none", "hydra/hydra_logging=none", *arguments]
    if own:
        sys.argv.append(f"hydra.searchpath=[{','.join(f'file://{place}' for place in own)}]")
    where = str(shipped("conf"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what goes wrong, instead of ending the process
    try:
        hydra_main(version_base="1.3", config_path=where, config_name="config")(task)()
    except HydraException as error:
        raise UserError(f"ablab {verb} --multirun {' '.join(arguments)}: {' '.join(str(error).split())}") from None
    return max(codes, default=0)


def _check_sweep(arguments: list[str]) -> None:
    """Compose every value that is named once, so that a mistake in the last one shows before the first job."""
    parser = OverridesParser.create()
    fixed: list[str] = []
    swept: list[list[str]] = []
    for argument in arguments:
        if argument.startswith(("hydra.", "hydra/", "-")):
            continue
        try:
            parsed = parser.parse_override(argument)
        except HydraException:
            parse([argument])  # words it
            raise
        value = parsed.value()
        if isinstance(value, Glob):
            known = groups().get(parsed.key_or_group, [])
            if not value.filter(known):
                raise UserError(f"{argument}: none of {', '.join(known) or 'any group'} is meant by it")
        elif parsed.is_discrete_sweep():
            swept.append([f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()])
        elif not parsed.is_sweep_override():
            fixed.append(argument)
    first = [values[0] for values in swept]
    compose([*fixed, *first])
    for place, values in enumerate(swept):
        for value in values[1:]:
            compose([*fixed, *first[:place], value, *first[place + 1 :]])
