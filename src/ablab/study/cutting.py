"""Head pruning by cutting (`head_prune.method=cut`), as a plan sees it: the network before the cut, and where it comes.

The leading phases of a schedule train the network as it is without `head_prune.ratio`; before the last phase its head
is cut, and the last phase trains what is left. So all ratios share one trained parent, and `method=width`, which trains
the narrow network in all phases, is their epoch-matched control.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from ablab.config import Override, compose
from ablab.errors import UserError

METHODS = ("width", "cut")
CUT = "head_prune.method=cut"


def uncut(config: dict[str, Any], overrides: Iterable[Override]) -> dict[str, dict[str, Any]]:
    """The parts behind the backbone as they are before the cut, where they differ; none where nothing is cut.

    config: settled, made of the `overrides`; both networks have its anchors.
    """
    if config["head_prune"]["method"] != "cut" or not config["head_prune"]["ratio"]:
        return {}
    whole = compose([*overrides, Override("head_prune.ratio", 0.0, CUT)]).resolved
    if "anchors" in config["head"]:
        whole["head"]["anchors"] = config["head"]["anchors"]
    return {group: whole[group] for group in ("neck", "head") if whole[group] != config[group]}


def epochs_before(config: dict[str, Any]) -> int:
    """How many epochs come before the cut. Raises UserError for a schedule without a phase on either side of it."""
    phases = config["schedule"]["phases"]
    if len(phases) < 2 or phases[-1].get("continues"):
        found = "1 phase" if len(phases) < 2 else "a last phase that continues the one before"
        raise UserError(
            f"{CUT}: the head is cut before the last phase of the schedule, which has {found}; expected two phases, "
            "each with a start of its own, such as schedule.phases=[{imgsz: 320, epochs: 30, lr: 1.0}, "
            "{imgsz: 320, epochs: 10, lr: 0.5}]"
        )
    if importlib.util.find_spec("torch_pruning") is None:
        raise UserError(f"{CUT} needs the library torch-pruning: pip install 'ablab[prune]'")
    return sum(phase["epochs"] for phase in phases[:-1])
