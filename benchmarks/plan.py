"""`ablab plan study=quickstart` against `import torch`, interleaved: goal at most 0.6 of its time.

python benchmarks/plan.py [runs]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

PLAN = [sys.executable, "-m", "ablab.cli", "plan", "study=quickstart"]
TORCH = [sys.executable, "-c", "import torch"]


def seconds(command: list[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(runs: int) -> None:
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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
