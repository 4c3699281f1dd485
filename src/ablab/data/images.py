"""Image files: their bytes to RGB pixels, or one message that names the file.

- The EXIF orientation is applied, as every viewer and annotation tool does: an annotation's width, height and boxes
  are those of the turned image.
- Grey becomes three equal channels, an alpha channel is dropped, 16-bit samples keep their high byte.
- A file that was cut short is refused. OpenCV before 5 returns such a JPEG half grey, so whether the end marker is
  there is read from the bytes (JPEG: the end-of-image marker after the first scan; PNG: every chunk and its CRC).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def decode(path: Path) -> NDArray[np.uint8]:
    """The pixels of an image file: (H, W, 3) RGB. UserError if it is missing, cut short or not an image."""
    import cv2  # here: `plan` imports this package and needs no pixels

    data = _bytes(path)
    flaw = _flaw(data)
    try:
        bgr = None if flaw else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        bgr, flaw = None, str(error).strip()
    if bgr is None:
        raise UserError(f"{path}: cannot be read as an image: {flaw or 'corrupt, or no known format'}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def size(path: Path) -> tuple[int, int]:
    """(width, height) in px of the image turned as its EXIF says, from the header alone."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            tags = image.getexif()
            # As stored: some versions of Pillow have turned a TIFF already.
            width, height = (tags[256], tags[257]) if image.format == "TIFF" else image.size
            turned = tags.get(0x0112, 1) >= 5  # orientations 5 to 8 swap the axes
    except FileNotFoundError:
        raise UserError(f"{path}: the image file is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from None
    return (height, width) if turned else (width, height)


def require(paths: list[Path]) -> None:
    """UserError naming the first of the files that are not there and how many more are missing."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: the image file is missing ({len(missing)} of the {len(paths)} images are); "
            f"check the image folder and `data.root`"
        )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: the image file is missing") from None
    except OSError as error:
        raise UserError(f"{path}: the image file cannot be read: {error.strerror}") from None


def _flaw(data: bytes) -> str | None:
    """What is missing from a JPEG or PNG, None if it is whole or of another format (its decoder judges)."""
    if not data:
        return "the file is empty"
    if data.startswith(b"\xff\xd8"):
        return _jpeg_flaw(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_flaw(data)
    return None


def _jpeg_flaw(data: bytes) -> str | None:
    # Segments are skipped by their length, since an EXIF thumbnail holds an end marker of its own. Behind the start of
    # scan 0xFF is always escaped, so the first 0xFFD9 found there is the image's end.
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return f"corrupt JPEG, no marker at byte {at}"
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xDA:
            return None if data.find(b"\xff\xd9", at) >= 0 else "JPEG cut short, no end-of-image marker"
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return "JPEG cut short in its header"


def _png_flaw(data: bytes) -> str | None:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return f"corrupt PNG, wrong checksum of chunk {kind.decode('latin-1')} at byte {at}"
        if kind == b"IEND":
            return None
        at = end
    return "PNG cut short, no end chunk"
