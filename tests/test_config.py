"""Composition: what Hydra's habits promise, and every refusal with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.config import Override, compose, flatten
from ablab.config.resolvers import ceil8, scaled_channels, scaled_repeats
from ablab.errors import UserError


def test_a_stem_on_the_command_line_wins_over_the_recipe() -> None:
    assert compose(["stem=focus", "model=yolov5s"]).choices["stem"] == "focus"
    assert compose(["model=yolov5s"]).choices["stem"] == "conv6x6"


def test_later_overrides_win() -> None:
    assert compose(["schedule.epochs=3", "schedule.epochs=5"]).resolved["schedule"]["phases"][0]["epochs"] == 5


def test_a_group_that_takes_any_keys_is_joined_by_its_keys_and_replaced_as_a_whole() -> None:
    def rates(*words: str) -> object:
        return compose(words).resolved["start"]["rates"]

    assert rates("start.rates.stem=0.1", "start.rates.neck=0.5") == {"stem": 0.1, "neck": 0.5}
    assert rates("start.rates.stem=0.1", "start.rates={neck: 0.5}") == {"neck": 0.5}
    assert rates("start.rates.stem=0.1", "start.rates={}") == {}


def test_shared_knobs_become_concrete_numbers() -> None:
    config = compose(["model=yolov5s", "model.width=0.25", "head_prune.ratio=0.5"]).resolved
    assert config["neck"]["channels"] == [32, 64, 128]
    assert config["stem"]["channels"] == 16


@pytest.mark.parametrize(("base", "width", "prune", "expected"), [
    (64, 0.5, 0.0, 32), (116, 1.0, 0.0, 120), (512, 0.5, 0.25, 192), (128, 0.5, 0.75, 16), (8, 0.1, 0.0, 8),
])  # fmt: skip
def test_channels_by_hand(base: int, width: float, prune: float, expected: int) -> None:
    assert scaled_channels(base, width, prune) == expected


def test_a_class_gain_grows_with_the_number_of_classes_as_in_yolov5() -> None:
    gains = [compose([f"model.classes={n}"]).resolved["head"]["cls"] for n in (80, 3)]
    assert gains == [0.5, pytest.approx(0.01875)]


def test_repeats_round_as_python_does_and_never_reach_zero() -> None:
    assert [scaled_repeats(n, 0.33) for n in (1, 3, 6, 9)] == [1, 1, 2, 3]
    assert ceil8(464) == 464


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stem=focsu"], ["stem=focsu", "Did you mean 'focus'?"]),
        (["stem.chanels=3"], ["stem.chanels", "conf/stem/conv6x6.yaml", "Did you mean 'stem.channels'?"]),
        (["stm=focus"], ["stm", "Did you mean 'stem'?"]),
        (["epochs=3"], ["Did you mean 'schedule.epochs'?"]),
        (["schedule.epochs=abc"], ["schedule.epochs", "a whole number", "'abc'", "conf/schedule/single.yaml"]),
        (["schedule.epochs=2.5"], ["schedule.epochs", "a whole number", "2.5"]),
        (["schedule.epochs=true"], ["schedule.epochs", "a whole number", "True"]),
        (["eval.resolutions=320"], ["eval.resolutions", "a list"]),
        (["eval.resolutions=[320,big]"], ["eval.resolutions[1]", "'big'"]),
        (["backbone=shufflenet_v2", "backbone.conv5=maybe"], ["backbone.conv5", "true or false"]),
        (["backbone=shufflenet_v2", "model.depth=0.5", "neck.c3.count=1"], ["model.depth", "no chosen part reads"]),
        (["head_prune.ratio=1.0"], ["head_prune.ratio", "[0, 1)", "1.0"]),
        (["head_prune.ratio=-0.1"], ["head_prune.ratio", "-0.1"]),
        (["+x=1"], ["+x=1", "not added"]),
        (["~stem"], ["~stem"]),
        (["seed=1,2"], ["several values", "--multirun"]),
        (["model.width"], ["not an override", "key=value"]),
    ],
)
def test_refusals_name_key_found_expected_and_nearest(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        compose(overrides)
    for word in words:
        assert word in str(refused.value)


def test_a_knob_that_only_another_part_reads_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.depth .*changes nothing"):
        compose(["model=v5lite_s", "model.depth=1.0", "neck.c3.count=1"])


def test_origin_names_the_file_the_recipe_or_the_command_line() -> None:
    composed = compose(["model=v5lite_s", "schedule.epochs=3", Override("optim.batch", 4, "sweeps/x.yaml, b=4")])
    assert composed.origin("model.width") == "conf/model/v5lite_s.yaml"
    assert composed.origin("stem.channels") == "conf/stem/conv3x3_pool.yaml"
    assert composed.origin("schedule.epochs") == "the command line"
    assert composed.origin("optim.batch") == "sweeps/x.yaml, b=4"
    assert composed.origin("seed") == "conf/config.yaml"


def test_a_folder_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    (tmp_path / "conf" / "stem" / "mine.yaml").write_text("_target_: my_parts.Stem\nchannels: 8\n")
    (tmp_path / "conf" / "stem" / "focus.yaml").write_text("_target_: my_parts.Focus\n")
    monkeypatch.chdir(tmp_path)
    assert compose(["stem=mine"]).resolved["stem"] == {"_target_": "my_parts.Stem", "channels": 8}
    assert compose(["stem=focus"]).resolved["stem"] == {"_target_": "my_parts.Focus"}
    assert compose(["stem=conv3x3"]).resolved["stem"]["_target_"].startswith("ablab.models")


def test_broken_yaml_of_ones_own_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    (tmp_path / "conf" / "stem" / "mine.yaml").write_text("channels: [1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        compose(["stem=mine"])


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1], "e": {}}) == {"a.b.c": 1, "d": [1], "e": {}}
