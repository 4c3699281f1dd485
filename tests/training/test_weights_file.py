"""Weights taken over whole, or refused by the name of a file and a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from ablab.errors import UserError
from ablab.models.detector import build
from ablab.training import weights


def test_round_trip_from_file_and_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build(tiny.config()).to(memory_format=torch.channels_last)
    first.backbone.register_buffer("count", torch.tensor(3))
    weights.save(first, tmp_path / "weights.safetensors")
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        second = build(tiny.config())
        second.backbone.register_buffer("count", torch.tensor(0))
        weights.load(second, path)
        for name, tensor in second.state_dict().items():
            assert torch.equal(tensor, first.state_dict()[name]), name


def test_another_class_count_names_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    weights.save(build(tiny.config("model.classes=3")), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"mine\.safetensors: tensor head\.convs\.0\.weight has shape 24×32×1×1.*45×32"):
        weights.load(build(tiny.config()), tmp_path / "mine.safetensors")


def test_other_parts_name_what_is_missing_or_left_over(tmp_path: Path) -> None:
    deep, shallow = build(tiny.config("model.depth=0.4")), build(tiny.config())
    weights.save(shallow, tmp_path / "shallow.safetensors")
    weights.save(deep, tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match=r"shallow\.safetensors: tensor backbone\.\S+ of shape .* is not among"):
        weights.load(deep, tmp_path / "shallow.safetensors")
    with pytest.raises(UserError, match=r"deep\.safetensors: tensor backbone\.\S+ of shape .* has no place"):
        weights.load(shallow, tmp_path / "deep.safetensors")


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    detector = build(tiny.config())
    with pytest.raises(UserError, match=r"absent\.safetensors: no such"):
        weights.load(detector, tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors: no such"):
        weights.load(detector, tmp_path)
    for content in (b"", b"hello, I am a text", b"\xff" * 64):
        (tmp_path / "no.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"no\.safetensors: not a safetensors file"):
            weights.load(detector, tmp_path / "no.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "torch.pt")
    with pytest.raises(UserError, match=r"torch\.pt: not a safetensors file"):
        weights.load(detector, tmp_path / "torch.pt")
