"""Resolvers: from shared knobs to the concrete numbers that parts take.

${channels:BASE,WIDTH}   ${channels:BASE,WIDTH,PRUNE}   ${channels:BASE,WIDTH,PRUNE,MULTIPLE}
${repeats:COUNT,DEPTH}   ${class_gain:GAIN,CLASSES}   ${last_size:${schedule.phases}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablab.errors import UserError


def ceil8(channels: float, multiple: int = 8) -> int:
    """The smallest multiple of 8, or of another number, that is not below `channels`, and one of it at least.

    >>> ceil8(116), ceil8(128), ceil8(2), ceil8(116, 4)
    (120, 128, 8, 116)
    """
    return max(multiple, int(-(-round(channels, 6) // multiple) * multiple))


def scaled_channels(base: float, width: float, prune: float = 0.0, multiple: int = 8) -> int:
    """`base` channels at a width multiple, then narrowed by the share `prune` in [0, 1); multiples of `multiple`."""
    if not 0 <= prune < 1:
        raise UserError(f"head_prune.ratio: expected a share in [0, 1), found {prune}")
    if width <= 0:
        raise UserError(f"model.width: expected a number above 0, found {width}")
    return ceil8(ceil8(base * width, multiple) * (1 - prune), multiple)


def scaled_repeats(count: int, depth: float) -> int:
    """Repeats of a block at a depth multiple, never below one."""
    if depth <= 0:
        raise UserError(f"model.depth: expected a number above 0, found {depth}")
    return max(round(count * depth), 1)


def scaled_gain(gain: float, classes: int | None) -> float:
    """A classification gain given at COCO's 80 classes, for another number of them (YOLOv5: in proportion).

    Until the data has told the number of classes (null) it is the gain at 80.
    """
    if classes is not None and type(classes) is not int:
        raise UserError(f"model.classes: expected a whole number or null, found {classes!r}")
    return gain if classes is None else gain * classes / 80


def last_size(phases: Any) -> int:
    """The input size that the last of a schedule's phases trains at, px."""
    try:
        size: int = phases[-1]["imgsz"]
    except (TypeError, KeyError, IndexError, OmegaConfBaseException):
        raise UserError(
            f"schedule.phases: expected a list of phases, each with imgsz, epochs and lr, found {phases}"
        ) from None
    return size


RESOLVERS: dict[str, Callable[..., Any]] = {
    "channels": scaled_channels,
    "repeats": scaled_repeats,
    "class_gain": scaled_gain,
    "last_size": last_size,
}
for _name, _resolver in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
