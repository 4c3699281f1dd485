"""YOLO folders: where images and labels are looked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ablab.data.dataset import load, splits
from ablab.errors import UserError

from .conftest import NAMES


def boxes(config: dict[str, Any]) -> list[list[list[float]]]:
    return [s.boxes.tolist() for s in load(config, "train").samples]


def rewrite(config: dict[str, Any], **changes: Any) -> None:
    file = Path(config["root"]) / "data.yaml"
    content = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


def test_every_way_to_name_the_images_reads_the_same(yolo_config: dict[str, Any]) -> None:
    expected = boxes(yolo_config)
    root = Path(yolo_config["root"])
    assert boxes({**yolo_config, "file": None, "names": NAMES}) == expected

    lines = [f"images/train/{name}.png\n" for name in "abc"]
    (root / "train.txt").write_text("./" + "./".join(lines))
    rewrite(yolo_config, train="train.txt")
    assert boxes(yolo_config) == expected
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("".join(lines))  # relative to the dataset, not to the list
    rewrite(yolo_config, train="lists/train.txt")
    assert boxes(yolo_config) == expected
    (root / "train.txt").write_text("".join(f"{root}/{line}" for line in lines))
    rewrite(yolo_config, train=["train.txt"])
    assert boxes(yolo_config) == expected

    rewrite(yolo_config, train="../images/train")  # an export written as seen from inside the split's folder
    assert boxes(yolo_config) == expected
    rewrite(yolo_config, train="images/train", path=str(root))
    assert boxes(yolo_config) == expected
    rewrite(yolo_config, path="/left/over/from/another/machine")
    assert boxes(yolo_config) == expected
    rewrite(yolo_config, path=None, names=dict(enumerate(NAMES)))
    assert boxes(yolo_config) == expected


def test_labels_beside_the_images(yolo_config: dict[str, Any]) -> None:
    expected = boxes(yolo_config)
    root = Path(yolo_config["root"])
    (root / "images" / "train").rename(root / "together")
    for label in (root / "labels" / "train").iterdir():
        label.rename(root / "together" / label.name)
    rewrite(yolo_config, train="together")
    assert boxes(yolo_config) == expected


def test_splits_are_those_stated(yolo_config: dict[str, Any]) -> None:
    assert splits(yolo_config) == ("train", "val")
    assert splits({**yolo_config, "file": None}) == ("train", "val")
    with pytest.raises(UserError, match=r"data\.test: this dataset has no split 'test'. It has: train, val"):
        load(yolo_config, "test")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("3 0.5 0.5 0.1 0.1", "class 3, expected 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1, expected 0 to 2"),
        ("0.5 0.5 0.5 0.1 0.1", "class '0.5', expected a whole number"),
        ("nan 0.5 0.5 0.1 0.1", "class 'nan', expected a whole number"),
        ("0 0.5 0.5 0.1", "4 fields, expected 'class x y width height'"),
        ("0 .1 .1 .2 .1 .2 .2", r"7 fields.*polygon"),
        ("cat 0.5 0.5 0.1 0.1", "'cat 0.5 0.5 0.1 0.1', expected five numbers"),
        ("0 0,5 0.5 0.1 0.1", "expected five numbers"),
    ],
)
def test_bad_lines_are_refused_with_their_number(yolo_config: dict[str, Any], line: str, told: str) -> None:
    (Path(yolo_config["root"]) / "labels" / "train" / "b.txt").write_text(f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(UserError, match=rf"labels/train/b\.txt:3: .*{told}"):
        load(yolo_config, "train")


def test_dirty_boxes_are_named_by_file_and_line(yolo_config: dict[str, Any]) -> None:
    file = Path(yolo_config["root"]) / "labels" / "train" / "b.txt"
    file.write_text("0 0.5 0.5 0 0.2\n0 0.5 0.5 nan 0.2\n0 320 240 50 60\n1 0.9 0.5 0.4 0.2\n2 0.5 0.5 0.5 0.5\n")
    dataset = load(yolo_config, "train")
    assert [(d.where, d.action) for d in dataset.dirt] == [
        ("b.txt:1", "dropped"),
        ("b.txt:2", "dropped"),
        ("b.txt:3", "dropped"),
        ("b.txt:4", "clipped"),
    ]
    np.testing.assert_allclose(dataset.samples[1].boxes, [[28, 24, 40, 36], [10, 15, 30, 45]], atol=1e-5)
    assert dataset.samples[1].classes.tolist() == [1, 2]


def test_names_must_be_known(yolo_config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.names: YOLO label files hold no class names"):
        load({**yolo_config, "file": None}, "train")
    with pytest.raises(UserError, match=r"data\.names: .*but data\.yaml says"):
        load({**yolo_config, "names": ["cat", "dog"]}, "train")
    rewrite(yolo_config, names={0: "cat", 2: "dog"})
    with pytest.raises(UserError, match="names must be numbered 0 to 1"):
        load(yolo_config, "train")


def test_missing_places_are_told(yolo_config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.yml: no such file \(from data\.file"):
        load({**yolo_config, "file": "data.yml"}, "train")
    rewrite(yolo_config, train="images/trian")
    with pytest.raises(UserError, match=r"images/trian: no such folder or list of images \(split 'train'"):
        load(yolo_config, "train")
    (Path(yolo_config["root"]) / "data.yaml").write_text("names: [a\ntrain: x")
    with pytest.raises(UserError, match=r"data\.yaml: not valid YAML"):
        load(yolo_config, "train")
    with pytest.raises(UserError, match="has no folder 'images'"):
        load({**yolo_config, "root": str(Path(yolo_config["root"]) / "labels"), "file": None}, "train")
