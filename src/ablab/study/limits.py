"""What values the keys that ablab itself reads may have: refused here, in a moment and before anything runs.

A part's own keys are its class's to check, and those of a data set its reader's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from ablab.config import Composed, flatten
from ablab.errors import UserError, nearest
from ablab.stages.declare import EVAL
from ablab.study import anchors, cutting

SIZE = "whole [32, 16384]"  # px
AUGMENTATIONS = ("mosaic", "copy_paste", "affine", "hsv", "flip_lr", "flip_ud", "mixup")
OR_NULL = " or null"
SCALE = "(0, 4] or null"  # of imgsz
# Key without list indices -> numbers allowed, as an interval. Keys that the chosen groups lack do not matter.
LIMITS = {
    "model.stem": "whole [1, inf)",
    "head_prune.ratio": "[0, 1)",
    "schedule.imgsz": SIZE,
    "schedule.large": SIZE,
    "schedule.epochs": "whole [1, inf)",
    "schedule.stage_epochs": "whole [1, inf)",
    "schedule.decay_epochs": "whole [1, inf)",
    "schedule.patience": "whole [1, inf) or null",
    "schedule.scales": SCALE,
    "schedule.phases.imgsz": SIZE,
    "schedule.phases.epochs": "whole [1, inf)",
    "schedule.phases.lr": "(0, inf)",
    "schedule.phases.stage_epochs": "whole [1, inf)",
    "schedule.phases.patience": "whole [1, inf) or null",
    "schedule.phases.scales": SCALE,
    "eval.resolutions": SIZE,
    "eval.conf": "[0, 1)",
    "eval.iou": "[0, 1]",
    "eval.max_nms": "whole [1, inf)",
    "eval.max_det": "whole [1, inf)",
    "eval.every": "whole [0, inf)",
    "eval.batch": "whole [1, inf)",
    "optim.batch": "whole [1, inf)",
    "optim.memory": "(0, inf) or null",
    "optim.lr": "[0, inf)",
    "optim.muon_lr": "[0, inf)",
    "optim.adamw_lr": "[0, inf)",
    "optim.momentum": "[0, 1)",
    "optim.betas": "[0, 1)",
    "optim.weight_decay": "[0, inf)",
    "optim.warmup_epochs": "[0, inf)",
    "optim.warmup_steps": "whole [0, inf)",
    "optim.warmup_bias_lr": "[0, inf)",
    "optim.warmup_momentum": "[0, 1)",
    "optim.final_lr": "[0, 1]",
    "optim.clip": "(0, inf)",
    "optim.bn_momentum": "[0, 1]",
    "optim.ema": "[0, 1)",
    "optim.ema_ramp_steps": "(0, inf)",
    "engine.ranks": "whole [1, 64]",
    **{f"augment.{name}.{key}": "[0, 1]" for name in AUGMENTATIONS for key in ("p", "until")},
    "augment.affine.scale": "[0, 1)",
    "augment.affine.translate": "[0, 1]",
    "augment.affine.degrees": "[0, 180]",
    "augment.affine.shear": "[0, 60]",
    "augment.hsv.h": "[0, 1]",
    "augment.hsv.s": "[0, 1]",
    "augment.hsv.v": "[0, 1]",
    "preprocess.pad": "whole [0, 255]",
    "preprocess.mean": "(-inf, inf)",
    "preprocess.std": "(0, inf)",
}
CHOICES = {
    "optim.decay": ("cosine", "linear"),
    "model.anchors": anchors.CHOICES,
    "eval.precision": ("engine", "fp32"),
    "head_prune.method": cutting.METHODS,
}
LENGTHS = {
    "schedule.scales": 2,
    "schedule.phases.scales": 2,
    "optim.betas": 2,
    "preprocess.mean": 3,
    "preprocess.std": 3,
}
# Keys that every choice of a group has, one's own too.
WHOLE = {
    "engine": ("device", "precision", "threads", "compile", "ranks"),
    "augment": AUGMENTATIONS,
    "eval": tuple(key.removeprefix("eval.") for key in EVAL),
}
NOT_EMPTY = ("eval.resolutions", "schedule.phases")
_GROUPS = {key.partition(".")[0] for key in (*LIMITS, *LENGTHS)}
PHASE = {"imgsz", "epochs", "lr"}  # keys that every phase has
PHASE_MAY = {"stage_epochs", "continues", "scales", "patience"}


def check(composed: Composed) -> None:
    """Raises UserError that names the first key whose value is out of its limits, and where it came from."""
    config = composed.resolved
    for key in NOT_EMPTY:
        group, _, leaf = key.partition(".")
        if not config[group][leaf]:
            _refuse(composed, key, config[group][leaf], "at least one entry")
    for group, keys in WHOLE.items():
        for key in keys:
            if key not in config[group]:
                choice = composed.choices.get(group)
                raise UserError(f"{group}.{key}: the choice {group}={choice} lacks it; expected {', '.join(keys)}")
    before: dict[str, Any] = {}
    for number, phase in enumerate(config["schedule"]["phases"]):
        _check_phase(composed, f"schedule.phases[{number}]", phase, before)
        before = phase
    for key, bare, value in _leaves(config):
        if bare in LENGTHS and isinstance(value, list) and len(value) != LENGTHS[bare]:
            _refuse(composed, key, value, f"{LENGTHS[bare]} numbers")
        if bare in CHOICES and value not in CHOICES[bare]:
            raise UserError(
                f"{key}={value} (from {composed.origin(key)}): no such choice. {nearest(value, CHOICES[bare])}"
            )
        if key.endswith(".scales") and value is not None and not _around_one(value):
            _refuse(composed, key, value, "[low, high] or null, shares of imgsz with low ≤ 1 ≤ high")
        if bare in LIMITS and not isinstance(value, list) and not _allowed(value, LIMITS[bare]):
            _refuse(composed, key, value, _words(LIMITS[bare]))
    _check_micro_batch(composed)
    _check_start(composed)
    if (ranks := config["engine"]["ranks"]) > config["optim"]["batch"]:
        _refuse(
            composed, "engine.ranks", ranks, f"at most optim.batch={config['optim']['batch']}: each takes its share"
        )


def _check_phase(composed: Composed, key: str, phase: Any, before: dict[str, Any]) -> None:
    if not isinstance(phase, dict) or not phase.keys() >= PHASE:
        _refuse(composed, key, phase, f"the keys {', '.join(sorted(PHASE))}")
    for name in phase:
        if name not in PHASE | PHASE_MAY:
            raise UserError(f"{key}: unknown key '{name}'. {nearest(name, PHASE | PHASE_MAY)}")
    continues = phase.get("continues", False)
    if type(continues) is not bool:
        _refuse(composed, f"{key}.continues", continues, "true or false")
    if continues and not before.get("stage_epochs"):
        raise UserError(f"{key}.continues=true: the phase before it has no stage_epochs, so no open end to go on from")
    if phase.get("stage_epochs"):
        for name in ("continues", "patience"):
            if phase.get(name):
                raise UserError(f"{key}: {name} does not go with stage_epochs, whose stages are each a training")


def _check_micro_batch(composed: Composed) -> None:
    optim = composed.resolved["optim"]
    batch, part = optim["batch"], optim.get("micro_batch")
    if part is not None and not (type(part) is int and 1 <= part <= batch and batch % part == 0):
        _refuse(composed, "optim.micro_batch", part, f"a divisor of optim.batch={batch}, or null")


def _check_start(composed: Composed) -> None:
    start = composed.resolved["start"]
    if not isinstance(start["weights"], str | None):
        _refuse(composed, "start.weights", start["weights"], "the path of a file of weights, or null")
    for name in start["freeze"]:
        if not isinstance(name, str):
            _refuse(composed, "start.freeze", name, "names of modules, such as backbone")
    for name, factor in flatten(start["rates"]).items():
        if not _allowed(factor, "(0, inf)"):
            _refuse(composed, f"start.rates.{name}", factor, "a number above 0 (start.freeze keeps a module as it is)")


def _leaves(config: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every value of the groups that have limits with its key, whole and without indices.

    Lists come both whole and entry by entry: (`schedule.phases[0].imgsz`, `schedule.phases.imgsz`, 320).
    """
    for group, content in config.items():
        if group in _GROUPS:
            yield from _within(content, group, group)


def _within(node: Any, key: str, bare: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _within(value, f"{key}.{name}", f"{bare}.{name}")
    else:
        yield key, bare, node
        if isinstance(node, list):
            for number, value in enumerate(node):
                yield from _within(value, f"{key}[{number}]", bare)


def _around_one(scales: Any) -> bool:
    if not isinstance(scales, list) or not all(isinstance(share, int | float) for share in scales):
        return False
    return scales[0] <= 1 <= scales[-1]


def _allowed(value: Any, limit: str) -> bool:
    if value is None:
        return limit.endswith(OR_NULL)
    whole, left, low, high, right = _parsed(limit)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    above = value >= low if left == "[" else value > low
    below = value <= high if right == "]" else value < high
    return math.isfinite(value) and above and below


@cache
def _parsed(limit: str) -> tuple[bool, str, float, float, str]:
    whole, interval = limit.startswith("whole "), limit.removeprefix("whole ").removesuffix(OR_NULL)
    low, high = interval[1:-1].split(", ")
    return whole, interval[0], float(low), float(high), interval[-1]


def _words(limit: str) -> str:
    """
    >>> _words("whole [1, inf)"), _words("(0, inf)"), _words("[0, 1)")
    ('a whole number from 1 on', 'a number above 0', 'a number from 0 to below 1')
    >>> _words("whole [1, inf) or null")
    'a whole number from 1 on, or null'
    """
    if limit.endswith(OR_NULL):
        return f"{_words(limit.removesuffix(OR_NULL))}, or null"
    whole, left, low, high, right = _parsed(limit)
    words = "a whole number" if whole else "a number"
    if low > -math.inf:
        words += f" {'from' if left == '[' else 'above'} {low:.0f}"
    if high < math.inf:
        return f"{words} to {'below ' if right == ')' else ''}{high:.0f}"
    return f"{words} on" if left == "[" else words


def _refuse(composed: Composed, key: str, value: Any, expected: str) -> None:
    origin = composed.origin(key.partition("[")[0])
    raise UserError(f"{key}={value} (from {origin}): expected {expected}")
