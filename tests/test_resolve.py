"""The short way of resolving a configuration equals OmegaConf's, on hundreds of random override sets."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from ablab.config import Override, compose, flatten, groups
from ablab.config.resolve import Resolver, Unsure
from ablab.errors import UserError

composing = importlib.import_module("ablab.config.compose")  # the package has a function of that name
SETS = 200


def by_omegaconf(overrides: list[Override], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `compose` says when it takes the long way."""
    with monkeypatch.context() as patched:
        patched.setattr(Resolver, "set", refuse)
        return said(overrides)


def refuse(*_: Any) -> Any:
    raise Unsure


def said(overrides: list[Override]) -> Any:
    """The configuration, types and order of keys included, or the refusal's words."""
    try:
        return repr(compose(overrides).resolved)
    except UserError as error:
        return str(error)


def random_overrides(chance: random.Random) -> list[Override]:
    """A few choices, and values for a few keys of what they compose: some of a wrong type, some interpolations."""
    chosen = [Override(group, chance.choice(choices)) for group, choices in groups().items() if chance.random() < 0.4]
    keys = flatten(compose(chosen).resolved)
    values = []
    for key in [*chance.sample(sorted(keys), chance.randint(0, 6)), "head_prune.ratio", "model.width"]:
        value = another(keys[key], chance, sorted(keys))
        if key not in ("head_prune.ratio", "model.width") or chance.random() < 0.3:
            values.append(Override(key, value, chance.choice(["the command line", "sweeps/x.yaml, a=b"])))
    return [*chosen, *values]


def another(value: Any, chance: random.Random, keys: list[str]) -> Any:
    if chance.random() < 0.1:
        return chance.choice(["???", "${model.width}", "${schedule}", "x ${seed}", "${.lr}", "${nothing}", "${", None])
    if chance.random() < 0.1:
        return f"${{{chance.choice(keys)}}}"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([value + 1, 2 * value, 32, 0, 2.5])
    if isinstance(value, float):
        return chance.choice([value / 3, 0.25, 1, -0.1, float("nan"), "wide"])
    if isinstance(value, list) and value:
        return chance.choice([value[:1], value + value[-1:], value[0], [another(value[0], chance, keys), *value[1:]]])
    return chance.choice([value, "another", 3, {"a": 1}])


@pytest.mark.parametrize("seed", range(SETS))
def test_any_overrides_resolve_as_omegaconf_resolves_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = random_overrides(random.Random(seed))
    assert said(overrides) == by_omegaconf(overrides, monkeypatch)


def test_most_of_them_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare OmegaConf with itself."""
    long_way = []
    resolve = composing._resolve
    monkeypatch.setattr(composing, "_resolve", lambda tree: long_way.append(tree) or resolve(tree))
    good = 0
    for seed in range(100):
        overrides = random_overrides(random.Random(seed))
        before = len(long_way)
        if said(overrides).startswith("{"):
            good += 1
            assert len(long_way) == before or any("${" in repr(o.value) for o in overrides), overrides
    assert good > 20
    for model in groups()["model"]:
        compose([f"model={model}", "schedule=progressive", "schedule.epochs=[1,2,3]", "head_prune.ratio=0.3"])
        compose([f"model={model}", "eval.resolutions=[320,${schedule.imgsz}]"])


def test_the_environment_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/one", "/two"):
        monkeypatch.setenv("ABLAB_DATA", place)
        assert compose(["data=bccd"]).resolved["data"]["root"] == f"{place}/bccd"


@pytest.mark.parametrize(
    "text",
    [
        "${model.width}",
        "a${model.width}b",
        "${channels:${model.stem},${model.width}}",
        "${.other}",
        "${..seed}",
        "${oc.select:seed,1}",
        "${oc.decode:'3'}",
        r"\${seed}",
        "${mine.${mine.which}}",
        "${mine[which]}",
        "${mine}",
        "${mine.text}",
        "${channels:64,2,1}",
        "${nothing:1}",
        "${schedule.phases[0].epochs}",
        "${schedule.phases.0.epochs}",
        "${schedule.phases[7]}",
        "${schedule}",
        "${oc.env:NOT_THERE}",
        "${oc.env:NOT_THERE,null}",
        "${class_gain:0.5,${model.classes}}",
        "${repeats:3,wide}",
        "[${seed}]",
        "${repeats:3,${seed}",
    ],
)
def test_whatever_a_part_of_ones_own_writes(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("conf/stem/mine.yaml").write_text(
        f"_target_: my_parts.Stem\nother: 3\nwhich: other\n1: one\n"
        f"text: {text!r}\nlist: [{text!r}, {{deep: {text!r}}}]\n"
    )
    overrides = [Override("stem", "mine"), Override("stem.other", 4)]
    assert said(overrides) == by_omegaconf(overrides, monkeypatch)


def test_a_value_set_in_one_configuration_is_in_no_other() -> None:
    before = repr(compose(["model=yolov5s"]).resolved)
    compose(["model=yolov5s", "schedule.epochs=3", "head.anchors=[[[1,2]]]", "neck.c3.width=0.25"])
    assert repr(compose(["model=yolov5s"]).resolved) == before
