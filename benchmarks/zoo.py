"""How fast every recipe trains: images a second of the whole loop, on one thread, in turn.

    python benchmarks/zoo.py [overrides]     e.g. schedule.imgsz=640

Each with its own head, loss and preprocessing, under the default optimiser. Each round measures every recipe once; the
last column is the ratio to yolov5n of the same round, median and range.
"""

from __future__ import annotations

import sys
from statistics import median

from training import configured, made, whole

from ablab.config import groups

ROUNDS = 3
FEW = ["data.train=40", "optim.batch=8"]
REFERENCE = "yolov5n"


def main() -> None:
    recipes = sorted(groups()["model"], key=lambda name: name != REFERENCE)
    rates: dict[str, list[float]] = {name: [] for name in recipes}
    asked = sys.argv[1:]
    for _ in range(ROUNDS):
        for name in recipes:
            sys.argv[1:] = [f"model={name}", *FEW, *asked]
            config = configured()
            rates[name].append(whole(config, made(config)))
    print(f"{'model':24} images/s    ÷ {REFERENCE}")
    for name in sorted(recipes, key=lambda name: -median(rates[name])):
        ratios = [mine / other for mine, other in zip(rates[name], rates[REFERENCE], strict=True)]
        low, high = min(ratios), max(ratios)
        print(f"{name:24} {median(rates[name]):8.1f}    {median(ratios):.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
