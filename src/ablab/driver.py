"""What the verbs of the command line do: plans, measurements, tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ablab.config import Override, compose, flatten
from ablab.errors import UserError
from ablab.store import Store
from ablab.study.described import described_by, names_network
from ablab.study.plan import Plan, baseline_config, compile
from ablab.study.settle import Describe, settle
from ablab.study.study import Study, load, published, single
from ablab.sweep import built, carry_out, run, split_of, store_of


def plan_study(name: str, asked: list[Override]) -> Plan:
    """The plan of `sweeps/<name>.yaml` under the command line's overrides."""
    study = load(name, asked)
    config = baseline_config(study)
    return compile(study, describe_data(config), **_found_out(config))


def plan_training(asked: list[Override]) -> Plan:
    """The plan of one configuration: train, evaluate, profile."""
    config = compose(asked).resolved
    return compile(single("train", asked, config["seed"]), describe_data(config), **_found_out(config))


def _found_out(config: dict[str, Any]) -> dict[str, Any]:
    """What earlier commands found out about memory, for `compile`."""
    store = Store(config["store"])
    return {"split": partial(split_of, store), "built": partial(built, store)}


def settled(asked: list[Override]) -> dict[str, Any]:
    """What the data and this machine make of a configuration; as it stands where the data cannot be read."""
    composed = compose(asked)
    try:
        return settle(composed, asked, describe_data(composed.resolved))
    except UserError:
        return composed.resolved


def describe_data(config: dict[str, Any]) -> Describe:
    """Names and content hash of a data group, asked for once a command and remembered in the store's folder."""
    from ablab.data.identity import describe

    cache = Store(config["store"]).data_cache
    known: dict[str, dict[str, Any]] = {}

    def ask(group: dict[str, Any]) -> dict[str, Any]:
        key = repr(sorted(flatten(group).items()))
        if key not in known:
            known[key] = describe(group, cache)
        return known[key]

    return ask


def reports_folder(config: dict[str, Any], name: str) -> Path:
    """Where a table goes. Raises UserError if nothing can be written there."""
    folder = Path(config["reports"]) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = None if os.access(folder, os.W_OK) else "it cannot be written to"
    except OSError as error:
        why = error.strerror
    if why:
        raise UserError(f"reports={config['reports']}: no reports can go to the folder {folder}: {why}")
    return folder


def render(config: dict[str, Any], study: str) -> Path:
    """Write a study's table and figures from MLflow alone; returns table.md."""
    from ablab.report import render as write

    return write.render(config["tracking"]["uri"], study, reports_folder(config, study))


def report_on(config: dict[str, Any], study: str) -> Path:
    """A study's table.md, rendered anew and put beside the study in MLflow unless neither record nor code changed."""
    from ablab import tracking
    from ablab.report import kept

    uri, folder = config["tracking"]["uri"], reports_folder(config, study)
    recorded = tracking.digest_of(uri, study)
    if recorded and kept.is_kept(folder, recorded):
        return folder / "table.md"
    table = render(config, study)
    tracking.log_report(uri, study, folder)
    if recorded:
        kept.keep(folder, recorded)
    return table


def measure(asked: list[Override], kinds: set[str], weights: Path | None = None) -> list[dict[str, Any]]:
    """Numbers of evaluate or profile stages at every resolution of one configuration, from the store or made now.

    Costs are at COCO's 80 classes unless data or `model.classes` is named. Raises UserError for what fails.
    """
    config = compose(asked).resolved
    if "evaluate" in kinds:  # of other splits nothing is read: their files may be missing, and are none of its business
        from ablab.data.form import SPLITS

        others = [split for split in SPLITS if split != config["eval"]["split"]]
        asked = [*asked, *(Override(f"data.{s}", None) for s in others if isinstance(config["data"].get(s), str))]
        asked += _size_trained_at(weights, asked)
        config = compose(asked).resolved
    bare = kinds == {"profile"} and not any(o.key == "data" or o.key.startswith("data.") for o in asked)
    describe = _classes_only(config["model"]["classes"] or 80) if bare else describe_data(config)
    plan = compile(single("measure", asked, config["seed"]), describe, kinds, weights)
    store = store_of(plan)
    outcome = carry_out(plan, store)
    if outcome.failures:
        raise UserError(next(iter(outcome.failures.values())))
    return [store.read(f)["numbers"] for f, stage in plan.stages.items() if stage.kind != "data"]


def _size_trained_at(weights: Path | None, asked: list[Override]) -> list[Override]:
    """The input size of a file that says what network it is of, where the user names neither a network nor a size."""
    sized = any(override.key.startswith(("eval.resolutions", "schedule")) for override in asked)
    size = None if weights is None or sized or names_network(asked) else described_by(weights).get("imgsz")
    return [Override("eval.resolutions", [size], "the weights")] if type(size) is int else []


def render_experiments(asked: list[Override]) -> Path:
    """Measure the costs of every published row whose recipe is there, and write them beside what was published."""
    from ablab.report import experiments
    from ablab.report.published.rows import load_rows

    rows = load_rows()
    study: Study = published(rows, asked)
    config = compose(asked).resolved
    folder = reports_folder(config, study.name)
    run(compile(study, _classes_only(80), {"profile"}))
    return experiments.render_experiments(config["tracking"]["uri"], rows, folder)


def _classes_only(classes: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Stands in for a data set where only the number of classes matters."""
    return lambda _: {"names": [str(i) for i in range(classes)], "splits": {}}
