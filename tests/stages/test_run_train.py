"""The train and evaluate stages together: phases, files, and what a user may get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from ablab.data import dataset, form
from ablab.errors import UserError
from ablab.evaluation import ap
from ablab.stages import evaluate, train
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
    assert [file.name for file in weights.iterdir()] == ["weights.safetensors"]

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
