"""Head pruning by cutting in a plan: one trained parent for all ratios, equal epochs, and what is refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import studies

from ablab.config import Override
from ablab.data import anchors
from ablab.errors import UserError
from ablab.study.plan import Plan, Stage, compile
from ablab.study.study import single

STUDY = """
question: Is a head better built narrow, or cut out of a trained one?
base: {model: yolov5n, eval.every: 0, schedule.phases: PHASES}
factors:
  head:
    whole: {}
    width: {head_prune.ratio: 0.5}
    cut: {head_prune.ratio: 0.5, head_prune.method: cut}
    cut more: {head_prune.ratio: 0.75, head_prune.method: cut}
design: one_at_a_time
seeds: [0, 1]
measure: {resolutions: [64]}
"""
PHASES = "[{imgsz: 64, epochs: 4, lr: 1.0}, {imgsz: 96, epochs: 2, lr: 0.5}]"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_pruning") is None, reason="the extra `prune` is not installed"
)


def plan(folder: Any, phases: str = PHASES, data: Any = None, **asked: Any) -> Plan:
    studies.write(STUDY.replace("PHASES", phases))
    return studies.plan(*(Override(key, value) for key, value in asked.items()), data=data)


def chain(found: Plan, name: str, *kinds: str) -> list[Stage]:
    (one,) = (r for r in found.replicates if r.variant.name == name and r.seed == 0)
    return [found.stages[f] for f in one.stages if found.stages[f].kind in kinds]


def widths(stage: Stage) -> list[int]:
    return stage.config["neck"]["channels"]


def test_all_ratios_share_one_trained_parent(folder: Any) -> None:
    found = plan(folder)
    whole = chain(found, "baseline", "train", "evaluate")
    assert [widths(stage) for stage in whole] == [[64, 128, 256]] * 3
    for name, narrow in (("head=cut", [32, 64, 128]), ("head=cut more", [16, 32, 64])):
        parent, cut, tuned, evaluated = chain(found, name, "train", "cut", "evaluate")
        assert parent is whole[0]
        assert (cut.kind, cut.inputs) == ("cut", {"weights": parent.fingerprint})
        assert cut.config["imgsz"] == 96  # at which the training goes on
        assert cut.config["uncut"]["neck"]["channels"] == widths(parent)
        assert (cut.splits, bool(cut.data)) == (("train",), True)
        assert tuned.inputs == {"previous": cut.fingerprint}
        assert evaluated.inputs == {"weights": tuned.fingerprint}
        assert [widths(stage) for stage in (cut, tuned, evaluated)] == [narrow] * 3
    kinds = [stage.kind for stage in found.stages.values()]
    assert kinds.count("train") == 2 * (2 + 2 + 1 + 1)
    assert kinds.count("cut") == 2 * 2
    assert kinds.count("smoke") == 1 + 1 + 2  # whole, width, and each that is cut, with the cut tried


def test_as_many_epochs_and_the_same_network_as_built_narrow(folder: Any) -> None:
    found = plan(folder)
    width, cut = (chain(found, f"head={name}", "train", "profile", "evaluate") for name in ("width", "cut"))
    phases = [[stage.config["phase"] for stage in one if stage.kind == "train"] for one in (width, cut)]
    assert phases[0] == phases[1]
    assert [stage for stage in width if stage.kind == "profile"] == [stage for stage in cut if stage.kind == "profile"]
    assert {key: width[-1].config[key] for key in ("neck", "head")} == {
        key: cut[-1].config[key] for key in ("neck", "head")
    }


def test_an_open_ended_phase_is_cut_behind_its_last_part(folder: Any) -> None:
    phases = "[{imgsz: 64, epochs: 4, lr: 1.0, stage_epochs: 2}, {imgsz: 64, epochs: 2, lr: 1.0, stage_epochs: 1}]"
    kinds = [stage.kind for stage in chain(plan(folder, phases), "head=cut", "train", "cut")]
    assert kinds == ["train", "train", "cut", "train", "train"]


def test_each_network_has_its_own_needs_of_memory(folder: Any) -> None:
    studies.write(STUDY.replace("PHASES", PHASES))
    sizes = {
        "engine.device": "cpu", "optim.memory": 1.5, "head_prune.ratio": 0.5, "head_prune.method": "cut",
        "schedule.phases": [{"imgsz": 320, "epochs": 1, "lr": 1.0}] * 2,
    }  # fmt: skip
    asked = [Override(key, value) for key, value in sizes.items()]
    unmeasured = compile(single("train", asked, 0), studies.described())
    smokes = {f: widths(stage) for f, stage in unmeasured.stages.items() if stage.kind == "smoke"}
    assert list(smokes.values()) == [[64, 128, 256], [32, 64, 128]]

    def built(fingerprint: str) -> dict[str, Any]:
        per_px = 1000.0 if smokes[fingerprint][0] == 64 else 100.0
        return {"params": 100_000, "max_stride": 32, "bytes_per_px": per_px}

    found = compile(single("train", asked, 0), studies.described(), built=built)
    parts = [stage.config["optim"]["micro_batch"] for stage in found.stages.values() if stage.kind == "train"]
    assert parts == [1, None]


def test_a_file_to_start_from_is_the_whole_network_s(folder: Any) -> None:
    (folder / "start.safetensors").write_bytes(b"not read by a plan")
    found = plan(folder, **{"start.weights": "start.safetensors"})
    for kind, starts in (("smoke", [True, False]), ("train", [True, False])):
        assert ["weights" in stage.inputs for stage in chain(found, "head=cut", kind)] == starts


def test_anchors_that_are_fitted_are_those_of_both_networks(folder: Any) -> None:
    sizes = anchors.described(np.random.default_rng(0).uniform(10, 30, (200, 2)))
    described = studies.described()(None) | {"sizes": {"letterbox": sizes, "stretch": sizes}}
    found = plan(folder, data=lambda _: described, **{"model.anchors": "fitted"})
    given = plan(folder).replicates[0].config["head"]["anchors"]
    parent, cut, tuned = chain(found, "head=cut", "train", "cut")
    assert parent.config["head"]["anchors"] == cut.config["head"]["anchors"] == tuned.config["head"]["anchors"] != given
    assert "head" not in cut.config["uncut"]


def test_nothing_to_cut_is_an_arm_that_changes_nothing(folder: Any) -> None:
    studies.write(STUDY.replace("PHASES", PHASES).replace("0.5, head_prune.method", "0.0, head_prune.method"))
    with pytest.raises(UserError, match=r"factors\.head\.cut changes nothing"):
        studies.plan()


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ("[{imgsz: 64, epochs: 4, lr: 1.0}]", "before the last phase of the schedule, which has 1 phase; expected two"),
        (
            "[{imgsz: 64, epochs: 4, lr: 1.0, stage_epochs: 2}, {imgsz: 64, epochs: 2, lr: 1.0, continues: true}]",
            "a last phase that continues the one before",
        ),
    ],
)
def test_a_schedule_without_a_place_for_the_cut(folder: Any, phases: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan(folder, phases)


def test_without_the_library(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch_pruning" else find(name)
    )
    with pytest.raises(UserError, match=r"needs the library torch-pruning: pip install 'ablab\[prune\]'"):
        plan(folder)
