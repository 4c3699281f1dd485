"""What a weights.safetensors of ablab's says of its network, read without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablab.config import Override
from ablab.errors import UserError

PARTS = ("model", "stem", "backbone", "neck", "head", "head_prune", "preprocess")  # groups that say what the network is
_HEADER = 100_000_000  # bytes, safetensors' own limit


def described_by(file: Path) -> dict[str, Any]:
    """Its parts and preprocessing, and perhaps `names` of the classes and `imgsz`, px trained at; {} for any other
    file."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= _HEADER else {}
        found = json.loads(header["__metadata__"]["ablab"])
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def names_network(asked: Iterable[Override]) -> bool:
    """Whether the user says anything of the network, so that a file has no say."""
    return any(override.key.partition(".")[0] in PARTS for override in asked)


def network(says: dict[str, Any]) -> dict[str, Any]:
    """The parts and preprocessing of what a file says of its network.

    Raises UserError where it says nothing of them, or names a class that is not ablab's own: those are made at nobody's
    word but the user's.
    """
    found = {key: value for key, value in says.items() if key in PARTS and isinstance(value, dict)}
    targets = [str(part.get("_target_")) for part in found.values() if "_target_" in part]
    foreign = [target for target in targets if not target.startswith("ablab.models.")]
    if foreign or not targets:
        what = f"of a network with {foreign[0]}" if foreign else "of a network that they do not describe"
        raise UserError(f"these weights are {what}: name it with model=NAME, and its parts")
    return found
