"""The train and evaluate stages together: phases, files, and what a user may get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from ablab.data import dataset, draw, form
from ablab.errors import OutOfMemoryError, UserError
from ablab.evaluation import ap, predict
from ablab.stages import evaluate, profile, smoke, train, validation
from ablab.stages.declare import KINDS


def declared(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Only what the kind declares: an undeclared read fails here as it would in a study."""
    part: dict[str, Any] = {}
    for key in KINDS[kind].reads:
        group, _, name = key.partition(".")
        if name:
            part.setdefault(group, {})[name] = config[group][name]
        else:
            part[group] = config[group]
    return part


def run(config: dict[str, Any], folder: Path, **inputs: Path) -> tuple[dict[str, Any], Path]:
    out = folder / "out"
    out.mkdir(parents=True)
    return train.run(declared("train", config), inputs, out, folder / "work", lambda _: None), out


def test_two_phases_and_their_evaluation(tmp_path: Path) -> None:
    config = tiny.config("eval.every=2")
    first, weights = run(config, tmp_path / "first")
    assert {key: first[key] for key in ("epochs", "steps", "images", "batch", "diverged")} == {
        "epochs": 2,
        "steps": 8,
        "images": 16,
        "batch": 4,
        "diverged": False,
    }
    assert first["lr"] == 0.02
    assert first["optimizer"] == "few_steps"
    assert [set(row) for row in first["curve"]] == [
        {"epoch", "loss", "box", "obj", "cls", "lr"},
        {"epoch", "loss", "box", "obj", "cls", "lr", "map", "map50"},
    ]
    json.dumps(first, allow_nan=False)
    named = ["best.safetensors", "val_epoch_002.jpg", "weights.safetensors"]
    assert sorted(file.name for file in weights.iterdir()) == named
    assert (weights / "best.safetensors").read_bytes() == (weights / "weights.safetensors").read_bytes()
    assert (first["best_epoch"], first["best_map"]) == (2, first["curve"][1]["map"])  # the only one validated

    still = config | {"phase": config["phase"] | {"lr": 0.0, "epochs": 1}, "seed": 5}
    _, copied = run(still, tmp_path / "second", previous=weights)
    before, after = (load_file(folder / "weights.safetensors") for folder in (weights, copied))
    kernels = [name for name in before if "running" not in name and "tracked" not in name]
    assert all(torch.equal(before[name], after[name]) for name in kernels)  # at rate 0 it is the previous phase's EMA

    out = tmp_path / "evaluate"
    out.mkdir()
    numbers = evaluate.run(declared("evaluate", config), {"weights": weights}, out, tmp_path, lambda _: None)
    detections = json.loads((out / "detections.json").read_text())
    assert numbers["images"] == 6
    assert numbers["imgsz"] == 64
    assert numbers["detections"] == len(detections) > 0
    truth = form.coco_truth(dataset.load(config["data"], "val"))
    assert ap.evaluate(truth, detections).items() <= numbers.items()
    assert numbers["map50"] == first["curve"][-1]["map50"]  # the last epoch's validation, by the published weights
    assert len(json.loads((out / "curves.json").read_text())["recall"]) == 101
    json.dumps(numbers, allow_nan=False)


def test_pictures_of_val_are_the_same_after_a_crash(tmp_path: Path) -> None:
    config = tiny.config("eval.every=2", "schedule.epochs=5")
    config["phase"]["start_epoch"] = 10
    _, straight = run(config, tmp_path / "straight")

    def killed(event: dict[str, Any]) -> None:
        if event.get("message", "").startswith("epoch 3/5"):
            raise KeyboardInterrupt

    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train.run(declared("train", config), {}, out, work, killed)
    train.run(declared("train", config), {}, out, work, lambda _: None)
    names = [f"val_epoch_{epoch:03d}.jpg" for epoch in (12, 14, 15)]
    assert sorted(file.name for file in straight.glob("*.jpg")) == names
    assert [(out / name).read_bytes() for name in names] == [(straight / name).read_bytes() for name in names]
    side = 2 * validation.SIDE + 3 * draw.GAP
    assert cv2.imread(str(out / names[0])).shape == (side, side, 3)


def test_a_picture_shows_what_was_found(tmp_path: Path) -> None:
    data = tiny.squares(9, seed=3)
    nothing = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    box = (np.array([[8.0, 8, 40, 56]]), np.array([0.6]), np.array([1]))
    doubtful = (box[0], np.array([0.2]), box[2])
    picture = validation.pictures(data)
    sheets = []
    for found in (nothing, box, doubtful):
        picture([found, *[nothing] * 8], tmp_path / "picture.jpg")  # the first image is shown
        sheets.append(cv2.imread(str(tmp_path / "picture.jpg")).astype(int))
    (plain, drawn, same), edge = sheets, draw.GAP + 40 * validation.SIDE // 64
    np.testing.assert_array_equal(plain, same)
    changed = np.abs(drawn - plain).max(2) > 60
    assert changed[draw.GAP + 150, edge - 2 : edge + 3].any()  # on the box's right side
    assert not changed[:, edge + 60 :].any()


def parts(config: dict[str, Any], lengths: list[int], folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """The parts of an open-ended phase, each a stage: their numbers, and the last one's folder."""
    numbers, start, inputs = [], 0, {}
    for part, epochs in enumerate(lengths):
        phase = config["phase"] | {"epochs": epochs, "start_epoch": start, "part": part}
        one, out = run(config | {"phase": phase}, folder / str(part), **inputs)
        numbers.append(one)
        start, inputs = start + epochs, {"previous": out}
    return numbers, out


def everything(folder: Path) -> dict[str, Any]:
    """What a part leaves for the next one, optimisers and all, but for its curve."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {key: value for key, value in state.items() if key != "curve"}


@pytest.mark.parametrize("optimiser", ["few_steps", "sgd", "adamw"])
def test_more_epochs_of_an_open_end_are_those_of_a_longer_one_to_the_bit(tmp_path: Path, optimiser: str) -> None:
    config = tiny.config(f"optim={optimiser}", "optim.warmup_epochs=3", "eval.every=1", "data.train=9")
    straight, whole = parts(config, [4], tmp_path / "straight")
    numbers, last = parts(config, [2, 1, 1], tmp_path / "parts")
    rows = [row | {"epoch": epoch} for epoch, row in enumerate((r for n in numbers for r in n["curve"]), 1)]
    assert rows == straight[0]["curve"]
    assert sum(one["steps"] for one in numbers) == straight[0]["steps"] == 8
    assert {one["warmup_steps"] for one in (*numbers, *straight)} == {6}
    a, b = load_file(whole / "weights.safetensors"), load_file(last / "weights.safetensors")
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    torch.testing.assert_close(everything(whole), everything(last), rtol=0, atol=0)


def test_a_part_that_was_killed_goes_on_too(tmp_path: Path) -> None:
    config = tiny.config("eval.every=0")
    _, first = parts(config, [1], tmp_path / "first")
    part = config | {"phase": config["phase"] | {"epochs": 2, "start_epoch": 1, "part": 1}}
    _, straight = run(part, tmp_path / "straight", previous=first)

    def killed(event: dict[str, Any]) -> None:
        if event.get("message", "").startswith("epoch 1/2"):
            raise KeyboardInterrupt

    out, work = tmp_path / "killed", tmp_path / "work"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train.run(declared("train", part), {"previous": first}, out, work, killed)
    numbers = train.run(declared("train", part), {"previous": first}, out, work, lambda _: None)
    assert numbers["steps"] == 8
    a, b = load_file(straight / "weights.safetensors"), load_file(out / "weights.safetensors")
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def decay(config: dict[str, Any], stable: int) -> dict[str, Any]:
    phase = config["phase"] | {"epochs": 2, "start_epoch": stable, "continues": True}
    return config | {"phase": phase}


def test_decay_goes_on_with_everything_and_its_rate_falls_in_a_line(tmp_path: Path) -> None:
    config = tiny.config("optim=sgd", "optim.warmup_epochs=1", "optim.final_lr=0.1", "eval.every=0")
    _, stable = parts(config, [4], tmp_path / "stable")
    _, in_two = parts(config, [2, 2], tmp_path / "in two")
    numbers, out = run(decay(config, 4), tmp_path / "decay", previous=stable)
    # 8 steps: 1, ..., 0.1 of the peak 0.15; rows tell the last step's.
    assert [row["lr"] for row in numbers["curve"]] == pytest.approx([0.15 * (1 - 0.9 * 3 / 7), 0.15 * 0.1], abs=1e-12)
    assert (numbers["warmup_steps"], numbers["steps"], numbers["epochs"]) == (0, 8, 2)
    assert "checkpoint.pt" not in {file.name for file in out.iterdir()}
    _, same = run(decay(config, 4), tmp_path / "same", previous=in_two)

    def killed(event: dict[str, Any]) -> None:
        if event.get("message", "").startswith("epoch 1/2"):
            raise KeyboardInterrupt

    resumed, work = tmp_path / "resumed", tmp_path / "work"
    resumed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train.run(declared("train", decay(config, 4)), {"previous": stable}, resumed, work, killed)
    again = train.run(declared("train", decay(config, 4)), {"previous": stable}, resumed, work, lambda _: None)
    assert again == numbers
    a = load_file(out / "weights.safetensors")
    for folder in (same, resumed):
        b = load_file(folder / "weights.safetensors")
        assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_a_decay_moves_by_the_stable_part_s_momentum_by_hand(tmp_path: Path) -> None:
    """With gradients clipped to nothing, a weight moves by the momentum that it came with, at falling rates."""
    config = tiny.config(
        "optim=sgd", "optim.warmup_epochs=0", "optim.final_lr=0.1", "eval.every=0", "schedule.epochs=1"
    )
    _, stable = parts(config, [1], tmp_path / "stable")
    before = torch.load(stable / "checkpoint.pt", weights_only=True)
    still = decay(config, 1)
    still["phase"] = still["phase"] | {"epochs": 1}
    still["optim"] = still["optim"] | {"clip": 1e-30}
    run(still, tmp_path / "still", previous=stable)
    after = torch.load(tmp_path / "still" / "work" / "checkpoint.pt", weights_only=True)
    name, kernel = next((n, t) for n, t in before["model"].items() if t.ndim == 4)  # the first parameter of all
    momentum = before["optimizers"][0]["state"][0]["momentum_buffer"]
    rates = [0.15, 0.15 * 0.7, 0.15 * 0.4, 0.15 * 0.1]
    moved = sum(rate * 0.9 ** (2 + step) for step, rate in enumerate(rates)) * momentum
    torch.testing.assert_close(after["model"][name], kernel - moved, rtol=1e-5, atol=1e-7)
    assert float(moved.abs().max()) > 1e-3
    assert after["steps"] == 4  # its own, by which its rate goes


def test_a_decay_after_a_part_that_diverged_is_empty(tmp_path: Path) -> None:
    config = tiny.config("optim=sgd", "optim.lr=1e30", "eval.every=0")
    _, last = parts(config, [2], tmp_path)
    numbers, _ = run(decay(config, 2), tmp_path / "decay", previous=last)
    assert (numbers["diverged"], numbers["stopped_early"], numbers["epochs"]) == (True, False, 0)


def test_after_a_part_that_diverged_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    config = tiny.config("optim=sgd", "optim.lr=1e30", "eval.every=0")
    numbers, last = parts(config, [2, 2], tmp_path)
    assert [one["diverged"] for one in numbers] == [True, True]
    assert (numbers[1]["epochs"], numbers[1]["steps"], numbers[1]["curve"]) == (0, 0, [])
    a, b = load_file(tmp_path / "0" / "out" / "weights.safetensors"), load_file(last / "weights.safetensors")
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert [file.name for file in last.iterdir()] == ["weights.safetensors"]


def test_numbers_say_what_batchnorm_saw(tmp_path: Path) -> None:
    numbers, _ = run(tiny.config("schedule.epochs=1", "optim.micro_batch=2"), tmp_path)
    assert (numbers["batch"], numbers["micro_batch"], numbers["steps"]) == (4, 2, 4)


def test_evaluation_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "TELL_EVERY", 0.0)
    config = tiny.config("schedule.epochs=1")
    _, weights = run(config, tmp_path)
    events: list[dict[str, Any]] = []
    config["eval"] = config["eval"] | {"batch": 4}
    evaluate.run(declared("evaluate", config), {"weights": weights}, tmp_path, tmp_path, events.append)
    assert events[:2] == [{"images": 4, "total": 6}, {"images": 6, "total": 6}]


def test_out_of_memory_before_the_first_step_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(dataset, "load", full)
    config = tiny.config()
    with pytest.raises(OutOfMemoryError, match=r"optim\.batch=4 at imgsz=64"):
        run(config, tmp_path / "train")
    with pytest.raises(OutOfMemoryError, match=r"eval\.batch=16 at imgsz=64"):
        evaluate.run(declared("evaluate", config), {"weights": tmp_path}, tmp_path, tmp_path, lambda _: None)
    for module in (profile, smoke):
        monkeypatch.setattr(module, "build", full)
        with pytest.raises(OutOfMemoryError):
            module.run(config | {"sizes": [64]}, {}, tmp_path, tmp_path, lambda _: None)


def test_first_biases_are_the_data_s(tmp_path: Path) -> None:
    config = tiny.config("schedule.epochs=1", "optim.muon_lr=0", "optim.adamw_lr=0")
    _, weights = run(config, tmp_path)
    bias = load_file(weights / "weights.safetensors")["head.convs.2.bias"].view(3, 15)
    data = dataset.load(config["data"], "train")
    shares = torch.bincount(torch.cat([torch.from_numpy(s.classes) for s in data.samples]), minlength=10).float()
    expected = (shares / shares.sum()).clamp(0.01, 0.99).logit()
    torch.testing.assert_close(bias[0, 5:], expected, atol=0.02, rtol=0.02)


def test_classes_that_differ_from_the_data_s(tmp_path: Path) -> None:
    config = tiny.config("model.classes=3")
    with pytest.raises(UserError, match=r"model\.classes=3: the data has 10 classes \(0, 1, 2, 3, 4, \.\.\.\)"):
        run(config, tmp_path / "train")
    with pytest.raises(UserError, match=r"model\.classes=3"):
        evaluate.run(declared("evaluate", config), {"weights": tmp_path}, tmp_path, tmp_path, lambda _: None)


def test_size_off_the_grid(tmp_path: Path) -> None:
    config = tiny.config()
    with pytest.raises(UserError, match="imgsz=70"):
        run(config | {"phase": config["phase"] | {"imgsz": 70}}, tmp_path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    _, weights = run(tiny.config("schedule.epochs=1"), tmp_path / "narrow")
    wide = tiny.config("model.width=0.25")
    with pytest.raises(UserError, match=r"weights\.safetensors: tensor stem\.\S+ has shape 8×3×6×6.* 16×3×6×6"):
        run(wide, tmp_path / "wide", previous=weights)
    with pytest.raises(UserError, match=r"weights\.safetensors: tensor stem"):
        evaluate.run(declared("evaluate", wide), {"weights": weights}, tmp_path, tmp_path, lambda _: None)


def test_data_without_val_trains(tmp_path: Path) -> None:
    numbers, _ = run(tiny.config("data.val=0", "eval.every=1", "schedule.epochs=1"), tmp_path)
    assert set(numbers["curve"][0]) == {"epoch", "loss", "box", "obj", "cls", "lr"}
