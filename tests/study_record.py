"""Study records as the driver hands them to tracking, made by hand: no torch, no training."""

from __future__ import annotations

import hashlib
from typing import Any

DATA = {"format": "coco", "root": "/data/bccd", "names": None}
EVAL = {"resolutions": [320, 416], "split": "val", "conf": 0.001, "iou": 0.6, "max_nms": 1500, "max_det": 100}
COSTS = {  # thop MACs at 320 px, learnable parameters
    "yolov5s_v5": (2_144_500_000, 7_276_605),
    "one_c3": (1_882_000_000, 6_865_469),
    "half_head": (506_000_000, 1_649_853),
}


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def stage(
    kind: str, label: str, config: dict[str, Any], numbers: dict[str, Any], at: float, took: float = 10.0
) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(kind, label, config, numbers),
        "kind": kind,
        "label": label,
        "config": config,
        "inputs": {},
        "numbers": numbers,
        "files": {},
        "versions": {"torch": "2.14.1"} | ({"hotcoco": "1.3.0"} if kind == "evaluate" else {}),
        "code": fingerprint("code", kind),
        "data": fingerprint("bccd") if "data" in config else None,
        "host": {"machine": "x86_64", "processor": "EPYC"},
        "started": at,
        "seconds": took,
    }


def profile(model: str, imgsz: int, at: float) -> dict[str, Any]:
    macs, params = COSTS[model]
    macs = round(macs * imgsz**2 / 320**2)
    numbers = {
        "imgsz": imgsz,
        "thop_macs": macs,
        "flops": 2 * macs,
        "conv_macs": macs - 10_000_000,
        "params": params,
        "params_stored": params + 19_000,
        "flops_fused": 2 * macs - 40_000_000,
        "params_fused": params - 9_600,
        "size_fp32_mb": 4 * (params + 19_000) / 1e6,
        "size_fp16_mb": 2 * (params + 19_000) / 1e6,
    }
    return stage("profile", f"{imgsz}px", {"stem": {"_target_": model}, "imgsz": imgsz}, numbers, at)


def train(model: str, seed: int, phase: int, at: float, epochs: int = 4) -> dict[str, Any]:
    imgsz = (320, 416)[phase]
    curve = [
        {"epoch": e, "loss": 2.0 / (e + 4 * phase), "box": 0.5 / e, "obj": 0.1, "cls": 0.02, "lr": 0.01}
        for e in range(1, epochs + 1)
    ]
    curve[-1] |= {"map": 0.1 * (phase + 1), "map50": 0.2 * (phase + 1)}
    numbers = {
        "epochs": epochs,
        "steps": 26 * epochs,
        "images": 205,
        "lr": 0.02,
        "batch": 8,
        "optimizer": "Muon+AdamW",
        "diverged": False,
        "curve": curve,
    }
    config = {
        "stem": {"_target_": model},
        "data": DATA,
        "eval": EVAL,
        "seed": seed,
        "phase": {"imgsz": imgsz, "epochs": epochs, "lr": 1.0},
        "engine": {"device": "cpu", "precision": "bf16", "threads": 1},
    }
    return stage(
        "train", f"phase {phase + 1}/2, {epochs} epochs at {imgsz} px, seed {seed}", config, numbers, at, took=100.0
    )


def evaluate(model: str, seed: int, imgsz: int, map50: float, at: float) -> dict[str, Any]:
    family = {"map": map50 * 0.55, "map50": map50, "map75": map50 * 0.5, "map_small": None, "ar100": map50}
    numbers = {"imgsz": imgsz, **family, "per_class": {"RBC": {"map": 0.2, "map50": 0.4}}}
    numbers |= {"images": 87, "detections": 4321}
    config = {"stem": {"_target_": model}, "data": DATA, "eval": EVAL, "imgsz": imgsz, "split": "val", "seed": seed}
    return stage("evaluate", f"{imgsz}px", config, numbers, at)


def replicate(model: str, seed: int, map50: float, at: float) -> dict[str, Any]:
    """A complete replicate: 320 px scores `map50`, 416 px two points more."""
    stages = [
        profile(model, 320, at),
        profile(model, 416, at + 10),
        train(model, seed, 0, at + 20),
        train(model, seed, 1, at + 120),
        evaluate(model, seed, 320, map50, at + 220),
        evaluate(model, seed, 416, map50 + 0.02, at + 230),
    ]
    return {"seed": seed, "status": "complete", "reason": None, "stages": stages}


def broken(made: dict[str, Any], status: str, reason: str | None, keep: int) -> dict[str, Any]:
    """A replicate that came no further than its first `keep` stages."""
    return made | {"status": status, "reason": reason, "stages": made["stages"][:keep]}


def variant(index: int, name: str, levels: dict[str, str], model: str, scores: list[float]) -> dict[str, Any]:
    start = 1_700_000_000.0 + 10_000 * index
    config = {
        "seed": 0,
        "store": ".ablab/store",
        "model": {"name": model, "classes": 3, "depth": 0.33},
        "stem": {"_target_": f"ablab.models.{model}", "channels": 64},
        "head": {"anchors": [[10, 13, 16, 30], [30, 61, 62, 45]]},
        "optim": {"batch": 8, "clip": None, "ema": 0.999},
        "eval": EVAL,
        "data": DATA,
        "engine": {"name": "inline", "device": "cpu", "precision": "bf16", "threads": 1},
        "tracking": {"uri": "sqlite:///.ablab/mlflow.db"},
    }
    return {
        "index": index,
        "name": name,
        "levels": levels,
        "model": model,
        "resolutions": EVAL["resolutions"],
        "config": config,
        "replicates": [replicate(model, s, score, start + 1000 * s + 0.25) for s, score in enumerate(scores)],
    }


def ladder() -> dict[str, Any]:
    """Three rungs of three seeds: one C3 costs a little for sure, half a head costs nothing for sure."""
    return {
        "name": "from_yolov5s_to_lite",
        "question": "What does each step from YOLOv5s to YOLOv5-Lite cost, and what does it buy?",
        "design": "ladder",
        "factors": {"c3_count": ["3", "1"], "head": ["full", "half"]},
        "baseline": "baseline",
        "seeds": [0, 1, 2],
        "resolutions": [320, 416],
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "variants": [
            variant(0, "baseline", {"c3_count": "3", "head": "full"}, "yolov5s_v5", [0.50, 0.52, 0.54]),
            variant(1, "+ c3_count=1", {"c3_count": "1", "head": "full"}, "one_c3", [0.48, 0.499, 0.521]),
            variant(2, "+ head=half", {"c3_count": "1", "head": "half"}, "half_head", [0.49, 0.491, 0.515]),
        ],
    }
