"""Unfinished trainings: one file in the work folder, replaced after every epoch, whole or not at all."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

FIELDS = {"model", "ema", "optimizers", "curve", "steps"}


def save(state: dict[str, Any], work: Path) -> None:
    """Replace work/checkpoint.pt atomically: a temporary file, fsync, rename.

    Raises OSError when the disk is full or read-only.
    """
    # Serialised in memory first: torch.save onto a full disk would say RuntimeError instead of OSError.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    work.mkdir(parents=True, exist_ok=True)
    temporary = work / "checkpoint.pt.tmp"
    with temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(work / "checkpoint.pt")


def load(work: Path) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none. Raises ValueError if the file is damaged."""
    path = work / "checkpoint.pt"
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if broken := archive.testzip():  # torch.load does not look at the checksums of tensors
                raise ValueError(f"checksum of {broken}")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as RuntimeError, EOFError, UnpicklingError, KeyError, ...
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(state, dict) or set(state) != FIELDS:
        raise ValueError(f"{path} is no checkpoint of this program")
    return state
