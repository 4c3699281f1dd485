"""Study files: what they mean, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.config import Override, yaml_names
from ablab.errors import UserError
from ablab.study.plan import Plan, compile
from ablab.study.study import load, single

GOOD = """
question: Is it worth it?
base: {model: yolov5n, schedule: constant, schedule.imgsz: 64, schedule.epochs: [1, 1, 1]}
factors:
  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}
  head: {full: {}, half: {head_prune.ratio: 0.5}}
design: grid
seeds: [0, 1]
measure: {resolutions: [64]}
"""


def describe(_: dict) -> dict:
    return {
        "names": ["a", "b", "c"],
        "splits": {split: {"images": 2, "boxes": 4, "digest": split} for split in ("train", "val")},
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "sweeps" / "mine.yaml").write_text(text)

    return write


def plan(*overrides: Override) -> Plan:
    return compile(load("mine", overrides), describe)


def test_a_grid_of_two_factors_and_two_seeds(write) -> None:
    write(GOOD)
    found = plan()
    assert [r.variant.name for r in found.replicates if r.seed == 0] == [
        "baseline",
        "head=half",
        "stem=conv",
        "stem=conv head=half",
    ]
    assert len(found.replicates) == 8
    assert {r.config["head"]["classes"] for r in found.replicates} == {3}


def test_equal_work_is_one_stage(write) -> None:
    write(GOOD)
    kinds = [stage.kind for stage in plan().stages.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "data": 1,  # one data set
        "smoke": 4,  # a variant each: seeds share it
        "profile": 4,
        "train": 4 * 2 * 3,
        "evaluate": 4 * 2,
    }


def test_phases_are_shared_exactly_as_far_as_they_are_equal(write) -> None:
    write(
        GOOD.replace(
            "factors:", "factors:\n  schedule: {constant: {}, large: {schedule: progressive, schedule.large: 96}}"
        )
        .replace("seeds: [0, 1]", "seeds: [0]")
        .replace("design: grid", "design: one_at_a_time")
    )
    found = plan()
    chains = {r.variant.name: [f for f in r.stages if found.stages[f].kind == "train"] for r in found.replicates}
    constant, large = chains["baseline"], chains["schedule=large"]
    assert constant[0] == large[0]
    assert constant[1] != large[1]
    assert constant[2] != large[2]  # equal settings, another parent


def test_more_epochs_of_an_open_end_share_what_was_trained(write) -> None:
    write(
        GOOD.replace("schedule: constant", "schedule: open_ended").replace("[1, 1, 1]", "25").replace("[0, 1]", "[0]")
    )

    def trainings(*overrides: Override) -> list[list[str]]:
        found = plan(*overrides)
        return [[f for f in r.stages if found.stages[f].kind == "train"] for r in found.replicates]

    found = plan()
    labels = [found.stages[f].label for f in trainings()[0]]
    assert labels == [f"phase 1/1, epochs {n} at 64 px, seed 0" for n in ("1 to 10", "11 to 20", "21 to 25")]
    phases = [found.stages[f].config["phase"] for f in trainings()[0]]
    assert [(p["epochs"], p["start_epoch"], p["part"]) for p in phases] == [(10, 0, 0), (10, 10, 1), (5, 20, 2)]
    for shorter, longer in zip(trainings(), trainings(Override("schedule.epochs", 40)), strict=True):
        assert shorter[:2] == longer[:2]
        assert len(set(shorter) & set(longer)) == 2
    first, second = ([found.stages[f] for f in chain] for chain in trainings()[:2])
    assert [stage.inputs.get("previous") for stage in first] == [None, *(stage.fingerprint for stage in first[:2])]
    assert not {s.fingerprint for s in first} & {s.fingerprint for s in second}


def test_two_stable_lengths_share_the_stages_of_the_shorter_and_decay_alone(write) -> None:
    text = GOOD.replace("schedule: constant", "schedule: stable_decay").replace("[0, 1]", "[0]")
    text = text.replace("schedule.epochs: [1, 1, 1]", "schedule.stage_epochs: 10, schedule.decay_epochs: 5")
    text = text.replace("factors:", "factors:\n  epochs: {20: {schedule.epochs: 20}, 40: {schedule.epochs: 40}}")
    write(text.replace("design: grid", "design: one_at_a_time"))
    found = plan()
    chains = {r.variant.name: [f for f in r.stages if found.stages[f].kind == "train"] for r in found.replicates}
    short, long = chains["baseline"], chains["epochs=40"]
    assert [found.stages[f].label for f in short] == [
        "phase 1/2, epochs 1 to 10 at 64 px, seed 0",
        "phase 1/2, epochs 11 to 20 at 64 px, seed 0",
        "phase 2/2, 5 epochs at 64 px, seed 0",
    ]
    assert short[:2] == long[:2]
    assert not set(short[2:]) & set(long[2:])
    last = found.stages[short[2]]
    assert last.inputs == {"previous": short[1]}
    assert last.config["phase"] == {"imgsz": 64, "epochs": 5, "lr": 1.0, "start_epoch": 20, "continues": True}


def test_phases_of_a_user_s_own(write) -> None:
    text = GOOD.replace("[0, 1]", "[0]").replace("constant", "single").replace(", schedule.epochs: [1, 1, 1]", "")
    write(text)
    phases = [{"imgsz": 64, "epochs": 2, "lr": 1.0}, {"imgsz": 96, "epochs": 1, "lr": 0.5, "scales": [0.5, 1.5]}]
    found = plan(Override("schedule.phases", phases))
    told = [found.stages[f].config["phase"] for f in found.replicates[0].stages if found.stages[f].kind == "train"]
    assert told == [phases[0] | {"start_epoch": 0}, phases[1] | {"start_epoch": 2}]


def test_exclude_and_seeds_from_the_command_line(write) -> None:
    write(GOOD + "exclude: [{stem: conv, head: half}]\n")
    found = plan(Override("seeds", [7]))
    assert [r.variant.name for r in found.replicates] == ["baseline", "head=half", "stem=conv"]
    assert {r.seed for r in found.replicates} == {7}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("question", "qestion", ["sweeps/mine.yaml", "qestion", "Did you mean 'question'?"]),
        ("design: grid", "design: gird", ["design 'gird'", "Did you mean 'grid'?"]),
        ("{full: {}", "{on: {}", ["factors.head", "quote"]),
        ("seeds: [0, 1]", "seeds: [0, 0]", ["seeds", "distinct"]),
        ("seeds: [0, 1]", "seeds: 3", ["seeds", "a list", "3"]),
        ("{stem: focus}", "{stem: fokus}", ["stem=fokus", "sweeps/mine.yaml, stem=focus", "Did you mean 'focus'?"]),
        ("head_prune.ratio: 0.5", "head_prune.ration: 0.5", ["head_prune.ration", "Did you mean 'head_prune.ratio'?"]),
        ("schedule.imgsz: 64", "schedule.imgsz: wide", ["schedule.imgsz", "'wide'", "sweeps/mine.yaml"]),
        ("design: grid", "design: list", ["design 'list'", "`variants`"]),
        ("design: grid", "exclude: [{stem: foo}]\ndesign: grid", ["exclude", "no level 'foo'"]),
        ("design: grid", "exclude: [{stem: focus, head: full}]\ndesign: grid", ["exclude", "baseline"]),
        ("stem: {focus: {stem: focus}, conv: {stem: conv3x3}}", "stem: focus", ["factors.stem", "levels"]),
        ("factors:", "factors: [", ["mine.yaml", "not valid YAML"]),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_hint(write, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    write(GOOD.replace(old, new))
    with pytest.raises(UserError) as refused:
        plan()
    for word in words:
        assert word in str(refused.value)


def test_an_unknown_study_offers_the_nearest(write) -> None:
    with pytest.raises(UserError, match="Did you mean 'quickstart'"):
        load("quickstat")


def test_a_factor_cannot_be_overruled_from_outside(write) -> None:
    write(GOOD)
    with pytest.raises(UserError, match="the factor 'stem'"):
        plan(Override("stem", "conv6x6"))


def test_two_factors_that_set_one_key_are_refused_but_on_a_ladder(write) -> None:
    rivals = GOOD.replace("head: {full: {}, half: {head_prune.ratio: 0.5}}", "other: {a: {}, b: {stem: conv6x6}}")
    write(rivals)
    with pytest.raises(UserError, match="'stem' and 'other' both set stem"):
        plan()
    write(rivals.replace("design: grid", "design: ladder"))
    assert [r.variant.name for r in plan().replicates if r.seed == 0] == ["baseline", "+ stem=conv", "+ other=b"]


def test_a_single_training_is_named_by_what_was_asked_not_by_where_it_lies() -> None:
    asked = [
        Override("stem", "focus"),
        Override("data.root", "/somewhere"),
        Override("store", "/else"),
        Override("seed", 3),
    ]
    (variant,) = single("train", asked, 3).expand()
    assert variant.levels == {"stem": "focus"}
    assert {o.key for o in variant.overrides} == {
        "stem",
        "data.root",
        "store",
        "engine.threads",
    }  # nothing runs beside it


def test_a_study_may_be_named_by_its_file(write) -> None:
    write(GOOD)
    assert load("sweeps/mine.yaml").name == "mine"


def test_a_class_count_that_the_data_has_not(write) -> None:
    write(GOOD)
    with pytest.raises(UserError, match=r"model\.classes=5 .* 3 classes: a, b, c"):
        plan(Override("model.classes", 5))


@pytest.mark.parametrize("study", yaml_names("sweeps"))
def test_every_shipped_study_compiles(study: str) -> None:
    overrides = [] if study == "quickstart" else [Override("data", "scenes")]
    found = compile(load(study, overrides), describe)
    assert len(found.replicates) >= 2
    assert not found.duplicates
