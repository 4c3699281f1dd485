"""How good a training from scratch gets, and how soon: mAP50/mAP after every few epochs, and seconds to a given mAP50.

    python benchmarks/accuracy.py data=bccd data.root=PATH schedule.epochs=10 [overrides]

Three seeds, one after another, one thread. Seconds are those of training alone, without looks at val. The last epoch
is judged on val and, where there is one, on test, which no choice here may use.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from ablab.config import Override, compose, parse
from ablab.driver import describe_data
from ablab.stages import evaluate, train
from ablab.study.plan import Stage, compile
from ablab.study.study import single

SEEDS = (0, 1, 2)
MARKS = (0.749, 0.80)  # mAP50 whose time is wanted; yolov8n reaches the first in 40 epochs (docs/lab-log.md)


def main() -> None:
    asked = [Override("engine.threads", 1, "this benchmark"), *parse(sys.argv[1:])]
    runs = [one(asked, seed) for seed in SEEDS]
    shown = [row["epoch"] for row in runs[0]["curve"] if row.get("map50") is not None]
    print("| seed | " + " | ".join(map(str, shown)) + " | " + " | ".join(f"s to {m}" for m in MARKS) + " | s in all |")
    print("|---" * (len(shown) + len(MARKS) + 2) + "|")
    for seed, run in zip(SEEDS, runs, strict=True):
        rows = {row["epoch"]: row for row in run["curve"]}
        cells = [f"{rows[n]['map50']:.3f}/{rows[n]['map']:.3f}" for n in shown]
        print(
            f"| {seed} | "
            + " | ".join([*cells, *(seconds_to(run, m) for m in MARKS), f"{run['seconds'][-1]:.0f}"])
            + " |"
        )
    for split in ("val", "test"):
        judged = [run[split] for run in runs if split in run]
        if judged:
            each = ", ".join(f"{n['map50']:.3f}/{n['map']:.3f}" for n in judged)
            print(f"{split}: {mean(n['map50'] for n in judged):.3f}/{mean(n['map'] for n in judged):.3f} ({each})")


def one(asked: list[Override], seed: int) -> dict[str, Any]:
    """Train and judge one seed: curve, cumulated seconds of every epoch, and the numbers of val and test."""
    found: dict[str, Any] = {"seconds": []}
    with tempfile.TemporaryDirectory() as folder:
        inputs: dict[str, Path] = {}
        for number, stage in enumerate(stages(asked, seed, {"train"})):
            out, work = Path(folder, f"{number}"), Path(folder, f"{number}.work")
            out.mkdir()
            events: list[dict[str, Any]] = []
            given = inputs or {role: Path(file) for role, file in stage.inputs.items()}  # start.weights
            numbers = train.run(stage.config, given, out, work, events.append)
            ends = [event for event in events if "message" in event and "images_per_second" in event]
            for rate in (event["images_per_second"] for event in ends):
                before = found["seconds"][-1] if found["seconds"] else 0.0
                found["seconds"].append(before + stage.images[0] / rate)
            inputs = {"previous": out}
            start = stage.config["phase"]["start_epoch"]
            found.setdefault("curve", []).extend(row | {"epoch": start + row["epoch"]} for row in numbers["curve"])
        for split in ("val", "test"):
            if split in describe_data(compose(asked).resolved)(stage.config["data"])["splits"]:
                judge = stages([*asked, Override("eval.split", split, "this benchmark")], seed, {"train", "evaluate"})[
                    -1
                ]
                found[split] = evaluate.run(judge.config, {"weights": out}, out, out, lambda _: None)
    return found


def stages(asked: list[Override], seed: int, kinds: set[str]) -> list[Stage]:
    config = compose(asked).resolved
    return list(compile(single("accuracy", asked, seed), describe_data(config), kinds).stages.values())


def seconds_to(run: dict[str, Any], mark: float) -> str:
    """Seconds of training until an epoch's mAP50 was at least `mark`."""
    for row, seconds in zip(run["curve"], run["seconds"], strict=False):
        if (row.get("map50") or 0.0) >= mark:
            return f"{seconds:.0f}"
    return "–"


if __name__ == "__main__":
    main()
