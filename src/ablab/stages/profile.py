"""The profile stage: what a detector costs at one input size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.compute import check_size, memory_explained
from ablab.models.detector import build
from ablab.profiling import complexity


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The numbers of ablab.profiling.complexity.profile. Raises UserError for a size that is no multiple of
    the stride, OutOfMemoryError."""
    with memory_explained(f"imgsz={config['imgsz']}"):
        detector = build(config)
        check_size(config["imgsz"], detector.max_stride)
        return complexity.profile(detector, config["imgsz"])
