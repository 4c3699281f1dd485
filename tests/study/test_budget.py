"""A memory budget made micro-batches: by hand, and in a plan before and after the smoke stage has run."""

from __future__ import annotations

from typing import Any

import pytest

from ablab.config import Override
from ablab.errors import UserError
from ablab.study.budget import micro_batch
from ablab.study.plan import Plan, compile
from ablab.study.study import Study, single

# Without images 1.2 GB and 20 B for each of 10 million parameters: 1.4 GB. An image of 320 px: 153.6 MB.
BUILT = {"params": 10_000_000, "max_stride": 32, "bytes_per_px": 1000.0}


def fits(budget: float, *, batch: int = 8, given: int | None = None, ranks: int = 1, **phase: Any) -> int | None:
    config = {"optim": {"batch": batch, "micro_batch": given}, "engine": {"device": "cpu", "ranks": ranks}}
    return micro_batch(budget, config, {"imgsz": 320} | phase, BUILT)


@pytest.mark.parametrize(
    ("budget", "images"),
    [(9.0, None), (2.79, None), (2.78, 4), (2.17, 4), (2.16, 2), (1.87, 2), (1.86, 1), (1.554, 1)],
)
def test_the_largest_divisor_that_fits_with_an_image_to_spare(budget: float, images: int | None) -> None:
    assert fits(budget) == images


def test_the_largest_size_of_multi_scale_counts_and_so_does_what_was_given() -> None:
    assert fits(2.79, scales=[0.5, 1.25]) == 4  # of 384 px, not of 400: 221 MB
    assert fits(2.5, scales=[0.5, 1.25]) == 2
    assert fits(9.0, given=4) == 4
    assert fits(2.16, given=4) == 2
    assert fits(2.4, batch=9) == 3


def test_ranks_share_batch_and_budget() -> None:
    assert fits(2 * 2.17, ranks=2) is None  # four images each, all of a share
    assert fits(2 * 2.16, ranks=2) == 2
    assert fits(2 * 2.78, ranks=2, given=4) == 4


def test_what_does_not_fit_at_one_image_says_which_size_would() -> None:
    with pytest.raises(UserError, match=r"optim\.memory=1\.5 GB: one image of 320 px .* 1\.55 GB; .* is 256 px"):
        fits(1.5)  # 0.1 GB are 258 px
    with pytest.raises(UserError, match=r"no input size would fit: process and network alone take 1\.40 GB"):
        fits(1.401)


def plan(memory: float | None, built: Any = None) -> Plan:
    words = {"model": "yolov5n", "schedule.imgsz": 320, "optim.memory": memory, "engine.device": "cpu"}
    asked = [Override(key, value) for key, value in words.items()]
    splits = {split: {"images": 8, "boxes": 4, "digest": split} for split in ("train", "val")}
    study = single("train", asked, 0)
    return compile(study, lambda _: {"names": ["a"], "splits": splits}, built=lambda _: built)


def trainings(found: Plan) -> dict[str, dict[str, Any]]:
    return {f: stage.config["optim"] for f, stage in found.stages.items() if stage.kind == "train"}


def test_what_comes_of_a_budget_is_part_of_a_training_and_the_budget_is_not() -> None:
    without, unknown = plan(None), plan(1.9)
    assert (without.unsettled, unknown.unsettled) == (False, True)
    ample, tight = plan(9.0, BUILT), plan(1.9, BUILT)
    assert not ample.unsettled
    assert not tight.unsettled
    assert ample.stages.keys() == without.stages.keys() == unknown.stages.keys()
    (optim,) = trainings(tight).values()
    assert optim["micro_batch"] == 2
    assert "memory" not in optim
    assert trainings(tight).keys() != trainings(ample).keys()


def test_arms_that_a_budget_may_part_are_not_judged_before_it_is_known() -> None:
    words = {"model": "yolov5n", "schedule.imgsz": 320, "engine.device": "cpu", "engine.threads": 1}
    base = tuple(Override(key, value) for key, value in words.items())
    levels = {"ample": (Override("optim.memory", 9.0),), "tight": (Override("optim.memory", 1.9),)}
    splits = {split: {"images": 8, "boxes": 4, "digest": split} for split in ("train", "val")}

    def made(built: Any) -> Plan:
        study = Study("budgets", "?", base, {"memory": levels}, "grid", (0,))
        return compile(study, lambda _: {"names": ["a"], "splits": splits}, built=lambda _: built)

    assert made(None).unsettled
    assert len(trainings(made(BUILT))) == 2
    with pytest.raises(UserError, match="changes nothing"):
        made(BUILT | {"bytes_per_px": 1.0})
