"""Weights taken over whole, or refused by the name of a file and a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from ablab.errors import UserError
from ablab.models.detector import build
from ablab.training import weights


def test_round_trip_from_file_and_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build(tiny.config()).to(memory_format=torch.channels_last)
    first.backbone.register_buffer("count", torch.tensor(3))
    weights.save(first, tiny.config(), tmp_path / "weights.safetensors")
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        second = build(tiny.config())
        second.backbone.register_buffer("count", torch.tensor(0))
        weights.load(second, tiny.config(), path)
        for name, tensor in second.state_dict().items():
            assert torch.equal(tensor, first.state_dict()[name]), name


def test_another_class_count_names_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    three = tiny.config("model.classes=3")
    weights.save(build(three), three, tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"mine\.safetensors: tensor head\.convs\.0\.weight has shape 24×32×1×1.*45×32"):
        weights.load(build(tiny.config()), tiny.config(), tmp_path / "mine.safetensors")


def test_other_parts_name_what_is_missing_or_left_over(tmp_path: Path) -> None:
    deep, shallow = build(tiny.config("model.depth=0.4")), build(tiny.config())
    weights.save(shallow, tiny.config(), tmp_path / "shallow.safetensors")
    weights.save(deep, tiny.config("model.depth=0.4"), tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match=r"shallow\.safetensors: tensor backbone\.\S+ of shape .* is not among"):
        weights.load(deep, tiny.config("model.depth=0.4"), tmp_path / "shallow.safetensors")
    with pytest.raises(UserError, match=r"deep\.safetensors: tensor backbone\.\S+ of shape .* has no place"):
        weights.load(shallow, tiny.config(), tmp_path / "deep.safetensors")


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    detector = build(tiny.config())
    with pytest.raises(UserError, match=r"absent\.safetensors: no such"):
        weights.load(detector, tiny.config(), tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors: no such"):
        weights.load(detector, tiny.config(), tmp_path)
    for content in (b"", b"hello, I am a text", b"\xff" * 64):
        (tmp_path / "no.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"no\.safetensors: not a safetensors file"):
            weights.load(detector, tiny.config(), tmp_path / "no.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "torch.pt")
    with pytest.raises(UserError, match=r"torch\.pt: not a safetensors file"):
        weights.load(detector, tiny.config(), tmp_path / "torch.pt")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("head=anchor_small", r"head\.anchors"),
        ("neck.activation=relu", r"neck\.activation=silu, not neck\.activation=relu"),
        ("preprocess.channels=bgr", r"preprocess\.channels=rgb, not preprocess\.channels=bgr"),
    ],
)
def test_what_has_no_tensor_is_held_to_what_the_file_says(tmp_path: Path, other: str, told: str) -> None:
    weights.save(build(tiny.config()), tiny.config(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=told):
        weights.load(build(tiny.config(other)), tiny.config(other), tmp_path)


def test_a_file_of_another_origin_is_judged_by_its_tensors(tmp_path: Path) -> None:
    save_file(build(tiny.config()).state_dict(), tmp_path / "weights.safetensors")
    weights.load(build(tiny.config()), tiny.config(), tmp_path)
