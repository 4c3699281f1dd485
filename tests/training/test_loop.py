"""The loop: resumed bits, divergence, learning on real images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from ablab.data import dataset, form
from ablab.data.loader import Batch, Loader
from ablab.errors import OutOfMemoryError
from ablab.evaluation import ap
from ablab.evaluation.predict import predict, results
from ablab.models.detector import build
from ablab.stages.train import start_from_prior
from ablab.training import checkpoint, loop, step


class Killed(BaseException):
    """What a SIGKILL would do, for a test."""


def run(
    config: dict[str, Any], work: Path, *, kill_after: int = 0, maps: dict[int, float] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any], list]:
    """Train on the configuration's scenes; EMA weights, numbers, events. maps: epoch -> its validated mAP."""
    torch.manual_seed(config["seed"])
    detector = build(config)
    events: list[dict[str, Any]] = []

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if kill_after and "message" in event and event["epoch"] == kill_after:
            raise Killed

    numbers = loop.train(
        detector,
        make_loader(config),
        lambda _, epoch: (
            ({"map": maps[epoch]} if epoch in maps else {})
            if maps is not None
            else ({"map50": epoch / 10} if epoch % 2 == 0 else {})
        ),
        phase=config["phase"],
        optim_config=config["optim"],
        preprocess=config["preprocess"],
        engine=config["engine"],
        seed=config["seed"],
        work=work,
        emit=emit,
    )
    return detector.state_dict(), numbers, events


def make_loader(config: dict[str, Any]) -> Loader:
    return Loader(
        dataset.load(config["data"], "train"),
        imgsz=config["phase"]["imgsz"],
        batch=config["optim"]["batch"],
        preprocess=config["preprocess"],
        augment=config["augment"],
        seed=config["seed"],
    )


@pytest.mark.parametrize("optimiser", ["few_steps", "sgd", "adamw", "yolov5"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_killed_and_resumed_gives_the_same_bits(tmp_path: Path, optimiser: str, precision: str) -> None:
    config = tiny.config(f"optim={optimiser}", "schedule.epochs=4", "data.train=9")
    config["engine"] = tiny.ENGINE | {"precision": precision}
    straight, numbers, _ = run(config, tmp_path / "straight")
    for epoch in (1, 2):  # killed twice, between epochs
        with pytest.raises(Killed):
            run(config, tmp_path / "killed", kill_after=epoch)
    resumed, resumed_numbers, events = run(config, tmp_path / "killed")
    assert events[0]["message"] == "resumed after epoch 2"
    assert resumed_numbers == numbers
    assert [row["epoch"] for row in numbers["curve"]] == [1, 2, 3, 4]
    assert [row.get("map50") for row in numbers["curve"]] == [None, 0.2, None, 0.4]
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_multi_scale_and_the_best_weights_resume_to_the_bit(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=4", "schedule.imgsz=96", "schedule.scales=[0.6,1.4]", "data.train=9")
    maps = {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.5}
    straight, numbers, _ = run(config, tmp_path / "straight", maps=maps)
    assert (numbers["best_epoch"], numbers["best_map"]) == (2, 0.5)  # the first of equals
    for epoch in (1, 3):
        with pytest.raises(Killed):
            run(config, tmp_path / "killed", kill_after=epoch, maps=maps)
    resumed, resumed_numbers, _ = run(config, tmp_path / "killed", maps=maps)
    assert resumed_numbers == numbers
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())
    _, other_numbers, _ = run(
        config | {"phase": config["phase"] | {"epochs": 4}}, tmp_path / "stopped", maps={**maps, 3: 0.1, 4: 0.2}
    )
    assert other_numbers["best_epoch"] == 2
    best = [checkpoint.load_best(2, tmp_path / folder) for folder in ("straight", "killed", "stopped")]
    for name, tensor in best[0].items():
        assert torch.equal(tensor, best[1][name])
        assert torch.equal(tensor, best[2][name])
    assert not all(torch.equal(tensor, straight[name]) for name, tensor in best[0].items())
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == ["best-2.pt", "checkpoint.pt"]


def test_killed_between_the_best_weights_and_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best epoch that no checkpoint knows of is forgotten, and the one before it is still there."""
    config, maps = tiny.config("schedule.epochs=3"), {1: 0.1, 2: 0.2}
    honest = checkpoint.save

    def killed(state: dict[str, Any], work: Path) -> None:
        if len(state["curve"]) == 2:
            raise Killed
        honest(state, work)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        run(config, tmp_path, maps=maps)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best-1.pt", "best-2.pt", "checkpoint.pt"]
    monkeypatch.setattr(checkpoint, "save", honest)
    _, numbers, events = run(config, tmp_path, maps={1: 0.1, 2: 0.05})  # as a GPU may, to other bits
    assert events[0]["message"] == "resumed after epoch 1"
    assert numbers["best_epoch"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best-1.pt", "checkpoint.pt"]


def test_best_weights_that_are_lost_start_the_phase_again(tmp_path: Path) -> None:
    config, maps = tiny.config(), {1: 0.2, 2: 0.1}
    straight, numbers, _ = run(config, tmp_path, maps=maps)
    (tmp_path / "best-1.pt").unlink()
    again, numbers_again, events = run(config, tmp_path, maps=maps)
    assert "best-1.pt" in events[0]["message"]
    assert "starts again" in events[0]["message"]
    assert numbers_again == numbers
    assert (tmp_path / "best-1.pt").is_file()
    assert all(torch.equal(tensor, again[name]) for name, tensor in straight.items())


def test_stops_early_by_validated_epochs_and_says_so(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=9", "schedule.patience=2", "data.train=4")
    maps = {2: 0.2, 4: 0.3, 6: 0.3, 8: 0.1, 9: 0.9}  # equal is no better; epochs between are not looked at
    _, numbers, events = run(config, tmp_path / "a", maps=maps)
    assert (numbers["stopped_early"], numbers["epochs"], numbers["best_epoch"]) == (True, 8, 4)
    assert events[-1] == {
        "message": "epoch 8: no better mAP than epoch 4's 0.300 in 2 validations, training stops early",
        "epoch": 8,
    }
    with pytest.raises(Killed):
        run(config, tmp_path / "b", maps=maps, kill_after=8)
    _, resumed, events = run(config, tmp_path / "b", maps=maps)
    assert resumed == numbers
    assert [event["epoch"] for event in events] == [8, 8]  # resumed, and stopped: no epoch more
    patient = config | {"phase": config["phase"] | {"patience": 3}}
    _, numbers, _ = run(patient, tmp_path / "c", maps=maps)
    assert (numbers["stopped_early"], numbers["epochs"], numbers["best_epoch"]) == (False, 9, 9)


def test_patience_begins_with_the_first_map_above_zero(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=6", "schedule.patience=2", "data.train=4")
    _, numbers, _ = run(config, tmp_path, maps={1: 0.0, 2: 0.0, 3: 0.0, 4: 0.1, 5: 0.1, 6: 0.2})
    assert (numbers["stopped_early"], numbers["epochs"], numbers["best_epoch"]) == (False, 6, 6)


def test_dropout_resumes_too(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=2")

    class Leaky(nn.Module):
        """Three numbers, learnt through dropout: the masks are the only thing that torch draws."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 1)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(x.mean((2, 3))))

        def loss(self, raw: Tensor, targets: Tensor, progress: float) -> dict[str, Tensor]:
            return {"all": (raw - 1).square().mean()}

    def train(work: Path, epochs: int) -> Tensor:
        torch.manual_seed(0)
        detector = Leaky()
        torch.manual_seed(epochs)  # what drew before must not matter
        sgd = tiny.config("optim=sgd", "optim.warmup_epochs=0", "optim.final_lr=1")["optim"]
        kwargs = {"preprocess": config["preprocess"], "engine": tiny.ENGINE, "seed": 3, "work": work}
        phase = config["phase"] | {"epochs": epochs}
        loop.train(
            detector, make_loader(config), lambda *_: {}, phase=phase, optim_config=sgd, emit=lambda _: None, **kwargs
        )
        return torch.load(work / "checkpoint.pt", weights_only=True)["model"]["head.weight"]

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "parts", 1)
    assert torch.equal(train(tmp_path / "parts", 2), whole)


def test_damaged_checkpoint_starts_the_phase_again(tmp_path: Path) -> None:
    config = tiny.config()
    straight, numbers, _ = run(config, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    again, numbers_again, events = run(config, tmp_path)
    assert "damaged" in events[0]["message"]
    assert "starts again" in events[0]["message"]
    assert numbers_again == numbers
    assert all(torch.equal(tensor, again[name]) for name, tensor in straight.items())


def test_same_seed_same_bits_another_seed_others(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=1")
    first, numbers, _ = run(config, tmp_path / "a")
    second, _, _ = run(config, tmp_path / "b")
    other, _, _ = run(config | {"seed": 1}, tmp_path / "c")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(first["head.convs.0.weight"], other["head.convs.0.weight"])
    assert numbers["steps"] == 4
    assert numbers["optimizer"] == "few_steps"
    assert numbers["diverged"] is False
    row = numbers["curve"][0]
    assert row["loss"] == pytest.approx(row["box"] + row["obj"] + row["cls"])


def test_phase_scales_the_rates(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=1")
    _, numbers, _ = run(config | {"phase": config["phase"] | {"lr": 0.25}}, tmp_path)
    assert numbers["lr"] == 0.25 * 0.02


def test_a_later_phase_goes_on_with_the_orders_and_augmentations(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=3")
    asked = []

    class Watched(Loader):
        def epoch(self, n: int, augment: bool = True, progress: float = 0.0) -> Iterator[Batch]:
            asked.append((n, augment, progress))
            return super().epoch(n, augment, progress)

    data = dataset.load(config["data"], "train")
    loader = Watched(data, imgsz=64, batch=8, preprocess=config["preprocess"], augment=config["augment"], seed=0)
    keys = {"optim_config": config["optim"], "preprocess": config["preprocess"], "engine": config["engine"]}
    phase = config["phase"] | {"start_epoch": 5}
    loop.train(build(config), loader, lambda *_: {}, phase=phase, seed=0, work=tmp_path, emit=lambda _: None, **keys)
    assert asked == [(5, True, 0.0), (6, True, pytest.approx(1 / 3)), (7, True, pytest.approx(2 / 3))]
    asked.clear()
    loop.train(
        build(config),
        loader,
        lambda *_: {},
        phase=phase | {"part": 0},
        seed=0,
        work=tmp_path / "open end",
        emit=lambda _: None,
        **keys,
    )
    assert [progress for _, _, progress in asked] == [0.0] * 3


@pytest.mark.parametrize("poison", ["loss", "gradient", "statistics"])
def test_divergence_is_a_result_with_finite_weights(tmp_path: Path, poison: str) -> None:
    config = tiny.config("schedule.epochs=4")
    torch.manual_seed(0)
    detector = build(config)
    honest_loss = detector.head.loss
    calls = 0

    def loss(raw: Any, targets: Tensor, progress: float) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        losses = honest_loss(raw, targets, progress)
        if calls == 6:  # the second step of the second epoch
            if poison == "loss":
                losses["box"] = losses["box"] * float("nan")
            elif poison == "gradient":  # sqrt has an infinite slope at zero
                losses["box"] = losses["box"] + (raw[0] * 0).sqrt().sum()
            else:
                next(m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)).running_var.data.fill_(
                    float("inf")
                )
        return losses

    detector.head.loss = loss
    keys = {"optim_config": config["optim"], "preprocess": config["preprocess"], "engine": config["engine"]}
    events: list[dict[str, Any]] = []
    numbers = loop.train(
        detector,
        make_loader(config),
        lambda *_: {},
        phase=config["phase"],
        seed=0,
        work=tmp_path,
        emit=events.append,
        **keys,
    )
    assert numbers["diverged"] is True
    assert [row["loss"] is None for row in numbers["curve"]] == [False, True]
    assert numbers["steps"] == (8 if poison == "statistics" else 5)
    assert "not finite" in events[-1]["message"]
    good = checkpoint.load(tmp_path)["ema"]  # of the epoch before: steps of this one may have been running away
    assert all(torch.equal(tensor, good[name]) for name, tensor in detector.state_dict().items())
    assert all(tensor.isfinite().all() for tensor in detector.state_dict().values())


def test_a_rate_far_too_high_is_a_divergence_even_while_the_loss_is_a_number(tmp_path: Path) -> None:
    """The weights are those before the epoch, here those at the start."""
    config = tiny.config("optim=adamw", "optim.lr=1e6", "optim.warmup_epochs=0")
    torch.manual_seed(config["seed"])
    before = build(config).state_dict()
    weights, numbers, events = run(config, tmp_path)
    assert (numbers["diverged"], numbers["epochs"]) == (True, 1)
    assert "the loss is " in events[-1]["message"]
    assert numbers["curve"][0]["loss"] is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


def test_out_of_memory_names_the_keys(tmp_path: Path) -> None:
    config = tiny.config()
    detector = build(config)

    def forward(images: Tensor) -> Tensor:
        return torch.empty(2**62, dtype=torch.uint8)

    detector.forward = forward
    keys = {"optim_config": config["optim"], "preprocess": config["preprocess"], "engine": config["engine"]}
    with pytest.raises(OutOfMemoryError, match=r"out of memory with optim\.batch=4 at imgsz=64"):
        loop.train(
            detector,
            make_loader(config),
            lambda *_: {},
            phase=config["phase"],
            seed=0,
            work=tmp_path,
            emit=lambda _: None,
            **keys,
        )


def test_events_tell_speed_and_loss_but_the_curve_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TELL_EVERY", 0.0)
    config = tiny.config("schedule.epochs=2")
    _, numbers, events = run(config, tmp_path)
    within = [event for event in events if "message" not in event]
    assert [(e["epoch"], e["step"], e["epochs"], e["steps"]) for e in within] == [
        (epoch, step, 2, 4) for epoch in (1, 2) for step in (1, 2, 3, 4)
    ]
    after = [event for event in events if "message" in event]
    for event, row, last in zip(after, numbers["curve"], (within[3], within[7]), strict=True):
        assert row.items() <= event.items()
        assert event.keys() - row.keys() == {"message", "epochs", "images_per_second"}
        assert last["loss"] == pytest.approx(row["loss"])  # after the last step the mean so far is the epoch's
    assert all(event["images_per_second"] > 0 for event in events)
    monkeypatch.setattr(loop, "TELL_EVERY", 1e9)
    _, silent, events = run(config, tmp_path / "silent")
    assert len(events) == 2
    assert silent == numbers


class Dots(nn.Module):
    """A detector without BatchNorm, in float64 so that only the losses round: how many boxes an image has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x.double()).relu()).mean((2, 3))

    def loss(self, raw: Tensor, targets: Tensor, progress: float) -> dict[str, Tensor]:
        boxes = torch.bincount(targets[:, 0].long(), minlength=len(raw)).float()
        return {"count": (raw[:, 0] - boxes).square().mean(), "size": (raw[:, 1] - 1).square().mean()}


@pytest.mark.parametrize("part", [1, 2, 4])
def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Of 9 images: a batch of 4 and one of 5, so that parts are uneven too."""
    found: dict[str, Any] = {}
    norm = nn.utils.get_total_norm
    for name, micro in (("whole", "null"), ("parts", part)):
        config = tiny.config("optim=sgd", f"optim.micro_batch={micro}", "data.train=9", "schedule.epochs=1")
        torch.manual_seed(0)
        detector, gradients, sizes = Dots(), [], []
        detector.first.register_forward_hook(lambda *call: sizes.append(len(call[2])))  # noqa: B023

        def watched(found: list[Tensor], **keys: Any) -> Tensor:
            gradients.append([gradient.clone() for gradient in found])  # noqa: B023
            return norm(found, **keys)

        monkeypatch.setattr(nn.utils, "get_total_norm", watched)
        keys = {"optim_config": config["optim"], "preprocess": config["preprocess"], "engine": config["engine"]}
        folder = tmp_path / name
        numbers = loop.train(
            detector,
            make_loader(config),
            lambda *_: {},
            phase=config["phase"],
            seed=0,
            work=folder,
            emit=lambda _: None,
            **keys,
        )
        found[name] = gradients, sizes, numbers, detector.state_dict()
    whole, parts = found["whole"], found["parts"]
    assert whole[1] == [4, 5]
    assert parts[1] == {1: [1] * 9, 2: [2, 2, 2, 3], 4: [4, 5]}[part]
    assert len(whole[0]) == len(parts[0]) == 2  # one norm, one step a batch
    for one, other in zip(whole[0], parts[0], strict=True):
        scale = max(float(gradient.abs().max()) for gradient in one)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * scale)
    assert parts[2]["steps"] == 2
    assert parts[2]["curve"][0]["loss"] == pytest.approx(whole[2]["curve"][0]["loss"], rel=1e-6)
    for name, tensor in whole[3].items():
        torch.testing.assert_close(tensor, parts[3][name], rtol=1e-5, atol=1e-6)


def test_a_micro_batch_of_the_whole_changes_no_bit(tmp_path: Path) -> None:
    whole, numbers, _ = run(tiny.config("schedule.epochs=1"), tmp_path / "whole")
    same, numbers_again, _ = run(tiny.config("schedule.epochs=1", "optim.micro_batch=4"), tmp_path / "same")
    assert numbers == numbers_again
    assert all(torch.equal(tensor, same[name]) for name, tensor in whole.items())


def test_targets_follow_their_images() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    targets = torch.tensor([[0, 9], [1, 8], [1, 7], [4, 6], [4, 5]]).float()
    given = targets.clone()
    parts = [(i[:, 0, 0, 0].tolist(), t.tolist()) for i, t in step.micro_batches(images, targets, 2)]
    assert parts == [([0, 1], [[0, 9], [1, 8], [1, 7]]), ([2, 3, 4], [[2, 6], [2, 5]])]
    assert torch.equal(targets, given)


def test_learns_eight_real_images_by_heart(tmp_path: Path, shared_data: Path) -> None:
    overrides = ["model.width=0.25", "model.classes=3", "augment=none", "optim.batch=2", "optim.adamw_lr=0.01"]
    config = tiny.config(*overrides, "schedule.imgsz=160", "schedule.epochs=60")
    data = dataset.load(tiny.bccd(shared_data), "train")
    eight = form.Dataset(data.names, data.category_ids, data.samples[:8], ())
    loader = Loader(eight, imgsz=160, batch=2, preprocess=config["preprocess"], augment=None, seed=0)
    torch.manual_seed(0)
    detector = build(config)
    start_from_prior(detector, loader, 160)
    keys = {"preprocess": config["preprocess"], "engine": config["engine"]}
    loop.train(
        detector,
        loader,
        lambda *_: {},
        phase=config["phase"],
        optim_config=config["optim"],
        seed=0,
        work=tmp_path,
        emit=lambda _: None,
        **keys,
    )
    found = predict(detector, eight, imgsz=160, eval_config=config["eval"], **keys)
    assert ap.evaluate(form.coco_truth(eight), results(found, eight))["map50"] > 0.95
