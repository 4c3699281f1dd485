"""The cut stage between two phases of training, and the smoke stage that tries it beforehand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from ablab.errors import UserError
from ablab.models.detector import build
from ablab.stages import cut, smoke, train
from ablab.stages.declare import KINDS
from ablab.training import weights

pytest.importorskip("torch_pruning", reason="the extra `prune` is not installed")


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


@pytest.fixture
def configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the whole network, and of the one that is cut."""
    whole = tiny.config("model.width=0.25", "head_prune.ratio=0.0")
    narrow = tiny.config("model.width=0.25", "head_prune.ratio=0.5")
    return whole, narrow | {"uncut": {"neck": whole["neck"]}, "sizes": [64]}


def parent(whole: dict[str, Any], folder: Path) -> Path:
    torch.manual_seed(0)
    detector = build(whole)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    folder.mkdir()
    weights.save(detector, whole | {"names": ["a", "b"], "imgsz": 64}, folder / "weights.safetensors")
    return folder


def run(config: dict[str, Any], wide: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    return cut.run(declared("cut", config), {"weights": wide}, out, out, lambda _: None)


def test_training_goes_on_from_what_is_left(tmp_path: Path, configs: Any) -> None:
    whole, narrow = configs
    wide = parent(whole, tmp_path / "wide")
    numbers = run(narrow, wide, tmp_path / "cut")
    assert numbers["channels_kept"] * 2 == numbers["channels"]
    assert 0.5 < numbers["importance_kept"] < 1
    file = tmp_path / "cut" / "weights.safetensors"
    before, after = load_file(wide / "weights.safetensors"), load_file(file)
    assert after.keys() == before.keys()
    kept = after["neck.lateral.0.bn.weight"]
    assert set(kept.tolist()) < set(before["neck.lateral.0.bn.weight"].tolist())
    assert all(torch.equal(after[n], t) for n, t in before.items() if n.startswith(("stem.", "backbone.")))
    assert (weights.description(file) or {})["names"] == ["a", "b"]

    tuned = tmp_path / "tuned"
    tuned.mkdir()
    config = narrow | {"phase": narrow["phase"] | {"lr": 0.0, "epochs": 1}}  # it ends with what it starts from
    train.run(declared("train", config), {"previous": tmp_path / "cut"}, tuned, tuned, lambda _: None)
    ended = load_file(tuned / "weights.safetensors")
    kernels = [name for name in after if "running" not in name and "tracked" not in name]
    assert all(torch.equal(after[name], ended[name]) for name in kernels)


def test_the_same_weights_are_cut_alike(tmp_path: Path, configs: Any) -> None:
    whole, narrow = configs
    wide = parent(whole, tmp_path / "wide")
    files = []
    for name in ("one", "other"):
        torch.manual_seed(len(files))
        run(narrow, wide, tmp_path / name)
        files.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert files[0] == files[1]


def test_weights_of_another_network(tmp_path: Path, configs: Any) -> None:
    _, narrow = configs
    other = tiny.config("model.width=0.125")
    with pytest.raises(UserError, match="this network expects"):
        run(narrow, parent(other, tmp_path / "wide"), tmp_path / "cut")


def test_what_cannot_be_cut_is_found_before_anything_is_trained(tmp_path: Path, configs: Any) -> None:
    _, narrow = configs
    smoke.run(declared("smoke", narrow), {}, tmp_path, tmp_path, lambda _: None)
    unfit = copy.deepcopy(narrow)
    unfit["uncut"]["neck"]["c3"]["count"] = 2
    with pytest.raises(UserError, match=r"head_prune\.ratio has no convolution neck\.top_down\.0\.bottlenecks\.1"):
        smoke.run(declared("smoke", unfit), {}, tmp_path, tmp_path, lambda _: None)
