"""The verb `predict`: a detector's boxes on the user's own images, folders and video files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab import machine
from ablab.config import Override, compose, groups, parse
from ablab.driver import describe_data, reports_folder
from ablab.errors import UserError, nearest
from ablab.study.described import names_network, network

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))  # that OpenCV's wheels can write, best first
GIVE_UP = 100  # broken frames in a row
OWN = {"weights": None, "source": None, "out": None, "conf": 0.25, "imgsz": None}


@dataclass(frozen=True)
class Picture:
    """An image file, or a frame of a video file, which counts from 0."""

    file: Path
    frame: int | None
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB


def predict_verb(words: list[str]) -> int:
    """Write what `ablab predict` found, drawn and as predictions.json; returns the exit code.

    Raises UserError for weights, sources and keys that cannot be meant, and if nothing at all could be read.
    """
    asked = parse(words)
    own: dict[str, Any] = OWN | {o.key: o.value for o in asked if o.key in OWN}
    asked = [override for override in asked if override.key not in OWN]
    for override in asked:
        if "." not in override.key and override.key not in groups():
            raise UserError(f"unknown key '{override.key}': {nearest(override.key, (*OWN, *groups()))}")
    weights, source = (_path(own, key) for key in ("weights", "source"))
    weights = weights / "weights.safetensors" if weights.is_dir() else weights
    conf = own["conf"]
    if isinstance(conf, bool) or not isinstance(conf, int | float) or not 0 <= conf < 1:
        raise UserError(f"conf={conf}: expected a number from 0 to below 1")

    from ablab.training.weights import description

    if not weights.is_file():
        raise UserError(f"weights={own['weights']}: there is no file {weights}")
    says = description(weights) or {}
    trained = says.pop("imgsz", None)
    config, names = _configuration(asked, says)
    out = Path(str(own["out"])) if own["out"] else reports_folder(config, "predict")
    files = _files(source, out)
    sized = any(override.key in ("eval.resolutions", "schedule.imgsz") for override in asked)
    imgsz = own["imgsz"]
    if imgsz is None:
        imgsz = (None if sized else trained) or config["eval"]["resolutions"][0]
    detect = _detector(config, weights, imgsz, conf)

    found = 0
    read = {"images": 0, "frames": 0}
    broken: list[str] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: no folder can be made there: {error.strerror}") from None
    unfinished = out / "predictions.json.tmp"  # what an earlier run found stays until this one is done
    with unfinished.open("w") as table:
        table.write("[")
        for file in files:
            place = Path(file.name) if source.is_file() else file.relative_to(source)
            pictures = _read(file, broken)
            for row, frames in _drawn(pictures, place, out, names, detect, config["eval"]["batch"]):
                for one in row:
                    table.write(f"{',' if found else ''}\n{json.dumps(one, ensure_ascii=False)}")
                    found += 1
                read["images" if frames is None else "frames"] += 1
        table.write("\n]\n")
    for line in broken:
        print(f"skipped: {line}")
    if not sum(read.values()):
        unfinished.unlink()
        raise UserError(f"source={own['source']}: nothing of it could be read ({broken[0]})")
    unfinished.replace(out / "predictions.json")
    seen = ", ".join(f"{count} {what}" for what, count in read.items() if count)
    print(f"{found} boxes with a score above {conf} on {seen}: {out}")
    return 0


def _path(own: dict[str, Any], key: str) -> Path:
    if own[key] is None:
        raise UserError(f"name the {key}: ablab predict weights=FILE source=PATH")
    return Path(str(own[key])).expanduser()


def _configuration(asked: list[Override], says: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The configuration, and the names of the classes, or else their numbers.

    What the file says of its network holds where the command line says nothing. Only classes of ablab's own are made
    at a file's word: another one must be named by the user.
    """
    from ablab.study import limits

    groups = {override.key.partition(".")[0] for override in asked}
    composed = compose(asked)
    limits.check(composed)
    config = composed.resolved
    names = says.pop("names", None)
    if names is None and "data" in groups:
        names = describe_data(config)(config["data"])["names"]
    head = says.get("head", {})
    if not names_network(asked):
        config |= network(says)
    else:
        if config["model"]["classes"] is None:
            classes = len(names) if names else head.get("classes", 80)
            config = compose([*asked, Override("model.classes", classes, "the weights")]).resolved
        if "anchors" in head and "head.anchors" not in [override.key for override in asked]:
            config["head"] = config["head"] | {"anchors": head["anchors"]}  # which the data may have decided
    classes = config["head"].get("classes", 0)
    if names and len(names) != classes:
        raise UserError(
            f"{len(names)} class names were found ({', '.join(names[:5])}), the network has {classes} classes"
        )
    names = list(names or map(str, range(classes)))
    engine = config["engine"]
    threads = machine.cores() if engine["threads"] is None else engine["threads"]
    return config | {"engine": machine.settle(engine | {"threads": threads})}, names


def _detector(
    config: dict[str, Any], weights: Path, imgsz: Any, conf: float
) -> Callable[[list[Picture]], list[tuple[NDArray[Any], ...]]]:
    """A function from pictures to boxes (n, 4) in px of each, scores (n,) and classes (n,)."""
    from ablab.compute import check_size, memory_explained, prepare
    from ablab.data.letterbox import fit
    from ablab.data.loader import as_tensor
    from ablab.evaluation.predict import detect, engine_of
    from ablab.models.detector import build, fuse
    from ablab.training.weights import load

    if type(imgsz) is not int:
        raise UserError(f"imgsz={imgsz}: expected a whole number of px")
    compute, preprocess = prepare(engine_of(config["eval"], config["engine"])), config["preprocess"]
    detector = build(config)
    check_size(imgsz, detector.max_stride)
    load(detector, config, weights)
    detector = fuse(detector)
    compute.place(detector)
    keys = (preprocess["pad"], preprocess["resize"], preprocess.get("interpolation", "area"))
    settings = config["eval"] | {"conf": conf, "clip": True}

    def function(pictures: list[Picture]) -> list[tuple[NDArray[Any], ...]]:
        with memory_explained(f"eval.batch={settings['batch']} at imgsz={imgsz}"):
            fitted = [fit(picture.pixels, imgsz, *keys) for picture in pictures]
            images = as_tensor(np.stack([image for image, _ in fitted]), preprocess)
            sizes = [(picture.pixels.shape[1], picture.pixels.shape[0]) for picture in pictures]
            placements = [placement for _, placement in fitted]
            found = detect(detector, images, sizes, placements, compute, preprocess, settings)
            return [_with_area(*one) for one in found]

    return function


def _with_area(*columns: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Boxes, scores and classes without those that lie beyond the image's edge, where nothing of them is left."""
    sides = columns[0][:, 2:] - columns[0][:, :2]
    return tuple(column[(sides > 0).all(1)] for column in columns)


def _files(source: Path, out: Path) -> list[Path]:
    """The images and videos of a file or a folder, sorted; what lies in `out` is what was written before."""
    from ablab.data.images import SUFFIXES

    known = (*SUFFIXES, *VIDEOS)
    expected = f"expected an image ({', '.join(SUFFIXES)}), a video ({', '.join(VIDEOS)}) or a folder of them"
    if source.is_file():
        if source.suffix.lower() not in known:
            raise UserError(f"source={source}: neither an image nor a video; {expected}")
        if source.resolve().parent == out.resolve():
            raise UserError(f"out={out}: the drawn boxes would overwrite {source}; name another folder")
        return [source]
    if not source.is_dir():
        raise UserError(f"source={source}: there is no such file or folder; {expected}")
    written = out.resolve()
    if source.resolve().is_relative_to(written):
        raise UserError(f"out={out}: the drawn boxes would overwrite what is in {source}; name another folder")
    files = [f for f in sorted(source.rglob("*")) if f.suffix.lower() in known and f.is_file()]
    files = [file for file in files if not file.resolve().is_relative_to(written)]
    if not files:
        raise UserError(f"source={source}: there is no image or video in this folder; {expected}")
    return files


def _read(file: Path, broken: list[str]) -> Iterator[Picture]:
    """An image, or a video's frames one by one; a line to `broken` for what cannot be read."""
    from ablab.data.images import decode

    if file.suffix.lower() in VIDEOS:
        yield from _frames(file, broken)
        return
    try:
        yield Picture(file, None, decode(file))
    except UserError as error:
        broken.append(str(error))


def _frames(file: Path, broken: list[str]) -> Iterator[Picture]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg prints a line for every broken frame
    import cv2

    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    video = cv2.VideoCapture(str(file))
    try:
        claimed = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
        number = lost = in_a_row = 0
        # A broken frame reads like the end, so the end is where nothing comes behind the number claimed.
        while (number < claimed and in_a_row < GIVE_UP) or not in_a_row:
            whole, bgr = video.read()
            if whole:
                in_a_row = 0
                yield Picture(file, number, np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
            else:
                in_a_row += 1
                lost += number < claimed
            number += 1
    finally:
        video.release()
        cv2.utils.logging.setLogLevel(level)
    lost = max(lost, claimed - (number - in_a_row)) if in_a_row >= GIVE_UP else lost
    if number == in_a_row:
        broken.append(f"{file}: no frame can be read")
    elif lost:
        broken.append(f"{file}: {lost} of {claimed} frames are broken or missing")


def _drawn(
    pictures: Iterator[Picture],
    place: Path,
    out: Path,
    names: list[str],
    detect: Callable[[list[Picture]], list[tuple[NDArray[Any], ...]]],
    batch: int,
) -> Iterator[tuple[list[dict[str, Any]], int | None]]:
    """Draw what is found, in batches; of each picture its rows for predictions.json and its frame number."""
    from ablab.data import draw

    drawing = None
    try:
        for some in _batches(pictures, batch):
            for picture, (boxes, scores, classes) in zip(some, detect(some), strict=True):
                drawn = draw.predictions(picture.pixels, boxes, scores, classes, names)
                if picture.frame is None:
                    _write_image(drawn, out / place)
                else:
                    drawing = drawing or _Video(out / place, picture)
                    drawing.write(drawn)
                found = zip(boxes.round(3).tolist(), scores.round(6).tolist(), classes.tolist(), strict=True)
                what = {"file": str(place), "frame": picture.frame}
                yield [what | {"class": names[k], "box": box, "score": score} for box, score, k in found], picture.frame
    finally:
        if drawing:
            drawing.close()


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    some: list[Picture] = []
    for picture in pictures:
        some.append(picture)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _write_image(pixels: NDArray[np.uint8], file: Path) -> None:
    """As JPEG or PNG where it was one, else as PNG beside its whole name."""
    import cv2

    kept = file.suffix.lower() in (".jpg", ".jpeg", ".png")
    file = file if kept else file.with_name(f"{file.name}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    whole, data = cv2.imencode(file.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert whole, "OpenCV encodes any 8-bit image"
    file.write_bytes(data.tobytes())


class _Video:
    """A video file with the size and speed of another one, in the first codec that works."""

    def __init__(self, place: Path, first: Picture) -> None:
        import cv2

        height, width = first.pixels.shape[:2]
        source = cv2.VideoCapture(str(first.file))
        rate = source.get(cv2.CAP_PROP_FPS)
        source.release()
        place.parent.mkdir(parents=True, exist_ok=True)
        for suffix, codec in CODECS:
            file = place.with_name(f"{place.name}{suffix}") if place.suffix.lower() != suffix else place
            code = cv2.VideoWriter.fourcc(*codec)
            rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else 25.0
            self._writer = cv2.VideoWriter(str(file), code, rate, (width, height))
            if self._writer.isOpened():
                return
        raise UserError(f"{place}: OpenCV cannot write a video there")

    def write(self, pixels: NDArray[np.uint8]) -> None:
        import cv2

        self._writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
