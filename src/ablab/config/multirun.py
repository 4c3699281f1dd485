"""Hydra's own multirun behind `ablab train -m`: every combination of `a=1,2`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from ablab.config import compose, parse, places, shipped
from ablab.errors import UserError


def multirun(arguments: list[str], job: Callable[[list[str]], object]) -> None:
    """Run `job(overrides)` for every combination of `a=1,2`, by whichever sweeper and launcher Hydra is told to use.

    Raises UserError for a wrong key or choice, before any job.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.main import main as hydra_main

    def task(_: DictConfig) -> None:
        job(list(HydraConfig.get().overrides.task))

    _check_sweep(arguments)
    own = [place for place in places("conf") if place != shipped("conf")]
    sys.argv = ["ablab train", "--multirun", "hydra/job_logging=none", *arguments]
    if own:
        sys.argv.append(f"hydra.searchpath=[{','.join(f'file://{place}' for place in own)}]")
    where = str(shipped("conf"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what goes wrong, instead of ending the process
    try:
        hydra_main(version_base="1.3", config_path=where, config_name="config")(task)()
    except HydraException as error:
        raise UserError(f"ablab train --multirun {' '.join(arguments)}: {' '.join(str(error).split())}") from None


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
        if parsed.is_discrete_sweep():
            swept.append([f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()])
        elif not parsed.is_sweep_override():
            fixed.append(argument)
    first = [values[0] for values in swept]
    compose([*fixed, *first])
    for place, values in enumerate(swept):
        for value in values[1:]:
            compose([*fixed, *first[:place], value, *first[place + 1 :]])
