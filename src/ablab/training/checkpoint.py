"""Unfinished trainings in the work folder: the last epoch's state and the best EMA, each file whole or not at all.

A best EMA is written before the checkpoint whose curve says so, under its epoch, and the one before goes after that:
whenever the process is killed, the checkpoint's own best one is there.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAST = "checkpoint.pt"
FIELDS = {"model", "ema", "optimizers", "scaler", "curve", "steps"}


def save(state: dict[str, Any], work: Path) -> None:
    """Replace work/checkpoint.pt atomically: a temporary file, fsync, rename.

    Raises OSError when the disk is full or read-only.
    """
    _write(state, work, LAST)


def load(work: Path) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none. Raises ValueError if the file is damaged."""
    return _read(work / LAST, FIELDS) if (work / LAST).is_file() else None


def save_best(ema: dict[str, Tensor], epoch: int, work: Path) -> None:
    """Keep the EMA weights of `epoch` (from 1), as atomically."""
    _write({"ema": ema}, work, f"best-{epoch}.pt")


def load_best(epoch: int, work: Path) -> dict[str, Tensor]:
    """The EMA weights that were kept of `epoch`. Raises ValueError if they are damaged or not there."""
    ema: dict[str, Tensor] = _read(work / f"best-{epoch}.pt", {"ema"})["ema"]
    return ema


def forget_others(epoch: int | None, work: Path) -> None:
    """Delete what `save_best` kept of every epoch but one."""
    for path in work.glob("best-*.pt"):
        if path.name != f"best-{epoch}.pt":
            path.unlink()


def _write(state: dict[str, Any], work: Path, name: str) -> None:
    # Serialised in memory first: torch.save onto a full disk would say RuntimeError instead of OSError.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    work.mkdir(parents=True, exist_ok=True)
    temporary = work / f"{name}.tmp"
    with temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(work / name)


def _read(path: Path, fields: set[str]) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if broken := archive.testzip():  # torch.load does not look at the checksums of tensors
                raise ValueError(f"checksum of {broken}")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as RuntimeError, EOFError, UnpicklingError, KeyError, ...
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(state, dict) or set(state) != fields:
        raise ValueError(f"{path} is no checkpoint of this program")
    return state
