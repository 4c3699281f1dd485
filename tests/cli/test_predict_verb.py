"""`ablab predict` on images, folders and videos, whole and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from working_folder import TINY, Folder

from ablab.config import compose, parse
from ablab.data import dataset
from ablab.data.letterbox import fit
from ablab.models.detector import build
from ablab.training import weights

FRAMES = 8


def picture(seed: int, width: int = 96, height: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (width, height))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained network of three classes, images in folders, and videos in several states."""
    folder = tmp_path_factory.mktemp("files")
    config = compose(parse([*TINY, "model.classes=3"])).resolved
    torch.manual_seed(0)
    detector = build(config)
    for bias in detector.head._biases():  # boxes with scores around a half, of different classes
        bias[:, 4:] = torch.randn_like(bias[:, 4:]) + 2
    weights.save(detector, config | {"names": ["ant", "bee", "cow"]}, folder / "w.safetensors")
    weights.save(detector, config, folder / "nameless.safetensors")
    (folder / "images/deep").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/b.png"), picture(0))
    cv2.imwrite(str(folder / "images/deep/a.JPG"), picture(1))
    cv2.imwrite(str(folder / "images/c.bmp"), picture(2, 50, 120))
    (folder / "images/notes.txt").write_text("not an image")
    writer = cv2.VideoWriter(str(folder / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for i in range(FRAMES):
        writer.write(picture(i))
    writer.release()
    whole = (folder / "v.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    riff = whole.index(b"movi")
    starts = []
    at = whole.find(b"00dc", riff)
    while len(starts) < FRAMES:
        starts.append(at)
        at = whole.find(b"00dc", at + 4)
    holed = bytearray(whole)
    for number in (2, 3):
        holed[starts[number] + 8 : starts[number + 1] - 8] = bytes(starts[number + 1] - starts[number] - 16)
    (folder / "holed.avi").write_bytes(holed)
    empty = cv2.VideoWriter(str(folder / "empty.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    empty.release()
    (folder / "text.avi").write_text("These are moving pictures, honestly.\n" * 50)
    return folder


def rows(folder: Folder, out: str = "reports/predict") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder.path / out / "predictions.json").read_text())
    return found


def run(folder: Folder, files: Path, source: str, *words: str) -> Any:
    weighted = [] if any(word.startswith("weights=") for word in words) else [f"weights={files / 'w.safetensors'}"]
    small = ["imgsz=64", "engine.threads=1", "engine.precision=fp32"]
    return folder.run("predict", *small, f"source={files / source}", *weighted, *words)


def test_a_folder_of_images(bare: Folder, files: Path) -> None:
    result = run(bare, files, "images")
    assert result.code == 0, result.err
    found = rows(bare)
    assert f"{len(found)} boxes with a score above 0.25 on 3 images" in result.out
    assert list(dict.fromkeys(row["file"] for row in found)) == ["b.png", "c.bmp", "deep/a.JPG"]
    assert {row["class"] for row in found} <= {"ant", "bee", "cow"}
    for row in found:
        assert row["frame"] is None
        assert 0.25 < row["score"] <= 1
        x1, y1, x2, y2 = row["box"]
        width, height = (50, 120) if row["file"] == "c.bmp" else (96, 64)
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
    out = bare.path / "reports/predict"
    assert cv2.imread(str(out / "c.bmp.png")).shape == (120, 50, 3)
    drawn = cv2.imread(str(out / "b.png"))
    assert drawn.shape == (64, 96, 3)
    assert (drawn != picture(0)).any()
    assert (out / "deep/a.JPG").is_file()
    again = run(bare, files, "images", "conf=0.99999")
    assert again.code == 0
    assert rows(bare) == []
    assert (cv2.imread(str(out / "b.png")) == picture(0)).all()


def test_the_boxes_are_the_networks(bare: Folder, files: Path) -> None:
    """The best box of an image, worked out from the parts."""
    assert run(bare, files, "images/b.png", "conf=0.0").code == 0
    best = max(rows(bare), key=lambda row: row["score"])
    config = compose(parse([*TINY, "model.classes=3"])).resolved
    detector = build(config).eval()
    weights.load(detector, config, files / "w.safetensors")
    image, placement = fit(cv2.imread(str(files / "images/b.png"))[..., ::-1], 64)
    with torch.no_grad():
        boxes, scores = detector.decode(detector(torch.tensor(image / 255.0).permute(2, 0, 1)[None].float()))
    place, kind = divmod(int(scores[0].argmax()), 3)
    assert best["score"] == pytest.approx(float(scores[0].max()), abs=1e-5)
    assert best["class"] == ["ant", "bee", "cow"][kind]
    expected = placement.to_image(boxes[0, place : place + 1].numpy())[0].reshape(2, 2).clip(0, (96, 64)).flatten()
    assert best["box"] == pytest.approx(expected.tolist(), abs=0.01)


def test_a_video(bare: Folder, files: Path) -> None:
    result = run(bare, files, "v.avi", "out=drawn", "eval.batch=3", "conf=0.0")
    assert result.code == 0, result.err
    assert f"{FRAMES} frames: drawn" in result.out
    found = rows(bare, "drawn")
    assert sorted({row["frame"] for row in found}) == list(range(FRAMES))
    assert {row["file"] for row in found} == {"v.avi"}
    video = cv2.VideoCapture(str(bare.path / "drawn/v.avi.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert video.get(cv2.CAP_PROP_FPS) == 10
    assert video.read()[1].shape == (64, 96, 3)
    frame = cv2.VideoCapture(str(files / "v.avi")).read()[1]
    cv2.imwrite(str(bare.path / "frame.png"), frame)
    assert bare.run("predict", "imgsz=64", "engine.precision=fp32", f"weights={files / 'w.safetensors'}", "conf=0.0",
                    "source=frame.png").code == 0  # fmt: skip
    alone = [(row["box"], row["class"]) for row in rows(bare)][:5]
    assert [(row["box"], row["class"]) for row in found if row["frame"] == 0][:5] == alone


@pytest.mark.parametrize(("video", "kept"), [("cut.avi", None), ("holed.avi", [0, 1, 4, 5, 6, 7])])
def test_broken_frames_are_skipped_and_counted(bare: Folder, files: Path, video: str, kept: list[int] | None) -> None:
    result = run(bare, files, video, "conf=0.0")
    assert result.code == 0, result.err
    frames = sorted({row["frame"] for row in rows(bare)})
    assert frames == (kept or list(range(len(frames))))
    assert 0 < len(frames) < FRAMES
    lost = FRAMES - len(frames)
    assert f"{video}: {lost} of {FRAMES} frames are broken or missing" in result.out
    assert len(result.out.splitlines()) == 2


def test_one_broken_image_of_a_folder(bare: Folder, files: Path) -> None:
    shutil.copytree(files / "images", bare.path / "images")
    whole = (files / "images/b.png").read_bytes()
    bare.write("images/b.png", whole[:-50])
    result = bare.run("predict", "imgsz=64", f"weights={files / 'w.safetensors'}", "source=images")
    assert result.code == 0, result.err
    assert "skipped: images/b.png: cannot be read as an image: PNG cut short" in result.out
    assert "on 2 images" in result.out


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("images/notes.txt", ["notes.txt", "neither an image nor a video", ".mp4"]),
        ("nowhere", ["nowhere", "no such file or folder"]),
        ("empty.avi", ["empty.avi", "no frame can be read"]),
        ("text.avi", ["text.avi", "no frame can be read"]),
    ],
)
def test_sources_that_are_none(bare: Folder, files: Path, source: str, says: list[str]) -> None:
    bare.refused("predict", "imgsz=64", f"weights={files / 'w.safetensors'}", f"source={files / source}", says=says)


def test_other_mistakes(bare: Folder, files: Path) -> None:
    (bare.path / "bare").mkdir()
    bare.write("bare/notes.txt", "nothing to see")
    ours, image = f"weights={files / 'w.safetensors'}", f"source={files / 'images/b.png'}"
    for words, says in (
        ([ours, "source=bare"], ["source=bare", "no image or video in this folder"]),
        ([ours], ["name the source"]),
        ([image], ["name the weights"]),
        (["weights=no.safetensors", image], ["weights=no.safetensors", "there is no file"]),
        ([ours, image, "conf=1.5"], ["conf=1.5", "from 0 to below 1"]),
        ([ours, image, "imgsz=50"], ["imgsz=50", "multiple of 32"]),
        ([ours, image, "imgsz=big"], ["imgsz=big", "whole number"]),
        ([ours, image, "model=v5lite_s"], ["w.safetensors", "this network expects"]),
        ([ours, image, "engine.precison=fp32"], ["precison", "precision"]),
        ([ours, image, f"out={files / 'images'}"], ["would overwrite"]),
    ):
        bare.refused("predict", *words, says=says)


def test_whose_network_and_classes(bare: Folder, files: Path) -> None:
    words = ["imgsz=64", "engine.precision=fp32", f"source={files / 'images/b.png'}"]
    nameless = f"weights={files / 'nameless.safetensors'}"
    assert bare.run("predict", *words, nameless).code == 0
    assert {row["class"] for row in rows(bare)} <= {"0", "1", "2"}
    expected = rows(bare)
    tensors = safetensors.torch.load_file(files / "w.safetensors")
    safetensors.torch.save_file(tensors, bare.path / "foreign.safetensors")  # without a word of what it is
    bare.refused("predict", *words, "weights=foreign.safetensors", says=["do not describe", "model=NAME"])
    network = ["model=yolov5n", "model.width=0.125", "model.depth=0.1", "model.classes=3"]
    assert bare.run("predict", *words, "weights=foreign.safetensors", *network).code == 0
    assert rows(bare) == expected
    safetensors.torch.save_file(
        tensors, bare.path / "trap.safetensors", {"ablab": json.dumps({"head": {"_target_": "antigravity.Head"}})}
    )
    bare.refused("predict", *words, "weights=trap.safetensors", says=["antigravity.Head", "name it"])
    safetensors.torch.save_file(tensors, bare.path / "damaged.safetensors", {"ablab": "{"})
    bare.refused("predict", *words, "weights=damaged.safetensors", says=["damaged.safetensors", "is damaged"])


def test_names_come_from_the_data_that_is_named(bare: Folder, files: Path) -> None:
    data = dataset.load(tiny.config()["data"], "val")
    config = compose(parse([*TINY, f"model.classes={len(data.names)}"])).resolved
    torch.manual_seed(0)
    detector = build(config)
    for bias in detector.head._biases():
        bias[:, 4:] = 2
    weights.save(detector, config, bare.path / "ten.safetensors")
    words = ["imgsz=64", f"source={files / 'images/b.png'}", "data=scenes", "data.size=64"]
    assert bare.run("predict", *words, "weights=ten.safetensors").code == 0
    assert rows(bare)
    assert {row["class"] for row in rows(bare)} <= set(data.names)
    bare.refused("predict", *words, f"weights={files / 'nameless.safetensors'}", says=["10 class names", "3 classes"])


def test_what_was_found_before_stays_until_there_is_more(folder: Folder, files: Path) -> None:
    assert run(folder, files, "images/b.png").code == 0
    before = rows(folder)
    result = run(folder, files, "text.avi")
    assert result.code == 2
    assert rows(folder) == before
    assert not list(folder.path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("imgz=64", ["unknown key 'imgz'", "Did you mean 'imgsz'?"]),
        ("imgsz=0", ["imgsz=0"]),
        ("out=taken", ["out=taken", "no folder can be made there"]),
    ],
)
def test_words_that_cannot_be_meant(folder: Folder, files: Path, word: str, says: list[str]) -> None:
    folder.write("taken", "a file")
    result = run(folder, files, "images/b.png", word)
    assert result.code == 2
    assert all(one in result.err for one in says), result.err
