"""Data sets that are wrong: refused by file and place before anything is trained, or cleaned and told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from working_folder import TINY, Folder, remount

SPLITS = {"train": 4, "val": 2}
COCO = ["data=coco_json", "data.root=set"]
YOLO = ["data=yolo", "data.root=set"]
VOC = ["data=voc", "data.root=set"]
VOC_XML = (
    "<annotation><size><width>{w}</width><height>48</height></size><object><name>{name}</name>"
    "<bndbox><xmin>8</xmin><ymin>8</ymin><xmax>28</xmax><ymax>28</ymax></bndbox></object></annotation>"
)


def image(file: Path, width: int = 64, height: int = 48) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def annotations(split: str) -> dict[str, Any]:
    """Every image of a split has a box of class a or b."""
    size = {"width": 64, "height": 48}
    ids = range(1, SPLITS[split] + 1)
    return {
        "images": [{"id": i, "file_name": f"{split}{i}.jpg", **size} for i in ids],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
            for i in ids
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def coco(folder: Folder) -> Path:
    root = folder.path / "set"
    for split, count in SPLITS.items():
        for i in range(1, count + 1):
            image(root / f"images/{split}{i}.jpg")
        folder.write(f"set/{split}.json", json.dumps(annotations(split)))
    return root


def yolo(folder: Folder) -> Path:
    root = folder.path / "set"
    folder.write("set/data.yaml", "names: [a, b]\ntrain: images/train\nval: images/val\n")
    for split, count in SPLITS.items():
        for i in range(1, count + 1):
            image(root / f"images/{split}/{i}.jpg")
            folder.write(f"set/labels/{split}/{i}.txt", f"{i % 2} 0.3 0.4 0.3 0.4\n")
    return root


def voc(folder: Folder) -> Path:
    root = folder.path / "set"
    for split, count in SPLITS.items():
        names = [f"{split}{i}" for i in range(1, count + 1)]
        folder.write(f"set/ImageSets/Main/{split}.txt", "\n".join(names))
        for name in names:
            image(root / f"JPEGImages/{name}.jpg")
            folder.write(f"set/Annotations/{name}.xml", VOC_XML.format(w=64, name="ab"[len(name) % 2]))
    return root


def changed(split: str = "train", **keys: Any) -> Callable[[Path], None]:
    """A COCO set whose first annotation of a split says something else."""

    def change(root: Path) -> None:
        content = annotations(split)
        content["annotations"][0] |= keys
        (root / f"{split}.json").write_text(json.dumps(content))

    return change


def without(key: str, split: str = "train") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = annotations(split) | {"annotations": [], key: []}
        (root / f"{split}.json").write_text(json.dumps(content))

    return change


def cut(name: str, keep: float = 0.5) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: int(len(whole) * keep)])

    return change


def put(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(text.encode() if isinstance(text, str) else text) and None


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: None, ["data.root: set is not there", "expected the dataset's folder"]),
        (lambda f: (f.path / "set").mkdir(), ["data.root: set is empty"]),
        (lambda f: f.write("set", "x"), ["data.root: set is not a folder"]),
    ],
)
@pytest.mark.parametrize("verb", ["train", "data"])
@pytest.mark.parametrize("form", ["coco_json", "yolo", "voc"])
def test_no_data_in_the_root(
    folder: Folder, verb: str, form: str, make: Callable[[Folder], Any], says: list[str]
) -> None:
    make(folder)
    folder.refused(verb, f"data={form}", "data.root=set", says=says)


@pytest.mark.parametrize("form", ["coco_json", "yolo", "voc"])
def test_a_root_that_is_not_given(folder: Folder, form: str) -> None:
    folder.refused("train", f"data={form}", says=["data.root: not given", "data.root=/data/mine"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut("train.json", 0.9), ["set/train.json", "not valid JSON at line 1", "cut short?"]),
        (cut("val.json", 0.9), ["set/val.json", "not valid JSON at line 1", "cut short?"]),
        (put("train.json", "[" * 100_000), ["set/train.json", "expected COCO JSON"]),
        (put("train.json", b"\x89PNG\xff"), ["set/train.json", "not a text file"]),
        (put("train.json", "[]"), ["set/train.json", "no list 'images'"]),
        (gone("train.json"), ["set/train.json", "no such file", "data.train"]),
        (changed(image_id=99), ["set/train.json: annotation 1", "image 99", "image ids: 1, 2, 3, 4"]),
        (changed(category_id=9), ["set/train.json: annotation 1", "category 9", "category ids: 1, 2"]),
        (changed(bbox="x"), ["set/train.json: annotation 1", "bbox 'x'", "[x, y, width, height]"]),
        (changed("val", bbox=[1, 2, 3]), ["set/val.json: annotation 1", "bbox [1, 2, 3]"]),
        (without("images"), ["data.train: the split is empty"]),
        (without("images", "val"), ["data.val: the split is empty"]),
        (without("annotations"), ["data.train: no box in its 4 images"]),
        (without("annotations", "val"), ["data.val: no box in its 2 images"]),
        (without("categories"), ["set/train.json", "category names and ids"]),
        (gone("images/train1.jpg"), ["set/images/train1.jpg", "missing", "1 of the 4 images"]),
        (cut("images/train1.jpg"), ["set/images/train1.jpg", "cannot be read as an image", "cut short"]),
        (cut("images/val2.jpg", 0.05), ["set/images/val2.jpg", "cannot be read as an image", "cut short"]),
        (put("images/train2.jpg", ""), ["set/images/train2.jpg", "the file is empty"]),
        (put("images/train2.jpg", "a text"), ["set/images/train2.jpg", "cannot be read as an image"]),
        (
            lambda root: image(root / "images/train3.jpg", 30, 30),
            ["set/images/train3.jpg", "the image is 30x30 px", "annotation says 64x48"],
        ),
    ],
)
def test_a_wrong_coco_set_refuses_the_training(folder: Folder, change: Callable[[Path], None], says: list[str]) -> None:
    change(coco(folder))
    folder.refused("train", *COCO, *TINY, says=says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("labels/train/1.txt", "2 0.5 0.5 0.1 0.1\n"), ["labels/train/1.txt:1", "class 2", "expected 0 to 1"]),
        (put("labels/val/1.txt", "0 .5 .5 .1 .1\n-1 .5 .5 .1 .1\n"), ["labels/val/1.txt:2", "class -1"]),
        (put("labels/train/2.txt", "0 0.5 0.5\n"), ["labels/train/2.txt:1", "3 fields", "class x y width height"]),
        (put("labels/train/2.txt", "a 0.5 0.5 0.1 0.1\n"), ["labels/train/2.txt:1", "five numbers"]),
        (put("data.yaml", "names: [a, b\n"), ["set/data.yaml", "not valid YAML"]),
        (put("data.yaml", "names: [a, b]\ntrain: images/trian\nval: images/val\n"), ["images/trian", "no such folder"]),
        (cut("images/train/1.jpg"), ["images/train/1.jpg", "cannot be read as an image"]),
    ],
)
def test_a_wrong_yolo_set_refuses_the_training(folder: Folder, change: Callable[[Path], None], says: list[str]) -> None:
    change(yolo(folder))
    folder.refused("train", *YOLO, *TINY, says=says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut("Annotations/train2.xml"), ["Annotations/train2.xml", "not valid XML at line 1", "cut short?"]),
        (gone("Annotations/val1.xml"), ["Annotations/val1.xml", "missing"]),
        (gone("JPEGImages/val1.jpg"), ["JPEGImages/val1.jpg", "missing"]),
        (put("Annotations/train1.xml", VOC_XML.format(w="wide", name="a")), ["train1.xml", "'wide'", "a number"]),
        (put("Annotations/train1.xml", VOC_XML.format(w=65, name="a")), ["train1.jpg", "64x48", "65x48"]),
        (put("ImageSets/Main/train.txt", ""), ["data.train: the split is empty"]),
        (
            put("Annotations/train1.xml", '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'),
            ["Annotations/train1.xml", "refused"],
        ),
    ],
)
def test_a_wrong_voc_set_refuses_the_training(folder: Folder, change: Callable[[Path], None], says: list[str]) -> None:
    change(voc(folder))
    folder.refused("train", *VOC, *TINY, says=says)


def test_a_voc_class_that_is_not_listed(folder: Folder) -> None:
    voc(folder)
    folder.write("set/Annotations/train1.xml", VOC_XML.format(w=64, name="aa"))
    folder.refused("train", *VOC, "data.names=[a,b]", *TINY, says=["train1.xml: object 1", "'aa'", "Did you mean 'a'?"])


def test_a_wrong_set_refuses_a_sweep_for_every_variant_at_once(folder: Folder) -> None:
    cut("images/train1.jpg")(coco(folder))
    study = (folder.path / "sweeps/tiny.yaml").read_text()
    lines = [line for line in study.splitlines() if not line.startswith("  data")]
    folder.write("sweeps/tiny.yaml", "\n".join(lines))
    message = folder.refused("sweep", "tiny", *COCO, says=["set/images/train1.jpg"])
    assert message.count("train1.jpg") == 1


def test_an_evaluation_asks_for_no_other_split(folder: Folder) -> None:
    root = coco(folder)
    result = folder.run("train", *COCO, *TINY)
    weights = next(line for line in result.err.splitlines() if line.startswith("weights: ")).removeprefix("weights: ")
    (root / "train.json").unlink()
    shutil.rmtree(root / "images")
    for name in range(1, SPLITS["val"] + 1):
        image(root / f"images/val{name}.jpg")
    result = folder.run("eval", *COCO, *TINY, f"weights={weights}")
    assert result.code == 0, result.err
    assert result.out.splitlines()[2].endswith(f"{SPLITS['val']} |")


def test_data_decodes_every_image(folder: Folder) -> None:
    cut("images/val2.jpg")(coco(folder))
    folder.refused("data", *COCO, says=["set/images/val2.jpg", "cannot be read as an image"])


def test_dirty_boxes_are_told_by_data_and_do_not_stop_the_training(folder: Folder) -> None:
    root = coco(folder)
    content = annotations("train")
    boxes = [[8, 8, 0, 3], [8, 8, -2, 3], [8, 8, float("nan"), 3], [100, 100, 5, 5], [50, 40, 50, 50]]
    content["annotations"] += [
        {"id": 100 + i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)
    ]
    (root / "train.json").write_text(json.dumps(content))

    told = folder.run("data", *COCO)
    assert told.code == 0, told.err
    for i, what in enumerate(["has no area: dropped"] * 3 + ["outside its image of 64x48 px: dropped"]):
        assert any(f"annotation {100 + i} " in line and what in line for line in told.out.splitlines()), told.out
    assert any("annotation 104 " in line and "clipped" in line for line in told.out.splitlines())
    assert (folder.path / "reports/data/coco_json.png").stat().st_size > 1000

    trained = folder.run("train", *COCO, *TINY)
    assert trained.code == 0, trained.err
    assert "1 clipped, 4 dropped; `ablab data` names them" in trained.err
    assert folder.trainings() == 1


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_store_that_cannot_be_written_does_not_hinder_who_only_looks(folder: Folder, disk: Path, state: str) -> None:
    """What was read is remembered in the store; where that cannot be, it is read again."""
    coco(folder)
    if state == "full":
        room = os.statvfs(disk)
        (disk / "fill").write_bytes(bytes(room.f_bavail * room.f_bsize))
    else:
        remount(disk, "ro")
    before = sorted(disk.iterdir())
    result = folder.run("data", *COCO, f"store={disk}")
    assert result.code == 0, result.err
    assert sorted(disk.iterdir()) == before
