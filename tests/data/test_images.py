"""Image files of every kind against OpenCV and Pillow, and files that were cut short or damaged."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ablab.data.images import decode, size
from ablab.errors import UserError


@pytest.fixture
def picture() -> np.ndarray:
    """(40, 60, 3) RGB, smooth, each corner of its own colour."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return cv2.resize(corners, (60, 40), interpolation=cv2.INTER_LINEAR)


def test_png_is_read_exactly_in_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), picture)
    assert size(tmp_path / "a.png") == (60, 40)


def test_jpeg_agrees_with_pillow(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image).astype(int)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - expected).max() <= 3


def test_grey_alpha_and_16_bit_become_three_8_bit_channels(tmp_path: Path, picture: np.ndarray) -> None:
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    Image.fromarray(np.dstack([picture, grey])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(decode(tmp_path / "alpha.png"), picture)
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(decode(tmp_path / "deep.png"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_pixels_and_size_alike(tmp_path: Path, picture: np.ndarray, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=98, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    found = decode(tmp_path / "a.jpg")
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 4
    assert size(tmp_path / "a.jpg") == (found.shape[1], found.shape[0])
    Image.fromarray(picture).save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
    assert size(tmp_path / "a.tif") == decode(tmp_path / "a.tif").shape[1::-1] == (found.shape[1], found.shape[0])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif"])
def test_a_file_cut_in_half_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    assert decode(path).shape == (40, 60, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{name}: cannot be read as an image"):
        decode(path)


def test_the_own_check_finds_the_cut_before_any_decoder(tmp_path: Path, picture: np.ndarray) -> None:
    """Older OpenCV decodes half a JPEG to a half grey image without an error."""
    for name, told in (("a.jpg", "no end-of-image marker"), ("a.png", "no end chunk")):
        path = tmp_path / name
        Image.fromarray(picture).save(path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match=told):
            decode(path)


def test_a_thumbnails_end_marker_is_not_the_images(tmp_path: Path, picture: np.ndarray) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(picture[::4, ::4]).save(thumbnail, "jpeg")
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, comment=thumbnail.getvalue())
    assert decode(path).shape == (40, 60, 3)
    assert path.read_bytes().count(b"\xff\xd9") == 2
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="no end-of-image marker"):
        decode(path)


def test_progressive_jpeg_and_bytes_behind_the_end_are_fine(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, progressive=True)
    path.write_bytes(path.read_bytes() + b"trailing bytes")
    assert decode(path).shape == (40, 60, 3)


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="wrong checksum of chunk IDAT"):
        decode(path)


def test_missing_empty_and_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    for name, told in (
        ("none.jpg", "the image file is missing"),
        ("empty.jpg", "cannot be read as an image: the file is empty"),
        ("text.jpg", "cannot be read as an image"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {told}"):
            decode(tmp_path / name)
    for name in ("none.jpg", "empty.jpg", "text.jpg"):
        with pytest.raises(UserError, match=name):
            size(tmp_path / name)
