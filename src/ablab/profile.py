"""`ablab profile`: the costs of a model, or of every one that a multirun names, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ablab.config import parse
from ablab.config.multirun import FLAGS, multirun
from ablab.console import table
from ablab.driver import measure

LEGEND = """

Of one image; 80 classes unless data is named. FLOPs = 2 × thop MACs, which count more than convolutions. fused: as
deployed, BatchNorm in the convolutions. stored: with BatchNorm's statistics, as in the files; MB = 10⁶ bytes."""
COSTS = ["input", "BatchNorm", "FLOPs (G)", "thop MACs (G)", "conv MACs", "params", "stored", "fp32 (MB)", "fp16 (MB)"]
DONE = 0


def profile_verb(words: list[str]) -> int:
    """`ablab profile [-m] key=value ...`: prints the table and returns the exit code."""
    if not set(FLAGS) & set(words):
        print(table(COSTS, list(_rows(words))) + LEGEND)
        return DONE
    rows: list[list[Any]] = []

    def job(chosen: list[str]) -> int:
        name = " ".join(word for word in chosen if word not in words)
        rows.extend([name, *row] for row in _rows(chosen))
        return DONE

    code = multirun("profile", words, job)
    print(table(["", *COSTS], rows) + LEGEND)
    return code


def _rows(words: list[str]) -> Iterator[list[Any]]:
    """Two for each input size: as it is trained, and with BatchNorm folded as it is deployed."""
    for n in measure(parse(words), {"profile"}):
        for form, key in (("unfused", ""), ("fused", "_fused")):
            yield [
                n["imgsz"],
                form,
                f"{n[f'flops{key}'] / 1e9:.4f}",
                f"{n[f'thop_macs{key}'] / 1e9:.4f}",
                f"{n[f'conv_macs{key}']:,}",
                f"{n[f'params{key}']:,}",
                f"{n[f'params_stored{key}']:,}",
                f"{n[f'size_fp32_mb{key}']:.2f}",
                f"{n[f'size_fp16_mb{key}']:.2f}",
            ]
