"""The data stage: what it counts, and that it opens every image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

from ablab.errors import UserError
from ablab.stages import data


def run(config: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return data.run(config, {}, tmp_path, tmp_path, events.append), events


def test_counts_every_split(tmp_path: Path) -> None:
    config = {"data": tiny.config("data.train=5", "data.val=3")["data"]}
    numbers, events = run(config, tmp_path)
    assert {name: split["images"] for name, split in numbers["splits"].items()} == {"train": 5, "val": 3}
    assert numbers["images"] == 8
    assert numbers["boxes"] == sum(split["boxes"] for split in numbers["splits"].values()) >= 8
    assert numbers["dirt"] == []
    assert [event["message"] for event in events] == [
        "train: 5 of 5 images decoded",
        "val: 3 of 3 images decoded",
    ]


def test_real_cells_and_their_known_dirt(tmp_path: Path, shared_data: Path) -> None:
    from ablab.config import compose

    config = {"data": compose(["data=bccd_voc"]).resolved["data"] | {"root": str(shared_data / "bccd")}}
    numbers, _ = run(config, tmp_path)
    assert {name: split["images"] for name, split in numbers["splits"].items()} == {"train": 205, "val": 87, "test": 72}
    dropped = [entry["where"] for entry in numbers["dirt"] if entry["action"] == "dropped"]
    assert any("BloodImage_00343" in where for where in dropped)
    assert any("BloodImage_00338" in where for where in dropped)


def test_corrupt_image_is_named(tmp_path: Path, shared_data: Path) -> None:
    root = tmp_path / "bccd"
    shutil.copytree(shared_data / "bccd", root)
    victim = root / "JPEGImages" / "BloodImage_00007.jpg"
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(UserError, match=r"BloodImage_00007\.jpg"):
        run({"data": tiny.bccd(shared_data) | {"root": str(root)}}, tmp_path)
