"""What identifies a dataset: a digest of everything training or evaluation can see of it, and how big it is.

The digest covers the classes and, for every split and image, its name, size, boxes, classes, crowd flags, areas and
the SHA-256 of the image file. It is taken of what the reader made, so where the files lie does not enter it, nor how
the JSON is indented. Generated scenes are identified by their keys.

`ablab plan` asks for it on every call, so it is remembered, with the size and modification time of every file and
folder it was read from; while none of them changes, nothing is read again. Nothing here imports torch or OpenCV.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.errors import UserError

if TYPE_CHECKING:
    from ablab.data.form import Dataset

Stamp = tuple[int, int] | None  # size in bytes and mtime in ns; None: not there
Files = dict[str, list[Any] | None]  # path -> [size, mtime, SHA-256 of an image or None], None: not there


def describe(config: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """{"names": [...], "splits": {"train": {"images": n, "boxes": n, "digest": sha256}, ...}, "sizes": ...} of data.

    sizes: for each way to resize (letterbox.RESIZES) the sizes of train's boxes, as ablab.data.anchors describes them.

    Files of no format that we read (format: files, paths: files and folders) are one split "files" without names.

    config: a conf/data file as a dict. cache: the JSON file to remember it in. Raises UserError for everything wrong
    with the dataset, missing image files too (that they decode is the data stage's to find out).
    """
    if config.get("format") == "scenes":
        from ablab.data import anchors, scenes
        from ablab.data.letterbox import RESIZES

        splits = scenes.describe(config)
        sizes = anchors.described(scenes.box_sizes(config, anchors.REFERENCE)) if "train" in splits else ""
        return {"names": list(scenes.names(config)), "splits": splits, "sizes": dict.fromkeys(RESIZES, sizes)}

    began = time.time_ns()
    remembered = _remembered(cache)
    key = _sha(_canonical([config, os.getcwd()]))
    entry = remembered.get(key)
    if entry and entry["readers"] == readers() and _unchanged(entry["files"]):
        description: dict[str, Any] = entry["description"]
        return description

    known = {path: file for other in remembered.values() for path, file in other["files"].items()}
    if config.get("format") == "files":
        files, description = _plain_files(config["paths"], known)
    else:
        files, description = _dataset(config, known)
    if all(file is None or file[1] < began for file in files.values()):  # else it changed while it was being read
        remembered[key] = {"readers": readers(), "files": files, "description": description}
        _remember(cache, remembered)
    return description


def _dataset(config: dict[str, Any], known: Files) -> tuple[Files, dict[str, Any]]:
    from ablab.data import anchors
    from ablab.data.dataset import load, splits
    from ablab.data.letterbox import RESIZES

    datasets = {split: load(config, split) for split in splits(config)}
    if not datasets:
        raise UserError(f"data: no split is given, expected train, val or test in {config}")
    _same_classes(datasets)
    files: Files = {}
    for dataset in datasets.values():
        for source in dataset.sources:
            stamp = _stamp(source)
            files[str(source)] = [*stamp, None] if stamp else None
        for sample in dataset.samples:
            if sample.path:
                files[str(sample.path)] = _hashed(sample.path, known)
    description = {
        "names": list(next(iter(datasets.values())).names),
        "splits": {
            split: {
                "images": len(d.samples),
                "boxes": sum(len(s.boxes) for s in d.samples),
                "digest": _digest(split, d, files),
            }
            for split, d in datasets.items()
        },
        "sizes": {
            resize: anchors.described(anchors.box_sizes(datasets["train"], resize, anchors.REFERENCE))
            for resize in RESIZES
            if "train" in datasets
        },
    }
    return files, description


def _plain_files(paths: list[str], known: Files) -> tuple[Files, dict[str, Any]]:
    """What files and folders hold: the bytes count, and within a folder the names."""
    files: Files = {}
    whole = hashlib.sha256()
    for given in map(Path, paths):
        if not given.exists():
            raise UserError(f"data: {given}: there is no such file or folder in {Path.cwd()}")
        inside = sorted(path for path in given.rglob("*") if path.is_file()) if given.is_dir() else [given]
        for path in inside:
            files[str(path)] = hashed = _hashed(path, known)
            whole.update(_canonical([str(path.relative_to(given)), hashed[2]]))
        if given.is_dir():  # a folder's own time changes when a file comes or goes
            for folder in (given, *(path for path in given.rglob("*") if path.is_dir())):
                stamp = _stamp(folder)
                files[str(folder)] = [*stamp, None] if stamp else None
    count = sum(1 for file in files.values() if file and file[2])
    return files, {"names": [], "splits": {"files": {"files": count, "digest": whole.hexdigest()}}}


def _digest(split: str, dataset: Dataset, files: Files) -> str:
    whole = hashlib.sha256(_canonical([split, dataset.names, dataset.category_ids]))
    for s in dataset.samples:
        file = files[str(s.path)]
        whole.update(_canonical([s.id, s.name, s.width, s.height, file and file[2], len(s.boxes)]))
        for column, kind in ((s.boxes, "<f4"), (s.classes, "<i8"), (s.crowd, "|b1"), (s.area, "<f8")):
            whole.update(column.astype(kind).tobytes())
    return whole.hexdigest()


def _hashed(path: Path, known: Files) -> list[Any]:
    """[size, mtime, SHA-256 of the bytes] of a file, from `known` if size and time are those it had then."""
    stamp = _stamp(path)
    before = known.get(str(path))
    if before and before[2] and stamp == tuple(before[:2]):
        return before
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error.strerror}") from None
    assert stamp, "a file that was read is there"
    return [*stamp, digest]


def _unchanged(files: Files) -> bool:
    return all(_stamp(path) == (file and (file[0], file[1])) for path, file in files.items())


def _same_classes(datasets: dict[str, Dataset]) -> None:
    first, *others = datasets
    for other in others:
        for what in ("names", "category_ids"):
            a, b = getattr(datasets[first], what), getattr(datasets[other], what)
            if a != b:
                raise UserError(
                    f"data.{other}: its class {what.replace('_', ' ')} are {list(b)}, those of data.{first} {list(a)}; "
                    f"all splits need the same classes"
                )


def readers() -> str:
    """A digest of this package's source: what an older reader made of the files is not to be trusted."""
    return _sha(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def _stamp(path: str | Path) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _remembered(cache: Path | None) -> dict[str, Any]:
    """{key: {"readers", "files": {path: [size, mtime, SHA-256 of an image] or None}, "description"}} from the cache.

    Nothing if it is not there or was damaged: it can always be made again.
    """
    try:
        content = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
        whole = all(entry.keys() == {"readers", "files", "description"} for entry in content.values())
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(content) if whole else {}


def _remember(cache: Path | None, content: dict[str, Any]) -> None:
    if cache is None:
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
    except OSError:  # read-only or full: the next call reads everything again
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        os.replace(name, cache)  # whole or not at all: another process may be reading it
    except OSError:
        os.unlink(name)
