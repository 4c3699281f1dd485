"""MLflow's record as one table of numbers: a row for every variant, seed and input size that is asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

NOT_RUN = "not run"


def frame(study: Mapping[str, Any], children: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The study as `tracking.read` returns it, long form.

    Columns: index, variant, model, levels (dict), imgsz, seed, status, reason, training, evaluation, versions,
    fingerprints (kind -> list of fingerprints that belong to the row), accepted (modules that changed since results of
    the row were made; None where none was kept across a code change), and every metric that was taken by input size
    (map50, flops, ...), NaN where it was not. Of a study over a command, which has no input sizes, imgsz is None and
    the metrics are those that it measures. A replicate that MLflow does not hold has its rows all the same, as
    incomplete. Runs that the study no longer asks for are left out.
    """
    runs = {(_key(child["levels"]), str(child["seed"])): child for child in children}
    rows = []
    for variant in sorted(study["variants"], key=lambda variant: variant["index"]):
        for imgsz in variant["resolutions"] or [None]:
            for seed in study["seeds"]:
                row = {key: variant[key] for key in ("index", "model", "levels")} | {"variant": variant["name"]}
                run = runs.get((_key(variant["levels"]), str(seed)))
                rows.append(row | {"imgsz": imgsz, "seed": seed} | _facts(run, imgsz, study.get("measure", ())))
    return pd.DataFrame(rows)


def measured(row: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a row, None where it was not taken or is not a number."""
    value = row.get(metric)
    return None if value is None or not math.isfinite(value) else float(value)


def _facts(run: Mapping[str, Any] | None, imgsz: int | None, measure: Iterable[str]) -> dict[str, Any]:
    if run is None:
        nothing: dict[str, Any] = {
            "training": [],
            "evaluation": {},
            "versions": {},
            "fingerprints": {},
            "accepted": None,
        }
        return nothing | {"status": "incomplete", "reason": NOT_RUN}
    facts = {key: run[key] for key in ("status", "training", "versions")}
    facts |= {"reason": run["reason"] or "", "evaluation": run["evaluation"] or {}}  # pandas makes NaN of None
    origins: dict[str, list[str]] = {}
    kept: list[list[str]] = []
    for stage in run["fingerprints"]:
        if stage["imgsz"] in (None, imgsz):
            origins.setdefault(stage["kind"], []).append(stage["fingerprint"])
            if "accepted" in stage:
                kept.append(stage["accepted"])
    suffix = f"/{imgsz}"
    metrics = {k.removesuffix(suffix): v for k, v in run["metrics"].items() if k.endswith(suffix)}
    if imgsz is None:
        metrics = {name: run["metrics"][name] for name in measure if name in run["metrics"]}
    accepted = sorted({module for modules in kept for module in modules}) if kept else None
    return {**metrics, **facts, "fingerprints": origins, "accepted": accepted}


def _key(levels: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(factor), str(level)) for factor, level in levels.items()))
