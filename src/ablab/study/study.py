"""A study file: read, checked, and expanded to variants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.config import Override, find_yaml, flatten, read_yaml, yaml_names
from ablab.errors import UserError, nearest
from ablab.stages.declare import LOCATIONS
from ablab.study import command
from ablab.study.command import Command
from ablab.study.design import DESIGNS, Point, name

PLACES = ("store", "reports", "tracking")  # keys that say where something goes

Factors = dict[str, dict[str, tuple[Override, ...]]]  # factor -> level -> its overrides


@dataclass(frozen=True)
class Variant:
    """One point of the design and the overrides that make it."""

    index: int
    name: str
    levels: Point
    overrides: tuple[Override, ...]


@dataclass(frozen=True)
class Study:
    """What a study file asks.

    base: overrides that every variant shares. factors: factor -> level -> its overrides. command: the program that
    it runs in place of a detector. measure: the numbers that such a program is compared by -> "higher" or "lower",
    whichever is better.
    """

    name: str
    question: str
    base: tuple[Override, ...]
    factors: Factors
    design: str
    seeds: tuple[int, ...]
    exclude: tuple[Point, ...] = ()
    variants: tuple[Point, ...] = ()
    identical: bool = False  # whether arms that do the same work are meant (A/A)
    command: Command | None = None
    measure: dict[str, str] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    def expand(self) -> list[Variant]:
        """The variants in the design's order, without the excluded; the first one is the baseline.

        Raises UserError if the baseline itself is excluded.
        """
        levels = {factor: list(choices) for factor, choices in self.factors.items()}
        points = DESIGNS[self.design](levels, list(self.variants))
        kept = [point for point in points if not any(out.items() <= point.items() for out in self.exclude)]
        if not kept or kept[0] != points[0]:
            raise UserError(f"{self.source}: `exclude` takes out the baseline {points[0]}")
        found = []
        for index, point in enumerate(kept):
            previous = kept[index - 1] if index else None
            overrides = [o for factor, level in point.items() for o in self.factors[factor][level]]
            title = name(point, kept[0], self.design, previous) if len(kept) > 1 else _all_levels(point)
            found.append(Variant(index, title, point, (*self.base, *overrides)))
        return found


def _all_levels(point: Point) -> str:
    return " ".join(f"{factor}={level}" for factor, level in point.items()) or "defaults"


SEEDS_HINT = "a study's seeds are its `seeds`, as in seeds=[0,1,2]"
KEYS = {
    "question": str,
    "command": dict,
    "base": dict,
    "factors": dict,
    "design": str,
    "seeds": list,
    "exclude": list,
    "variants": list,
    "measure": dict,
    "identical": str,
}
ALLOWED = "allowed"  # the only value of `identical`


def load(study: str, overrides: Iterable[Override] = ()) -> Study:
    """The study `sweeps/<study>.yaml`, with the command line's overrides on top of its base.

    `seeds=[...]` on the command line replaces the study's. Raises UserError that names file and key.
    """
    study = Path(study).stem if study.endswith(".yaml") else study
    path = find_yaml("sweeps", study, "study")
    source = f"sweeps/{path.name}"
    content = _read(path, source)
    asked = list(overrides)
    seeds_source = "the command line" if any(o.key == "seeds" for o in asked) else source
    for override in [o for o in asked if o.key in ("seeds", "design")]:
        _check_type(override.key, override.value, "the command line")
        content[override.key] = override.value
        asked.remove(override)
    for override in asked:
        if override.key == "seed":
            raise UserError(f"seed={override.value} would change nothing: {SEEDS_HINT}")
    factors = _factors(content.get("factors", {}), source)
    base = [Override(key, value, source) for key, value in _keys(content.get("base", {}), f"{source}: base").items()]
    seeds = _seeds(content.get("seeds", [0]), f"{seeds_source}: seeds")
    program, measure = None, content.get("measure", {})
    if "command" in content:
        program = command.read(content["command"], len(seeds), source)
        measure = command.measured(measure, factors, source)
    else:
        base += [Override(f"eval.{key}", value, source) for key, value in measure.items()]
    _refuse_shadowed(asked, factors, source)
    design = content.get("design", "grid")
    if design not in DESIGNS:
        raise UserError(f"{source}: design '{design}' is none. {nearest(design, DESIGNS)}")
    variants = tuple(_point(point, factors, f"{source}: variants") for point in content.get("variants", []))
    if design == "list" and not variants:
        raise UserError(f"{source}: design 'list' takes its points from `variants`, which is missing or empty")
    if variants and design != "list":
        raise UserError(f"{source}: `variants` goes with `design: list`, but design is '{design}'")
    if design != "ladder":
        _refuse_rivals(factors, source)
    return Study(
        name=study,
        question=content.get("question", ""),
        base=(*base, *asked),
        factors=factors,
        design=design,
        seeds=seeds,
        exclude=tuple(_point(point, factors, f"{source}: exclude") for point in content.get("exclude", [])),
        variants=variants,
        identical=_identical(content, source),
        command=program,
        measure=measure if program else {},
        source=source,
    )


def single(name: str, overrides: Iterable[Override], seed: int) -> Study:
    """A study of one variant, whose levels are what was asked for (where things lie aside): what `ablab train` runs."""
    asked = [override for override in overrides if override.key != "seed"]
    located = [key for key in LOCATIONS if key != "start.weights"]  # which tells two trainings apart
    places = tuple(o for o in asked if o.key.partition(".")[0] in PLACES or o.key in located)
    factors: Factors = {o.key: {str(o.value): (o,)} for o in asked if o not in places}
    if not any(o.key == "engine.threads" for o in asked):  # nothing else runs beside it
        ranks = next((o.value for o in reversed(asked) if o.key == "engine.ranks"), 1)
        each = machine.cores() // max(ranks, 1) if isinstance(ranks, int) else 1
        places += (Override("engine.threads", max(each, 1), "this machine"),)
    return Study(name, "", places, factors, "grid", _seeds([seed], "seed"), source=f"ablab {name}")


def published(rows: Iterable[dict[str, Any]], overrides: Iterable[Override]) -> Study:
    """The rows of `experiments/` whose recipe is there, each at its own input size, as a study of costs."""
    recipes = yaml_names("conf/model")
    levels: dict[str, tuple[Override, ...]] = {
        row["id"]: (
            Override("model", row["recipe"], f"experiments, row {row['id']}"),
            Override("eval.resolutions", [row["imgsz"]], f"experiments, row {row['id']}"),
        )
        for row in rows
        if row["recipe"] in recipes
    }
    question = "What do the published detectors cost, measured under one convention?"
    return Study(
        "experiments",
        question,
        tuple(overrides),
        {"experiment": levels},
        "grid",
        (0,),
        identical=True,  # two rows may have been published of one detector at one size
        source="experiments",
    )


def _read(path: Path, source: str) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected keys such as {', '.join(KEYS)}; found {type(content).__name__}")
    for key, value in content.items():
        if key not in KEYS:
            raise UserError(f"{source}: unknown key '{key}'. {nearest(key, KEYS)}")
        _check_type(key, value, source)
    return content


def _check_type(key: str, value: Any, source: str) -> None:
    if not isinstance(value, KEYS[key]):
        shown = {"str": "text", "dict": "a group of keys", "list": "a list"}[KEYS[key].__name__]
        raise UserError(f"{source}: {key}: expected {shown}, found {value!r}")


def _factors(content: dict[Any, Any], source: str) -> Factors:
    factors: Factors = {}
    for factor, levels in content.items():
        where = f"{source}: factors.{factor}"
        if not isinstance(levels, dict) or not levels:
            raise UserError(f"{where}: expected levels, each with its overrides, found {levels!r}")
        factors[str(factor)] = {
            _level(level, where): tuple(
                Override(key, value, f"{source}, {factor}={level}")
                for key, value in _keys(overrides or {}, f"{where}.{level}").items()
            )
            for level, overrides in levels.items()
        }
    return factors


def _level(level: Any, where: str) -> str:
    if isinstance(level, bool):
        raise UserError(f"{where}: YAML reads this level as {str(level).lower()}: quote it ('on', 'off', 'yes', 'no')")
    return str(level)


def _keys(overrides: Any, where: str) -> dict[str, Any]:
    """Overrides written dotted, nested or both, as dotted keys in the order given."""
    if not isinstance(overrides, dict):
        raise UserError(f"{where}: expected overrides (key: value), found {overrides!r}")
    keys = flatten({str(key): value for key, value in overrides.items()})
    if "seed" in keys:
        raise UserError(f"{where}: seed={keys['seed']} would change nothing: {SEEDS_HINT}")
    return keys


def _point(point: Any, factors: dict[str, Any], where: str) -> Point:
    if not isinstance(point, dict):
        raise UserError(f"{where}: expected factor: level, found {point!r}")
    found = {}
    for factor, level in point.items():
        if factor not in factors:
            raise UserError(f"{where}: unknown factor '{factor}'. {nearest(factor, factors)}")
        if _level(level, where) not in factors[factor]:
            raise UserError(f"{where}: {factor} has no level '{level}'. {nearest(level, factors[factor])}")
        found[str(factor)] = str(level)
    return found


def _identical(content: dict[str, Any], source: str) -> bool:
    found = content.get("identical")
    if found not in (None, ALLOWED):
        raise UserError(
            f"{source}: identical: expected '{ALLOWED}' (arms that do the same work are meant: an A/A "
            f"comparison) or no such key, found {found!r}"
        )
    return found is not None


def _seeds(seeds: list[Any], where: str) -> tuple[int, ...]:
    whole = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise UserError(f"{where}: expected distinct whole numbers from 0 to {2**32 - 1}, found {seeds!r}")
    return tuple(seeds)


def _refuse_rivals(factors: Factors, source: str) -> None:
    """Two factors that set one key: the later would silently overrule the other (on a ladder that is the point)."""
    owner: dict[str, str] = {}
    for factor, levels in factors.items():
        for key in {override.key for level in levels.values() for override in level}:
            if owner.setdefault(key, factor) != factor:
                raise UserError(f"{source}: the factors '{owner[key]}' and '{factor}' both set {key}")


def _refuse_shadowed(asked: list[Override], factors: Factors, source: str) -> None:
    for override in asked:
        for factor, levels in factors.items():
            if any(o.key == override.key for level in levels.values() for o in level):
                raise UserError(
                    f"{override.key}={override.value} on the command line would be overruled: "
                    f"it is what the factor '{factor}' of {source} sets"
                )
