"""Images of odd kinds and data sets of odd shapes, through the command line: trained on, or one clear message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from working_folder import TINY, Folder

from ablab.data.images import decode

WIDTH, HEIGHT = 60, 40
YOLO = ["data=yolo", "data.root=set"]


def picture() -> np.ndarray:
    """(40, 60, 3) RGB, smooth, each corner of its own colour."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return cv2.resize(corners, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, so 40 wide and 60 high
    return exif


def deep(file: Path) -> None:
    cv2.imwrite(str(file), picture()[..., ::-1].astype(np.uint16) * 257)


KINDS: dict[str, Callable[[Path], None]] = {
    "rgba.png": lambda file: Image.fromarray(picture()).convert("RGBA").save(file),
    "grey.png": lambda file: Image.fromarray(picture()).convert("L").save(file),
    "grey_alpha.png": lambda file: Image.fromarray(picture()).convert("LA").save(file),
    "palette.png": lambda file: Image.fromarray(picture()).convert("P").save(file),
    "grey.jpg": lambda file: Image.fromarray(picture()).convert("L").save(file, quality=95),
    "cmyk.jpg": lambda file: Image.fromarray(picture()).convert("CMYK").save(file, quality=95),
    "cmyk_turned.jpg": lambda file: Image.fromarray(picture()).convert("CMYK").save(file, quality=95, exif=turned()),
    "turned.jpg": lambda file: Image.fromarray(picture()).save(file, quality=95, exif=turned()),
    "turned.png": lambda file: Image.fromarray(picture()).save(file, exif=turned()),
    "turned.tif": lambda file: Image.fromarray(picture()).save(file, tiffinfo={0x0112: 6}),
    "deep.png": deep,
    "deep.tif": deep,
}


def data_set(folder: Folder, names: list[str], boxes: str = "0 0.5 0.5 0.5 0.5\n", classes: str = "[a]") -> None:
    """YOLO folders with images of the kinds given by `names`, each with the same boxes; val holds one."""
    folder.write("set/data.yaml", f"names: {classes}\ntrain: images/train\nval: images/val\n")
    for split, chosen in (("train", names), ("val", names[:1])):
        for number, name in enumerate(chosen):
            file = folder.path / f"set/images/{split}/{number}_{name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            KINDS[name](file)
            folder.write(f"set/labels/{split}/{file.stem}.txt", boxes)


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("deep")])
def test_pixels_and_orientation_are_pillows(tmp_path: Path, name: str) -> None:
    KINDS[name](tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = decode(tmp_path / name)
    assert found.shape == expected.shape == ((60, 40, 3) if "turned" in name else (40, 60, 3))
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_colour_keeps_its_high_byte(tmp_path: Path, name: str) -> None:
    KINDS[name](tmp_path / name)
    np.testing.assert_array_equal(decode(tmp_path / name), picture())


def test_images_of_every_kind_are_shown_and_trained_on(folder: Folder) -> None:
    data_set(folder, list(KINDS))
    told = folder.run("data", *YOLO, "schedule.imgsz=64", "augment=mosaic", "--augmented")
    assert told.code == 0, told.err
    assert f"train: {len(KINDS)} images, 0 without a box" in told.out
    assert "nothing wrong was found" in told.out
    assert "reports/data/yolo_augmented.png" in told.out
    sheet = cv2.imread(str(folder.path / "reports/data/yolo_augmented.png"))
    assert sheet.shape == (1630, 1630, 3)
    trained = folder.run("train", *YOLO, *TINY, "augment=mosaic", "augment.mixup.p=0.5", "augment.copy_paste.p=0.5")
    assert trained.code == 0, trained.err
    assert folder.trainings() == 1


@pytest.mark.parametrize(
    ("names", "boxes"),
    [
        (["grey.png"], "0 0.5 0.5 0.5 0.5\n"),  # one image, one class
        (["grey.png"] * 3, "0 0.5 0.5 1.6 1.4\n"),  # boxes larger than the image are clipped to it
        (["grey.png", "rgba.png"], "0 0.5 0.5 0.01 0.01\n"),  # and those under 2 px are not trained on
    ],
)
def test_odd_sets_are_trained_on(folder: Folder, names: list[str], boxes: str) -> None:
    data_set(folder, names, boxes)
    trained = folder.run("train", *YOLO, *TINY)
    assert trained.code == 0, trained.err
    assert folder.trainings() == 1
    assert ("clipped" in trained.err) == ("1.6" in boxes)


def test_a_set_without_boxes_is_refused(folder: Folder) -> None:
    data_set(folder, ["grey.png", "cmyk.jpg"], boxes="")
    folder.refused("train", *YOLO, *TINY, says=["data.train: no box in its 2 images"])


def test_augmentations_of_a_look_at_the_data_are_checked(folder: Folder) -> None:
    data_set(folder, ["grey.png"])
    folder.refused("data", *YOLO, "--augmented", "augment.hsv.p=2", says=["augment.hsv.p=2", "a number from 0 to 1"])
    folder.refused("data", *YOLO, "--augment", says=["ablab data: no such option", "--augmented"])


def test_one_image_at_the_networks_stride_is_refused(folder: Folder) -> None:
    """BatchNorm has no variance of one number."""
    data_set(folder, ["grey.png"])
    result = folder.run("train", *YOLO, *TINY, "schedule.imgsz=32", "eval.resolutions=[64]")
    assert result.code == 1
    assert "imgsz=32: one image at a time" in result.err
    small = folder.run("train", *YOLO, *TINY, "schedule.imgsz=64", "schedule.scales=[0.5,1.0]")
    assert "imgsz=32: one image at a time" in small.err
    assert "imgsz of 64 at least" in result.err
    assert "Traceback" not in result.err
    assert folder.trainings() == 0
