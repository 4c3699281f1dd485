"""Whole or not at all, and damage is told from absence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from ablab.training import checkpoint

STATE = {
    "model": {"w": torch.arange(5.0)},
    "ema": {},
    "optimizers": [{"state": {}}],
    "scaler": {},
    "curve": [{"epoch": 1}],
    "steps": 26,
}


def test_round_trip_and_nothing_left_over(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert checkpoint.load(work) is None
    checkpoint.save(STATE, work)
    checkpoint.save(STATE | {"curve": []}, work)
    found = checkpoint.load(work)
    assert found is not None
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    assert found["curve"] == []
    assert [file.name for file in work.iterdir()] == ["checkpoint.pt"]


def test_keeps_the_strides_of_channels_last(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    checkpoint.save(STATE | {"model": {"w": kernel}}, tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found["model"]["w"].stride() == kernel.stride()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other"])
def test_damage_is_a_value_error(tmp_path: Path, damage: str) -> None:
    checkpoint.save(STATE, tmp_path)
    path = tmp_path / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "flipped":  # a bit of the tensor itself
        at = data.index(torch.arange(5.0).numpy().tobytes())
        data[at + 6] ^= 1
        path.write_bytes(data)
    else:
        torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is"):
        checkpoint.load(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save(STATE | {"curve": Path}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path)


def test_full_disk_is_an_os_error_and_keeps_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(STATE, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(STATE | {"curve": []}, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found["curve"] == [{"epoch": 1}]
