"""Generated detection scenes: real handwritten digits (UCI, 1797 of them, in scikit-learn) on cluttered ground.

Labelled as whole digits only; between and beneath them lie pen strokes and fragments of digits, drawn in the same
colours, so that a detector has to tell digits from digit-like things, in every size and contrast, under noise. The
digits of train, val and test are different handwriting samples. A scene depends on its data seed, split and number
alone: raising a count adds scenes and changes none.

Source of the digits: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (CC BY 4.0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablab.data.form import SPLITS, Dataset, Sample
from ablab.data.shared import shared
from ablab.errors import UserError

# Width by height of each digit's samples: their 10th, 50th and 90th percentile.
ASPECTS = (
    (0.57, 0.64, 0.69),
    (0.35, 0.55, 0.68),
    (0.57, 0.67, 0.74),
    (0.54, 0.62, 0.70),
    (0.62, 0.69, 0.75),
    (0.55, 0.62, 0.68),
    (0.59, 0.65, 0.68),
    (0.55, 0.62, 0.69),
    (0.52, 0.59, 0.65),
    (0.55, 0.63, 0.68),
)
SHARES = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}  # of each digit's samples

Glyph = NDArray[np.float32]  # (h, w) opacity in [0, 1], cropped to its ink


def names(config: dict[str, Any]) -> tuple[str, ...]:
    """The classes: the digits that `digits` asks for, in its order."""
    return tuple(map(str, config["digits"]))


def splits(config: dict[str, Any]) -> list[str]:
    return [split for split in SPLITS if config.get(split)]


def describe(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"train": {"images": n, "boxes": n, "digest": sha256}, ...} without drawing anything.

    The digest is of what the scenes of a split follow from: their number and the keys that the splits share.
    UserError for a key out of its range.
    """
    _check(config)
    return {
        split: {
            "images": config[split],
            "boxes": sum(_objects(config, _generator(config, split, i)) for i in range(config[split])),
            "digest": _sha256([_shared_keys(config), split, config[split]]),
        }
        for split in splits(config)
    }


def box_sizes(config: dict[str, Any], imgsz: int) -> NDArray[np.float64]:
    """(n, 2) width and height of digits at an input of `imgsz` px, evenly over what `scale` and `digits` ask for.

    Told from the keys, since to lay scenes out takes the digits and seconds: that some digits were made smaller to find
    room is left out.
    """
    low, high = config["scale"]
    heights = np.geomspace(low, high, 40) * imgsz
    aspects = np.array([ASPECTS[digit] for digit in config["digits"]]).ravel()
    tall, wide = np.meshgrid(heights, aspects)
    return np.stack(((tall * wide).clip(max=imgsz), tall), -1).reshape(-1, 2)


def _shared_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that the scenes of all splits follow from."""
    return {key: value for key, value in config.items() if key not in ("root", *SPLITS)}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(config: dict[str, Any], split: str) -> Dataset:
    """Draw the `config[split]` scenes of a split (keys as in conf/data/scenes.yaml). Image ids count from 1.

    UserError if the digits asked for find no room.
    """
    _check(config)
    glyphs = _glyphs(split, config["digits"], config["data_seed"])
    size, count = config["size"], config[split]

    def plan(number: int) -> _Plan:
        return _plan(config, split, number, glyphs)

    source = ["scenes", _shared_keys(config), split, count]
    drawn = shared(source, (count, size, size, 3), lambda number: _draw(config, glyphs, plan(number)))
    samples = []
    for number, one in enumerate(map(plan, range(count))):  # to plan them takes a sixteenth of the time to draw them
        pixels = _draw(config, glyphs, one) if drawn is None else drawn[number]
        samples.append(_sample(config, split, number, one, pixels))
    return Dataset(names(config), tuple(range(len(glyphs))), tuple(samples), ())


def _check(config: dict[str, Any]) -> None:
    for key, least, most in (("objects", 0, None), ("scale", 0.02, 1), ("contrast", 0, 1)):
        pair = config[key]
        if len(pair) != 2 or not least <= pair[0] <= pair[1] or (most is not None and pair[1] > most):
            raise UserError(f"data.{key}: {pair}, expected [low, high] from {least}" + f" to {most}" * bool(most))
    for key in ("overlap", "clutter", "noise", "data_seed", *SPLITS):
        if config[key] < 0:
            raise UserError(f"data.{key}: {config[key]}, expected at least 0")
    digits = config["digits"]
    if not digits or len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
        raise UserError(f"data.digits: {digits}, expected distinct digits from 0 to 9")
    if config["size"] < 16:
        raise UserError(f"data.size: {config['size']}, expected at least 16 px")


def _generator(config: dict[str, Any], split: str, number: int) -> np.random.Generator:
    return np.random.default_rng([config["data_seed"], SPLITS.index(split), number])


def _objects(config: dict[str, Any], rng: np.random.Generator) -> int:
    """How many digits a scene has: its generator's first draw, so that `counts` needs no more."""
    return int(rng.integers(config["objects"][0], config["objects"][1] + 1))


@cache
def _masters() -> tuple[tuple[Glyph, ...], NDArray[np.int64]]:
    """Every digit as a smooth glyph some 64 px high, and its class."""
    import cv2
    from sklearn.datasets import load_digits  # here: it takes a second to import

    images, labels = load_digits(return_X_y=True)
    glyphs = []
    for image in images.reshape(-1, 8, 8):
        ink = np.pad(image.astype(np.float32) / 16, 1)
        large = cv2.resize(ink, (80, 80), interpolation=cv2.INTER_CUBIC)
        opacity = ((large - 0.3) / 0.3).clip(0, 1)  # ink has a sharp edge, the 8x8 average of it has not
        rows, columns = (np.flatnonzero((opacity > 0.5).any(axis)) for axis in (1, 0))
        glyphs.append(opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return tuple(glyphs), labels.astype(np.int64)


def _glyphs(split: str, digits: list[int], seed: int) -> list[list[Glyph]]:
    """The glyphs of each class that belong to a split."""
    glyphs, labels = _masters()
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(labels))
    low, high = SHARES[split]
    chosen = []
    for digit in digits:
        mine = order[labels[order] == digit]
        chosen.append([glyphs[i] for i in mine[round(low * len(mine)) : round(high * len(mine))]])
    return chosen


class _Plan(NamedTuple):
    """A scene before it is drawn: the digits' classes, glyphs and places, and the generator as they leave it."""

    digits: NDArray[np.int64]
    picked: list[Glyph]
    boxes: list[tuple[int, int, int, int]]  # x, y, width, height, px
    rng: np.random.Generator


def _plan(config: dict[str, Any], split: str, number: int, glyphs: list[list[Glyph]]) -> _Plan:
    rng = _generator(config, split, number)
    digits = rng.integers(0, len(glyphs), _objects(config, rng))
    picked = [glyphs[digit][rng.integers(len(glyphs[digit]))] for digit in digits]
    return _Plan(digits.astype(np.int64), picked, _layout(config, picked, rng), rng)


def _draw(config: dict[str, Any], glyphs: list[list[Glyph]], plan: _Plan) -> NDArray[np.uint8]:
    """(size, size, 3) RGB."""
    rng = plan.rng
    canvas = _ground(config["size"], rng)
    for _ in range(int(rng.integers(0, config["clutter"] + 1))):
        if rng.random() < 0.5:
            _stroke(canvas, config, rng)
        else:
            _fragment(canvas, config, glyphs, rng)
    for glyph, (x, y, w, h) in zip(plan.picked, plan.boxes, strict=True):
        _ink(canvas, _resized(glyph, w, h), x, y, config, rng)
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0, config["noise"]))
    return np.asarray(canvas.round().clip(0, 255).astype(np.uint8))


def _sample(config: dict[str, Any], split: str, number: int, plan: _Plan, pixels: NDArray[np.uint8]) -> Sample:
    size = config["size"]
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in plan.boxes], np.float32).reshape(-1, 4)
    return Sample(
        id=number + 1,
        name=f"{split}_{number:05d}",
        width=size,
        height=size,
        boxes=corners,
        classes=plan.digits,
        crowd=np.zeros(len(corners), np.bool_),
        area=(corners[:, 2:] - corners[:, :2]).prod(1).astype(np.float64),
        pixels=pixels,
    )


def _layout(config: dict[str, Any], glyphs: list[Glyph], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """x, y, width, height of each glyph, px: none reaches out, none hides more of another than `overlap` allows."""
    size, (low, high) = config["size"], config["scale"]
    for _ in range(50):
        placed: list[tuple[int, int, int, int]] = []
        for glyph in glyphs:
            height = np.exp(rng.uniform(np.log(low), np.log(high))) * size  # as many small ones as large
            for box in _tries(glyph, height, low * size, size, rng):
                if all(_share(box, other) <= config["overlap"] for other in placed):
                    placed.append(box)
                    break
        if len(placed) == len(glyphs):
            return placed
    raise UserError(
        f"data.objects: no room for {len(glyphs)} digits of {low:g} to {high:g} of the side at an overlap of "
        f"{config['overlap']:g}; lower data.objects or data.scale"
    )


def _tries(
    glyph: Glyph, height: float, least: float, size: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int]]:
    """Places to try, smaller and smaller."""
    while True:
        h = max(round(height), 2)
        w = min(max(round(h * glyph.shape[1] / glyph.shape[0]), 2), size)
        for x, y in rng.integers(0, (size - w + 1, size - h + 1), (20, 2)).tolist():
            yield x, y, w, h
        if height <= least:
            return
        height = max(height * 0.7, least)


def _share(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Share of the smaller box that the two have in common."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def _ground(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Uneven paper: (size, size, 3) of a random colour with soft spots, grey levels in float."""
    import cv2

    spots = rng.normal(0, rng.uniform(4, 28), (5, 5, 1)) + rng.normal(0, 8, (5, 5, 3))
    soft = cv2.resize(spots.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    colour = rng.uniform(50, 205) + rng.normal(0, 20, 3)
    return np.asarray(soft + colour.astype(np.float32), np.float32)


def _ink(
    canvas: NDArray[np.float32], opacity: Glyph, x: int, y: int, config: dict[str, Any], rng: np.random.Generator
) -> None:
    """Lay a glyph on the canvas, lighter or darker than what is there by a drawn contrast."""
    h, w = opacity.shape
    under = canvas[y : y + h, x : x + w]
    under += opacity[:, :, None] * (_colour(under.mean((0, 1)), config, rng) - under)


def _colour(ground: NDArray[Any], config: dict[str, Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour lighter or darker than the ground by a drawn `contrast`, whichever there is room for."""
    level = ground.mean()
    difference = rng.uniform(*config["contrast"]) * 255
    lighter = rng.random() < 0.5
    if not 0 <= level + (difference if lighter else -difference) <= 255:
        lighter = level < 127.5
    tint = rng.normal(0, 12, 3)
    return np.asarray(ground + (difference if lighter else -difference) + tint, np.float32)


def _resized(glyph: Glyph, w: int, h: int) -> Glyph:
    import cv2

    return np.asarray(cv2.resize(glyph, (w, h), interpolation=cv2.INTER_AREA), np.float32)


def _stroke(canvas: NDArray[np.float32], config: dict[str, Any], rng: np.random.Generator) -> None:
    """A curved pen stroke, as long and as thick as those of digits."""
    import cv2

    size = canvas.shape[0]
    length = rng.uniform(*config["scale"]) * size * 1.2
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 8))
    steps = np.stack((np.cos(angles), np.sin(angles)), 1) * length / 8
    points = rng.uniform(0, size, 2) + np.cumsum(steps, 0)
    line = np.zeros(canvas.shape[:2], np.uint8)
    thickness = max(round(length * rng.uniform(0.05, 0.15)), 1)
    fixed = (points * 16).round().astype(np.int32).reshape(-1, 1, 2)  # 4 bits below the pixel
    cv2.polylines(line, [fixed], False, 255, thickness, cv2.LINE_AA, 4)
    x, y, w, h = cv2.boundingRect(line)
    if w and h:  # else it ran out of the scene
        _ink(canvas, (line[y : y + h, x : x + w] / 255).astype(np.float32), x, y, config, rng)


def _fragment(
    canvas: NDArray[np.float32], config: dict[str, Any], glyphs: list[list[Glyph]], rng: np.random.Generator
) -> None:
    """A corner of a digit: under half of it in both directions, so that none can be taken for a whole one."""
    size = canvas.shape[0]
    mine = glyphs[rng.integers(len(glyphs))]
    glyph = mine[rng.integers(len(mine))]
    h = max(round(rng.uniform(*config["scale"]) * size), 4)
    whole = _resized(glyph, min(max(round(h * glyph.shape[1] / glyph.shape[0]), 4), size), h)
    ph, pw = (max(round(side * rng.uniform(0.35, 0.5)), 2) for side in whole.shape)
    top, left = (int(rng.choice((0, side - part))) for side, part in zip(whole.shape, (ph, pw), strict=True))
    part = whole[top : top + ph, left : left + pw]
    x, y = rng.integers(0, (size - pw + 1, size - ph + 1)).tolist()
    _ink(canvas, part, x, y, config, rng)
