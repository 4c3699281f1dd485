"""Reads a study back from MLflow: from params, metrics and tags alone, so that a record can be moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from ablab.errors import UserError, nearest
from ablab.tracking import runs
from ablab.tracking.connect import EXAMPLES, connect, explained, shown, sqlite_file

RUNS_PER_PAGE = 1000


def read(uri: str, study: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A study's facts, and its current runs in the order of their names, one for the same levels and seed.

    The facts: name, question, design, factors, baseline, seeds, resolutions (of all variants), variants (index, name,
    levels, model, resolutions), git, run_id. A run: run_id, name, variant, model, levels, seed, status, reason,
    fingerprints, versions, training, evaluation, elements, and MLflow's params, (last) metrics and tags. There may be
    more runs than the study asks for now: earlier sweeps under its name may have asked for others.

    Raises UserError where the study is not recorded.
    """
    client = connect(uri, create=False)
    experiment = client.get_experiment_by_name(study)
    found = search(client, [experiment.experiment_id]) if experiment else []
    parents = [run for run in found if run.data.tags["ablab.kind"] == "study"]
    if not parents:
        names = [e.name for e in client.search_experiments() if e.name != "Default"]
        hint = nearest(study, names)
        raise UserError(f"study={study}: nothing is recorded of it at tracking.uri={shown(uri)}. {hint}")
    current = [run for run in found if run.data.tags.get("ablab.current") == "true" and run.info.status != "RUNNING"]
    children: dict[str, dict[str, Any]] = {}
    for run in current:  # a crash may have left two for one replicate, the new and the old
        facts = runs.child(run.data.tags)
        children[runs.identity(facts["levels"], facts["seed"])] = {
            **facts,
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
            "tags": dict(run.data.tags),
        }
    study_facts = runs.parent(parents[0].data.tags) | {"run_id": parents[0].info.run_id}
    return study_facts, sorted(children.values(), key=lambda child: (child["name"], child["run_id"]))


def curves(uri: str, children: Iterable[Mapping[str, Any]], metric: str) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) points of a metric by run id, for those of `children` that have it."""
    client = connect(uri, create=False)
    wanted = [child["run_id"] for child in children if metric in child["metrics"]]
    histories = {run_id: client.get_metric_history(run_id, metric) for run_id in wanted}
    return {run_id: sorted((m.step, m.value) for m in history) for run_id, history in histories.items()}


def fingerprints(uri: str) -> set[str]:
    """The fingerprints of all stages that current runs of any study name; none where there is no SQLite file yet.

    Raises UserError where MLflow cannot be asked: what a record needs is then not known.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return set()
    client = connect(uri, create=False)
    with explained(uri, "the record cannot be read", EXAMPLES):
        studies, token = [], None
        while True:
            page = client.search_experiments(page_token=token)
            studies += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                break
        current = search(client, studies, "tags.`ablab.current` = 'true'")
    return {stage["fingerprint"] for run in current for stage in runs.child(run.data.tags)["fingerprints"] or []}


def search(client: MlflowClient, experiments: list[str], wanted: str = "") -> list[Run]:
    """All runs that ablab wrote into the experiments and that MLflow's filter `wanted` lets through, oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments,
            wanted,
            max_results=RUNS_PER_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += [run for run in page if run.data.tags.get("ablab.kind") in ("study", "replicate")]
        token = page.token
        if not token:
            return found


def digest_of(uri: str, study: str) -> str | None:
    """The digest of all that is recorded of a finished study; None where it is not, or not finished."""
    client = connect(uri, create=False)
    experiment = client.get_experiment_by_name(study)
    found = search(client, [experiment.experiment_id], "tags.`ablab.kind` = 'study'") if experiment else []
    done = [run for run in found if run.info.status != "RUNNING"]
    return done[0].data.tags.get("ablab.whole") if done else None
