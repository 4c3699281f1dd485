"""`model.anchors`, settled from described box sizes before any fingerprint is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from ablab.config import compose
from ablab.data import anchors
from ablab.errors import UserError
from ablab.models.detector import build
from ablab.study.anchors import settle
from ablab.study.described import described_by
from ablab.training import weights

RNG = np.random.default_rng(0)
COVERED = RNG.uniform(8, 30, (200, 2))  # px at 64: what the head's own anchors answer for
MINUTE = RNG.uniform(0.8, 2.4, (200, 2))  # and what they do not: under a quarter of 10 x 13


def description(sizes: Any) -> dict[str, Any]:
    text = anchors.described(np.asarray(sizes) * anchors.REFERENCE / 64)
    return {"sizes": {"letterbox": text, "stretch": text}}


def settled(knob: str, sizes: Any, *overrides: str, weights: Path | None = None) -> Any:
    config = tiny.config(f"model.anchors={knob}", *overrides)
    return settle(config, description(sizes), weights)["anchors"]


GIVEN = tiny.config()["head"]["anchors"]


def test_auto_fits_only_what_it_must() -> None:
    assert settled("auto", COVERED) == GIVEN
    assert settled("given", MINUTE) == GIVEN
    fitted = settled("auto", MINUTE)
    assert fitted == settled("fitted", MINUTE) != GIVEN
    assert anchors.recall(GIVEN, MINUTE, 4.0) < 0.1
    assert anchors.recall(fitted, MINUTE, 4.0) == 1
    assert np.shape(fitted) == np.shape(GIVEN)
    few = np.concatenate([np.tile(COVERED, (50, 1)), MINUTE[:150]])  # 1.5 % missed
    assert settled("auto", few) == GIVEN
    assert settled("fitted", COVERED) != GIVEN


def test_the_first_phase_has_the_size_that_counts() -> None:
    small, large = settled("fitted", COVERED), settled("fitted", COVERED, "schedule.imgsz=128")
    assert np.array(large) == pytest.approx(2 * np.array(small), abs=0.11)


def test_what_has_no_anchors_or_no_boxes_is_left_alone() -> None:
    config = tiny.config()
    assert settle(config, {"names": [], "splits": {}})["anchors"] == GIVEN
    free = {key: value for key, value in config["head"].items() if key != "anchors"}
    assert settle(config | {"head": free}, description(MINUTE)) == free
    for wrong in ([[[1, 2]], [[3, 4], [5, 6]]], [[[0, 1]]], "none", [[1, 2]], []):  # the head will refuse them
        head = config["head"] | {"anchors": wrong}
        assert settle(config | {"head": head}, description(MINUTE)) == head


@pytest.mark.parametrize(("recipe", "head"), [("yolo_fastest_1_1", "DarknetHead"), ("yolox_nano", "YOLOXHead")])
def test_a_head_that_has_none_to_fit(recipe: str, head: str) -> None:
    config = compose([f"model={recipe}", "model.classes=2", "model.anchors=fitted"]).resolved
    with pytest.raises(UserError, match=rf"model\.anchors=fitted: head {head} has no anchors that could be fitted"):
        settle(config, description(COVERED))
    assert settle(config | {"model": config["model"] | {"anchors": "auto"}}, description(COVERED)) == config["head"]


def test_too_few_sizes_to_fit() -> None:
    same = np.full((20, 2), 1.0)
    assert settled("auto", same) == GIVEN
    with pytest.raises(UserError, match=r"model\.anchors=fitted: .* no 9 different anchors"):
        settled("fitted", same)


def test_weights_bring_the_anchors_that_they_were_trained_with(tmp_path: Path) -> None:
    config = tiny.config()
    mine = [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]], [[13, 14], [15, 16], [17, 18]]]
    trained = config | {"head": config["head"] | {"anchors": mine}}
    weights.save(build(trained), trained, tmp_path / "mine.safetensors")
    assert described_by(tmp_path / "mine.safetensors")["head"]["anchors"] == mine
    assert settled("auto", COVERED, weights=tmp_path / "mine.safetensors") == mine
    assert settled("given", COVERED, weights=tmp_path / "mine.safetensors") == GIVEN
    begins = f"start.weights={tmp_path / 'mine.safetensors'}"
    assert settled("auto", [[6, 7]] * 9, begins) == mine  # which answer for such boxes, too
    assert settled("given", COVERED, begins) == GIVEN
    assert settled("auto", MINUTE / 8, begins) not in (mine, GIVEN)  # and where they do not, others are fitted
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights at all")
    for other in ("other", "text", "absent"):
        assert described_by(tmp_path / f"{other}.safetensors") == {}
        assert settled("auto", COVERED, weights=tmp_path / f"{other}.safetensors") == GIVEN
