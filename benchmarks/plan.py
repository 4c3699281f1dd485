"""What `ablab plan` costs: a small study against `import torch`, and studies of 1,000 and 10,000 variants.

python benchmarks/plan.py [runs] [variants ...]

Goals: at most 0.6 of the time that `import torch` takes; 1,000 variants in 5 s; 10,000 in 45 s and 1 GB of memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ABLAB = [sys.executable, "-m", "ablab.cli"]
PLAN = [*ABLAB, "plan", "study=quickstart"]
TORCH = [sys.executable, "-c", "import torch"]
GOALS = {1_000: "5 s", 10_000: "45 s and 1,000 MB"}


def seconds(command: list[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def cost(command: list[str], folder: str) -> tuple[float, float, float]:
    """Wall and processor seconds of a command, and its peak resident memory in MB; it alone: waited for by its id."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    took = time.perf_counter() - started
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss * resource_unit() / 1e6


def resource_unit() -> int:
    """Bytes in one unit of `ru_maxrss`: macOS counts bytes, all others KiB."""
    return 1 if sys.platform == "darwin" else 1024


def write_study(folder: Path, variants: int, name: str = "large") -> None:
    """A grid of `variants` (a multiple of 200) over choices, a knob that parts interpolate, and plain values."""
    rates = variants // 200
    factors = {
        "stem": {stem: {"stem": stem} for stem in ("focus", "conv6x6", "conv3x3", "conv3x3_pool")},
        "optim": {optim: {"optim": optim} for optim in ("sgd", "adamw")},
        "c3_count": {str(count): {"neck.c3.count": count} for count in range(1, 6)},
        "head": {str(ratio): {"head_prune.ratio": ratio} for ratio in (0.0, 0.2, 0.4, 0.6, 0.8)},
        "rate": {f"{step}e-4": {"optim.lr": step * 1e-4} for step in range(1, rates + 1)},
    }
    base = {"model": "yolov5n", "data": "scenes", "schedule": "constant", "schedule.imgsz": 96}
    base |= {"schedule.epochs": [2, 1, 1]}
    study = {"question": f"What do {variants} plan like?", "base": base, "factors": factors, "design": "grid"}
    (folder / "sweeps").mkdir(exist_ok=True)
    text = yaml.safe_dump(study | {"seeds": [0], "measure": {"resolutions": [96]}}, sort_keys=False)
    (folder / "sweeps" / f"{name}.yaml").write_text(text)


def against_torch(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for command in (PLAN, TORCH):
            seconds(command, folder)  # disk caches warm for both
        pairs = [(seconds(PLAN, folder), seconds(TORCH, folder)) for _ in range(runs)]
    ratios = sorted(plan / torch for plan, torch in pairs)
    print(f"plan         median {statistics.median(p for p, _ in pairs):.2f} s")
    print(f"import torch median {statistics.median(t for _, t in pairs):.2f} s")
    print(
        f"ratio        median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) over {runs} pairs"
    )


def large(variants: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder), variants)
        took, busy, memory = cost([*ABLAB, "plan", "study=large"], folder)
    goal = f" (goal {GOALS[variants]})" if variants in GOALS else ""
    print(
        f"plan of {variants:,} variants: {took:.1f} s ({busy:.1f} s of processor), {memory:,.0f} MB at its peak{goal}"
    )


if __name__ == "__main__":
    if runs := int(sys.argv[1]) if len(sys.argv) > 1 else 7:
        against_torch(runs)
    for size in map(int, sys.argv[2:] or GOALS):
        large(size)
