"""Weights that are none, or of another network: refused by name, and never executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from working_folder import SCENES, TINY, Folder

EVAL = ["eval", *TINY, *SCENES, "stem=focus"]


class Malicious:
    """Its pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def weights(trained: Path) -> Path:
    """Weights of the network of EVAL."""
    for file in (trained / ".ablab/store/stages").glob("*/*/weights.safetensors"):
        record = json.loads((file.parent / "stage.json").read_text())
        if record["config"]["stem"]["_target_"].endswith("Focus"):
            return file
    raise AssertionError("the trained study has a variant with a Focus stem")


def test_the_right_weights_are_measured(folder: Folder, weights: Path) -> None:
    result = folder.run(*EVAL, f"weights={weights}")
    assert result.code == 0, result.err
    assert "mAP50" in result.out
    assert folder.run(*EVAL, f"weights={weights.parent}").code == 0  # a training's folder in the store


def test_weights_know_their_network_and_its_size(folder: Folder, weights: Path) -> None:
    asked = [*SCENES, f"weights={weights}"]
    named = folder.run(*EVAL, f"weights={weights}")
    assert folder.run("eval", *asked).out == named.out != ""
    foreign = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(foreign, folder.path / "silent.safetensors")
    told = ["these weights are of a network that they do not describe", "model=NAME"]
    folder.refused("eval", *SCENES, "weights=silent.safetensors", says=told)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (os.urandom(5000), ["not a safetensors file"]),
        (b"", ["not a safetensors file"]),
        (b"These are weights, honestly.\n" * 50, ["not a safetensors file"]),
        (None, ["there is no file"]),
    ],
)
def test_a_file_that_is_no_checkpoint(folder: Folder, content: bytes | None, says: list[str]) -> None:
    if content is not None:
        folder.write("best.safetensors", content)
    folder.refused(*EVAL, "weights=best.safetensors", says=["best.safetensors", *says])


def test_a_folder_without_weights(folder: Folder) -> None:
    (folder.path / "runs").mkdir()
    folder.refused(*EVAL, "weights=runs", says=["weights=runs", "there is no file runs/weights.safetensors"])


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(folder: Folder, form: str) -> None:
    trap = folder.path / "executed"
    if form == "pickle":
        folder.write("best.pt", pickle.dumps(Malicious(trap)))
    else:
        torch.save({"model": Malicious(trap)}, folder.path / "best.pt")
    folder.refused(*EVAL, "weights=best.pt", says=["best.pt", "not a safetensors file"])
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))  # the trap works
    assert trap.exists()


def test_weights_cut_short(folder: Folder, weights: Path) -> None:
    folder.write("best.safetensors", weights.read_bytes()[:-1000])
    folder.refused(*EVAL, "weights=best.safetensors", says=["best.safetensors", "not a safetensors file"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["stem=conv6x6"], ["stem.", "this network expects"]),
        (["model.width=0.25"], ["has shape", "this network expects", "width"]),
        (["backbone=csp_darknet_v5"], ["backbone.", "this network"]),
    ],
)
def test_weights_of_another_network(folder: Folder, weights: Path, change: list[str], says: list[str]) -> None:
    folder.refused(*EVAL, *change, f"weights={weights}", says=["weights.safetensors", *says])


def test_weights_for_another_number_of_classes(folder: Folder, weights: Path) -> None:
    tensors = safetensors.torch.load_file(weights)
    tensors = {name: t[: t.shape[0] - 3] if name.startswith("head.") else t for name, t in tensors.items()}
    safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, folder.path / "w.safetensors")
    folder.refused(*EVAL, "weights=w.safetensors", says=["tensor head.", "has shape", "class count"])


def test_tensors_that_are_too_few_or_too_many(folder: Folder, weights: Path) -> None:
    tensors = safetensors.torch.load_file(weights)
    name = next(iter(sorted(tensors)))
    safetensors.torch.save_file({k: t for k, t in tensors.items() if k != name}, folder.path / "few.safetensors")
    folder.refused(*EVAL, "weights=few.safetensors", says=["few.safetensors", name])
    safetensors.torch.save_file(tensors | {"extra": torch.zeros(2)}, folder.path / "many.safetensors")
    folder.refused(*EVAL, "weights=many.safetensors", says=["many.safetensors", "extra"])
