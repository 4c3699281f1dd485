"""A sweep against its limit and against Hydra's multirun of the same work, nothing shared, in one run.

    python benchmarks/engine.py wall [runs]          12 trainings: the limit, the basic and the joblib launcher
    python benchmarks/engine.py unpinned             4 of them: two processes that each take every core
    python benchmarks/engine.py progressive [runs]   shared phases: the joblib launcher, and what the tree permits
    python benchmarks/engine.py overhead [stages]    stages that do nothing

The limit of a sweep is max(critical path, sum of its stages' own seconds / cores); cold start, planning, MLflow and the
report are within its wall time. The launchers' jobs run the same stages in their own stores and record nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

CORES = len(os.sched_getaffinity(0))
PEER = [sys.executable, str(Path(__file__).with_name("engine_peer.py"))]
SCENES = {
    "model": "yolov5n",
    "model.width": 0.125,
    "data": "scenes",
    "data.size": 96,
    "data.train": 160,
    "data.val": 32,
    "data.test": 0,
    "data.digits": [0, 1],
    "eval.split": "val",
}
WALL = {"stem": ["focus", "conv3x3"], "head_prune.ratio": [0.0, 0.5]}
WALL_BASE = SCENES | {"schedule.imgsz": 96, "schedule.epochs": 20, "eval.resolutions": [96]}
ONE_PHASE_BASE = SCENES | {"schedule.imgsz": 96, "eval.resolutions": [96], "schedule": "constant"}


def study(folder: Path, base: dict[str, Any], factors: dict[str, Any], seeds: list[int], design: str = "grid") -> None:
    (folder / "sweeps").mkdir(parents=True)
    content = {"question": "How fast?", "base": base, "factors": factors, "design": design, "seeds": seeds}
    (folder / "sweeps" / "bench.yaml").write_text(json.dumps(content))  # JSON is YAML


def timed(command: list[str], folder: Path, **environment: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in folder.glob(".ablab/store/stages/*/*/stage.json")]


def limit(folder: Path) -> tuple[float, float, float]:
    """(limit, critical path, sum) in seconds, of the stages that a sweep ran."""
    found = {record["fingerprint"]: record for record in records(folder)}
    longest: dict[str, float] = {}

    def path(fingerprint: str) -> float:
        if fingerprint not in longest:
            record = found[fingerprint]
            longest[fingerprint] = record["seconds"] + max(map(path, record["inputs"].values()), default=0.0)
        return longest[fingerprint]

    critical, whole = max(map(path, found)), sum(record["seconds"] for record in found.values())
    return max(critical, whole / CORES), critical, whole


def sweep(base: dict[str, Any], factors: dict[str, Any], seeds: list[int], design: str = "grid") -> tuple[float, Path]:
    folder = Path(tempfile.mkdtemp())
    study(folder, base, factors, seeds, design)
    return timed([sys.executable, "-m", "ablab.cli", "sweep", "study=bench"], folder), folder


def words(base: dict[str, Any], swept: dict[str, list[Any]]) -> list[str]:
    said = [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in base.items()]
    return said + [f"{key}={','.join(map(str, values))}" for key, values in swept.items()]


def multirun(launcher: str, base: dict[str, Any], swept: dict[str, list[Any]], threads: int) -> float:
    own = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={CORES}"] if launcher == "joblib" else []
    command = [*PEER, "--multirun", *own, *words(base, swept), f"engine.threads={threads}"]
    return timed(command, Path(tempfile.mkdtemp()), OMP_NUM_THREADS=str(threads))


def told(name: str, ratios: list[float], goal: str) -> None:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "one run"
    print(f"{name:<64} {median(ratios):6.2f}   ({spread}; goal {goal})", flush=True)


def factors_of(swept: dict[str, list[Any]]) -> dict[str, Any]:
    return {key: {str(value): {key: value} for value in values} for key, values in swept.items()}


def wall(runs: int) -> None:
    to_limit, to_basic, to_joblib = [], [], []
    for _ in range(runs):
        seconds, folder = sweep(WALL_BASE, factors_of(WALL), [0, 1, 2])
        bound, critical, whole = limit(folder)
        print(
            f"sweep {seconds:.1f} s; stages {whole:.1f} s on {CORES} cores, critical path {critical:.1f} s", flush=True
        )
        swept = WALL | {"seed": [0, 1, 2]}
        joblib = multirun("joblib", WALL_BASE, swept, 1)
        basic = multirun("basic", WALL_BASE, swept, CORES)
        print(f"joblib launcher {joblib:.1f} s; basic launcher {basic:.1f} s", flush=True)
        to_limit.append(seconds / bound)
        to_joblib.append(joblib / seconds)
        to_basic.append(basic / seconds)
    told("sweep ÷ limit", to_limit, "at most 1.10")
    told("basic launcher, all threads, one after another ÷ sweep", to_basic, "at least 1.15")
    told("joblib launcher, one thread a job ÷ sweep", to_joblib, "at least 1.0")


def unpinned() -> None:
    base, swept = WALL_BASE | {"schedule.epochs": 4}, {"stem": ["focus", "conv3x3"]}
    seconds, folder = sweep(base, factors_of(swept), [0, 1])
    started = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    peers = [
        subprocess.Popen(
            [*PEER, "--multirun", *words(base, swept), f"seed={seed}", f"engine.threads={CORES}"],
            cwd=tempfile.mkdtemp(),
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for seed in (0, 1)
    ]
    if any(peer.wait() for peer in peers):
        raise SystemExit("a peer failed")
    print(f"sweep {seconds:.1f} s, limit {limit(folder)[0]:.1f} s", flush=True)
    told("two unpinned processes ÷ sweep", [(time.perf_counter() - started) / seconds], "at least 3")


def progressive(runs: int) -> None:
    """Control, early and late: three schedules with a long phase in common; late shares all but its last phase."""
    base = ONE_PHASE_BASE | {"schedule.epochs": [12, 4, 4]}
    phase = "{imgsz: %s, epochs: %s, lr: 1.0}"
    sizes = {"control": (96, 96, 96), "late": (96, 96, 192), "early": (96, 192, 96)}
    levels = {
        name: {
            "schedule.phases": [
                {"imgsz": size, "epochs": n, "lr": 1.0} for size, n in zip(three, (12, 4, 4), strict=True)
            ]
        }
        for name, three in sizes.items()
    }
    lists = {
        name: "[" + ",".join(phase % (size, n) for size, n in zip(three, (12, 4, 4), strict=True)) + "]"
        for name, three in sizes.items()
    }
    against, shares = [], []
    for _ in range(runs):
        seconds, folder = sweep(base, {"schedule": levels}, [0, 1, 2], "one_at_a_time")
        own = {record["fingerprint"]: record["seconds"] for record in records(folder)}
        facts = json.loads((folder / ".ablab/store/studies/bench.json").read_text())
        used = list(facts["places"].values())
        unshared = sum(own[fingerprint] for fingerprint in used)
        ran = sum(own.values())
        joblib = multirun("joblib", base, {"schedule.phases": list(lists.values()), "seed": [0, 1, 2]}, 1)
        bound, critical, _ = limit(folder)
        permitted = (unshared / CORES) / bound
        print(f"sweep {seconds:.1f} s, its limit {bound:.1f} s (critical path {critical:.1f} s); joblib {joblib:.1f} s")
        print(f"all work {unshared:.1f} s, shared {ran:.1f} s: the tree permits {permitted:.2f} times", flush=True)
        against.append(joblib / seconds / permitted)
        shares.append((unshared - ran) / (unshared - sum({f: own[f] for f in used}.values())))
    told("(joblib launcher ÷ sweep) ÷ what the tree permits", against, "at least 0.95")
    told("work saved by sharing ÷ what the tree permits", shares, "at least 0.95")


def overhead(stages: int) -> None:
    """Stages of a program that does nothing; what its process takes is within the stages' own seconds."""
    folder = Path(tempfile.mkdtemp())
    (folder / "sweeps").mkdir()
    (folder / "nothing.sh").write_text("#!/bin/sh\necho '{\"y\": '$1'}' > $2/n.json\n")
    (folder / "nothing.sh").chmod(0o755)
    content = {
        "question": "What does a stage cost that does nothing?",
        "command": {"run": "./nothing.sh {x} {out}", "numbers": "{out}/n.json", "code": ["nothing.sh"]},
        "base": {"x": 0},
        "factors": {"x": {str(i): {"x": i} for i in range(stages)}},
        "seeds": [0],
        "measure": {"y": "lower"},
    }
    (folder / "sweeps" / "bench.yaml").write_text(json.dumps(content))
    timed([sys.executable, "-m", "ablab.cli", "sweep", "study=bench"], folder)
    events = [json.loads(line) for line in (folder / ".ablab/store/sweeps/bench/events.jsonl").read_text().splitlines()]
    at = {what: [event["at"] for event in events if event["event"] == what] for what in ("start", "done")}
    span = max(at["done"]) - min(at["done"])
    own = sum(record["seconds"] for record in records(folder))
    told("ms a stage beyond its own seconds", [1000 * (span * CORES - own) / stages], "at most 30")


def main(what: str, number: str | None) -> None:
    verbs: dict[str, Callable[[], None]] = {
        "wall": lambda: wall(int(number or 1)),
        "unpinned": unpinned,
        "progressive": lambda: progressive(int(number or 1)),
        "overhead": lambda: overhead(int(number or 200)),
    }
    verbs[what]()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
