"""What a configuration leaves open, settled by the data, the files that it names and the machine, before any
fingerprint is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.config import THE_DATA, Composed, Override, compose
from ablab.errors import UserError
from ablab.store import checksum
from ablab.study import anchors, cutting, limits
from ablab.study.described import described_by, names_network, network

# data group -> {"names": [...], "splits": {"train": {"images", "boxes", "digest"}, ...}, "sizes": {"letterbox": ...}}
Describe = Callable[[dict[str, Any]], dict[str, Any]]


def settle(
    composed: Composed, overrides: Iterable[Override], describe: Describe, weights: Path | None = None
) -> dict[str, Any]:
    """A complete configuration with what the data, the files and the machine decide: classes, anchors, the content of
    `start.weights`, device, precision, threads.

    weights: a file that is evaluated rather than trained, which brings its anchors and, where the overrides say nothing
    of the network, all its parts. Raises UserError for a value out of its limits, a file that is not there, or if
    `model.classes` was set to another number than the data has.
    """
    limits.check(composed)
    config = composed.resolved
    start = _content_of_start(composed)
    description = describe(config["data"])
    names = description["names"]
    classes = config["model"]["classes"]
    if classes is not None and classes != len(names):
        raise UserError(
            f"model.classes={classes} (from {composed.origin('model.classes')}), but the data has {len(names)} "
            f"classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        )
    asked = [*overrides]
    of_the_file = weights is not None and not names_network(asked)
    if classes is None:
        asked.append(Override("model.classes", len(names), THE_DATA))
        config = compose(asked).resolved
    config = config | {"start": start}
    if config["backbone"].get("pretrained") is not None:  # training's to take over, no part of the network
        config = config | {"backbone": config["backbone"] | {"pretrained": None}}
    if weights and of_the_file:
        config = config | network(described_by(weights))
    head = anchors.settle(config, description, weights)
    engine = machine.settle(config["engine"])
    settled = config | {"head": head, "engine": engine}
    uncut = cutting.uncut(settled, asked)
    return settled | {"uncut": uncut} if uncut else settled


def _content_of_start(composed: Composed) -> dict[str, Any]:
    """The section `start`, with whole path and SHA-256 of the weights that it or `backbone.pretrained` names."""
    start: dict[str, Any] = composed.resolved["start"]
    key, named = "start.weights", start["weights"]
    if (pretrained := composed.resolved["backbone"].get("pretrained")) is not None:
        if named is not None:
            raise UserError(
                f"backbone.pretrained={pretrained} and start.weights={named}: training starts from one file"
            )
        key, named = "backbone.pretrained", pretrained
    if named is None:
        return start
    origin = composed.origin(key)
    if not isinstance(named, str):
        raise UserError(f"{key}={named} (from {origin}): expected the path of a file of weights, or null")
    file = Path(named).expanduser().resolve()
    file = file / "weights.safetensors" if file.is_dir() else file
    try:
        file.stat()
        if not file.is_file():
            raise FileNotFoundError(2, "it is no file")
        return start | {"weights": str(file), "sha256": checksum_of(file)}
    except OSError as error:
        raise UserError(
            f"{key}={named} (from {origin}): {file} cannot be read: {error.strerror}; expected a "
            "file of weights, or null to start from scratch"
        ) from None


def checksum_of(file: Path) -> str:
    """SHA-256 of a file's content, computed again only when the file has changed. Raises OSError."""
    stamp = file.stat()
    return _checksum(file, stamp.st_size, stamp.st_mtime_ns)


@cache
def _checksum(file: Path, size: int, changed: int) -> str:
    return checksum(file)
