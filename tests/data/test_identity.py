"""The digest: the same wherever the data lies, another after any change, remembered, and cheap to ask for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablab.data import identity
from ablab.data.identity import describe
from ablab.errors import UserError

from .test_coco import Edit
from .test_readers_agree import bccd
from .test_scenes import CONF


def digest(config: dict[str, Any], cache: Path | None = None) -> str:
    """Of all splits together."""
    return " ".join(split["digest"] for split in describe(config, cache)["splits"].values())


def test_what_is_told(coco_config: dict[str, Any]) -> None:
    told = describe(coco_config, None)
    assert told["names"] == ["cat", "dog", "bird"]
    digests = {split["digest"] for split in told["splits"].values()}
    assert [len(one) for one in digests] == [64, 64]
    counts = {split: (numbers["images"], numbers["boxes"]) for split, numbers in told["splits"].items()}
    assert counts == {"train": (3, 3), "val": (1, 3)}
    json.dumps(told)


def test_a_split_is_told_apart_from_the_others(coco_config: dict[str, Any]) -> None:
    whole = describe(coco_config, None)["splits"]
    alone = describe({**coco_config, "val": None}, None)["splits"]
    assert alone == {"train": whole["train"]}


@pytest.mark.parametrize("fmt", ["coco", "yolo", "voc"])
def test_the_place_does_not_matter(fmt: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(f"{fmt}_config")
    shutil.copytree(config["root"], tmp_path / "elsewhere")
    assert digest(config) == digest({**config, "root": str(tmp_path / "elsewhere")})


def test_indentation_does_not_matter_but_every_value_does(coco_config: dict[str, Any], edit_json: Edit) -> None:
    before = digest(coco_config)
    file = Path(coco_config["root"]) / "train.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))
    assert digest(coco_config) == before
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda c: c["annotations"][0]["bbox"].__setitem__(0, 2.5),
        lambda c: c["annotations"][0].update(area=9),
        lambda c: c["annotations"][0].update(iscrowd=1),
        lambda c: c["annotations"][0].update(category_id=20),
        lambda c: c["annotations"].pop(),
        lambda c: c["images"].pop(2),
        lambda c: c["categories"][0].update(name="lion"),
    ]
    seen = {before}
    for change in changes:
        original = file.read_text()
        edit_json(coco_config, change)
        config = {**coco_config, "val": None} if "lion" in file.read_text() else coco_config
        seen.add(digest(config))
        file.write_text(original)
    assert len(seen) == len(changes) + 1
    assert digest({**coco_config, "names": ["dog", "cat", "bird"]}) not in seen
    assert digest({**coco_config, "val": None}) not in seen


@pytest.mark.parametrize("fmt", ["coco", "yolo", "voc"])
def test_every_changed_file_is_noticed_through_the_cache(
    fmt: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = request.getfixturevalue(f"{fmt}_config")
    cache = tmp_path / "cache" / "data.json"
    before = digest(config, cache)
    assert cache.is_file()
    assert digest(config, cache) == before
    root = Path(config["root"])
    image = next(p for p in sorted(root.rglob("*.png")) if p.stem == "a")
    content = image.read_bytes()
    image.write_bytes(content + b"!")
    changed = digest(config, cache)
    assert changed != before
    image.write_bytes(content)
    assert digest(config, cache) == before
    annotation = {"coco": "train.json", "yolo": "labels/train/a.txt", "voc": "Annotations/a.xml"}[fmt]
    text = (root / annotation).read_text()
    old, new = {"coco": ("18, 27", "17, 27"), "yolo": ("0 ", "1 "), "voc": ("<xmax>20<", "<xmax>19<")}[fmt]
    assert old in text
    (root / annotation).write_text(text.replace(old, new, 1))
    assert digest(config, cache) not in (before, changed)


def test_new_files_in_yolo_folders_are_noticed(yolo_config: dict[str, Any], tmp_path: Path) -> None:
    cache, root = tmp_path / "data.json", Path(yolo_config["root"])
    digests = [digest(yolo_config, cache)]
    (root / "labels" / "train" / "c.txt").write_text("0 0.5 0.5 0.5 0.5\n")  # c had none
    digests.append(digest(yolo_config, cache))
    shutil.copy(root / "images" / "train" / "a.png", root / "images" / "train" / "e.png")
    digests.append(digest(yolo_config, cache))
    assert len(set(digests)) == 3


def test_a_cached_answer_reads_nothing_and_an_uncached_one_hashes_only_what_changed(
    coco_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "data.json"
    told = describe(coco_config, cache)
    read: list[str] = []
    real = open

    def spy(path: Any, *rest: Any, **named: Any) -> Any:
        read.append(os.path.basename(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(identity, "open", spy, raising=False)
    monkeypatch.setattr("ablab.data.dataset.load", lambda *_: pytest.fail("it was read again"))
    assert describe(coco_config, cache) == told
    monkeypatch.undo()
    monkeypatch.setattr(identity, "open", spy, raising=False)
    (Path(coco_config["root"]) / "images" / "b.png").touch()
    assert describe(coco_config, cache) == told
    assert read == ["b.png"]


def test_an_older_readers_answer_is_not_trusted(
    coco_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "data.json"
    describe(coco_config, cache)
    monkeypatch.setattr(identity, "readers", lambda: "other code")
    monkeypatch.setattr("ablab.data.dataset.load", lambda *_: (_ for _ in ()).throw(RuntimeError("read again")))
    with pytest.raises(RuntimeError, match="read again"):
        describe(coco_config, cache)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3}', '{"a": {"files": {}}}'])
def test_a_damaged_cache_is_made_again(coco_config: dict[str, Any], tmp_path: Path, content: str) -> None:
    cache = tmp_path / "data.json"
    cache.write_text(content)
    assert describe(coco_config, cache) == describe(coco_config, None)
    assert len(json.loads(cache.read_text())) == 1


def test_missing_images_are_told(coco_config: dict[str, Any], tmp_path: Path) -> None:
    describe(coco_config, tmp_path / "data.json")
    (Path(coco_config["root"]) / "images" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: the image file is missing \(1 of the 3"):
        describe(coco_config, tmp_path / "data.json")


def test_splits_need_the_same_classes(coco_config: dict[str, Any], edit_json: Edit) -> None:
    edit_json(coco_config, lambda c: c["categories"].append({"id": 40, "name": "fox"}))
    with pytest.raises(UserError, match=r"data\.val: its class names are .*all splits need the same classes"):
        describe(coco_config, None)


def test_scenes_are_their_keys() -> None:
    config = yaml.safe_load(CONF.read_text())
    before = describe(config, None)
    assert before["splits"]["train"]["images"] == config["train"]
    assert digest({**config, "data_seed": 1}) != digest(config)
    assert digest({**config, "root": "/anywhere"}) == digest(config)
    assert describe({**config, "test": 0}, None)["splits"]["train"] == before["splits"]["train"]


def test_it_imports_nothing_slow(coco_config: dict[str, Any], yolo_config: dict[str, Any]) -> None:
    scenes = yaml.safe_load(CONF.read_text())
    code = (
        "import sys\nfrom ablab.data.identity import describe\n"
        f"for config in ({coco_config!r}, {yolo_config!r}, {scenes!r}): describe(config, None)\n"
        "print([m for m in ('torch', 'cv2', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_second_answer_about_bccd_reads_no_image(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache = bccd(shared_data / "bccd", "coco"), tmp_path / "data.json"
    first = describe(config, cache)

    def refuse(*_: Any) -> None:
        raise AssertionError("an image was read again")

    monkeypatch.setattr(identity, "_hashed", refuse)
    assert describe(config, cache) == first


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"names": ["cat", "dog", "bird", "fish"], "nc": 4}, lambda told: told["names"][-1] == "fish"),
        ({"names": ["dog", "cat", "bird"]}, lambda told: told["names"][0] == "dog"),
        ({"val": None}, lambda told: list(told["splits"]) == ["train"]),
    ],
)
def test_an_edited_data_yaml_is_read_again(
    yolo_config: dict[str, Any], tmp_path: Path, change: dict[str, Any], seen: Callable[[dict[str, Any]], bool]
) -> None:
    cache = tmp_path / "data.json"
    assert not seen(describe(yolo_config, cache))
    file = Path(yolo_config["root"]) / yolo_config["file"]
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    assert seen(describe(yolo_config, cache))
