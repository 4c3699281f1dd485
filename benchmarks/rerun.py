"""`ablab sweep` on a finished study: goal 10 s for 1,000 variants, no stage run, neither torch nor Ray imported.

python benchmarks/rerun.py [variants] [folder]

The finished study is made up: a record for every stage of the plan with plausible numbers, no training. The first sweep
puts it into MLflow, which takes minutes; the second and third are what is measured. With a folder everything stays
there, and the next call starts from it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from plan import cost, write_study

from ablab import machine
from ablab.driver import plan_study
from ablab.store import Store
from ablab.study.plan import Stage
from ablab.sweep import store_of

STARTED = 1_700_000_000.0
SWEEP = """
import sys
from ablab.cli import main
code = main(["sweep", "study=large"])
heavy = [name for name in ("torch", "ray") if name in sys.modules]
sys.exit(f"imported {', '.join(heavy)}" if heavy else code)
"""


def numbers(stage: Stage, chance: random.Random) -> dict[str, Any]:
    """What a stage of this kind might have returned."""
    if stage.kind == "data":
        return {"images": 480, "boxes": 2000, "splits": {}, "dirt": []}
    if stage.kind == "profile":
        macs = chance.randrange(10**8, 10**9)
        costs = {"flops": 2 * macs, "thop_macs": macs, "conv_macs": macs - 10**6, "params": macs // 500}
        sizes = {"params_stored": macs // 499, "size_fp32_mb": 4e-6 * macs / 499, "size_fp16_mb": 2e-6 * macs / 499}
        return {"imgsz": stage.config["imgsz"], **costs, **sizes}
    if stage.kind == "train":
        epochs = stage.config["phase"]["epochs"]
        losses = [{"loss": 3 / e, "box": 1 / e, "obj": 1 / e, "cls": 1 / e, "lr": 0.01} for e in range(1, epochs + 1)]
        curve = [{"epoch": epoch, **loss} for epoch, loss in enumerate(losses, 1)]
        curve[-1] |= {"map": chance.uniform(0.2, 0.3), "map50": chance.uniform(0.4, 0.6)}
        used = {"lr": stage.config["optim"]["lr"], "batch": 8, "optimizer": stage.config["optim"]["name"]}
        return {"epochs": epochs, "steps": 40 * epochs, "images": 320, "diverged": False, "curve": curve, **used}
    if stage.kind == "evaluate":
        found = {name: chance.uniform(0.2, 0.6) for name in ("map", "map50", "map75", "map_small", "ar100")}
        classes = {str(digit): {"map": found["map"], "map50": found["map50"]} for digit in range(10)}
        return {"imgsz": stage.config["imgsz"], **found, "per_class": classes, "images": 80, "detections": 5000}
    return {}


def publish(store: Store, stage: Stage, number: int) -> None:
    record = {"fingerprint": stage.fingerprint, "kind": stage.kind, "label": stage.label, "config": stage.config}
    record |= {"inputs": stage.inputs, "numbers": numbers(stage, random.Random(stage.fingerprint)), "data": stage.data}
    record |= {"versions": stage.versions, "code": stage.code, "host": machine.host()}
    with store.claim(stage.fingerprint) as hold:
        (hold.work / "out").mkdir(exist_ok=True)
        store.publish(hold, record | {"started": STARTED + number, "seconds": 1.0}, hold.work / "out")


def finish(variants: int) -> None:
    """In the working folder: a study of so many variants, all of its stages published."""
    write_study(Path(), variants)
    plan = plan_study("large", [])
    store = store_of(plan)
    for number, stage in enumerate(plan.stages.values()):
        if not store.has(stage.fingerprint):
            publish(store, stage, number)
    print(f"{variants:,} variants, {len(plan.stages):,} stages are in the store", flush=True)


def main(variants: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        os.chdir(place)
        finish(variants)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", SWEEP], check=True, stdout=subprocess.DEVNULL)
        print(f"first sweep, into MLflow: {time.perf_counter() - started:.1f} s")
        table = Path("reports/large/table.csv").read_bytes()
        for _ in range(2):
            took, busy, memory = cost([sys.executable, "-c", SWEEP], place)
            print(f"the same again: {took:.1f} s ({busy:.1f} s of processor), {memory:,.0f} MB (goal 10 s)", flush=True)
        assert Path("reports/large/table.csv").read_bytes() == table, "another table"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, sys.argv[2] if len(sys.argv) > 2 else None)
